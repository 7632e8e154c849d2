// Panels back into b [K, N] of any strides.
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

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
