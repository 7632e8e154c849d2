// Layer norm, with or without a sum before it. Two passes over a row that stays in registers: the mean, then the mean of squared
// distances from it; one pass (mean of squares minus square of the mean) would cancel where the mean is large.
//
// A thread takes 16 bytes of a row at a time, also where these cannot be read at once: the order of sums, and with it the result,
// depends on the row's length and the dtype alone.
#pragma once
#include "rows.cuh"
#include "split_operand.cuh"

namespace sonde {

// neighbours of a row that a thread takes together
template <class E>
constexpr int kNormWidth = 4;
template <>
constexpr int kNormWidth<Elements<Bf16>> = 8;
template <>
constexpr int kNormWidth<Elements<Half>> = 8;

// values a thread keeps: all of a warp's row, and of a block's if it has no more than 4,096; longer rows are read again
template <class G>
constexpr int kNormHeld = G::size == kWarp ? int(kShortRow) / kWarp : 16;

template <class T, int kSize>
SONDE_DEVICE void get_wide(float (&to)[kSize], const Elements<T>& from, int64_t at) {
  Chunk<T>::load(from.data + at).get(to);
}
template <class T, int kSize>
SONDE_DEVICE void set_wide(const Elements<T>& to, int64_t at, const float (&from)[kSize]) {
  Chunk<T>::of(from).store(to.data + at);
}

template <class E>
struct NormOperands {
  E out, sum, a, b, gain, bias;  // sum and b only with kAdd
  Rows rows, addends;            // of a and of b
  double eps;
  Planes planes;  // of out, only with kPlanes
};

// kWide: all rows are contiguous, of a multiple of kNormWidth elements, and aligned
template <class E, class G, bool kAdd, bool kWide, bool kPlanes>
__global__ void __launch_bounds__(kRowThreads, kWide ? 2 : 1) layer_norm_kernel(NormOperands<E> x) {
  static_assert(!kPlanes || (kWide && kNormWidth<E> == 4), "");
  const int64_t i = G::row();
  if (i >= x.rows.positions.count) return;
  const int n = int(x.rows.length);
  const int64_t first = i * n;
  constexpr int kWidth = kNormWidth<E>, kParts = kNormHeld<G> / kWidth, kStep = G::size * kWidth;
  constexpr int kReach = kParts * kStep;
  constexpr bool kLong = G::size > kWarp;  // some rows are longer than that
  const int start = G::rank() * kWidth;
  const Row a = x.rows.row(i), b = kAdd ? x.addends.row(i) : a;
  // kWidth elements from `at` on, 0 from n on
  const auto read = [&](float(&to)[kWidth], const E& from, int64_t offset, int64_t stride, int at) {
    if constexpr (kWide) {
      if (at < n) {
        get_wide(to, from, offset + at);
      } else {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) to[e] = 0;
      }
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) to[e] = at + e < n ? from.get(offset + (at + e) * stride) : 0.0f;
    }
  };
  const auto write = [&](const E& to, int at, const float(&from)[kWidth]) {
    if constexpr (kWide) {
      if (at < n) set_wide(to, first + at, from);
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (at + e < n) to.set(first + at + e, from[e]);
      }
    }
  };
  const auto values = [&](float(&to)[kWidth], int at) {
    read(to, x.a, a.offset, a.stride, at);
    if constexpr (kAdd) {
      float more[kWidth];
      read(more, x.b, b.offset, b.stride, at);
      // as if the sum had been stored and read again
#pragma unroll
      for (int e = 0; e < kWidth; ++e) to[e] = x.sum.rounded(to[e] + more[e]);
    }
  };
  float held[kParts][kWidth];
#pragma unroll
  for (int j = 0; j < kParts; ++j) values(held[j], start + j * kStep);
  double total = 0;
#pragma unroll
  for (int j = 0; j < kParts; ++j) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total += held[j][e];
  }
  if constexpr (kAdd) {
#pragma unroll
    for (int j = 0; j < kParts; ++j) write(x.sum, start + j * kStep, held[j]);
  }
  // Elements beyond those in registers are read again; from sum, where there is one, as that may be a.
  const auto far = [&](float(&to)[kWidth], int at) {
    if constexpr (kAdd) read(to, x.sum, first, 1, at);
    else values(to, at);
  };
  for (int from = kReach; kLong && from < n; from += kStep) {
    float v[kWidth];
    values(v, start + from);
    if constexpr (kAdd) write(x.sum, start + from, v);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total += v[e];
  }
  const double mean = G::sum(total) / n;
  double squares = 0;
  const auto add_squares = [&](const float(&v)[kWidth], int at) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const double distance = v[e] - mean;
      if (at + e < n) squares += distance * distance;
    }
  };
#pragma unroll
  for (int j = 0; j < kParts; ++j) {
    keep_registers(held[j]);  // and not all of them as doubles, too
    add_squares(held[j], start + j * kStep);
  }
  for (int from = kReach; kLong && from < n; from += kStep) {
    float v[kWidth];
    far(v, start + from);
    add_squares(v, start + from);
  }
  const float middle = float(mean), factor = float(1 / sqrt(G::sum(squares) / n + x.eps));
  const auto put = [&](const float(&v)[kWidth], int at) {
    float gain[kWidth], bias[kWidth], y[kWidth];
    read(gain, x.gain, 0, 1, at);
    read(bias, x.bias, 0, 1, at);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) y[e] = fmaf((v[e] - middle) * factor, gain[e], bias[e]);
    write(x.out, at, y);
    if constexpr (kPlanes) x.planes.quarters(i, at, y, at < n);
  };
#pragma unroll
  for (int j = 0; j < kParts; ++j) put(held[j], start + j * kStep);
  for (int from = kReach; kLong && from < n; from += kStep) {
    float v[kWidth];
    far(v, start + from);
    put(v, start + from);
  }
}

// Whether rows can be read and written 16 bytes at a time.
template <class E>
bool wide_rows(const View& view) {
  constexpr int kWidth = kNormWidth<E>;
  bool wide =
      reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && last_dimension(view) % kWidth == 0 && last_stride(view) == 1;
  for (int d = 0; d + 1 < view.rank; ++d) wide = wide && (view.shape[d] == 1 || view.stride[d] % kWidth == 0);
  return wide;
}

template <bool kAdd>
Status run_layer_norm(Context* context, const View& sum, const View& out, const View& planes, const View& a,
                      const View& b, const View& gain, const View& bias, double eps) {
  if (element_count(out) == 0) return {};
  const int64_t n = last_dimension(a), rows = element_count(out) / n;
  if (n > INT32_MAX / 2) return fail("rows of %lld elements are too long", (long long)n);
  bool written = false;  // the planes
  const Status status = with_elements(
      [&](auto elements) -> Status {
        using E = decltype(elements);
        NormOperands<E> x = {E::of(out),  E::of(sum),  E::of(a),    E::of(b), E::of(gain),
                             E::of(bias), Rows::of(a), Rows::of(b), eps,      {}};
        const auto start = [&](auto wide, auto with_planes) {
          with_group(n, [&](auto group) {
            using G = decltype(group);
            LAUNCH((layer_norm_kernel<E, G, kAdd, decltype(wide)::value, decltype(with_planes)::value>),
                   row_grid<G>(rows), dim3(kRowThreads), 0, context->stream, x);
          });
        };
        if constexpr (!kIsAny<E>) {
          bool wide = true;
          for (const View* view : {&sum, &out, &a, &b, &gain, &bias}) wide = wide && wide_rows<E>(*view);
          if constexpr (kNormWidth<E> == 4) {
            if (wide && planes.data) {
              const SplitOperand operand = planes_in(planes, rows, n);
              x.planes = Planes::of(operand);
              const Status cleared = clear_flags(context, operand);
              if (!cleared.failed()) start(std::true_type(), std::true_type());
              written = true;
              return cleared;
            }
          }
          if (wide) {
            start(std::true_type(), std::false_type());
            return {};
          }
        }
        start(std::false_type(), std::false_type());
        return {};
      },
      out, sum, a, b, gain, bias);
  if (status.failed() || !planes.data || written) return status;
  return write_planes(context, planes, out, rows, n);
}

}  // namespace sonde
