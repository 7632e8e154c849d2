// Functions of one value that several kernels apply.
#pragma once
#include "elements.cuh"

namespace sonde {

struct Relu {
  SONDE_DEVICE float operator()(float x) const { return x != x ? x : fmaxf(x, 0.0f); }
};

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
struct Gelu {
  SONDE_DEVICE float operator()(float x) const {
    const float minus_2u = x * fmaf(x * x, -0.0713548162726f, -1.59576912161f);
    return x / (1.0f + expf(minus_2u));
  }
};

SONDE_DEVICE float activate(float x, Activation activation) {
  if (activation == Activation::relu) return Relu()(x);
  if (activation == Activation::gelu) return Gelu()(x);
  return x;
}

}  // namespace sonde
