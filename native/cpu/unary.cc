// Functions of one element. Their formulas are in simd.h and functions.h.
#include "../integers.h"
#include "elements.h"
#include "functions.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// kind(x), which int32 may not hold; beyond int64 it is held at a value that int32 does not hold either.
int64_t whole(int64_t x, UnaryKind kind, double a, double b) {
  switch (kind) {
    case UnaryKind::relu: return x > 0 ? x : 0;
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
  if (x == 0 || x == 1 || x == -1) return a == 0 ? 1 : x == -1 && fmod(a, 2) == 0 ? 1 : x;
  for (double i = 0; i < a && power <= INT32_MAX && power >= INT32_MIN; ++i) power *= x;
  return power;
}

Status integers(Context* context, const View& out, const View& x, UnaryKind kind, double a, double b) {
  const int64_t n = last_dimension(x), to = last_stride(out), from = last_stride(x);
  const auto row_of = [&](int64_t row) { return reinterpret_cast<const int32_t*>(row_at(x, row)); };
  Failures failures;
  each_row(context, row_count(x), n, [&](int64_t row, int) {
    const int32_t* p = row_of(row);
    auto* y = reinterpret_cast<int32_t*>(row_at(out, row));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t result = whole(p[i * from], kind, a, b);
      if (int32_t(result) == result) y[i * to] = int32_t(result);
      else failures.at(row * n + i);
    }
  });
  if (!failures.any()) return {};
  const int64_t at = failures.first();
  return unary_not_int32(at, row_of(at / n)[at % n * from], kind, a);
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
  return map(context, out, x, [=](vf v) { return pow(v, a); });
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

}  // namespace sonde::SONDE_ISA
