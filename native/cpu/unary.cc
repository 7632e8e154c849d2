// Functions of one element. Their formulas are in simd.h and functions.h.
#include "../integers.h"
#include "elements.h"
#include "functions.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// y = x to the power a, a whole number of 0 or more, where int32 holds it; elsewhere returns false.
bool integer_power(int32_t* y, int32_t x, double a) {
  int64_t power = 1;
  if (a == 0) power = 1;
  else if (x == 0 || x == 1) power = x;
  else if (x == -1) power = fmod(a, 2) == 0 ? 1 : -1;
  else {
    for (double i = 0; i < a && power == int32_t(power); ++i) power *= x;
  }
  if (power == int32_t(power)) *y = int32_t(power);
  return power == int32_t(power);
}

SONDE_INLINE int32_t negative(int32_t v) { return int32_t(0u - uint32_t(v)); }
SONDE_INLINE vi negative(vi v) { return vi(0u - vu(v)); }

// y[i] = function(x[i]), a function of int32 and of vectors of it
template <class Function>
SONDE_INLINE void integer_row(int32_t* y, const int32_t* x, int64_t to, int64_t from, int64_t n, Function function) {
  int64_t i = 0;
  if (to == 1 && from == 1) {
    for (; i + kWidth <= n; i += kWidth) *reinterpret_cast<vi_unaligned*>(y + i) = function(load(x + i));
  }
  for (; i < n; ++i) y[i * to] = function(x[i * from]);
}

// Whether one of the elements is -2^31.
bool has_least(const int32_t* x, int64_t stride, int64_t n) {
  int64_t i = 0;
  vi found{};
  if (stride == 1) {
    for (; i + kWidth <= n; i += kWidth) found |= load(x + i) == INT32_MIN;
  }
  bool any = greater_bits(vi{}, found) != 0;
  for (; i < n; ++i) any = any || x[i * stride] == INT32_MIN;
  return any;
}

Status integers(Context* context, const View& out, const View& x, UnaryKind kind, double a, double b) {
  Failures failures;
  // an infinite bound leaves a side open
  const int32_t low = a >= INT32_MIN ? int32_t(a) : INT32_MIN, high = b <= INT32_MAX ? int32_t(b) : INT32_MAX;
  const auto body = [&](const Part<2>& part) {
    auto* y = reinterpret_cast<int32_t*>(part.at[0]);
    const auto* p = reinterpret_cast<const int32_t*>(part.at[1]);
    const int64_t n = part.count, to = part.stride[0], from = part.stride[1];
    const auto row = [&](auto function) { integer_row(y, p, to, from, n, function); };
    if ((kind == UnaryKind::abs || kind == UnaryKind::neg) && has_least(p, from, n)) {
      for (int64_t i = 0; i < n; ++i) {
        if (p[i * from] == INT32_MIN) failures.at(part.first + i);
      }
    }
    switch (kind) {
      // in unsigned arithmetic, as -2^31 has no result
      case UnaryKind::abs: return row([](auto v) { return v < 0 ? negative(v) : v; });
      case UnaryKind::neg: return row([](auto v) { return negative(v); });
      case UnaryKind::sign: return row([](auto v) { return v > 0 ? v - v + 1 : v < 0 ? v - v - 1 : v; });
      case UnaryKind::clamp:
        return row([=](auto v) {
          const auto least = v - v + low, most = v - v + high;
          const auto above = v < least ? least : v;
          return above > most ? most : above;
        });
      default: break;
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!integer_power(y + i * to, p[i * from], a)) failures.at(part.first + i);
    }
  };
  const Status status = each_part(context, Order::row_major, body, out, x);
  if (status.failed() || !failures.any()) return status;
  return unary_not_int32(failures.first(), *integer_at(x, failures.first()), kind, a);
}

Status power(Context* context, const View& out, const View& x, double a) {
  // the powers that PyTorch computes by other means, too
  if (a == 0) return map(context, out, x, [](vf) { return broadcast(1.0f); });
  if (a == 1) return map(context, out, x, [](vf v) { return v; });
  if (a == 2) return map(context, out, x, [](vf v) { return v * v; });
  if (a == 3) return map(context, out, x, [](vf v) { return v * v * v; });
  if (a == 0.5) return map(context, out, x, [](vf v) { return sqrt(v); });
  if (a == -0.5) return map(context, out, x, [](vf v) { return 1.0f / sqrt(v); });
  if (a == -1) return map(context, out, x, [](vf v) { return 1.0f / v; });
  if (a == -2) return map(context, out, x, [](vf v) { return 1.0f / (v * v); });
  if (a - a != 0) {  // NaN or infinite: as C's pow has it
    return map(context, out, x, [=](vf v) {
      for (int i = 0; i < kWidth; ++i) v[i] = powf(v[i], float(a));
      return v;
    });
  }
  const bool whole = floor(a) == a, odd = whole && fmod(a, 2) != 0;
  return map(context, out, x, [=](vf v) { return pow(v, a, whole, odd); });
}

// The derivative of gelu(x) = x s, s = sigmoid(u), u = 2 sqrt(2/pi) (x + 0.044715 x^3): s + x u' s (1 - s). Beyond 10,
// where x^3 may be infinite, it is that at 10, 1, or that at -10, -3e-36.
SONDE_INLINE vf gelu_slope(vf x) {
  x = minimum(broadcast(10.0f), maximum(broadcast(-10.0f), x));  // in this order of arguments, NaN stays NaN
  const vf squares = x * x;
  const vf s = sigmoid(x * fma(squares, broadcast(0.0713548162726f), broadcast(1.59576912161f)));
  const vf slope = x * fma(squares, broadcast(3 * 0.0713548162726f), broadcast(1.59576912161f));
  return s * fma(slope, 1.0f - s, broadcast(1.0f));
}

}  // namespace

Status unary(Context* context, Out out, In x, UnaryKind kind, double a, double b) {
  if (element_count(x) == 0) return {};
  if (x.dtype == DType::int32 && out.dtype == DType::int32) return integers(context, out, x, kind, a, b);
  switch (kind) {
    case UnaryKind::relu: return map(context, out, x, [](vf v) { return v < 0.0f ? vf{} : v; });
    case UnaryKind::gelu: return map(context, out, x, [](vf v) { return gelu(v); });
    case UnaryKind::exp: return map(context, out, x, [](vf v) { return exp(v); });
    case UnaryKind::log: return map(context, out, x, [](vf v) { return log(v); });
    case UnaryKind::sqrt: return map(context, out, x, [](vf v) { return sqrt(v); });
    case UnaryKind::abs: return map(context, out, x, [](vf v) { return vf(vi(v) & 0x7fffffff); });
    case UnaryKind::neg: return map(context, out, x, [](vf v) { return -v; });
    case UnaryKind::sign:
      return map(context, out, x, [](vf v) { return v > 0.0f ? vf{} + 1.0f : v < 0.0f ? vf{} - 1.0f : vf{}; });
    case UnaryKind::tanh: return map(context, out, x, [](vf v) { return tanh(v); });
    case UnaryKind::sigmoid: return map(context, out, x, [](vf v) { return sigmoid(v); });
    case UnaryKind::pow: return power(context, out, x, a);
    case UnaryKind::clamp: break;
  }
  if (a != a || b != b) return map(context, out, x, [](vf) { return broadcast(NAN); });
  const vf least = broadcast(float(a)), most = broadcast(float(b));
  return map(context, out, x, [=](vf v) {
    const vf above = v < least ? least : v;  // comparisons with NaN are false: it stays
    return above > most ? most : above;
  });
}

Status unary_backward(Context* context, Out out, In g, In x, UnaryKind kind) {
  const auto body = [&](const Part<3>& part) {
    const float *gradient = part.read(1), *at = part.read(2);
    float* results = part.results();
    const auto loop = [&](auto function) {
      int64_t i = 0;
      for (; i + kWidth <= part.count; i += kWidth) {
        store(results + i, canonical(function(load(gradient + i), load(at + i))));
      }
      const int rest = int(part.count - i);
      if (rest == 0) return;
      const vf last = function(load_partial(gradient + i, rest), load_partial(at + i, rest));
      store_partial(results + i, canonical(last), rest);
    };
    if (kind == UnaryKind::gelu) loop([](vf d, vf v) { return d * gelu_slope(v); });
    else loop([](vf d, vf v) { return v <= 0.0f ? vf{} : d; });
    part.write(results);
  };
  return each_part(context, Order::of_memory, body, out, g, x);
}

}  // namespace sonde::SONDE_ISA
