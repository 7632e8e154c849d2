// The caching allocator. Sizes are rounded up by at most an eighth, so that a few size classes serve all requests.
// Where a class has no block, one of up to twice the size is used: inputs of many shapes, such as rows of many lengths,
// would otherwise leave cached blocks in every class.
#include "buffer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "device_queue.h"
#include "views.h"

namespace sonde {

namespace {

constexpr size_t kGuard = 64;  // bytes before and after a poisoned block
constexpr unsigned char kGuardByte = 0xA5;
constexpr unsigned char kPoisonByte = 0xFF;          // all ones is NaN in every float dtype
constexpr int64_t kCacheFloor = int64_t(256) << 20;  // always keep up to this much

}  // namespace

size_t Allocator::rounded(size_t bytes) {
  if (bytes <= 512) return 512;
  size_t step = 64;
  while (step * 16 < bytes) step *= 2;  // an eighth of the power of two below
  return round_up_bytes(bytes, step);
}

Allocator::Allocator(const Backend& backend, Context* context, DeviceQueue& queue, bool poison, DeviceQueue* finisher)
    : backend_(backend), context_(context), queue_(queue), finisher_(finisher), poison_(poison) {}

Allocator::~Allocator() {
  for (auto& [size, blocks] : cached_) {
    for (const Cached& cached : blocks) backend_.release(context_, cached.block);
  }
}

void* Allocator::data_of(void* block) const { return poison_ ? static_cast<char*>(block) + kGuard : block; }

void* Allocator::take(size_t bytes) {
  size_t size = rounded(bytes);
  std::unique_lock lock(mutex_);
  void* block = nullptr;
  // the guard zone follows the requested bytes directly, so a poisoned block must have exactly the size
  const auto found = cached_.lower_bound(size);
  if (found != cached_.end() && found->first <= (poison_ ? size : 2 * size)) {
    size = found->first;
    block = found->second.back().block;
    found->second.pop_back();
    if (found->second.empty()) cached_.erase(found);
    cached_bytes_ -= int64_t(size);
  } else {
    lock.unlock();
    const size_t with_guards = poison_ ? size + 2 * kGuard : size;
    block = backend_.allocate(context_, with_guards);
    if (!block) {
      trim();
      if (backend_.trim) queue_.push([this] { backend_.trim(context_); });
      queue_.wait();
      if (finisher_) finisher_->wait();
      block = backend_.allocate(context_, with_guards);
    }
    if (!block) return nullptr;
    if (poison_) {
      backend_.set_bytes(context_, block, kGuardByte, size + 2 * kGuard);
      backend_.set_bytes(context_, static_cast<char*>(block) + kGuard, kPoisonByte, size);
    }
    lock.lock();
  }
  sizes_[block] = size;
  memory_.allocated += int64_t(bytes);
  memory_.peak = std::max(memory_.peak, memory_.allocated);
  return data_of(block);
}

void Allocator::give_back(void* data, size_t bytes) {
  if (poison_) {
    const size_t size = rounded(bytes);
    queue_.push("free", [this, data, size]() -> Status {
      auto* at = static_cast<unsigned char*>(data);
      unsigned char guard[kGuard];
      const auto intact = [&](const unsigned char* zone) {
        backend_.get_bytes(context_, guard, zone, kGuard);
        return std::all_of(guard, guard + kGuard, [](unsigned char byte) { return byte == kGuardByte; });
      };
      if (!intact(at - kGuard)) return fail("memory before a tensor was overwritten");
      if (!intact(at + size)) return fail("memory after a tensor was overwritten");
      backend_.set_bytes(context_, data, kPoisonByte, size);
      return {};
    });
  }
  const uint64_t users = queue_.pushed();
  bool over_limit;
  {
    std::lock_guard lock(mutex_);
    memory_.allocated -= int64_t(bytes);
    void* block = poison_ ? static_cast<char*>(data) - kGuard : data;
    const auto found = sizes_.find(block);
    cached_[found->second].push_back({block, users});
    cached_bytes_ += int64_t(found->second);
    sizes_.erase(found);
    over_limit = cached_bytes_ > std::max(kCacheFloor, memory_.peak / 2 + memory_.allocated);
  }
  // when the queue has stopped, the destructor releases the blocks
  if (over_limit && !queue_.stopped()) trim();
}

Memory Allocator::memory() const {
  std::lock_guard lock(mutex_);
  return memory_;
}

void Allocator::trim() {
  std::map<size_t, std::vector<Cached>> blocks;
  {
    std::lock_guard lock(mutex_);
    blocks = std::exchange(cached_, {});
    cached_bytes_ = 0;
  }
  queue_.push([this, blocks = std::move(blocks)] {
    for (const auto& [size, list] : blocks) {
      for (const Cached& cached : list) backend_.release(context_, cached.block);
    }
  });
}

void Allocator::reclaim() {
  std::vector<void*> idle;
  {
    std::lock_guard lock(mutex_);
    for (auto of_size = cached_.begin(); of_size != cached_.end();) {
      std::erase_if(of_size->second, [&](const Cached& cached) {
        if (cached.users >= queue_.running()) return false;
        idle.push_back(cached.block);
        cached_bytes_ -= int64_t(of_size->first);
        return true;
      });
      of_size = of_size->second.empty() ? cached_.erase(of_size) : std::next(of_size);
    }
  }
  for (void* block : idle) backend_.release(context_, block);
}

size_t Buffers::add() {
  if (unused_.empty()) {
    buffers_.emplace_back();
    return buffers_.size() - 1;
  }
  const size_t number = unused_.back();
  unused_.pop_back();
  return number;
}

void Buffers::remove(size_t number) { unused_.push_back(number); }

bool Buffers::allocate(size_t number, size_t bytes) {
  void* data = allocator_.take(bytes);
  if (data) buffers_[number] = {data, bytes};
  return data != nullptr;
}

size_t Buffers::release(size_t number) {
  const auto [data, bytes] = std::exchange(buffers_[number], {});
  if (data) allocator_.give_back(data, bytes);
  return bytes;
}

}  // namespace sonde
