// Stub.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status sort(Context*, Out, Out, In, bool) { return fail("stub"); }

}  // namespace sonde::SONDE_ISA
