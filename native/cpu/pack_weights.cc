// b [K, N] into panels, in the form that the packed dtype has. See panels.h for the layout.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

int64_t packed_bytes(int64_t k, int64_t n, DType dtype) { return panel_count(n) * panel_bytes(packed_form(dtype), k); }

Status pack_weights(Context* context, PackedOut packed, In b) {
  const int64_t k = b.shape[0], n = b.shape[1];
  const Form form = packed_form(packed.dtype);
  const size_t wide_bytes = size_t(k * kColumns) * 4;
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, wide_bytes)) return out_of_memory("a panel of weights");
  }
  parallel(context, panel_count(n), [&](int64_t panel, int thread) {
    char* to = static_cast<char*>(packed.data) + panel * panel_bytes(form, k);
    if (form == Form::pairs || form == Form::float32) return pack_panel(to, form, b, panel * kColumns, kColumns);
    auto* wide = static_cast<float*>(thread_scratch(context, thread, 0, wide_bytes));
    pack_float_panel(wide, b, panel * kColumns, kColumns);
    narrow(to, wide, packed.dtype, k * kColumns);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
