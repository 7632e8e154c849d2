// Ranking: a value and its index become one integer, so that integer order ranks by value, and equal values by the lowest index.
#pragma once
#include "elements.cuh"

namespace sonde {

// A float as an integer that sorts alike; both zeros are one, NaN is above all.
SONDE_DEVICE int32_t key_of(float x) {
  if (x != x) return INT32_MAX;
  const int32_t bits = __float_as_int(x + 0.0f);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
SONDE_DEVICE float float_of(int32_t key) {
  if (key == INT32_MAX) return __int_as_float(0x7fc00000);
  return __int_as_float(key < 0 ? key ^ 0x7fffffff : key);
}

// Larger is better: the value's order in the upper half, the index's complement below it. 0 is worse than any.
SONDE_DEVICE uint64_t candidate(int32_t key, int64_t index) {
  return uint64_t(uint32_t(key) ^ 0x80000000u) << 32 | (0xffffffffu - uint32_t(index));
}
SONDE_DEVICE int32_t key_of(uint64_t candidate) { return int32_t(uint32_t(candidate >> 32) ^ 0x80000000u); }
SONDE_DEVICE int32_t index_of(uint64_t candidate) { return int32_t(0xffffffffu - uint32_t(candidate)); }

// Elements as keys; int32 as itself.
struct Keys {
  AnyElements x;
  SONDE_DEVICE int32_t at(int64_t offset) const {
    return x.dtype == DType::int32 ? static_cast<const int32_t*>(x.data)[offset] : key_of(x.get(offset));
  }
};

// ---- of a whole block

constexpr int kRankThreads = 256;
constexpr int64_t kSharedList = 2048;  // candidates that are sorted in shared memory

// Finds, by radix select, a bound that exactly the k largest of n candidates reach, 0 < k <= n. Each round, from the top bits down,
// counts by their next 8 bits the candidates that share the bits found so far. The last round is the one in which all candidates of
// a digit belong to the k largest.
// `get(i)` gives candidate i; no two are equal. Shared memory: kCounters counters and two 64-bit words.
constexpr int kCounters = 256 + kRankThreads / 32;  // of the digits, and sums of the warps
template <class Get>
SONDE_DEVICE uint64_t kth_largest(Get get, int64_t n, int64_t k, unsigned* counts, uint64_t* found) {
  uint64_t prefix = 0;
  int64_t left = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = int(threadIdx.x); i < 256; i += kRankThreads) counts[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kRankThreads) {
      const uint64_t c = get(i);
      if (shift == 56 || c >> (shift + 8) == prefix >> (shift + 8)) atomicAdd(&counts[c >> shift & 255], 1u);
    }
    __syncthreads();
    // from the largest digit on, each thread adds up those before its own
    const int t = int(threadIdx.x), lane = t % 32, digit = 255 - t;
    const unsigned count = counts[digit];
    unsigned sum = count;
    for (int step = 1; step < 32; step *= 2) {
      const unsigned other = __shfl_up_sync(0xffffffffu, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) counts[256 + t / 32] = sum;
    __syncthreads();
    for (int i = 0; i < t / 32; ++i) sum += counts[256 + i];
    const int64_t above = sum - count;
    if (above < left && left <= sum) {
      found[0] = prefix | uint64_t(digit) << shift;
      found[1] = count == left - above ? 0 : uint64_t(left - above);
    }
    __syncthreads();
    prefix = found[0];
    left = int64_t(found[1]);
    __syncthreads();
    if (left == 0) break;
  }
  return prefix;
}

// Sorts c [n], n a power of two, largest first (Batcher's bitonic sort), in shared or global memory.
SONDE_DEVICE void sort_descending(uint64_t* c, int64_t n) {
  for (int64_t size = 2; size <= n; size *= 2) {
    for (int64_t step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < n / 2; i += kRankThreads) {
        const int64_t low = (i & -step) * 2 + (i & (step - 1)), high = low + step;
        const bool descending = (low & size) == 0;
        const uint64_t a = c[low], b = c[high];
        if (a != b && (a < b) == descending) {
          c[low] = b;
          c[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

__host__ __device__ constexpr int64_t power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

}  // namespace sonde
