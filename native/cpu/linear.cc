// Multiplies by packed weights, or by their transpose. The activation and the residual are applied while the tile is in
// the cache.
#include "multiply.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status linear(Context* context, Out out, Out planes, In x, In x_planes, Packed w, In bias, In residual,
              Activation activation, Precision) {
  if (planes.data || x_planes.data) return no_planes();
  RightSide right;
  right.packed = &w;
  return multiply_all(context, x, right, bias, {out, residual, activation});
}

Status linear_backward(Context* context, Out out, In g, Packed w) {
  RightSide right;
  right.packed = &w;
  right.transposed = true;
  return multiply_all(context, g, right, {}, {out});
}

}  // namespace sonde::SONDE_ISA
