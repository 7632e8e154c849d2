// Multiplies by packed weights; product.cuh chooses the kernel.
#include "product.h"

namespace sonde {

Status linear(Context* context, Out out, In x, Packed w, In bias, In residual, Activation activation,
              Precision precision) {
  return multiply(context, x, Right::of(w), precision, {out, bias, residual, activation});
}

}  // namespace sonde
