// Computes the cross-entropy of each row of logits with a target.
#include "rows.cuh"

namespace sonde {

namespace {

template <class E>
struct Predictions {
  float* losses;
  E logits;
  Rows rows;
  const int32_t* targets;
  Positions<1> of_targets;
  const uint8_t* pad;  // may be null
  Positions<1> of_pad;
  Failure* failure;
};

template <class E, class G>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_kernel(Predictions<E> x) {
  const int64_t i = G::row();
  if (i >= x.rows.positions.count) return;  // whole groups leave
  int64_t offset[1];
  if (x.pad) {
    x.of_pad.at(i, offset);
    if (x.pad[offset[0]]) {
      if (G::rank() == 0) x.losses[i] = 0;
      return;
    }
  }
  x.of_targets.at(i, offset);
  const int32_t target = x.targets[offset[0]];
  const int64_t n = x.rows.length;
  if (target < 0 || target >= n) {
    if (G::rank() == 0) report(x.failure, kBadTarget, target, i, n);
    return;
  }
  const Row row = x.rows.row(i);
  float largest = -INFINITY;
  for (int64_t j = G::rank(); j < n; j += G::size) {
    const float logit = x.logits.get(row.offset + j * row.stride);
    largest = logit > largest ? logit : largest;
  }
  largest = G::max(largest);
  double sum = 0;
  for (int64_t j = G::rank(); j < n; j += G::size) sum += expf(x.logits.get(row.offset + j * row.stride) - largest);
  sum = G::sum(sum);
  if (G::rank() != 0) return;
  // an infinite logit makes the sum NaN
  x.losses[i] = float(double(largest) - double(x.logits.get(row.offset + target * row.stride)) + log(sum));
}

}  // namespace

Status cross_entropy(Context* context, Out losses, In logits, In targets, In pad) {
  const Rows rows = Rows::of(logits);
  if (rows.positions.count == 0) return {};
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  const View *const target_views[] = {&targets}, *const pad_views[] = {&pad};
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const Predictions<E> x = {static_cast<float*>(losses.data),
                                  E::of(logits),
                                  rows,
                                  static_cast<const int32_t*>(targets.data),
                                  positions(target_views),
                                  static_cast<const uint8_t*>(pad.data),
                                  positions(pad_views),
                                  failure};
        with_group(rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((cross_entropy_kernel<E, G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
                 x);
        });
        return Status();
      },
      logits);
}

}  // namespace sonde
