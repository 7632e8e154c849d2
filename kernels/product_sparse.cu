// Compiles the product kernels with the epilogue of sparse_encode.
#include "product.cuh"

namespace sonde {

Status multiply(Context* context, const View& a, const Right& right, Precision precision, const Sparse& epilogue) {
  return multiply_with(context, a, View(), right, precision, epilogue);
}

}  // namespace sonde
