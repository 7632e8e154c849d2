// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11): four 32-bit values
// from a counter and a key, here the number of a group of elements and the seed. Normal values come in pairs by the
// Box-Muller transform in double precision, four to a group; integers take 64 bits each, two to a group.
#include "functions.h"
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

struct Four {
  uint32_t x[4];
};

Four philox(uint64_t counter, uint64_t seed) {
  Four c{{uint32_t(counter), uint32_t(counter >> 32), 0, 0}};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t(0xD2511F53u) * c.x[0], q = uint64_t(0xCD9E8D57u) * c.x[2];
    c = {{uint32_t(q >> 32) ^ c.x[1] ^ k0, uint32_t(q), uint32_t(p >> 32) ^ c.x[3] ^ k1, uint32_t(p)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

void normal_group(float* to, const Four& bits, double mean, double deviation) {
  for (int pair = 0; pair < 4; pair += 2) {
    const double u = (double(bits.x[pair]) + 0.5) * 0x1p-32;  // never 0
    const Circle at = circle(double(bits.x[pair + 1]) * 0x1p-32);
    const double radius = deviation * __builtin_sqrt(-2 * log_of(u));
    to[pair] = canonical(float(mean + radius * at.cos));
    to[pair + 1] = canonical(float(mean + radius * at.sin));
  }
}

// uniform in [low, low + range): the upper 64 bits of a 64-bit fraction times the range
int32_t integer(uint32_t high, uint32_t low_bits, int64_t low, uint64_t range) {
  const uint64_t fraction = uint64_t(high) << 32 | low_bits;
  return int32_t(low + int64_t((unsigned __int128)(fraction)*range >> 64));
}

}  // namespace

Status random(Context* context, Out out, RandomKind kind, int64_t seed, double a, double b) {
  const int64_t count = element_count(out), size = dtype_size(out.dtype);
  constexpr int64_t kChunk = 4096;
  parallel(context, ceil_div(count, kChunk), [&](int64_t chunk, int) {
    const int64_t first = chunk * kChunk, n = min64(kChunk, count - first);
    float normal[kChunk];
    for (int64_t i = 0; kind == RandomKind::normal && i < n; i += 4) {
      normal_group(normal + i, philox(uint64_t(first + i) / 4, uint64_t(seed)), a, b);
    }
    if (kind == RandomKind::normal) return narrow(static_cast<char*>(out.data) + first * size, normal, out.dtype, n);
    auto* to = static_cast<int32_t*>(out.data) + first;
    for (int64_t i = 0; i < n; i += 2) {
      const Four bits = philox(uint64_t(first + i) / 2, uint64_t(seed));
      to[i] = integer(bits.x[0], bits.x[1], int64_t(a), uint64_t(b - a));
      if (i + 1 < n) to[i + 1] = integer(bits.x[2], bits.x[3], int64_t(a), uint64_t(b - a));
    }
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
