// Computes a sum and its layer norm while the row is in the cache. The norm is computed from the sum as it is stored.
#include "layer_norm_row.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status add_layer_norm(Context* context, Out sum, Out out, Out planes, In a, In b, In gain, In bias, double eps) {
  if (planes.data) return no_planes();
  const int64_t n = last_dimension(a);
  if (element_count(a) == 0) return {};
  auto* scratch = static_cast<float*>(shared_scratch(context, 0, size_t(2 * n) * 4));
  if (!scratch || !reserve_rows(context, 2, n)) return out_of_memory("a row");
  const NormWeights weights = NormWeights::widened(scratch, gain, bias, n);
  each_row(context, row_count(a), n, [&](int64_t row, int thread) {
    float* first = row_scratch(context, thread, 2, n, 0);
    float* second = row_scratch(context, thread, 2, n, 1);
    const float* p = read_row(row_at(a, row), a.dtype, last_stride(a), n, first);
    const float* q = read_row(row_at(b, row), b.dtype, last_stride(b), n, second);
    char* stored = static_cast<char*>(sum.data) + row * n * dtype_size(sum.dtype);
    float* total = result_row(stored, sum.dtype, 1, first);
    for (int64_t i = 0; i < n; ++i) total[i] = canonical(p[i] + q[i]);
    write_row(stored, sum.dtype, 1, n, total);
    if (sum.dtype != DType::float32) widen(total, stored, sum.dtype, n);
    char* to = static_cast<char*>(out.data) + row * n * dtype_size(out.dtype);
    float* result = result_row(to, out.dtype, 1, second);
    layer_norm_row(result, total, n, weights, eps);
    write_row(to, out.dtype, 1, n, result);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
