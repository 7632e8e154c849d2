// Stub.
#include "rows.cuh"

namespace sonde {

Status cross_entropy(Context*, Out, In, In, In) { return fail("stub"); }

}  // namespace sonde
