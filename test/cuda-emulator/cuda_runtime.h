// Replaces the CUDA toolkit's header of this name when kernels are compiled by g++ for the emulator: the language's
// keywords and built-in functions, and the runtime functions that a backend uses. The primitives of kernels/primitives.cuh
// are in emulator.h.
#pragma once
#include <math.h>
#include <stdlib.h>

#include <cmath>
#include <memory>  // uses the identifier __noinline__, which is a macro from here on
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

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// as in kernels/primitives.cuh
inline uint4* emulated_aligned16(const void* words) {
  if (reinterpret_cast<uintptr_t>(words) % 16) emulator::die("16 bytes at once from %p: no multiple of 16", words);
  return static_cast<uint4*>(const_cast<void*>(words));
}
inline uint4 load_global16_if(const void* from, unsigned wanted) {
  return wanted ? *emulated_aligned16(from) : uint4{0, 0, 0, 0};
}
inline void store_global16_if(void* to, const uint4& x, unsigned wanted) {
  if (wanted) *emulated_aligned16(to) = x;
}
inline uint4 load_shared16(const void* from) { return *emulated_aligned16(from); }

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define blockDim (emulator::current->block_size)
#define gridDim (emulator::current->grid_size)

// Not `static`: a static keeps the last block's values, and has no red zones around it. The name is looked up once per
// thread.
#define SHARED(T, name, dims) \
  static char name##_key;     \
  using name##_type = T dims; \
  name##_type& name = *static_cast<name##_type*>(emulator::shared_variable(&name##_key, sizeof(name##_type)))
#define DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulator::current->shared)

// ---- operations of several threads

inline void __syncthreads() { emulator::block_barrier("__syncthreads", 0, 0); }
inline int __syncthreads_count(int p) { return emulator::block_barrier("__syncthreads_count", p != 0, 0); }
inline int __syncthreads_or(int p) { return emulator::block_barrier("__syncthreads_or", p != 0, 1); }
inline int __syncthreads_and(int p) { return emulator::block_barrier("__syncthreads_and", p != 0, 2); }
inline void __syncwarp(uint32_t mask = ~0u) {
  emulator::Part part;
  emulator::join_collective(mask, emulator::kSyncWarp, &part);
}

template <class T>
T emulated_shuffle(uint32_t mask, T value, int parameter, int width, emulator::Collective collective) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "");
  emulator::Part part;
  memcpy(&part.in, &value, sizeof(T));
  part.parameter = parameter;
  part.width = width;
  emulator::join_collective(mask, collective, &part);
  memcpy(&value, &part.out, sizeof(T));
  return value;
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
  return emulated_shuffle(mask, value, lane, width, emulator::kShuffle);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32) {
  return emulated_shuffle(mask, value, lanes, width, emulator::kShuffleXor);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned lanes, int width = 32) {
  return emulated_shuffle(mask, value, int(lanes), width, emulator::kShuffleUp);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned lanes, int width = 32) {
  return emulated_shuffle(mask, value, int(lanes), width, emulator::kShuffleDown);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  emulator::Part part;
  part.in = predicate != 0;
  emulator::join_collective(mask, emulator::kBallot, &part);
  return uint32_t(part.out);
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// Atomics for the types that CUDA has them for. Relaxed: they order nothing else, which ThreadSanitizer takes into
// account.
template <class T, class Change>
T emulated_atomic(T* p, Change change) {
  emulator::act_alone("an atomic operation");
  T old, changed;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(p, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
#define EMULATED_ATOMIC(name, T, changed)                               \
  inline T name(T* p, T value) {                                        \
    return emulated_atomic(p, [value](T old) -> T { return changed; }); \
  }
EMULATED_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))  // wraps
EMULATED_ATOMIC(atomicAdd, unsigned, old + value)
EMULATED_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATED_ATOMIC(atomicAdd, float, old + value)
EMULATED_ATOMIC(atomicMax, int, old > value ? old : value)
EMULATED_ATOMIC(atomicMax, unsigned, old > value ? old : value)
EMULATED_ATOMIC(atomicMin, int, old < value ? old : value)
EMULATED_ATOMIC(atomicMin, unsigned, old < value ? old : value)
EMULATED_ATOMIC(atomicOr, unsigned, old | value)
EMULATED_ATOMIC(atomicAnd, unsigned, old& value)
EMULATED_ATOMIC(atomicExch, int, ((void)old, value))
EMULATED_ATOMIC(atomicExch, unsigned, ((void)old, value))
EMULATED_ATOMIC(atomicExch, unsigned long long, ((void)old, value))
EMULATED_ATOMIC(atomicExch, float, ((void)old, value))
#undef EMULATED_ATOMIC
#define EMULATED_ATOMIC_CAS(T)                                                                   \
  inline T atomicCAS(T* p, T expected, T value) {                                                \
    emulator::act_alone("an atomic operation");                                                  \
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return expected;                                                                             \
  }
EMULATED_ATOMIC_CAS(int)
EMULATED_ATOMIC_CAS(unsigned)
EMULATED_ATOMIC_CAS(unsigned long long)
#undef EMULATED_ATOMIC_CAS

// ---- functions of one thread

template <class T>
T __ldg(const T* p) {
  return *p;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)(a)*b >> 64);
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline long long __double_as_longlong(double x) {
  long long bits;
  memcpy(&bits, &x, 8);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
extern "C" inline float __expf(float x) noexcept { return expf(x); }  // glibc declares one, in C
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }

// The sine and cosine of pi x, by quarters, which are exact.
inline void sincospi(double x, double* sine, double* cosine) {
  const double quarters = nearbyint(2 * x), rest = (x - quarters / 2) * 3.141592653589793;
  const double s = sin(rest), c = cos(rest);
  const int quarter = int(fmod(quarters, 4)) & 3;
  *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
  *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

// The overloads that CUDA has, so that calls ambiguous to nvcc are ambiguous here. With NaN the other one, as on the GPU.
template <class T>
T emulated_min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T emulated_max(T a, T b) {
  return a > b ? a : b;
}
#define EMULATED_MIN_MAX(A, B, T)                          \
  inline T min(A a, B b) { return emulated_min<T>(a, b); } \
  inline T max(A a, B b) { return emulated_max<T>(a, b); }
EMULATED_MIN_MAX(int, int, int)
EMULATED_MIN_MAX(unsigned, unsigned, unsigned)
EMULATED_MIN_MAX(int, unsigned, unsigned)
EMULATED_MIN_MAX(unsigned, int, unsigned)
EMULATED_MIN_MAX(long, long, long)
EMULATED_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATED_MIN_MAX(long, unsigned long, unsigned long)
EMULATED_MIN_MAX(unsigned long, long, unsigned long)
EMULATED_MIN_MAX(long long, long long, long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATED_MIN_MAX(long long, unsigned long long, unsigned long long)
EMULATED_MIN_MAX(unsigned long long, long long, unsigned long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(double(a), b); }
inline double max(float a, double b) { return fmax(double(a), b); }
inline double min(double a, float b) { return fmin(a, double(b)); }
inline double max(double a, float b) { return fmax(a, double(b)); }

// ---- runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2, cudaHostAllocWriteCombined = 4 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };  // others of the real ones have no meaning here

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock;
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
using cudaMemPool_t = struct EmulatedPool*;

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);

cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void* data, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);

cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);

template <class T>
cudaError_t cudaMalloc(T** data, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(data), bytes);
}
template <class T>
cudaError_t cudaMallocAsync(T** data, size_t bytes, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(data), bytes, stream);
}
template <class T>
cudaError_t cudaMallocHost(T** data, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(data), bytes);
}

// ---- launches

namespace emulator {
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
void enqueue_grid(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  std::function<void()> body);
}  // namespace emulator

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return emulator::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

// Arguments are converted and copied now, and once more for every thread.
template <class... P, class... A>
void emulated_launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                     A&&... arguments) {
  std::tuple<P...> held(std::forward<A>(arguments)...);
  emulator::enqueue_grid(name, reinterpret_cast<const void*>(kernel), grid, block, shared, stream,
                         [kernel, held] { std::apply(kernel, held); });
}
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emulated_launch(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)
