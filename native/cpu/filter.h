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
constexpr int kByteOffset = 128;                       // of the unsigned bytes of columns
constexpr int64_t kLargestFilterK = int64_t(1) << 17;  // 127 * 127 * k is below 2^31
constexpr int kSplitChannels = 16;                     // at most
constexpr double kLargestNorm = 0x1p60, kLargestBias = 0x1p120, kUnderflow = 0x1p-56;
constexpr double kMargin = 1 + 0x1p-14;

// r of the bound: the roundings of a sum of k products, of its blocks' sums and of the upper bound.
inline double rounding(int64_t k) { return (1.02 * double(k + k / kDepth + 8) + 64) * 0x1p-24; }

// The smallest float that is not below d.
inline float rounded_up(double d) {
  const float f = float(d);
  return double(f) < d ? nextafterf(f, INFINITY) : f;
}

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

struct FilterRow {
  float scale;                  // s
  float error;                  // ||e|| + r (||x|| + ||s q||), infinite where the row passes in any case
  float norm;                   // ||s q||
  float split[kSplitChannels];  // o
};

// The rows of a part of a call, as the filter multiplies them.
struct FilterRows {
  int8_t* bytes;  // q, in whole tiles of rows
  int64_t stride;
  int32_t* start;  // -128 times the sum of q, as the bytes of columns are 128 too large
  FilterRow* rows;
  int splits;
  int32_t channels[kSplitChannels];  // that are split off

  // Rows of so many bytes that they do not all begin in the same lines of the first-level cache.
  static int64_t stride_of(int64_t k) {
    const int64_t bytes = round_up(k, 64);
    return bytes % 4096 ? bytes : bytes + 64;
  }
  static int64_t padded(int64_t rows) { return round_up(rows, kDotRows); }
  static size_t size(int64_t rows, int64_t k) {
    return size_t(padded(rows)) * (size_t(stride_of(k)) + sizeof(int32_t) + sizeof(FilterRow));
  }
  static FilterRows in(void* memory, int64_t rows, int64_t k) {
    auto* bytes = static_cast<int8_t*>(memory);
    auto* start = reinterpret_cast<int32_t*>(bytes + padded(rows) * stride_of(k));
    return {bytes, stride_of(k), start, reinterpret_cast<FilterRow*>(start + padded(rows)), 0, {}};
  }

  // Quantises row i, x [k], which is overwritten. x has room for a whole number of vectors.
  void set(int64_t i, float* x, int64_t k) const {
    FilterRow row = {0, INFINITY, 0, {}};
    int8_t* q = bytes + i * stride;
    memset(q, 0, size_t(stride));
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
      rows[i] = row;
      return;
    }
    const float most = max_lanes(largest);
    row.scale = most > 0x1p-100f ? most / kLargestByte : 0;
    const float inverse = row.scale > 0 ? 1 / row.scale : 0;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    vd error{};
    vi sum{}, squares{};
    int64_t exact_squares = 0;
    for (int64_t p = 0; p < padded_k; p += kWidth) {
      const vf v = load(x + p);
      vf rounded = (fma(v, broadcast(inverse), broadcast(kRound))) - kRound;
      rounded = minimum(maximum(rounded, broadcast(-kLargestByte)), broadcast(kLargestByte));
      store(x + p, fma(broadcast(-row.scale), rounded, v));
      for (int half = 0; half < kWidth; half += kDoubles) {
        const vd wide = load_doubles(x + p + half);
        error += wide * wide;
      }
      const vi integers = __builtin_convertvector(rounded, vi);
      sum += integers;
      squares += integers * integers;
      for (int lane = 0; lane < kWidth; ++lane) {
        if (p + lane < k) q[p + lane] = int8_t(integers[lane]);
      }
    }
    int32_t total = 0;
    for (int lane = 0; lane < kWidth; ++lane) {
      total += sum[lane];
      exact_squares += squares[lane];
    }
    start[i] = -kByteOffset * total;
    const double held = double(row.scale) * sqrt(double(exact_squares));
    row.norm = rounded_up(held * kMargin);
    row.error = rounded_up((sqrt(sum_lanes(error)) + rounding(k) * (norm + held)) * kMargin);
    rows[i] = row;
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

// What is compared with the limits of kDotRows rows, for one vector of columns.
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
    upper[i] = fma(sum, broadcast(rows[i].scale), bias);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) upper[i] = fma(norm, broadcast(rows[i].error), upper[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i) upper[i] = fma(residual, broadcast(rows[i].norm), upper[i]);
  for (int s = 0; s < splits; ++s) {
    const vf w = load(columns.split + s * columns.split_stride);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) upper[i] = fma(w, broadcast(rows[i].split[s]), upper[i]);
  }
}

// A value that is not above the float32 sum whose upper bound is given: the bound holds in both directions. An infinite
// one, or NaN, says nothing of the sum.
inline float lower_bound(float upper, const FilterRow& row, float norm, float residual, float bias, int64_t k) {
  const double above = double(row.error) * norm + double(row.norm) * residual + rounding(k) * fabs(bias) + kUnderflow;
  const double lower = upper - 2 * kMargin * above;
  return lower < INFINITY ? -rounded_up(-lower) : -INFINITY;
}

}  // namespace sonde::SONDE_ISA
