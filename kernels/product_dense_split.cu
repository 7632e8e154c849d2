// Compiles the products of float32 in two parts, with results of float32.
#include "product_dense.cuh"

namespace sonde {

Status multiply_split(Context* context, const Product& product, const DenseResult& result) {
  return with_dense<float>(
      result, [&](auto epilogue) { return launch_tensor<OperandKind::split>(context, product, epilogue); });
}

}  // namespace sonde
