// Applies ReLU to each element.
#include "functions.cuh"

namespace sonde {

namespace {
struct Apply {
  SONDE_DEVICE float operator()(const float (&x)[1]) const { return Relu()(x[0]); }
};
}  // namespace

Status relu(Context* context, Out out, In x) { return map(context, Apply(), out, x); }

}  // namespace sonde
