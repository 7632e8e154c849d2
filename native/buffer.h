// Device memory: a caching allocator with accounting.
//
// Memory is handed out and taken back on the JavaScript thread, while operations run later, in order, on the queue. So a
// block that is taken back may be handed out again at once: whatever still uses it was queued before whatever will.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "ops.h"

namespace sonde {

class Queue;

struct Memory {
  int64_t allocated = 0;
  int64_t peak = 0;
};

class Allocator {
 public:
  // poison: fill new and returned memory with NaN patterns and keep guard zones around each block (SONDE_POISON). finisher: the
  // queue, if there is one, that holds memory of the device until what was begun is completed.
  Allocator(const Backend& backend, Context* context, Queue& queue, bool poison, Queue* finisher = nullptr);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // null when there is not enough memory, even after giving back what was cached
  void* take(size_t bytes);
  void give_back(void* block, size_t bytes);
  Memory memory() const;
  // gives cached blocks back to the system once the queue is done with them
  void trim();
  // The same at once, on the queue's thread, of the blocks that nothing uses which was queued up to the operation under way.
  void reclaim();

  static size_t rounded(size_t bytes);

 private:
  // a block that is ready to be handed out: those who use it still were queued among the first `users` items
  struct Cached {
    void* block;
    uint64_t users;
  };
  void* data_of(void* block) const;

  const Backend& backend_;
  Context* context_;
  Queue& queue_;
  Queue* const finisher_;
  const bool poison_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<Cached>> cached_;  // by size; none of the lists is empty
  std::unordered_map<void*, size_t> sizes_;       // of the blocks that are handed out
  int64_t cached_bytes_ = 0;
  Memory memory_;
};

// One piece of device memory. Views share it; `release` gives the memory back while views may still exist.
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
  // the bytes that became free; 0 the second time
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
