// Copies slices of a tensor, in the order of a list of indices.
#include "indices.h"
#include "moves.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status index_select(Context* context, Out out, In x, In indices) {
  const Status status = check_indices(context, indices, x.shape[0]);
  if (status.failed() || element_count(out) == 0) return status;
  const auto* list = static_cast<const int32_t*>(indices.data);
  const int64_t count = indices.shape[0], step = indices.stride[0];
  const Slices slices = Slices::of(out, x, kWorthSharing);
  // some indices at a time, so that one row is shared among threads
  const int64_t together = max64(1, min64(count, kWorthSharing / slices.part)), groups = ceil_div(count, together);
  each_row(context, slices.rows * slices.parts * groups, together * slices.part, [&](int64_t task, int) {
    const int64_t first = task % groups * together, end = min64(count, first + together);
    with_bits(dtype_size(x.dtype), [&](auto bits) {
      using T = decltype(bits);
      slices.at<T>(task / groups, [&](T* to, const T* from, int64_t n) {
        for (int64_t j = first; j < end; ++j) {
          T* own = to + j * slices.out_step;
          const T* source = from + list[j * step] * slices.in_step;
          if (n == 1) *own = *source;
          else move(own, source, n, 1, 1);
        }
      });
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
