// Finds the lowest index of each row's largest or smallest value.
#include "extremes.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kPart = 4096;  // elements of a row at a time: they stay in the first-level cache

int64_t first_extreme(const int32_t* x, int64_t n, int64_t stride, bool smallest) {
  int64_t index = 0;
  int32_t best = x[0];
  for (int64_t i = 0; i < n; ++i) {
    const int32_t value = x[i * stride];
    if (smallest ? value >= best : value <= best) continue;
    best = value;
    index = i;
  }
  return index;
}

int64_t index_of(const float* x, float value) {
  int64_t i = 0;
  while (x[i] != value) ++i;
  return i;
}

int64_t first_extreme(const char* from, DType dtype, int64_t stride, int64_t n, float* scratch, bool smallest) {
  int64_t index = 0;
  float best = smallest ? INFINITY : -INFINITY;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t count = min64(kPart, n - begin);
    const float* x = read_row(from + begin * stride * dtype_size(dtype), dtype, stride, count, scratch);
    if (has_nan(x, count)) {
      int64_t i = 0;
      while (x[i] == x[i]) ++i;
      return begin + i;
    }
    const float here = smallest ? min_row(x, count) : max_row(x, count);
    if (smallest ? here >= best : here <= best) continue;
    best = here;
    index = begin + index_of(x, here);
  }
  return index;
}

}  // namespace

Status argmax(Context* context, Out out, In x, bool smallest) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  if (!reserve_rows(context, 1, kPart)) return out_of_memory("a part of a row");
  each_row(context, element_count(out), n, [&](int64_t row, int thread) {
    const char* from = row_at(x, row);
    const int64_t index =
        x.dtype == DType::int32
            ? first_extreme(reinterpret_cast<const int32_t*>(from), n, stride, smallest)
            : first_extreme(from, x.dtype, stride, n, row_scratch(context, thread, 1, kPart, 0), smallest);
    static_cast<int32_t*>(out.data)[row] = int32_t(index);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
