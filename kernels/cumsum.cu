// Adds up each row's elements, and writes every sum. A warp takes a row, 32 elements at a time.
#include "rows.cuh"

namespace sonde {

namespace {

// The sums of lanes 0 to this one, on top of `before`, which becomes the sum of all.
template <class T>
SONDE_DEVICE T scan(T value, T& before) {
  const int lane = int(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kAll, value, step);
    if (lane >= step) value += other;
  }
  value += before;
  before = __shfl_sync(kAll, value, kWarp - 1);
  return value;
}

template <class E>
__global__ void __launch_bounds__(kRowThreads) cumsum_kernel(E out, E in, Rows to, Rows from) {
  using G = Group<kWarp>;
  const int64_t i = G::row();
  if (i >= from.positions.count) return;
  const Row source = from.row(i), target = to.row(i);
  double before = 0;
  for (int64_t j = G::rank(); j - G::rank() < from.length; j += kWarp) {
    const bool inside = j < from.length;
    const double sum = scan(inside ? double(in.get(source.offset + j * source.stride)) : 0.0, before);
    if (inside) out.set(target.offset + j * target.stride, float(sum));
  }
}

__global__ void __launch_bounds__(kRowThreads)
    cumsum_integers_kernel(int32_t* out, const int32_t* in, Rows to, Rows from, Failure* failure) {
  using G = Group<kWarp>;
  const int64_t i = G::row();
  if (i >= from.positions.count) return;
  const Row source = from.row(i), target = to.row(i);
  long long before = 0;
  for (int64_t j = G::rank(); j - G::rank() < from.length; j += kWarp) {
    const bool inside = j < from.length;
    const long long sum = scan(inside ? (long long)in[source.offset + j * source.stride] : 0ll, before);
    if (!inside) continue;
    out[target.offset + j * target.stride] = int32_t(sum);
    if (int32_t(sum) != sum) report(failure, kPartialSumNotInt32, i, j, sum);
  }
}

}  // namespace

Status cumsum(Context* context, Out out, In x) {
  if (element_count(x) == 0) return {};
  const Rows to = Rows::of(out), from = Rows::of(x);
  const dim3 grid = row_grid<Group<kWarp>>(from.positions.count);
  if (x.dtype == DType::int32) {
    Status status;
    Failure* failure = failure_of_operation(context, &status);
    if (status.failed()) return status;
    LAUNCH(cumsum_integers_kernel, grid, dim3(kRowThreads), 0, context->stream, static_cast<int32_t*>(out.data),
           static_cast<const int32_t*>(x.data), to, from, failure);
    return {};
  }
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        LAUNCH((cumsum_kernel<E>), grid, dim3(kRowThreads), 0, context->stream, E::of(out), E::of(x), to, from);
        return Status();
      },
      out, x);
}

}  // namespace sonde
