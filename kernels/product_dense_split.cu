// Compiles the products of float32 in two parts, with results of float32.
#include "product_dense.cuh"

namespace sonde {

Status multiply_split(Context* context, const Product& product, const DenseResult& result) {
  const auto launch = [&](auto epilogue) { return launch_tensor<OperandKind::split>(context, product, epilogue); };
  if (!writes_planes(product, result)) return with_dense<float>(result, launch);
  Status status = clear_flags(context, planes_in(result.planes, product.m, product.n));
  if (!status.failed()) status = launch(dense<Dense<float, Activation::gelu, false, true>>(result));
  if (status.failed()) return status;
  return rewrite_planes(context, result.planes, result.out, product.m, product.n, product.left.any, product.right.any);
}

}  // namespace sonde
