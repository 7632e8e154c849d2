// Layer norm, with or without a sum before it. Two passes over a row that stays in registers: the mean, then the mean of squared
// distances from it; one pass (mean of squares minus square of the mean) would cancel where the mean is large.
#pragma once
#include "rows.cuh"

namespace sonde {

constexpr int kNormHeld = 32;  // values a thread keeps; longer rows are read again

template <class E>
struct NormOperands {
  E out, sum, a, b;  // sum and b only with kAdd
  AnyElements gain, bias;
  Rows rows, addends;  // of a and of b
  float eps;
};

template <class E, class G, bool kAdd>
__global__ void __launch_bounds__(kRowThreads) layer_norm_kernel(NormOperands<E> x) {
  const int64_t i = x.rows.positions.count > 0 ? G::row() : 0;
  if (i >= x.rows.positions.count) return;
  const int64_t n = x.rows.length, first = i * n;
  const Row a = x.rows.row(i), b = kAdd ? x.addends.row(i) : a;
  const auto value = [&](int64_t at) {
    const float left = x.a.get(a.offset + at * a.stride);
    // as if the sum had been stored and read again
    return kAdd ? x.sum.rounded(left + x.b.get(b.offset + at * b.stride)) : left;
  };
  float held[kNormHeld];
  float total = 0;
#pragma unroll
  for (int j = 0; j < kNormHeld; ++j) {
    const int64_t at = G::rank() + int64_t(j) * G::size;
    held[j] = at < n ? value(at) : 0.0f;
    total += held[j];
  }
  constexpr int64_t kReach = int64_t(kNormHeld) * G::size;
  if constexpr (kAdd) {
#pragma unroll
    for (int j = 0; j < kNormHeld; ++j) {
      const int64_t at = G::rank() + int64_t(j) * G::size;
      if (at < n) x.sum.set(first + at, held[j]);
    }
    // what does not fit is read again from where it was stored: sum may be a
    for (int64_t at = G::rank() + kReach; at < n; at += G::size) x.sum.set(first + at, value(at));
  }
  const auto far = [&](int64_t at) { return kAdd ? x.sum.get(first + at) : value(at); };
  for (int64_t at = G::rank() + kReach; at < n; at += G::size) total += far(at);
  const float mean = G::sum(total) / float(n);
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kNormHeld; ++j) {
    const float distance = held[j] - mean;
    if (G::rank() + int64_t(j) * G::size < n) squares = fmaf(distance, distance, squares);
  }
  for (int64_t at = G::rank() + kReach; at < n; at += G::size) {
    const float distance = far(at) - mean;
    squares = fmaf(distance, distance, squares);
  }
  const float factor = 1.0f / sqrtf(G::sum(squares) / float(n) + x.eps);
  const auto put = [&](int64_t at, float value) {
    x.out.set(first + at, fmaf((value - mean) * factor, x.gain.get(at), x.bias.get(at)));
  };
#pragma unroll
  for (int j = 0; j < kNormHeld; ++j) {
    const int64_t at = G::rank() + int64_t(j) * G::size;
    if (at < n) put(at, held[j]);
  }
  for (int64_t at = G::rank() + kReach; at < n; at += G::size) put(at, far(at));
}

template <bool kAdd>
Status run_layer_norm(Context* context, const View& sum, const View& out, const View& a, const View& b, const View& gain,
                      const View& bias, double eps) {
  if (element_count(out) == 0) return {};
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const NormOperands<E> x = {E::of(out),          E::of(sum),  E::of(a),     E::of(b),   AnyElements::of(gain),
                                   AnyElements::of(bias), Rows::of(a), Rows::of(b), float(eps)};
        with_group(x.rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((layer_norm_kernel<E, G, kAdd>), row_grid<G>(x.rows.positions.count), dim3(kRowThreads), 0,
                 context->stream, x);
        });
        return Status();
      },
      out, sum, a, b);
}

}  // namespace sonde
