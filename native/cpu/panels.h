// The right side of a product in panels, as packed weights are stored: [panel][step][columns] (see microkernel.h), with
// zeros after the last column and after an odd last k of pairs.
#pragma once
#include "microkernel.h"

namespace sonde::SONDE_ISA {

constexpr int64_t panel_count(int64_t n, int64_t columns = kColumns) { return ceil_div(n, columns); }

// The layout of packed weights of a dtype.
constexpr Layout packed_layout(DType dtype) {
  if (dtype == DType::bfloat16) return kPairs ? Layout::pairs : Layout::bfloat16;
  return dtype == DType::float16 ? Layout::float16 : Layout::float32;
}
constexpr int64_t panel_bytes(Layout layout, int64_t k, int64_t columns = kColumns) {
  return step_count(layout, k) * step_bytes(layout, columns);
}

// Panels of `columns` columns. `data` is the first one of interest; each has `steps` steps, of which the first `used`
// are multiplied.
struct Panels {
  const char* data;
  Layout layout;
  int64_t steps;
  int64_t used;
  int64_t columns = kColumns;

  const char* at(int64_t panel, int64_t step) const {
    return data + (panel * steps + step) * step_bytes(layout, columns);
  }
};

inline Panels panels_from(const Packed& w, int64_t panel) {
  const Layout layout = packed_layout(w.dtype);
  const int64_t steps = step_count(layout, w.shape[0]);
  return {static_cast<const char*>(w.data) + panel * panel_bytes(layout, w.shape[0]), layout, steps, steps};
}

// n elements, `stride` elements apart, as float32
SONDE_INLINE void read_strided(float* to, const char* from, DType dtype, int64_t stride, int64_t n) {
  if (stride == 1) return widen(to, from, dtype, n);
  const int64_t step = stride * dtype_size(dtype);
  if (dtype == DType::float32) {
    for (int64_t i = 0; i < n; ++i) to[i] = *reinterpret_cast<const float_unaligned*>(from + i * step);
  } else {
    for (int64_t i = 0; i < n; ++i) widen(to + i, from + i * step, dtype, 1);
  }
}

// Transposes a block of `columns` by 16 k's to to[k][columns], from a matrix whose neighbours in k lie side by side.
inline void transpose_block(float* to, int64_t columns, const float* from, int64_t stride, int64_t count,
                            int64_t depth) {
  int64_t j = 0;
#if defined(__AVX2__)
  for (; depth == 16 && j + 8 <= count; j += 8) {
    for (int64_t k = 0; k < 16; k += 8) {
      __m256 r[8], s[8];
      for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + (j + i) * stride + k);
      for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
      }
      for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + (k + i) * columns + j, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (k + i + 4) * columns + j, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
      }
    }
  }
#endif
  for (; j < count; ++j) {
    for (int64_t k = 0; k < depth; ++k) to[k * columns + j] = from[j * stride + k];
  }
}

// One panel of b [K, N], whose first column is `column`, as float32 [k][columns].
inline void pack_float_panel(float* to, const View& b, int64_t column, int64_t columns) {
  const int64_t k = b.shape[0], size = dtype_size(b.dtype), count = min64(columns, b.shape[1] - column);
  const char* base = static_cast<const char*>(b.data) + column * b.stride[1] * size;
  if (count < columns) memset(to, 0, size_t(k * columns) * 4);
  if (b.stride[1] == 1) {
    for (int64_t p = 0; p < k; ++p) {
      const char* from = base + p * b.stride[0] * size;
      if (b.dtype != DType::float32 || count < columns) {
        widen(to + p * columns, from, b.dtype, count);
        continue;
      }
      const auto* row = reinterpret_cast<const float*>(from);
      for (int64_t j = 0; j < columns; j += kWidth) store(to + p * columns + j, load(row + j));
    }
    return;
  }
  const bool in_place = b.dtype == DType::float32 && b.stride[0] == 1;
  float part[64 * 16];
  for (int64_t done = 0; done < k; done += 16) {
    const int64_t depth = min64(16, k - done);
    if (in_place) {
      const float* from = reinterpret_cast<const float*>(base) + done;
      transpose_block(to + done * columns, columns, from, b.stride[1], count, depth);
      continue;
    }
    for (int64_t j = 0; j < count; ++j) {
      read_strided(part + j * 16, base + (j * b.stride[1] + done * b.stride[0]) * size, b.dtype, b.stride[0], depth);
    }
    transpose_block(to + done * columns, columns, part, 16, count, depth);
  }
}

// One panel of b in pairs.
inline void pack_paired_panel(uint16_t* to, const View& b, int64_t column, int64_t columns) {
  const int64_t k = b.shape[0], size = dtype_size(b.dtype), count = min64(columns, b.shape[1] - column);
  const bool side_by_side = b.dtype == DType::bfloat16 && b.stride[0] == 1;
  if (side_by_side) {  // the pairs exist already, as 32-bit words that are transposed
    const auto* base = static_cast<const uint16_t*>(b.data) + column * b.stride[1];
    if (count < columns || k % 2) memset(to, 0, size_t(step_count(Layout::pairs, k) * columns) * 4);
    float part[64 * 16];
    for (int64_t done = 0; done < k; done += 32) {
      const int64_t depth = min64(32, k - done);
      if (depth < 32) memset(part, 0, sizeof part);
      for (int64_t j = 0; j < count; ++j) memcpy(part + j * 16, base + j * b.stride[1] + done, size_t(depth) * 2);
      auto* words = reinterpret_cast<float*>(to + done * columns);
      transpose_block(words, columns, part, 16, count, ceil_div(depth, 2));
    }
    return;
  }
  float wide[64];
  uint16_t row[2][64];
  auto* words = reinterpret_cast<uint32_t*>(to);
  for (int64_t p = 0; p < k; p += 2, words += columns) {
    memset(row, 0, sizeof row);
    for (int64_t q = p; q < min64(p + 2, k); ++q) {
      const char* from = static_cast<const char*>(b.data) + (q * b.stride[0] + column * b.stride[1]) * size;
      if (b.dtype == DType::bfloat16 && b.stride[1] == 1) {
        memcpy(row[q - p], from, size_t(count) * 2);
        continue;
      }
      read_strided(wide, from, b.dtype, b.stride[1], count);
      narrow(row[q - p], wide, DType::bfloat16, count);
    }
    for (int64_t j = 0; j < columns; ++j) words[j] = row[0][j] | uint32_t(row[1][j]) << 16;
  }
}

// One panel of b in pairs or in float32.
inline void pack_panel(void* to, Layout layout, const View& b, int64_t column, int64_t columns) {
  if (layout == Layout::pairs) return pack_paired_panel(static_cast<uint16_t*>(to), b, column, columns);
  pack_float_panel(static_cast<float*>(to), b, column, columns);
}

// Row k of a panel as float32, as many as it has columns.
SONDE_INLINE void unpack_row(float* to, const Panels& w, int64_t panel, int64_t k) {
  const char* from = w.at(panel, is_paired(w.layout) ? k / 2 : k);
  const int64_t vector = step_bytes(w.layout, kWidth);
  for (int64_t j = 0; j < w.columns; j += kWidth, from += vector) {
    vf v;
    if (w.layout == Layout::bfloat16) v = load_step<Layout::bfloat16>(from);
    else if (w.layout == Layout::float16) v = load_step<Layout::float16>(from);
    else v = load_step<Layout::float32>(from);
    if (is_paired(w.layout)) v = vf(k % 2 ? vu(v) & 0xffff0000u : vu(v) << 16);
    store(to + j, v);
  }
}

// One panel of the transpose of packed w [K, N], whose first column is row `column` of w, as float32 [n][kColumns].
inline void pack_transposed_panel(float* to, const Packed& w, int64_t column) {
  constexpr int64_t kSteps = kColumns < 16 ? kColumns : 16;  // that are transposed together
  static_assert(kColumns % kSteps == 0);
  const int64_t n = w.shape[1], count = min64(kColumns, w.shape[0] - column);
  const Panels from = panels_from(w, 0);
  float wide[kColumns * kColumns];
  for (int64_t done = 0; done < n; done += kColumns, to += kColumns * kColumns) {
    const int64_t panel = done / kColumns;
    const float* rows = wide;
    if (from.layout == Layout::float32) rows = reinterpret_cast<const float*>(from.at(panel, column));
    for (int64_t i = 0; rows == wide && i < count; ++i) unpack_row(wide + i * kColumns, from, panel, column + i);
    const int64_t steps = min64(kColumns, n - done);
    if (count < kColumns) memset(to, 0, size_t(steps * kColumns) * 4);
    for (int64_t step = 0; step < steps; step += kSteps) {
      transpose_block(to + step * kColumns, kColumns, rows + step, kColumns, count, min64(kSteps, steps - step));
    }
  }
}

}  // namespace sonde::SONDE_ISA
