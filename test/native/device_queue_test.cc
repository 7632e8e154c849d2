// Oracle: the guarantees of device_queue.h and buffer.h. This is a plain program, as ThreadSanitizer cannot check an
// addon in Node. The backend is a stand-in for memory only, with a limit, so that running out of it can be tried.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../../native/buffer.h"
#include "../../native/device_queue.h"
#include "../../native/views.h"
#include "check.h"

namespace {

using sonde::Allocator;
using sonde::DeviceQueue;
using sonde::Status;

std::atomic<int64_t> live_blocks{0};
int64_t block_limit = 1 << 20;

void* allocate(sonde::Context*, size_t bytes) {
  if (live_blocks >= block_limit) return nullptr;
  live_blocks++;
  return std::aligned_alloc(64, sonde::round_up_bytes(bytes, 64));
}

void release(sonde::Context*, void* block) {
  live_blocks--;
  std::free(block);
}

void set_bytes(sonde::Context*, void* data, unsigned char value, size_t bytes) { std::memset(data, value, bytes); }

void get_bytes(sonde::Context*, void* host, const void* data, size_t bytes) { std::memcpy(host, data, bytes); }

sonde::Backend memory_backend() {
  sonde::Backend backend = {};
  backend.abi = sonde::kBackendAbi;
  backend.allocate = allocate;
  backend.release = release;
  backend.set_bytes = set_bytes;
  backend.get_bytes = get_bytes;
  return backend;
}

const sonde::Backend backend = memory_backend();

std::string error_of(DeviceQueue& queue) {
  std::string error;
  queue.push([&] { error = queue.take_error(); });
  queue.wait();
  return error;
}

void keeps_the_order() {
  DeviceQueue queue(false, "");
  std::vector<int> seen;
  for (int i = 0; i < 5000; i++) {
    if (i % 2) {
      queue.push([&seen, i] { seen.push_back(i); });
    } else {
      queue.push("work", [&seen, i]() -> Status {
        seen.push_back(i);
        return {};
      });
    }
  }
  queue.wait();
  CHECK(seen.size() == 5000);
  for (int i = 0; i < 5000; i++) CHECK(seen[i] == i);
}

void takes_from_many_threads() {
  DeviceQueue queue(false, "");
  int64_t sum = 0;  // touched by the queue's thread alone
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&] {
      for (int i = 1; i <= 1000; i++) queue.push([&sum, i] { sum += i; });
      queue.wait();
    });
  }
  for (auto& thread : threads) thread.join();
  queue.wait();
  CHECK(sum == 4 * 500500);
}

void keeps_the_first_error() {
  DeviceQueue queue(false, "");
  bool later = false;
  struct First {
    Status operator()() const { return sonde::fail("index %d is out of range", 7); }
    std::vector<sonde::Argument> arguments() const { return {{"x", sonde::DType::float32, {2, 3}}}; }
  };
  queue.push("first", First());
  queue.push("second", [] { return sonde::fail("too late"); });
  queue.push("third", [&later]() -> Status {
    later = true;
    return {};
  });
  const std::string error = error_of(queue);
  CHECK(error.find("first") != std::string::npos);
  CHECK(error.find("index 7 is out of range") != std::string::npos);
  CHECK(error.find("x [2, 3] float32") != std::string::npos);
  CHECK(error.find("second") == std::string::npos);
  CHECK(later);
  CHECK(error_of(queue).empty());
  queue.push("thrower", []() -> Status { throw std::runtime_error("no such luck"); });
  CHECK(error_of(queue).find("no such luck") != std::string::npos);
}

// Only operations that are pushed between the start and the end of a profile are timed, each with its section.
void takes_a_profile() {
  DeviceQueue queue(false, "");
  const auto sleep = []() -> Status {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return {};
  };
  struct One {
    decltype(sleep) run;
    Status operator()() const { return run(); }
    std::vector<sonde::Argument> arguments() const { return {{"x", sonde::DType::bfloat16, {7}}}; }
  };
  queue.push("before", sleep);
  queue.start_profile();
  queue.push("one", One{sleep});
  queue.set_section(3);
  queue.push([] {});
  queue.push("two", sleep);
  const std::vector<sonde::Timing> timings = queue.take_profile();
  queue.push("after", sleep);
  CHECK(timings.size() == 2);
  CHECK(std::string(timings[0].name) == "one" && timings[0].section == 0);
  CHECK(sonde::describe_arguments(timings[0].arguments) == "x [7] bfloat16");
  CHECK(std::string(timings[1].name) == "two" && timings[1].section == 3);
  CHECK(timings[0].seconds >= 0.002 && timings[1].seconds >= 0.002);
  CHECK(timings[1].begin >= timings[0].begin + timings[0].seconds);
  queue.start_profile();
  CHECK(queue.take_profile().empty());
}

void stops_with_work_left() {
  auto held = std::make_shared<int>(0);
  {
    DeviceQueue queue(false, "");
    std::atomic<bool> entered{false};
    std::atomic<bool> go{false};
    queue.push([&] {
      entered = true;
      while (!go) std::this_thread::yield();
    });
    for (int i = 0; i < 100; i++) queue.push([held] { ++*held; });
    while (!entered) std::this_thread::yield();
    std::thread stopper([&] { queue.stop(); });
    go = true;
    stopper.join();
  }
  CHECK(held.use_count() == 1);
  CHECK(*held <= 100);
}

// The writes of one tensor's life and of the next one's in the same block must not meet.
void hands_memory_on_in_order() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, false);
    sonde::Buffers buffers(allocator);
    const size_t number = buffers.add();
    CHECK(buffers.find(int64_t(number))->data == nullptr);
    CHECK(buffers.find(int64_t(number) + 1) == nullptr);
    int64_t wrong = 0;
    for (int round = 0; round < 500; round++) {
      const size_t bytes = 1000 + size_t(round % 7) * 300;
      CHECK(buffers.allocate(number, bytes));
      CHECK(buffers.find(int64_t(number))->bytes == bytes);
      auto* data = static_cast<unsigned char*>(buffers.find(int64_t(number))->data);
      CHECK(data != nullptr && reinterpret_cast<uintptr_t>(data) % 64 == 0);
      queue.push([=] { memset(data, round & 255, bytes); });
      queue.push([=, &wrong] {
        for (size_t i = 0; i < bytes; i++) wrong += data[i] != (round & 255);
      });
      CHECK(allocator.memory().allocated == int64_t(bytes));
      CHECK(buffers.release(number) == bytes);
      CHECK(buffers.release(number) == 0);
    }
    queue.wait();
    CHECK(wrong == 0);
    CHECK(allocator.memory().allocated == 0);
    CHECK(allocator.memory().peak == 2800);
    CHECK(live_blocks <= 7);  // one of each size at most: blocks were used again
    allocator.trim();
    queue.wait();
    CHECK(live_blocks == 0);
    buffers.remove(number);
    CHECK(buffers.add() == number);
    CHECK(buffers.add() != number);
  }
  CHECK(live_blocks == 0);
}

void runs_out_of_memory_and_recovers() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, false);
    block_limit = 2;
    void* a = allocator.take(600);
    void* b = allocator.take(6000);
    CHECK(a && b);
    CHECK(!allocator.take(600));
    CHECK(allocator.memory().allocated == 6600);
    allocator.give_back(b, 6000);
    void* c = allocator.take(60000);  // another size: the cached block must be given up for it
    CHECK(c);
    allocator.give_back(a, 600);
    allocator.give_back(c, 60000);
    queue.wait();
  }
  block_limit = 1 << 20;
  CHECK(live_blocks == 0);
}

// An operation without enough memory gets the blocks that no work up to it uses, and no others.
void reclaims_idle_blocks() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, false);
    void* early = allocator.take(600);
    void* late = allocator.take(6000);
    allocator.give_back(early, 600);
    std::atomic<bool> go{false};
    queue.push([&] {
      while (!go) std::this_thread::yield();
      allocator.reclaim();
    });
    allocator.give_back(late, 6000);  // the item above may use it
    go = true;
    queue.wait();
    CHECK(live_blocks == 1);
    CHECK(allocator.take(6000) == late);
    allocator.give_back(late, 6000);
    queue.push([&] { allocator.reclaim(); });
    queue.wait();
    CHECK(live_blocks == 0);
  }
}

// Tensors may outlive their device's threads, in a worker that ends: the queue can no longer trim.
void frees_blocks_given_back_after_the_end() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, false);
    constexpr size_t kLarge = size_t(300) << 20;  // more than is ever kept
    void* block = allocator.take(kLarge);
    queue.stop();
    allocator.give_back(block, kLarge);
  }
  CHECK(live_blocks == 0);
}

// A larger block is used, up to twice the size, and is given back under its own size.
void uses_larger_blocks() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, false);
    void* large = allocator.take(100000);
    allocator.give_back(large, 100000);
    void* small = allocator.take(60000);
    CHECK(small == large);
    CHECK(allocator.memory().allocated == 60000);
    void* other = allocator.take(60000);
    CHECK(other != large);
    allocator.give_back(small, 60000);
    allocator.give_back(other, 60000);
    CHECK(allocator.take(40000) == other);  // the smallest that is large enough
    CHECK(allocator.take(100000) == large);
    void* tiny = allocator.take(1000);
    allocator.give_back(other, 40000);
    void* second = allocator.take(1000);
    CHECK(second != other);  // more than twice as large
    CHECK(live_blocks == 4);
    allocator.give_back(large, 100000);
    allocator.give_back(tiny, 1000);
    allocator.give_back(second, 1000);
    CHECK(allocator.memory().allocated == 0);
  }
  CHECK(live_blocks == 0);
}

void poison_finds_an_overrun() {
  DeviceQueue queue(false, "");
  {
    Allocator allocator(backend, nullptr, queue, true);
    auto* data = static_cast<float*>(allocator.take(4096));
    CHECK(std::isnan(data[0]) && std::isnan(data[1023]));
    queue.push([=] { std::fill_n(data, 1024, 1.0f); });
    allocator.give_back(data, 4096);
    CHECK(error_of(queue).empty());
    data = static_cast<float*>(allocator.take(4096));
    CHECK(std::isnan(data[0]) && std::isnan(data[1023]));
    queue.push([=] { data[1024] = 0; });
    allocator.give_back(data, 4096);
    CHECK(error_of(queue).find("after a tensor") != std::string::npos);
    queue.wait();
  }
  CHECK(live_blocks == 0);
}

}  // namespace

int main() {
  keeps_the_order();
  takes_from_many_threads();
  keeps_the_first_error();
  takes_a_profile();
  stops_with_work_left();
  hands_memory_on_in_order();
  runs_out_of_memory_and_recovers();
  reclaims_idle_blocks();
  frees_blocks_given_back_after_the_end();
  uses_larger_blocks();
  poison_finds_an_overrun();
  std::puts("device_queue_test: good");
}
