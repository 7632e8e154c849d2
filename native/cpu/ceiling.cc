// What this processor can do at most, measured on the spot: the yardstick for every other kernel. All compute threads take
// part; the best of some rounds counts, as other processes only ever make it slower.
#include <stdlib.h>
#include <time.h>

#include "operations.h"
#include "product.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int kRounds = 8;
constexpr double kRoundSeconds = 0.02;

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// The best rate of `amount` per run, over some runs.
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

template <Form form>
__attribute__((noinline)) float multiply_add(int64_t steps) {
  vf sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = broadcast(float(i));
  const vf a = broadcast(0.5f), b = broadcast(1e-3f);
  for (int64_t p = 0; p < steps; ++p) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = accumulate<form>(a, b, sum[i]);
    asm volatile("");  // not to be taken out of the loop
  }
  float total = 0;
  for (int i = 0; i < kSums; ++i) total += sum_lanes(sum[i]);
  return total;
}

template <Form form>
double multiply_add_rate(Context* context) {
  const int threads = thread_count(context);
  const double per_step = 2.0 * kSums * kWidth * (form == Form::pairs ? 2 : 1);
  volatile float sink = 0;
  int64_t steps = 10'000;
  const double start = now();
  sink = multiply_add<form>(steps);
  steps = int64_t(double(steps) * kRoundSeconds / (now() - start)) + 1;
  return best_rate(per_step * double(steps) * threads, kRounds,
                   [&] { parallel(context, threads, [&](int64_t, int) { sink = multiply_add<form>(steps); }); });
}

constexpr int64_t kBytes = int64_t(256) << 20, kPiece = int64_t(1) << 20;  // many times the caches

__attribute__((noinline)) float read_piece(const char* from) {
  vf sum[4] = {};
  for (int64_t at = 0; at < kPiece; at += 4 * kWidth * 4) {
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
    *per_second = multiply_add_rate<Form::float32>(context);
    return {};
  }
  if (kind == Ceiling::bfloat16) {
    // in pairs or widened: some processors have the instruction for pairs at half of float32's rate
    const double widened = multiply_add_rate<Form::float32>(context);
    constexpr Form kForm = kPairs ? Form::pairs : Form::float32;
    const double pairs = kPairs ? multiply_add_rate<kForm>(context) : 0;
    *per_second = pairs > widened ? pairs : widened;
    return {};
  }
  auto* data = static_cast<char*>(aligned_alloc(size_t(kPiece), size_t(kBytes)));
  if (!data) return out_of_memory("a buffer to read");
  parallel(context, kBytes / kPiece, [&](int64_t i, int) { memset(data + i * kPiece, 0, size_t(kPiece)); });
  volatile float sink = 0;
  *per_second = best_rate(double(kBytes), kRounds, [&] {
    parallel(context, kBytes / kPiece, [&](int64_t i, int) { sink = read_piece(data + i * kPiece); });
  });
  free(data);
  return {};
}

}  // namespace sonde::SONDE_ISA
