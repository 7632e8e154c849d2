// Functions of one value that several kernels apply.
#pragma once
#include "elements.cuh"

namespace sonde {

struct Relu {
  SONDE_DEVICE float operator()(float x) const { return x != x ? x : fmaxf(x, 0.0f); }
};

// 0.5 x (1 + tanh(u)) = x / (1 + 2^(-2u / ln 2)), u = sqrt(2/pi) (x + 0.044715 x^3)
//
// The error is below 6 units in the last place for x >= 0. Below 0, where the power is what remains, the rounding of its exponent counts:
// the error is below 9 + 1.5 |2u / ln 2| units, 46 at x = -5. Results smaller than 2^-100 are within 2^-116.
struct Gelu {
  SONDE_DEVICE float operator()(float x) const {
    const float exponent = x * fmaf(x * x, -0.1029432397f, -2.3022081995f);
    return x * reciprocal_approx(1.0f + exp2_approx(exponent));
  }
};

}  // namespace sonde
