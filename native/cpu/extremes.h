// Minima of a row and a look for NaN, which minima and maxima skip.
#pragma once
#include "rows.h"

namespace sonde::SONDE_ISA {

SONDE_INLINE bool has_nan(const float* x, int64_t n) {
  vi odd{};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    __builtin_prefetch(x + i + 1024);  // the next part of a row comes from memory meanwhile
    odd |= vi(load(x + i) != load(x + i));
  }
  bool nan = greater_bits(vi{}, odd) != 0;
  for (; i < n; ++i) nan = nan || x[i] != x[i];
  return nan;
}

// the smallest element, infinity of an empty row; NaN is skipped, and of zeros it may be either
SONDE_INLINE float min_row(const float* x, int64_t n) {
  vf a = broadcast(INFINITY);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) a = minimum(load(x + i), a);
  float smallest = INFINITY;
  for (int lane = 0; lane < kWidth; ++lane) smallest = a[lane] < smallest ? a[lane] : smallest;
  for (; i < n; ++i) smallest = x[i] < smallest ? x[i] : smallest;
  return smallest;
}

}  // namespace sonde::SONDE_ISA
