// Device memory: a caching allocator with accounting.
//
// Memory is allocated and given back on the JavaScript thread, while operations run later, in order, on the queue. A
// block that was given back may therefore be allocated again at once: every operation that still uses it was queued
// before those that will.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "ops.h"

namespace sonde {

class DeviceQueue;

struct Memory {
  int64_t allocated = 0;
  int64_t peak = 0;
};

class Allocator {
 public:
  // poison: fill new and returned memory with NaN patterns and keep guard zones around each block (SONDE_POISON).
  // finisher: the queue, if there is one, that holds memory of the device until pending work is completed.
  Allocator(const Backend& backend, Context* context, DeviceQueue& queue, bool poison, DeviceQueue* finisher = nullptr);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // Returns null when there is not enough memory, even after the cached blocks were released.
  void* take(size_t bytes);
  void give_back(void* block, size_t bytes);
  Memory memory() const;
  // Releases the cached blocks to the system once the queue has done the work that may use them.
  void trim();
  // Releases at once, on the queue's thread, the cached blocks that no work up to the running operation uses.
  void reclaim();

  static size_t rounded(size_t bytes);

 private:
  // A block that can be allocated again. Work that still uses it was queued among the first `users` items.
  struct Cached {
    void* block;
    uint64_t users;
  };
  void* data_of(void* block) const;

  const Backend& backend_;
  Context* context_;
  DeviceQueue& queue_;
  DeviceQueue* const finisher_;
  const bool poison_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<Cached>> cached_;  // by size; none of the lists is empty
  std::unordered_map<void*, size_t> sizes_;       // of the allocated blocks
  int64_t cached_bytes_ = 0;
  Memory memory_;
};

// A block of device memory that views share. `release` gives the memory back even while views exist.
class Buffer {
 public:
  Buffer(std::shared_ptr<Allocator> allocator, void* data, size_t bytes)
      : allocator_(std::move(allocator)), data_(data), bytes_(bytes) {}
  ~Buffer() { release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool released() const { return data_ == nullptr; }
  // Returns the number of bytes that became free, 0 the second time.
  size_t release() {
    if (!data_) return 0;
    allocator_->give_back(data_, bytes_);
    data_ = nullptr;
    return bytes_;
  }

 private:
  std::shared_ptr<Allocator> allocator_;
  void* data_;
  size_t bytes_;
};

}  // namespace sonde
