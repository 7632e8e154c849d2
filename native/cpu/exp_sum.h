// The sum of e^x over a row that is read once, a part at a time.
#pragma once
#include "functions.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kExpPart = 2048;  // elements: they and their powers stay in the first-level cache

// e^top times `sum`, top the largest element so far. Powers are float32, sums are in double precision. NaN makes the
// sum NaN; the largest element alone does not show it.
struct ExpSum {
  float top = -INFINITY;
  double sum = 0;

  // adds n <= kExpPart elements; `powers` has room for as many
  SONDE_INLINE void add(const float* x, int64_t n, float* powers) {
    ExpSum part;
    part.top = max_row(x, n);
    const float shift = part.top - part.top == 0 ? part.top : 0;  // infinite: e^x says the same without it
    map_row(powers, x, n, [=](vf v) { return exp(v - shift); });
    part.sum = sum_row(powers, n);
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
