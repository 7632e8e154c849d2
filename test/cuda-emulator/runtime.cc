// The runtime's functions for the emulator. Streams are lazy on purpose: what is queued is carried out when something waits for it,
// and no sooner, so that a wait that is missing between two streams shows as a wrong result.
#include <stdio.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

struct EmulatedEvent {
  // the point in a stream's work that it marks; a stream that is gone has done all of it
  std::weak_ptr<struct Work> work;
  uint64_t point = 0;
  int queries = 0;
};

struct Work {
  std::deque<std::function<void()>> queue;
  uint64_t queued = 0, done = 0;
};
struct EmulatedStream {
  std::shared_ptr<Work> work = std::make_shared<Work>();
};

namespace {

std::recursive_mutex mutex;  // carrying out work may carry out another stream's
thread_local cudaError_t last_error = cudaSuccess;
std::map<const void*, int> allowed_shared;
std::map<const void*, size_t> device_blocks;
std::map<const char*, size_t> pinned_blocks;
size_t device_bytes = 0;

cudaError_t failed(cudaError_t error) { return last_error = error; }

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

void carry_out(Work& work, uint64_t point) {
  while (work.done < point) {
    const std::function<void()> item = std::move(work.queue.front());
    work.queue.pop_front();
    ++work.done;
    item();
  }
}

void push(cudaStream_t stream, std::function<void()> item) {
  stream->work->queue.push_back(std::move(item));
  ++stream->work->queued;
}

bool is_pinned(const void* data) {
  auto after = pinned_blocks.upper_bound(static_cast<const char*>(data));
  if (after == pinned_blocks.begin()) return false;
  --after;
  return static_cast<const char*>(data) < after->first + after->second;
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = int(setting("SONDE_EMULATE_DEVICES", 1));
  return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  const long capability = setting("SONDE_EMULATE_SM", 90);
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->totalGlobalMem = size_t(setting("SONDE_EMULATE_MEMORY", 1l << 34));
  properties->major = int(capability / 10);
  properties->minor = int(capability % 10);
  properties->multiProcessorCount = 2;  // so that blocks which stay take many tiles
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  Lock lock(mutex);
  if (device_bytes + bytes > size_t(setting("SONDE_EMULATE_MEMORY", 1l << 34)))
    return failed(cudaErrorMemoryAllocation);
  if (posix_memalign(data, 256, bytes)) return failed(cudaErrorMemoryAllocation);
  memset(*data, 0xff, bytes);  // NaN in every float dtype
  device_blocks[*data] = bytes;
  device_bytes += bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  Lock lock(mutex);
  auto block = device_blocks.find(data);
  if (block == device_blocks.end()) emulator::die("cudaFreeAsync: not a block of device memory");
  device_bytes -= block->second;
  device_blocks.erase(block);
  push(stream, [data] { free(data); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  Lock lock(mutex);
  if (posix_memalign(data, 4096, bytes)) return failed(cudaErrorMemoryAllocation);
  pinned_blocks[static_cast<char*>(*data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  Lock lock(mutex);
  pinned_blocks.erase(static_cast<char*>(data));
  free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(mutex);
  if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) {  // staged before the call returns
    std::vector<char> copy(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    push(stream, [to, copy = std::move(copy)] { memcpy(to, copy.data(), copy.size()); });
    return cudaSuccess;
  }
  push(stream, [to, from, bytes] { memcpy(to, from, bytes); });
  if (kind == cudaMemcpyDeviceToHost && !is_pinned(to)) carry_out(*stream->work, stream->work->queued);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(mutex);
  push(stream, [data, value, bytes] { memset(data, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  cudaStreamSynchronize(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(mutex);
  carry_out(*stream->work, stream->work->queued);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(mutex);
  push(stream, [work = event->work, point = event->point] {
    if (auto alive = work.lock()) carry_out(*alive, point);
  });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mutex);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(mutex);
  event->work = stream->work;
  event->point = stream->work->queued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(mutex);
  if (auto work = event->work.lock()) carry_out(*work, event->point);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(mutex);
  auto work = event->work.lock();
  if (!work || work->done >= event->point) return cudaSuccess;
  if (++event->queries % 2) return failed(cudaErrorNotReady);
  carry_out(*work, event->point);  // who only asks must come to an end as well
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    default: return "device not ready";
  }
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, int, void*) { return cudaSuccess; }

namespace emulator {

constexpr int kSharedLimit = 227 << 10, kSharedUnasked = 48 << 10;

cudaError_t allow_shared(const void* kernel, int, int bytes) {
  Lock lock(mutex);
  if (bytes > kSharedLimit) return failed(cudaErrorInvalidValue);
  allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

void enqueue_grid(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  std::function<void()> body) {
  Lock lock(mutex);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  auto allowed = allowed_shared.find(kernel);
  const size_t limit = allowed == allowed_shared.end() ? size_t(kSharedUnasked) : size_t(allowed->second);
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 ||
      grid.z == 0 || grid.z > 65535 || shared > limit) {
    failed(cudaErrorInvalidConfiguration);
    return;
  }
  push(stream, [=] { run_grid(name, grid, block, shared, body); });
}

}  // namespace emulator
