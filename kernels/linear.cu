// Multiplies by packed weights; product.cuh chooses the kernel.
#include "product.h"

namespace sonde {

Status linear(Context* context, Out out, Out planes, In x, In x_planes, Packed w, In bias, In residual,
              Activation activation, Precision precision) {
  const Status status = multiply(context, x, x_planes, Right::of(w), precision, dense(out, bias, residual, activation));
  if (status.failed() || !planes.data) return status;
  return write_planes(context, planes, out, out.shape[0], out.shape[1]);
}

}  // namespace sonde
