// One row of layer norm, for layer_norm and add_layer_norm. Two passes over a row that is in the cache compute the
// mean, then the mean of squared distances from it. One pass (mean of squares minus square of the mean) would cancel
// where the mean is large.
#pragma once
#include "rows.h"

namespace sonde::SONDE_ISA {

// Gain and bias as float32, side by side in `scratch` [2, n].
struct NormWeights {
  const float* scale;
  const float* shift;

  static NormWeights widened(float* scratch, const View& gain, const View& bias, int64_t n) {
    widen(scratch, gain.data, gain.dtype, n);
    widen(scratch + n, bias.data, bias.dtype, n);
    return {scratch, scratch + n};
  }
};

// What a row is normalised with: (x - middle) * factor.
struct Statistics {
  float middle, factor;

  static Statistics of(const float* in, int64_t n, double eps) {
    const double mean = sum_row(in, n) / double(n);
    const double deviation = sqrt(squares_row(in, n, mean) / double(n) + eps);
    return {float(mean), float(1.0 / deviation)};
  }
};

inline void layer_norm_row(float* result, const float* in, int64_t n, const NormWeights& weights, double eps) {
  const float* scale = weights.scale;
  const float* shift = weights.shift;
  const Statistics row = Statistics::of(in, n, eps);
  const vf middle = broadcast(row.middle), factor = broadcast(row.factor);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    store(result + i, canonical(fma((load(in + i) - middle) * factor, load(scale + i), load(shift + i))));
  }
  if (i < n) {
    const int rest = int(n - i);
    const vf y = fma((load_partial(in + i, rest) - middle) * factor, load_partial(scale + i, rest),
                     load_partial(shift + i, rest));
    store_partial(result + i, canonical(y), rest);
  }
}

}  // namespace sonde::SONDE_ISA
