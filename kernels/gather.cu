// Takes one dimension's index of each element from a tensor of indices.
#include "slices.cuh"

namespace sonde {

namespace {

template <class T>
struct Gather {
  T* out;
  const T* in;
  const int32_t* index;
  Positions<3> where;  // out's, index's, and that of index 0 in the dimension
  int64_t step, limit;
  Failure* failure;
};

template <class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<T> x) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= x.where.count) return;
  int64_t offset[3];
  x.where.at(i, offset);
  const int32_t index = x.index[offset[1]];
  if (is_index(x.failure, index, i, x.limit)) x.out[offset[0]] = x.in[offset[2] + index * x.step];
}

}  // namespace

Status gather(Context* context, Out out, In x, In index, int64_t dim) {
  View base = index;
  for (int d = 0; d < x.rank; ++d) base.stride[d] = d == dim ? 0 : x.stride[d];
  const View* const views[] = {&out, &index, &base};
  const auto where = positions(views);
  if (where.count == 0) return {};
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  return with_bits(dtype_size(x.dtype), [&](auto bits) {
    using T = decltype(bits);
    const Gather<T> work = {static_cast<T*>(out.data),
                            static_cast<const T*>(x.data),
                            static_cast<const int32_t*>(index.data),
                            where,
                            x.stride[dim],
                            x.shape[dim],
                            failure};
    LAUNCH((gather_kernel<T>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
           work);
    return Status();
  });
}

}  // namespace sonde
