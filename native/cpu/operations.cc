// This instruction set's table of operations.
#include "operations.h"

namespace sonde::SONDE_ISA {

extern const Operations operations;
// clang-format off
const Operations operations = {
#define OP(name, ...) &name,
    SONDE_OPS(OP) SONDE_BACKWARD_OPS(OP)
#undef OP
    &packed_bytes,
    &ceiling,
};
// clang-format on

}  // namespace sonde::SONDE_ISA
