// Applies attention's mask to stored logits.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status mask_logits(Context* context, Out logits, In pad, bool causal) {
  const int64_t heads = logits.shape[1], queries = logits.shape[2], keys = logits.shape[3];
  if (element_count(logits) == 0) return {};
  char low[4];
  const float infinite = -INFINITY;
  narrow(low, &infinite, logits.dtype, 1);
  const int64_t size = dtype_size(logits.dtype), stride = logits.stride[3];
  each_row(context, row_count(logits), keys, [&](int64_t row, int) {
    const int64_t query = keys - queries + row % queries;
    const auto* padding = pad.data ? static_cast<const uint8_t*>(pad.data) + row / (heads * queries) * keys : nullptr;
    char* to = row_at(logits, row);
    for (int64_t key = 0; key < keys; ++key) {
      const bool hidden = (causal && key > query) || (padding && (padding[key] != 0) != (padding[query] != 0));
      if (hidden) memcpy(to + key * stride * size, low, size_t(size));
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
