// Computes layer norm row by row.
#include "layer_norm_row.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status layer_norm(Context* context, Out out, In x, In gain, In bias, double eps) {
  const int64_t n = last_dimension(x);
  if (element_count(x) == 0) return {};
  auto* scratch = static_cast<float*>(shared_scratch(context, 0, size_t(2 * n) * 4));
  if (!scratch || !reserve_rows(context, 2, n)) return out_of_memory("a row");
  const NormWeights weights = NormWeights::widened(scratch, gain, bias, n);
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const float* in = read_row(row_at(x, row), x.dtype, last_stride(x), n, row_scratch(context, thread, 2, n, 0));
    char* to = static_cast<char*>(out.data) + row * n * dtype_size(out.dtype);
    float* result = result_row(to, out.dtype, 1, row_scratch(context, thread, 2, n, 1));
    layer_norm_row(result, in, n, weights, eps);
    write_row(to, out.dtype, 1, n, result);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
