// Computes the root of the mean square of each row.
#include "rows.cuh"

namespace sonde {

namespace {

template <class E, class G>
__global__ void __launch_bounds__(kRowThreads) root_mean_square_kernel(E out, E in, Rows rows, double eps) {
  const int64_t i = G::row();
  if (i >= rows.positions.count) return;
  const Row row = rows.row(i);
  double squares = 0;
  for (int64_t j = G::rank(); j < rows.length; j += G::size) {
    const double x = in.get(row.offset + j * row.stride);
    squares += x * x;
  }
  squares = G::sum(squares);
  if (G::rank() == 0) out.set(i, float(sqrt(squares / double(rows.length) + eps)));
}

}  // namespace

Status root_mean_square(Context* context, Out out, In x, double eps) {
  const Rows rows = Rows::of(x);
  if (rows.positions.count == 0) return {};
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        with_group(rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((root_mean_square_kernel<E, G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0,
                 context->stream, E::of(out), E::of(x), rows, eps);
        });
        return Status();
      },
      out, x);
}

}  // namespace sonde
