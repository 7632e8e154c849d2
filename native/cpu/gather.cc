// Takes one dimension's index of each element from a tensor of indices.
#include "indices.h"
#include "moves.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status gather(Context* context, Out out, In x, In index, int64_t dim) {
  const int64_t count = element_count(index), n = last_dimension(index), limit = x.shape[dim], step = x.stride[dim];
  if (count == 0) return {};
  View base = index;  // x at index 0 of dim, in the shape of index
  base.data = x.data;
  base.dtype = x.dtype;
  for (int d = 0; d < x.rank; ++d) base.stride[d] = d == dim ? 0 : x.stride[d];
  const int64_t part = min64(n, kWorthSharing), parts = ceil_div(n, part);
  const int64_t out_stride = last_stride(out), base_stride = last_stride(base), index_stride = last_stride(index);
  Failures found;
  each_row(context, row_count(index) * parts, part, [&](int64_t task, int) {
    const int64_t row = task / parts, first = task % parts * part, end = min64(n, first + part);
    const auto* list = reinterpret_cast<const int32_t*>(row_at(index, row));
    with_bits(dtype_size(x.dtype), [&](auto bits) {
      using T = decltype(bits);
      T* to = reinterpret_cast<T*>(row_at(out, row));
      const T* from = reinterpret_cast<const T*>(row_at(base, row));
      for (int64_t j = first; j < end; ++j) {
        const int32_t i = list[j * index_stride];
        if (i < 0 || i >= limit) found.at(row * n + j);
        else to[j * out_stride] = from[j * base_stride + i * step];
      }
    });
  });
  return bad_index(index, found, limit);
}

}  // namespace sonde::SONDE_ISA
