// The matrix product behind linear, matmul and sparse_encode.
//
// The right side lies in panels of kColumns columns: [panel][k][kColumns] (Goto and van de Geijn, "Anatomy of
// high-performance matrix multiplication", TOMS 2008), 16-bit values widened a panel at a time. The left side is brought
// into panels of kRows rows, [panel][k][rows], as float32. A microkernel keeps kRows x kColumns sums in registers. Each sum
// starts from the bias and takes its products in ascending k, whatever the shape, the batch or the number of threads: the
// last panel of rows is only narrower, the last panel of columns is computed whole beside the result and copied.
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

#if defined(__AVX512F__)
constexpr int kRows = 8, kVectors = 3;  // 24 sums, 3 columns, 1 broadcast of 32 registers
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;  // 12 sums, 2, 1 of 16
#elif defined(__aarch64__)
constexpr int kRows = 8, kVectors = 3;
#else
constexpr int kRows = 6, kVectors = 2;
#endif
constexpr int kColumns = kVectors * kWidth;
constexpr int64_t kDepth = 1536;       // k at a time: a panel of columns then stays in the second-level cache
constexpr int64_t kTileRows = 96;      // rows at a time: a multiple of 8 and of 6
constexpr int64_t kTileColumns = 384;  // columns a thread takes at a time: a multiple of every kColumns

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t panel_count(int64_t n) { return ceil_div(n, kColumns); }

// ---- microkernel: c [R, kColumns] = start + a [k][R] b [k][kColumns], start being the bias or c itself

template <int R>
__attribute__((noinline)) void multiply(int64_t k, const float* __restrict a, const float* __restrict b, float* c,
                                        int64_t ldc, const float* bias) {
  vf sum[R][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = load(bias ? bias + j * kWidth : c + i * ldc + j * kWidth);
  }
  for (int64_t p = 0; p < k; ++p) {
    vf column[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      column[j] = load(b + j * kWidth);
      __builtin_prefetch(b + 12 * kColumns + j * kWidth);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const vf row = broadcast(a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = fma(row, column[j], sum[i][j]);
    }
    a += R;
    b += kColumns;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(c + i * ldc + j * kWidth, sum[i][j]);
  }
}

SONDE_INLINE void multiply_rows(int rows, int64_t k, const float* a, const float* b, float* c, int64_t ldc,
                                const float* bias) {
  switch (rows) {
    case 1: return multiply<1>(k, a, b, c, ldc, bias);
    case 2: return multiply<2>(k, a, b, c, ldc, bias);
    case 3: return multiply<3>(k, a, b, c, ldc, bias);
    case 4: return multiply<4>(k, a, b, c, ldc, bias);
    case 5: return multiply<5>(k, a, b, c, ldc, bias);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 6: return multiply<6>(k, a, b, c, ldc, bias);
    case 7: return multiply<7>(k, a, b, c, ldc, bias);
#endif
    default: return multiply<kRows>(k, a, b, c, ldc, bias);
  }
}

// ---- the left side

#if defined(__AVX2__)
// 8 rows of 8 floats, `stride` apart, to to[8 * column + row]
SONDE_INLINE void transpose_8x8(float* to, const float* from, int64_t stride) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * stride);
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
    _mm256_storeu_ps(to + 8 * i, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + 8 * (i + 4), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
#endif

// rows [first, first + count) of x [M, K], any strides and float dtype, to[k * count + row]
inline void pack_rows(float* to, const View& x, int64_t first, int count) {
  const int64_t k = x.shape[1], size = dtype_size(x.dtype);
  const char* base = static_cast<const char*>(x.data) + first * x.stride[0] * size;
  int64_t done = 0;
#if defined(__AVX2__)
  if (count == 8 && x.dtype == DType::float32 && x.stride[1] == 1) {
    const float* from = reinterpret_cast<const float*>(base);
    for (; done + 8 <= k; done += 8) transpose_8x8(to + done * 8, from + done, x.stride[0]);
  }
#endif
  float part[64];
  for (; done < k; done += 64) {
    const int64_t n = min64(64, k - done);
    for (int i = 0; i < count; ++i) {
      const char* from = base + (i * x.stride[0] + done * x.stride[1]) * size;
      if (x.stride[1] == 1) widen(part, from, x.dtype, n);
      else
        for (int64_t p = 0; p < n; ++p) widen(part + p, from + p * x.stride[1] * size, x.dtype, 1);
      for (int64_t p = 0; p < n; ++p) to[(done + p) * count + i] = part[p];
    }
  }
}

// Rows [first, first + rows) of x, packed.
inline void pack_left(Context* context, float* to, const View& x, int64_t first, int64_t rows) {
  parallel(context, ceil_div(rows, kRows), [&](int64_t panel, int) {
    const int64_t row = panel * kRows;
    pack_rows(to + row * x.shape[1], x, first + row, int(min64(kRows, rows - row)));
  });
}

// ---- the right side

// panels [first, last) of b [K, N], any strides and float dtype, in float32 as [panel][k][kColumns], zeros beyond N
inline void pack_panels(float* to, const View& b, int64_t first, int64_t last) {
  const int64_t k = b.shape[0], n = b.shape[1], size = dtype_size(b.dtype);
  for (int64_t panel = first; panel < last; ++panel, to += k * kColumns) {
    const int64_t column = panel * kColumns, count = min64(kColumns, n - column);
    const char* base = static_cast<const char*>(b.data) + column * b.stride[1] * size;
    if (count < kColumns) memset(to, 0, size_t(k * kColumns) * 4);
    if (b.stride[1] == 1) {
      for (int64_t p = 0; p < k; ++p) widen(to + p * kColumns, base + p * b.stride[0] * size, b.dtype, count);
      continue;
    }
    float part[64];
    for (int64_t done = 0; done < k; done += 64) {
      const int64_t depth = min64(64, k - done);
      for (int64_t j = 0; j < count; ++j) {
        const char* from = base + (j * b.stride[1] + done * b.stride[0]) * size;
        if (b.stride[0] == 1) widen(part, from, b.dtype, depth);
        else
          for (int64_t p = 0; p < depth; ++p) widen(part + p, from + p * b.stride[0] * size, b.dtype, 1);
        for (int64_t p = 0; p < depth; ++p) to[(done + p) * kColumns + j] = part[p];
      }
    }
  }
}

// Panels as they lie in memory: `data` is the first one of interest, the first `used` of their k rows take part.
struct Panels {
  const void* data;
  DType dtype;
  int64_t k;
  int64_t used;
};
SONDE_INLINE Panels panels_from(const Packed& w, int64_t panel) {
  return {static_cast<const char*>(w.data) + panel * w.shape[0] * kColumns * dtype_size(w.dtype), w.dtype, w.shape[0],
          w.shape[0]};
}

// c [rows, columns] = bias + a b for `rows` packed rows and the `panels` first panels, c having ldc floats from row to row.
// bias has kColumns values for each panel. Columns beyond `columns` are only written when c is `padded`, that is, has room
// for whole panels. `room` holds kDepth * kColumns floats for 16-bit panels.
inline void product(const float* a, int64_t rows, const Panels& b, int64_t panels, int64_t columns, const float* bias,
                    float* c, int64_t ldc, bool padded, float* room) {
  float edge[kRows * kColumns];
  int64_t at = 0;
  do {  // once even if k is 0: the bias alone
    const int64_t depth = min64(kDepth, b.used - at);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const char* raw = static_cast<const char*>(b.data) + (panel * b.k + at) * kColumns * dtype_size(b.dtype);
      const float* columns_of_b = reinterpret_cast<const float*>(raw);
      if (b.dtype != DType::float32) {
        widen(room, raw, b.dtype, depth * kColumns);
        columns_of_b = room;
      }
      const float* start = at == 0 ? bias + panel * kColumns : nullptr;
      const int64_t valid = min64(kColumns, columns - panel * kColumns);
      for (int64_t row = 0; row < rows; row += kRows) {
        const int count = int(min64(kRows, rows - row));
        const float* part = a + row * b.used + at * count;
        float* out = c + row * ldc + panel * kColumns;
        if (padded || valid == kColumns) {
          multiply_rows(count, depth, part, columns_of_b, out, ldc, start);
          continue;
        }
        if (!start) {
          for (int i = 0; i < count; ++i) memcpy(edge + i * kColumns, out + i * ldc, size_t(valid) * 4);
        }
        multiply_rows(count, depth, part, columns_of_b, edge, kColumns, start);
        for (int i = 0; i < count; ++i) memcpy(out + i * ldc, edge + i * kColumns, size_t(valid) * 4);
      }
    }
    at += depth;
  } while (at < b.used);
}

// The bias [N], any float dtype or left out, as float32 with zeros up to a whole number of panels.
inline void widen_bias(float* to, const View& bias, int64_t n) {
  memset(to, 0, size_t(panel_count(n) * kColumns) * 4);
  if (bias.data) widen(to, bias.data, bias.dtype, n);
}

SONDE_INLINE void activate(float* x, int64_t n, Activation activation) {
  if (activation == Activation::gelu) map_row(x, x, n, [](vf v) { return gelu(v); });
  if (activation == Activation::relu) map_row(x, x, n, [](vf v) { return v < 0.0f ? vf{} : v; });
}

// How many panels a thread takes at a time: few enough that every thread gets several turns.
inline int64_t panels_per_task(int64_t n, int threads) {
  return max64(1, min64(kTileColumns / kColumns, panel_count(n) / (4 * threads)));
}

inline Status out_of_memory(const char* what) { return fail("not enough memory for %s", what); }

}  // namespace sonde::SONDE_ISA
