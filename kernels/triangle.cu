// Keeps one side of a diagonal of matrices.
#include "slices.cuh"

namespace sonde {

namespace {

template <class T>
__global__ void __launch_bounds__(kThreads) triangle_kernel(T* out, const T* in, Positions<2> where, int64_t rows,
                                                            int64_t columns, int64_t diagonal, bool upper) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= where.count) return;
  int64_t offset[2];
  where.at(i, offset);
  const int64_t row = i / columns, right = i - row * columns - row % rows;
  const bool kept = upper ? right >= diagonal : right <= diagonal;
  out[offset[0]] = kept ? in[offset[1]] : T(0);
}

}  // namespace

Status triangle(Context* context, Out out, In x, int64_t diagonal, bool upper) {
  const View* const views[] = {&out, &x};
  const auto where = positions(views);
  if (where.count == 0) return {};
  return with_bits(dtype_size(x.dtype), [&](auto bits) {
    using T = decltype(bits);
    LAUNCH((triangle_kernel<T>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
           static_cast<T*>(out.data), static_cast<const T*>(x.data), where, x.shape[x.rank - 2], x.shape[x.rank - 1],
           diagonal, upper);
    return Status();
  });
}

}  // namespace sonde
