// The threshold of sparse_encode as float32, the dtype of the values that it is compared with.
#pragma once
#include <math.h>

namespace sonde {

// The largest float that is not above the threshold: a float is larger than both or than neither. Below 0, relu makes
// it 0. static: a copy compiled for one instruction set must not be the one that the linker keeps for all
static inline float float_threshold(double threshold, bool relu) {
  if (relu && threshold < 0) return 0;
  const float nearest = float(threshold);
  return double(nearest) > threshold ? nextafterf(nearest, -INFINITY) : nearest;
}

}  // namespace sonde
