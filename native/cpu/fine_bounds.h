// Fine bounds of the sums that the bytes leave possible, which are few. They come from products of integers of 16 bits, and are
// a 16th as wide. The integers of a column are made from its weights when it is met, and lie side by side, as those of a row
// do. The bound is that of filter.h with 2047 steps instead of 127, and ||f|| from a float32 sum.
#pragma once
#include "filter.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kShortStep = 32;  // integers, a whole number of vectors in every instruction set

constexpr int64_t kLargestFineK = int64_t(1) << 14;  // a group's columns take 6 MB, or 12 of 384

// The scale of integers of 16 bits, from that of bytes.
inline float fine_scale(float scale) { return scale * (float(kLargestByte) / kLargestShort); }
// ||f|| of a column of k weights, from its float32 sum of squares in steps. The quotient of a weight and a step is at most 2047
// and off by two roundings, less than 0.0004.
inline float fine_residual(float scale, float squares, int64_t k) {
  const double sum = double(squares) * (1 + double(k) * 0x1p-23);
  return rounded_up(fine_scale(scale) * (sqrt(sum) + 0.0004 * sqrt(double(k))) * kMargin);
}

// What the fine bound of a column's sums is made of, for a bias and a threshold as in upper_bounds().
struct FineBound {
  float scale;  // of bytes
  float norm, residual, bias;
  const float* split;  // the split channels of the column, `split_stride` floats apart

  // The upper bound of the sum of a row whose product of integers is given.
  float upper(double product, const FilterRow& row, int splits, int64_t split_stride) const {
    double sum = product * row.fine.scale * fine_scale(scale) + bias;
    sum += double(norm) * row.fine.error + double(residual) * row.fine.norm;
    for (int s = 0; s < splits; ++s) sum += double(row.split[s]) * split[s * split_stride];
    return float_above(sum);
  }
};

// The sum of all lanes.
SONDE_INLINE int64_t sum_integers(vi v) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(__m512i(v)));
  return _mm512_reduce_add_epi64(
      _mm512_add_epi64(low, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(__m512i(v), 1))));
#else
  int64_t sum = 0;
  for (int lane = 0; lane < kWidth; ++lane) sum += v[lane];
  return sum;
#endif
}

// The integers of a group's columns, [columns][stride], and what bounds their rounding.
struct FineColumns {
  int16_t* shorts;
  float* residual;
  int64_t stride;

  static size_t size(int64_t k, int64_t columns) { return size_t(columns * (FilterRows::stride_of(k, 2) + 4)); }
  static FineColumns in(void* memory, int64_t k, int64_t columns) {
    const int64_t stride = FilterRows::stride_of(k, 2) / 2;
    auto* shorts = static_cast<int16_t*>(memory);
    return {shorts, reinterpret_cast<float*>(shorts + columns * stride), stride};
  }
  const int16_t* column(int64_t j) const { return shorts + j * stride; }

  // Those of a panel, whose first column of the filter is given.
  void set(const Panels& panels, int64_t panel, const Filter& filter, int64_t first, int64_t k) const {
    constexpr int64_t kPairsAtOnce = 16, kAtOnce = kColumns < 16 ? kColumns : 16;
    auto* words = reinterpret_cast<float*>(shorts + panel * kColumns * stride);  // a pair of integers each
    float inverse[kColumns], squares[kColumns] = {};                             // of what rounding leaves, in steps
    for (int j = 0; j < kColumns; ++j) {
      const float scale = filter.scale[first + j];
      inverse[j] = scale > 0 ? 1 / fine_scale(scale) : 0;
    }
    for (int64_t p = 0; p < stride; p += 2 * kPairsAtOnce) {
      float pairs[kPairsAtOnce * kColumns];
      for (int64_t i = 0; i < kPairsAtOnce; ++i) {
        float even[kColumns] = {}, odd[kColumns] = {};
        if (p + 2 * i < k) unpack_row(even, panels, panel, p + 2 * i);
        if (p + 2 * i + 1 < k) unpack_row(odd, panels, panel, p + 2 * i + 1);
        for (int j = 0; j < kColumns; j += kWidth) {
          vf square = load(squares + j);
          const vi low = integers(load(even + j), load(inverse + j), square);
          const vi high = integers(load(odd + j), load(inverse + j), square);
          store(squares + j, square);
          store(pairs + i * kColumns + j, vf((low & 0xffff) | (high << 16)));
        }
      }
      for (int64_t j = 0; j < kColumns; j += kAtOnce) {
        float* const part = words + j * (stride / 2) + p / 2;
        transpose_block(part, stride / 2, pairs + j, kColumns, min64(kPairsAtOnce, stride / 2 - p / 2), kAtOnce);
      }
    }
    for (int j = 0; j < kColumns; ++j) {
      const float scale = filter.scale[first + j];
      residual[panel * kColumns + j] = scale > 0 ? fine_residual(scale, squares[j], k) : filter.residual[first + j];
    }
  }

 private:
  // The integers of weights in the last 16 bits, and the squares of what rounding leaves. No quotient is above 2047.001.
  static SONDE_INLINE vi integers(vf w, vf inverse, vf& square) {
    const vf quotient = w * inverse, rounded = quotient + kRound, left = quotient - (rounded - kRound);
    square += left * left;
    return vi(rounded);
  }
};

// sum + products of 2 * kWidth integers, two of them in each lane
SONDE_INLINE vi add_products(vi sum, const int16_t* a, const int16_t* b) {
#if defined(__AVX512F__)
  return sum + vi(_mm512_madd_epi16(_mm512_loadu_si512(a), _mm512_loadu_si512(b)));
#elif defined(__AVX2__)
  const auto* first = reinterpret_cast<const __m256i*>(a);
  const auto* second = reinterpret_cast<const __m256i*>(b);
  return sum + vi(_mm256_madd_epi16(_mm256_loadu_si256(first), _mm256_loadu_si256(second)));
#elif defined(__SSE2__)
  const auto* first = reinterpret_cast<const __m128i*>(a);
  const auto* second = reinterpret_cast<const __m128i*>(b);
  return sum + vi(_mm_madd_epi16(_mm_loadu_si128(first), _mm_loadu_si128(second)));
#else
  int16_t first[2 * kWidth], second[2 * kWidth];
  memcpy(first, a, sizeof first);  // as they were written as float32
  memcpy(second, b, sizeof second);
  for (int i = 0; i < 2 * kWidth; ++i) sum[i / 2] += int32_t(first[i]) * second[i];
  return sum;
#endif
}

// sums[i] = the exact product of a row and a column, of n integers of at most kLargestShort in magnitude, n being a multiple
// of kShortStep.
template <int R>
void multiply_shorts(const int16_t* row, const int16_t* const* columns, int64_t n, double* sums) {
  constexpr int64_t kLane = 2 * kWidth, kMost = 256 * kLane;  // 2 * 2047 * 2047 * 256 is below 2^31
  int64_t total[R] = {};
  for (int64_t from = 0; from < n; from += kMost) {
    const int64_t end = min64(n, from + kMost);
    vi sum[R] = {};
    for (int64_t p = from; p < end; p += kLane) {
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sum[i] = add_products(sum[i], row + p, columns[i] + p);
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) total[i] += sum_integers(sum[i]);
  }
  for (int i = 0; i < R; ++i) sums[i] = double(total[i]);
}

constexpr int kFineColumns = 4;  // that are multiplied together

// For `count` columns, at most kFineColumns.
inline void multiply_shorts(int count, const int16_t* row, const int16_t* const* columns, int64_t n, double* sums) {
  switch (count) {
    case 1: return multiply_shorts<1>(row, columns, n, sums);
    case 2: return multiply_shorts<2>(row, columns, n, sums);
    case 3: return multiply_shorts<3>(row, columns, n, sums);
    default: return multiply_shorts<kFineColumns>(row, columns, n, sums);
  }
}

}  // namespace sonde::SONDE_ISA
