// Sorts rows.
#include "moves.h"
#include "operations.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

Status sort(Context* context, Out values, Out indices, In x, bool descending) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  if (element_count(x) == 0) return {};
  const auto candidates = [&](int thread) {
    return static_cast<uint64_t*>(thread_scratch(context, thread, 1, size_t(n) * 2 * sizeof(uint64_t)));
  };
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!candidates(thread)) return out_of_memory("the keys of a row");
  }
  if (!reserve_rows(context, 1, n)) return out_of_memory("a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    uint64_t* best = candidates(thread);
    rank(best, row_at(x, row), x.dtype, stride, n, !descending, row_scratch(context, thread, 1, n, 0));
    best = sort_by_value(best, best + n, n, 4);
    auto* order = static_cast<int32_t*>(indices.data) + row * n;
    for (int64_t i = 0; i < n; ++i) order[i] = int32_t(index_of(best[i]));
    with_bits(dtype_size(x.dtype), [&](auto bits) {
      using T = decltype(bits);
      const T* from = reinterpret_cast<const T*>(row_at(x, row));
      T* to = static_cast<T*>(values.data) + row * n;
      for (int64_t i = 0; i < n; ++i) to[i] = from[order[i] * stride];
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
