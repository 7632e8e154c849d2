// The filter of sparse_encode: which sums can pass at all. Products of 8-bit integers, a quarter of the work, give every
// sum with a bound of its error; only those whose upper bound passes are computed.
//
// The bound. Let a row be x = s q + e + o and a column w = t p + f, where q and p are integers of at most 127 in
// magnitude, e and f are what rounding left, and o holds the few channels that are split off, in which q and e are 0.
// The true sum is
//   b + x.w = b + s t q.p + o.w + e.w + s q.f,   |e.w| <= ||e|| ||w||,   |s q.f| <= ||s q|| ||f||  (Cauchy and Schwarz),
// where q.p is exact. All four norms are measured, in double precision, and rounded up. What is compared with a
// threshold is no true sum but one of float32, which differs from it by at most c (|b| + sum of |x_k| |w_k|) <=
// c (|b| + ||x|| ||w||), where c is n u / (1 - n u), n the number of roundings of a term and u = 2^-24 (Higham, "Accuracy
// and Stability of Numerical Algorithms", section 3.1); and so does the upper bound itself, which is computed in float32
// from terms whose magnitudes add up to |b| + ||s q|| (||w|| + ||f||) + ||o|| ||w|| and the bound. So
//   upper = s t q.p + o.w + ||w|| (||e|| + r (||x|| + ||s q||)) + ||f|| ||s q|| + b + r |b|,   r = rounding(K),
// is not below the float32 sum, with r large enough for both and the two norms of a row a little larger. That holds where
// nothing overflows, and but for underflow, which 2^-56 covers: a row or a column of norm above 2^60, a bias above 2^120,
// or a NaN among them give an upper bound that passes in any case, infinite or NaN.
#pragma once
#include "int8_dot.h"
#include "product.h"

namespace sonde::SONDE_ISA {

constexpr int kLargestByte = 127;
constexpr int kLargestShort = 2047;                    // of the fine bounds' integers of 16 bits
constexpr int kByteOffset = 128;                       // of the unsigned bytes of columns
constexpr int64_t kLargestFilterK = int64_t(1) << 17;  // 127 * 127 * k is below 2^31
constexpr int64_t kLeastFilterRows = 64;  // of fewer, the chosen sums are too few in each vector of columns
constexpr int kSplitChannels = 16;        // at most
constexpr double kLargestNorm = 0x1p60, kLargestBias = 0x1p120, kUnderflow = 0x1p-56;
constexpr double kMargin = 1 + 0x1p-14;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which the last bits hold

// r of the bound: the roundings of a sum of k products, of its blocks' sums and of the upper bound.
inline double rounding(int64_t k) { return (1.02 * double(k + k / kDepth + 8) + 64) * 0x1p-24; }

// The smallest float that is not below d.
inline float rounded_up(double d) {
  const float f = float(d);
  return double(f) < d ? nextafterf(f, INFINITY) : f;
}

// A float that is not below d, but for underflow, in fewer steps.
inline float float_above(double d) { return float(d + fabs(d) * 0x1p-23); }

// ---- columns

// The memory of a filter of w [K, N]: for each panel of w its bytes [step][columns][4], and for each column its scale and
// the norms of the bound.
struct Filter {
  uint8_t* bytes;
  float* scale;     // t
  float* norm;      // ||w||, infinite where it passes in any case
  float* residual;  // ||f||
  int64_t steps;    // of a panel

  static int64_t step_count(int64_t k) { return ceil_div(k, kDotDepth); }
  static int64_t size(int64_t k, int64_t n) {
    return panel_count(n) * (step_count(k) * kDotStep + 3 * kColumns * int64_t(sizeof(float)));
  }
  static Filter in(void* memory, int64_t k, int64_t n) {
    const int64_t steps = step_count(k), panels = panel_count(n), columns = panels * kColumns;
    auto* bytes = static_cast<uint8_t*>(memory);
    auto* floats = reinterpret_cast<float*>(bytes + panels * steps * kDotStep);
    return {bytes, floats, floats + columns, floats + 2 * columns, steps};
  }
  uint8_t* panel(int64_t i) const { return bytes + i * steps * kDotStep; }
};

// ---- rows

// What the bounds of a row's sums are made of.
struct RowBound {
  float scale;  // s
  float error;  // ||e|| + r (||x|| + ||s q||), infinite where the row passes in any case
  float norm;   // ||s q||
};

struct FilterRow {
  RowBound coarse, fine;        // by integers of 8 and of 16 bits
  float split[kSplitChannels];  // o
};

// Integers of a row x [k], whose norm is given with the split channels, that are 0 in x, and its largest magnitude without
// them. Both q and x have room for a whole number of vectors. `total`: the sum of q.
template <int kLargest, class Integer>
RowBound quantise_row(Integer* q, const float* x, int64_t k, float largest, double norm, int32_t* total) {
  const float scale = largest > 0x1p-100f ? largest / kLargest : 0, inverse = scale > 0 ? 1 / scale : 0;
  vd error{}, squares{};
  vi sum{};
  for (int64_t p = 0; p < k; p += kWidth) {
    const vf v = load(x + p);
    vf rounded = fma(v, broadcast(inverse), broadcast(kRound)) - kRound;
    rounded = minimum(maximum(rounded, broadcast(-kLargest)), broadcast(kLargest));
    float left[kWidth], integers[kWidth];
    store(left, fma(broadcast(-scale), rounded, v));
    store(integers, rounded);
    for (int half = 0; half < kWidth; half += kDoubles) {
      const vd wide = load_doubles(left + half), wide_integers = load_doubles(integers + half);
      error += wide * wide;
      squares += wide_integers * wide_integers;
    }
    sum += __builtin_convertvector(rounded, vi);
    for (int lane = 0; lane < kWidth; ++lane) q[p + lane] = Integer(integers[lane]);
  }
  *total = 0;
  for (int lane = 0; lane < kWidth; ++lane) *total += sum[lane];
  const double held = double(scale) * sqrt(sum_lanes(squares));
  return {scale, rounded_up((sqrt(sum_lanes(error)) + rounding(k) * (norm + held)) * kMargin),
          rounded_up(held * kMargin)};
}

// The rows of a part of a call, as the filter multiplies them.
struct FilterRows {
  int8_t* bytes;  // q, in whole tiles of rows
  int64_t stride;
  int16_t* shorts;  // q of the fine bounds
  int64_t short_stride;
  int32_t* start;  // -128 times the sum of q, as the bytes of columns are 128 too large
  FilterRow* rows;
  int splits;
  int32_t channels[kSplitChannels];  // that are split off

  // An odd number of cache lines, so that rows do not begin in the same sets of a cache.
  static int64_t stride_of(int64_t k, int64_t size) { return round_up(k * size, 128) + 64; }
  static int64_t padded(int64_t rows) { return round_up(rows, kDotRows); }
  static size_t size(int64_t rows, int64_t k) {
    const int64_t integers = stride_of(k, 1) + stride_of(k, 2);
    return size_t(padded(rows)) * (size_t(integers) + sizeof(int32_t) + sizeof(FilterRow));
  }
  static FilterRows in(void* memory, int64_t rows, int64_t k) {
    auto* bytes = static_cast<int8_t*>(memory);
    auto* shorts = reinterpret_cast<int16_t*>(bytes + padded(rows) * stride_of(k, 1));
    const int64_t short_stride = stride_of(k, 2) / 2;
    auto* start = reinterpret_cast<int32_t*>(shorts + padded(rows) * short_stride);
    return {bytes, stride_of(k, 1), shorts, short_stride, start, reinterpret_cast<FilterRow*>(start + padded(rows)), 0,
            {}};
  }

  // Quantises row i, x [k], which is overwritten. x has room for a whole number of vectors.
  void set(int64_t i, float* x, int64_t k) const {
    constexpr RowBound kUnbounded = {0, INFINITY, 0};
    FilterRow& row = rows[i] = {kUnbounded, kUnbounded, {}};
    int8_t* const coarse = bytes + i * stride;
    int16_t* const fine = shorts + i * short_stride;
    memset(coarse, 0, size_t(stride));
    memset(fine, 0, size_t(short_stride) * 2);
    start[i] = 0;
    const int64_t padded_k = round_up(k, kWidth);
    for (int64_t p = k; p < padded_k; ++p) x[p] = 0;
    double apart = 0;
    for (int s = 0; s < splits; ++s) {
      row.split[s] = x[channels[s]];
      apart += double(row.split[s]) * row.split[s];
      x[channels[s]] = 0;
    }
    vd square{};
    vf largest{};
    for (int64_t p = 0; p < padded_k; p += kWidth) {
      const vf v = load(x + p);
      largest = maximum(vf(vi(v) & 0x7fffffff), largest);
      for (int half = 0; half < kWidth; half += kDoubles) {
        const vd wide = load_doubles(x + p + half);
        square += wide * wide;
      }
    }
    const double norm = sqrt(sum_lanes(square) + apart);
    if (!(norm <= kLargestNorm)) {  // NaN, too
      memset(row.split, 0, sizeof row.split);
      return;
    }
    const float most = max_lanes(largest);
    int32_t total = 0;
    row.fine = quantise_row<kLargestShort>(fine, x, k, most, norm, &total);
    row.coarse = quantise_row<kLargestByte>(coarse, x, k, most, norm, &total);
    start[i] = -kByteOffset * total;
  }
};

// ---- bounds

// The columns' part of the upper bound, for a bias and a threshold: what is above 0 passes.
inline float upper_bias(float bias, float threshold, int64_t k) {
  if (!(fabsf(bias) <= float(kLargestBias))) return INFINITY;
  if (threshold == INFINITY) return -INFINITY;
  const double b = bias, t = threshold;
  return rounded_up(b - t + rounding(k) * (fabs(b) + fabs(t)) + kUnderflow);
}

// What is compared with the limits of kDotRows rows, coarsely, for one vector of columns.
struct Columns {
  const float *scale, *norm, *residual, *bias;
  const float* split;  // the split channels of w, `split_stride` floats apart
  int64_t split_stride;
};

SONDE_INLINE void upper_bounds(vf (&upper)[kDotRows], const int32_t* sums, const FilterRow* rows, int splits,
                               const Columns& columns) {
  const vf scale = load(columns.scale), norm = load(columns.norm), residual = load(columns.residual);
  const vf bias = load(columns.bias);
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) {
    const vf sum = __builtin_convertvector(load(sums + i * kColumns), vf) * scale;
    upper[i] = fma(sum, broadcast(rows[i].coarse.scale), bias);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) upper[i] = fma(norm, broadcast(rows[i].coarse.error), upper[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) upper[i] = fma(residual, broadcast(rows[i].coarse.norm), upper[i]);
  for (int s = 0; s < splits; ++s) {
    const vf w = load(columns.split + s * columns.split_stride);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) upper[i] = fma(w, broadcast(rows[i].split[s]), upper[i]);
  }
}

// A value that is not above the float32 sum whose upper bound is given: the bound holds in both directions. An infinite
// one, or NaN, says nothing of the sum.
inline float lower_bound(float upper, const RowBound& row, float norm, float residual, float bias, int64_t k) {
  const double above = double(row.error) * norm + double(row.norm) * residual + rounding(k) * fabs(bias) + kUnderflow;
  const double lower = upper - 2 * kMargin * above;
  return lower < INFINITY ? -rounded_up(-lower) : -INFINITY;
}

}  // namespace sonde::SONDE_ISA
