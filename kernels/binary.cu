// Computes arithmetic of two elements, in float32, or in int32 when all sides are int32: where it has no result, nothing is
// written.
#include "elements.cuh"

namespace sonde {

namespace {

template <BinaryKind kind>
SONDE_DEVICE float apply(float a, float b) {
  if constexpr (kind == BinaryKind::add) return a + b;
  if constexpr (kind == BinaryKind::sub) return a - b;
  if constexpr (kind == BinaryKind::mul) return a * b;
  // comparisons with NaN are false
  if constexpr (kind == BinaryKind::maximum) return a != a || a > b ? a : b;
  if constexpr (kind == BinaryKind::minimum) return a != a || a < b ? a : b;
  return a / b;
}

template <BinaryKind kind>
struct WithTensor {
  SONDE_DEVICE float operator()(const float (&x)[2]) const { return apply<kind>(x[0], x[1]); }
};
template <BinaryKind kind>
struct WithScalar {
  float b;
  SONDE_DEVICE float operator()(const float (&x)[1]) const { return apply<kind>(x[0], b); }
};

bool all_int32(const View& a, const View& b, const View& c) {
  return a.dtype == DType::int32 && b.dtype == DType::int32 && c.dtype == DType::int32;
}

struct Integers {
  int32_t* out;
  const int32_t* a;
  const int32_t* b;  // null: `scalar`
  int32_t scalar;
  BinaryKind kind;
  Failure* failure;
};

__global__ void __launch_bounds__(kThreads) integer_kernel(Integers x, Positions<3> positions) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[3];
  positions.at(i, offset);
  const int32_t a = x.a[offset[1]], b = x.b ? x.b[offset[2]] : x.scalar;
  const auto p = int64_t(a), q = int64_t(b);
  int64_t result = int64_t(1) << 32;  // of a division by zero: none
  if (x.kind == BinaryKind::add) result = p + q;
  else if (x.kind == BinaryKind::sub) result = p - q;
  else if (x.kind == BinaryKind::mul) result = p * q;
  else if (x.kind == BinaryKind::maximum) result = p > q ? p : q;
  else if (x.kind == BinaryKind::minimum) result = p < q ? p : q;
  else if (b == -1) result = -p;
  else if (b != 0) result = a / b;
  if (int32_t(result) == result) x.out[offset[0]] = int32_t(result);
  else report(x.failure, kResultNotInt32, i, a, b, int(x.kind));
}

Status integers(Context* context, const View& out, const View& a, const View* b, double scalar, BinaryKind kind) {
  const View* const views[] = {&out, &a, b ? b : &a};
  const auto where = positions(views);
  if (where.count == 0) return {};
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  const Integers x = {static_cast<int32_t*>(out.data),
                      static_cast<const int32_t*>(a.data),
                      b ? static_cast<const int32_t*>(b->data) : nullptr,
                      int32_t(scalar),
                      kind,
                      failure};
  LAUNCH(integer_kernel, dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream, x, where);
  return {};
}

}  // namespace

Status binary(Context* context, Out out, In a, In b, BinaryKind kind) {
  if (all_int32(out, a, b)) return integers(context, out, a, &b, 0, kind);
  switch (kind) {
    case BinaryKind::add: return map(context, WithTensor<BinaryKind::add>(), out, a, b);
    case BinaryKind::sub: return map(context, WithTensor<BinaryKind::sub>(), out, a, b);
    case BinaryKind::mul: return map(context, WithTensor<BinaryKind::mul>(), out, a, b);
    case BinaryKind::maximum: return map(context, WithTensor<BinaryKind::maximum>(), out, a, b);
    case BinaryKind::minimum: return map(context, WithTensor<BinaryKind::minimum>(), out, a, b);
    default: return map(context, WithTensor<BinaryKind::div>(), out, a, b);
  }
}

Status binary_scalar(Context* context, Out out, In a, double b, BinaryKind kind) {
  if (all_int32(out, a, a)) return integers(context, out, a, nullptr, b, kind);
  switch (kind) {
    case BinaryKind::add: return map(context, WithScalar<BinaryKind::add>{float(b)}, out, a);
    case BinaryKind::sub: return map(context, WithScalar<BinaryKind::sub>{float(b)}, out, a);
    case BinaryKind::mul: return map(context, WithScalar<BinaryKind::mul>{float(b)}, out, a);
    case BinaryKind::maximum: return map(context, WithScalar<BinaryKind::maximum>{float(b)}, out, a);
    case BinaryKind::minimum: return map(context, WithScalar<BinaryKind::minimum>{float(b)}, out, a);
    default: return map(context, WithScalar<BinaryKind::div>{float(b)}, out, a);
  }
}

}  // namespace sonde
