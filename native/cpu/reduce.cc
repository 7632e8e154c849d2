// Computes sums, means and maxima of rows.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

int32_t reduce_integers(const char* row, int64_t stride, int64_t n, ReduceKind kind) {
  const auto* x = reinterpret_cast<const int32_t*>(row);
  uint32_t sum = 0;
  int32_t largest = n ? x[0] : 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += uint32_t(x[i * stride]);
    largest = x[i * stride] > largest ? x[i * stride] : largest;
  }
  return kind == ReduceKind::max ? largest : int32_t(sum);
}

float reduce_floats(const float* x, int64_t n, ReduceKind kind) {
  if (kind == ReduceKind::sum) return n ? sum_row(x, n) : 0.0f;
  if (kind == ReduceKind::mean) return n ? sum_row(x, n) / float(n) : NAN;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) return x[i];
  }
  return max_row(x, n);
}

}  // namespace

Status reduce(Context* context, Out out, In x, ReduceKind kind) {
  const int64_t n = last_dimension(x), stride = last_stride(x), rows = element_count(out);
  if (!reserve_rows(context, 1, n)) return out_of_memory("a row");
  const bool integers = x.dtype == DType::int32 && kind != ReduceKind::mean;
  each_row(context, rows, n, [&](int64_t row, int thread) {
    const char* from = row_at(x, row);
    char* to = static_cast<char*>(out.data) + row * dtype_size(out.dtype);
    if (integers) {
      const int32_t value = reduce_integers(from, stride, n, kind);
      memcpy(to, &value, 4);
      return;
    }
    const float value =
        reduce_floats(read_row(from, x.dtype, stride, n, row_scratch(context, thread, 1, n, 0)), n, kind);
    narrow(to, &value, out.dtype, 1);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
