// The in-order queue of one device: a worker thread that runs the work that JavaScript enqueues.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "describe.h"
#include "ops.h"

namespace sonde {

// An operation that ran while a profile was taken. Times are in seconds from an arbitrary origin.
struct Timing {
  const char* name;
  std::vector<Argument> arguments;
  int section;
  double begin, seconds;
  FilterCounts filter;
};

class DeviceQueue {
 public:
  // debug: print each operation with its time on stderr; trace: the path of a timeline in Chrome's trace format, or
  // empty. `synchronize` waits for work that operations only begin; it is called after each operation that is timed.
  DeviceQueue(bool debug, const std::string& trace, std::function<Status()> synchronize = nullptr);
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  // Queues an operation: a function without arguments that returns a Status. The first failure is kept, with the name,
  // until take_error. `name` must live as long as the queue. A function that has a method arguments() describes its
  // tensors with it, for errors and traces; it is called only when they are needed. One that has a method filter() says
  // with it what its filter did, after it was called.
  template <class Function>
  void push(const char* name, Function operation) {
    enqueue(std::make_unique<Held<Function>>(name, std::move(operation)));
  }
  // Operations that are queued together, in their order.
  class Batch;
  void push(Batch batch);
  // Queues work that cannot fail and has no name, such as notifying JavaScript that all work before it is done.
  template <class Function>
  void push(Function work) {
    enqueue(std::make_unique<Held<Function>>(nullptr, std::move(work)));
  }
  // Returns the first error since the last call, or an empty string. It must be called from queued work.
  std::string take_error();
  // Keeps an error that was noticed elsewhere, unless one is kept already.
  void keep_error(std::string text);
  // Blocks until all work that was queued before is done.
  void wait();
  // Work that is pushed from now on belongs to this section of a profile.
  void set_section(int section);
  // Times every operation that is pushed from now on, until the timings are taken.
  void start_profile();
  std::vector<Timing> take_profile();
  // Finishes the running item, drops other operations, and joins the thread. Items that are pushed afterwards never
  // run.
  void stop();
  bool stopped() const;
  // The number of items that were pushed so far, and the number of the one that runs, counted from 1. running() is only
  // for the queue's thread.
  uint64_t pushed() const { return pushed_; }
  uint64_t running() const { return running_; }

 private:
  // An operation, or work without a name.
  struct Item {
    explicit Item(const char* name) : name(name) {}
    virtual ~Item() = default;
    virtual Status run() = 0;
    virtual std::vector<Argument> arguments() const = 0;
    virtual FilterCounts filter() const = 0;
    const char* const name;
    int section = 0;
    uint64_t number = 0;
  };
  // An item together with its function, in one allocation.
  template <class Function>
  struct Held final : Item {
    Held(const char* name, Function function) : Item(name), function(std::move(function)) {}
    Status run() override {
      if constexpr (std::is_void_v<std::invoke_result_t<Function&>>) {
        function();
        return {};
      } else {
        return function();
      }
    }
    std::vector<Argument> arguments() const override {
      if constexpr (requires { function.arguments(); }) return function.arguments();
      else return {};
    }
    FilterCounts filter() const override {
      if constexpr (requires { function.filter(); }) return function.filter();
      else return {};
    }
    Function function;
  };
  using Items = std::deque<std::unique_ptr<Item>>;

  void enqueue(std::unique_ptr<Item> item);
  // Under the mutex: puts an item behind the others.
  void append(std::unique_ptr<Item> item);
  // Waits for items and takes all there are; none when the queue has stopped.
  Items take_items();
  void run();
  void execute(Item& item);

  mutable std::mutex mutex_;
  std::condition_variable ready_;
  Items items_;
  bool sleeping_ = false;               // the queue's thread waits for ready_
  std::atomic<bool> stopping_ = false;  // set under the mutex
  int section_ = 0;
  std::atomic<uint64_t> pushed_ = 0;  // counted under the mutex; the allocator reads it without the mutex
  uint64_t running_ = 0;              // used by the queue's thread alone, as are the next two
  bool profiling_ = false;
  std::vector<Timing> profile_;
  std::mutex error_mutex_;
  std::string error_;
  const bool debug_;
  const std::function<Status()> synchronize_;
  FILE* trace_ = nullptr;
  std::thread thread_;
};

class DeviceQueue::Batch {
 public:
  // As DeviceQueue::push of an operation.
  template <class Function>
  void add(const char* name, Function operation) {
    items_.push_back(std::make_unique<Held<Function>>(name, std::move(operation)));
  }

 private:
  friend class DeviceQueue;
  std::vector<std::unique_ptr<Item>> items_;
};

}  // namespace sonde
