// Compiles the product kernels with the epilogue of sparse_encode.
#include "product.cuh"

namespace sonde {

Status multiply(Context* context, const View& a, const Right& right, Precision precision, const Sparse& epilogue) {
  Product product;
  const Status status = prepare(&product, context, a, View(), right, precision);
  if (status.failed() || product.is_empty()) return status;
  if (product.recipe.simt) return launch_plain(context, product, epilogue);
  switch (product.recipe.kind) {
    case OperandKind::bfloat16: return launch_tensor<OperandKind::bfloat16>(context, product, epilogue);
    case OperandKind::float16: return launch_tensor<OperandKind::float16>(context, product, epilogue);
    case OperandKind::high_only: return launch_tensor<OperandKind::high_only>(context, product, epilogue);
    default: return launch_tensor<OperandKind::split>(context, product, epilogue);
  }
}

}  // namespace sonde
