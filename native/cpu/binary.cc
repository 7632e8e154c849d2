// Computes arithmetic of two elements. Rows are converted to float32, or stay int32 when all three sides are; a
// repeated element (stride 0) is written out once per row. Where an int32 has no result, nothing is written.
#include "../integers.h"
#include "elements.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// y = a kind b; the kind is chosen outside the loop
void float_row(float* y, const float* a, const float* b, int64_t n, BinaryKind kind) {
  const auto loop = [&](auto function) {
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store(y + i, canonical(function(load(a + i), load(b + i))));
    for (; i < n; ++i) y[i] = canonical(function(a[i], b[i]));
  };
  switch (kind) {
    case BinaryKind::add: return loop([](auto p, auto q) { return p + q; });
    case BinaryKind::sub: return loop([](auto p, auto q) { return p - q; });
    case BinaryKind::mul: return loop([](auto p, auto q) { return p * q; });
    case BinaryKind::div: return loop([](auto p, auto q) { return p / q; });
    // comparisons with NaN are false
    case BinaryKind::maximum: return loop([](auto p, auto q) { return (p != p) | (p > q) ? p : q; });
    case BinaryKind::minimum: return loop([](auto p, auto q) { return (p != p) | (p < q) ? p : q; });
  }
}

// y = a kind b where int32 holds the result; elsewhere returns false.
bool integer(int32_t* y, int32_t a, int32_t b, BinaryKind kind) {
  int32_t result = 0;
  bool good = false;
  switch (kind) {
    case BinaryKind::add: good = !__builtin_add_overflow(a, b, &result); break;
    case BinaryKind::sub: good = !__builtin_sub_overflow(a, b, &result); break;
    case BinaryKind::mul: good = !__builtin_mul_overflow(a, b, &result); break;
    case BinaryKind::div:
      good = b != 0 && !(b == -1 && a == INT32_MIN);
      if (good) result = a / b;
      break;
    case BinaryKind::maximum: result = a > b ? a : b, good = true; break;
    case BinaryKind::minimum: result = a < b ? a : b, good = true; break;
  }
  if (good) *y = result;
  return good;
}

// y = a kind b for kWidth integers side by side, or returns false and writes nothing: int32 may not hold a result.
template <BinaryKind kind>
SONDE_INLINE bool integers_of_vector(int32_t* y, vi a, vi b) {
  vi result, wrong;  // the signs of `wrong` are set where a result is not in int32
  if constexpr (kind == BinaryKind::add) {
    result = vi(vu(a) + vu(b));
    wrong = (a ^ result) & (b ^ result);
  } else if constexpr (kind == BinaryKind::sub) {
    result = vi(vu(a) - vu(b));
    wrong = (a ^ b) & (a ^ result);
  } else if constexpr (kind == BinaryKind::maximum || kind == BinaryKind::minimum) {
    result = (kind == BinaryKind::maximum ? a > b : a < b) ? a : b;
    wrong = vi{};
  } else {
    // the product in float32, which is off by less than 2^9 where it is near the bounds
    const vf product = __builtin_convertvector(a, vf) * __builtin_convertvector(b, vf);
    result = vi(vu(a) * vu(b));
    wrong = (product > 2147483000.0f) | (product < -2147483000.0f);
  }
  if (greater_bits(vi{}, wrong)) return false;
  *reinterpret_cast<vi_unaligned*>(y) = result;
  return true;
}

// y[i] = a[i] kind b[i], or b[0] where `repeated`; calls bad(i) where int32 does not hold the result.
template <BinaryKind kind, class Bad>
void integer_row(int32_t* y, const int32_t* a, const int32_t* b, bool repeated, int64_t n, Bad bad) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t end = min64(n, i + kWidth);
    if (end == i + kWidth && integers_of_vector<kind>(y + i, load(a + i), repeated ? vi{} + b[0] : load(b + i)))
      continue;
    for (int64_t j = i; j < end; ++j) {
      if (!integer(y + j, a[j], b[repeated ? 0 : j], kind)) bad(j);
    }
  }
}

bool all_int32(const View& a, const View& b, const View& c) {
  return a.dtype == DType::int32 && b.dtype == DType::int32 && c.dtype == DType::int32;
}

Status integers(Context* context, const View& out, const View& a, const View& b, BinaryKind kind) {
  Failures failures;
  const auto body = [&](const Part<3>& part) {
    auto* y = reinterpret_cast<int32_t*>(part.at[0]);
    const auto *p = reinterpret_cast<const int32_t*>(part.at[1]), *q = reinterpret_cast<const int32_t*>(part.at[2]);
    const int64_t n = part.count, sy = part.stride[0], sp = part.stride[1], sq = part.stride[2];
    const auto bad = [&](int64_t i) { failures.at(part.first + i); };
    if (sy == 1 && sp == 1 && sq <= 1) {
      switch (kind) {
        case BinaryKind::add: return integer_row<BinaryKind::add>(y, p, q, sq == 0, n, bad);
        case BinaryKind::sub: return integer_row<BinaryKind::sub>(y, p, q, sq == 0, n, bad);
        case BinaryKind::mul: return integer_row<BinaryKind::mul>(y, p, q, sq == 0, n, bad);
        case BinaryKind::maximum: return integer_row<BinaryKind::maximum>(y, p, q, sq == 0, n, bad);
        case BinaryKind::minimum: return integer_row<BinaryKind::minimum>(y, p, q, sq == 0, n, bad);
        case BinaryKind::div: break;
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!integer(y + i * sy, p[i * sp], q[i * sq], kind)) bad(i);
    }
  };
  const Status status = each_part(context, Order::row_major, body, out, a, b);
  if (status.failed() || !failures.any()) return status;
  const int64_t at = failures.first();
  return result_not_int32(at, *integer_at(a, at), kind, *integer_at(b, at));
}

}  // namespace

Status binary(Context* context, Out out, In a, In b, BinaryKind kind) {
  if (all_int32(out, a, b)) return integers(context, out, a, b, kind);
  const auto body = [&](const Part<3>& part) {
    const float *left = part.read(1), *right = part.read(2);
    float* results = part.results();
    float_row(results, left, right, part.count, kind);
    part.write(results);
  };
  return each_part(context, Order::of_memory, body, out, a, b);
}

Status binary_scalar(Context* context, Out out, In a, double b, BinaryKind kind) {
  if (all_int32(out, a, a)) {
    int32_t value = int32_t(b);
    View repeated = a;
    repeated.data = &value;
    for (int d = 0; d < repeated.rank; ++d) repeated.stride[d] = 0;
    return integers(context, out, a, repeated, kind);
  }
  const float scalar = float(b);
  switch (kind) {
    case BinaryKind::add: return map(context, out, a, [=](vf v) { return v + scalar; });
    case BinaryKind::sub: return map(context, out, a, [=](vf v) { return v - scalar; });
    case BinaryKind::mul: return map(context, out, a, [=](vf v) { return v * scalar; });
    case BinaryKind::maximum:
      return map(context, out, a, [=](vf v) { return (v != v) | (v > scalar) ? v : broadcast(scalar); });
    case BinaryKind::minimum:
      return map(context, out, a, [=](vf v) { return (v != v) | (v < scalar) ? v : broadcast(scalar); });
    default: return map(context, out, a, [=](vf v) { return v / scalar; });
  }
}

}  // namespace sonde::SONDE_ISA
