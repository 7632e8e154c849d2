// Matrix products with an epilogue. The kernel is chosen by dtypes, precision and GPU alone, never by the number of rows, so that a
// row's result does not depend on the others.
#pragma once
#include "epilogue.cuh"

namespace sonde {

// The right side: a packed matrix, or a view [..., k, n] of any strides; `columns` of it from `first_column` on.
struct Right {
  View view;
  const Packed* packed = nullptr;
  int64_t first_column = 0, columns = 0;

  static Right of(const Packed& packed);
  static Right of(const View& view);
};

// out [..., m, n] = activation(product + bias) + residual, contiguous, or of any row stride if it is one matrix; bias and residual may
// have null data. planes: of out
// [m, n], contiguous, are written as well; or null data.
struct DenseResult {
  View out, bias = {}, residual = {};
  Activation activation = Activation::none;
  View planes = {};
};

// a [..., m, k], any strides, times the right side. a_planes: those of a, where a is one matrix, or null data.
Status multiply(Context* context, const View& a, const View& a_planes, const Right& right, Precision precision,
                const DenseResult& result);
Status multiply(Context* context, const View& a, const Right& right, Precision precision, const Sparse& epilogue);

}  // namespace sonde
