// Multiplies sparse rows by a packed matrix: a row gathers the weights of its entries, a panel of columns at a time.
// All rows use a panel before the next panel is read: a panel fits the caches where the whole matrix does not, and
// weights that several rows use are then still cached. A sum starts from the bias and adds its entries in their order.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kRowsAtOnce = 64;

struct Entries {
  const int32_t* indices;
  const float* values;
  int64_t count;
};

// Vector j of row `index` of a panel.
template <Layout layout>
SONDE_INLINE vf load_row(const char* panel, int64_t index, int j) {
  constexpr int64_t kStep = step_bytes(layout, kColumns);
  if constexpr (layout == Layout::pairs) {
    const vu words = vu(load_step<layout>(panel + index / 2 * kStep + j * (kStep / kVectors)));
    return vf(index % 2 ? words & 0xffff0000u : words << 16);
  }
  return load_step<layout>(panel + index * kStep + j * (kStep / kVectors));
}

// sum [kColumns] = bias + the panel's rows that the entries name, each times its value. No processor can predict which
// row comes next, so rows are prefetched some entries ahead.
template <Layout layout>
void gather(float* sum, const Entries& entries, const char* panel, const float* bias) {
  constexpr int64_t kAhead = 8, kStep = step_bytes(layout, kColumns);
  vf total[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) total[j] = load(bias + j * kWidth);
  for (int64_t i = 0; i < entries.count; ++i) {
    if (i + kAhead < entries.count) {
      const char* later = panel + entries.indices[i + kAhead] / (is_paired(layout) ? 2 : 1) * kStep;
      for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(later + line);
    }
    const int64_t index = entries.indices[i];
    const vf value = broadcast(entries.values[i]);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) total[j] = fma(value, load_row<layout>(panel, index, j), total[j]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) store(sum + j * kWidth, canonical(total[j]));
}

void gather(float* sum, const Entries& entries, const Panels& w, const float* bias) {
  constexpr Layout kBfloat16 = packed_layout(DType::bfloat16);
  if (w.layout == kBfloat16) return gather<kBfloat16>(sum, entries, w.data, bias);
  if (w.layout == Layout::float16) return gather<Layout::float16>(sum, entries, w.data, bias);
  gather<Layout::float32>(sum, entries, w.data, bias);
}

}  // namespace

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
  const int64_t out_size = dtype_size(out.dtype), blocks = ceil_div(m, kRowsAtOnce);
  parallel(context, blocks * panel_count(n), [&](int64_t task, int) {
    const int64_t panel = task / blocks, column = panel * kColumns, first = task % blocks * kRowsAtOnce;
    const Panels part = panels_from(w, panel);
    float sum[kColumns];
    for (int64_t row = first; row < min64(m, first + kRowsAtOnce); ++row) {
      const int64_t start = pointers[row];
      gather(sum, {index + start, value + start, pointers[row + 1] - start}, part, wide_bias + column);
      narrow(static_cast<char*>(out.data) + (row * n + column) * out_size, sum, out.dtype, min64(kColumns, n - column));
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
