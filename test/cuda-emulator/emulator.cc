// Fibers, their schedule, and what they do together.
#include "emulator.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

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

// A race detector for device code: each CUDA thread is a fiber of ThreadSanitizer's, and only barriers order their accesses.
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
// library calls inside the runtime are no accesses of the device
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
float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent     ? ldexpf(float(1024 + fraction), exponent - 25)
                                    : ldexpf(float(fraction), -24);
  return bits & 0x8000 ? -size : size;
}

namespace emulator {

Thread* current = nullptr;

namespace {

constexpr size_t kStack = EMULATOR_ASAN || EMULATOR_TSAN ? size_t(256) << 10 : size_t(64) << 10;
constexpr int kWarp = 32, kGroup = 128;

const char* const kNames[] = {
    "__shfl_xor_sync", "__shfl_down_sync", "__shfl_up_sync", "__shfl_sync", "__ballot_sync", "__syncwarp", "ldmatrix",
    "ldmatrix.trans",  "mma.bf16",         "mma.f16",        "wgmma",       "wgmma.commit",  "wgmma.wait",
};

enum State : uint8_t { kReady, kAtBarrier, kAtMeeting, kPolling, kDone };

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
  State state = kDone;
  const char* where = "";
  std::vector<Copy> open;  // copies not yet committed
  std::deque<std::vector<Copy>> groups;
};

// An accumulator that the tensor cores use: NaN to the thread until they are done.
struct Shadow {
  float* d[kGroup];
  int values = 0, pending = 0;
  std::vector<float> kept;  // [thread][values]
};
struct Wgmma {
  int shadow;
  uint64_t a, b;
  int columns;
  bool accumulate, f16;
};

// A warp's meeting, or with `warps` 4 a warpgroup's.
struct Place {
  int warps = 1;
  Meeting meeting;
  uint32_t wanted[4], here[4], alive[4];
  Part* parts[kGroup];
  std::vector<Wgmma> open;
  std::deque<std::vector<Wgmma>> groups;
  std::vector<Shadow> shadows;
};

struct Box {
  char* to;
  Map map;
  int column, row;
  uint64_t* barrier;
};

struct Named {
  int threads = 0, arrived = 0;
  std::vector<int> waiting;
};

struct Runtime {
  std::vector<Fiber> fibers;
  std::vector<Place> warps, groups;
  std::vector<uint32_t> ready;  // a bit for each thread that can go on
  int threads = 0, alive = 0, running = 0, stalls = 0, polling = 0;
  // the block's barrier
  const char* barrier_name = nullptr;
  int arrived = 0, predicates = 0, combine = 0, result = 0;
  Named named[16];
  std::vector<std::pair<const void*, char*>> variables;
  std::vector<Box> boxes;  // on their way
  dim3 block;
  const char* kernel = "";
  char* shared = nullptr;
  size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  void *main_stack_pointer = nullptr, *main_fake_stack = nullptr, *main_tsan = nullptr;
  const void* main_bottom = nullptr;
  size_t main_size = 0;
  int seed = getenv("SONDE_EMULATE_SCHEDULE") ? atoi(getenv("SONDE_EMULATE_SCHEDULE")) : 0;
  uint32_t random = 1;
  bool truncating = getenv("SONDE_EMULATE_TRUNCATION") != nullptr;
  float halves[65536], bfloats[65536];
};
Runtime& R = *new Runtime;  // never destroyed: stacks stay reachable for the leak checker

uint32_t random_bits() {
  R.random = R.random * 1664525 + 1013904223;
  return R.random >> 8;
}

void set_state(int i, State state) {
  R.polling += (state == kPolling) - (R.fibers[size_t(i)].state == kPolling);
  R.fibers[size_t(i)].state = state;
  uint32_t& word = R.ready[size_t(i / kWarp)];
  if (state == kReady) word |= 1u << i % kWarp;
  else word &= ~(1u << i % kWarp);
}

// uninitialised shared memory reads as NaN
char* allocate_nan(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 1024, bytes)) die("out of memory");
  memset(p, 0xff, bytes);
  return static_cast<char*>(p);
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

int ready_in(int warp) {
  const uint32_t bits = R.ready[size_t(warp)];
  if (!bits) return -1;
  return warp * kWarp + (R.seed & 1 ? 31 - __builtin_clz(bits) : __builtin_ctz(bits));
}

int in_turn(int step) {
  for (int k = 1; k <= R.threads; ++k) {
    const int j = (R.running + (step > 0 ? k : R.threads - k)) % R.threads;
    if (R.ready[size_t(j / kWarp)] >> j % kWarp & 1) return j;
  }
  return -1;
}

int pick() {
  if (R.seed == 2 || R.seed == 3) return in_turn(R.seed == 2 ? 1 : -1);
  const int warps = int(R.ready.size());
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
    const Fiber& fiber = R.fibers[size_t(i)];
    if (fiber.state == kDone || fiber.where == last) continue;
    last = fiber.where;
    text += " thread " + std::to_string(i) + " waits in " + last + ";";
    ++shown;
  }
  die("deadlock:%s", text.c_str());
}

void check_phase(uint64_t* barrier);

// A box of a matrix arrives in shared memory; what is outside the matrix is zero. 128-byte swizzle: the address's bits 4 to 6 are
// combined with bits 7 to 9.
void deliver(size_t i) {
  Quiet quiet;
  const Box box = R.boxes[i];
  R.boxes.erase(R.boxes.begin() + long(i));
  const Map& map = box.map;
  for (int64_t r = 0; r < int64_t(map.box_rows); ++r) {
    const int64_t row = box.row + r;
    for (int64_t chunk = 0; chunk < 8; ++chunk) {
      auto at = uint64_t(box.to - R.shared) + uint64_t(r * 128 + chunk * 16);
      at ^= (at >> 7 & 7) << 4;
      uint16_t eight[8] = {};
      for (int64_t e = 0; e < 8; ++e) {
        const int64_t column = box.column + chunk * 8 + e;
        const bool inside = row >= 0 && row < int64_t(map.rows) && column >= 0 && column < int64_t(map.columns);
        if (inside) memcpy(&eight[e], map.base + uint64_t(row) * map.pitch + uint64_t(column) * 2, 2);
      }
      memcpy(R.shared + at, eight, 16);
    }
  }
  auto* words = reinterpret_cast<int32_t*>(box.barrier);
  words[1] -= int32_t(map.box_rows * 128) * 2;
  R.stalls = 0;
  check_phase(box.barrier);
}

void wake_pollers() {
  for (int i = 0; R.polling > 0 && i < R.threads; ++i) {
    if (R.fibers[size_t(i)].state == kPolling) set_state(i, kReady);
  }
}

// With nobody ready a copy arrives, as late as it may, and those who poll a barrier look again.
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
  const int me = R.running;
  int next = -1;
  for (int k = 1; elsewhere && next < 0 && k < int(R.ready.size()); ++k) {
    next = ready_in((me / kWarp + k) % int(R.ready.size()));
  }
  if (next < 0) next = next_ready();
  if (next != me) switch_to(next, &R.fibers[size_t(me)].stack_pointer, &R.fibers[size_t(me)].fake_stack);
}

void release_block() {
  const int arrived = R.arrived;
  R.result = R.combine == 0 ? R.predicates : R.combine == 1 ? R.predicates > 0 : R.predicates == arrived;
  R.arrived = R.predicates = R.stalls = 0;
  for (int i = 0; i < R.threads; ++i) {
    if (R.fibers[size_t(i)].state == kAtBarrier && R.fibers[size_t(i)].where == R.barrier_name) set_state(i, kReady);
  }
}

void leave_place(Place& place, int warp_of_place, int lane) {
  place.alive[warp_of_place] &= ~(1u << lane);
  if (place.here[warp_of_place] & ~place.alive[warp_of_place])
    die("%s with a lane that has left", kNames[place.meeting]);
  if (!place.groups.empty() || !place.open.empty()) die("a thread left with wgmma that nobody waited for");
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
  __tsan_acquire(&R.body);
  (*R.body)();
  __tsan_release(&R.block);
  const int me = R.running;
  Fiber& fiber = R.fibers[size_t(me)];
  if (!fiber.open.empty() || !fiber.groups.empty()) die("a thread left with cp.async copies that it did not wait for");
  set_state(me, kDone);
  --R.alive;
  R.stalls = 0;
  leave_place(R.warps[size_t(me / kWarp)], 0, me % kWarp);
  leave_place(R.groups[size_t(me / kGroup)], me / kWarp % 4, me % kWarp);
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

float cut_off(double x) {
  const float nearest = float(x);
  return fabs(double(nearest)) > fabs(x) ? nextafterf(nearest, 0.0f) : nearest;
}

// c + a b of 16 products as an H100 sums them (a model of its authors' measurements: N. Higham and others, "Matrix multiply-add in
// mixed precision": aligned to the largest exponent with two more bits, cut off, the sum cut off to float32)
float sum_truncated(const float* a, const float* b, int64_t b_step, float c) {
  double product[16];
  int largest = INT32_MIN;
  bool finite = std::isfinite(c);
  for (int k = 0; k < 16; ++k) {
    product[k] = double(a[k]) * double(b[k * b_step]);
    finite = finite && std::isfinite(product[k]);
    if (product[k] != 0 && finite) largest = std::max(largest, ilogbf(a[k]) + ilogbf(b[k * b_step]));
  }
  if (!finite) {
    double sum = double(c);
    for (double p : product) sum += p;
    return float(sum);
  }
  if (c != 0) largest = std::max(largest, ilogbf(c));
  if (largest == INT32_MIN) return 0;
  const double unit = ldexp(1.0, largest - 25);
  double sum = trunc(double(c) / unit) * unit;
  for (double p : product) sum += trunc(p / unit) * unit;
  return cut_off(sum);
}

// d [rows][columns] += a [rows][16] b [16][columns]
void multiply16(float* d, const float* a, const float* b, int rows, int columns) {
  for (int i = 0; i < rows; ++i) {
    float* row = d + i * columns;
    if (R.truncating) {
      for (int j = 0; j < columns; ++j) row[j] = sum_truncated(a + i * 16, b + j, columns, row[j]);
      continue;
    }
    float sums[256];
    for (int j = 0; j < columns; ++j) sums[j] = 0;
    for (int k = 0; k < 16; ++k) {
      const float x = a[i * 16 + k];
      const float* y = b + k * columns;
      for (int j = 0; j < columns; ++j) sums[j] += x * y[j];
    }
    for (int j = 0; j < columns; ++j) row[j] += sums[j];
  }
}

// PTX ISA, fragments of m16n8k16: row lane / 4 (+8), columns lane % 4 * 2 (+8)
void run_mma(Part** parts, const float* table) {
  float a[16 * 16], b[16 * 8], d[16 * 8];
  const auto half = [](uint32_t word, int h) { return h ? word >> 16 : word & 0xffff; };
  for (int lane = 0; lane < kWarp; ++lane) {
    const Part& part = *parts[lane];
    const int g = lane / 4, k0 = lane % 4 * 2;
    for (int h = 0; h < 2; ++h) {
      const int k = k0 + h;
      a[g * 16 + k] = table[half(part.a[0], h)];
      a[(g + 8) * 16 + k] = table[half(part.a[1], h)];
      a[g * 16 + k + 8] = table[half(part.a[2], h)];
      a[(g + 8) * 16 + k + 8] = table[half(part.a[3], h)];
      b[k * 8 + g] = table[half(part.b[0], h)];
      b[(k + 8) * 8 + g] = table[half(part.b[1], h)];
      d[g * 8 + k] = part.d[h];
      d[(g + 8) * 8 + k] = part.d[2 + h];
    }
  }
  multiply16(d, a, b, 16, 8);
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int h = 0; h < 4; ++h) parts[lane]->d[h] = d[(lane / 4 + h / 2 * 8) * 8 + lane % 4 * 2 + h % 2];
  }
}

// A row's 16 elements: K-major, 128-byte swizzle, groups of 8 rows `group` bytes apart.
void read_operand(float* to, int64_t step, uint64_t descriptor, int row, const float* table) {
  if (descriptor >> 62 != 1) die("wgmma: only the 128-byte swizzle is emulated");
  const uint64_t group = (descriptor >> 32 & 0x3fff) << 4;
  for (int chunk = 0; chunk < 2; ++chunk) {
    uint64_t at = ((descriptor & 0x3fff) << 4) + uint64_t(row / 8) * group + uint64_t(row % 8 * 128 + chunk * 16);
    at ^= (at >> 7 & 7) << 4;
    if (at + 16 > R.shared_bytes) die("wgmma: an operand lies outside shared memory");
    uint16_t bits[8];
    memcpy(bits, R.shared + at, 16);
    for (int e = 0; e < 8; ++e) to[(chunk * 8 + e) * step] = table[bits[e]];
  }
}

// where in a 64 x columns tile value v of thread t lies
int tile_place(int t, int v, int columns) {
  return (t / kWarp * 16 + t % kWarp / 4 + v / 2 % 2 * 8) * columns + v / 4 * 8 + t % 4 * 2 + v % 2;
}

void run_wgmma(Place& place, const Wgmma& w) {
  static std::vector<float> a, b, d;
  Shadow& shadow = place.shadows[size_t(w.shadow)];
  const float* table = w.f16 ? R.halves : R.bfloats;
  a.resize(64 * 16);
  b.resize(size_t(16 * w.columns));
  d.assign(size_t(64 * w.columns), 0.0f);
  for (int i = 0; i < 64; ++i) read_operand(&a[size_t(i * 16)], 1, w.a, i, table);
  for (int j = 0; j < w.columns; ++j) read_operand(&b[size_t(j)], w.columns, w.b, j, table);
  for (int t = 0; w.accumulate && t < kGroup; ++t) {
    for (int v = 0; v < shadow.values; ++v) {
      d[size_t(tile_place(t, v, w.columns))] = shadow.kept[size_t(t * shadow.values + v)];
    }
  }
  multiply16(d.data(), a.data(), b.data(), 64, w.columns);
  for (int t = 0; t < kGroup; ++t) {
    for (int v = 0; v < shadow.values; ++v) {
      shadow.kept[size_t(t * shadow.values + v)] = d[size_t(tile_place(t, v, w.columns))];
    }
  }
  if (--shadow.pending > 0) return;
  for (int t = 0; t < kGroup; ++t) {
    for (int v = 0; v < shadow.values; ++v) {
      uint32_t bits;
      memcpy(&bits, &shadow.d[t][v], 4);
      if (bits != 0xffffffffu) die("wgmma: an accumulator was written before the wait for it");
      shadow.d[t][v] = shadow.kept[size_t(t * shadow.values + v)];
    }
  }
}

void begin_wgmma(Place& place) {
  const Part& first = *place.parts[0];
  int found = -1;
  for (size_t i = 0; i < place.shadows.size(); ++i) {
    const Shadow& shadow = place.shadows[i];
    if (shadow.pending > 0 && shadow.d[0] == first.d) found = int(i);
    else if (shadow.pending == 0 && found < 0 && shadow.d[0] == first.d) found = int(i);
  }
  if (found < 0) {
    found = int(place.shadows.size());
    place.shadows.emplace_back();
  }
  Shadow& shadow = place.shadows[size_t(found)];
  shadow.values = first.columns / 2;
  if (shadow.pending++ == 0) {
    shadow.kept.resize(size_t(kGroup * shadow.values));
    for (int t = 0; t < kGroup; ++t) {
      shadow.d[t] = place.parts[t]->d;
      memcpy(&shadow.kept[size_t(t * shadow.values)], shadow.d[t], size_t(shadow.values) * 4);
      memset(shadow.d[t], 0xff, size_t(shadow.values) * 4);
    }
  }
  for (int t = 0; t < kGroup; ++t) {
    const Part& part = *place.parts[t];
    if (part.descriptors[0] != first.descriptors[0] || part.descriptors[1] != first.descriptors[1]) {
      die("wgmma: descriptors differ within the warpgroup");
    }
  }
  place.open.push_back({found, first.descriptors[0], first.descriptors[1], first.columns, first.accumulate, first.f16});
}

void shuffle(Part** parts, uint32_t mask, Meeting meeting) {
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const int p = parts[lane]->parameter;
    int from = meeting == kShuffleXor    ? lane ^ p
               : meeting == kShuffleDown ? lane + p
               : meeting == kShuffleUp   ? lane - p
                                         : p & 31;
    if (from < 0 || from >= kWarp) from = lane;
    if (!(mask >> from & 1)) die("%s reads lane %d, which is not in mask %08x", kNames[meeting], from, mask);
    parts[lane]->out = parts[from]->in;
  }
}

void hold(Place& place, uint32_t mask) {
  Quiet quiet;
  Part** parts = place.parts;
  switch (place.meeting) {
    case kShuffleXor:
    case kShuffleDown:
    case kShuffleUp:
    case kShuffle: return shuffle(parts, mask, place.meeting);
    case kBallot: {
      uint64_t bits = 0;
      for (int lane = 0; lane < kWarp; ++lane) {
        if ((mask >> lane & 1) && parts[lane]->in) bits |= uint64_t(1) << lane;
      }
      for (int lane = 0; lane < kWarp; ++lane) {
        if (mask >> lane & 1) parts[lane]->out = bits;
      }
      return;
    }
    case kSyncWarp: return;
    case kLdmatrix:
    case kLdmatrixTransposed:
      for (int m = 0; m < 4; ++m) {
        for (int lane = 0; lane < kWarp; ++lane) {
          for (int h = 0; h < 2; ++h) {
            const int row = place.meeting == kLdmatrix ? lane / 4 : lane % 4 * 2 + h;
            const int column = place.meeting == kLdmatrix ? lane % 4 * 2 + h : lane / 4;
            uint16_t bits;
            memcpy(&bits, static_cast<const char*>(parts[m * 8 + row]->row) + column * 2, 2);
            uint32_t& word = parts[lane]->registers[m];
            word = h ? (word & 0xffff) | uint32_t(bits) << 16 : bits;
          }
        }
      }
      return;
    case kMmaBf16: return run_mma(parts, R.bfloats);
    case kMmaF16: return run_mma(parts, R.halves);
    case kWgmma: return begin_wgmma(place);
    case kWgmmaCommit:
      place.groups.push_back(std::move(place.open));
      place.open.clear();
      return;
    case kWgmmaWait:
      // operands are read as late as allowed
      while (int(place.groups.size()) > parts[0]->parameter) {
        for (const Wgmma& w : place.groups.front()) run_wgmma(place, w);
        place.groups.pop_front();
      }
      return;
  }
}

// An mbarrier as the emulator keeps it: count, arrivals still to come, bytes to come times two, and the phase's parity.
struct Phase {
  int16_t count, pending;
  int32_t bytes_and_parity;
};

void check_phase(uint64_t* barrier) {
  auto* phase = reinterpret_cast<Phase*>(barrier);
  if (phase->pending != 0 || phase->bytes_and_parity >> 1 != 0) return;
  phase->bytes_and_parity ^= 1;
  phase->pending = phase->count;
  R.stalls = 0;
  // on even schedules those who wait are told as late as possible
  if (R.seed & 1 || R.seed > 3) wake_pollers();
}

void prepare_fiber(int i, dim3 block, dim3 grid) {
  Fiber& fiber = R.fibers[size_t(i)];
  const auto u = unsigned(i);
  fiber.thread = {{u % block.x, u / block.x % block.y, u / (block.x * block.y)}, R.block, block, grid, R.shared};
  fiber.fake_stack = nullptr;
  fiber.where = "its first step";
  set_state(i, kReady);
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

void prepare_places(std::vector<Place>& places, int warps) {
  for (size_t i = 0; i < places.size(); ++i) {
    Place& place = places[i];
    place.warps = warps;
    place.shadows.clear();
    for (int k = 0; k < warps; ++k) {
      const int left = R.threads - (int(i) * warps + k) * kWarp;
      place.here[k] = 0;
      place.alive[k] = left >= kWarp ? ~0u : left > 0 ? (1u << left) - 1 : 0;
    }
  }
}

void run_block(dim3 block, dim3 grid) {
  R.shared = R.shared_bytes ? allocate_nan(R.shared_bytes) : nullptr;
  for (int i = 0; i < R.threads; ++i) prepare_fiber(i, block, grid);
  prepare_places(R.warps, 1);
  prepare_places(R.groups, 4);
#if EMULATOR_TSAN
  R.main_tsan = __tsan_get_current_fiber();
#endif
  __tsan_release(&R.body);
  R.alive = R.threads;
  R.arrived = R.predicates = R.stalls = 0;
  R.main_bottom = nullptr;
  R.running = R.seed == 1 ? R.threads - 1 : 0;
  const int first = R.seed < 4 ? R.running : int(random_bits() % uint32_t(R.threads));
  switch_to(first, &R.main_stack_pointer, &R.main_fake_stack);
  __tsan_acquire(&R.block);
  if (!R.boxes.empty()) die("bulk copies are under way at the end of the block");
  for (const Named& named : R.named) {
    if (named.arrived) die("threads left while others wait at a named barrier");
  }
  free(R.shared);
  for (const auto& variable : R.variables) free(variable.second);
  R.variables.clear();
}

}  // namespace

void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "emulator: %s, block (%u,%u,%u), thread %d: ", R.kernel, R.block.x, R.block.y, R.block.z, R.running);
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

int block_barrier(const char* name, int predicate, int combine) {
  Fiber& fiber = R.fibers[size_t(R.running)];
  if (R.arrived && strcmp(R.barrier_name, name) != 0) {
    die("threads of a block meet at different barriers, %s and %s", R.barrier_name, name);
  }
  R.barrier_name = fiber.where = name;
  R.combine = combine;
  R.predicates += predicate;
  ++R.arrived;
  __tsan_release(&R.arrived);
  set_state(R.running, kAtBarrier);
  if (R.arrived == R.alive) release_block();
  yield();
  __tsan_acquire(&R.arrived);
  return R.result;
}

void named_barrier(int id, int threads) {
  if (id < 1 || id > 15 || threads % kWarp) die("named barrier %d of %d threads", id, threads);
  Named& named = R.named[id];
  if (named.arrived && named.threads != threads) die("named barrier %d: %d threads and %d", id, named.threads, threads);
  named.threads = threads;
  named.waiting.push_back(R.running);
  R.fibers[size_t(R.running)].where = "a named barrier";
  __tsan_release(&named);
  set_state(R.running, kAtMeeting);
  if (++named.arrived == threads) {
    R.stalls = 0;
    named.arrived = 0;
    for (int i : named.waiting) set_state(i, kReady);
    named.waiting.clear();
  }
  yield();
  __tsan_acquire(&named);
}

void meet(uint32_t mask, Meeting meeting, Part* part) {
  const int me = R.running, lane = me % kWarp;
  Fiber& fiber = R.fibers[size_t(me)];
  const bool of_group = meeting >= kWgmma;
  Place& place = of_group ? R.groups[size_t(me / kGroup)] : R.warps[size_t(me / kWarp)];
  const int k = of_group ? me / kWarp % 4 : 0;
  const char* name = kNames[meeting];
  if (!(mask >> lane & 1)) die("%s: lane %d is not in its own mask %08x", name, lane, mask);
  const int valid = R.threads - me / kWarp * kWarp;
  if (valid < kWarp) mask &= (1u << valid) - 1;
  if (mask & ~place.alive[k]) die("%s: mask %08x names lanes that have left", name, mask);
  bool first = true;
  for (int i = 0; i < place.warps; ++i) first = first && place.here[i] == 0;
  if (!first && (place.meeting != meeting || (place.here[k] && place.wanted[k] != mask))) {
    die("lanes diverge: some in %s with mask %08x, some in %s with %08x", kNames[place.meeting], place.wanted[k], name,
        mask);
  }
  if (of_group && mask != ~0u) die("%s needs whole warps", name);
  place.meeting = meeting;
  place.wanted[k] = mask;
  place.parts[k * kWarp + lane] = part;
  place.here[k] |= 1u << lane;
  fiber.where = name;
  if (meeting == kSyncWarp) __tsan_release(&place);
  bool all = true;
  for (int i = 0; i < place.warps; ++i)
    all = all && (of_group ? place.here[i] == ~0u : place.here[i] == place.wanted[i]);
  if (!all) {
    set_state(me, kAtMeeting);
    yield();
  } else {
    hold(place, mask);
    R.stalls = 0;
    const int base = of_group ? me / kGroup * kGroup : me / kWarp * kWarp;
    for (int i = 0; i < place.warps; ++i) {
      for (uint32_t bits = place.here[i] & ~(i == k ? 1u << lane : 0u); bits; bits &= bits - 1) {
        set_state(base + i * kWarp + __builtin_ctz(bits), kReady);
      }
      place.here[i] = 0;
    }
  }
  if (meeting == kSyncWarp) __tsan_acquire(&place);
}

void* shared_variable(const void* key, size_t bytes) {
  Quiet quiet;
  for (const auto& variable : R.variables) {
    if (variable.first == key) return variable.second;
  }
  R.variables.emplace_back(key, allocate_nan(bytes));
  return R.variables.back().second;
}

void copy_async(void* to, const void* from, int bytes) {
  if (bytes < 0 || bytes > 16) die("cp.async of %d bytes", bytes);
  if (reinterpret_cast<uintptr_t>(to) % 16 || (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16)) {
    die("cp.async: not 16-byte aligned");
  }
  __tsan_write_range(to, 16);
  if (bytes) __tsan_read_range(const_cast<void*>(from), (unsigned long)(bytes));
  Quiet quiet;
  memset(to, 0xff, 16);
  R.fibers[size_t(R.running)].open.push_back({to, from, bytes});
}

void commit_copies() {
  Fiber& fiber = R.fibers[size_t(R.running)];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void wait_copies(int pending) {
  auto& groups = R.fibers[size_t(R.running)].groups;
  while (int(groups.size()) > pending) {
    for (const Copy& copy : groups.front()) {
      __tsan_write_range(copy.to, 16);
      Quiet quiet;
      memcpy(copy.to, copy.from, size_t(copy.bytes));
      memset(static_cast<char*>(copy.to) + copy.bytes, 0, size_t(16 - copy.bytes));
    }
    groups.pop_front();
  }
}

bool make_map(Map* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch, uint32_t box_rows) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || pitch % 16 || rows == 0 || columns == 0 || box_rows == 0 ||
      box_rows > 256) {
    return false;
  }
  *map = {static_cast<const char*>(base), rows, columns, pitch, box_rows};
  return true;
}

void load_box(void* to, const Map* map, int column, int row, uint64_t* barrier) {
  char* at = static_cast<char*>(to);
  const size_t bytes = size_t(map->box_rows) * 128;
  if ((at - R.shared) % 1024) die("bulk copy: the destination is not 1024-byte aligned");
  if (at < R.shared || at + bytes > R.shared + R.shared_bytes)
    die("bulk copy: the destination is outside shared memory");
  Quiet quiet;
  memset(at, 0xff, bytes);
  // the map is a parameter of the thread that issues it, and gone with that thread
  R.boxes.push_back({at, *map, column, row, barrier});
}

void barrier_init(uint64_t* barrier, int count) {
  const Phase phase = {int16_t(count), int16_t(count), 0};
  memcpy(barrier, &phase, sizeof phase);
}

void barrier_arrive(uint64_t* barrier, int bytes) {
  __tsan_release(barrier);
  auto* phase = reinterpret_cast<Phase*>(barrier);
  if (phase->pending <= 0) die("mbarrier: too many arrivals");
  phase->bytes_and_parity += bytes * 2;
  --phase->pending;
  check_phase(barrier);
  // whoever waited for this may be done with it before the one that arrived takes its next step
  if (R.seed > 3 && random_bits() % 2) yield(random_bits() % 2);
}

void barrier_wait(uint64_t* barrier, int parity) {
  const auto* phase = reinterpret_cast<const Phase*>(barrier);
  R.fibers[size_t(R.running)].where = "mbarrier.wait";
  while ((phase->bytes_and_parity & 1) == parity) {
    if (!R.boxes.empty() && R.seed > 3 && random_bits() % 4 == 0) {
      deliver(random_bits() % R.boxes.size());
      continue;
    }
    set_state(R.running, kPolling);
    yield();
  }
  __tsan_acquire(barrier);
}

void run_grid(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  static const bool tables = [] {
    for (uint32_t i = 0; i < 65536; ++i) {
      R.halves[i] = half_to_float(uint16_t(i));
      const uint32_t bits = i << 16;
      memcpy(&R.bfloats[i], &bits, 4);
    }
    return true;
  }();
  (void)tables;
  R.kernel = kernel;
  R.threads = int(block.x * block.y * block.z);
  R.shared_bytes = shared_bytes;
  R.body = &body;
  if (int(R.fibers.size()) < R.threads) {
    R.fibers.resize(size_t(R.threads));
    for (Fiber& fiber : R.fibers) {
      if (!fiber.stack) fiber.stack = allocate_nan(kStack);
#if EMULATOR_TSAN
      if (!fiber.tsan) fiber.tsan = __tsan_create_fiber(0);
#endif
    }
  }
  R.ready.assign(size_t((R.threads + kWarp - 1) / kWarp), 0);
  R.warps.resize(R.ready.size());
  R.groups.resize((R.ready.size() + 3) / 4);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t b = 0; b < blocks; ++b) {
    R.block = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
    run_block(block, grid);
  }
}

}  // namespace emulator
