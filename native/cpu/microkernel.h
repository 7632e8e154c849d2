// The innermost loop of every matrix product, and the forms in which the right side may lie.
//
// The right side lies in panels of V vectors of columns (Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", TOMS 2008): [panel][step][columns]. The left side is read where it is, a row at a time: a value is
// broadcast to all columns, so its rows need no packing, which would cost a second trip through memory.
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

// What a step holds and how it is multiplied.
enum class Form : int32_t {
  float32,       // one k of float32
  bfloat16,      // one k of bfloat16, widened on the way
  float16,       // one k of float16, widened on the way
  pairs,         // two k of bfloat16, multiplied with pairs of bfloat16 by the processor's dot product
  widened_pairs  // two k of bfloat16, widened and multiplied with two float32 one after the other
};

// Whether bfloat16 weights lie in pairs: where the processor multiplies them so. Both factors are then bfloat16, their
// products exact in float32; a sum takes the second of a pair before the first, each rounded, subnormals as zero.
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

constexpr bool is_paired(Form form) { return form == Form::pairs || form == Form::widened_pairs; }
// bytes of a step in a panel of `columns`
constexpr int64_t step_bytes(Form form, int64_t columns) {
  return columns * (form == Form::bfloat16 || form == Form::float16 ? 2 : 4);
}
// bytes of a step in a row of the left side
constexpr int64_t left_bytes(Form form) { return form == Form::widened_pairs ? 8 : 4; }
constexpr int64_t step_count(Form form, int64_t k) { return is_paired(form) ? (k + 1) / 2 : k; }

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
constexpr int64_t kAhead = 64;  // steps that are asked for before they are needed

typedef float float_unaligned __attribute__((aligned(2), may_alias));
SONDE_INLINE vf broadcast_at(const char* p) { return broadcast(*reinterpret_cast<const float_unaligned*>(p)); }

template <Form form>
SONDE_INLINE vf load_step(const char* p) {
  if constexpr (form == Form::bfloat16) return load_bf16(reinterpret_cast<const uint16_t*>(p));
  if constexpr (form == Form::float16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  return load(reinterpret_cast<const float*>(p));
}

// sum + row * column, for a value of the left side that was broadcast
template <Form form>
SONDE_INLINE vf accumulate(vf row, vf column, vf sum) {
#if defined(__AVX512BF16__)
  if constexpr (form == Form::pairs) return vf(_mm512_dpbf16_ps(__m512(sum), __m512bh(row), __m512bh(column)));
#endif
  return fma(row, column, sum);
}

// c [R, V vectors] = bias + a b over so many steps, or c + (a b) where the bias is null: the sums of a block are added up before
// they are added to those of the blocks before, which halves the error of a long sum. Rows of a are `lda` bytes apart, those
// of c `ldc` floats.
template <Form form, int R, int V>
__attribute__((noinline)) void multiply(int64_t steps, const char* __restrict a, int64_t lda, const char* __restrict b,
                                        float* c, int64_t ldc, const float* bias) {
  constexpr int64_t kStep = step_bytes(form, V * kWidth), kVector = kStep / V;
  vf sum[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[i][j] = bias ? load(bias + j * kWidth) : vf{};
  }
  for (int64_t p = 0; p < steps; ++p) {
    vf column[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) column[j] = load_step<form>(b + j * kVector);
#pragma GCC unroll 4
    for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(b + kAhead * kStep + line);
    if constexpr (R == kRows) {  // the rows of a that come next, a line in 16 steps; early on, where c will be stored
      const int64_t turn = p % 16;
      if (turn < R) __builtin_prefetch(a + (R + turn) * lda, 0, 2);
      if (p < R * V) __builtin_prefetch(c + p % R * ldc + p / R * kWidth, 1);
    }
    if constexpr (form == Form::widened_pairs) {
      vf second[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) {
        second[j] = vf(vu(column[j]) & 0xffff0000u);
        column[j] = vf(vu(column[j]) << 16);
      }
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const vf row = broadcast_at(a + i * lda), next = broadcast_at(a + i * lda + 4);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) sum[i][j] = fma(next, second[j], fma(row, column[j], sum[i][j]));
      }
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const vf row = broadcast_at(a + i * lda);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) sum[i][j] = accumulate<form>(row, column[j], sum[i][j]);
      }
    }
    a += left_bytes(form);
    b += kStep;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      float* to = c + i * ldc + j * kWidth;
      store(to, bias ? sum[i][j] : load(to) + sum[i][j]);
    }
  }
}

using Microkernel = void (*)(int64_t steps, const char* a, int64_t lda, const char* b, float* c, int64_t ldc,
                             const float* bias);

template <Form form, int V>
Microkernel microkernel_for(int rows) {
  switch (rows) {
    case 1: return multiply<form, 1, V>;
    case 2: return multiply<form, 2, V>;
    case 3: return multiply<form, 3, V>;
    case 4: return multiply<form, 4, V>;
    case 5: return multiply<form, 5, V>;
    case 6: return multiply<form, 6, V>;
    case 7: return multiply<form, (kRows < 7 ? kRows : 7), V>;
    default: return multiply<form, kRows, V>;
  }
}

// The kernel for so many rows, at most kRows.
template <int V>
Microkernel microkernel(Form form, int rows) {
  switch (form) {
    case Form::float32: return microkernel_for<Form::float32, V>(rows);
    case Form::float16: return microkernel_for<Form::float16, V>(rows);
#if defined(__AVX512BF16__)
    case Form::pairs: return microkernel_for<Form::pairs, V>(rows);
    default: return microkernel_for<Form::widened_pairs, V>(rows);
#else
    default: return microkernel_for<Form::bfloat16, V>(rows);
#endif
  }
}

}  // namespace sonde::SONDE_ISA
