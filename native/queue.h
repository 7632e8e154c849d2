// The in-order queue of one device: a worker thread that carries out what JavaScript enqueues.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "describe.h"
#include "ops.h"

namespace sonde {

// What is told about an operation: its name, and its views for errors and traces. Filled only when asked for.
struct Label {
  const char* name = "";
  std::function<std::vector<Argument>()> arguments;
};

// An operation that was carried out while a profile ran; times in seconds, from any fixed point.
struct Timing {
  const char* name;
  std::vector<Argument> arguments;
  int section;
  double begin, seconds;
};

class Queue {
 public:
  // debug: each operation with its time on stderr; trace: a path for a timeline in Chrome's trace format, or empty. Where
  // operations only begin work, `settle` waits for it: it follows each operation that is timed.
  Queue(bool debug, const std::string& trace, std::function<Status()> settle = nullptr);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Work that may fail. The first failure is kept, with the label, until take_error.
  void push(Label label, std::function<Status()> work);
  // Work that cannot fail and is not told about, such as telling JavaScript that all before it is done.
  void push(std::function<void()> work);
  // The first error since it was last asked for; empty if there was none. To be called from queued work.
  std::string take_error();
  // Keeps an error that was noticed elsewhere, unless there is one.
  void keep_error(std::string text);
  // Blocks until all that was queued before is done.
  void wait();
  // From here on, what is pushed belongs to this section of a profile.
  void set_section(int section);
  // Times every operation from here on, until the timings are taken; both wait for what was queued before.
  void start_profile();
  std::vector<Timing> take_profile();
  // Carries out what is running, drops other operations, joins the thread. What is pushed afterwards is never carried out.
  void stop();
  bool stopped() const;
  // How many items were pushed so far, and which of them is carried out now, counted from 1. The latter on the queue's thread.
  uint64_t pushed() const { return pushed_; }
  uint64_t running() const { return running_; }

 private:
  struct Item {
    Label label;
    std::function<Status()> work;
    std::function<void()> plain;
    int section = 0;
    uint64_t number = 0;
  };
  void enqueue(Item item);
  void run();
  void carry_out(const Item& item);

  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Item> items_;
  bool stopping_ = false;
  int section_ = 0;
  std::atomic<uint64_t> pushed_ = 0;  // counted under the mutex, read without it for each block that comes back
  uint64_t running_ = 0;              // of the queue's thread, as the next ones
  bool profiling_ = false;
  std::vector<Timing> profile_;
  std::mutex error_mutex_;
  std::string error_;
  const bool debug_;
  const std::function<Status()> settle_;
  FILE* trace_ = nullptr;
  std::thread thread_;
};

}  // namespace sonde
