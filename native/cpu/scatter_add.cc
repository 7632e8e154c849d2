// Stub.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status scatter_add(Context*, Out, In, In, In) { return fail("stub"); }

}  // namespace sonde::SONDE_ISA
