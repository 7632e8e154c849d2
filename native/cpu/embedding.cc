// Copies or adds rows of a table. All indices are checked before any row is read, so that a wrong one is always
// reported.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status embedding(Context* context, Out out, In indices, In table, bool accumulate) {
  const int64_t count = element_count(indices), rows = table.shape[0], width = table.shape[1];
  const int64_t size = dtype_size(table.dtype), per_row = last_dimension(indices), stride = last_stride(indices);
  const auto index_at = [&](int64_t i) {
    return reinterpret_cast<const int32_t*>(row_at(indices, i / per_row))[i % per_row * stride];
  };
  for (int64_t i = 0; i < count; ++i) {
    const int32_t index = index_at(i);
    if (index < 0 || index >= rows) {
      return fail("index %d at position %lld is outside [0, %lld)", index, static_cast<long long>(i),
                  static_cast<long long>(rows));
    }
  }
  if (count == 0 || width == 0) return {};
  if (!reserve_rows(context, 2, width)) return out_of_memory("a row");
  each_row(context, count, width, [&](int64_t i, int thread) {
    const char* from = static_cast<const char*>(table.data) + index_at(i) * width * size;
    char* to = static_cast<char*>(out.data) + i * width * size;
    if (!accumulate) {
      memcpy(to, from, size_t(width * size));
      return;
    }
    const float* row = read_row(from, table.dtype, 1, width, row_scratch(context, thread, 2, width, 0));
    float* sum = row_scratch(context, thread, 2, width, 1);
    widen(sum, to, out.dtype, width);
    for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
    narrow(to, sum, out.dtype, width);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
