// The pool of compute threads. A job is a count of tasks that the threads draw from a shared counter. Between jobs a
// worker spins for a moment, as the next operation usually follows at once and waking a sleeping thread costs tens of
// microseconds. The thread that starts the job works as well. It does not wait for workers that come too late, or not
// at all, since other processes may occupy their processors.
#include "threads.h"

#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <cstdio>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#include "../relax.h"

namespace sonde {

namespace {

constexpr int kSpins = 20000;

// Spins for a moment, the `spin`th time in a row. Now and then it lets another thread have the processor: the thread
// that is waited for may be waiting for this very processor.
void wait_a_moment(int spin) {
  constexpr int kBetweenYields = 128;
  if (spin % kBetweenYields == kBetweenYields - 1) std::this_thread::yield();
  else relax();
}

#if defined(__linux__)
// The processors that this process may run on.
std::vector<int> allowed_processors() {
  cpu_set_t set;
  std::vector<int> all;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return all;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) all.push_back(cpu);
  }
  return all;
}

// What the kernel says of a processor, a line at most; empty where it says nothing.
std::string processor_file(int cpu, const std::string& name) {
  const std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/" + name;
  char line[256] = {};
  if (FILE* file = fopen(path.c_str(), "r")) {
    if (!fgets(line, sizeof line, file)) line[0] = 0;
    fclose(file);
  }
  return line;
}

constexpr const char* kSiblings = "topology/thread_siblings_list";  // threads of one core share the same list

// The length of a list of processors such as "0-3,8".
int64_t list_length(const std::string& list) {
  int64_t count = 0;
  for (const char* at = list.c_str(); *at;) {
    char* end = nullptr;
    const long first = strtol(at, &end, 10);
    if (end == at) break;
    const long last = *end == '-' ? strtol(end + 1, &end, 10) : first;
    if (first < 0 || last < first || last >= CPU_SETSIZE) break;
    count += last - first + 1;
    at = *end == ',' ? end + 1 : end;
  }
  return count < 1 ? 1 : count;
}

// A core's share of the second-level cache of a processor; 0 where the kernel does not say.
int64_t cache_share(int cpu) {
  for (int i = 0; i < 8; ++i) {
    const std::string cache = "cache/index" + std::to_string(i) + "/";
    if (processor_file(cpu, cache + "level") != "2\n") continue;
    const int64_t size = strtol(processor_file(cpu, cache + "size").c_str(), nullptr, 10);  // "512K"
    const int64_t sharing = list_length(processor_file(cpu, cache + "shared_cpu_list"));
    const int64_t siblings = list_length(processor_file(cpu, kSiblings));
    const int64_t kilobytes = size < 0 || size > (1 << 20) ? 0 : size;
    return kilobytes * 1024 * (siblings < sharing ? siblings : sharing) / sharing;
  }
  return 0;
}
#endif

int processors() {
#if defined(__linux__)
  const size_t allowed = allowed_processors().size();
  if (allowed) return int(allowed);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? int(count) : 1;
}

}  // namespace

int physical_cores() {
#if defined(__linux__)
  std::set<std::string> cores;
  for (const int cpu : allowed_processors()) {
    const std::string siblings = processor_file(cpu, kSiblings);
    cores.insert(siblings.empty() ? "alone " + std::to_string(cpu) : siblings);
  }
  if (!cores.empty()) return int(cores.size());
#elif defined(__APPLE__)
  int count = 0;
  size_t size = sizeof count;
  if (sysctlbyname("hw.physicalcpu", &count, &size, nullptr, 0) == 0 && count > 0) return count;
#endif
  return processors();
}

int64_t second_level_cache() {
  int64_t least = 0;
#if defined(__linux__)
  for (const int cpu : allowed_processors()) {
    const int64_t share = cache_share(cpu);
    if (share > 0 && (least == 0 || share < least)) least = share;
  }
#elif defined(__APPLE__)
  size_t size = sizeof least;
  if (sysctlbyname("hw.l2cachesize", &least, &size, nullptr, 0) != 0) least = 0;
#endif
  return least > 0 ? least : int64_t(256) << 10;  // what the smallest of the last ten years have
}

Context::Context(int wanted, const Operations* table, const char* name, FilterUse use, bool has_dots)
    : operations(table),
      instruction_set(name),
      threads(wanted),
      filter_use(use),
      dots_bytes(has_dots),
      scratch(size_t(kScratchSlots) * size_t(1 + wanted)) {
  // with more threads than processors, spinning would take a processor from a thread that has work to do
  spins_ = threads <= processors() ? kSpins : 0;
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

Context::~Context() { stop(); }

void Context::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Context::run(int64_t count, void (*task)(void*, int64_t, int), void* arg) {
  if (count <= 0) return;
  if (threads == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(arg, i, 0);
    return;
  }
  task_ = task;
  arg_ = arg;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  state_.store((state_.load(std::memory_order_relaxed) & ~kInside) + kNextJob + kOpen);
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(mutex_); }  // a worker that is about to sleep is now asleep, or will see this job
    wake_.notify_all();
  }
  take_tasks(0);
  // Workers that have not joined need not: no task is left. Those that have joined are waited for.
  state_.fetch_sub(kOpen, std::memory_order_relaxed);
  for (int spin = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spin) wait_a_moment(spin);
}

void Context::take_tasks(int thread) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(arg_, i, thread);
}

bool Context::has_job_after(uint64_t seen) const {
  const uint64_t state = state_.load();
  return (state & kOpen) != 0 && state / kNextJob != seen;
}

void Context::work(int thread) {
  uint64_t seen = 0;  // the number of the last job
  for (;;) {
    for (int spin = 0; spin < spins_ && !has_job_after(seen); ++spin) wait_a_moment(spin);
    if (!has_job_after(seen)) {
      std::unique_lock lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, [&] { return stopping_ || has_job_after(seen); });
      --sleepers_;
      if (stopping_) return;
    }
    uint64_t state = state_.load(std::memory_order_relaxed);
    if ((state & kOpen) == 0 || state / kNextJob == seen) continue;
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) continue;
    seen = state / kNextJob;
    take_tasks(thread);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

void* allocate_pages(size_t bytes) {
  constexpr size_t kHuge = size_t(2) << 20;
  const size_t alignment = bytes >= 2 * kHuge ? kHuge : 64;
  if (bytes > SIZE_MAX - alignment) return nullptr;
  const size_t rounded = round_up_bytes(bytes, alignment);
  void* data = aligned_alloc(alignment, rounded ? rounded : alignment);
#if defined(__linux__)
  if (data && alignment == kHuge) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return data;
}

void* Context::Scratch::at_least(size_t wanted) {
  if (wanted <= bytes) return data;
  free(data);
  bytes = wanted > SIZE_MAX - 4095 ? 0 : round_up_bytes(wanted, 4096);
  data = bytes ? allocate_pages(bytes) : nullptr;
  if (!data) bytes = 0;
  return data;
}

Context::Scratch::~Scratch() { free(data); }

int thread_count(const Context* context) { return context->threads; }

int64_t cache_bytes(Context* context) {
  if (context->cache_bytes == 0) context->cache_bytes = second_level_cache();
  return context->cache_bytes;
}

FilterUse filter_use(const Context* context) { return context->filter_use; }

bool dots_bytes(const Context* context) { return context->dots_bytes; }

double measured_once(Context* context, double (*measure)()) {
  std::call_once(context->measured, [&] { context->measurement = measure(); });
  return context->measurement;
}

void parallel_for(Context* context, int64_t count, void (*task)(void*, int64_t, int), void* arg) {
  context->run(count, task, arg);
}

void* shared_scratch(Context* context, int slot, size_t bytes) {
  return context->scratch[size_t(slot)].at_least(bytes ? bytes : 1);
}

void* thread_scratch(Context* context, int thread, int slot, size_t bytes) {
  return context->scratch[size_t(kScratchSlots * (1 + thread) + slot)].at_least(bytes ? bytes : 1);
}

}  // namespace sonde
