// One vector type for every instruction set. `vf` holds kWidth floats: 16 with AVX-512, 8 with AVX2, else 4 (SSE2,
// NEON). It uses the compiler's vector extensions, and intrinsics only where the extensions express an operation badly.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "context.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef SONDE_ISA
#error "SONDE_ISA names the namespace of this build: portable, avx2, avx512 or avx512_bf16"
#endif
#define SONDE_INLINE inline __attribute__((always_inline))

namespace sonde::SONDE_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vf __attribute__((vector_size(kWidth * 4), may_alias));
typedef int32_t vi __attribute__((vector_size(kWidth * 4), may_alias));
typedef float vf_unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint16_t vh_unaligned __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

SONDE_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
SONDE_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
SONDE_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
SONDE_INLINE vf broadcast(float s) {
#if defined(__AVX512F__)
  return vf(_mm512_set1_ps(s));
#elif defined(__AVX2__)
  return vf(_mm256_set1_ps(s));
#else
  return s - vf{};  // 0 subtracted, not added: x + 0 would make 0 of -0 and cost an instruction
#endif
}

// ---- doubles, half as many

constexpr int kDoubles = kWidth / 2;
typedef double vd __attribute__((vector_size(kDoubles * 8), may_alias));
typedef double vd_unaligned __attribute__((vector_size(kDoubles * 8), aligned(8), may_alias));
typedef int64_t vl __attribute__((vector_size(kDoubles * 8), may_alias));
typedef uint64_t vul __attribute__((vector_size(kDoubles * 8), may_alias));

SONDE_INLINE vd load(const double* p) { return *reinterpret_cast<const vd_unaligned*>(p); }
SONDE_INLINE void store(double* p, vd v) { *reinterpret_cast<vd_unaligned*>(p) = v; }
// kDoubles floats, widened
SONDE_INLINE vd load_doubles(const float* p) {
#if defined(__AVX512F__)
  return vd(_mm512_cvtps_pd(_mm256_loadu_ps(p)));
#elif defined(__AVX2__)
  return vd(_mm256_cvtps_pd(_mm_loadu_ps(p)));
#elif defined(__SSE2__)
  return vd(_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#elif defined(__aarch64__)
  return vd(vcvt_f64_f32(vld1_f32(p)));
#else
  vd v;
  for (int i = 0; i < kDoubles; ++i) v[i] = p[i];
  return v;
#endif
}

// ---- multiply and add

#if !defined(__AVX2__) && !defined(__aarch64__)
// What is missing in a rounded sum of two numbers (Knuth).
SONDE_INLINE vd error_of(vd sum, vd a, vd b) {
  const vd other = sum - a;
  return (a - (sum - other)) + (b - other);
}
// a + b, rounded to odd: where it is not exact, that one of the two doubles beside it whose last bit is set. Rounded to
// a shorter format after that, it is rounded as if once (Boldo and Melquiond, "Emulation of a FMA and correctly rounded
// sums: proved algorithms using rounding to odd", IEEE Transactions on Computers, 2008).
SONDE_INLINE vd add_to_odd(vd a, vd b) {
  const vd sum = a + b, error = error_of(sum, a, b);
  const vul inexact = vul((error < 0.0) | (error > 0.0));  // NaN, the error of an infinite sum, is neither
  const vul beyond = (vul(error) ^ vul(sum)) >> 63;        // 1 where the sum was rounded away from 0
  return vd((vul(sum) - (beyond & inexact)) | (inexact >> 63));
}
#if defined(__SSE2__)
// Whether a sum may be rounded wrongly to float32 because it was rounded to double precision before. That is so where it
// lies half-way between two floats, which its last 29 bits show, or, as there are fewer floats there, where it is not 0
// and below the normal ones.
SONDE_INLINE int halfway_bits(vd a, vd b) {
  // for both halves of a double: what remains after `mask`, as an unsigned number, less `least`, is below `count`
  const auto is_odd = [](vd v) {
    constexpr int kHalfway = 0x10000000, kSmallest = (1023 - 126) << 20;
    const __m128i mask = _mm_set_epi32(INT32_MAX, 0x1fffffff, INT32_MAX, 0x1fffffff);
    const __m128i least = _mm_set_epi32(1, kHalfway, 1, kHalfway), sign = _mm_set1_epi32(INT32_MIN);
    const __m128i count = _mm_set_epi32(kSmallest - 1, 1, kSmallest - 1, 1);
    const __m128i distance = _mm_add_epi32(_mm_and_si128(__m128i(v), mask), _mm_sub_epi32(sign, least));
    return _mm_cmpgt_epi32(_mm_add_epi32(sign, count), distance);
  };
  return _mm_movemask_epi8(_mm_or_si128(is_odd(a), is_odd(b)));
}
#endif
#endif

// a * b + c, rounded once. A processor that cannot do that computes it in double precision, where the product is exact.
SONDE_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return vf(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__AVX2__)
  return vf(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__aarch64__)
  return vf(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#elif defined(__SSE2__)
  const auto wide = [](vf v) { return vd(_mm_cvtps_pd(__m128(v))); };
  const auto upper = [](vf v) { return vf(_mm_movehl_ps(__m128(v), __m128(v))); };
  const vd p = wide(a) * wide(b), p2 = wide(upper(a)) * wide(upper(b)), q = wide(c), q2 = wide(upper(c));
  vd sum = p + q, sum2 = p2 + q2;
  if (__builtin_expect(halfway_bits(sum, sum2), 0)) sum = add_to_odd(p, q), sum2 = add_to_odd(p2, q2);
  return vf(_mm_movelh_ps(_mm_cvtpd_ps(__m128d(sum)), _mm_cvtpd_ps(__m128d(sum2))));
#else
  for (int i = 0; i < kWidth; i += kDoubles) {
    vd product, addend;
    for (int j = 0; j < kDoubles; ++j) product[j] = double(a[i + j]) * b[i + j], addend[j] = c[i + j];
    const vd sum = add_to_odd(product, addend);
    for (int j = 0; j < kDoubles; ++j) c[i + j] = float(sum[j]);
  }
  return c;
#endif
}

// The same of doubles. In software, the product's error is Dekker's, and the sum of three is that of the authors above;
// it holds where nothing overflows or is subnormal.
SONDE_INLINE vd fma(vd a, vd b, vd c) {
#if defined(__AVX512F__)
  return vd(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
#elif defined(__AVX2__)
  return vd(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
#elif defined(__aarch64__)
  return vd(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
#else
  const auto upper = [](vd v) {  // the upper half of the digits
    const vd t = v * 0x1.0000002p27;
    return t - (t - v);
  };
  const vd product = a * b, a1 = upper(a), a2 = a - a1, b1 = upper(b), b2 = b - b1;
  const vd rest = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
  const vd low = c + rest, sum = product + low;
  return sum + add_to_odd(error_of(low, c, rest), error_of(sum, product, low));
#endif
}

// ---- NaN

// v, but NaN of any sign and payload as NAN: which of its operands' NaNs an instruction passes on, and which one it makes
// itself, depends on the processor and on the compiler. Every result of arithmetic is made canonical before it is stored.
SONDE_INLINE vf canonical(vf v) {
#if defined(__AVX512F__)
  // by the class of each element, from the lowest 4 bits: both kinds of NaN give the first operand, all others the second
  return vf(_mm512_fixupimm_ps(__m512(broadcast(NAN)), __m512(v), _mm512_set1_epi32(0x11111100), 0));
#else
  return v == v ? v : broadcast(NAN);
#endif
}
SONDE_INLINE float canonical(float f) { return f == f ? f : NAN; }

// ---- 16-bit floats

SONDE_INLINE float bf16_to_float(uint16_t h) {
  uint32_t u = uint32_t(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
SONDE_INLINE uint16_t float_to_bf16(float f) {  // nearest, ties to even; NaN is canonical
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
SONDE_INLINE float f16_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t u;
  if (exponent == 31) {
    u = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0);
  } else if (exponent) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float f = float(mantissa) * 0x1p-24f;
    memcpy(&u, &f, 4);
    u |= sign;
  }
  float f;
  memcpy(&f, &u, 4);
  return f;
#endif
}
SONDE_INLINE uint16_t float_to_f16(float f) {  // nearest, ties to even; too large becomes infinite; NaN is canonical
#if defined(__F16C__)
  return uint16_t(_cvtss_sh(canonical(f), _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t u;
  memcpy(&u, &f, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return 0x7e00;
  if (u >= 0x47800000u) return uint16_t(sign | 0x7c00);
  if (u < 0x38800000u) {  // below the smallest normal half: let float addition round to multiples of 2^-24
    float g;
    memcpy(&g, &u, 4);
    g += 0.5f;
    memcpy(&u, &g, 4);
    return uint16_t(sign | (u - 0x3f000000u));
  }
  const uint32_t odd = (u >> 13) & 1;
  return uint16_t(sign | ((u + 0xc8000fffu + odd) >> 13));
#endif
}

typedef uint32_t vu __attribute__((vector_size(kWidth * 4), may_alias));

// ---- 16-bit floats, kWidth at a time

SONDE_INLINE vf load_bf16(const uint16_t* p) {
  return vf(__builtin_convertvector(*reinterpret_cast<const vh_unaligned*>(p), vu) << 16);
}
SONDE_INLINE void store_bf16(uint16_t* p, vf v) {
  const vu u = vu(v);
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  const vu out = (u & 0x7fffffffu) > 0x7f800000u ? vu{} + 0x7fc0 : rounded;
  *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(out, vh_unaligned);
}
SONDE_INLINE vf load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return vf(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return vf(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  vf v;
  for (int i = 0; i < kWidth; ++i) v[i] = f16_to_float(p[i]);
  return v;
#endif
}
SONDE_INLINE void store_f16(uint16_t* p, vf v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(__m512(canonical(v)), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(__m256(canonical(v)), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kWidth; ++i) p[i] = float_to_f16(v[i]);
#endif
}

// ---- across lanes: in a fixed order, halves added to halves

SONDE_INLINE float sum_lanes(vf v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 eight = _mm512_castps512_ps256(__m512(v)) + _mm512_extractf32x8_ps(__m512(v), 1);
#else
  const __m256 eight = __m256(v);
#endif
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
SONDE_INLINE double sum_lanes(vd v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256d four = _mm512_castpd512_pd256(__m512d(v)) + _mm512_extractf64x4_pd(__m512d(v), 1);
#else
  const __m256d four = __m256d(v);
#endif
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
  return two[0] + two[1];
#else
  return v[0] + v[1];
#endif
}
// a where it is larger, else b: b where one of them is NaN
SONDE_INLINE vf maximum(vf a, vf b) {
#if defined(__AVX512F__)
  return vf(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return vf(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return a > b ? a : b;
#endif
}
SONDE_INLINE vf minimum(vf a, vf b) {
#if defined(__AVX512F__)
  return vf(_mm512_min_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return vf(_mm256_min_ps(__m256(a), __m256(b)));
#else
  return a < b ? a : b;
#endif
}
// the largest lane; there must be no NaN
SONDE_INLINE float max_lanes(vf v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(__m512(v)), _mm512_extractf32x8_ps(__m512(v), 1));
#else
  const __m256 eight = __m256(v);
#endif
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return two[0] > two[1] ? two[0] : two[1];
#else
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
#endif
}
// a bit for each lane where a > b
SONDE_INLINE uint32_t greater_bits(vi a, vi b) {
#if defined(__AVX512F__)
  return _mm512_cmpgt_epi32_mask(__m512i(a), __m512i(b));
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps(__m256(_mm256_cmpgt_epi32(__m256i(a), __m256i(b)))));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= uint32_t(a[i] > b[i]) << i;
  return bits;
#endif
}
SONDE_INLINE uint32_t greater_bits(vf a, vf b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_GT_OQ);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(__m256(a), __m256(b), _CMP_GT_OQ)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= uint32_t(a[i] > b[i]) << i;
  return bits;
#endif
}

// a bit for each lane where not a <= b: where a > b or one of them is NaN
SONDE_INLINE uint32_t not_at_most_bits(vf a, vf b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_NLE_UQ);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(__m256(a), __m256(b), _CMP_NLE_UQ)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= uint32_t(!(a[i] <= b[i])) << i;
  return bits;
#endif
}

// ---- functions

// e^x, within 1.5 units in the last place: x = n ln 2 + r with |r| <= ln(2)/2, a polynomial in r (Cephes' coefficients
// for expf), and 2^n in two factors, so that results below the normal range and beyond the largest float come out
// right.
SONDE_INLINE vf exp(vf x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
  x = minimum(broadcast(89.0f), maximum(broadcast(-104.0f), x));  // in this order of arguments, NaN stays NaN
  const vf shifted = fma(x, broadcast(1.44269504f), broadcast(kRound));
  const vf n = shifted - kRound;
  vf r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  vf p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
#if defined(__AVX512F__)
  return vf(_mm512_scalef_ps(__m512(p), __m512(n)));
#else
  const vi whole = vi(shifted) - 0x4b400000;  // n as an integer; kRound's bits are 0x4b400000
  const vi half = whole >> 1;
  const vf first = vf(vu(half + 127) << 23);
  const vf second = vf(vu(whole - half + 127) << 23);
  return p * first * second;
#endif
}

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). The error is within 3 units in the last
// place where x >= 0, and within 3 + 6 |u| where x < 0: an absolute error of -2u, which grows with |u|, is a relative
// error of e^(-2u). (The formula with tanh loses all digits there.)
SONDE_INLINE vf gelu(vf x) {
  const vf minus_2u = x * fma(x * x, broadcast(-0.0713548162726f), broadcast(-1.59576912161f));
  return x / (1.0f + exp(minus_2u));
}

// fewer than kWidth elements, zeros behind them
SONDE_INLINE vf load_partial(const float* p, int count) {
#if defined(__AVX512F__)
  return vf(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p));
#else
  float lane[kWidth] = {};
  for (int i = 0; i < count; ++i) lane[i] = p[i];
  return load(lane);
#endif
}
SONDE_INLINE void store_partial(float* p, vf v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), __m512(v));
#else
  float lane[kWidth];
  store(lane, v);
  for (int i = 0; i < count; ++i) p[i] = lane[i];
#endif
}

// y[i] = function(x[i]), with any NaN; x may be y
template <class Function>
SONDE_INLINE void map_row_as_is(float* y, const float* x, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, function(load(x + i)));
  if (i < n) store_partial(y + i, function(load_partial(x + i, int(n - i))), int(n - i));
}
// the same, NaN canonical: for what is stored
template <class Function>
SONDE_INLINE void map_row(float* y, const float* x, int64_t n, Function function) {
  map_row_as_is(y, x, n, [=](vf v) { return canonical(function(v)); });
}

// n elements of any dtype, side by side, to float32 and back
SONDE_INLINE void widen(float* to, const void* from, DType dtype, int64_t n) {
  int64_t i = 0;
  switch (dtype) {
    case DType::float32: memcpy(to, from, size_t(n) * 4); return;
    case DType::bfloat16: {
      auto* p = static_cast<const uint16_t*>(from);
      for (; i + kWidth <= n; i += kWidth) store(to + i, load_bf16(p + i));
      for (; i < n; ++i) to[i] = bf16_to_float(p[i]);
      return;
    }
    case DType::float16: {
      auto* p = static_cast<const uint16_t*>(from);
      for (; i + kWidth <= n; i += kWidth) store(to + i, load_f16(p + i));
      for (; i < n; ++i) to[i] = f16_to_float(p[i]);
      return;
    }
    case DType::int32:
      for (; i < n; ++i) to[i] = float(static_cast<const int32_t*>(from)[i]);
      return;
    case DType::boolean:
      for (; i < n; ++i) to[i] = static_cast<const uint8_t*>(from)[i] ? 1.0f : 0.0f;
      return;
  }
}
// truncated and clamped to int32's range; NaN is 0
SONDE_INLINE int32_t float_to_int32(float f) {
  return f != f ? 0 : f >= 2147483648.0f ? INT32_MAX : f < -2147483648.0f ? INT32_MIN : int32_t(f);
}
SONDE_INLINE void narrow(void* to, const float* from, DType dtype, int64_t n) {
  int64_t i = 0;
  switch (dtype) {
    case DType::float32: memcpy(to, from, size_t(n) * 4); return;
    case DType::bfloat16: {
      auto* p = static_cast<uint16_t*>(to);
      for (; i + kWidth <= n; i += kWidth) store_bf16(p + i, load(from + i));
      for (; i < n; ++i) p[i] = float_to_bf16(from[i]);
      return;
    }
    case DType::float16: {
      auto* p = static_cast<uint16_t*>(to);
      for (; i + kWidth <= n; i += kWidth) store_f16(p + i, load(from + i));
      for (; i < n; ++i) p[i] = float_to_f16(from[i]);
      return;
    }
    case DType::int32:
      for (; i < n; ++i) static_cast<int32_t*>(to)[i] = float_to_int32(from[i]);
      return;
    case DType::boolean:
      for (; i < n; ++i) static_cast<uint8_t*>(to)[i] = from[i] != 0;
      return;
  }
}

// parallel_for with a lambda instead of a function and its argument: body(i, thread).
template <class Body>
void run_body(void* arg, int64_t i, int thread) {
  (*static_cast<Body*>(arg))(i, thread);
}
template <class Body>
SONDE_INLINE void parallel(Context* context, int64_t count, Body body) {
  parallel_for(context, count, &run_body<Body>, &body);
}

}  // namespace sonde::SONDE_ISA
