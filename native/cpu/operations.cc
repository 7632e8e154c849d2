// This instruction set's table of operations, and what it says of planes: products read operands as they are.
#include "operations.h"

namespace sonde::SONDE_ISA {

int64_t planes_bytes(Context*, int64_t, int64_t, DType) { return 0; }
Status no_planes() { return fail("products of this device read no planes"); }

extern const Operations operations;
// clang-format off
const Operations operations = {
#define OP(name, ...) &name,
    SONDE_OPS(OP) SONDE_BACKWARD_OPS(OP)
#undef OP
    &packed_bytes,
    &planes_bytes,
    &filter_bytes,
    &ceiling,
};
// clang-format on

}  // namespace sonde::SONDE_ISA
