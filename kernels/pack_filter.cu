// The filter of sparse_encode, of which this backend has none: its Operations::filter_bytes gives 0.
#include "context.h"

namespace sonde {

Status pack_filter(Context*, Out, Packed) { return fail("this device has no filters"); }

}  // namespace sonde
