// Runs CUDA kernels on the CPU: a fiber for each thread of a block, blocks one after the other. What a warp does together is a
// meeting of its fibers. What goes on in the background (copies, wgmma) happens as late as it may, and until then its destination
// holds NaN, so that a wait that is missing shows. Kernels are instrumented by whatever sanitizer they are compiled with; the
// runtime is never compiled with -fsanitize=thread, but told with -DEMULATOR_TSAN=1.
#pragma once
#include <stdint.h>
#include <string.h>

#include <functional>
#include <string>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace emulator {

// 0: warps in order, each as far as it goes. 1: the last warp first. 2, 3: all threads in turn, up and down. 4 and more: warps at
// random. One warp far ahead shows missing barriers; taking turns hides most.
void set_schedule(int seed);
// Tensor cores sum as H100's do: aligned to the largest, two bits more than float32 has, cut off, not rounded.
void set_truncating(bool truncating);

enum Meeting {
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
  kWgmma,
  kWgmmaCommit,
  kWgmmaWait,  // of a warpgroup
};

// What a thread brings to a meeting, and takes from it.
struct Part {
  uint64_t in = 0, out = 0;
  int parameter = 0;
  const void* row = nullptr;
  uint32_t* registers = nullptr;
  const uint32_t* a = nullptr;
  uint32_t b[2] = {};
  float* d = nullptr;
  uint64_t descriptors[2] = {};
  int columns = 0;
  bool accumulate = false, f16 = false;
};

struct Thread {
  dim3 thread, block, block_size, grid_size;
  char* shared;
};
extern Thread* current;

[[noreturn]] __attribute__((format(printf, 1, 2))) void die(const char* format, ...);
void meet(uint32_t mask, Meeting meeting, Part* part);
int block_barrier(const char* name, int predicate, int combine);  // 0: count, 1: or, 2: and
void named_barrier(int id, int threads);
void* shared_variable(const void* key, size_t bytes);
void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int pending);

struct Map {
  const char* base;
  uint64_t rows, columns, pitch;
  uint32_t box_rows;
};
bool make_map(Map* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch, uint32_t box_rows);
void load_box(void* to, const Map* map, int column, int row, uint64_t* barrier);
void barrier_init(uint64_t* barrier, int count);
void barrier_arrive(uint64_t* barrier, int bytes);
void barrier_wait(uint64_t* barrier, int parity);

// One kernel, now: what a stream does when its turn comes.
void run_grid(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace emulator
