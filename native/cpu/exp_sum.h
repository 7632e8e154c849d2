// The sum of e^x over a row that is read once, a part at a time.
#pragma once
#include "functions.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kExpPart = 4096;  // elements: they stay in the first-level cache

// e^x for x <= 0, or 2^-126 where that is larger, within 2 units in the last place where the result is above 0.01:
// 2^n 2^f, with x / ln 2 = n + f and a polynomial in f that is exact at 0
SONDE_INLINE vf exp_below(vf x) {
  constexpr float kRound = 12582912.0f;                       // as in exp()
  const vf t = maximum(broadcast(-126.0f), x * 1.44269504f);  // in this order of arguments, NaN stays NaN
  const vf shifted = t + kRound;
  const vf n = shifted - kRound, f = t - n;
  vf p = broadcast(1.53533621e-4f);
  p = fma(p, f, broadcast(1.3398875e-3f));
  p = fma(p, f, broadcast(9.6184369e-3f));
  p = fma(p, f, broadcast(5.55033237e-2f));
  p = fma(p, f, broadcast(2.40226477e-1f));
  p = fma(p, f, broadcast(6.93147182e-1f));
  p = fma(p, f, broadcast(1.0f));
#if defined(__AVX512F__)
  return vf(_mm512_scalef_ps(__m512(p), __m512(n)));
#else
  return p * vf(vu(vi(shifted) - 0x4b400000 + 127) << 23);  // kRound's bits are 0x4b400000
#endif
}

// e^top times `sum`, top the largest element so far. NaN makes the sum NaN; top alone does not show it.
struct ExpSum {
  // Powers are added up in float32 in fours, elements l, l + 16, l + 32 and l + 48 of 64, and the sums of these in
  // double precision, l by l. What a row has beyond whole 64s counts as -inf.
  static constexpr int64_t kLanes = 16, kStep = 4 * kLanes;

  float top = -INFINITY;
  double sum = 0;

  // adds n elements, which are read twice
  SONDE_INLINE void add(const float* x, int64_t n) {
    const float largest = largest_of(x, n);
    add({largest, largest - largest == 0 ? powers(x, n, largest) : at_infinity(largest, x, n)});
  }
  SONDE_INLINE void add(const ExpSum& other) {
    if (other.top > top) {
      sum = sum * weight(top, other.top) + other.sum;
      top = other.top;
    } else {
      sum += other.sum * weight(other.top, top);
    }
  }
  SONDE_INLINE double log_sum() const {
    if (sum != sum) return NAN;
    return top - top == 0 ? top + log_of(sum) : top;
  }

  // The sum of n elements of which the largest is infinite: all that it has to show is whether one is NaN.
  static double at_infinity(float largest, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if (x[i] != x[i]) return NAN;
    }
    return largest > 0 ? 1 : 0;
  }

  // Adds the upper half of kLanes lanes to the lower one until one is left.
  static SONDE_INLINE double total(double* lane) {
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    }
    return lane[0];
  }

 private:
  // max_row() with four maxima side by side, which do not wait for each other; of zeros it may be either
  static SONDE_INLINE float largest_of(const float* x, int64_t n) {
    vf a[4];
    for (vf& v : a) v = broadcast(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) a[j] = maximum(load(x + i + j * kWidth), a[j]);
    }
    const float rest = max_row(x + i, n - i);
    const float most = max_lanes(maximum(maximum(a[0], a[1]), maximum(a[2], a[3])));
    return rest > most ? rest : most;
  }
  static SONDE_INLINE double powers(const float* x, int64_t n, float largest) {
    constexpr int kVectors = kLanes / kDoubles;
    vd lanes[kVectors] = {};
    const auto add_step = [&](const float* at) {
      float fours[kLanes];
#pragma GCC unroll 4
      for (int64_t l = 0; l < kLanes; l += kWidth) {
        const auto power = [&](int64_t i) { return exp_below(load(at + i + l) - largest); };
        store(fours + l, (power(0) + power(kLanes)) + (power(2 * kLanes) + power(3 * kLanes)));
      }
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) lanes[j] += load_doubles(fours + j * kDoubles);
    };
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep) {
      // the next part comes from memory meanwhile
      for (int64_t l = 0; l < kStep; l += 16) __builtin_prefetch(x + i + l + kExpPart);
      add_step(x + i);
    }
    if (i < n) {
      float rest[kStep];
      for (int64_t l = 0; l < kStep; ++l) rest[l] = i + l < n ? x[i + l] : -INFINITY;
      add_step(rest);
    }
    alignas(64) double lane[kLanes];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) store(lane + j * kDoubles, lanes[j]);
    return total(lane);
  }
  // e^(from - to), from <= to
  static SONDE_INLINE double weight(float from, float to) {
    if (from == to) return 1;
    const double distance = double(from) - to;
    return distance < -700 ? 0 : exp(vd{} + distance)[0];
  }
};

}  // namespace sonde::SONDE_ISA
