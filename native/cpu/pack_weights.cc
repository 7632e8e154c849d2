// b [K, N] into panels, in the packed dtype. See product.h for the layout.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

int64_t packed_bytes(int64_t k, int64_t n, DType dtype) { return panel_count(n) * kColumns * k * dtype_size(dtype); }

Status pack_weights(Context* context, PackedOut packed, In b) {
  const int64_t k = b.shape[0], n = b.shape[1], panels = panel_count(n);
  const size_t panel_bytes = size_t(k * kColumns) * 4;
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, panel_bytes)) return out_of_memory("a panel of weights");
  }
  parallel(context, panels, [&](int64_t panel, int thread) {
    char* to = static_cast<char*>(packed.data) + panel * k * kColumns * dtype_size(packed.dtype);
    if (packed.dtype == DType::float32) return pack_panels(reinterpret_cast<float*>(to), b, panel, panel + 1);
    auto* wide = static_cast<float*>(thread_scratch(context, thread, 0, panel_bytes));
    pack_panels(wide, b, panel, panel + 1);
    narrow(to, wide, packed.dtype, k * kColumns);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
