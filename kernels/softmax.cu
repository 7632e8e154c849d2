// Computes exp(x - max), and divides it by its sum if the kind is softmax; or x - max - log(the sum). A row's exponentials, or for
// the logarithm its elements, stay in registers where it is short enough.
#include "rows.cuh"

namespace sonde {

namespace {

// values a thread keeps: all of a warp's row, and of a block's if it has no more than 4,096
template <class G>
constexpr int kHeld = G::size == kWarp ? int(kShortRow) / kWarp : 16;

template <class E, class G>
__global__ void __launch_bounds__(kRowThreads, 2) softmax_kernel(E out, E in, Rows to, Rows from, SoftmaxKind kind) {
  const int64_t i = G::row();
  if (i >= from.positions.count) return;
  const Row source = from.row(i), target = to.row(i);
  const int n = int(from.length);
  const bool normalize = kind == SoftmaxKind::softmax, logarithm = kind == SoftmaxKind::log_softmax;
  constexpr int kHere = kHeld<G>;
  float held[kHere];
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const int at = G::rank() + j * G::size;
    held[j] = at < n ? in.get(source.offset + int64_t(at) * source.stride) : -INFINITY;
    largest = held[j] > largest ? held[j] : largest;
  }
  for (int at = G::rank() + kHere * G::size; at < n; at += G::size) {
    const float x = in.get(source.offset + int64_t(at) * source.stride);
    largest = x > largest ? x : largest;
  }
  largest = G::max(largest);
  double total = 0;
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    if (G::rank() + j * G::size >= n) continue;
    const float power = expf(held[j] - largest);
    if (!logarithm) held[j] = power;
    total += power;
  }
  for (int at = G::rank() + kHere * G::size; at < n; at += G::size) {
    total += expf(in.get(source.offset + int64_t(at) * source.stride) - largest);
  }
  if (kind != SoftmaxKind::numerator) total = G::sum(total);
  if (logarithm) {
    const double log_sum = log(total);
    const auto result = [&](float x) { return float(double(x) - double(largest) - log_sum); };
#pragma unroll
    for (int j = 0; j < kHere; ++j) {
      const int at = G::rank() + j * G::size;
      if (at < n) out.set(target.offset + int64_t(at) * target.stride, result(held[j]));
    }
    for (int at = G::rank() + kHere * G::size; at < n; at += G::size) {
      out.set(target.offset + int64_t(at) * target.stride, result(in.get(source.offset + int64_t(at) * source.stride)));
    }
    return;
  }
  const float sum = normalize ? float(total) : 1.0f;
#pragma unroll
  for (int j = 0; j < kHere; ++j) {
    const int at = G::rank() + j * G::size;
    if (at < n) out.set(target.offset + int64_t(at) * target.stride, normalize ? held[j] / sum : held[j]);
  }
  for (int at = G::rank() + kHere * G::size; at < n; at += G::size) {
    const float x = expf(in.get(source.offset + int64_t(at) * source.stride) - largest);
    out.set(target.offset + int64_t(at) * target.stride, normalize ? x / sum : x);
  }
}

}  // namespace

Status softmax(Context* context, Out out, In x, SoftmaxKind kind) {
  const Rows to = Rows::of(out), from = Rows::of(x);
  if (element_count(x) == 0) return {};
  if (from.length > INT32_MAX / 2) return fail("rows of %lld elements are too long", (long long)from.length);
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        with_group(from.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((softmax_kernel<E, G>), row_grid<G>(from.positions.count), dim3(kRowThreads), 0, context->stream,
                 E::of(out), E::of(x), to, from, kind);
        });
        return Status();
      },
      out, x);
}

}  // namespace sonde
