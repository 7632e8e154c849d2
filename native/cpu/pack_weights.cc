// Packs b [K, N] into panels, in the layout of the packed dtype, and unpacks them into b of any strides. See panels.h.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

int64_t packed_bytes(int64_t k, int64_t n, DType dtype) {
  return panel_count(n) * panel_bytes(packed_layout(dtype), k);
}

Status pack_weights(Context* context, PackedOut packed, In b) {
  const int64_t k = b.shape[0], n = b.shape[1];
  const Layout layout = packed_layout(packed.dtype);
  const size_t wide_bytes = size_t(k * kColumns) * 4;
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, wide_bytes)) return out_of_memory("a panel of weights");
  }
  parallel(context, panel_count(n), [&](int64_t panel, int thread) {
    char* to = static_cast<char*>(packed.data) + panel * panel_bytes(layout, k);
    if (layout == Layout::pairs || layout == Layout::float32)
      return pack_panel(to, layout, b, panel * kColumns, kColumns);
    auto* wide = static_cast<float*>(thread_scratch(context, thread, 0, wide_bytes));
    pack_float_panel(wide, b, panel * kColumns, kColumns);
    narrow(to, wide, packed.dtype, k * kColumns);
  });
  return {};
}

Status unpack_weights(Context* context, Out b, Packed packed) {
  const int64_t k = packed.shape[0], n = packed.shape[1];
  parallel(context, panel_count(n), [&](int64_t panel, int) {
    const int64_t to_size = dtype_size(b.dtype), count = min64(kColumns, n - panel * kColumns);
    const Panels w = panels_from(packed, panel);
    float row[kColumns];
    for (int64_t p = 0; p < k; ++p) {
      unpack_row(row, w, 0, p);
      char* to = static_cast<char*>(b.data) + (p * b.stride[0] + panel * kColumns * b.stride[1]) * to_size;
      if (b.stride[1] == 1) narrow(to, row, b.dtype, count);
      else
        for (int64_t j = 0; j < count; ++j) narrow(to + j * b.stride[1] * to_size, row + j, b.dtype, 1);
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
