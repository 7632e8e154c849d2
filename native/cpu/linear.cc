// Multiplies by packed weights. The activation and the residual are applied while the tile is in the cache.
#include "multiply.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status linear(Context* context, Out out, In x, Packed w, In bias, In residual, Activation activation, Precision) {
  RightSide right;
  right.packed = &w;
  return multiply_all(context, x, right, bias, {out, residual, activation});
}

}  // namespace sonde::SONDE_ISA
