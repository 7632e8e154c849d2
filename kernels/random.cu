// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11), as on the CPU: normal values
// come in pairs by the Box-Muller transform in double precision, four to a group; integers take 64 bits each, two to a group.
#include "elements.cuh"

namespace sonde {

namespace {

struct Four {
  uint32_t x[4];
};

SONDE_DEVICE Four philox(uint64_t counter, uint64_t seed) {
  Four c = {{uint32_t(counter), uint32_t(counter >> 32), 0, 0}};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t(0xD2511F53u) * c.x[0], q = uint64_t(0xCD9E8D57u) * c.x[2];
    c = {{uint32_t(q >> 32) ^ c.x[1] ^ k0, uint32_t(q), uint32_t(p >> 32) ^ c.x[3] ^ k1, uint32_t(p)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

__global__ void __launch_bounds__(kThreads)
    normal_kernel(AnyElements out, int64_t count, uint64_t seed, double mean, double deviation) {
  const int64_t group = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (group * 4 >= count) return;
  const Four bits = philox(uint64_t(group), seed);
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const double u = (double(bits.x[pair]) + 0.5) * 0x1p-32;  // never 0
    // of 2 pi times a fraction: exact for every quarter, and without the slow reduction of large angles, which needs a stack
    double sine, cosine;
    sincospi(double(bits.x[pair + 1]) * 0x1p-31, &sine, &cosine);
    const double radius = deviation * sqrt(-2 * log(u));
    const int64_t at = group * 4 + pair;
    if (at < count) out.set(at, float(mean + radius * cosine));
    if (at + 1 < count) out.set(at + 1, float(mean + radius * sine));
  }
}

// uniform in [low, low + range): the upper half of a 64-bit fraction times the range
__global__ void __launch_bounds__(kThreads)
    integer_kernel(int32_t* out, int64_t count, uint64_t seed, int64_t low, uint64_t range) {
  const int64_t group = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (group * 2 >= count) return;
  const Four bits = philox(uint64_t(group), seed);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (group * 2 + i >= count) return;
    const uint64_t fraction = uint64_t(bits.x[2 * i]) << 32 | bits.x[2 * i + 1];
    out[group * 2 + i] = int32_t(low + int64_t(__umul64hi(fraction, range)));
  }
}

}  // namespace

Status random(Context* context, Out out, RandomKind kind, int64_t seed, double a, double b) {
  const int64_t count = element_count(out);
  if (count == 0) return {};
  if (kind == RandomKind::normal) {
    LAUNCH(normal_kernel, dim3(unsigned(ceil_div(count, kThreads * 4))), dim3(kThreads), 0, context->stream,
           AnyElements::of(out), count, uint64_t(seed), a, b);
  } else {
    LAUNCH(integer_kernel, dim3(unsigned(ceil_div(count, kThreads * 2))), dim3(kThreads), 0, context->stream,
           static_cast<int32_t*>(out.data), count, uint64_t(seed), int64_t(a), uint64_t(b - a));
  }
  return {};
}

}  // namespace sonde
