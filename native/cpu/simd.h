// One vector type, three builds. `vf` holds kWidth floats: 16 with AVX-512, 8 with AVX2, else 4 (SSE2, NEON), by the
// compiler's vector extensions; intrinsics only where an extension does not say it well.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "context.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef SONDE_ISA
#error "SONDE_ISA names the namespace of this build: portable, avx2 or avx512"
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
SONDE_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
SONDE_INLINE vf broadcast(float s) {
#if defined(__AVX512F__)
  return vf(_mm512_set1_ps(s));
#elif defined(__AVX2__)
  return vf(_mm256_set1_ps(s));
#else
  return s - vf{};  // 0 subtracted, not added: x + 0 would turn -0 into 0 and cost an instruction
#endif
}
// a * b + c, rounded once where the processor can
SONDE_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return vf(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__AVX2__)
  return vf(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__aarch64__)
  return vf(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#else
  return a * b + c;
#endif
}

// ---- 16-bit floats

SONDE_INLINE float bf16_to_float(uint16_t h) {
  uint32_t u = uint32_t(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
SONDE_INLINE uint16_t float_to_bf16(float f) {  // nearest, ties to even; NaN stays NaN
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);
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
SONDE_INLINE uint16_t float_to_f16(float f) {  // nearest, ties to even; too large becomes infinite
#if defined(__F16C__)
  return uint16_t(_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t u;
  memcpy(&u, &f, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return uint16_t(sign | 0x7e00);
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

// A lambda in place of parallel_for's function and argument: body(i, thread).
template <class Body>
void run_body(void* arg, int64_t i, int thread) {
  (*static_cast<Body*>(arg))(i, thread);
}
template <class Body>
SONDE_INLINE void parallel(Context* context, int64_t count, Body body) {
  parallel_for(context, count, &run_body<Body>, &body);
}

}  // namespace sonde::SONDE_ISA
