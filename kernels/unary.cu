// Functions of one element, in float32, or in int32 when both sides are int32: where it has no result, nothing is written.
#include "functions.cuh"

namespace sonde {

namespace {

// a type for each function, as `map` is compiled for each
template <UnaryKind kind>
struct Apply {
  double a, b;
  SONDE_DEVICE float operator()(const float (&in)[1]) const {
    const float x = in[0];
    if constexpr (kind == UnaryKind::relu) return Relu()(x);
    if constexpr (kind == UnaryKind::gelu) return Gelu()(x);
    if constexpr (kind == UnaryKind::exp) return expf(x);
    if constexpr (kind == UnaryKind::log) return logf(x);
    if constexpr (kind == UnaryKind::sqrt) return sqrtf(x);
    if constexpr (kind == UnaryKind::abs) return fabsf(x);
    if constexpr (kind == UnaryKind::neg) return -x;
    if constexpr (kind == UnaryKind::sign) return float(x > 0) - float(x < 0);
    if constexpr (kind == UnaryKind::tanh) return tanhf(x);
    if constexpr (kind == UnaryKind::sigmoid) return 1.0f / (1.0f + expf(-x));
    if constexpr (kind == UnaryKind::clamp) {
      if (a != a || b != b) return NAN;
      const float above = x < float(a) ? float(a) : x;  // comparisons with NaN are false: it stays
      return above > float(b) ? float(b) : above;
    }
    // the powers that PyTorch computes by other means, too
    if (a == 2) return x * x;
    if (a == 3) return x * x * x;
    if (a == 0.5) return sqrtf(x);
    if (a == -0.5) return 1.0f / sqrtf(x);
    if (a == -1) return 1.0f / x;
    if (a == -2) return 1.0f / (x * x);
    return float(pow(double(x), a));
  }
};

// kind(x), which int32 may not hold
SONDE_DEVICE int64_t whole(int64_t x, UnaryKind kind, double a, double b) {
  switch (kind) {
    case UnaryKind::abs: return x < 0 ? -x : x;
    case UnaryKind::neg: return -x;
    case UnaryKind::sign: return (x > 0) - (x < 0);
    case UnaryKind::clamp: {
      const double least = double(x) < a ? a : double(x);
      return int64_t(least > b ? b : least);
    }
    default: break;
  }
  int64_t power = 1;
  if (x == 0 || x == 1 || x == -1) return a == 0 ? 1 : x == -1 && fmod(a, 2.0) == 0 ? 1 : x;
  for (double i = 0; i < a && power <= INT32_MAX && power >= INT32_MIN; ++i) power *= x;
  return power;
}

struct Integers {
  int32_t* out;
  const int32_t* in;
  UnaryKind kind;
  double a, b;
  Failure* failure;
};

__global__ void __launch_bounds__(kThreads) unary_integers(Integers x, Positions<2> positions) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[2];
  positions.at(i, offset);
  const int32_t value = x.in[offset[1]];
  const int64_t result = whole(value, x.kind, x.a, x.b);
  if (int32_t(result) == result) x.out[offset[0]] = int32_t(result);
  else report(x.failure, kUnaryNotInt32, i, value, int(x.kind), __double_as_longlong(x.a));
}

Status integers(Context* context, const View& out, const View& x, UnaryKind kind, double a, double b) {
  const View* const views[] = {&out, &x};
  const auto where = positions(views);
  if (where.count == 0) return {};
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  LAUNCH(unary_integers, dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         Integers{static_cast<int32_t*>(out.data), static_cast<const int32_t*>(x.data), kind, a, b, failure}, where);
  return {};
}

}  // namespace

Status unary(Context* context, Out out, In x, UnaryKind kind, double a, double b) {
  if (x.dtype == DType::int32 && out.dtype == DType::int32) return integers(context, out, x, kind, a, b);
  switch (kind) {
    case UnaryKind::relu: return map(context, Apply<UnaryKind::relu>{a, b}, out, x);
    case UnaryKind::gelu: return map(context, Apply<UnaryKind::gelu>{a, b}, out, x);
    case UnaryKind::exp: return map(context, Apply<UnaryKind::exp>{a, b}, out, x);
    case UnaryKind::log: return map(context, Apply<UnaryKind::log>{a, b}, out, x);
    case UnaryKind::sqrt: return map(context, Apply<UnaryKind::sqrt>{a, b}, out, x);
    case UnaryKind::abs: return map(context, Apply<UnaryKind::abs>{a, b}, out, x);
    case UnaryKind::neg: return map(context, Apply<UnaryKind::neg>{a, b}, out, x);
    case UnaryKind::sign: return map(context, Apply<UnaryKind::sign>{a, b}, out, x);
    case UnaryKind::tanh: return map(context, Apply<UnaryKind::tanh>{a, b}, out, x);
    case UnaryKind::sigmoid: return map(context, Apply<UnaryKind::sigmoid>{a, b}, out, x);
    case UnaryKind::pow: return map(context, Apply<UnaryKind::pow>{a, b}, out, x);
    default: return map(context, Apply<UnaryKind::clamp>{a, b}, out, x);
  }
}

}  // namespace sonde
