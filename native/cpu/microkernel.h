// The innermost loop of every matrix product, and the layouts that its operands may have.
//
// The right side lies in panels of V vectors of columns (Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", TOMS 2008): [panel][step][columns]. A value of the left side is broadcast to all columns. Its rows are
// read where they are, or packed as [step][rows] (see product.h).
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

// What a step of the right operand holds and how it is multiplied.
enum class Layout : int32_t {
  float32,       // one k of float32
  bfloat16,      // one k of bfloat16, widened as it is loaded
  float16,       // one k of float16, widened as it is loaded
  pairs,         // two k of bfloat16, multiplied with pairs of bfloat16 by the processor's dot product
  widened_pairs  // two k of bfloat16, widened and multiplied with two float32 one after the other
};

// Whether bfloat16 weights are stored in pairs, which some processors multiply directly. Both factors are then
// bfloat16, and their products are exact in float32. A sum adds the second product of a pair before the first, is
// rounded after each, and takes subnormals for 0, its own included.
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

constexpr bool is_paired(Layout layout) { return layout == Layout::pairs || layout == Layout::widened_pairs; }
// bytes of a step in a panel of `columns`
constexpr int64_t step_bytes(Layout layout, int64_t columns) {
  return columns * (layout == Layout::bfloat16 || layout == Layout::float16 ? 2 : 4);
}
// bytes of a step in a row of the left side
constexpr int64_t left_bytes(Layout layout) { return layout == Layout::widened_pairs ? 8 : 4; }
constexpr int64_t step_count(Layout layout, int64_t k) { return is_paired(layout) ? (k + 1) / 2 : k; }

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
constexpr int64_t kAhead = 64;  // steps that are prefetched before they are needed

// Whether the rows of a large product are packed. A processor that broadcasts from memory as part of a multiply-add
// reads them in place as fast. The others would need a register for the distance of each row, and rows that lie a
// multiple of 4 KiB apart would fall into the same few lines of the first-level cache.
#if defined(__AVX512F__)
constexpr bool kPacksRows = false;
#else
constexpr bool kPacksRows = true;
#endif
static_assert(!kPacksRows || !kPairs, "packed rows are of float32");

typedef float float_unaligned __attribute__((aligned(2), may_alias));
SONDE_INLINE vf broadcast_at(const char* p) { return broadcast(*reinterpret_cast<const float_unaligned*>(p)); }

template <Layout layout>
SONDE_INLINE vf load_step(const char* p) {
  if constexpr (layout == Layout::bfloat16) return load_bf16(reinterpret_cast<const uint16_t*>(p));
  if constexpr (layout == Layout::float16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  return load(reinterpret_cast<const float*>(p));
}

// sum + row * column, for a value of the left side that was broadcast
template <Layout layout>
SONDE_INLINE vf accumulate(vf row, vf column, vf sum) {
#if defined(__AVX512BF16__)
  if constexpr (layout == Layout::pairs) return vf(_mm512_dpbf16_ps(__m512(sum), __m512bh(row), __m512bh(column)));
#endif
  return fma(row, column, sum);
}

// The sums of R rows by V vectors of columns, which the compiler keeps in registers.
template <int R, int V>
struct Tile {
  vf sum[R][V];

  // from the bias of the columns, or from 0 where it is null
  SONDE_INLINE void begin(const float* bias) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sum[i][j] = bias ? load(bias + j * kWidth) : vf{};
    }
  }

  // adds a row's value, which was broadcast, times the columns
  template <Layout layout>
  SONDE_INLINE void add(int row, vf value, const vf (&column)[V]) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[row][j] = accumulate<layout>(value, column[j], sum[row][j]);
  }

  // c = the sums, or c + them where `adds`. `last`: c is complete then, and its NaN are to be canonical.
  SONDE_INLINE void end(float* c, int64_t ldc, bool adds, bool last) const {
    vf all[V] = {};
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) {
        float* to = c + i * ldc + j * kWidth;
        const vf value = adds ? load(to) + sum[i][j] : sum[i][j];
        store(to, value);
        all[j] += value;
      }
    }
    // their sum is finite where there is no NaN, but for infinities
    vi odd{};
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) odd |= vi(all[j] - all[j]);
    if (__builtin_expect(!last || !greater_bits(odd & 0x7fffffff, vi{}), 1)) return;
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < V; ++j) {
        float* to = c + i * ldc + j * kWidth;
        store(to, canonical(load(to)));
      }
    }
  }
};

// c [R, V vectors] = bias + a b over `steps` steps, or c + (a b) where the bias is null: the sums of a block are added
// up before they are added to those of earlier blocks, which halves the error of a long sum. Rows of a are `lda` bytes
// apart, those of c `ldc` floats. `last`: see Tile.
template <Layout layout, int R, int V>
__attribute__((noinline)) void multiply(int64_t steps, const char* __restrict a, int64_t lda, const char* __restrict b,
                                        float* c, int64_t ldc, const float* bias, bool last) {
  constexpr int64_t kStep = step_bytes(layout, V * kWidth), kVector = kStep / V;
  Tile<R, V> tile;
  tile.begin(bias);
  for (int64_t p = 0; p < steps; ++p) {
    vf column[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) column[j] = load_step<layout>(b + j * kVector);
#pragma GCC unroll 4
    for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(b + kAhead * kStep + line);
    if constexpr (R == kRows) {  // prefetch the next rows of a, a line in 16 steps, and at first the lines of c
      const int64_t next_row = p % 16;
      if (next_row < R) __builtin_prefetch(a + (R + next_row) * lda, 0, 2);
      if (p < R * V) __builtin_prefetch(c + p % R * ldc + p / R * kWidth, 1);
    }
    if constexpr (layout == Layout::widened_pairs) {
      vf second[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) {
        second[j] = vf(vu(column[j]) & 0xffff0000u);
        column[j] = vf(vu(column[j]) << 16);
      }
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        tile.template add<layout>(i, broadcast_at(a + i * lda), column);
        tile.template add<layout>(i, broadcast_at(a + i * lda + 4), second);
      }
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) tile.template add<layout>(i, broadcast_at(a + i * lda), column);
    }
    a += left_bytes(layout);
    b += kStep;
  }
  tile.end(c, ldc, !bias, last);
}

// One step of packed rows.
template <int V>
SONDE_INLINE void packed_step(Tile<kRows, V>& tile, const float* a, const float* b) {
  vf column[V];
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) column[j] = load(b + j * kWidth);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) tile.template add<Layout::float32>(i, broadcast(a[i]), column);
}

// As multiply(), for kRows rows of float32 that are packed. `next` is prefetched meanwhile, a cache line in four steps.
template <int V>
__attribute__((noinline)) void multiply_packed(int64_t steps, const float* __restrict a, const float* __restrict b,
                                               float* c, int64_t ldc, const float* bias, bool last, const char* next) {
  constexpr int kAtOnce = 4;
  Tile<kRows, V> tile;
  tile.begin(bias);
  for (; steps >= kAtOnce; steps -= kAtOnce) {
    __builtin_prefetch(next, 0, 2);
    next += 64;
#pragma GCC unroll 4
    for (int p = 0; p < kAtOnce; ++p) packed_step<V>(tile, a + p * kRows, b + p * V * kWidth);
    a += kAtOnce * kRows;
    b += kAtOnce * V * kWidth;
  }
  for (; steps > 0; --steps, a += kRows, b += V * kWidth) packed_step<V>(tile, a, b);
  tile.end(c, ldc, !bias, last);
}

using Microkernel = void (*)(int64_t steps, const char* a, int64_t lda, const char* b, float* c, int64_t ldc,
                             const float* bias, bool last);

template <Layout layout, int V>
Microkernel microkernel_for(int rows) {
  switch (rows) {
    case 1: return multiply<layout, 1, V>;
    case 2: return multiply<layout, 2, V>;
    case 3: return multiply<layout, 3, V>;
    case 4: return multiply<layout, 4, V>;
    case 5: return multiply<layout, 5, V>;
    case 6: return multiply<layout, 6, V>;
    case 7: return multiply<layout, (kRows < 7 ? kRows : 7), V>;
    default: return multiply<layout, kRows, V>;
  }
}

// The kernel for `rows` rows, at most kRows.
template <int V>
Microkernel microkernel(Layout layout, int rows) {
  switch (layout) {
    case Layout::float32: return microkernel_for<Layout::float32, V>(rows);
    case Layout::float16: return microkernel_for<Layout::float16, V>(rows);
#if defined(__AVX512BF16__)
    case Layout::pairs: return microkernel_for<Layout::pairs, V>(rows);
    default: return microkernel_for<Layout::widened_pairs, V>(rows);
#else
    default: return microkernel_for<Layout::bfloat16, V>(rows);
#endif
  }
}

}  // namespace sonde::SONDE_ISA
