// Applies ReLU to each element.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status relu(Context* context, Out out, In x) {
  return map(context, out, x, [](vf v) { return v < 0.0f ? vf{} : v; });
}

}  // namespace sonde::SONDE_ISA
