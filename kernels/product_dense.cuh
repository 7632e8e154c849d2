// Products with the epilogue of linear and matmul, one file for each kind of operands, so that these are compiled side by side.
#pragma once
#include "product.cuh"

namespace sonde {

Status multiply_bfloat16(Context* context, const Product& product, const DenseResult& result);
Status multiply_float16(Context* context, const Product& product, const DenseResult& result);
Status multiply_high_only(Context* context, const Product& product, const DenseResult& result);
Status multiply_split(Context* context, const Product& product, const DenseResult& result);
Status multiply_plain(Context* context, const Product& product, const DenseResult& result);

template <class D>
D dense(const DenseResult& result) {
  const View &out = result.out, &residual = result.residual;
  D epilogue = {};
  epilogue.out = static_cast<decltype(epilogue.out)>(out.data);
  epilogue.out_stride = out.stride[out.rank - 2];
  epilogue.m = out.shape[out.rank - 2];
  epilogue.n = out.shape[out.rank - 1];
  epilogue.out_batch = epilogue.m * epilogue.n;
  epilogue.bias = AnyElements::of(result.bias);
  if constexpr (D::kWritesPlanes) epilogue.planes = Planes::of(planes_in(result.planes, epilogue.m, epilogue.n));
  epilogue.residual = static_cast<decltype(epilogue.residual)>(residual.data);
  epilogue.residual_stride = residual.data ? residual.stride[residual.rank - 2] : 0;
  const auto aligned = [](const void* data, int64_t stride) {
    return stride % D::kChunk == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  };
  epilogue.aligned = aligned(out.data, epilogue.out_stride) && (out.rank == 2 || epilogue.out_batch % D::kChunk == 0) &&
                     (!residual.data || aligned(residual.data, epilogue.residual_stride));
  return epilogue;
}

// Whether the product writes the planes of its result itself: the hidden activations of an MLP.
inline bool writes_planes(const Product& product, const DenseResult& result) {
  return !product.recipe.simt && product.recipe.kind == OperandKind::split && result.out.dtype == DType::float32 &&
         result.planes.data && result.activation == Activation::gelu && !result.residual.data;
}

// Whether kernels exist that write such a result at once: nothing of a model needs an activation and then a residual.
inline bool has_epilogue(const DenseResult& result) {
  return !result.residual.data || result.activation == Activation::none;
}

// body(the epilogue for results of T)
template <class T, class Body>
Status with_dense(const DenseResult& result, Body body) {
  if (result.residual.data) return body(dense<Dense<T, Activation::none, true>>(result));
  switch (result.activation) {
    case Activation::gelu: return body(dense<Dense<T, Activation::gelu, false>>(result));
    case Activation::relu: return body(dense<Dense<T, Activation::relu, false>>(result));
    default: return body(dense<Dense<T, Activation::none, false>>(result));
  }
}

}  // namespace sonde
