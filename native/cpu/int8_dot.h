// Products of 8-bit integers for the filter of sparse_encode: exact sums, the same ones in every instruction set.
#pragma once
#include "microkernel.h"

namespace sonde::SONDE_ISA {

// A step holds four k: of a column four unsigned bytes, which are those of the column plus 128, of a row four signed ones.
constexpr int64_t kDotDepth = 4;
constexpr int kDotRows = kRows;
constexpr int64_t kDotStep = kColumns * kDotDepth;  // bytes of a step of a panel

// sums [kDotRows, kColumns] = start [kDotRows] + rows times columns. Rows are `stride` bytes apart.
using DotTile = void (*)(int64_t steps, const int8_t* rows, int64_t stride, const int32_t* start, const uint8_t* panel,
                         int32_t* sums);

// In 32 bits that wrap around, as the instructions add.
inline void dot_tile(int64_t steps, const int8_t* rows, int64_t stride, const int32_t* start, const uint8_t* panel,
                     int32_t* sums) {
  for (int i = 0; i < kDotRows; ++i) {
    uint32_t sum[kColumns];
    for (int j = 0; j < kColumns; ++j) sum[j] = uint32_t(start[i]);
    for (int64_t p = 0; p < steps; ++p) {
      const int8_t* row = rows + i * stride + p * kDotDepth;
      const uint8_t* columns = panel + p * kDotStep;
      for (int j = 0; j < kColumns; ++j) {
        int32_t product = 0;
        for (int b = 0; b < kDotDepth; ++b) product += int32_t(columns[j * kDotDepth + b]) * row[b];
        sum[j] += uint32_t(product);
      }
    }
    memcpy(sums + i * kColumns, sum, sizeof sum);
  }
}

#if defined(__AVX2__)
SONDE_INLINE int32_t four_bytes(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return word;
}
#endif

#if defined(__AVX512F__)
__attribute__((target("avx512vnni"), noinline)) inline void dot_tile_vnni(int64_t steps, const int8_t* rows,
                                                                          int64_t stride, const int32_t* start,
                                                                          const uint8_t* panel, int32_t* sums) {
  __m512i sum[kDotRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_set1_epi32(start[i]);
  }
  for (int64_t p = 0; p < steps; ++p) {
    __m512i column[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) column[j] = _mm512_loadu_si512(panel + j * 64);
#pragma GCC unroll 4
    for (int64_t line = 0; line < kDotStep; line += 64) __builtin_prefetch(panel + kAhead / 4 * kDotStep + line);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      const __m512i row = _mm512_set1_epi32(four_bytes(rows + i * stride));
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], column[j], row);
    }
    rows += kDotDepth;
    panel += kDotStep;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) _mm512_storeu_si512(sums + i * kColumns + j * kWidth, sum[i][j]);
  }
}
#elif defined(__AVX2__)
__attribute__((target("avxvnni"), noinline)) inline void dot_tile_vnni(int64_t steps, const int8_t* rows,
                                                                       int64_t stride, const int32_t* start,
                                                                       const uint8_t* panel, int32_t* sums) {
  __m256i sum[kDotRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm256_set1_epi32(start[i]);
  }
  for (int64_t p = 0; p < steps; ++p) {
    __m256i column[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      column[j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + j * 32));
    }
    __builtin_prefetch(panel + kAhead / 2 * kDotStep);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      const __m256i row = _mm256_set1_epi32(four_bytes(rows + i * stride));
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm256_dpbusd_avx_epi32(sum[i][j], column[j], row);
    }
    rows += kDotDepth;
    panel += kDotStep;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i * kColumns + j * kWidth), sum[i][j]);
    }
  }
}
#endif

// The one with the processor's instruction, where this instruction set's kernels know it.
inline DotTile dot_tile_of_processor() {
#if defined(__AVX2__)
  return dot_tile_vnni;
#else
  return dot_tile;
#endif
}
inline DotTile dot_tile_of(const Context* context) { return dots_bytes(context) ? dot_tile_of_processor() : dot_tile; }

}  // namespace sonde::SONDE_ISA
