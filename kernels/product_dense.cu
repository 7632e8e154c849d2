// Chooses among the products with the epilogue of linear and matmul.
#include "product_dense.cuh"

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

namespace {

// Whether products of this kind write results of the dtype.
bool writes(const Recipe& recipe, DType dtype) {
  return dtype == DType::float32 || recipe.simt || (recipe.kind == OperandKind::bfloat16 && dtype == DType::bfloat16) ||
         (recipe.kind == OperandKind::float16 && dtype == DType::float16);
}

Status multiply_at_once(Context* context, const Product& product, const DenseResult& result) {
  if (product.recipe.simt) return multiply_plain(context, product, result);
  switch (product.recipe.kind) {
    case OperandKind::bfloat16: return multiply_bfloat16(context, product, result);
    case OperandKind::float16: return multiply_float16(context, product, result);
    case OperandKind::high_only: return multiply_high_only(context, product, result);
    default: return multiply_split(context, product, result);
  }
}

// Results that no kernel writes at once, in steps and by way of float32.
Status multiply_in_steps(Context* context, const Product& product, const DenseResult& result) {
  const auto contiguous = [&](DType dtype, void* data) {
    Out view;
    static_cast<View&>(view) = result.out;
    view.dtype = dtype;
    view.data = data;
    int64_t stride = 1;
    for (int d = view.rank; d-- > 0; stride *= view.shape[d]) view.stride[d] = stride;
    return view;
  };
  const auto input = [](const View& view) {
    In in;
    static_cast<View&>(in) = view;
    return in;
  };
  const int64_t elements = element_count(result.out);
  const size_t wide_bytes = size_t(round_up(elements * 4, 256));
  const size_t bytes = wide_bytes + size_t(elements * dtype_size(result.out.dtype));
  auto* memory = static_cast<char*>(scratch(context, kWideResult, bytes));
  if (!memory) return no_scratch(context, bytes);
  const Out wide = contiguous(DType::float32, memory);
  Status status = multiply_at_once(context, product, {wide, result.bias, {}, result.activation});
  if (status.failed()) return status;
  Out out;
  static_cast<View&>(out) = result.out;
  if (!result.residual.data) return copy(context, out, input(wide));
  const Out rounded = contiguous(result.out.dtype, memory + wide_bytes);
  status = copy(context, rounded, input(wide));
  if (status.failed()) return status;
  return binary(context, out, input(rounded), input(result.residual), BinaryKind::add);
}

}  // namespace

Status multiply(Context* context, const View& a, const View& a_planes, const Right& right, Precision precision,
                const DenseResult& result) {
  Product product;
  Status status = prepare(&product, context, a, a_planes, right, precision);
  if (status.failed() || product.is_empty()) return status;
  const bool at_once = has_epilogue(result) && writes(product.recipe, result.out.dtype);
  status = at_once ? multiply_at_once(context, product, result) : multiply_in_steps(context, product, result);
  if (status.failed() || !result.planes.data || writes_planes(product, result)) return status;
  return write_planes(context, result.planes, result.out, product.m, product.n);
}

}  // namespace sonde
