// Multiplies views of any strides: a thread packs b's columns as it needs them. The threads share a batch of small
// products by product, a large product by columns.
#include "multiply.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// The matrix at index `batch` of the leading dimensions.
template <class T>
View matrix_at(const T& x, int64_t batch) {
  View matrix;
  matrix.data = static_cast<char*>(x.data) + leading_offset(x, 2, batch) * dtype_size(x.dtype);
  matrix.dtype = x.dtype;
  matrix.rank = 2;
  for (int d = 0; d < 2; ++d) {
    matrix.shape[d] = x.shape[x.rank - 2 + d];
    matrix.stride[d] = x.stride[x.rank - 2 + d];
  }
  return matrix;
}

}  // namespace

Status matmul(Context* context, Out out, In a, In b, In bias, Precision) {
  const int64_t m = out.shape[out.rank - 2], n = out.shape[out.rank - 1], k = a.shape[a.rank - 1];
  const int64_t batch = leading_count(out, 2);
  if (batch * m * n == 0) return {};
  const bool by_product = batch >= 2 * thread_count(context) && m <= 512 && m * n <= (int64_t(1) << 22);
  if (!by_product) {
    for (int64_t i = 0; i < batch; ++i) {
      const View right = matrix_at(b, i);
      RightSide w;
      w.view = &right;
      const Status status = multiply_all(context, matrix_at(a, i), w, bias, {matrix_at(out, i)});
      if (status.failed()) return status;
    }
    return {};
  }
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  if (!wide_bias) return out_of_memory("the bias");
  widen_bias(wide_bias, bias, n);
  const View first = matrix_at(b, 0);
  RightSide shape;
  shape.view = &first;
  const Layout layout = shape.layout(a.dtype);
  const int64_t row_bytes = converted_stride(layout, k);
  const bool in_place = is_left(matrix_at(a, 0), layout);
  const int64_t block = block_rows(context), panels = min64(kGroup, panel_count(n));
  const size_t workspace_bytes = Workspace::bytes(shape, layout, m, panels, block);
  for (int thread = 0; thread < thread_count(context); ++thread) {
    const bool enough = in_place || thread_scratch(context, thread, 1, size_t(m * row_bytes));
    if (!enough || !thread_scratch(context, thread, 0, workspace_bytes)) return out_of_memory("a group of columns");
  }
  parallel(context, batch, [&](int64_t i, int thread) {
    const View x = matrix_at(a, i), right = matrix_at(b, i);
    const Target to = {matrix_at(out, i)};
    Left left = left_of(x);
    if (!in_place) {
      auto* converted = static_cast<char*>(thread_scratch(context, thread, 1, size_t(m * row_bytes)));
      for (int64_t row = 0; row < m; row += kConvertedTogether) {
        convert_rows(converted + row * row_bytes, row_bytes, x, row, min64(kConvertedTogether, m - row), layout);
      }
      left = {converted, row_bytes};
    }
    RightSide w;
    w.view = &right;
    void* memory = thread_scratch(context, thread, 0, workspace_bytes);
    const Workspace workspace = Workspace::in(memory, w, layout, panels, block);
    for (int64_t panel = 0; panel < panel_count(n); panel += panels) {
      const int64_t count = min64(panels, panel_count(n) - panel);
      multiply_columns(left, m, x.dtype, w, panel, count, wide_bias, to, 0, workspace);
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
