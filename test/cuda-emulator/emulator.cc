// Fibers, their schedule, and their collective operations.
#include "emulator.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>
#include <vector>

#ifndef EMULATOR_TSAN
#define EMULATOR_TSAN 0
#endif

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
extern "C" {
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
}
#else
#define EMULATOR_ASAN 0
#endif

// A race detector for device code: each CUDA thread is a fiber of ThreadSanitizer's, and only barriers order their
// accesses.
#if EMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
// Library calls inside the runtime are no accesses of the device. Neither are templates of the standard library, of
// which the linker may take an instrumented copy.
struct Quiet {
  Quiet() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Quiet() {
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
};
#else
#define __tsan_acquire(p) (void)(p)
#define __tsan_release(p) (void)(p)
#define __tsan_read_range(p, n) (void)(p)
#define __tsan_write_range(p, n) (void)(p)
struct Quiet {
  Quiet() {}
};
#endif

// ---- switching stacks. Assembly at the top level: a function without visible effects would be optimised away.

extern "C" void emulator_switch_stack(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl emulator_switch_stack
.type emulator_switch_stack,@function
emulator_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulator_switch_stack
.type emulator_switch_stack,%function
emulator_switch_stack:
  sub sp,sp,#160
  stp x19,x20,[sp]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
)");
#else
#error "the emulator switches stacks on x86-64 and arm64 only"
#endif

uint16_t float_to_half(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);                                 // rounds to 65536 or more
  if (size < 0x38800000) return uint16_t(sign | uint32_t(lrintf(ldexpf(fabsf(x), 24))));  // subnormal: units of 2^-24
  const uint32_t rounded = size + 0xfff + (size >> 13 & 1);
  return uint16_t(sign | ((rounded - 0x38000000) >> 13));
}

namespace {

float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// the same digits 112 exponents lower, which is exact for subnormal ones, too
inline float half_value(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, size = uint32_t(half & 0x7fff) << 13;
  if (size >= 0x7c00u << 13) return from_bits(sign | 0x7f800000 | size);
  const float value = from_bits(size) * 0x1p112f;
  return sign ? -value : value;
}
inline float bfloat_value(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

}  // namespace

float half_to_float(uint16_t bits) { return half_value(bits); }

namespace emulator {

Thread* current = nullptr;

namespace {

constexpr size_t kStack = EMULATOR_ASAN || EMULATOR_TSAN ? size_t(256) << 10 : size_t(64) << 10;
constexpr int kWarp = 32, kGroup = 128;

const char* const kNames[] = {
    "__shfl_xor_sync", "__shfl_down_sync", "__shfl_up_sync", "__shfl_sync", "__ballot_sync", "__syncwarp", "ldmatrix",
    "ldmatrix.trans",  "mma.bf16",         "mma.f16",        "wgmma",       "wgmma.commit",  "wgmma.wait",
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  Thread thread;
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;
  void* tsan = nullptr;
  const char* where = "";
  bool fenced = false;          // wgmma_fence since the last wait
  const char* apart = nullptr;  // its operation after which the lanes of its warp may have diverged
  std::vector<Copy> copies;     // under way, of all groups
  std::vector<size_t> groups;   // where in `copies` each committed group ends
};

// The states of a warp's threads, a bit for each. A thread in none of these is at a collective operation or a named barrier.
struct States {
  uint32_t ready, at_barrier, polling, left;
};

// An accumulator that the tensor cores use: NaN to the threads until they are done.
struct Accumulator {
  float* d[kGroup];
  int columns = 0, pending = 0;
  std::vector<float> tile;  // [64][columns]
};
// Registers of an operand: where each thread has them, and what they held when the product was issued.
struct Registers {
  const uint32_t* at[kGroup];
  uint32_t held[kGroup][4];
};
struct Wgmma {
  int accumulator;
  uint64_t a, b;
  bool accumulate, f16;
  std::vector<Registers> registers;  // one, or none: a is a descriptor, and b is not transposed
};

// A collective operation of a warp, or of a warpgroup with `warps` 4, while its threads arrive.
struct Rendezvous {
  int warps = 1;
  Collective collective = kSyncWarp;
  uint32_t lanes[4], alive[4], wanted[4], here[4];
  Part* parts[kGroup];
  unsigned round = 0;
  // of a warpgroup
  std::vector<Wgmma> products;  // issued and not waited for, of all groups
  std::vector<size_t> groups;   // where in `products` each committed group ends
  std::vector<Accumulator> accumulators;
};

struct Box {
  char* to;
  Map map;
  int at[4];
  uint64_t* barrier;
};

struct Named {
  int threads = 0, arrived = 0;
  unsigned round = 0;
  std::vector<int> waiting;
};

struct Variable {
  const void* key;
  char* data;
  size_t bytes;
};

struct Runtime {
  std::vector<Fiber> fibers;
  std::vector<States> states;  // of warps
  std::vector<Rendezvous> warps, groups;
  int threads = 0, alive = 0, running = 0, stalls = 0, polling = 0;
  bool inside = false;  // a kernel
  // the block's barrier
  const char* barrier_name = nullptr;
  int arrived = 0, predicates = 0, combine = 0, result = 0;
  unsigned round = 0;
  Named named[16];
  std::vector<Variable> variables;
  std::vector<Box> boxes;  // on their way
  dim3 block;
  std::string kernel;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  void *main_stack_pointer = nullptr, *main_fake_stack = nullptr, *main_tsan = nullptr;
  const void* main_bottom = nullptr;
  size_t main_size = 0;
  int seed = 0;
  uint32_t random = 1;
  bool truncating = false;
  char rounds[2] = {}, launch = 0,
       end = 0;  // whose addresses stand for the block's barriers, its beginning and its end

  Runtime();
};

int setting(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text && *text ? atoi(text) : otherwise;
}

Runtime::Runtime() : truncating(setting("SONDE_EMULATE_TRUNCATION", 0) != 0) {
  seed = setting("SONDE_EMULATE_SCHEDULE", 0);
  random = uint32_t(seed) * 2654435761u + 1;
}
Runtime& R = *new Runtime;  // never destroyed: what it holds stays reachable for the leak checker

uint32_t random_bits() {
  R.random = R.random * 1664525 + 1013904223;
  return R.random >> 8;
}

States& states_of(int i) { return R.states[size_t(i / kWarp)]; }
uint32_t bit_of(int i) { return 1u << i % kWarp; }

// uninitialised shared memory reads as NaN
char* allocate_nan(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 1024, bytes)) die("out of memory");
  memset(p, 0xff, bytes);
  return static_cast<char*>(p);
}

// with a page below that faults, so that a deep recursion does not go on in another thread's stack
char* allocate_stack() {
  const auto page = size_t(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, page + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p, page, PROT_NONE)) die("out of memory");
  return static_cast<char*>(p) + page;
}

bool is_shared(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  if (p >= R.shared && p + bytes <= R.shared + R.shared_bytes) return true;
  for (const Variable& variable : R.variables) {
    if (p >= variable.data && p + bytes <= variable.data + variable.bytes) return true;
  }
  return false;
}

void switch_to(int i, void** save, void** fake) {
  R.running = i;
  Fiber& fiber = R.fibers[size_t(i)];
  current = &fiber.thread;
  (void)fake;
#if EMULATOR_TSAN
  __tsan_switch_to_fiber(fiber.tsan, 1);
#endif
#if EMULATOR_ASAN
  __sanitizer_start_switch_fiber(fake, fiber.stack, kStack);
#endif
  emulator_switch_stack(save, fiber.stack_pointer);
#if EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake ? *fake : nullptr, nullptr, nullptr);
#endif
}

// ---- the schedule

int ready_in(int warp) {
  const uint32_t bits = R.states[size_t(warp)].ready;
  if (!bits) return -1;
  return warp * kWarp + (R.seed & 1 ? 31 - __builtin_clz(bits) : __builtin_ctz(bits));
}

// the next ready thread above or below the one that runs, all around
int in_turn(bool up) {
  const int warps = int(R.states.size()), warp = R.running / kWarp;
  const uint32_t own = bit_of(R.running), below = own - 1;
  for (int k = 0; k <= warps; ++k) {
    const int w = (warp + (up ? k : warps - k)) % warps;
    uint32_t bits = R.states[size_t(w)].ready;
    // its own warp comes first with the lanes ahead, and last with the others
    if (k == 0) bits &= up ? ~(below | own) : below;
    if (bits) return w * kWarp + (up ? __builtin_ctz(bits) : 31 - __builtin_clz(bits));
  }
  return -1;
}

int pick() {
  if (R.seed == 2 || R.seed == 3) return in_turn(R.seed == 2);
  const int warps = int(R.states.size());
  if (R.seed < 2 || random_bits() % 8) {
    const int j = ready_in(R.running / kWarp);
    if (j >= 0) return j;
  }
  const int start = R.seed < 2 ? 0 : int(random_bits() % uint32_t(warps));
  for (int k = 0; k < warps; ++k) {
    const int j = ready_in(R.seed == 1 ? warps - 1 - k : (start + k) % warps);
    if (j >= 0) return j;
  }
  return -1;
}

[[noreturn]] void stuck() {
  std::string text;
  const char* last = nullptr;
  for (int i = 0, shown = 0; i < R.threads && shown < 8; ++i) {
    const char* where = R.fibers[size_t(i)].where;
    if (states_of(i).left & bit_of(i) || where == last) continue;
    text += (last ? "; thread " : "thread ") + std::to_string(i) + " waits in " + where;
    last = where;
    ++shown;
  }
  die("deadlock: %s", text.c_str());
}

void poll() {
  states_of(R.running).ready &= ~bit_of(R.running);
  states_of(R.running).polling |= bit_of(R.running);
  ++R.polling;
}

void wake_pollers() {
  if (R.polling == 0) return;
  for (States& states : R.states) {
    states.ready |= states.polling;
    states.polling = 0;
  }
  R.polling = 0;
}

void deliver(size_t i);

// When no thread is ready, a copy arrives, as late as possible, and threads that poll a barrier check it again.
int next_ready() {
  int j = pick();
  if (j >= 0) return j;
  if (!R.boxes.empty()) deliver(R.seed < 2 ? 0 : random_bits() % R.boxes.size());
  else if (++R.stalls > 2) stuck();
  wake_pollers();
  j = pick();
  if (j < 0) stuck();
  return j;
}

// elsewhere: another warp goes on if there is one
void yield(bool elsewhere = false) {
  const int me = R.running, warps = int(R.states.size());
  int next = -1;
  for (int k = 1; elsewhere && next < 0 && k < warps; ++k) next = ready_in((me / kWarp + k) % warps);
  if (next < 0) next = next_ready();
  if (next != me) switch_to(next, &R.fibers[size_t(me)].stack_pointer, &R.fibers[size_t(me)].fake_stack);
}

void release_block() {
  for (int i = 0; i < R.threads; ++i) R.fibers[size_t(i)].apart = nullptr;
  R.result = R.combine == 0 ? R.predicates : R.combine == 1 ? R.predicates > 0 : R.predicates == R.arrived;
  R.arrived = R.predicates = R.stalls = 0;
  ++R.round;
  for (States& states : R.states) {
    states.ready |= states.at_barrier;
    states.at_barrier = 0;
  }
}

void leave_rendezvous(Rendezvous& rendezvous, int warp, int lane) {
  rendezvous.alive[warp] &= ~(1u << lane);
  if (rendezvous.here[warp] & ~rendezvous.alive[warp])
    die("%s with a lane that has left", kNames[rendezvous.collective]);
  if (!rendezvous.products.empty()) die("left with wgmma that nobody waited for");
}

void fiber_main() {
#if EMULATOR_ASAN
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!R.main_bottom) {
    R.main_bottom = bottom;
    R.main_size = size;
  }
#endif
  __tsan_acquire(&R.launch);
  (*R.body)();
  __tsan_release(&R.end);
  const int me = R.running;
  if (!R.fibers[size_t(me)].copies.empty()) die("left with cp.async copies that it did not wait for");
  states_of(me).ready &= ~bit_of(me);
  states_of(me).left |= bit_of(me);
  --R.alive;
  R.stalls = 0;
  leave_rendezvous(R.warps[size_t(me / kWarp)], 0, me % kWarp);
  leave_rendezvous(R.groups[size_t(me / kGroup)], me / kWarp % 4, me % kWarp);
  if (R.alive && R.arrived == R.alive) release_block();
  void* dead;
  if (R.alive) switch_to(next_ready(), &dead, nullptr);
#if EMULATOR_ASAN
  __sanitizer_start_switch_fiber(nullptr, R.main_bottom, R.main_size);
#endif
#if EMULATOR_TSAN
  __tsan_switch_to_fiber(R.main_tsan, 1);
#endif
  emulator_switch_stack(&dead, R.main_stack_pointer);
}

// ---- tensor cores

// Vectors of GCC's: loops over columns would only be vectorised at -O3.
typedef float Four __attribute__((vector_size(16)));

// d [2][4 V] += a [2][16] b [16][4 V], rows of d and b `step` apart; the products are added up before they are added to
// d
template <int V>
inline void multiply_part(float* d, const float* a, const float* b, int step) {
  Four sums[2][V] = {};
  for (int k = 0; k < 16; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Four row;
      memcpy(&row, b + k * step + v * 4, sizeof row);
      sums[0][v] += a[k] * row;
      sums[1][v] += a[16 + k] * row;
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Four old;
      memcpy(&old, d + i * step + v * 4, sizeof old);
      old += sums[i][v];
      memcpy(d + i * step + v * 4, &old, sizeof old);
    }
  }
}

constexpr int kZero = -30000, kNotFinite = 100000;  // a sum of both is still recognized as NaN

// floor of the logarithm to base 2
int exponent_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits &= 0x7fffffff;
  if (bits == 0) return kZero;
  if (bits >= 0x7f800000) return kNotFinite;
  return bits >> 23 ? int(bits >> 23) - 127 : -118 - __builtin_clz(bits);
}

double power_of_two(int exponent) {
  const uint64_t bits = uint64_t(1023 + exponent) << 52;
  double x;
  memcpy(&x, &bits, 8);
  return x;
}

float cut_off(double x) {
  const float nearest = float(x);
  return fabs(double(nearest)) > fabs(x) ? nextafterf(nearest, 0.0f) : nearest;
}

// d + a b as an H100 sums 16 products, after the published measurements (M. Fasi and others, "Numerical behavior of
// NVIDIA tensor cores"; the parameters of H100 from north-numerical-computing/MATLAB-tensor-core): all aligned to the
// largest exponent with two more bits than float32 has, cut off, and the sum cut off to float32.
void multiply_truncated(float* d, const float* a, const float* b, int rows, int columns) {
  static int a_exponents[64 * 16], b_exponents[16 * 256];
  for (int i = 0; i < rows * 16; ++i) a_exponents[i] = exponent_of(a[i]);
  for (int i = 0; i < 16 * columns; ++i) b_exponents[i] = exponent_of(b[i]);
  constexpr int kPart = 8;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; j += kPart) {
      float* to = d + i * columns + j;
      int largest[kPart];
      for (int c = 0; c < kPart; ++c) largest[c] = exponent_of(to[c]);
      for (int k = 0; k < 16; ++k) {
        const int* exponents = b_exponents + k * columns + j;
        for (int c = 0; c < kPart; ++c) {
          const int exponent = a_exponents[i * 16 + k] + exponents[c];
          largest[c] = exponent > largest[c] ? exponent : largest[c];
        }
      }
      double units[kPart], sums[kPart];
      for (int c = 0; c < kPart; ++c) {
        const bool usual = largest[c] > kZero / 2 && largest[c] < kNotFinite / 2;
        units[c] = usual ? power_of_two(25 - largest[c]) : 0;
        sums[c] = usual ? trunc(double(to[c]) * units[c]) : 0;
      }
      for (int k = 0; k < 16; ++k) {
        const auto x = double(a[i * 16 + k]);
        const float* y = b + k * columns + j;
        // below 2^27 units, so that an int holds it
        for (int c = 0; c < kPart; ++c) sums[c] += double(int(x * double(y[c]) * units[c]));
      }
      for (int c = 0; c < kPart; ++c) {
        if (largest[c] < kNotFinite / 2) {
          to[c] = units[c] != 0 ? cut_off(sums[c] / units[c]) : 0;
          continue;
        }
        auto sum = double(to[c]);
        for (int k = 0; k < 16; ++k) sum += double(a[i * 16 + k]) * double(b[k * columns + j + c]);
        to[c] = float(sum);
      }
    }
  }
}

// d [rows][columns] += a [rows][16] b [16][columns]
void multiply16(float* d, const float* a, const float* b, int rows, int columns) {
  if (R.truncating) return multiply_truncated(d, a, b, rows, columns);
  for (int j = 0; j < columns; j += columns < 16 ? 8 : 16) {
    for (int i = 0; i < rows; i += 2) {
      if (columns < 16) multiply_part<2>(d + i * columns + j, a + i * 16, b + j, columns);
      else multiply_part<4>(d + i * columns + j, a + i * 16, b + j, columns);
    }
  }
}

// PTX ISA, fragments of m16n8k16: row lane / 4 (+8), columns lane % 4 * 2 (+8)
template <float (*kValue)(uint16_t)>
void run_mma(Part** parts) {
  float a[16 * 16], b[16 * 8], d[16 * 8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Part& part = *parts[lane];
    const int g = lane / 4, k = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* to = a + (g + i % 2 * 8) * 16 + k + i / 2 * 8;
      to[0] = kValue(uint16_t(part.a[i]));
      to[1] = kValue(uint16_t(part.a[i] >> 16));
    }
    for (int i = 0; i < 2; ++i) {
      float* to = b + (k + i * 8) * 8 + g;
      to[0] = kValue(uint16_t(part.b[i]));
      to[8] = kValue(uint16_t(part.b[i] >> 16));
      memcpy(d + (g + i * 8) * 8 + k, part.d + 2 * i, 8);
    }
  }
  multiply16(d, a, b, 16, 8);
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 2; ++i) memcpy(parts[lane]->d + 2 * i, d + (lane / 4 + i * 8) * 8 + lane % 4 * 2, 8);
  }
}

void check_descriptor(uint64_t descriptor) {
  if (descriptor >> 62 != 1) die("wgmma: only the 128-byte swizzle is emulated");
  if (descriptor >> 49 & 7) die("wgmma: only descriptors without a base offset are emulated");
}

// Eight elements; `at` in bytes from the start of shared memory, before the swizzle.
template <float (*kValue)(uint16_t)>
void read_chunk(float (&to)[8], uint64_t at) {
  at ^= (at >> 7 & 7) << 4;
  if (at + 16 > R.shared_bytes) die("wgmma: an operand lies outside shared memory");
  uint16_t bits[8];
  memcpy(bits, R.shared + at, 16);
  for (int e = 0; e < 8; ++e) to[e] = kValue(bits[e]);
}

// Rows of 16 elements, to [row][16] or [16][rows]: K-major, 128-byte swizzle, groups of 8 rows `group` bytes apart.
template <float (*kValue)(uint16_t)>
void read_operand(float* to, int rows, bool transposed, uint64_t descriptor) {
  check_descriptor(descriptor);
  const uint64_t group = (descriptor >> 32 & 0x3fff) << 4;
  for (int row = 0; row < rows; ++row) {
    for (int chunk = 0; chunk < 2; ++chunk) {
      float eight[8];
      read_chunk<kValue>(
          eight, ((descriptor & 0x3fff) << 4) + uint64_t(row / 8) * group + uint64_t(row % 8 * 128 + chunk * 16));
      for (int e = 0; e < 8; ++e) {
        const int k = chunk * 8 + e;
        to[transposed ? k * rows + row : row * 16 + k] = eight[e];
      }
    }
  }
}

// A transposed operand, to [16][columns]: MN-major, 128-byte swizzle, whose atoms have 64 neighbours of N in each of 8 rows of K
// (PTX ISA, "Strides"). From atom to atom: in K by the stride dimension's offset, in N by the leading dimension's.
template <float (*kValue)(uint16_t)>
void read_transposed(float* to, int columns, uint64_t descriptor) {
  check_descriptor(descriptor);
  const uint64_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
                 stride = (descriptor >> 32 & 0x3fff) << 4;
  if (start % 1024) die("wgmma: a transposed operand begins inside an atom of the swizzle");
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < columns; n += 8) {
      float eight[8];
      read_chunk<kValue>(
          eight, start + uint64_t(n / 64) * leading + uint64_t(k / 8) * stride + uint64_t(k % 8 * 128 + n % 64 * 2));
      memcpy(to + k * columns + n, eight, sizeof eight);
    }
  }
}

// PTX ISA, fragments of m64nNk16: as mma has them, 16 rows of each warp
template <float (*kValue)(uint16_t)>
void read_registers(float* to, const Registers& registers) {
  for (int t = 0; t < kGroup; ++t) {
    if (memcmp(registers.at[t], registers.held[t], sizeof registers.held[t]) != 0) {
      die("wgmma: the registers of an operand were written before the wait for it");
    }
    const int row = t / kWarp * 16 + t % kWarp / 4, k = t % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* pair = to + (row + i % 2 * 8) * 16 + k + i / 2 * 8;
      pair[0] = kValue(uint16_t(registers.held[t][i]));
      pair[1] = kValue(uint16_t(registers.held[t][i] >> 16));
    }
  }
}

// Threads' values to the tile or back. Values 4 i + 2 h and the next of thread t are in row h * 8 + t's own of the
// tile.
template <class Move>
void move_tile(Accumulator& accumulator, Move move) {
  const int columns = accumulator.columns;
  for (int t = 0; t < kGroup; ++t) {
    float* tile = accumulator.tile.data() + (t / kWarp * 16 + t % kWarp / 4) * columns + t % 4 * 2;
    float* d = accumulator.d[t];
    for (int i = 0; i < columns / 8; ++i) {
      for (int h = 0; h < 2; ++h) move(tile + h * 8 * columns + i * 8, d + i * 4 + h * 2);
    }
  }
}

// When a wait completes it: operands are read as late as allowed.
void run_wgmma(Rendezvous& rendezvous, const Wgmma& w) {
  static float a[64 * 16], b[16 * 256];
  Accumulator& accumulator = rendezvous.accumulators[size_t(w.accumulator)];
  if (w.registers.empty()) {
    const auto read = w.f16 ? read_operand<half_value> : read_operand<bfloat_value>;
    read(a, 64, false, w.a);
    read(b, accumulator.columns, true, w.b);
  } else {
    (w.f16 ? read_registers<half_value> : read_registers<bfloat_value>)(a, w.registers[0]);
    (w.f16 ? read_transposed<half_value> : read_transposed<bfloat_value>)(b, accumulator.columns, w.b);
  }
  if (!w.accumulate) accumulator.tile.assign(accumulator.tile.size(), 0.0f);
  multiply16(accumulator.tile.data(), a, b, 64, accumulator.columns);
  if (--accumulator.pending > 0) return;
  uint32_t all = ~0u;
  move_tile(accumulator, [&all](const float* tile, float* d) {
    uint32_t bits[2];
    memcpy(bits, d, 8);
    all &= bits[0] & bits[1];
    memcpy(d, tile, 8);
  });
  if (all != ~0u) die("wgmma: an accumulator was written before the wait for it");
}

Accumulator& accumulator_of(Rendezvous& rendezvous, const Part& first) {
  for (Accumulator& accumulator : rendezvous.accumulators) {
    if (accumulator.d[0] == first.d) return accumulator;
  }
  rendezvous.accumulators.emplace_back();
  return rendezvous.accumulators.back();
}

// wgmma is undefined where the lanes of a warp do not issue it together (.aligned in the PTX ISA), and where they come together after
// a branch is the compiler's choice unless the source says so. They may have gone apart after a shuffle or a vote, which brings them
// together for its own moment only, and after what one lane does. Branches alone cannot be seen here.
void demand_together(int base) {
  for (int t = 0; t < kGroup; ++t) {
    const char* since = R.fibers[size_t(base + t)].apart;
    if (since) die("wgmma: the lanes of a warp may have gone apart since %s: __syncwarp is missing", since);
  }
}

void begin_wgmma(Rendezvous& rendezvous) {
  const Part& first = *rendezvous.parts[0];
  demand_together(R.running / kGroup * kGroup);
  Accumulator& accumulator = accumulator_of(rendezvous, first);
  if (accumulator.pending > 0 && accumulator.columns != first.columns) die("wgmma: one accumulator in two shapes");
  for (int t = 0; t < kGroup; ++t) {
    const Part& part = *rendezvous.parts[t];
    if (part.descriptors[0] != first.descriptors[0] || part.descriptors[1] != first.descriptors[1] ||
        part.accumulate != first.accumulate || part.f16 != first.f16 || part.columns != first.columns ||
        part.registers_and_transposed != first.registers_and_transposed) {
      die("wgmma: thread %d of the warpgroup and its first differ in their operands", t);
    }
    if (accumulator.pending > 0 && accumulator.d[t] != part.d) die("wgmma: threads differ in their accumulators");
    accumulator.d[t] = part.d;
  }
  if (accumulator.pending++ == 0) {
    const int base = R.running / kGroup * kGroup;
    for (int t = 0; t < kGroup; ++t) {
      if (!R.fibers[size_t(base + t)].fenced) die("wgmma: thread %d has not called wgmma_fence", base + t);
    }
    accumulator.columns = first.columns;
    accumulator.tile.resize(size_t(64 * first.columns));
    move_tile(accumulator, [](float* tile, float* d) {
      memcpy(tile, d, 8);
      memset(d, 0xff, 8);
    });
  }
  const auto index = int(&accumulator - rendezvous.accumulators.data());
  rendezvous.products.push_back({index, first.descriptors[0], first.descriptors[1], first.accumulate, first.f16, {}});
  if (!first.registers_and_transposed) return;
  Registers registers;
  for (int t = 0; t < kGroup; ++t) {
    registers.at[t] = rendezvous.parts[t]->a;
    memcpy(registers.held[t], registers.at[t], sizeof registers.held[t]);
  }
  rendezvous.products.back().registers.push_back(registers);
}

void wait_wgmma(Rendezvous& rendezvous, size_t pending) {
  if (rendezvous.groups.size() <= pending) return;
  const size_t groups = rendezvous.groups.size() - pending, count = rendezvous.groups[groups - 1];
  for (size_t i = 0; i < count; ++i) run_wgmma(rendezvous, rendezvous.products[i]);
  rendezvous.products.erase(rendezvous.products.begin(), rendezvous.products.begin() + long(count));
  rendezvous.groups.erase(rendezvous.groups.begin(), rendezvous.groups.begin() + long(groups));
  for (size_t& end : rendezvous.groups) end -= count;
  const int base = R.running / kGroup * kGroup;
  for (int t = 0; t < kGroup; ++t) R.fibers[size_t(base + t)].fenced = false;
}

// ---- collective operations

void shuffle(Part** parts, uint32_t mask, Collective collective) {
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Part& part = *parts[lane];
    const int start = lane & -part.width, end = start + part.width;
    int from = lane;
    if (collective == kShuffleXor) from = lane ^ part.parameter;
    else if (collective == kShuffleDown) from = lane + part.parameter;
    else if (collective == kShuffleUp) from = lane - part.parameter;
    else from = start + (part.parameter & (part.width - 1));
    // beyond its end a lane reads its own value
    if (from >= end || from < 0 || (collective == kShuffleUp && from < start)) from = lane;
    if (!(mask >> from & 1)) die("%s reads lane %d, which is not in mask %08x", kNames[collective], from, mask);
    part.out = parts[from]->in;
  }
}

void ballot(Part** parts, uint32_t mask) {
  uint64_t bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) && parts[lane]->in) bits |= uint64_t(1) << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) parts[lane]->out = bits;
  }
}

template <bool kTransposed>
void load_matrices(Part** parts) {
  for (int m = 0; m < 4; ++m) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) memcpy(matrix[row], parts[m * 8 + row]->row, 16);
    for (int lane = 0; lane < kWarp; ++lane) {
      const int i = lane / 4, j = lane % 4 * 2;
      const uint16_t low = kTransposed ? matrix[j][i] : matrix[i][j];
      const uint16_t high = kTransposed ? matrix[j + 1][i] : matrix[i][j + 1];
      parts[lane]->registers[m] = low | uint32_t(high) << 16;
    }
  }
}

// Carries out a collective operation when all its threads have arrived.
void complete(Rendezvous& rendezvous, uint32_t mask) {
  Quiet quiet;
  Part** parts = rendezvous.parts;
  switch (rendezvous.collective) {
    case kShuffleXor:
    case kShuffleDown:
    case kShuffleUp:
    case kShuffle: return shuffle(parts, mask, rendezvous.collective);
    case kBallot: return ballot(parts, mask);
    case kSyncWarp: return;
    case kLdmatrix: return load_matrices<false>(parts);
    case kLdmatrixTransposed: return load_matrices<true>(parts);
    case kMmaBf16: return run_mma<bfloat_value>(parts);
    case kMmaF16: return run_mma<half_value>(parts);
    case kWgmma: return begin_wgmma(rendezvous);
    case kWgmmaCommit: rendezvous.groups.push_back(rendezvous.products.size()); return;
    case kWgmmaWait: return wait_wgmma(rendezvous, size_t(parts[0]->parameter));
  }
}

[[noreturn]] void refuse_collective(const Rendezvous& rendezvous, int k, uint32_t mask, Collective collective) {
  const int lane = R.running % kWarp;
  const char* name = kNames[collective];
  if (!(mask >> lane & 1)) die("%s: lane %d is not in its own mask %08x", name, lane, mask);
  if (mask & ~rendezvous.alive[k]) die("%s: mask %08x names lanes that have left or never were", name, mask);
  die("lanes diverge: some in %s with mask %08x, some in %s with %08x", kNames[rendezvous.collective],
      rendezvous.wanted[k], name, mask);
}

// ---- barriers that count bytes

// An mbarrier as the emulator keeps it: count, arrivals still to come, bytes to come times two, and the phase's parity.
struct Phase {
  int16_t count, pending;
  int32_t bytes_and_parity;
};

Phase* phase_of(uint64_t* barrier) {
  if (reinterpret_cast<uintptr_t>(barrier) % 8 || !is_shared(barrier, 8)) die("mbarrier: not 8 bytes of shared memory");
  auto* phase = reinterpret_cast<Phase*>(barrier);
  if (phase->count <= 0) die("mbarrier: not initialised");
  return phase;
}

// The address that stands for a phase in ThreadSanitizer. Each parity has one: a thread that is a phase ahead must not order those
// that are behind.
char* sync_of(uint64_t* barrier, int parity) { return reinterpret_cast<char*>(barrier) + parity; }

void check_phase(Phase* phase) {
  if (phase->pending != 0 || phase->bytes_and_parity >> 1 != 0) return;
  phase->bytes_and_parity ^= 1;
  phase->pending = phase->count;
  R.stalls = 0;
  // on even schedules, waiting threads notice it as late as possible
  if (R.seed & 1 || R.seed > 3) wake_pollers();
}

// A box of a matrix arrives in shared memory; what is outside the matrix is zero. 128-byte swizzle: the address's bits
// 4 to 6 are combined with bits 7 to 9.
void deliver(size_t i) {
  Quiet quiet;
  const Box box = R.boxes[i];
  R.boxes.erase(R.boxes.begin() + long(i));
  const Map& map = box.map;
  for (int64_t r = 0; r < int64_t(map.box_rows); ++r) {
    bool row_inside = true;
    const char* row = map.base;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t i = box.at[d] + (d == map.rank / 2 ? r : 0);
      row_inside = row_inside && i >= 0 && i < int64_t(map.shape[d]);
      row += i * int64_t(map.pitch[d]);
    }
    for (int64_t chunk = 0; chunk < 8; ++chunk) {
      auto at = uint64_t(box.to - R.shared) + uint64_t(r * 128 + chunk * 16);
      at ^= (at >> 7 & 7) << 4;
      uint16_t eight[8] = {};
      const int64_t column = box.at[0] + chunk * 8, end = int64_t(map.shape[0]);
      const char* from = row + column * 2;
      if (row_inside && column >= 0 && column + 8 <= end) {
        memcpy(eight, from, 16);
      } else {
        for (int64_t e = 0; e < 8; ++e) {
          if (row_inside && column + e >= 0 && column + e < end) memcpy(&eight[e], from + e * 2, 2);
        }
      }
      memcpy(R.shared + at, eight, 16);
    }
  }
  Phase* phase = phase_of(box.barrier);
  phase->bytes_and_parity -= int32_t(map.box_rows * 128) * 2;
  R.stalls = 0;
  check_phase(phase);
}

// ---- blocks

void prepare_fiber(int i, dim3 block, dim3 grid) {
  Fiber& fiber = R.fibers[size_t(i)];
  const auto u = unsigned(i);
  fiber.thread = {{u % block.x, u / block.x % block.y, u / (block.x * block.y)}, R.block, block, grid, R.shared};
  fiber.fake_stack = nullptr;
  fiber.where = "its first step";
  fiber.fenced = false;
  fiber.apart = nullptr;
  fiber.groups.clear();
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(fiber.stack + kStack);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_main);
  fiber.stack_pointer = top - 6;
#else
  char* frame = fiber.stack + kStack - 160;
  memset(frame, 0, 160);
  *reinterpret_cast<void**>(frame + 88) = reinterpret_cast<void*>(fiber_main);
  fiber.stack_pointer = frame;
#endif
}

uint32_t lanes_from(int first) {
  const int left = R.threads - first;
  return left >= kWarp ? ~0u : left > 0 ? (1u << left) - 1 : 0;
}

void prepare_rendezvous(std::vector<Rendezvous>& all, int warps) {
  for (size_t i = 0; i < all.size(); ++i) {
    Rendezvous& rendezvous = all[i];
    rendezvous.warps = warps;
    rendezvous.accumulators.clear();
    rendezvous.groups.clear();
    for (int k = 0; k < warps; ++k) {
      rendezvous.here[k] = 0;
      rendezvous.lanes[k] = rendezvous.alive[k] = lanes_from((int(i) * warps + k) * kWarp);
    }
  }
}

void prepare_states() {
  for (size_t w = 0; w < R.states.size(); ++w) R.states[w] = {lanes_from(int(w) * kWarp), 0, 0, 0};
  R.polling = 0;
}

void run_block(dim3 block, dim3 grid) {
  R.shared = R.shared_bytes ? allocate_nan(R.shared_bytes) : nullptr;
  for (int i = 0; i < R.threads; ++i) prepare_fiber(i, block, grid);
  prepare_states();
  prepare_rendezvous(R.warps, 1);
  prepare_rendezvous(R.groups, 4);
#if EMULATOR_TSAN
  R.main_tsan = __tsan_get_current_fiber();
#endif
  __tsan_release(&R.launch);
  R.alive = R.threads;
  R.arrived = R.predicates = R.stalls = 0;
  R.main_bottom = nullptr;
  R.running = R.seed == 1 ? R.threads - 1 : 0;
  const int first = R.seed < 4 ? R.running : int(random_bits() % uint32_t(R.threads));
  switch_to(first, &R.main_stack_pointer, &R.main_fake_stack);
  __tsan_acquire(&R.end);
  if (!R.boxes.empty()) die("bulk copies are under way at the end of the block");
  free(R.shared);
  for (const Variable& variable : R.variables) free(variable.data);
  R.variables.clear();
}

}  // namespace

void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "emulator: ");
  if (R.inside) {
    fprintf(stderr, "block (%u,%u,%u) thread %d of %s: ", R.block.x, R.block.y, R.block.z, R.running, R.kernel.c_str());
  }
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  fflush(nullptr);
  abort();
}

void set_schedule(int seed) {
  R.seed = seed;
  R.random = uint32_t(seed) * 2654435761u + 1;
}
void set_truncating(bool truncating) { R.truncating = truncating; }
int capability() { return setting("SONDE_EMULATE_SM", 90); }

int block_barrier(const char* name, int predicate, int combine) {
  if (R.arrived && R.barrier_name != name && strcmp(R.barrier_name, name) != 0) {
    die("threads of a block meet at different barriers, %s and %s", R.barrier_name, name);
  }
  char* sync = &R.rounds[R.round % 2];
  R.barrier_name = R.fibers[size_t(R.running)].where = name;
  R.combine = combine;
  R.predicates += predicate;
  ++R.arrived;
  __tsan_release(sync);
  states_of(R.running).ready &= ~bit_of(R.running);
  states_of(R.running).at_barrier |= bit_of(R.running);
  if (R.arrived == R.alive) release_block();
  yield();
  __tsan_acquire(sync);
  return R.result;
}

void named_barrier(int id, int threads) {
  if (id < 1 || id > 15 || threads <= 0 || threads % kWarp)
    die("named_barrier(%d, %d): ids are 1 to 15, warps whole", id, threads);
  Named& named = R.named[id];
  if (named.arrived && named.threads != threads) die("named barrier %d: %d threads and %d", id, named.threads, threads);
  char* sync = reinterpret_cast<char*>(&named) + named.round % 2;
  named.threads = threads;
  {
    Quiet quiet;
    named.waiting.push_back(R.running);
  }
  R.fibers[size_t(R.running)].where = "named_barrier";
  __tsan_release(sync);
  states_of(R.running).ready &= ~bit_of(R.running);
  if (++named.arrived == threads) {
    R.stalls = 0;
    named.arrived = 0;
    ++named.round;
    for (int i : named.waiting) states_of(i).ready |= bit_of(i);
    named.waiting.clear();
  }
  yield();
  __tsan_acquire(sync);
}

void join_collective(uint32_t mask, Collective collective, Part* part) {
  const int me = R.running, lane = me % kWarp;
  const bool of_group = collective >= kWgmma;
  Rendezvous& rendezvous = of_group ? R.groups[size_t(me / kGroup)] : R.warps[size_t(me / kWarp)];
  const int k = of_group ? me / kWarp % 4 : 0;
  mask = mask == ~0u ? rendezvous.lanes[k] : mask;  // a full mask means all that there are
  if (of_group && me / kGroup * kGroup + kGroup > R.threads)
    die("%s needs a warpgroup of 128 threads", kNames[collective]);
  const bool begun =
      rendezvous.here[0] || (of_group && (rendezvous.here[1] || rendezvous.here[2] || rendezvous.here[3]));
  if (!(mask >> lane & 1) || mask & ~rendezvous.alive[k] ||
      (begun && (rendezvous.collective != collective || (rendezvous.here[k] && rendezvous.wanted[k] != mask)))) {
    refuse_collective(rendezvous, k, mask, collective);
  }
  rendezvous.collective = collective;
  rendezvous.wanted[k] = mask;
  rendezvous.parts[k * kWarp + lane] = part;
  rendezvous.here[k] |= 1u << lane;
  R.fibers[size_t(me)].where = kNames[collective];
  char* sync = reinterpret_cast<char*>(&rendezvous) + rendezvous.round % 2;
  if (collective == kSyncWarp) __tsan_release(sync);
  bool all = rendezvous.here[k] == mask;
  for (int i = 0; of_group && i < 4; ++i) all = all && rendezvous.here[i] == ~0u;
  if (!all) {
    states_of(me).ready &= ~bit_of(me);
    yield();
  } else {
    complete(rendezvous, mask);
    R.stalls = 0;
    ++rendezvous.round;
    const int first = of_group ? me / kGroup * 4 : me / kWarp;
    for (int i = 0; i < rendezvous.warps; ++i) {
      R.states[size_t(first + i)].ready |= rendezvous.here[i];
      rendezvous.here[i] = 0;
    }
  }
  if (collective == kSyncWarp) __tsan_acquire(sync);
  R.fibers[size_t(me)].apart = collective < kSyncWarp || mask != rendezvous.lanes[k] ? kNames[collective] : nullptr;
}

void act_alone(const char* name) { R.fibers[size_t(R.running)].apart = name; }

void* shared_variable(const void* key, size_t bytes) {
  Quiet quiet;
  for (const Variable& variable : R.variables) {
    if (variable.key == key) return variable.data;
  }
  R.variables.push_back({key, allocate_nan(bytes), bytes});
  size_t all = 0;
  for (const Variable& variable : R.variables) all += variable.bytes;
  if (all > size_t(48) << 10) die("%zu bytes of SHARED variables: at most 48 KiB", all);
  return R.variables.back().data;
}

void copy_async(void* to, const void* from, int bytes) {
  if (bytes < 0 || bytes > 16) die("cp.async of %d bytes", bytes);
  if (reinterpret_cast<uintptr_t>(to) % 16 || (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16)) {
    die("cp.async: not 16-byte aligned");
  }
  if (!is_shared(to, 16)) die("cp.async: the destination is not in shared memory");
  __tsan_write_range(to, 16);
  if (bytes) __tsan_read_range(const_cast<void*>(from), (unsigned long)(bytes));
  Quiet quiet;
  memset(to, 0xff, 16);
  R.fibers[size_t(R.running)].copies.push_back({to, from, bytes});
}

void commit_copies() {
  Quiet quiet;
  Fiber& fiber = R.fibers[size_t(R.running)];
  fiber.groups.push_back(fiber.copies.size());
}

void wait_copies(int pending) {
  Fiber& fiber = R.fibers[size_t(R.running)];
  if (fiber.groups.size() <= size_t(pending)) return;
  const size_t groups = fiber.groups.size() - size_t(pending), count = fiber.groups[groups - 1];
  for (size_t i = 0; i < count; ++i) {
    const Copy& copy = fiber.copies[i];
    __tsan_write_range(copy.to, 16);
    Quiet quiet;
    memcpy(copy.to, copy.from, size_t(copy.bytes));
    memset(static_cast<char*>(copy.to) + copy.bytes, 0, size_t(16 - copy.bytes));
  }
  Quiet quiet;
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + long(count));
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + long(groups));
  for (size_t& end : fiber.groups) end -= count;
}

void read_row(const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) die("ldmatrix: a row is not 16-byte aligned");
  if (!is_shared(row, 16)) die("ldmatrix: a row is not in shared memory");
}

void fence_wgmma() { R.fibers[size_t(R.running)].fenced = true; }

bool make_map(Map* map, const void* base, int rank, const uint64_t* shape, const uint64_t* pitches, uint32_t box_rows) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || box_rows == 0 || box_rows > 256) return false;
  *map = {static_cast<const char*>(base), rank, {}, {}, box_rows};
  for (int d = 0; d < rank; ++d) {
    map->shape[d] = shape[d];
    if (shape[d] == 0 || shape[d] >> 32) return false;
    if (d == 0) continue;
    const uint64_t pitch = map->pitch[d] = pitches[d - 1];
    // the driver's documentation has each a multiple of the one before
    if (pitch == 0 || pitch % 16 || pitch >> 40 || (d > 1 && pitch % map->pitch[d - 1])) return false;
  }
  return true;
}

void load_box(void* to, const Map* map, int rank, const int* at, uint64_t* barrier) {
  char* start = static_cast<char*>(to);
  const size_t bytes = size_t(map->box_rows) * 128;
  if (capability() < 90) die("bulk copy: needs compute capability 9.0");
  if (map->rank != rank) die("bulk copy: %d coordinates for a map of %d dimensions", rank, map->rank);
  if (start < R.shared || start + bytes > R.shared + R.shared_bytes)
    die("bulk copy: the destination is outside shared memory");
  if ((start - R.shared) % 1024) die("bulk copy: the destination is not 1024-byte aligned");
  phase_of(barrier);
  Quiet quiet;
  memset(start, 0xff, bytes);
  // the map is a parameter of the thread that issues it, and gone with that thread
  Box box = {start, *map, {}, barrier};
  for (int d = 0; d < rank; ++d) box.at[d] = at[d];
  R.boxes.push_back(box);
}

void barrier_init(uint64_t* barrier, int count) {
  if (count <= 0 || count > INT16_MAX) die("mbarrier: a count of %d", count);
  const Phase phase = {int16_t(count), int16_t(count), 0};
  memcpy(barrier, &phase, sizeof phase);
  phase_of(barrier);
}

void barrier_arrive(uint64_t* barrier, int bytes) {
  Phase* phase = phase_of(barrier);
  if (bytes < 0 || bytes >= 1 << 20) die("mbarrier: %d bytes expected", bytes);
  if (phase->pending <= 0) die("mbarrier: too many arrivals");
  __tsan_release(sync_of(barrier, phase->bytes_and_parity & 1));
  phase->bytes_and_parity += bytes * 2;
  --phase->pending;
  check_phase(phase);
  // whoever waited for this may be done with it before the one that arrived takes its next step
  if (R.seed > 3 && random_bits() % 2) yield(random_bits() % 2);
}

void barrier_wait(uint64_t* barrier, int parity) {
  const Phase* phase = phase_of(barrier);
  if (parity != 0 && parity != 1) die("mbarrier: a parity of %d", parity);
  R.fibers[size_t(R.running)].where = "mbarrier_wait";
  while ((phase->bytes_and_parity & 1) == parity) {
    if (!R.boxes.empty() && R.seed > 3 && random_bits() % 4 == 0) {
      deliver(random_bits() % R.boxes.size());
      continue;
    }
    poll();
    yield();
  }
  __tsan_acquire(sync_of(barrier, parity));
}

void run_grid(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  Quiet quiet;
  R.kernel = kernel;
  // as LAUNCH has it of a template
  if (R.kernel.size() > 2 && R.kernel.front() == '(') R.kernel = R.kernel.substr(1, R.kernel.size() - 2);
  R.threads = int(block.x * block.y * block.z);
  R.shared_bytes = shared_bytes;
  R.body = &body;
  if (int(R.fibers.size()) < R.threads) R.fibers.resize(size_t(R.threads));
  for (int i = 0; i < R.threads; ++i) {
    Fiber& fiber = R.fibers[size_t(i)];
    if (!fiber.stack) fiber.stack = allocate_stack();
#if EMULATOR_TSAN
    if (!fiber.tsan) fiber.tsan = __tsan_create_fiber(0);
#endif
  }
  const auto warps = size_t((R.threads + kWarp - 1) / kWarp);
  R.states.resize(warps);
  R.warps.resize(warps);
  R.groups.resize((warps + 3) / 4);
  R.inside = true;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t b = 0; b < blocks; ++b) {
    R.block = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
    run_block(block, grid);
  }
  R.inside = false;
}

}  // namespace emulator
