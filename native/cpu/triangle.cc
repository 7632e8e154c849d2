// Keeps one side of a diagonal of matrices.
#include "moves.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status triangle(Context* context, Out out, In x, int64_t diagonal, bool upper) {
  const int64_t n = last_dimension(x), height = x.shape[x.rank - 2];
  const int64_t out_stride = last_stride(out), in_stride = last_stride(x);
  if (element_count(x) == 0) return {};
  each_row(context, row_count(x), n, [&](int64_t row, int) {
    // the first column on the right of the diagonal; upper keeps the diagonal itself
    const int64_t i = row % height, right = i + diagonal + (upper ? 0 : 1);
    const int64_t bound = right < 0 ? 0 : min64(right, n), from = upper ? bound : 0, end = upper ? n : bound;
    with_bits(dtype_size(x.dtype), [&](auto bits) {
      using T = decltype(bits);
      T* to = reinterpret_cast<T*>(row_at(out, row));
      const T* own = reinterpret_cast<const T*>(row_at(x, row));
      if (to != own) move(to + from * out_stride, own + from * in_stride, end - from, out_stride, in_stride);
      for (int64_t j = upper ? 0 : bound; j < (upper ? bound : n); ++j) to[j * out_stride] = 0;
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
