// Applies GPT-2's GELU to each element; its formula is in simd.h.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status gelu(Context* context, Out out, In x) {
  return map(context, out, x, [](vf v) { return gelu(v); });
}

}  // namespace sonde::SONDE_ISA
