// The worker thread, its errors, and the output of SONDE_DEBUG and SONDE_TRACE.
#include "device_queue.h"

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <utility>

#include "relax.h"

namespace sonde {

namespace {

constexpr int kSpins = 1000;  // some tens of microseconds

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

void DeviceQueue::enqueue(std::unique_ptr<Item> item) {
  bool wakes;
  {
    std::lock_guard lock(mutex_);
    append(std::move(item));
    wakes = std::exchange(sleeping_, false);
  }
  if (wakes) ready_.notify_one();
}

void DeviceQueue::push(Batch batch) {
  if (batch.items_.empty()) return;
  bool wakes;
  {
    std::lock_guard lock(mutex_);
    for (auto& item : batch.items_) append(std::move(item));
    wakes = std::exchange(sleeping_, false);
  }
  if (wakes) ready_.notify_one();
}

void DeviceQueue::append(std::unique_ptr<Item> item) {
  item->section = section_;
  item->number = ++pushed_;
  items_.push_back(std::move(item));
}

bool DeviceQueue::stopped() const { return stopping_; }

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
    sleeping_ = false;
  }
  ready_.notify_one();
  thread_.join();
}

DeviceQueue::Items DeviceQueue::take_items() {
  // The next operation usually follows at once, and waking a sleeping thread costs tens of microseconds.
  for (int spin = 0; spin < kSpins && pushed_ == running_ && !stopping_; ++spin) relax();
  std::unique_lock lock(mutex_);
  while (items_.empty() && !stopping_) {
    sleeping_ = true;
    ready_.wait(lock, [this] { return !sleeping_; });
  }
  return std::exchange(items_, {});
}

void DeviceQueue::run() {
  for (;;) {
    Items items = take_items();
    if (items.empty()) return;
    for (; !items.empty(); items.pop_front()) {
      Item& item = *items.front();
      running_ = item.number;
      // A queue that is stopping drops operations. Items without a name still run, as others wait for them.
      if (!item.name) item.run();
      else if (!stopping_) execute(item);
    }
  }
}

void DeviceQueue::execute(Item& item) {
  const bool timed = debug_ || trace_ || profiling_;
  const double begin = timed ? microseconds() : 0;
  Status status;
  try {
    status = item.run();
    if (timed && synchronize_ && !status.failed()) status = synchronize_();
  } catch (const std::exception& error) {
    status = fail("%s", error.what());
  }
  if (timed) {
    const double took = microseconds() - begin;
    std::vector<Argument> arguments = item.arguments();
    const std::string description = debug_ || trace_ ? describe_arguments(arguments) : "";
    const FilterCounts filter = item.filter();
    if (debug_) {
      const std::string counts = describe_counts(filter);
      fprintf(stderr, "sonde %9.1f us  %s(%s)%s\n", took, item.name, description.c_str(), counts.c_str());
    }
    if (trace_) {
      fprintf(trace_,
              "{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":%.1f,\"dur\":%.1f,\"args\":{\"of\":\"%s\"}},\n",
              item.name, begin, took, description.c_str());
    }
    if (profiling_) {
      profile_.push_back({item.name, std::move(arguments), item.section, begin * 1e-6, took * 1e-6, filter});
    }
  }
  if (!status.failed()) return;
  if (status.names_operation) return keep_error(status.text);
  std::string text = item.name;
  text += ": ";
  text += status.text;
  const std::string arguments = describe_arguments(item.arguments());
  if (!arguments.empty()) text += " (of " + arguments + ")";
  keep_error(std::move(text));
}

}  // namespace sonde
