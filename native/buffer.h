// Device memory: a caching allocator with accounting, and the buffers that JavaScript holds.
//
// Memory is allocated and given back on the JavaScript thread, while operations run later, in order, on the queue. A
// block that was given back may therefore be allocated again at once: every operation that still uses it was queued
// before those that will.
#pragma once
#include <map>
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

struct Buffer {
  void* data = nullptr;  // null while it has no memory
  size_t bytes = 0;
};

// The buffers of a device, by number: the arguments of operations name them so. For one thread.
class Buffers {
 public:
  explicit Buffers(Allocator& allocator) : allocator_(allocator) {}
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  // The number of a buffer without memory. It is used again once it was removed.
  size_t add();
  // The buffer must have been released.
  void remove(size_t number);
  // Gives memory to a buffer that has none; false when there is not enough.
  bool allocate(size_t number, size_t bytes);
  // Gives the memory back; queued work may still use it. Returns the number of bytes that became free.
  size_t release(size_t number);
  // null for a number that no buffer was ever given
  const Buffer* find(int64_t number) const {
    return number >= 0 && size_t(number) < buffers_.size() ? &buffers_[size_t(number)] : nullptr;
  }

 private:
  Allocator& allocator_;
  std::vector<Buffer> buffers_;
  std::vector<size_t> unused_;  // numbers that were removed
};

}  // namespace sonde
