// The sum of e^x over a row that is read once, a part at a time.
#pragma once
#include "functions.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kExpPart = 4096;  // elements: they stay in the first-level cache

// e^top times `sum`, top the largest element so far. Powers are float32, sums are in double precision. NaN makes the
// sum NaN; the largest element alone does not show it.
struct ExpSum {
  float top = -INFINITY;
  double sum = 0;

  // what is subtracted from elements of which the largest is `top`; if that is infinite, e^x says the same without it
  static SONDE_INLINE float shift_of(float top) { return top - top == 0 ? top : 0; }

  // adds n elements, which are read twice
  SONDE_INLINE void add(const float* x, int64_t n) {
    ExpSum part;
    part.top = max_row(x, n);
    const float shift = shift_of(part.top);
    Sum powers;
    float lane[kLanes];
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      // the next part comes from memory meanwhile
      for (int j = 0; j < kLanes; j += 16) __builtin_prefetch(x + i + j + kExpPart);
#pragma GCC unroll 8
      for (int j = 0; j < kLanes; j += kWidth) store(lane + j, exp(load(x + i + j) - shift));
      powers.add(lane, kLanes);
    }
    map_row(lane, x + i, n - i, [=](vf v) { return exp(v - shift); });
    powers.add(lane, n - i);
    part.sum = powers.total();
    add(part);
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

 private:
  // e^(from - to), from <= to
  static SONDE_INLINE double weight(float from, float to) {
    if (from == to) return 1;
    const double distance = double(from) - to;
    return distance < -700 ? 0 : exp(vd{} + distance)[0];
  }
};

}  // namespace sonde::SONDE_ISA
