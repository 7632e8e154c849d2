// Compiles the products of the high parts of float32 alone (precision 'tf32'), with results of float32.
#include "product_dense.cuh"

namespace sonde {

Status multiply_high_only(Context* context, const Product& product, const DenseResult& result) {
  return with_dense<float>(
      result, [&](auto epilogue) { return launch_tensor<OperandKind::high_only>(context, product, epilogue); });
}

}  // namespace sonde
