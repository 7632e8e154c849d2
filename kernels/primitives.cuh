// Instructions that the kernels use beyond plain CUDA C++: asynchronous copies, tensor-core products, barriers. Under nvcc
// these are single PTX instructions (PTX ISA 8.7); test/cuda-emulator has the same names for g++, so that every kernel also
// runs on a CPU.
#pragma once

#ifdef __CUDACC__

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define SHARED(T, name, dims) __shared__ T name dims
#define DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(1024) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)
#define SONDE_DEVICE __device__ __forceinline__

// to the nearest, ties to even; NaN stays NaN
SONDE_DEVICE uint16_t float_to_bf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
SONDE_DEVICE uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
SONDE_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
// two of them, the first in the lower half
SONDE_DEVICE uint32_t pair_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
SONDE_DEVICE uint32_t pair_half(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// NaN where one of them is
SONDE_DEVICE float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// 2^x and 1/x by one instruction of the special function unit each: within 2 and 1 units in the last place. What would be
// subnormal is 0.
SONDE_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SONDE_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

SONDE_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes at once, of global memory where `wanted` is not 0, zeros otherwise, and from shared memory. A predicate and no branch; and
// the compiler takes plain accesses apart where it has them behind a condition.
SONDE_DEVICE uint4 load_global16_if(const void* from, unsigned wanted) {
  uint4 x = {0, 0, 0, 0};
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.b32 wanted, %5, 0;\n"
      "@wanted ld.global.v4.b32 {%0,%1,%2,%3}, [%4];\n"
      "}"
      : "+r"(x.x), "+r"(x.y), "+r"(x.z), "+r"(x.w)
      : "l"(__cvta_generic_to_global(from)), "r"(wanted)
      : "memory");
  return x;
}
SONDE_DEVICE void store_global16_if(void* to, const uint4& x, unsigned wanted) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.b32 wanted, %5, 0;\n"
      "@wanted st.global.v4.b32 [%0], {%1,%2,%3,%4};\n"
      "}" ::"l"(__cvta_generic_to_global(to)),
      "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(wanted)
      : "memory");
}
SONDE_DEVICE uint4 load_shared16(const void* from) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(shared_address(from))
               : "memory");
  return x;
}

// a barrier of `threads` threads of the block, whole warps; ids 1 to 15
SONDE_DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The compiler must not move accesses to these across this point, or assume that they stay what they were: for accumulators, which
// the tensor cores use behind its back, and so that it does not keep what it has computed of them in further registers.
template <int N>
SONDE_DEVICE void keep_registers(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Nobody needs what these registers hold: the compiler need not keep it until here.
template <int N>
SONDE_DEVICE void forget_registers(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "=f"(d[i]));
}

// ---- sm_80: asynchronous copies from global to shared memory, fragments, products of a warp

// the first `bytes` (0 to 16) of 16 are copied, the rest become zero
SONDE_DEVICE void cp_async16(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
SONDE_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// waits until at most N of the groups committed are under way
template <int N>
SONDE_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// four 8 x 8 matrices of 16-bit elements; lane 8 i + r gives the address of row r of matrix i
SONDE_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
SONDE_DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

#define SONDE_MMA(TYPE)                                                     \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE       \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
// d [16, 8] += a [16, 16] b [16, 8]
SONDE_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { SONDE_MMA("bf16"); }
SONDE_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { SONDE_MMA("f16"); }
#undef SONDE_MMA

// ---- sm_90a: the bulk copy engine, barriers that count bytes, products of four warps

using TmaMap = CUtensorMap;

// A map of `rows` x `columns` 16-bit elements, rows `pitch_bytes` apart, that is read in boxes of box_rows x 64, the
// 128-byte swizzle in shared memory. false if the copy engine cannot read such a matrix.
bool make_tma_map(TmaMap* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch_bytes,
                  uint32_t box_rows);
// A map of a tensor of four dimensions, the innermost first, each of the others pitch_bytes apart, that is read in boxes of
// 64 x 1 x box_rows x 1, as above. Each pitch is a multiple of the one before.
bool make_tma_map_4d(TmaMap* map, const void* base, const uint64_t (&shape)[4], const uint64_t (&pitch_bytes)[3],
                     uint32_t box_rows);

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SONDE_HOPPER 1

SONDE_DEVICE void mbarrier_init(uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
SONDE_DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// One arrival of the threads that are wanted. A predicate and no branch, so that the lanes of a warp stay together.
SONDE_DEVICE void mbarrier_arrive_if(uint64_t* barrier, bool wanted) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.b32 wanted, %1, 0;\n"
      "@wanted mbarrier.arrive.shared::cta.b64 _, [%0];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(int(wanted))
      : "memory");
}
// arrives, and has the phase wait for so many bytes besides
SONDE_DEVICE void mbarrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// until the phase of this parity is over
SONDE_DEVICE void mbarrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
SONDE_DEVICE void tma_load_2d(void* to, const TmaMap* map, int column, int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

SONDE_DEVICE void tma_load_4d(void* to, const TmaMap* map, int x, int y, int z, int w, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// a warpgroup takes or gives back registers
template <int N>
SONDE_DEVICE void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
SONDE_DEVICE void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

SONDE_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
SONDE_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
SONDE_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int N>
SONDE_DEVICE void keep_registers(uint32_t (&a)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
  }
}

// Shared memory as wgmma reads it: K-major rows of 128 bytes, the 128-byte swizzle, groups of 8 rows 1024 bytes apart
// (PTX ISA, "Matrix descriptor").
SONDE_DEVICE uint64_t wgmma_descriptor(const void* shared) {
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

// A transposed operand, whose rows of 128 bytes are 64 neighbours of N (MN-major): groups of 8 rows of K 1024 bytes apart, the next 64
// of N after block_bytes. 16 of K are 2048 bytes: 128 in a descriptor's units of 16.
SONDE_DEVICE uint64_t wgmma_descriptor_transposed(const void* shared, int block_bytes) {
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(block_bytes >> 4) << 16 |
         uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

#define SONDE_8(d, o)                                                                                         \
  "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), \
      "+f"(d[o + 7])
#define SONDE_32(d, o) SONDE_8(d, o), SONDE_8(d, o + 8), SONDE_8(d, o + 16), SONDE_8(d, o + 24)
#define SONDE_WGMMA_128(TYPE)                                                                                \
  asm volatile(                                                                                              \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                           \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                           \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," \
      "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
      "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, p, 1, 1, 0, 0;\n}"                        \
      : SONDE_32(d, 0), SONDE_32(d, 32)                                                                      \
      : "l"(a), "l"(b), "r"(accumulate))
#define SONDE_WGMMA_256(TYPE)                                                                                  \
  asm volatile(                                                                                                \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                            \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE                                             \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,"   \
      "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,"   \
      "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,"   \
      "%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101," \
      "%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,"   \
      "%122,%123,%124,%125,%126,%127}, %128, %129, p, 1, 1, 0, 0;\n}"                                          \
      : SONDE_32(d, 0), SONDE_32(d, 32), SONDE_32(d, 64), SONDE_32(d, 96)                                      \
      : "l"(a), "l"(b), "r"(accumulate))

// d [64, N] = a [64, 16] b [N, 16]^T (+ d), spread over the four warps of a warpgroup; done at a later wgmma_wait
template <bool F16, int N>
SONDE_DEVICE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  static_assert(N == 128 || N == 256, "");
  if constexpr (N == 128 && F16) SONDE_WGMMA_128("f16");
  if constexpr (N == 128 && !F16) SONDE_WGMMA_128("bf16");
  if constexpr (N == 256 && F16) SONDE_WGMMA_256("f16");
  if constexpr (N == 256 && !F16) SONDE_WGMMA_256("bf16");
}
#define SONDE_WGMMA_REGISTERS_64(TYPE)                                                                   \
  asm volatile(                                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                       \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                        \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
      "%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"                                 \
      : SONDE_32(d, 0)                                                                                   \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))
#define SONDE_WGMMA_REGISTERS_128(TYPE)                                                                  \
  asm volatile(                                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                       \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                       \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
      "%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49," \
      "%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}" \
      : SONDE_32(d, 0), SONDE_32(d, 32)                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))

// d [64, N] += a [64, 16] b [16, N]: a in registers, as mma_bf16 has it, 16 rows a warp; b transposed
template <bool F16, int N>
SONDE_DEVICE void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) {
  static_assert(N == 64 || N == 128, "");
  if constexpr (N == 64 && F16) SONDE_WGMMA_REGISTERS_64("f16");
  if constexpr (N == 64 && !F16) SONDE_WGMMA_REGISTERS_64("bf16");
  if constexpr (N == 128 && F16) SONDE_WGMMA_REGISTERS_128("f16");
  if constexpr (N == 128 && !F16) SONDE_WGMMA_REGISTERS_128("bf16");
}
#undef SONDE_WGMMA_REGISTERS_128
#undef SONDE_WGMMA_REGISTERS_64
#undef SONDE_WGMMA_256
#undef SONDE_WGMMA_128
#undef SONDE_32
#undef SONDE_8

#endif  // sm_90a

#else  // g++

#include "cuda_runtime.h"

#define SONDE_DEVICE inline
#define SONDE_HOPPER 1

#endif
