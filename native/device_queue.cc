// The worker thread, its errors, and the output of SONDE_DEBUG and SONDE_TRACE.
#include "device_queue.h"

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <utility>

namespace sonde {

namespace {

double microseconds() {
  using namespace std::chrono;
  return duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

DeviceQueue::DeviceQueue(bool debug, const std::string& trace, std::function<Status()> synchronize)
    : debug_(debug), synchronize_(std::move(synchronize)) {
  if (!trace.empty()) {
    trace_ = fopen(trace.c_str(), "w");
    if (trace_) fputs("[\n", trace_);
  }
  thread_ = std::thread([this] { run(); });
}

DeviceQueue::~DeviceQueue() {
  stop();
  if (!trace_) return;
  fputs("{}]\n", trace_);
  fclose(trace_);
}

void DeviceQueue::push(Label label, std::function<Status()> work) {
  enqueue({std::move(label), std::move(work), nullptr});
}

void DeviceQueue::push(std::function<void()> work) { enqueue({{}, nullptr, std::move(work)}); }

void DeviceQueue::enqueue(Item item) {
  {
    std::lock_guard lock(mutex_);
    item.section = section_;
    item.number = ++pushed_;
    items_.push_back(std::move(item));
  }
  ready_.notify_one();
}

bool DeviceQueue::stopped() const {
  std::lock_guard lock(mutex_);
  return stopping_;
}

std::string DeviceQueue::take_error() {
  std::lock_guard lock(error_mutex_);
  return std::exchange(error_, {});
}

void DeviceQueue::keep_error(std::string text) {
  std::lock_guard lock(error_mutex_);
  if (error_.empty()) error_ = std::move(text);
}

void DeviceQueue::wait() {
  auto done = std::make_shared<std::promise<void>>();
  auto future = done->get_future();
  push([done] { done->set_value(); });
  future.wait();
}

void DeviceQueue::set_section(int section) {
  std::lock_guard lock(mutex_);
  section_ = section;
}

void DeviceQueue::start_profile() {
  push([this] { profiling_ = true; });
}

std::vector<Timing> DeviceQueue::take_profile() {
  std::vector<Timing> taken;
  push([this, &taken] {
    profiling_ = false;
    taken = std::exchange(profile_, {});
  });
  wait();
  return taken;
}

void DeviceQueue::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void DeviceQueue::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ready_.wait(lock, [this] { return stopping_ || !items_.empty(); });
    if (items_.empty()) return;
    Item item = std::move(items_.front());
    items_.pop_front();
    const bool dropped = stopping_ && !item.plain;
    lock.unlock();
    // A queue that is stopping drops operations. Items without a label still run, as others wait for them.
    running_ = item.number;
    if (!dropped) execute(item);
    item = {};
    lock.lock();
  }
}

void DeviceQueue::execute(const Item& item) {
  if (item.plain) return item.plain();
  const bool timed = debug_ || trace_ || profiling_;
  const double begin = timed ? microseconds() : 0;
  Status status;
  try {
    status = item.work();
    if (timed && synchronize_ && !status.failed()) status = synchronize_();
  } catch (const std::exception& error) {
    status = fail("%s", error.what());
  }
  if (timed) {
    const double took = microseconds() - begin;
    std::vector<Argument> arguments;
    if (item.label.arguments) arguments = item.label.arguments();
    const std::string description = debug_ || trace_ ? describe_arguments(arguments) : "";
    if (debug_) fprintf(stderr, "sonde %9.1f us  %s(%s)\n", took, item.label.name, description.c_str());
    if (trace_) {
      fprintf(trace_,
              "{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":%.1f,\"dur\":%.1f,\"args\":{\"of\":\"%s\"}},\n",
              item.label.name, begin, took, description.c_str());
    }
    if (profiling_)
      profile_.push_back({item.label.name, std::move(arguments), item.section, begin * 1e-6, took * 1e-6});
  }
  if (!status.failed()) return;
  if (status.names_operation) return keep_error(status.text);
  std::string text = item.label.name;
  text += ": ";
  text += status.text;
  if (item.label.arguments) text += " (of " + describe_arguments(item.label.arguments()) + ")";
  keep_error(std::move(text));
}

}  // namespace sonde
