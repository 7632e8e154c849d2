// Finds the lowest index of each row's largest value.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

template <class T>
int64_t first_largest(const T* x, int64_t n, int64_t stride) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T value = x[i * stride];
    if (value != value) return i;
    if (value > x[best * stride]) best = i;
  }
  return best;
}

}  // namespace

Status argmax(Context* context, Out out, In x, bool smallest) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  if (!reserve_rows(context, 1, n)) return out_of_memory("a row");
  each_row(context, element_count(out), n, [&](int64_t row, int thread) {
    const char* from = row_at(x, row);
    const int64_t index =
        x.dtype == DType::int32
            ? first_largest(reinterpret_cast<const int32_t*>(from), n, stride)
            : first_largest(read_row(from, x.dtype, stride, n, row_scratch(context, thread, 1, n, 0)), n, 1);
    static_cast<int32_t*>(out.data)[row] = int32_t(index);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
