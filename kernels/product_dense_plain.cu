// Compiles the products in plain float32, with results of any float dtype.
#include "product_dense.cuh"

namespace sonde {

Status multiply_plain(Context* context, const Product& product, const DenseResult& result) {
  const auto launch = [&](auto epilogue) { return launch_plain(context, product, epilogue); };
  switch (result.out.dtype) {
    case DType::float32: return with_dense<float>(result, launch);
    case DType::bfloat16: return with_dense<Bf16>(result, launch);
    default: return with_dense<Half>(result, launch);
  }
}

}  // namespace sonde
