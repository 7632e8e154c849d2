// The runtime's functions for the emulator. Streams are lazy on purpose: queued work is carried out when something
// waits for it, and no sooner, so that a wait that is missing between two streams shows as a wrong result.
#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "cuda_runtime.h"

// The work of a stream. Events share it, and it may outlive the stream.
struct Work {
  std::deque<std::function<void()>> queue;
  uint64_t queued = 0, done = 0;
};

// A point in a stream's work; a stream that is gone has done all of it.
struct Mark {
  std::weak_ptr<Work> work;
  uint64_t point = 0;
  double time = 0;  // when it was reached, in milliseconds
};

struct EmulatedStream {
  std::shared_ptr<Work> work = std::make_shared<Work>();
  int device = 0;
  bool blocking = false;  // in turn with the default stream
  int queries = 0;
};

struct EmulatedEvent {
  std::shared_ptr<Mark> mark;  // none before it is recorded
  int device = 0;
  bool timed = true;
  int queries = 0;
};

// A device's memory for cudaMallocAsync. Freed blocks stay reserved in their sizes: no block is split, and none are joined. They
// are released at the first wait where the threshold says so, else when the pool is trimmed.
struct EmulatedPool {
  struct Freed {
    size_t bytes;
    Mark mark;  // where its stream is done with it
  };
  size_t used = 0;      // by blocks that are allocated
  size_t reserved = 0;  // by those that were freed
  std::vector<Freed> freed;
  uint64_t threshold = 0;
};

namespace {

struct Block {
  size_t bytes = 0;
  int device = 0;
};
struct Memory {
  std::map<const char*, Block> device, pinned;
};
constexpr int kDevices = 16;

// Never destroyed: other threads may still be at work when the process ends.
struct Host {
  std::recursive_mutex mutex;  // carrying out work may carry out another stream's
  Memory memory;
  EmulatedPool pools[kDevices];
  std::map<std::pair<int, const void*>, int> allowed_shared;  // of kernels that asked, on a device
  EmulatedStream default_stream;                              // of all devices
  std::set<EmulatedStream*> streams;
};
Host& H = *new Host;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t failed(cudaError_t error) { return last_error = error; }

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}
int devices() { return int(std::min<long>(setting("SONDE_EMULATE_DEVICES", 1), kDevices)); }
size_t memory_limit() { return size_t(setting("SONDE_EMULATE_MEMORY", 1L << 34)); }

// the most dynamic shared memory that a block may ask for (CUDA C++ programming guide, technical specifications)
int shared_limit() {
  const int capability = emulator::capability();
  return (capability >= 90 ? 227 : capability == 80 || capability == 87 ? 163 : 99) << 10;
}
constexpr int kSharedUnasked = 48 << 10;

double milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// ---- streams

void carry_out(Work& work, uint64_t point) {
  while (work.done < point) {
    const std::function<void()> item = std::move(work.queue.front());
    work.queue.pop_front();
    ++work.done;
    item();
  }
}
void carry_out(EmulatedStream& stream) { carry_out(*stream.work, stream.work->queued); }

bool reached(const Mark& mark) {
  const auto work = mark.work.lock();
  return !work || work->done >= mark.point;
}
void reach(const Mark& mark) {
  if (const auto work = mark.work.lock()) carry_out(*work, mark.point);
}

void append(EmulatedStream& stream, std::function<void()> item) {
  stream.work->queue.push_back(std::move(item));
  ++stream.work->queued;
}

void wait_for(EmulatedStream& stream, const EmulatedStream& other) {
  if (other.work->done == other.work->queued) return;
  append(stream, [mark = Mark{other.work, other.work->queued, 0}] { reach(mark); });
}

EmulatedStream& stream_of(cudaStream_t stream) {
  if (!stream) return H.default_stream;
  if (!H.streams.count(stream)) emulator::die("a stream that does not exist, or no longer");
  return *stream;
}

// The default stream waits for all blocking streams, and they for it.
EmulatedStream& push(cudaStream_t handle, std::function<void()> item) {
  EmulatedStream& stream = stream_of(handle);
  if (&stream == &H.default_stream) {
    for (const EmulatedStream* other : H.streams) {
      if (other->blocking) wait_for(stream, *other);
    }
  } else if (stream.blocking) {
    wait_for(stream, H.default_stream);
  }
  append(stream, std::move(item));
  return stream;
}

// Kernels are started, and events recorded, on streams of their own device alone (CUDA C++ programming guide, "Stream and Event
// Behavior").
int device_of(cudaStream_t stream) { return stream ? stream_of(stream).device : current_device; }

void carry_out_all() {
  carry_out(H.default_stream);
  // a set of its own: nothing that is carried out creates a stream, but let that not be relied on
  const std::vector<EmulatedStream*> streams(H.streams.begin(), H.streams.end());
  for (EmulatedStream* stream : streams) carry_out(*stream);
}

// ---- memory

bool within(const std::map<const char*, Block>& blocks, const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  auto after = blocks.upper_bound(p);
  if (after == blocks.begin()) return false;
  --after;
  return p + bytes <= after->first + after->second.bytes;
}
bool is_pinned(const void* data) { return within(H.memory.pinned, data, 1); }
// memory that the device reaches
bool is_devices(const void* data, size_t bytes) {
  return within(H.memory.device, data, bytes) || within(H.memory.pinned, data, bytes);
}

// the block is the caller's to free
cudaError_t forget(void* data, Block* block) {
  const auto found = H.memory.device.find(static_cast<const char*>(data));
  if (found == H.memory.device.end()) return failed(cudaErrorInvalidValue);
  *block = found->second;
  H.pools[block->device].used -= block->bytes;
  H.memory.device.erase(found);
  return cudaSuccess;
}

// Releases blocks that streams are done with, as long as more than `kept` bytes are held.
void trim(EmulatedPool& pool, uint64_t kept) {
  for (size_t i = 0; i < pool.freed.size() && pool.used + pool.reserved > kept;) {
    if (!reached(pool.freed[i].mark)) {
      ++i;
      continue;
    }
    pool.reserved -= pool.freed[i].bytes;
    pool.freed.erase(pool.freed.begin() + long(i));
  }
}
void waited() {
  for (EmulatedPool& pool : H.pools) trim(pool, pool.threshold);
}

// Reserves memory for a block: a freed block of the same size, or memory that no block has.
bool reserve(EmulatedPool& pool, size_t bytes) {
  const auto same = std::find_if(pool.freed.begin(), pool.freed.end(),
                                 [bytes](const EmulatedPool::Freed& freed) { return freed.bytes == bytes; });
  if (same != pool.freed.end()) {
    pool.reserved -= bytes;
    pool.freed.erase(same);
  } else if (bytes > memory_limit() || pool.used + pool.reserved > memory_limit() - bytes) {
    return false;
  }
  pool.used += bytes;
  return true;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyDefault) {
    const bool up = is_devices(to, bytes), down = is_devices(from, bytes);
    kind = up && down ? cudaMemcpyDeviceToDevice
           : up       ? cudaMemcpyHostToDevice
           : down     ? cudaMemcpyDeviceToHost
                      : cudaMemcpyHostToHost;
  }
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if ((to_device && !is_devices(to, bytes)) || (from_device && !is_devices(from, bytes))) {
    return failed(cudaErrorInvalidValue);
  }
  if (!from_device && !is_pinned(from)) {  // pageable memory is staged before the call returns
    const char* bytes_of = static_cast<const char*>(from);
    push(stream,
         [to, staged = std::vector<char>(bytes_of, bytes_of + bytes)] { memcpy(to, staged.data(), staged.size()); });
    return cudaSuccess;
  }
  EmulatedStream& used = push(stream, [to, from, bytes] { memmove(to, from, bytes); });
  if (!to_device && !is_pinned(to)) carry_out(used);
  return cudaSuccess;
}

}  // namespace

// ---- errors

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
  }
  return "unrecognized error code";
}

// ---- devices

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return failed(devices() ? cudaErrorInvalidDevice : cudaErrorNoDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->totalGlobalMem = memory_limit();
  properties->sharedMemPerBlock = kSharedUnasked;
  properties->sharedMemPerBlockOptin = size_t(shared_limit());
  properties->major = emulator::capability() / 10;
  properties->minor = emulator::capability() % 10;
  properties->multiProcessorCount = 2;  // so that blocks which stay take many tiles
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(H.mutex);
  carry_out_all();
  waited();
  return cudaSuccess;
}

// ---- memory

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(H.mutex);
  const EmulatedPool& pool = H.pools[current_device];
  *total = memory_limit();
  *free = *total - std::min(*total, pool.used + pool.reserved);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  const Lock lock(H.mutex);
  const int device = device_of(stream);
  if (bytes == 0) return failed(cudaErrorInvalidValue);
  if (!reserve(H.pools[device], bytes)) return failed(cudaErrorMemoryAllocation);
  // exactly this size: AddressSanitizer guards the bytes behind
  if (posix_memalign(data, 256, bytes)) return failed(cudaErrorMemoryAllocation);
  memset(*data, 0xff, bytes);  // NaN in every float dtype
  H.memory.device[static_cast<const char*>(*data)] = {bytes, device};
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const Lock lock(H.mutex);
  if (!data) return cudaSuccess;
  Block block;
  const cudaError_t error = forget(data, &block);
  if (error != cudaSuccess) return error;
  const EmulatedStream& used = push(stream, [data] { free(data); });
  EmulatedPool& pool = H.pools[block.device];
  pool.reserved += block.bytes;
  pool.freed.push_back({block.bytes, {used.work, used.work->queued, 0}});
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = nullptr;
  return bytes ? cudaMallocAsync(data, bytes, nullptr) : cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const Lock lock(H.mutex);
  if (!data) return cudaSuccess;
  carry_out_all();
  Block block;
  const cudaError_t error = forget(data, &block);
  if (error == cudaSuccess) free(data);
  waited();
  return error;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  const Lock lock(H.mutex);
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (posix_memalign(data, 4096, bytes)) return failed(cudaErrorMemoryAllocation);
  H.memory.pinned[static_cast<const char*>(*data)] = {bytes, current_device};
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return cudaMallocHost(data, bytes); }
cudaError_t cudaFreeHost(void* data) {
  const Lock lock(H.mutex);
  if (!data) return cudaSuccess;
  carry_out_all();
  if (!H.memory.pinned.erase(static_cast<const char*>(data))) return failed(cudaErrorInvalidValue);
  free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(H.mutex);
  return copy(to, from, bytes, kind, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(H.mutex);
  const cudaError_t error = copy(to, from, bytes, kind, nullptr);
  if (error == cudaSuccess) carry_out(H.default_stream);
  return error;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(H.mutex);
  if (bytes == 0) return cudaSuccess;
  if (!is_devices(data, bytes)) return failed(cudaErrorInvalidValue);
  push(stream, [data, value, bytes] { memset(data, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) { return cudaMemsetAsync(data, value, bytes, nullptr); }

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
  *pool = &H.pools[device];
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  const Lock lock(H.mutex);
  if (!pool || !value) return failed(cudaErrorInvalidValue);
  memcpy(&pool->threshold, value, sizeof pool->threshold);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
  const Lock lock(H.mutex);
  if (!pool) return failed(cudaErrorInvalidValue);
  trim(*pool, bytes);
  return cudaSuccess;
}

// ---- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock(H.mutex);
  *stream = new EmulatedStream;
  (*stream)->device = current_device;
  (*stream)->blocking = !(flags & cudaStreamNonBlocking);
  H.streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(H.mutex);
  carry_out(stream_of(stream));
  H.streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(H.mutex);
  carry_out(stream_of(stream));
  waited();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(H.mutex);
  EmulatedStream& asked = stream_of(stream);
  if (asked.work->done == asked.work->queued) return cudaSuccess;
  if (++asked.queries % 2) return failed(cudaErrorNotReady);
  carry_out(asked);  // repeated queries must come to an end as well
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(H.mutex);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  if (event->mark && !reached(*event->mark)) push(stream, [mark = event->mark] { reach(*mark); });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new EmulatedEvent;
  (*event)->device = current_device;
  (*event)->timed = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(H.mutex);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(H.mutex);
  if (!event || event->device != device_of(stream)) return failed(cudaErrorInvalidResourceHandle);
  auto mark = std::make_shared<Mark>();
  const EmulatedStream& used = push(stream, [mark] { mark->time = milliseconds(); });
  mark->work = used.work;
  mark->point = used.work->queued;
  event->mark = std::move(mark);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(H.mutex);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  if (event->mark) reach(*event->mark);
  waited();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(H.mutex);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  if (!event->mark || reached(*event->mark)) return cudaSuccess;
  if (++event->queries % 2) return failed(cudaErrorNotReady);
  reach(*event->mark);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* between, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(H.mutex);
  const bool usable = start && end && start->timed && end->timed && start->mark && end->mark;
  if (!usable) return failed(cudaErrorInvalidResourceHandle);
  if (!reached(*start->mark) || !reached(*end->mark)) return failed(cudaErrorNotReady);
  *between = float(end->mark->time - start->mark->time);
  return cudaSuccess;
}

// ---- launches

namespace emulator {

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock(H.mutex);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > shared_limit()) return failed(cudaErrorInvalidValue);
  H.allowed_shared[{current_device, kernel}] = value;
  return cudaSuccess;
}

void enqueue_grid(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  std::function<void()> body) {
  const Lock lock(H.mutex);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const auto allowed = H.allowed_shared.find({current_device, kernel});
  const int limit = allowed == H.allowed_shared.end() ? kSharedUnasked : std::max(allowed->second, kSharedUnasked);
  const bool block_fits = threads > 0 && block.x <= 1024 && block.y <= 1024 && block.z <= 64 && threads <= 1024;
  const bool grid_fits =
      grid.x > 0 && grid.x <= 0x7fffffff && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535;
  if (!block_fits || !grid_fits || shared > size_t(limit)) {
    failed(cudaErrorInvalidConfiguration);
    return;
  }
  if (device_of(stream) != current_device) {
    failed(cudaErrorInvalidResourceHandle);
    return;
  }
  push(stream, [=] { run_grid(name, grid, block, shared, body); });
}

}  // namespace emulator
