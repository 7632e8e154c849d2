// Computes sums, means and maxima of rows.
#include "rows.cuh"

namespace sonde {

namespace {

SONDE_DEVICE float finished(double sum, int64_t length, ReduceKind kind) {
  if (kind == ReduceKind::sum) return float(sum);
  return length ? float(sum / double(length)) : NAN;
}

template <class E, class G>
__global__ void __launch_bounds__(kRowThreads) reduce_kernel(E out, E in, Rows rows, ReduceKind kind) {
  const int64_t i = G::row();
  if (i >= rows.positions.count) return;  // whole groups leave
  const Row row = rows.row(i);
  if (kind == ReduceKind::max) {
    float largest = -INFINITY;
    bool nan = false;
    for (int64_t j = G::rank(); j < rows.length; j += G::size) {
      const float x = in.get(row.offset + j * row.stride);
      nan = nan || x != x;
      largest = x > largest ? x : largest;
    }
    largest = G::max(largest);
    const float any = G::max(nan ? 1.0f : 0.0f);
    if (G::rank() == 0) out.set(i, any > 0 ? NAN : largest);
    return;
  }
  double sum = 0;
  for (int64_t j = G::rank(); j < rows.length; j += G::size) sum += in.get(row.offset + j * row.stride);
  sum = G::sum(sum);
  if (G::rank() == 0) out.set(i, finished(sum, rows.length, kind));
}

template <class G>
__global__ void __launch_bounds__(kRowThreads)
    reduce_integers_kernel(AnyElements out, const int32_t* in, Rows rows, ReduceKind kind, Failure* failure) {
  const int64_t i = G::row();
  if (i >= rows.positions.count) return;
  const Row row = rows.row(i);
  const bool largest = kind == ReduceKind::max;
  int64_t value = largest ? INT32_MIN : 0;
  const auto combine = [=](int64_t a, int64_t b) { return !largest ? a + b : a > b ? a : b; };
  for (int64_t j = G::rank(); j < rows.length; j += G::size) {
    value = combine(value, in[row.offset + j * row.stride]);
  }
  value = G::all(value, combine);
  if (G::rank() != 0) return;
  if (kind == ReduceKind::mean) out.set(i, finished(double(value), rows.length, kind));
  else if (int32_t(value) == value) static_cast<int32_t*>(out.data)[i] = int32_t(value);
  else report(failure, kSumNotInt32, i, value, 0);
}

}  // namespace

Status reduce(Context* context, Out out, In x, ReduceKind kind, double) {
  const Rows rows = Rows::of(x);
  if (rows.positions.count == 0) return {};
  if (x.dtype == DType::int32) {
    Status status;
    Failure* failure = kind == ReduceKind::sum ? failure_of_operation(context, &status) : nullptr;
    if (status.failed()) return status;
    with_group(rows.length, [&](auto group) {
      using G = decltype(group);
      LAUNCH((reduce_integers_kernel<G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
             AnyElements::of(out), static_cast<const int32_t*>(x.data), rows, kind, failure);
    });
    return {};
  }
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        with_group(rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((reduce_kernel<E, G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
                 E::of(out), E::of(x), rows, kind);
        });
        return Status();
      },
      out, x);
}

}  // namespace sonde
