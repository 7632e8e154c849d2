// Indices that come from the user's data.
#pragma once
#include "rows.h"

namespace sonde::SONDE_ISA {

SONDE_INLINE int32_t index_at(const View& indices, int64_t i) {
  const int64_t n = last_dimension(indices);
  return reinterpret_cast<const int32_t*>(row_at(indices, i / n))[i % n * last_stride(indices)];
}

// The failure of the index at a position, the first one that was found.
inline Status bad_index(const View& indices, const Failures& found, int64_t limit) {
  if (!found.any()) return {};
  return fail("index %d at position %lld is outside [0, %lld)", index_at(indices, found.first()),
              static_cast<long long>(found.first()), static_cast<long long>(limit));
}

// Demands that all indices lie in [0, limit): the first one that does not is the failure.
inline Status check_indices(Context* context, const View& indices, int64_t limit) {
  if (element_count(indices) == 0) return {};
  const int64_t n = last_dimension(indices), stride = last_stride(indices);
  const int64_t part = min64(n, kWorthSharing), parts = ceil_div(n, part);
  Failures found;
  each_row(context, row_count(indices) * parts, part, [&](int64_t task, int) {
    const int64_t first = task % parts * part, end = min64(n, first + part);
    const auto* row = reinterpret_cast<const int32_t*>(row_at(indices, task / parts));
    for (int64_t j = first; j < end; ++j) {
      if (row[j * stride] < 0 || row[j * stride] >= limit) found.at(task / parts * n + j);
    }
  });
  return bad_index(indices, found, limit);
}

}  // namespace sonde::SONDE_ISA
