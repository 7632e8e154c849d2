// Oracle: plain loops, in double precision where it matters. The emulator's own test: its results, the operations that it
// delays on purpose, and, each in a process of its own, the mistakes that it must detect.
//   emulator_test             everything
//   emulator_test mistake     one of the mistakes below: ends by a signal, after a message
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../native/check.h"
#include "cuda_runtime.h"

namespace {

constexpr int kSchedules = 8;
cudaStream_t stream = nullptr;

void synchronize() {
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
}

// a kernel sees all of the process's memory, so that plain vectors do
#define RUN(kernel, grid, block, shared_bytes, ...)                 \
  do {                                                              \
    LAUNCH(kernel, grid, block, shared_bytes, stream, __VA_ARGS__); \
    synchronize();                                                  \
  } while (false)

std::mt19937 rng(1);
float normal() { return std::normal_distribution<float>()(rng); }

uint16_t encode(bool f16, float x) { return f16 ? float_to_half(x) : float_to_bf16(x); }
float decode(bool f16, uint16_t bits) { return f16 ? half_to_float(bits) : __uint_as_float(uint32_t(bits) << 16); }

#if defined(__aarch64__)
using CompilersHalf = __fp16;
#elif defined(__FLT16_MANT_DIG__)
using CompilersHalf = _Float16;
#endif

// ---- one thread

__global__ void where_kernel(int* out, dim3 grid) {
  const int block = int((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  const int thread = int((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  if (grid.x != gridDim.x || grid.y != gridDim.y || grid.z != gridDim.z) return;
  out[block * threads + thread] = block * 1000 + thread;
}

template <class T, int kPlus>
__global__ void template_kernel(T* out) {
  out[threadIdx.x] += T(kPlus);
}

__global__ void no_arguments_kernel() { __syncthreads(); }

void test_launches() {
  std::vector<int> out(12 * 30, -1);
  RUN(where_kernel, dim3(2, 3, 2), dim3(5, 3, 2), 0, out.data(), dim3(2, 3, 2));
  for (int i = 0; i < int(out.size()); ++i) CHECK(out[size_t(i)] == i / 30 * 1000 + i % 30);

  std::vector<double> values(40, 1);
  RUN((template_kernel<double, 3>), 1, 40, 0, values.data());
  for (double value : values) CHECK(value == 4);
  LAUNCH(no_arguments_kernel, 1, 33, 0, stream);
  synchronize();

  // arguments are copied at the launch
  int* to = out.data();
  out[0] = 0;
  LAUNCH((template_kernel<int, 1>), 1, 1, 0, stream, to);
  to = nullptr;
  synchronize();
  CHECK(out[0] == 1);

  const auto refused = [&](dim3 grid, dim3 block, size_t shared) {
    LAUNCH((template_kernel<int, 1>), grid, block, shared, stream, out.data());
    return cudaPeekAtLastError() == cudaErrorInvalidConfiguration &&
           cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess;
  };
  CHECK(refused(1, 1025, 0));
  CHECK(refused(1, 0, 0));
  CHECK(refused(1, dim3(32, 33), 0));
  CHECK(refused(0, 1, 0));
  CHECK(refused(dim3(1, 65536), 1, 0));
  CHECK(refused(dim3(1, 1, 65536), 1, 0));
  CHECK(refused(1, 1, (48 << 10) + 1));
  CHECK(!refused(1, 1, 48 << 10));
  const auto allow = [](int bytes) {
    return cudaFuncSetAttribute(template_kernel<int, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  CHECK(allow((227 << 10) + 1) == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(allow(100 << 10) == cudaSuccess);
  CHECK(refused(1, 1, (100 << 10) + 1));
  CHECK(!refused(1, 1, 100 << 10));
  CHECK(allow(0) == cudaSuccess);
  synchronize();
}

void test_functions() {
  const uint32_t two = pair_bf16(1.0f, -2.0f), halves = pair_half(0.5f, 65536);
  CHECK(two == 0xc0003f80u && halves == 0x7c003800u);
  CHECK(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64 && __ffs(0) == 0 && __ffs(8) == 4);
  CHECK(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0 && __brev(1) == 0x80000000u && __brev(6) == 0x60000000u);
  CHECK(__umulhi(0xffffffffu, 0xffffffffu) == 0xfffffffeu && __umul64hi(~0ull, 16) == 15);
  CHECK(min(-1, 2) == -1 && max(-1, 2u) == 0xffffffffu && min(3ll, 2ll) == 2 && max(2.0f, 3.0) == 3.0);
  CHECK(min(1.0f, NAN) == 1.0f && max(NAN, 1.0f) == 1.0f);
  CHECK(rsqrtf(16.0f) == 0.25f && __fmaf_rn(2, 3, 4) == 10 && __frcp_rn(4) == 0.25f && __expf(0) == 1);
  CHECK(__int_as_float(__float_as_int(-1.5f)) == -1.5f && __float_as_uint(1.0f) == 0x3f800000u);
  CHECK(alignof(float4) == 16 && alignof(uint2) == 8 && make_float4(1, 2, 3, 4).w == 4);
  for (uint32_t i = 0; i < 65536; ++i) {
    const float x = half_to_float(uint16_t(i));
    const bool nan = (i & 0x7fff) > 0x7c00;
    CHECK(nan ? x != x : float_to_half(x) == i);
    if ((i & 0x7fff) >= 0x7c00) continue;
    // halfway to the next one: to the even one
    const float next = (i & 0x7fff) == 0x7bff ? copysignf(65536, x) : half_to_float(uint16_t(i + 1));
    CHECK(float_to_half((x + next) / 2) == (i & 1 ? i + 1 : i));
    CHECK(float_to_half(nextafterf((x + next) / 2, 0)) == i);
#if defined(__aarch64__) || defined(__FLT16_MANT_DIG__)
    CompilersHalf half;
    memcpy(&half, &i, 2);
    CHECK(float(half) == x);
#endif
  }
}

// ---- a warp

__global__ void shuffle_kernel(int* out) {
  const int lane = int(threadIdx.x);
  int* to = out + lane * 10;
  to[0] = __shfl_sync(~0u, lane * 10, 5);
  to[1] = __shfl_xor_sync(~0u, lane, 16);
  to[2] = __shfl_up_sync(~0u, lane, 3);
  to[3] = __shfl_down_sync(~0u, lane, 3);
  to[4] = int(__shfl_xor_sync(~0u, (long long)(lane) << 40, 1) >> 40);
  to[5] = int(__shfl_sync(~0u, lane + 0.5f, 31) * 2);
  to[6] = __shfl_down_sync(~0u, lane, 6, 8);
  to[7] = int(__ballot_sync(~0u, lane % 3 == 0));
  to[8] =
      __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 32) + 4 * __any_sync(~0u, 0) + 8 * __all_sync(~0u, lane);
  if (lane < 16) to[9] = __shfl_xor_sync(0xffffu, lane, 8);
}

// half the block's warps have left, and the last one is not whole
__global__ void ragged_kernel(int* out) {
  if (threadIdx.x < 64) return;
  __syncthreads();
  const int lane = int(threadIdx.x) % 32, valid = threadIdx.x < 96 ? 32 : 4;
  out[threadIdx.x] = __shfl_xor_sync(~0u, lane, 1) + (__popc(__ballot_sync(~0u, 1)) == valid ? 0 : 100);
}

void test_warps() {
  std::vector<int> out(320, -1);
  RUN(shuffle_kernel, 1, 32, 0, out.data());
  for (int lane = 0; lane < 32; ++lane) {
    const int* from = &out[size_t(lane * 10)];
    CHECK(from[0] == 50 && from[1] == (lane ^ 16) && from[2] == (lane < 3 ? lane : lane - 3));
    CHECK(from[3] == (lane > 28 ? lane : lane + 3) && from[4] == (lane ^ 1) && from[5] == 63);
    CHECK(from[6] == (lane % 8 < 2 ? lane + 6 : lane) && from[7] == 0x49249249 && from[8] == 3);
    CHECK(from[9] == (lane < 16 ? lane ^ 8 : -1));
  }
  RUN(ragged_kernel, 1, 100, 0, out.data());
  for (int i = 64; i < 100; ++i) CHECK(out[size_t(i)] == (i % 32 ^ 1));
}

// ---- a block

template <bool kFirst, bool kSecond>
__global__ void sum_kernel(float* out) {
  SHARED(float, parts, [8]);
  const int t = int(threadIdx.x);
  for (int round = 0; round < 3; ++round) {
    float value = float(t + round);
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    if (kFirst) __syncthreads();
    if (t % 32 == 0) parts[t / 32] = value;
    if (kSecond) __syncthreads();
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += parts[i];
    out[t * 3 + round] = sum;
  }
}

__global__ void vote_kernel(int* out) {
  const int t = int(threadIdx.x);
  if (t >= 70) return;
  out[t] = __syncthreads_count(t % 2) * 1000 + __syncthreads_or(t == 69) * 100 + __syncthreads_and(t < 69) * 10 +
           __syncthreads_and(t < 70);
}

// the first warps produce, the others consume, and the two named barriers keep them in step
__global__ void named_kernel(int* out) {
  SHARED(int, value, [1]);
  const bool producer = threadIdx.x < 32;
  int sum = 0;
  for (int i = 0; i < 10; ++i) {
    if (threadIdx.x == 0) *value = i;
    named_barrier(1, 96);  // full
    if (!producer) sum += *value;
    named_barrier(2, 96);  // empty
  }
  if (!producer) out[threadIdx.x] = sum;
}

__global__ void atomic_kernel(unsigned* counts, float* total, int* extremes, unsigned long long* big) {
  SHARED(unsigned, own, [1]);
  if (threadIdx.x == 0) *own = 0;
  __syncthreads();
  const unsigned index = atomicAdd(own, 1u);
  atomicOr(counts + 1, 1u << index % 32);
  atomicAnd(counts + 2, ~(1u << index % 16));
  atomicAdd(total, 0.5f);
  atomicMax(extremes, int(threadIdx.x));
  atomicMin(extremes + 1, -int(threadIdx.x));
  atomicMax(counts + 3, threadIdx.x);
  atomicAdd(big, 1ull << 33);
  atomicCAS(big + 1, 5ull, 6ull);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(counts, *own);
  if (threadIdx.x == 1) atomicExch(counts + 4, 77u);
}

float expected_sum(int round) { return 256.0f * 255 / 2 + 256.0f * float(round); }
bool sums_right(const std::vector<float>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i] != expected_sum(int(i % 3))) return false;
  }
  return true;
}

void test_blocks() {
  std::vector<float> sums(256 * 3);
  RUN((sum_kernel<true, true>), 3, 256, 0, sums.data());
  CHECK(sums_right(sums));
  std::vector<int> votes(100, -1);
  RUN(vote_kernel, 1, 100, 0, votes.data());
  for (int i = 0; i < 100; ++i) CHECK(votes[size_t(i)] == (i < 70 ? 35101 : -1));
  std::vector<int> named(96);
  RUN(named_kernel, 2, 96, 0, named.data());
  for (int i = 32; i < 96; ++i) CHECK(named[size_t(i)] == 45);
  unsigned counts[5] = {0, 0, ~0u, 0, 0};
  float total = 0;
  int extremes[2] = {-1, 1};
  unsigned long long big[2] = {1, 5};
  RUN(atomic_kernel, 4, 100, 0, counts, &total, extremes, big);
  CHECK(counts[0] == 400 && counts[1] == ~0u && counts[2] == 0xffff0000u && counts[3] == 99 && counts[4] == 77);
  CHECK(total == 200 && extremes[0] == 99 && extremes[1] == -99 && big[0] == (400ull << 33) + 1 && big[1] == 6);
}

// a barrier that is missing must show in one of the schedules
void test_missing_barriers() {
#ifndef __SANITIZE_THREAD__  // which would report the race first
  bool first = false, second = false;
  for (int seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    std::vector<float> sums(256 * 3);
    RUN((sum_kernel<false, true>), 1, 256, 0, sums.data());
    first = first || !sums_right(sums);
    RUN((sum_kernel<true, false>), 1, 256, 0, sums.data());
    second = second || !sums_right(sums);
  }
  CHECK(first && second);
#endif
}

// ---- copies in the background

__global__ void copy_kernel(const float* in, int rows, float* out, int* early) {
  SHARED(float4, tile, [2][64]);
  const int t = int(threadIdx.x);
  const auto load = [&](int row) {
    // of the last row only five bytes less than all of it
    cp_async16(&tile[row % 2][t], in + (row * 64 + t) * 4, row == rows - 1 && t == 63 ? 11 : 16);
    cp_async_commit();
  };
  load(0);
  if (!(tile[0][t].x != tile[0][t].x)) atomicAdd(early, 1);
  for (int row = 0; row < rows; ++row) {
    if (row + 1 < rows) {
      load(row + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    reinterpret_cast<float4*>(out)[row * 64 + t] = tile[row % 2][63 - t];
    __syncthreads();
  }
  cp_async16(&tile[0][t], nullptr, 0);
  cp_async_commit();
  cp_async_wait<0>();
  if (tile[0][t].w != 0) atomicAdd(early, 1);
}

void test_copies() {
  constexpr int kRows = 5;
  float* in = nullptr;
  CHECK(cudaMallocHost(&in, kRows * 64 * 16) == cudaSuccess);
  std::vector<float> out(kRows * 64 * 4);
  for (int i = 0; i < kRows * 256; ++i) in[i] = normal();
  int early = 0;
  float4* aligned = nullptr;
  CHECK(cudaMallocHost(&aligned, kRows * 64 * 16) == cudaSuccess);
  RUN(copy_kernel, 1, 64, 0, in, kRows, reinterpret_cast<float*>(aligned), &early);
  CHECK(early == 0);
  memcpy(out.data(), aligned, kRows * 64 * 16);
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < 256; ++i) {
      float expected = in[row * 256 + (63 - i / 4) * 4 + i % 4];
      if (row == kRows - 1 && i < 4) {
        unsigned char bytes[4];
        memcpy(bytes, &expected, 4);
        for (int b = 0; b < 4; ++b) bytes[b] = i * 4 + b < 11 ? bytes[b] : 0;
        memcpy(&expected, bytes, 4);
      }
      CHECK(out[size_t(row * 256 + i)] == expected);
    }
  }
  cudaFreeHost(in);
  cudaFreeHost(aligned);
}

// ---- tensor cores

// c + sum of a b as the model has it (see multiply_truncated), by the book
float truncated_sum(const float* a, const float* b, float c) {
  int largest = -10000;
  for (int k = 0; k < 16; ++k) {
    if (a[k] != 0 && b[k] != 0) largest = std::max(largest, ilogbf(a[k]) + ilogbf(b[k]));
  }
  if (c != 0) largest = std::max(largest, ilogbf(c));
  if (largest == -10000) return 0;
  const double unit = ldexp(1.0, largest - 25);
  double sum = trunc(double(c) / unit) * unit;
  for (int k = 0; k < 16; ++k) sum += trunc(double(a[k]) * double(b[k]) / unit) * unit;
  const auto nearest = float(sum);
  return fabs(double(nearest)) > fabs(sum) ? nextafterf(nearest, 0) : nearest;
}

// a [16][16], b [8][16], d [16][8], fragments by ldmatrix; b is read as it is, or transposed from [16][8]
template <bool kF16>
__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  SHARED(uint4, shared_a, [32]);
  SHARED(uint4, shared_b, [16]);
  SHARED(uint4, transposed_b, [16]);
  const int lane = int(threadIdx.x);
  auto* sa = reinterpret_cast<uint16_t*>(shared_a);
  auto* sb = reinterpret_cast<uint16_t*>(shared_b);
  auto* st = reinterpret_cast<uint16_t*>(transposed_b);
  for (int i = lane; i < 256; i += 32) sa[i] = a[i];
  for (int i = lane; i < 128; i += 32) {
    sb[i] = b[i];
    st[i % 16 * 8 + i / 16] = b[i];
  }
  __syncwarp();
  uint32_t fa[4], fb[4], ft[4];
  ldmatrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x4(fb, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
  ldmatrix_x4_transposed(ft, st + lane % 16 * 8);
  if (fb[0] != ft[0] || fb[1] != ft[1]) return;
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  if (kF16) mma_f16(sums, fa, fb[0], fb[1]);
  else mma_bf16(sums, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

bool near(float x, double expected, double scale) { return fabs(double(x) - expected) <= 2e-6 * scale; }

template <bool kF16>
void test_mma(bool truncating) {
  emulator::set_truncating(truncating);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> d(128), before;
    // of all sizes, zeros and subnormals too
    const auto value = [&] {
      return round % 4 == 3 && rng() % 4 == 0 ? 0.0f : normal() * ldexpf(1, round < 8 ? 0 : int(rng() % 24) - 16);
    };
    for (auto& x : a) x = encode(kF16, value());
    for (auto& x : b) x = encode(kF16, value());
    for (auto& x : d) x = round == 7 ? 0.0f : value();
    before = d;
    RUN((mma_kernel<kF16>), 1, 32, 0, a.data(), b.data(), d.data());
    for (int i = 0; i < 128; ++i) {
      float x[16], y[16];
      double sum = double(before[size_t(i)]), scale = fabs(sum);
      for (int k = 0; k < 16; ++k) {
        x[k] = decode(kF16, a[size_t(i / 8 * 16 + k)]);
        y[k] = decode(kF16, b[size_t(i % 8 * 16 + k)]);
        sum += double(x[k]) * double(y[k]);
        scale += fabs(double(x[k]) * double(y[k]));
      }
      if (truncating) CHECK(d[size_t(i)] == truncated_sum(x, y, before[size_t(i)]));
      else CHECK(near(d[size_t(i)], sum, scale));
    }
  }
  // infinities and NaN get through
  std::vector<uint16_t> a(256, encode(kF16, 1)), b(128, encode(kF16, 1));
  std::vector<float> d(128, 0);
  a[0] = encode(kF16, INFINITY);
  b[1 * 16] = encode(kF16, 0);
  RUN((mma_kernel<kF16>), 1, 32, 0, a.data(), b.data(), d.data());
  CHECK(d[0] == INFINITY && d[1] != d[1] && d[8] == 16 && d[9] == 15);
  emulator::set_truncating(false);
}

// Two stages, one thread that loads, one warpgroup that multiplies; the last 64 of K by accumulators of another group.
template <bool kF16, int N>
__global__ void __launch_bounds__(256) wgmma_kernel(const __grid_constant__ TmaMap a, const __grid_constant__ TmaMap b,
                                                    int steps, int row, int column, float* d, int* early) {
  DYNAMIC_SHARED(uint16_t, shared);
  constexpr int kStage = (64 + N) * 64;
  auto* full = reinterpret_cast<uint64_t*>(shared + 2 * kStage);
  uint64_t* empty = full + 2;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_down<24>();
    if (threadIdx.x > 0) return;
    for (int step = 0; step < steps; ++step) {
      const int s = step % 2;
      if (step >= 2) mbarrier_wait(empty + s, (step / 2 - 1) & 1);
      mbarrier_expect(full + s, kStage * 2);
      tma_load_2d(shared + s * kStage, &a, step * 64, row, full + s);
      tma_load_2d(shared + s * kStage + 64 * 64, &b, step * 64, column, full + s);
    }
    return;
  }
  registers_up<240>();
  const int t = int(threadIdx.x) - 128, lane = t % 32;
  float sums[N / 2];
  for (int step = 0; step < steps; ++step) {
    const int s = step % 2;
    mbarrier_wait(full + s, step / 2 & 1);
    const uint64_t da = wgmma_descriptor(shared + s * kStage), db = wgmma_descriptor(shared + s * kStage + 64 * 64);
    keep_registers(sums);
    wgmma_fence();
    for (int k = 0; k < 4; ++k) wgmma<kF16, N>(sums, da + 2 * k, db + 2 * k, step > 0 || k > 0);
    wgmma_commit();
    if (!(sums[5] != sums[5])) atomicAdd(early, 1);
    wgmma_wait<0>();
    keep_registers(sums);
    mbarrier_arrive_if(empty + s, lane == 0);
  }
  for (int j = 0; j < N / 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      d[(t / 32 * 16 + lane / 4 + i / 2 * 8) * N + j * 8 + lane % 4 * 2 + i % 2] = sums[j * 4 + i];
    }
  }
}

template <bool kF16, int N>
void test_wgmma(bool truncating) {
  emulator::set_truncating(truncating);
  // neither rows nor columns fill the boxes; the pitch is more than the columns need
  constexpr int kRows = 100, kColumns = 150, kDepth = 200, kPitch = 208;
  std::vector<uint16_t> memory((kRows + kColumns) * kPitch + 8, encode(kF16, NAN));
  auto* a = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) & ~uintptr_t(15));
  uint16_t* b = a + kRows * kPitch;
  for (int i = 0; i < kRows + kColumns; ++i) {
    for (int k = 0; k < kDepth; ++k) a[i * kPitch + k] = encode(kF16, normal());
  }
  TmaMap map_a, map_b;
  CHECK(make_tma_map(&map_a, a, kRows, kDepth, kPitch * 2, 64));
  CHECK(make_tma_map(&map_b, b, kColumns, kDepth, kPitch * 2, N));
  const int shared = 2 * (64 + N) * 128 + 32;
  CHECK(cudaFuncSetAttribute(wgmma_kernel<kF16, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared) ==
        cudaSuccess);
  std::vector<float> d(64 * N);
  int early = 0;
  const int row = 64, column = N < 150 ? 64 : -16;
  RUN((wgmma_kernel<kF16, N>), 1, 256, size_t(shared), map_a, map_b, 4, row, column, d.data(), &early);
  CHECK(early == 0);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      float x[256] = {}, y[256] = {}, cut = 0;
      double sum = 0, scale = 0;
      const bool inside = row + i < kRows && column + j >= 0 && column + j < kColumns;
      for (int k = 0; k < kDepth; ++k) {
        if (row + i < kRows) x[k] = decode(kF16, a[(row + i) * kPitch + k]);
        if (column + j >= 0 && column + j < kColumns) y[k] = decode(kF16, b[(column + j) * kPitch + k]);
        sum += double(x[k]) * double(y[k]);
        scale += fabs(double(x[k]) * double(y[k]));
      }
      for (int k = 0; k < 256; k += 16) cut = truncated_sum(x + k, y + k, cut);
      const float got = d[size_t(i * N + j)];
      if (!inside) CHECK(got == 0);
      else if (truncating) CHECK(got == cut);
      else CHECK(near(got, sum, scale));
    }
  }
  emulator::set_truncating(false);
}

// d [64, N] = a [64, 32] b [32, N], all in one step: a from memory to registers, b a tile of a tensor of four dimensions, [batch,
// positions, heads, channels], whose rows are positions.
template <bool kF16, int N>
__global__ void __launch_bounds__(128) wgmma_registers_kernel(const __grid_constant__ TmaMap b, int head, int position,
                                                              int batch, const uint16_t* a, float* d, int* early) {
  DYNAMIC_SHARED(uint16_t, shared);
  auto* full = reinterpret_cast<uint64_t*>(shared + 32 * N);
  const int t = int(threadIdx.x), row = t / 32 * 16 + t % 32 / 4, k = t % 4 * 2;
  if (t == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_expect(full, 32 * N * 2);
    for (int n = 0; n < N; n += 64) tma_load_4d(shared + n * 32, &b, n, head, position, batch, full);
  }
  __syncthreads();
  float sums[N / 2];
  for (float& sum : sums) sum = 1;
  uint32_t registers[2][4];
  for (int part = 0; part < 2; ++part) {
    for (int i = 0; i < 4; ++i) {
      memcpy(&registers[part][i], a + (row + i % 2 * 8) * 32 + part * 16 + k + i / 2 * 8, 4);
    }
  }
  mbarrier_wait(full, 0);
  const uint64_t db = wgmma_descriptor_transposed(shared, 32 * 128);
  keep_registers(sums);
  keep_registers(registers);
  wgmma_fence();
  for (int part = 0; part < 2; ++part) wgmma_registers<kF16, N>(sums, registers[part], db + part * 128);
  wgmma_commit();
  if (!(sums[5] != sums[5])) atomicAdd(early, 1);
  wgmma_wait<0>();
  keep_registers(sums);
  keep_registers(registers);
  for (int j = 0; j < N / 8; ++j) {
    for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * N + j * 8 + k + i % 2] = sums[j * 4 + i];
  }
}

template <bool kF16, int N>
void test_wgmma_registers(bool truncating) {
  emulator::set_truncating(truncating);
  // neither channels nor positions fill the boxes
  constexpr int kBatch = 2, kPositions = 41, kHeads = 3, kChannels = N - 16;
  std::vector<uint16_t> memory(kBatch * kPositions * kHeads * kChannels + 8), a(64 * 32);
  auto* b = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) & ~uintptr_t(15));
  for (int i = 0; i < kBatch * kPositions * kHeads * kChannels; ++i) b[i] = encode(kF16, normal());
  for (auto& x : a) x = encode(kF16, normal());
  TmaMap map;
  CHECK(make_tma_map_4d(&map, b, {kChannels, kHeads, kPositions, kBatch},
                        {kChannels * 2, kHeads * kChannels * 2, kPositions * kHeads * kChannels * 2}, 32));
  std::vector<float> d(64 * N);
  for (const int position : {0, 20, -3}) {
    for (int batch = 0; batch <= kBatch; ++batch) {
      int early = 0;
      const int head = batch == 1 ? 2 : 0;
      RUN((wgmma_registers_kernel<kF16, N>), 1, 128, 32 * N * 2 + 8, map, head, position, batch, a.data(), d.data(),
          &early);
      CHECK(early == 0);
      for (int i = 0; i < 64 * N; ++i) {
        const int row = i / N, column = i % N;
        float x[32], y[32] = {};
        double sum = 1, scale = 1;
        for (int k = 0; k < 32; ++k) {
          x[k] = decode(kF16, a[size_t(row * 32 + k)]);
          const int p = position + k;
          if (column < kChannels && p >= 0 && p < kPositions && batch < kBatch) {
            y[k] = decode(kF16, b[((batch * kPositions + p) * kHeads + head) * kChannels + column]);
          }
          sum += double(x[k]) * double(y[k]);
          scale += fabs(double(x[k]) * double(y[k]));
        }
        if (truncating) CHECK(d[size_t(i)] == truncated_sum(x + 16, y + 16, truncated_sum(x, y, 1)));
        else CHECK(near(d[size_t(i)], sum, scale));
      }
    }
  }
  emulator::set_truncating(false);
}

void test_maps() {
  alignas(16) static char memory[256];
  TmaMap map;
  CHECK(make_tma_map(&map, memory, 4, 8, 16, 64));
  CHECK(!make_tma_map(&map, memory + 8, 4, 8, 16, 64));
  CHECK(!make_tma_map(&map, memory, 4, 8, 24, 64));
  CHECK(!make_tma_map(&map, memory, 4, 8, 16, 257));
  CHECK(!make_tma_map(&map, memory, 4, 8, 16, 0));
  CHECK(!make_tma_map(&map, memory, 0, 8, 16, 64));
  CHECK(!make_tma_map(&map, memory, 4, 0, 16, 64));
  CHECK(make_tma_map_4d(&map, memory, {8, 2, 2, 2}, {16, 32, 64}, 64));
  CHECK(make_tma_map_4d(&map, memory, {8, 2, 2, 2}, {16, 16, 48}, 64));
  CHECK(!make_tma_map_4d(&map, memory, {8, 2, 2, 2}, {32, 16, 64}, 64));
  CHECK(!make_tma_map_4d(&map, memory, {8, 2, 2, 2}, {16, 0, 64}, 64));
  CHECK(!make_tma_map_4d(&map, memory, {8, 2, 2, 2}, {16, 40, 80}, 64));
  CHECK(!make_tma_map_4d(&map, memory, {8, 2, 0, 2}, {16, 32, 64}, 64));
}

// ---- streams

void test_memory() {
  char *data = nullptr, *more = nullptr;
  CHECK(setenv("SONDE_EMULATE_MEMORY", "10000", 1) == 0);
  CHECK(cudaMalloc(&data, 6001) == cudaSuccess && reinterpret_cast<uintptr_t>(data) % 256 == 0);
  CHECK(data[0] == char(0xff) && data[6000] == char(0xff));
  CHECK(cudaMallocAsync(&more, 4000, stream) == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  size_t left = 0, all = 0;
  CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && left == 3999 && all == 10000);
  CHECK(cudaMallocAsync(&more, 3999, stream) == cudaSuccess);
  // no further than the block
  char text[100] = "text";
  CHECK(cudaMemcpyAsync(more + 3990, text, 9, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(more + 3990, text, 10, cudaMemcpyHostToDevice, stream) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(text, text + 50, 11, cudaMemcpyDeviceToHost, stream) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  // memory is given back in the stream's order
  CHECK(cudaMemsetAsync(more, 5, 3999, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(data, more, 4, cudaMemcpyDeviceToDevice, stream) == cudaSuccess);
  CHECK(cudaFreeAsync(more, stream) == cudaSuccess);
  CHECK(cudaFreeAsync(more, stream) == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
  synchronize();
  CHECK(data[0] == 5 && data[3] == 5 && data[4] == char(0xff));
  CHECK(cudaMemcpy(text, data, 4, cudaMemcpyDeviceToHost) == cudaSuccess && text[3] == 5);
  CHECK(cudaFree(data) == cudaSuccess);
  CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && left == 10000);
  unsetenv("SONDE_EMULATE_MEMORY");
}

// A pool that keeps freed blocks reuses them for the same size, and for no other before it is trimmed.
void test_pool() {
  CHECK(setenv("SONDE_EMULATE_MEMORY", "10000", 1) == 0);
  cudaMemPool_t pool;
  uint64_t all = UINT64_MAX, none = 0;
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all) == cudaSuccess);
  char* data = nullptr;
  const auto allocates = [&data](size_t bytes) {
    const bool good = cudaMallocAsync(&data, bytes, stream) == cudaSuccess;
    if (good) CHECK(cudaFreeAsync(data, stream) == cudaSuccess);
    else CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    return good;
  };
  CHECK(allocates(6000));
  synchronize();
  CHECK(!allocates(5000) && allocates(6000) && allocates(4000));
  // a block that a stream may still use is kept
  CHECK(cudaMemPoolTrimTo(pool, 0) == cudaSuccess && !allocates(5000));
  synchronize();
  CHECK(cudaMemPoolTrimTo(pool, 0) == cudaSuccess && allocates(5000));
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &none) == cudaSuccess);
  synchronize();
  CHECK(allocates(10000));
  synchronize();
  unsetenv("SONDE_EMULATE_MEMORY");
}

__global__ void add_kernel(int* out, const int* in, int value) {
  if (threadIdx.x == 0) *out = *in + value;
}

void test_streams() {
  cudaStream_t other;
  cudaEvent_t event, later;
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&event, 0) == cudaSuccess && cudaEventCreateWithFlags(&later, 0) == cudaSuccess);
  int *device = nullptr, *pinned = nullptr;
  CHECK(cudaMalloc(&device, 16) == cudaSuccess && cudaMallocHost(&pinned, 16) == cudaSuccess);
  int pageable = 7;

  // pageable memory is copied at once, pinned memory when the stream comes to it
  *pinned = 1;
  CHECK(cudaMemcpyAsync(device, &pageable, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(device + 1, pinned, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  pageable = 8;
  *pinned = 2;
  CHECK(device[0] == -1 && device[1] == -1);
  synchronize();
  CHECK(device[0] == 7 && device[1] == 2);

  // work is done when something waits for it, and only as far as that needs
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 1);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 100);
  CHECK(device[0] == 7);
  CHECK(cudaEventSynchronize(event) == cudaSuccess && device[0] == 8);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess && device[0] == 108);

  // a stream that does not wait for another one is too early, one that waits is not
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 1);
  LAUNCH(add_kernel, 1, 1, 0, other, device + 2, device, 0);
  CHECK(cudaStreamSynchronize(other) == cudaSuccess && device[2] == 108 && device[0] == 108);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(other, event) == cudaSuccess);
  LAUNCH(add_kernel, 1, 1, 0, other, device + 2, device, 0);
  CHECK(device[0] == 108);
  CHECK(cudaStreamSynchronize(other) == cudaSuccess && device[2] == 109);

  // to pageable memory a copy waits, to pinned memory it does not
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 1);
  CHECK(cudaMemcpyAsync(pinned, device, 4, cudaMemcpyDeviceToHost, stream) == cudaSuccess && *pinned == 2);
  CHECK(cudaMemcpyAsync(&pageable, device, 4, cudaMemcpyDeviceToHost, stream) == cudaSuccess && pageable == 110);
  CHECK(*pinned == 110);

  // repeated queries come to an end
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 1);
  CHECK(cudaEventRecord(later, stream) == cudaSuccess);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, event, later) == cudaErrorNotReady);
  CHECK(cudaEventQuery(later) == cudaErrorNotReady && device[0] == 110);
  CHECK(cudaEventQuery(later) == cudaSuccess && device[0] == 111);
  CHECK(cudaEventElapsedTime(&milliseconds, event, later) == cudaSuccess && milliseconds >= 0);
  LAUNCH(add_kernel, 1, 1, 0, stream, device, device, 1);
  CHECK(cudaStreamQuery(stream) == cudaErrorNotReady && cudaStreamQuery(stream) == cudaSuccess && device[0] == 112);
  CHECK(cudaGetLastError() == cudaErrorNotReady);

  // the default stream waits for blocking streams, and the device for all
  cudaStream_t blocking;
  CHECK(cudaStreamCreateWithFlags(&blocking, cudaStreamDefault) == cudaSuccess);
  LAUNCH(add_kernel, 1, 1, 0, blocking, device, device, 1);
  LAUNCH(add_kernel, 1, 1, 0, stream, device + 2, device, 1000);
  CHECK(cudaMemcpy(&pageable, device, 4, cudaMemcpyDeviceToHost) == cudaSuccess && pageable == 113);
  CHECK(device[2] == 109);
  CHECK(cudaDeviceSynchronize() == cudaSuccess && device[2] == 1113);
  CHECK(cudaStreamDestroy(blocking) == cudaSuccess);

  // an event outlives its stream
  LAUNCH(add_kernel, 1, 1, 0, other, device, device, 1);
  CHECK(cudaEventRecord(event, other) == cudaSuccess && cudaStreamDestroy(other) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaSuccess && device[0] == 114);
  CHECK(cudaEventDestroy(event) == cudaSuccess && cudaEventDestroy(later) == cudaSuccess);
  CHECK(cudaFree(device) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
}

void test_host_threads() {
  std::vector<std::thread> threads;
  std::vector<int> results(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i, &results] {
      cudaStream_t own;
      int* data = nullptr;
      CHECK(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking) == cudaSuccess);
      CHECK(cudaMallocAsync(&data, 4, own) == cudaSuccess && cudaMemsetAsync(data, 0, 4, own) == cudaSuccess);
      for (int round = 0; round < 50; ++round) {
        LAUNCH(add_kernel, 1, 64, 0, own, data, data, 0);
        LAUNCH(add_kernel, 1, 1, 0, own, data, data, i);
        if (round % 8 == 0) CHECK(cudaStreamSynchronize(own) == cudaSuccess);
      }
      CHECK(cudaMemcpyAsync(&results[size_t(i)], data, 4, cudaMemcpyDeviceToHost, own) == cudaSuccess);
      CHECK(cudaFreeAsync(data, own) == cudaSuccess && cudaStreamDestroy(own) == cudaSuccess);
      CHECK(cudaGetLastError() == cudaSuccess);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) CHECK(results[size_t(i)] == i * 50);
}

void test_devices() {
  int count = 0, version = 0, device = -1;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
  CHECK(cudaDriverGetVersion(&version) == cudaSuccess && version == 13000);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major == 9 && properties.minor == 0);
  CHECK(std::string(properties.name) == "emulated GPU" && properties.sharedMemPerBlockOptin == 227 << 10);
  setenv("SONDE_EMULATE_SM", "86", 1);
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major == 8 && properties.minor == 6);
  CHECK(properties.sharedMemPerBlockOptin == 99 << 10);
  unsetenv("SONDE_EMULATE_SM");
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  setenv("SONDE_EMULATE_DEVICES", "2", 1);
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 2 && cudaSetDevice(1) == cudaSuccess);
  CHECK(cudaGetDevice(&device) == cudaSuccess && device == 1);
  // a stream, an event and a kernel's attributes belong to the device that was current
  int* out = nullptr;
  cudaStream_t other;
  cudaEvent_t event;
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&event, 0) == cudaSuccess && cudaMallocAsync(&out, 4, other) == cudaSuccess);
  CHECK(cudaEventRecord(event, stream) == cudaErrorInvalidResourceHandle);
  LAUNCH(add_kernel, 1, 1, 0, stream, out, out, 1);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
  CHECK(cudaFuncSetAttribute(add_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 60 << 10) == cudaSuccess);
  LAUNCH(add_kernel, 1, 1, 60 << 10, other, out, out, 1);
  CHECK(cudaGetLastError() == cudaSuccess && cudaEventRecord(event, other) == cudaSuccess);
  CHECK(cudaSetDevice(0) == cudaSuccess && cudaEventSynchronize(event) == cudaSuccess && *out == 0);
  LAUNCH(add_kernel, 1, 1, 60 << 10, stream, out, out, 1);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  CHECK(cudaFreeAsync(out, other) == cudaSuccess && cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaStreamDestroy(other) == cudaSuccess);
  setenv("SONDE_EMULATE_DEVICES", "0", 1);
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
  unsetenv("SONDE_EMULATE_DEVICES");
  CHECK(cudaGetLastError() == cudaErrorNoDevice);
  CHECK(std::string(cudaGetErrorName(cudaErrorNotReady)) == "cudaErrorNotReady");
  CHECK(std::string(cudaGetErrorString(cudaErrorMemoryAllocation)) == "out of memory");
}

// ---- mistakes

struct Mistake {
  const char* name;
  const char* said;
  std::function<void()> make;
};

enum Wrong {
  kLaneElsewhere,
  kTwoBarriers,
  kNamedShort,
  kTwoCollectives,
  kTwoMasks,
  kLanesGone,
  kNotInMask,
  kCopyNotWaited,
  kCopyMisaligned,
  kCopyToGlobal,
  kManyVariables,
  kOverrun,
  kRace,
  kRaceAhead,
};

template <Wrong kWrong>
__global__ void wrong_kernel(float* out) {
  SHARED(float4, tile, [64]);
  const int t = int(threadIdx.x);
  float value = 1;
  if (kWrong == kLaneElsewhere) {
    if (t != 31) value = __shfl_xor_sync(~0u, value, 1);
    __syncthreads();
  }
  if (kWrong == kTwoBarriers) {
    if (t < 32) __syncthreads();
    else __syncthreads_or(1);
  }
  if (kWrong == kNamedShort && t < 32) named_barrier(3, 64);
  if (kWrong == kTwoCollectives) value = t < 16 ? __shfl_xor_sync(~0u, value, 1) : float(__ballot_sync(~0u, 1));
  if (kWrong == kTwoMasks) value = __shfl_xor_sync(t % 32 < 16 ? 0xffffffffu : 0xffff0000u, value, 1);
  if (kWrong == kLanesGone) {
    if (t == 5) return;
    __syncwarp();
  }
  if (kWrong == kNotInMask && t == 9) __syncwarp(0xff);
  if (kWrong == kCopyNotWaited) {
    cp_async16(&tile[t], out, 0);
    cp_async_commit();
  }
  if (kWrong == kCopyMisaligned) cp_async16(reinterpret_cast<char*>(&tile[t]) + 8, out, 0);
  if (kWrong == kCopyToGlobal) cp_async16(out, out, 0);
  if (kWrong == kManyVariables) {
    SHARED(float, more, [12288]);
    more[t] = 1;
  }
  float4* beyond = tile + t + 1;
  if (kWrong == kOverrun) beyond->x = 1;
  if (kWrong == kRace) {
    tile[t].x = 1;
    value = tile[t ^ 1].x;
  }
  if (kWrong == kRaceAhead) {
    // the barrier after the one that is missing must not hide it
    tile[t].x = 1;
    __syncthreads();
    tile[t].x = 2;
    value = tile[t ^ 32].x;
    __syncthreads();
    value += tile[t ^ 32].x;
  }
  out[t] = value;
}

template <Wrong kWrong>
Mistake wrong(const char* name, const char* said) {
  return {name, said, [] {
            static float4 out[64];
            RUN((wrong_kernel<kWrong>), 1, 64, 0, reinterpret_cast<float*>(out));
          }};
}

enum WrongHopper {
  kManyArrivals,
  kNotInitialised,
  kNeverOver,
  kOutside,
  kUnaligned,
  kStillUnderWay,
  kNotFenced,
  kApart,
  kAlone,
  kNotWaited,
  kWritten,
  kOperandOutside,
  kDescriptors,
  kRegistersWritten,
  kInsideAtom,
  kTransposedOutside,
  kCoordinates,
  kOldDevice,
};

template <WrongHopper kWrong>
__global__ void wrong_hopper_kernel(const __grid_constant__ TmaMap map, float* out) {
  DYNAMIC_SHARED(uint16_t, shared);
  auto* barrier = reinterpret_cast<uint64_t*>(shared + 128 * 64);
  const int t = int(threadIdx.x);
  if (t == 0 && kWrong != kNotInitialised) mbarrier_init(barrier, 1);
  for (int i = t; i < 128 * 64; i += 128) shared[i] = 0;
  __syncthreads();
  if (t == 0) {
    if (kWrong == kManyArrivals) {
      mbarrier_init(barrier, 2);
      for (int i = 0; i < 3; ++i) mbarrier_expect(barrier, 16);
    }
    if (kWrong == kNotInitialised) mbarrier_wait(barrier, 0);
    if (kWrong == kNeverOver) {
      mbarrier_expect(barrier, 64 * 128 + 2);
      tma_load_2d(shared, &map, 0, 0, barrier);
      mbarrier_wait(barrier, 0);
    }
    if (kWrong == kOutside) tma_load_2d(shared + 65 * 64, &map, 0, 0, barrier);
    if (kWrong == kUnaligned) tma_load_2d(shared + 64, &map, 0, 0, barrier);
    if (kWrong == kStillUnderWay || kWrong == kOldDevice) tma_load_2d(shared, &map, 0, 0, barrier);
    if (kWrong == kCoordinates) tma_load_4d(shared, &map, 0, 0, 0, 0, barrier);
  }
  if (kWrong < kNotFenced) return;
  float d[32] = {};
  const uint64_t a = wgmma_descriptor(shared), b = wgmma_descriptor(shared + 64 * 64);
  if (kWrong == kApart) out[t] = float(__shfl_xor_sync(~0u, t, 1));
  if (kWrong == kAlone && t == 40) atomicAdd(out, 1.0f);
  if (kWrong != kNotFenced) wgmma_fence();
  uint32_t registers[4] = {};
  const uint64_t transposed = wgmma_descriptor_transposed(shared, 128 * 128);
  if (kWrong == kRegistersWritten) wgmma_registers<true, 64>(d, registers, transposed);
  else if (kWrong == kInsideAtom) wgmma_registers<true, 64>(d, registers, transposed + 8);
  else if (kWrong == kTransposedOutside) wgmma_registers<true, 64>(d, registers, transposed + 15 * 64);
  else if (kWrong == kOperandOutside) wgmma<true, 64>(d, a, b + 64, 1);
  else wgmma<true, 64>(d, a, kWrong == kDescriptors && t == 77 ? b + 2 : b, 1);
  wgmma_commit();
  if (kWrong == kWritten) d[3] = 1;
  if (kWrong == kRegistersWritten && t == 100) registers[2] = 7;
  if (kWrong == kNotWaited) wgmma_wait<1>();
  else wgmma_wait<0>();
  out[t] = d[0] + d[3];
}

template <WrongHopper kWrong>
Mistake wrong_hopper(const char* name, const char* said) {
  return {name, said, [] {
            static float4 in[1024];
            std::vector<float> out(128);
            TmaMap map;
            CHECK(make_tma_map(&map, in, 64, 64, 128, 64));
            if (kWrong == kOldDevice) setenv("SONDE_EMULATE_SM", "80", 1);
            RUN((wrong_hopper_kernel<kWrong>), 1, 128, 128 * 128 + 8, map, out.data());
          }};
}

const std::vector<Mistake>& mistakes() {
  static const std::vector<Mistake> all = {
    wrong<kLaneElsewhere>("lane_elsewhere",
                          "deadlock: thread 0 waits in __shfl_xor_sync; thread 31 waits in __syncthreads"),
    wrong<kTwoBarriers>("two_barriers", "different barriers, __syncthreads and __syncthreads_or"),
    wrong<kNamedShort>("named_short", "deadlock: thread 0 waits in named_barrier"),
    wrong<kTwoCollectives>("two_collectives",
                           "thread 16 of wrong_kernel<kWrong>: lanes diverge: some in __shfl_xor_sync"),
    wrong<kTwoMasks>("two_masks", "lanes diverge: some in __shfl_xor_sync with mask ffffffff, some in "),
    wrong<kLanesGone>("lanes_gone", "lane"),
    wrong<kNotInMask>("not_in_mask",
                      "block (0,0,0) thread 9 of wrong_kernel<kWrong>: __syncwarp: lane 9 is not in its own mask"),
    wrong<kCopyNotWaited>("copy_not_waited", "left with cp.async copies that it did not wait for"),
    wrong<kCopyMisaligned>("copy_misaligned", "cp.async: not 16-byte aligned"),
    wrong<kCopyToGlobal>("copy_to_global", "cp.async: the destination is not in shared memory"),
    wrong<kManyVariables>("many_variables", "50176 bytes of SHARED variables: at most 48 KiB"),
#if defined(__SANITIZE_ADDRESS__)
    wrong<kOverrun>("overrun", "heap-buffer-overflow"),
#endif
#if defined(__SANITIZE_THREAD__)
    wrong<kRace>("race", "data race"),
    wrong<kRaceAhead>("race_ahead", "data race"),
#endif
    wrong_hopper<kManyArrivals>("many_arrivals", "mbarrier: too many arrivals"),
    wrong_hopper<kNotInitialised>("not_initialised", "mbarrier: not initialised"),
    wrong_hopper<kNeverOver>("never_over", "deadlock: thread 0 waits in mbarrier_wait"),
    wrong_hopper<kOutside>("outside", "bulk copy: the destination is outside shared memory"),
    wrong_hopper<kUnaligned>("unaligned", "bulk copy: the destination is not 1024-byte aligned"),
    wrong_hopper<kStillUnderWay>("still_under_way", "bulk copies are under way at the end of the block"),
    wrong_hopper<kNotFenced>("not_fenced", "has not called wgmma_fence"),
    wrong_hopper<kApart>("apart", "wgmma: the lanes of a warp may have gone apart since __shfl_xor_sync"),
    wrong_hopper<kAlone>("alone", "wgmma: the lanes of a warp may have gone apart since an atomic operation"),
    wrong_hopper<kNotWaited>("not_waited", "left with wgmma that nobody waited for"),
    wrong_hopper<kWritten>("written", "wgmma: an accumulator was written before the wait for it"),
    wrong_hopper<kOperandOutside>("operand_outside", "wgmma: an operand lies outside shared memory"),
    wrong_hopper<kDescriptors>("descriptors",
                               "wgmma: thread 77 of the warpgroup and its first differ in their operands"),
    wrong_hopper<kRegistersWritten>("registers_written",
                                    "wgmma: the registers of an operand were written before the wait for it"),
    wrong_hopper<kInsideAtom>("inside_atom", "wgmma: a transposed operand begins inside an atom of the swizzle"),
    wrong_hopper<kTransposedOutside>("transposed_outside", "wgmma: an operand lies outside shared memory"),
    wrong_hopper<kCoordinates>("coordinates", "bulk copy: 4 coordinates for a map of 2 dimensions"),
    wrong_hopper<kOldDevice>("old_device", "bulk copy: needs compute capability 9.0"),
    {"stream_gone", "a stream that does not exist, or no longer", [] { cudaStreamSynchronize(cudaStream_t(&rng)); }},
  };
  return all;
}

// In a process of its own, which starts anew: ThreadSanitizer does not go on in a fork.
void demand(const Mistake& mistake) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    dup2(ends[1], 2);
    execl("/proc/self/exe", "emulator_test", mistake.name, nullptr);
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char chunk[4096];
  for (;;) {
    const ssize_t size = read(ends[0], chunk, sizeof chunk);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    said.append(chunk, size_t(size));
  }
  close(ends[0]);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  const bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  if (failed && said.find(mistake.said) != std::string::npos) return;
  fprintf(stderr, "emulator_test: %s: should have said \"%s\", but said:\n%s\n", mistake.name, mistake.said,
          said.c_str());
  exit(1);
}

int make(const std::string& name) {
  for (const Mistake& mistake : mistakes()) {
    if (mistake.name == name) mistake.make();
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  if (argc > 1) return make(argv[1]);
  test_functions();
  for (int seed = 0; seed < kSchedules; ++seed) {
    emulator::set_schedule(seed);
    test_launches();
    test_warps();
    test_blocks();
    test_copies();
    test_mma<false>(seed % 2);
    test_mma<true>(seed % 2);
    test_wgmma<false, 64>(seed == 1);
    test_wgmma<true, 128>(seed == 2);
    test_wgmma<false, 256>(seed == 3);
    test_wgmma_registers<false, 64>(seed == 1);
    test_wgmma_registers<true, 64>(seed == 2);
    test_wgmma_registers<false, 128>(seed == 3);
  }
  test_missing_barriers();
  emulator::set_schedule(0);
  test_maps();
  test_devices();
  test_memory();
  test_pool();
  test_streams();
  test_host_threads();
  for (const Mistake& mistake : mistakes()) demand(mistake);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  printf("emulator_test: good, %zu mistakes found\n", mistakes().size());
  return 0;
}
