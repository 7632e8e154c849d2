// Layer norm, with or without a sum before it. Two passes over a row that stays in registers: the mean, then the mean of squared
// distances from it; one pass (mean of squares minus square of the mean) would cancel where the mean is large.
#pragma once
#include "rows.cuh"

namespace sonde {

// values a thread keeps: all of a warp's row, and of a block's if it has no more than 4,096; longer rows are read again
template <class G>
constexpr int kNormHeld = G::size == kWarp ? int(kShortRow) / kWarp : 16;

template <class E>
struct NormOperands {
  E out, sum, a, b, gain, bias;  // sum and b only with kAdd
  Rows rows, addends;            // of a and of b
  double eps;
};

template <class E, class G, bool kAdd>
__global__ void __launch_bounds__(kRowThreads, 2) layer_norm_kernel(NormOperands<E> x) {
  const int64_t i = G::row();
  if (i >= x.rows.positions.count) return;
  const int n = int(x.rows.length);
  const int64_t first = i * n;
  constexpr int kHere = kNormHeld<G>, kReach = kHere * G::size;
  const Row a = x.rows.row(i), b = kAdd ? x.addends.row(i) : a;
  const auto value = [&](int64_t at) {
    const float left = x.a.get(a.offset + at * a.stride);
    // as if the sum had been stored and read again
    return kAdd ? x.sum.rounded(left + x.b.get(b.offset + at * b.stride)) : left;
  };
  float held[kHere];
  double total = 0;
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const int at = G::rank() + j * G::size;
    held[j] = at < n ? value(at) : 0.0f;
    total += held[j];
  }
  if constexpr (kAdd) {
#pragma unroll
    for (int j = 0; j < kHere; ++j) {
      const int at = G::rank() + j * G::size;
      if (at < n) x.sum.set(first + at, held[j]);
    }
    // elements beyond those in registers are read again from sum instead of added again: sum may be a
    for (int at = G::rank() + kReach; at < n; at += G::size) x.sum.set(first + at, value(at));
  }
  const auto far = [&](int64_t at) { return kAdd ? x.sum.get(first + at) : value(at); };
  for (int at = G::rank() + kReach; at < n; at += G::size) total += far(at);
  const double mean = G::sum(total) / n;
  double squares = 0;
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const double distance = held[j] - mean;
    if (G::rank() + j * G::size < n) squares += distance * distance;
  }
  for (int at = G::rank() + kReach; at < n; at += G::size) {
    const double distance = far(at) - mean;
    squares += distance * distance;
  }
  const float middle = float(mean), factor = float(1 / sqrt(G::sum(squares) / n + x.eps));
  const auto put = [&](int64_t at, float value) {
    x.out.set(first + at, fmaf((value - middle) * factor, x.gain.get(at), x.bias.get(at)));
  };
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const int at = G::rank() + j * G::size;
    if (at < n) put(at, held[j]);
  }
  for (int at = G::rank() + kReach; at < n; at += G::size) put(at, far(at));
}

template <bool kAdd>
Status run_layer_norm(Context* context, const View& sum, const View& out, const View& a, const View& b,
                      const View& gain, const View& bias, double eps) {
  if (element_count(out) == 0) return {};
  if (last_dimension(a) > INT32_MAX / 2)
    return fail("rows of %lld elements are too long", (long long)last_dimension(a));
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const NormOperands<E> x = {E::of(out),  E::of(sum),  E::of(a),    E::of(b), E::of(gain),
                                   E::of(bias), Rows::of(a), Rows::of(b), eps};
        with_group(x.rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((layer_norm_kernel<E, G, kAdd>), row_grid<G>(x.rows.positions.count), dim3(kRowThreads), 0,
                 context->stream, x);
        });
        return Status();
      },
      out, sum, a, b, gain, bias);
}

}  // namespace sonde
