// Products of 8-bit integers for the filter of sparse_encode: exact sums, the same ones in every instruction set.
#pragma once
#include "microkernel.h"

namespace sonde::SONDE_ISA {

// A step holds four k: of a column four unsigned bytes, which are those of the column plus 128, of a row four signed ones.
constexpr int64_t kDotDepth = 4;
constexpr int kDotRows = kRows;
constexpr int64_t kDotStep = kColumns * kDotDepth;  // bytes of a step of a panel

// sums [kDotRows, kColumns] = start [kDotRows] + rows times columns. Rows are `stride` bytes apart. `next` is prefetched
// meanwhile into the second-level cache, a line in kDotStepsPerLine steps.
using DotTile = void (*)(int64_t steps, const int8_t* rows, int64_t stride, const int32_t* start, const uint8_t* panel,
                         int32_t* sums, const char* next);
constexpr int64_t kDotStepsPerLine = 8;

// In 32 bits that wrap around, as the instructions add.
inline void dot_tile(int64_t steps, const int8_t* rows, int64_t stride, const int32_t* start, const uint8_t* panel,
                     int32_t* sums, const char*) {
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
// The processor's product of bytes, which not all that have this instruction set have: written in assembly, it compiles
// without asking for it. (gcc 12 keeps the sums of a function for a processor with it in memory.)
SONDE_INLINE vi add_products(vi sum, vi columns, vi row) {
#if defined(__AVX512F__)
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(columns), "v"(row));
#else
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(columns), "x"(row));
#endif
  return sum;
}
SONDE_INLINE vi four_bytes(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
#if defined(__AVX512F__)
  return vi(_mm512_set1_epi32(word));
#else
  return vi(_mm256_set1_epi32(word));
#endif
}

__attribute__((noinline)) inline void dot_tile_vnni(int64_t steps, const int8_t* rows, int64_t stride,
                                                    const int32_t* start, const uint8_t* panel, int32_t* sums,
                                                    const char* next) {
  vi sum[kDotRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = vi{} + start[i];
  }
  for (int64_t p = 0; p < steps; ++p) {
    vi columns[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) columns[j] = load(reinterpret_cast<const int32_t*>(panel) + j * kWidth);
    if (p % kDotStepsPerLine == 0) {
      __builtin_prefetch(next, 0, 2);
      next += 64;
    }
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      const vi row = four_bytes(rows + i * stride);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = add_products(sum[i][j], columns[j], row);
    }
    rows += kDotDepth;
    panel += kDotStep;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      *reinterpret_cast<vi_unaligned*>(sums + i * kColumns + j * kWidth) = sum[i][j];
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
