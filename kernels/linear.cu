// Multiplies by packed weights; product.cuh chooses the kernel.
#include "product.h"

namespace sonde {

Status linear(Context* context, Out out, Out planes, In x, In x_planes, Packed w, In bias, In residual,
              Activation activation, Precision precision) {
  return multiply(context, x, x_planes, Right::of(w), precision, {out, bias, residual, activation, planes});
}

}  // namespace sonde
