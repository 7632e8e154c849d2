// Counts, for each latent, the calls since it was last active, the present one included.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status update_last_nonzero(Context* context, Out stats, In latents) {
  const int64_t rows = latents.shape[0], n = latents.shape[1], size = dtype_size(latents.dtype);
  auto* count = static_cast<int32_t*>(stats.data);
  constexpr int64_t kChunk = 256;  // columns: a few cache lines of each row
  parallel(context, ceil_div(n, kChunk), [&](int64_t task, int) {
    const int64_t first = task * kChunk, width = min64(kChunk, n - first);
    float row[kChunk];
    bool fired[kChunk] = {};
    for (int64_t r = 0; r < rows; ++r) {
      widen(row, static_cast<const char*>(latents.data) + (r * n + first) * size, latents.dtype, width);
      for (int64_t j = 0; j < width; ++j) fired[j] |= row[j] != 0;
    }
    for (int64_t j = 0; j < width; ++j) {
      const int32_t before = fired[j] ? 0 : count[(first + j) * stats.stride[0]];
      count[(first + j) * stats.stride[0]] = before == INT32_MAX ? before : before + 1;
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
