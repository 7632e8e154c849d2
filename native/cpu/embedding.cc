// Copies or adds rows of a table. All indices are checked before any row is read, so that a wrong one is always
// reported.
#include "indices.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status embedding(Context* context, Out out, In indices, In table, bool accumulate) {
  const int64_t count = element_count(indices), rows = table.shape[0], width = table.shape[1];
  const int64_t size = dtype_size(table.dtype);
  const Status status = check_indices(context, indices, rows);
  if (status.failed()) return status;
  if (count == 0 || width == 0) return {};
  if (!reserve_rows(context, 2, width)) return out_of_memory("a row");
  each_row(context, count, width, [&](int64_t i, int thread) {
    const char* from = static_cast<const char*>(table.data) + index_at(indices, i) * width * size;
    char* to = static_cast<char*>(out.data) + i * width * size;
    if (!accumulate) {
      memcpy(to, from, size_t(width * size));
      return;
    }
    const float* row = read_row(from, table.dtype, 1, width, row_scratch(context, thread, 2, width, 0));
    float* sum = row_scratch(context, thread, 2, width, 1);
    widen(sum, to, out.dtype, width);
    for (int64_t j = 0; j < width; ++j) sum[j] = canonical(sum[j] + row[j]);
    narrow(to, sum, out.dtype, width);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
