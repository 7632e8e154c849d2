// The CPU backend's state: its compute threads and their scratch memory.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "context.h"

namespace sonde {

// The number of physical cores that this process may run on.
int physical_cores();

// Bytes of second-level cache for each core that this process may run on: where cores differ, the smallest share.
int64_t second_level_cache();

// Memory in large pages, where it is of several of them; for free(). null when there is not enough.
void* allocate_pages(size_t bytes);

struct Context {
  Context(int threads, const Operations* operations, const char* instruction_set, FilterUse filter_use,
          bool dots_bytes);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  void run(int64_t count, void (*task)(void*, int64_t, int), void* arg);

  const Operations* const operations;
  const char* const instruction_set;
  const int threads;
  const FilterUse filter_use;
  const bool dots_bytes;

  struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
    void* at_least(size_t wanted);
    ~Scratch();
  };
  std::vector<Scratch> scratch;  // shared slots first, then each thread's
  int64_t cache_bytes = 0;       // of second-level cache for each core; 0: not asked for yet
  std::once_flag measured;
  double measurement = 0;

 private:
  void stop();
  void work(int thread);
  void take_tasks(int thread);

  bool has_job_after(uint64_t seen) const;

  // The current job, written while no worker is inside one.
  void (*task_)(void*, int64_t, int) = nullptr;
  void* arg_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  // state_ holds the number of workers inside the job, whether more may join, and the number of the job.
  static constexpr uint64_t kInside = 0xffff, kOpen = 0x10000, kNextJob = 0x20000;
  std::atomic<uint64_t> state_{0};
  std::atomic<int> sleepers_{0};
  bool stopping_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  int spins_ = 0;
};

}  // namespace sonde
