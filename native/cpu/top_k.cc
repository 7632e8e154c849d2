// Finds the k largest of each row: as values and indices, or as a copy of the row with zeros elsewhere.
#include "operations.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

namespace {

// Reserves scratch memory for a row as floats and as candidates, for each thread.
bool reserve(Context* context, int64_t n) {
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 1, size_t(2 * n) * sizeof(uint64_t))) return false;
  }
  return reserve_rows(context, 1, n);
}

// The row's candidates, the k largest first, in no order.
uint64_t* rank_row(Context* context, int thread, const View& x, int64_t row, int64_t k) {
  const int64_t n = last_dimension(x);
  auto* all = static_cast<uint64_t*>(thread_scratch(context, thread, 1, size_t(2 * n) * sizeof(uint64_t)));
  rank(all, row_at(x, row), x.dtype, last_stride(x), n, false, row_scratch(context, thread, 1, n, 0));
  if (k > 0 && k < n) select(all, n, k);
  return all;
}

}  // namespace

Status top_k(Context* context, Out values, Out indices, In x) {
  const int64_t k = last_dimension(values), n = last_dimension(x), size = dtype_size(x.dtype), stride = last_stride(x);
  if (element_count(values) == 0) return {};
  if (!reserve(context, n)) return out_of_memory("a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    uint64_t* best = rank_row(context, thread, x, row, k);
    best = sort_by_value(best, best + n, k, k == n ? 4 : 0);
    const char* from = row_at(x, row);
    for (int64_t i = 0; i < k; ++i) {
      const int64_t index = index_of(best[i]);
      memcpy(static_cast<char*>(values.data) + (row * k + i) * size, from + index * stride * size, size_t(size));
      static_cast<int32_t*>(indices.data)[row * k + i] = int32_t(index);
    }
  });
  return {};
}

Status top_k_mask(Context* context, Out out, In x, int64_t k, bool relu) {
  const int64_t n = last_dimension(x), size = dtype_size(x.dtype), stride = last_stride(x);
  if (element_count(out) == 0) return {};
  if (!reserve(context, n)) return out_of_memory("a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const uint64_t* best = rank_row(context, thread, x, row, k);
    const char* from = row_at(x, row);
    char* to = static_cast<char*>(out.data) + row * n * size;
    memset(to, 0, size_t(n * size));
    for (int64_t i = 0; i < k; ++i) {
      if (relu && key_of(best[i]) < 0) continue;
      const int64_t index = index_of(best[i]);
      memcpy(to + index * size, from + index * stride * size, size_t(size));
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
