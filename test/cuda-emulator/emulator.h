// Runs CUDA kernels on the CPU: a fiber for each thread of a block, blocks one after the other. A warp's collective
// operations are rendezvous of its fibers. Asynchronous operations (copies, wgmma) are carried out as late as possible,
// and until then their destinations hold NaN, so that a missing wait shows. Kernels are instrumented by the sanitizer
// that they are compiled with; the emulator is never compiled with -fsanitize=thread, but with -DEMULATOR_TSAN=1, which
// makes it describe its fibers to ThreadSanitizer.
//
// A mistake that is certain ends the process: "emulator: block (0,0,0) thread 5 of kernel: what is wrong".
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <string>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace emulator {

// 0: warps in order, each as far as it goes. 1: the last warp first. 2, 3: all threads in turn, up and down. 4 and
// more: warps at random. One warp far ahead shows missing barriers; taking turns hides most. Also
// SONDE_EMULATE_SCHEDULE.
void set_schedule(int seed);
// Tensor cores sum as H100's do: aligned to the largest, two bits more than float32 has, cut off, not rounded. Also
// SONDE_EMULATE_TRUNCATION=1.
void set_truncating(bool truncating);
// SONDE_EMULATE_SM: the compute capability times ten, 90 by default
int capability();

enum Collective {
  kShuffleXor,
  kShuffleDown,
  kShuffleUp,
  kShuffle,
  kBallot,
  kSyncWarp,
  kLdmatrix,
  kLdmatrixTransposed,
  kMmaBf16,
  kMmaF16,
  // of a warpgroup
  kWgmma,
  kWgmmaCommit,
  kWgmmaWait,
};

// A thread's inputs and outputs of a collective operation.
struct Part {
  uint64_t in = 0, out = 0;
  int parameter = 0, width = 32;
  const void* row = nullptr;
  uint32_t* registers = nullptr;
  const uint32_t* a = nullptr;
  uint32_t b[2] = {};
  float* d = nullptr;
  uint64_t descriptors[2] = {};
  int columns = 0;
  bool accumulate = false, f16 = false;
  bool registers_and_transposed = false;  // a in registers, the other operand transposed
};

struct Thread {
  dim3 thread, block, block_size, grid_size;
  char* shared;
};
extern Thread* current;

[[noreturn]] __attribute__((format(printf, 1, 2))) void die(const char* format, ...);
void join_collective(uint32_t mask, Collective collective, Part* part);
int block_barrier(const char* name, int predicate, int combine);  // 0: count, 1: or, 2: and
void named_barrier(int id, int threads);
void* shared_variable(const void* key, size_t bytes);
void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int pending);
void read_row(const void* row);  // for ldmatrix: dies unless it is 16 bytes of shared memory
void fence_wgmma();
void act_alone(const char* name);  // an operation that a lane does without the others of its warp

// Boxes have 64 elements of dimension 0 and box_rows of dimension rank / 2.
struct Map {
  const char* base;
  int rank;           // 2 or 4
  uint64_t shape[4];  // the innermost dimension first
  uint64_t pitch[4];  // bytes, of each dimension but the innermost
  uint32_t box_rows;
};
bool make_map(Map* map, const void* base, int rank, const uint64_t* shape, const uint64_t* pitches, uint32_t box_rows);
void load_box(void* to, const Map* map, int rank, const int* at, uint64_t* barrier);
void barrier_init(uint64_t* barrier, int count);
void barrier_arrive(uint64_t* barrier, int bytes);
void barrier_wait(uint64_t* barrier, int parity);

// Runs one kernel now: called by its stream.
void run_grid(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace emulator

// ---- the primitives of kernels/primitives.cuh

inline uint16_t float_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t float_to_half(float x);
float half_to_float(uint16_t bits);
inline uint32_t pair_bf16(float low, float high) { return float_to_bf16(low) | uint32_t(float_to_bf16(high)) << 16; }
inline uint32_t pair_half(float low, float high) { return float_to_half(low) | uint32_t(float_to_half(high)) << 16; }

inline float max_or_nan(float a, float b) { return a != a ? a : b != b ? b : a > b ? a : b; }

// Hardware may be wrong by as many units in the last place: so are these, by a number that the argument's bits choose.
inline float emulated_deviation(float argument, float result, int most) {
  if (!(fabsf(result) >= 0x1p-126f)) return result != result ? result : copysignf(0, result);
  if (fabsf(result) == INFINITY || argument == 0 || argument == 1) return result;
  uint32_t hash, bits;
  memcpy(&hash, &argument, 4);
  memcpy(&bits, &result, 4);
  hash *= 0x9e3779b9u;
  const uint32_t moved = bits + (hash >> 16) % uint32_t(2 * most + 1) - uint32_t(most);
  float y;
  memcpy(&y, &moved, 4);
  return fabsf(y) >= 0x1p-126f && fabsf(y) < INFINITY ? y : result;
}
inline float exp2_approx(float x) { return emulated_deviation(x, float(exp2(double(x))), 2); }
inline float reciprocal_approx(float x) { return emulated_deviation(x, float(1 / double(x)), 1); }

inline void named_barrier(int id, int threads) { emulator::named_barrier(id, threads); }

inline void cp_async16(void* to, const void* from, int bytes) { emulator::copy_async(to, from, bytes); }
inline void cp_async_commit() { emulator::commit_copies(); }
template <int N>
void cp_async_wait() {
  emulator::wait_copies(N);
}

inline void emulated_ldmatrix(uint32_t (&r)[4], const void* row, emulator::Collective collective) {
  emulator::read_row(row);
  uint64_t seen[2];
  memcpy(seen, row, 16);  // each lane reads its own row here, where sanitizers look
  asm volatile("" ::"r"(seen));
  emulator::Part part;
  part.registers = r;
  part.row = row;
  emulator::join_collective(~0u, collective, &part);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulated_ldmatrix(r, row, emulator::kLdmatrix); }
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  emulated_ldmatrix(r, row, emulator::kLdmatrixTransposed);
}

inline void emulated_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         emulator::Collective collective) {
  emulator::Part part;
  part.d = d;
  part.a = a;
  part.b[0] = b0;
  part.b[1] = b1;
  emulator::join_collective(~0u, collective, &part);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated_mma(d, a, b0, b1, emulator::kMmaBf16);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated_mma(d, a, b0, b1, emulator::kMmaF16);
}

using TmaMap = emulator::Map;
inline bool make_tma_map(TmaMap* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch_bytes,
                         uint32_t box_rows) {
  const uint64_t shape[2] = {columns, rows};
  return emulator::make_map(map, base, 2, shape, &pitch_bytes, box_rows);
}
inline bool make_tma_map_4d(TmaMap* map, const void* base, const uint64_t (&shape)[4], const uint64_t (&pitch_bytes)[3],
                            uint32_t box_rows) {
  return emulator::make_map(map, base, 4, shape, pitch_bytes, box_rows);
}
inline void tma_load_2d(void* to, const TmaMap* map, int column, int row, uint64_t* barrier) {
  const int at[2] = {column, row};
  emulator::load_box(to, map, 2, at, barrier);
}
inline void tma_load_4d(void* to, const TmaMap* map, int x, int y, int z, int w, uint64_t* barrier) {
  const int at[4] = {x, y, z, w};
  emulator::load_box(to, map, 4, at, barrier);
}
inline void mbarrier_init(uint64_t* barrier, int count) { emulator::barrier_init(barrier, count); }
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive_if(uint64_t* barrier, bool wanted) {
  if (wanted) emulator::barrier_arrive(barrier, 0);
}
inline void mbarrier_expect(uint64_t* barrier, int bytes) { emulator::barrier_arrive(barrier, bytes); }
inline void mbarrier_wait(uint64_t* barrier, int parity) { emulator::barrier_wait(barrier, parity); }

template <int N>
void registers_up() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "");
}
template <int N>
void registers_down() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "");
}
inline void wgmma_fence() { emulator::fence_wgmma(); }
inline void wgmma_commit() {
  emulator::Part part;
  emulator::join_collective(~0u, emulator::kWgmmaCommit, &part);
}
template <int N>
void wgmma_wait() {
  emulator::Part part;
  part.parameter = N;
  emulator::join_collective(~0u, emulator::kWgmmaWait, &part);
}
template <int N>
void keep_registers(float (&)[N]) {}
template <int N>
void forget_registers(float (&d)[N]) {
  for (float& x : d) x = NAN;
}
template <int N>
void keep_registers(uint32_t (&)[N][4]) {}

// as in kernels/primitives.cuh, from the start of the block's dynamic shared memory
inline uint64_t wgmma_descriptor(const void* shared) {
  const auto address = uint64_t(static_cast<const char*>(shared) - emulator::current->shared);
  return (address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
inline uint64_t wgmma_descriptor_transposed(const void* shared, int block_bytes) {
  const auto address = uint64_t(static_cast<const char*>(shared) - emulator::current->shared);
  return (address & 0x3ffff) >> 4 | uint64_t(block_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
template <bool F16, int N>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  static_assert(N == 64 || N == 128 || N == 256, "");
  emulator::Part part;
  part.d = d;
  part.descriptors[0] = a;
  part.descriptors[1] = b;
  part.columns = N;
  part.accumulate = accumulate != 0;
  part.f16 = F16;
  emulator::join_collective(~0u, emulator::kWgmma, &part);
}
template <bool F16, int N>
void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) {
  static_assert(N == 64 || N == 128, "");
  emulator::Part part;
  part.d = d;
  part.a = a;
  part.descriptors[1] = b;
  part.columns = N;
  part.accumulate = true;
  part.f16 = F16;
  part.registers_and_transposed = true;
  emulator::join_collective(~0u, emulator::kWgmma, &part);
}
