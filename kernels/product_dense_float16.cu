// Compiles the products of float16, with results of float16 or float32.
#include "product_dense.cuh"

namespace sonde {

Status multiply_float16(Context* context, const Product& product, const DenseResult& result) {
  const auto launch = [&](auto epilogue) { return launch_tensor<OperandKind::float16>(context, product, epilogue); };
  return result.out.dtype == DType::float32 ? with_dense<float>(result, launch) : with_dense<Half>(result, launch);
}

}  // namespace sonde
