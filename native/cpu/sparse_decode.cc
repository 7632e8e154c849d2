// Sparse rows times a packed matrix, plus bias: a row gathers the weights of its entries, a panel of columns at a time.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

Status sparse_decode(Context* context, Out out, In row_ptr, In indices, In values, Packed w, In bias) {
  const int64_t m = out.shape[0], n = out.shape[1], k = w.shape[0], entries = indices.shape[0];
  const auto* pointers = static_cast<const int32_t*>(row_ptr.data);
  const auto* index = static_cast<const int32_t*>(indices.data);
  const auto* value = static_cast<const float*>(values.data);
  for (int64_t i = 0; i < m; ++i) {
    if (pointers[i] < 0 || pointers[i] > pointers[i + 1] || pointers[i + 1] > entries) {
      return fail("row_ptr of row %lld must rise from 0 to %lld, but goes from %d to %d", static_cast<long long>(i),
                  static_cast<long long>(entries), pointers[i], pointers[i + 1]);
    }
  }
  for (int64_t i = 0; i < entries; ++i) {
    if (index[i] < 0 || index[i] >= k) {
      return fail("index %d of entry %lld is outside [0, %lld)", index[i], static_cast<long long>(i),
                  static_cast<long long>(k));
    }
  }
  if (m == 0 || n == 0) return {};
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  if (!wide_bias) return out_of_memory("the bias");
  widen_bias(wide_bias, bias, n);
  const int64_t size = dtype_size(w.dtype), out_size = dtype_size(out.dtype);
  parallel(context, m, [&](int64_t row, int) {
    float sum[kColumns], weights[kColumns];
    for (int64_t panel = 0; panel < panel_count(n); ++panel) {
      const char* base = static_cast<const char*>(w.data) + panel * k * kColumns * size;
      memcpy(sum, wide_bias + panel * kColumns, sizeof sum);
      for (int64_t i = pointers[row]; i < pointers[row + 1]; ++i) {
        widen(weights, base + index[i] * kColumns * size, w.dtype, kColumns);
        const vf scale = broadcast(value[i]);
        for (int j = 0; j < kColumns; j += kWidth) store(sum + j, fma(scale, load(weights + j), load(sum + j)));
      }
      const int64_t column = panel * kColumns;
      narrow(static_cast<char*>(out.data) + (row * n + column) * out_size, sum, out.dtype, min64(kColumns, n - column));
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
