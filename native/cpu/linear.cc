// x w + bias with packed weights, activated while the tile is in the cache.
#include "multiply.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status linear(Context* context, Out out, In x, Packed w, In bias, Activation activation) {
  RightSide right;
  right.packed = &w;
  return multiply_all(context, x, right, bias, out, activation);
}

}  // namespace sonde::SONDE_ISA
