// This instruction set's table of operations.
#include "operations.h"

namespace sonde::SONDE_ISA {

extern const Operations operations;
const Operations operations = {
#define OP(name, ...) &name,
    SONDE_OPS(OP)
#undef OP
    &packed_bytes,
};

}  // namespace sonde::SONDE_ISA
