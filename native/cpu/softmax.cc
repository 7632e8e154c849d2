// Computes exp(x - max), and divides it by its sum if the kind is softmax; or x - max - log(the sum).
#include "functions.h"
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status softmax(Context* context, Out out, In x, SoftmaxKind kind) {
  const bool sums = kind != SoftmaxKind::numerator;
  const int64_t n = last_dimension(x);
  if (element_count(x) == 0) return {};
  if (!reserve_rows(context, 2, n)) return out_of_memory("a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const float* in = read_row(row_at(x, row), x.dtype, last_stride(x), n, row_scratch(context, thread, 2, n, 0));
    char* to = row_at(out, row);
    float* result = result_row(to, out.dtype, last_stride(out), row_scratch(context, thread, 2, n, 1));
    const float largest = max_row(in, n);
    // masked elements before the others are left out: the sum is then that of the row without them, bit for bit
    int64_t first = 0;
    while (sums && first < n && in[first] == -INFINITY) ++first;
    const auto power = [=](vf v) { return exp(v - largest); };
    if (kind == SoftmaxKind::numerator) map_row(result, in, n, power);
    else map_row_as_is(result, in, n, power);
    if (kind == SoftmaxKind::softmax) {
      const float sum = float(sum_row(result + first, n - first));
      map_row(result, result, n, [=](vf v) { return v / sum; });
    } else if (kind == SoftmaxKind::log_softmax) {
      const double log_sum = log_of(sum_row(result + first, n - first));
      for (int64_t i = 0; i < n; ++i) {
        result[i] = canonical(float(double(in[i]) - double(largest) - log_sum));
      }
    }
    write_row(to, out.dtype, last_stride(out), n, result);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
