// Functions of a vector of floats beyond those of simd.h: logarithm, square root, tanh, sigmoid and powers.
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

typedef float vf_half __attribute__((vector_size(kDoubles * 4), aligned(4), may_alias));  // as many floats

SONDE_INLINE vf sqrt(vf x) {
#if defined(__AVX512F__)
  return vf(_mm512_sqrt_ps(__m512(x)));
#elif defined(__AVX2__)
  return vf(_mm256_sqrt_ps(__m256(x)));
#elif defined(__SSE2__)
  return vf(_mm_sqrt_ps(__m128(x)));
#elif defined(__aarch64__)
  return vf(vsqrtq_f32(float32x4_t(x)));
#else
  for (int i = 0; i < kWidth; ++i) x[i] = sqrtf(x[i]);
  return x;
#endif
}

// ln x, within 1.5 units in the last place: x = 2^e m with m from sqrt(1/2) to sqrt(2), a polynomial in m - 1 (Cephes'
// coefficients for logf), and ln 2 in two parts. ln 0 is -inf, that of a negative number NaN.
SONDE_INLINE vf log(vf x) {
  const vi small = x < 0x1p-126f;  // subnormal numbers are scaled first; what is not above 0 is dealt with at the end
  const vf scaled = small ? x * 0x1p23f : x;
  // less the bits of sqrt(1/2): the exponent then changes there; unsigned, as those of negative numbers wrap round
  const vi shifted = vi(vu(scaled) - 0x3f3504f3u);
  const vi e = (shifted >> 23) - (small & 23);
  const vf f = vf((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const vf exponent = __builtin_convertvector(e, vf);
  const vf z = f * f;
  vf p = broadcast(7.0376836292e-2f);
  p = fma(p, f, broadcast(-1.1514610310e-1f));
  p = fma(p, f, broadcast(1.1676998740e-1f));
  p = fma(p, f, broadcast(-1.2420140846e-1f));
  p = fma(p, f, broadcast(1.4249322787e-1f));
  p = fma(p, f, broadcast(-1.6668057665e-1f));
  p = fma(p, f, broadcast(2.0000714765e-1f));
  p = fma(p, f, broadcast(-2.4999993993e-1f));
  p = fma(p, f, broadcast(3.3333331174e-1f));
  vf rest = p * f * z;
  rest = fma(exponent, broadcast(-2.12194440e-4f), rest);
  rest = fma(z, broadcast(-0.5f), rest);
  const vf result = fma(exponent, broadcast(0.693359375f), f + rest);
  const vf edge = x == 0.0f ? broadcast(-INFINITY) : x == INFINITY ? x : broadcast(NAN);
  return (x > 0.0f) & (x < INFINITY) ? result : edge;
}

// 1 / (1 + e^-x)
SONDE_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

// tanh x, within 2 units in the last place: near 0 an odd polynomial (Cephes' coefficients for tanhf), else
// 1 - 2 / (e^2|x| + 1) with the sign of x
SONDE_INLINE vf tanh(vf x) {
  const vi sign = vi(x) & vi(broadcast(-0.0f));
  const vf size = vf(vi(x) ^ sign), z = x * x;
  vf p = broadcast(-5.70498872745e-3f);
  p = fma(p, z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const vf near = fma(p * z, size, size);
  const vf far = 1.0f - 2.0f / (exp(size + size) + 1.0f);
  return vf(vi(size < 0.625f ? near : far) | sign);
}

// ---- in double precision

// ln x of normal numbers above 0, off by less than 1e-12 of it: x = 2^e m, ln m = 2 atanh((m - 1) / (m + 1)) by its
// series
SONDE_INLINE vd log(vd x) {
  constexpr int64_t kRoot = 0x3fe6a09e667f3bcd;  // the bits of sqrt(1/2)
  const vl shifted = vl(x) - kRoot;
  const vd m = vd((shifted & 0x000fffffffffffff) + kRoot);
  // an exponent e as a double: 1.5 * 2^52 + e has e in its low bits
  const vd e = vd((shifted >> 52) + 0x4338000000000000) - 0x1.8p52;
  const vd t = (m - 1.0) / (m + 1.0), z = t * t;
  vd p = vd{} + 2.0 / 17;
  p = fma(p, z, vd{} + 2.0 / 15);
  p = fma(p, z, vd{} + 2.0 / 13);
  p = fma(p, z, vd{} + 2.0 / 11);
  p = fma(p, z, vd{} + 2.0 / 9);
  p = fma(p, z, vd{} + 2.0 / 7);
  p = fma(p, z, vd{} + 2.0 / 5);
  p = fma(p, z, vd{} + 2.0 / 3);
  p = fma(p, z, vd{} + 2.0);
  return fma(e, vd{} + 0x1.62e42fefa39efp-1, p * t);
}
// the same of one number above 0; 0 and infinity as well
SONDE_INLINE double log_of(double x) {
  if (!(x > 0) || x == INFINITY) return x == 0 ? -INFINITY : x < 0 ? NAN : x;
  return log(vd{} + x)[0];
}

// e^x for |x| <= 708, off by less than 1e-10 of it: x = n ln 2 + r, the series of e^r, 2^n
SONDE_INLINE vd exp(vd x) {
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, which its low bits then hold
  const vd shifted = fma(x, vd{} + 0x1.71547652b82fep0, vd{} + kRound);
  const vd n = shifted - kRound;
  const vd r = fma(n, vd{} - 0x1.62e42fefa39efp-1, x);
  vd p = vd{} + 1.0 / 362880;
  p = fma(p, r, vd{} + 1.0 / 40320);
  p = fma(p, r, vd{} + 1.0 / 5040);
  p = fma(p, r, vd{} + 1.0 / 720);
  p = fma(p, r, vd{} + 1.0 / 120);
  p = fma(p, r, vd{} + 1.0 / 24);
  p = fma(p, r, vd{} + 1.0 / 6);
  p = fma(p, r, vd{} + 0.5);
  p = fma(p, r, vd{} + 1.0);
  p = fma(p, r, vd{} + 1.0);
  return p * vd((vl(shifted) - 0x4338000000000000 + 1023) << 52);
}

// cos and sin of 2 pi t, 0 <= t < 1, within 2e-15: the nearest quarter of a turn, and the series of what is left.
// Nothing is fused here: two roundings are the same everywhere, too.
struct Circle {
  double cos, sin;
};
SONDE_INLINE Circle circle(double t) {
  const int quarter = (int(t * 8) + 1) / 2;
  const double x = (t * 4 - quarter) * 0x1.921fb54442d18p0, z = x * x;
  double s = -1.0 / 1307674368000, c = -1.0 / 87178291200;
  s = s * z + 1.0 / 6227020800;
  s = s * z - 1.0 / 39916800;
  s = s * z + 1.0 / 362880;
  s = s * z - 1.0 / 5040;
  s = s * z + 1.0 / 120;
  s = s * z - 1.0 / 6;
  s = s * z * x + x;
  c = c * z + 1.0 / 479001600;
  c = c * z - 1.0 / 3628800;
  c = c * z + 1.0 / 40320;
  c = c * z - 1.0 / 720;
  c = c * z + 1.0 / 24;
  c = c * z - 0.5;
  c = c * z + 1;
  switch (quarter) {
    case 1: return {-s, c};
    case 2: return {-c, -s};
    case 3: return {s, -c};
    default: return {c, s};
  }
}

// x^a for a finite a, as C's pow has it at its edges; `whole` and `odd` say what a is. |x|^a is e^(a ln |x|) in double
// precision, so that the result is rounded once; a result outside float32 becomes 0 or infinite when it is rounded.
SONDE_INLINE vf pow(vf x, double a, bool whole, bool odd) {
  const vi negative = vi(x) & vi(broadcast(-0.0f));
  const vf size = vf(vi(x) ^ negative);
  alignas(64) float lane[kWidth];
  store(lane, size);
  for (int i = 0; i < kWidth; i += kDoubles) {
    vd y = log(load_doubles(lane + i)) * a;
    y = y > 700.0 ? vd{} + 700.0 : y < -700.0 ? vd{} - 700.0 : y;
    y = exp(y);
    *reinterpret_cast<vf_half*>(lane + i) = __builtin_convertvector(y, vf_half);
  }
  vf result = load(lane);
  result = size == 0.0f       ? broadcast(a > 0 ? 0.0f : INFINITY)
           : size == INFINITY ? broadcast(a > 0 ? INFINITY : 0.0f)
                              : result;
  if (odd) result = vf(vi(result) | negative);
  else if (!whole) result = (x < 0.0f) & (size < INFINITY) ? broadcast(NAN) : result;
  return x != x ? x : result;
}

}  // namespace sonde::SONDE_ISA
