// Applies GPT-2's GELU to each element; its formula is in functions.cuh.
#include "functions.cuh"

namespace sonde {

namespace {
struct Apply {
  SONDE_DEVICE float operator()(const float (&x)[1]) const { return Gelu()(x[0]); }
};
}  // namespace

Status gelu(Context* context, Out out, In x) { return map(context, Apply(), out, x); }

}  // namespace sonde
