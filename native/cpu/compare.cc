// Stub.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status compare(Context*, Out, In, In, CompareKind) { return fail("stub"); }
Status compare_scalar(Context*, Out, In, double, CompareKind) { return fail("stub"); }

}  // namespace sonde::SONDE_ISA
