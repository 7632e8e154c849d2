// Measures the highest rates that this processor reaches, which every other kernel is compared with. All compute
// threads take part. The best of several rounds counts, as other processes can only make a round slower.
#include <stdlib.h>

#include "clock.h"
#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int kRounds = 8;
constexpr double kRoundSeconds = 0.02;

// The best rate of `amount` per call of run(), over some rounds.
template <class Run>
double best_rate(double amount, int rounds, Run run) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const double start = now();
    run();
    const double rate = amount / (now() - start);
    best = rate > best ? rate : best;
  }
  return best;
}

// As many sums as the microkernel has: enough to hide the latency of a multiply-add.
constexpr int kSums = kRows * kVectors;

template <Layout layout>
__attribute__((noinline)) float multiply_add(int64_t steps) {
  vf sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = broadcast(float(i));
  const vf a = broadcast(0.5f), b = broadcast(1e-3f);
  for (int64_t p = 0; p < steps; ++p) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = accumulate<layout>(a, b, sum[i]);
    asm volatile("");  // keeps the compiler from moving the sums out of the loop
  }
  float total = 0;
  for (int i = 0; i < kSums; ++i) total += sum_lanes(sum[i]);
  return total;
}

template <Layout layout>
double multiply_add_rate(Context* context) {
  const int threads = thread_count(context);
  const double per_step = 2.0 * kSums * kWidth * (layout == Layout::pairs ? 2 : 1);
  volatile float sink = 0;
  int64_t steps = 10'000;
  const double start = now();
  sink = multiply_add<layout>(steps);
  steps = int64_t(double(steps) * kRoundSeconds / (now() - start)) + 1;
  return best_rate(per_step * double(steps) * threads, kRounds,
                   [&] { parallel(context, threads, [&](int64_t, int) { sink = multiply_add<layout>(steps); }); });
}

constexpr int64_t kBytes = int64_t(256) << 20, kChunk = int64_t(1) << 20;  // many times the caches

__attribute__((noinline)) float read_chunk(const char* from) {
  vf sum[4] = {};
  for (int64_t at = 0; at < kChunk; at += 4 * kWidth * 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __builtin_prefetch(from + at + i * kWidth * 4 + 8192);
      sum[i] += load(reinterpret_cast<const float*>(from + at) + i * kWidth);
    }
  }
  return sum_lanes(sum[0] + sum[1] + sum[2] + sum[3]);
}

}  // namespace

Status ceiling(Context* context, Ceiling kind, double* per_second) {
  if (kind == Ceiling::float32) {
    *per_second = multiply_add_rate<Layout::float32>(context);
    return {};
  }
  if (kind == Ceiling::bfloat16) {
    // the better of pairs and widened values, as some processors multiply pairs at half of float32's rate
    const double widened = multiply_add_rate<Layout::float32>(context);
    constexpr Layout kLayout = kPairs ? Layout::pairs : Layout::float32;
    const double pairs = kPairs ? multiply_add_rate<kLayout>(context) : 0;
    *per_second = pairs > widened ? pairs : widened;
    return {};
  }
  auto* data = static_cast<char*>(aligned_alloc(size_t(kChunk), size_t(kBytes)));
  if (!data) return out_of_memory("a buffer to read");
  parallel(context, kBytes / kChunk, [&](int64_t i, int) { memset(data + i * kChunk, 0, size_t(kChunk)); });
  volatile float sink = 0;
  *per_second = best_rate(double(kBytes), kRounds, [&] {
    parallel(context, kBytes / kChunk, [&](int64_t i, int) { sink = read_chunk(data + i * kChunk); });
  });
  free(data);
  return {};
}

}  // namespace sonde::SONDE_ISA
