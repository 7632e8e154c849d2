// Stands in for the CUDA toolkit's header of this name when kernels are compiled by g++ for the emulator: the language's words, the
// primitives of kernels/primitives.cuh, and as much of the runtime's functions as the backend uses.
#pragma once
#include <math.h>
#include <stdlib.h>

#include <cmath>
#include <tuple>
#include <utility>

#include "emulator.h"

// ---- language

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define blockDim (emulator::current->block_size)
#define gridDim (emulator::current->grid_size)

// Not `static`: a static keeps the last block's values, and has no red zones around it. The name is looked up once per thread.
#define SHARED(T, name, dims) \
  static char name##_key;     \
  using name##_type = T dims; \
  name##_type& name = *static_cast<name##_type*>(emulator::shared_variable(&name##_key, sizeof(name##_type)))
#define DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulator::current->shared)

inline void __syncthreads() { emulator::block_barrier("__syncthreads", 0, 0); }
inline int __syncthreads_count(int p) { return emulator::block_barrier("__syncthreads_count", p != 0, 0); }
inline int __syncthreads_or(int p) { return emulator::block_barrier("__syncthreads_or", p != 0, 1); }
inline int __syncthreads_and(int p) { return emulator::block_barrier("__syncthreads_and", p != 0, 2); }
inline void named_barrier(int id, int threads) { emulator::named_barrier(id, threads); }
inline void __syncwarp(uint32_t mask = ~0u) {
  emulator::Part part;
  emulator::meet(mask, emulator::kSyncWarp, &part);
}
template <class T>
T emulated_shuffle(uint32_t mask, T value, int parameter, emulator::Meeting meeting) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "");
  emulator::Part part;
  memcpy(&part.in, &value, sizeof(T));
  part.parameter = parameter;
  emulator::meet(mask, meeting, &part);
  memcpy(&value, &part.out, sizeof(T));
  return value;
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane) {
  return emulated_shuffle(mask, value, lane, emulator::kShuffle);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes) {
  return emulated_shuffle(mask, value, lanes, emulator::kShuffleXor);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int lanes) {
  return emulated_shuffle(mask, value, lanes, emulator::kShuffleUp);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int lanes) {
  return emulated_shuffle(mask, value, lanes, emulator::kShuffleDown);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  emulator::Part part;
  part.in = predicate != 0;
  emulator::meet(mask, emulator::kBallot, &part);
  return uint32_t(part.out);
}
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T, class U>
T atomicAdd(T* p, U value) {
  return __atomic_fetch_add(p, T(value), __ATOMIC_RELAXED);
}
template <class T, class U>
T atomicOr(T* p, U value) {
  return __atomic_fetch_or(p, T(value), __ATOMIC_RELAXED);
}
template <class T, class U>
T atomicMax(T* p, U value) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (T(value) > old && !__atomic_compare_exchange_n(p, &old, T(value), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T, class U, class V>
T atomicCAS(T* p, U expected, V value) {
  T old = T(expected);
  __atomic_compare_exchange_n(p, &old, T(value), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return old;
}

inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int32_t __float_as_int(float x) { return int32_t(__float_as_uint(x)); }
inline float __uint_as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int32_t bits) { return __uint_as_float(uint32_t(bits)); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a)*b >> 64); }

// ---- primitives

inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t float_to_half(float x);
float half_to_float(uint16_t bits);

inline void cp_async16(void* to, const void* from, int bytes) { emulator::copy_async(to, from, bytes); }
inline void cp_async_commit() { emulator::commit_copies(); }
template <int N>
void cp_async_wait() {
  emulator::wait_copies(N);
}
inline void emulated_ldmatrix(uint32_t (&r)[4], const void* row, emulator::Meeting meeting) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::die("ldmatrix: a row is not 16-byte aligned");
  uint64_t seen[2];
  memcpy(seen, row, 16);  // each lane reads its own row here, where sanitizers look
  asm volatile("" ::"r"(seen));
  emulator::Part part;
  part.registers = r;
  part.row = row;
  emulator::meet(~0u, meeting, &part);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulated_ldmatrix(r, row, emulator::kLdmatrix); }
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  emulated_ldmatrix(r, row, emulator::kLdmatrixTransposed);
}
inline void emulated_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, emulator::Meeting meeting) {
  emulator::Part part;
  part.d = d;
  part.a = a;
  part.b[0] = b0;
  part.b[1] = b1;
  emulator::meet(~0u, meeting, &part);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated_mma(d, a, b0, b1, emulator::kMmaBf16);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated_mma(d, a, b0, b1, emulator::kMmaF16);
}

using TmaMap = emulator::Map;
inline bool make_tma_map(TmaMap* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch,
                         uint32_t box_rows) {
  return emulator::make_map(map, base, rows, columns, pitch, box_rows);
}
inline void tma_load_2d(void* to, const TmaMap* map, int column, int row, uint64_t* barrier) {
  emulator::load_box(to, map, column, row, barrier);
}
inline void mbarrier_init(uint64_t* barrier, int count) { emulator::barrier_init(barrier, count); }
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint64_t* barrier) { emulator::barrier_arrive(barrier, 0); }
inline void mbarrier_expect(uint64_t* barrier, int bytes) { emulator::barrier_arrive(barrier, bytes); }
inline void mbarrier_wait(uint64_t* barrier, int parity) { emulator::barrier_wait(barrier, parity); }
template <int N>
void registers_up() {}
template <int N>
void registers_down() {}
inline void wgmma_fence() {}
inline void wgmma_commit() {
  emulator::Part part;
  emulator::meet(~0u, emulator::kWgmmaCommit, &part);
}
template <int N>
void wgmma_wait() {
  emulator::Part part;
  part.parameter = N;
  emulator::meet(~0u, emulator::kWgmmaWait, &part);
}
template <int N>
void keep_registers(float (&)[N]) {}
// as in kernels/primitives.cuh, from the start of the block's shared memory
inline uint64_t wgmma_descriptor(const void* shared) {
  const auto address = uint64_t(static_cast<const char*>(shared) - emulator::current->shared);
  return (address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
template <bool F16, int N>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  emulator::Part part;
  part.d = d;
  part.descriptors[0] = a;
  part.descriptors[1] = b;
  part.columns = N;
  part.accumulate = accumulate != 0;
  part.f16 = F16;
  emulator::meet(~0u, emulator::kWgmma, &part);
}

// ---- runtime

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorMemoryAllocation,
  cudaErrorInvalidConfiguration,
  cudaErrorNoDevice,
  cudaErrorNotReady,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventBlockingSync = 1 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaMemPoolAttrReleaseThreshold };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
using cudaMemPool_t = void*;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, int attribute, void* value);

namespace emulator {
cudaError_t allow_shared(const void* kernel, int attribute, int bytes);
void enqueue_grid(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  std::function<void()> body);
}  // namespace emulator
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, int attribute, int value) {
  return emulator::allow_shared(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... P, class... A>
void emulated_launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                     A... arguments) {
  std::tuple<P...> held(arguments...);
  emulator::enqueue_grid(name, reinterpret_cast<const void*>(kernel), grid, block, shared, stream,
                         [kernel, held] { std::apply(kernel, held); });
}
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emulated_launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
