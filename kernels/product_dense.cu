// Compiles the product kernels with the epilogue of linear and matmul.
#include "product.cuh"

namespace sonde {

Right Right::of(const Packed& packed) {
  Right right;
  right.packed = &packed;
  right.view = packed;
  right.view.rank = 2;
  right.view.stride[0] = packed.shape[1];
  right.view.stride[1] = 1;
  right.columns = packed.shape[1];
  return right;
}

Right Right::of(const View& view) {
  Right right;
  right.view = view;
  right.columns = view.shape[view.rank - 1];
  return right;
}

Dense dense(const View& out, const View& bias, const View& residual, Activation activation) {
  Dense epilogue = {};
  epilogue.out = AnyElements::of(out);
  epilogue.out_stride = out.stride[out.rank - 2];
  epilogue.m = out.shape[out.rank - 2];
  epilogue.n = out.shape[out.rank - 1];
  epilogue.out_batch = epilogue.m * epilogue.n;
  epilogue.bias = AnyElements::of(bias);
  epilogue.residual = AnyElements::of(residual);
  epilogue.residual_stride = residual.data ? residual.stride[residual.rank - 2] : 0;
  epilogue.activation = activation;
  epilogue.aligned = epilogue.out_stride % 4 == 0 && epilogue.out_batch % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(out.data) % size_t(4 * dtype_size(out.dtype)) == 0;
  return epilogue;
}

Status multiply(Context* context, const View& a, const View& a_planes, const Right& right, Precision precision,
                const Dense& epilogue) {
  return multiply_with(context, a, a_planes, right, precision, epilogue);
}

}  // namespace sonde
