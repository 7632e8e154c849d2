// A choice between the elements of two tensors, whose bits are moved as they are.
#include "elements.cuh"

namespace sonde {

namespace {

template <class T>
__global__ void __launch_bounds__(kThreads)
    where_kernel(T* out, const uint8_t* condition, const T* a, const T* b, Positions<4> positions) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[4];
  positions.at(i, offset);
  out[offset[0]] = condition[offset[1]] ? a[offset[2]] : b[offset[3]];
}

template <class T>
Status run(Context* context, const View& out, const View& condition, const View& a, const View& b) {
  const View* const views[] = {&out, &condition, &a, &b};
  const auto where = positions(views);
  if (where.count == 0) return {};
  LAUNCH((where_kernel<T>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         static_cast<T*>(out.data), static_cast<const uint8_t*>(condition.data), static_cast<const T*>(a.data),
         static_cast<const T*>(b.data), where);
  return {};
}

}  // namespace

Status where(Context* context, Out out, In condition, In a, In b) {
  const int64_t size = dtype_size(out.dtype);
  if (size == 4) return run<uint32_t>(context, out, condition, a, b);
  if (size == 2) return run<uint16_t>(context, out, condition, a, b);
  return run<uint8_t>(context, out, condition, a, b);
}

}  // namespace sonde
