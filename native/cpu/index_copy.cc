// Writes slices of a tensor, at a list of indices. Each task writes its part of all slices, in the order of the list:
// of equal indices the last one remains, whatever the number of threads.
#include "indices.h"
#include "moves.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status index_copy(Context* context, Out out, In indices, In source) {
  const Status status = check_indices(context, indices, out.shape[0]);
  if (status.failed() || element_count(source) == 0) return status;
  const auto* list = static_cast<const int32_t*>(indices.data);
  const int64_t count = indices.shape[0], step = indices.stride[0];
  // parts of whole cache lines, as few as keep all threads at work
  const int64_t elements = element_count(source) / count, tasks = 4 * thread_count(context);
  const Slices slices = Slices::of(out, source, round_up(max64(ceil_div(elements, tasks), kWorthSharing / count), 64));
  each_row(context, slices.rows * slices.parts, count * slices.part, [&](int64_t task, int) {
    with_bits(dtype_size(out.dtype), [&](auto bits) {
      using T = decltype(bits);
      slices.at<T>(task, [&](T* to, const T* from, int64_t n) {
        for (int64_t j = 0; j < count; ++j) {
          T* own = to + list[j * step] * slices.out_step;
          const T* written = from + j * slices.in_step;
          if (n == 1) *own = *written;
          else move(own, written, n, 1, 1);
        }
      });
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
