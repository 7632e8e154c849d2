// Multiplies views of any strides; product.cuh chooses the kernel.
#include "product.h"

namespace sonde {

Status matmul(Context* context, Out out, In a, In b, In bias, Precision precision) {
  return multiply(context, a, View(), Right::of(static_cast<const View&>(b)), precision, {out, bias});
}

}  // namespace sonde
