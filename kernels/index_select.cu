// Copies slices of a tensor, in the order of a list of indices.
#include "indices.cuh"
#include "slices.cuh"

namespace sonde {

namespace {

template <class T>
struct Selection {
  T* out;
  const T* in;
  const int32_t* indices;
  int64_t index_step, count, limit;
  Slices slices;
};

// A thread moves a value.
template <class T>
__global__ void __launch_bounds__(kThreads) index_select_kernel(Selection<T> x) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= x.count * x.slices.where.count) return;
  const int64_t j = i / x.slices.where.count, within = i - j * x.slices.where.count;
  int64_t offset[2];
  x.slices.where.at(within, offset);
  const int32_t index = x.indices[j * x.index_step];
  if (index < 0 || index >= x.limit) return;
  x.out[offset[0] + j * x.slices.out_step] = x.in[offset[1] + index * x.slices.in_step];
}

}  // namespace

Status index_select(Context* context, Out out, In x, In indices) {
  Failure* failure = nullptr;
  int* wrong = nullptr;
  const Status status = check_indices(context, indices, x.shape[0], &failure, &wrong);
  if (status.failed() || element_count(out) == 0) return status;
  return with_slices(out, x, [&](auto bits, const Slices& slices) {
    using T = decltype(bits);
    const int64_t count = indices.shape[0];
    const Selection<T> selection = {static_cast<T*>(out.data),
                                    static_cast<const T*>(x.data),
                                    static_cast<const int32_t*>(indices.data),
                                    indices.stride[0],
                                    count,
                                    x.shape[0],
                                    slices};
    LAUNCH((index_select_kernel<T>), dim3(unsigned(ceil_div(count * slices.where.count, kThreads))), dim3(kThreads), 0,
           context->stream, selection);
    return Status();
  });
}

}  // namespace sonde
