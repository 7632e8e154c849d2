// Stub.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status index_copy(Context*, Out, In, In) { return fail("stub"); }

}  // namespace sonde::SONDE_ISA
