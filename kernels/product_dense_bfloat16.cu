// Compiles the products of bfloat16, with results of bfloat16 or float32.
#include "product_dense.cuh"

namespace sonde {

Status multiply_bfloat16(Context* context, const Product& product, const DenseResult& result) {
  const auto launch = [&](auto epilogue) { return launch_tensor<OperandKind::bfloat16>(context, product, epilogue); };
  return result.out.dtype == DType::float32 ? with_dense<float>(result, launch) : with_dense<Bf16>(result, launch);
}

}  // namespace sonde
