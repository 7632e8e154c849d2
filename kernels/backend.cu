// The CUDA backend's table: devices, memory, streams, uploads and downloads. One stream computes, another one copies results
// to the host, so that one batch is read while the next is computed.
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "context.h"
#include "describe.h"
#include "integers.h"
#include "packed.h"
#include "split_operand.cuh"

namespace sonde {

namespace {

constexpr size_t kChunkBytes = size_t(8) << 20;  // of a transfer: the size of a block of pinned memory
constexpr size_t kPinnedBlocks = 8;              // with so many, a block in use is waited for, if one was given back
constexpr int kNames = 16;                       // operations remembered for an error that CUDA reports late
constexpr size_t kFailures = 256;                // allocated at a time
constexpr size_t kOpenReports = 1024;            // operations that can fail on their data, begun since the last mark

// Pinned host memory, and the copy that last used it.
struct Pinned {
  void* data = nullptr;
  cudaEvent_t done = nullptr;
};

struct Slot {
  void* data = nullptr;
  size_t bytes = 0;
};

// An operation that can fail on its data, and the entry in which its kernels report that.
struct Report {
  Failure* failure;
  std::string operation;  // its name, a line break, its tensors
};

// The reports of consecutive operations.
struct Reports {
  Status first;  // the first failure before `open`, if reports had to be collected early
  std::vector<Report> open;
};

}  // namespace

struct Host {
  cudaStream_t copies = nullptr;
  Slot scratch[kScratchSlots];
  cudaMemPool_t pool = nullptr;
  cudaDeviceProp properties = {};

  // used by the thread that runs operations
  std::function<std::string()> describe;  // the operation under way, as in Report
  unsigned asked = 0;                     // a bit for each slot of scratch memory that the operation asked for
  std::deque<const char*> names;          // of the operations that were begun last
  Reports reports;                        // since the last mark
  void (*reclaim)(void* owner) = nullptr;
  void* owner = nullptr;

  std::mutex mutex;  // guards the members below: finish comes from another thread
  std::vector<Pinned> free_blocks;
  size_t blocks = 0;
  std::vector<Failure*> free_failures;
  std::vector<Failure*> failures;  // the allocations, kFailures each
};

// Something under way: a mark in the stream's order, the data to be copied to the host when it is reached, and the reports of the
// operations between the mark before and this one. Nothing but this mark returns their failure, whichever mark is finished first.
struct Pending {
  cudaEvent_t ready = nullptr;
  std::deque<const char*> names;
  Reports reports;
  void* host = nullptr;
  char* staging = nullptr;
  size_t bytes = 0;
  Csr* csr = nullptr;
  std::vector<CsrPart> parts;
};

namespace {

cudaError_t make_event(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDisableTiming | cudaEventBlockingSync);
}

// Each thread has a current device. It is asked for each time: opening another GPU changes it, and so may other code in the process.
cudaError_t enter(const Context* context) {
  int current = -1;
  const cudaError_t error = cudaGetDevice(&current);
  return error == cudaSuccess && current == context->index ? error : cudaSetDevice(context->index);
}

// ---- failures

// names: of the operations that were begun last before the point that was waited for
Status late_error(cudaError_t error, const std::deque<const char*>& names) {
  std::string recent;
  for (const char* name : names) recent += std::string(recent.empty() ? "" : ", ") + name;
  Status status = fail("%s, in one of the operations begun before: %s. SONDE_SYNC=1 finds which",
                       cudaGetErrorString(error), recent.c_str());
  status.names_operation = true;
  return status;
}

// what int32 does not hold
Status not_held(const Failure& failure) {
  const long long* v = failure.values;
  if (failure.kind == kSumNotInt32) return sum_not_int32(v[0], v[1]);
  if (failure.kind == kElementNotInt32) return element_sum_not_int32(v[0], v[1]);
  if (failure.kind == kPartialSumNotInt32) return partial_sum_not_int32(v[0], v[1], v[2]);
  if (failure.kind == kResultNotInt32) return result_not_int32(v[0], v[1], BinaryKind(v[3]), v[2]);
  double value;
  if (failure.kind == kUnaryNotInt32) {
    memcpy(&value, &v[3], sizeof value);
    return unary_not_int32(v[0], v[1], UnaryKind(v[2]), value);
  }
  memcpy(&value, &v[1], sizeof value);
  return not_int32(v[0], value);
}

Status in_words(const Failure& failure, const std::string& operation) {
  const size_t end = operation.find('\n');
  const std::string name = operation.substr(0, end), tensors = operation.substr(end + 1);
  const long long* v = failure.values;
  const char *called = name.c_str(), *of = tensors.c_str();
  Status status;
  switch (failure.kind) {
    case kBadIndex:
      status = fail("%s: index %lld at position %lld is outside [0, %lld) %s", called, v[0], v[1], v[2], of);
      break;
    case kBadPointer:
      status = fail("%s: row_ptr of row %lld must rise from 0 to %lld, but goes from %lld to %lld %s", called, v[0],
                    v[1], v[2], v[3], of);
      break;
    case kBadEntry:
      status = fail("%s: index %lld of entry %lld is outside [0, %lld) %s", called, v[0], v[1], v[2], of);
      break;
    case kBadTarget:
      status = fail("%s: target %lld at position %lld is outside [0, %lld) %s", called, v[0], v[1], v[2], of);
      break;
    default: {
      const Status why = not_held(failure);
      status = fail("%s: %s %s", called, why.text, of);
    }
  }
  status.names_operation = true;
  return status;
}

// Returns the first failure that operations reported. Their kernels are done and write no more, so the entries become free for other
// operations.
Status collect(Context* context, Reports& reports) {
  Status status = std::exchange(reports.first, {});
  for (const auto& [failure, operation] : reports.open) {
    if (failure->kind != kNoFailure && !status.failed()) status = in_words(*failure, operation);
    *failure = {};
  }
  Host& host = *context->host;
  std::lock_guard<std::mutex> lock(host.mutex);
  for (const Report& report : reports.open) host.free_failures.push_back(report.failure);
  reports.open.clear();
  return status;
}

// The failure of an operation that could not begin, or of one before it that failed on its data: the first failure is reported.
Status after_reports(Context* context, const Status& status) {
  if (!status.failed()) return status;
  if (cudaStreamSynchronize(context->stream) != cudaSuccess) return status;
  const Status before = collect(context, context->host->reports);
  return before.failed() ? before : status;
}

// ---- pinned memory

void give_block(Context* context, const Pinned& block) {
  std::lock_guard<std::mutex> lock(context->host->mutex);
  context->host->free_blocks.push_back(block);
}

// A block that no copy uses any more.
cudaError_t take_block(Context* context, Pinned* block) {
  Host& host = *context->host;
  Pinned taken;
  {
    std::lock_guard<std::mutex> lock(host.mutex);
    for (size_t i = 0; i < host.free_blocks.size(); ++i) {
      // with no other block left, the last one is waited for
      const bool settled = cudaEventQuery(host.free_blocks[i].done) == cudaSuccess;
      if (!settled && (host.blocks < kPinnedBlocks || i + 1 < host.free_blocks.size())) continue;
      taken = host.free_blocks[i];
      host.free_blocks.erase(host.free_blocks.begin() + long(i));
      break;
    }
    cudaGetLastError();  // "not ready" is no error
    if (!taken.data) ++host.blocks;
  }
  cudaError_t error = taken.data ? cudaEventSynchronize(taken.done) : cudaMallocHost(&taken.data, kChunkBytes);
  if (error == cudaSuccess && !taken.done) error = make_event(&taken.done);
  if (error == cudaSuccess) {
    *block = taken;
    return error;
  }
  if (taken.done) {
    give_block(context, taken);
    return error;
  }
  if (taken.data) cudaFreeHost(taken.data);
  std::lock_guard<std::mutex> lock(host.mutex);
  --host.blocks;
  return error;
}

// ---- devices

// the reason why the kernels cannot run on a GPU, or null
const char* unusable(const cudaDeviceProp& properties) {
  return properties.major < 8 ? "it is older than compute capability 8.0" : nullptr;
}

std::vector<int> usable_devices(Status* status) {
  std::vector<int> usable;
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    *status = fail("there is no NVIDIA driver (libcuda.so.1 was not found)");
    return usable;
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    *status = fail("%s (the driver is for CUDA %d.%d, the kernels were built with CUDA %d.%d)",
                   cudaGetErrorString(error), driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return usable;
  }
  std::string why;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    const char* reason = unusable(properties);
    if (!reason) usable.push_back(i);
    else why = std::string(properties.name) + " cannot be used, " + reason;
  }
  cudaGetLastError();
  if (usable.empty()) *status = fail("%s", why.empty() ? "the NVIDIA driver sees no GPU" : why.c_str());
  return usable;
}

int32_t count(Status* status) { return int32_t(usable_devices(status).size()); }

bool has_properties(int32_t index, cudaDeviceProp* properties) {
  Status status;
  const std::vector<int> devices = usable_devices(&status);
  if (index < 0 || size_t(index) >= devices.size()) return false;
  return cudaGetDeviceProperties(properties, devices[size_t(index)]) == cudaSuccess;
}

void identify(int32_t index, char* text, size_t size) {
  cudaDeviceProp properties;
  if (!has_properties(index, &properties)) return;
  snprintf(text, size, "%s, %.0f GiB, compute capability %d.%d", properties.name,
           double(properties.totalGlobalMem) / (1 << 30), properties.major, properties.minor);
}

// The version of the GPUs' arithmetic, in its names. Raise it whenever the result of any kernel changes in any bit for
// any input.
constexpr int kArithmetic = 2;

// Kernels are chosen by the compute capability alone, and machine code is made for one of them.
void arithmetic(int32_t index, DType, char* text, size_t size) {
  cudaDeviceProp properties;
  if (!has_properties(index, &properties)) return;
  snprintf(text, size, "cuda-%d.%d-%d", properties.major, properties.minor, kArithmetic);
}

void close(Context* context);

Status open_all(Context* context) {
  Host& host = *context->host;
  cudaError_t error = enter(context);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&host.properties, context->index);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&host.copies, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaDeviceGetDefaultMemPool(&host.pool, context->index);
  // freed memory stays with the pool until an allocation does not fit: the next batch takes what this one gives back
  uint64_t all = UINT64_MAX;
  if (error == cudaSuccess) error = cudaMemPoolSetAttribute(host.pool, cudaMemPoolAttrReleaseThreshold, &all);
  return from_cuda(error, "the GPU could not be opened");
}

Context* open(int32_t index, int32_t, Status* status) {
  const std::vector<int> devices = usable_devices(status);
  if (index < 0 || size_t(index) >= devices.size()) {
    if (!status->failed()) *status = fail("there is no GPU %d", index);
    return nullptr;
  }
  auto* context = new Context;
  context->host = new Host;
  context->index = devices[size_t(index)];
  *status = open_all(context);
  if (status->failed()) {
    close(context);
    return nullptr;
  }
  const cudaDeviceProp& properties = context->host->properties;
  context->capability = properties.major * 10 + properties.minor;
  context->multiprocessors = properties.multiProcessorCount;
  return context;
}

void close(Context* context) {
  Host* host = context->host;
  enter(context);
  if (context->stream) cudaStreamSynchronize(context->stream);
  if (host->copies) cudaStreamSynchronize(host->copies);
  for (const Slot& slot : host->scratch) {
    if (slot.data) cudaFreeAsync(slot.data, context->stream);
  }
  for (const Pinned& block : host->free_blocks) {
    cudaEventDestroy(block.done);
    cudaFreeHost(block.data);
  }
  for (Failure* failures : host->failures) cudaFreeHost(failures);
  if (context->stream) {
    cudaStreamSynchronize(context->stream);
    cudaStreamDestroy(context->stream);
  }
  if (host->pool) cudaMemPoolTrimTo(host->pool, 0);  // other processes may have the memory
  if (host->copies) cudaStreamDestroy(host->copies);
  delete host;
  delete context;
}

void describe(const Context* context, char* text, size_t size) {
  const cudaDeviceProp& properties = context->host->properties;
  snprintf(text, size, "%s, %d multiprocessors, %s kernels", properties.name, context->multiprocessors,
           context->capability == 90 ? "sm_90a" : "sm_80");
}

// ---- memory

// Freed memory stays with the pool, in blocks of the sizes that were allocated. When an allocation does not fit, the streams are
// waited for, which leaves every freed block idle, and the pool gives those back.
void* allocate(Context* context, size_t bytes) {
  enter(context);
  void* data = nullptr;
  if (cudaMallocAsync(&data, bytes ? bytes : 1, context->stream) == cudaSuccess) return data;
  cudaStreamSynchronize(context->stream);
  cudaStreamSynchronize(context->host->copies);
  cudaMemPoolTrimTo(context->host->pool, 0);
  cudaGetLastError();
  if (cudaMallocAsync(&data, bytes ? bytes : 1, context->stream) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

void release(Context* context, void* data) {
  enter(context);
  cudaFreeAsync(data, context->stream);
}

void set_bytes(Context* context, void* data, unsigned char value, size_t bytes) {
  enter(context);
  cudaMemsetAsync(data, value, bytes, context->stream);
}

void get_bytes(Context* context, void* to, const void* data, size_t bytes) {
  enter(context);
  fetch(context, to, data, bytes);
}

// Copies host to device in chunks, by way of pinned memory.
Status send(Context* context, char* to, const char* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kChunkBytes) {
    const size_t chunk = bytes - at < kChunkBytes ? bytes - at : kChunkBytes;
    Pinned block;
    cudaError_t error = take_block(context, &block);
    if (error != cudaSuccess) return from_cuda(error, "pinned host memory for a copy to the GPU");
    memcpy(block.data, from + at, chunk);
    error = cudaMemcpyAsync(to + at, block.data, chunk, cudaMemcpyHostToDevice, context->stream);
    if (error == cudaSuccess) error = cudaEventRecord(block.done, context->stream);
    give_block(context, block);
    if (error != cudaSuccess) return from_cuda(error, "copying to the GPU");
  }
  return {};
}

Status upload_begun(Context* context, Out dst, const void* host) {
  const auto* from = static_cast<const char*>(host);
  const size_t bytes = size_t(element_count(dst)) * size_t(dtype_size(dst.dtype));
  if (is_contiguous(dst)) return send(context, static_cast<char*>(dst.data), from, bytes);
  auto* to = static_cast<char*>(allocate_on_stream(context, bytes));
  if (!to) return no_scratch(context, bytes);
  Status status = send(context, to, from, bytes);
  In staged;
  static_cast<View&>(staged) = contiguous_view(dst, to, dst.dtype);
  if (!status.failed()) status = copy(context, dst, staged);
  release_on_stream(context, to);
  return status;
}

Status upload(Context* context, Out dst, const void* host) {
  enter(context);
  return after_reports(context, upload_begun(context, dst, host));
}

Pending* mark(Context* context) {
  enter(context);
  Host& host = *context->host;
  auto* pending = new Pending;
  pending->names = host.names;
  pending->reports = std::exchange(host.reports, {});
  if (make_event(&pending->ready) == cudaSuccess) {
    if (cudaEventRecord(pending->ready, context->stream) == cudaSuccess) return pending;
    cudaEventDestroy(pending->ready);
    pending->ready = nullptr;
  }
  cudaGetLastError();  // without an event, finish waits for all work
  return pending;
}

// The tensor is copied to memory of its own, in the stream's order: the next operations may then change it.
Status download_begun(Context* context, void* to, DType host_dtype, In src, Pending** pending) {
  const size_t bytes = size_t(element_count(src)) * size_t(dtype_size(host_dtype));
  if (bytes == 0) return {};
  auto* staging = static_cast<char*>(allocate_on_stream(context, bytes));
  if (!staging) return no_scratch(context, bytes);
  Out staged;
  static_cast<View&>(staged) = contiguous_view(src, staging, host_dtype);
  const Status status = copy(context, staged, src);
  if (status.failed()) {
    release_on_stream(context, staging);
    return status;
  }
  *pending = mark(context);
  (*pending)->host = to;
  (*pending)->staging = staging;
  (*pending)->bytes = bytes;
  return launched();
}

Status download(Context* context, void* to, DType host_dtype, In src, Pending** pending) {
  enter(context);
  return after_reports(context, download_begun(context, to, host_dtype, src, pending));
}

// Copies device to host on the copy stream, in chunks: one is copied while another is moved out of pinned memory.
Status bring(Context* context, char* to, const char* from, size_t bytes) {
  cudaStream_t stream = context->host->copies;
  const auto chunks = size_t(ceil_div(int64_t(bytes), int64_t(kChunkBytes)));
  Pinned blocks[2];
  cudaError_t error = cudaSuccess;
  for (size_t i = 0; i <= chunks && error == cudaSuccess; ++i) {
    if (i < chunks) {
      Pinned& block = blocks[i % 2];
      if (!block.data) error = take_block(context, &block);
      if (error != cudaSuccess) break;
      const size_t at = i * kChunkBytes, chunk = bytes - at < kChunkBytes ? bytes - at : kChunkBytes;
      error = cudaMemcpyAsync(block.data, from + at, chunk, cudaMemcpyDeviceToHost, stream);
      if (error == cudaSuccess) error = cudaEventRecord(block.done, stream);
    }
    if (i > 0 && error == cudaSuccess) {
      const Pinned& block = blocks[(i - 1) % 2];
      const size_t at = (i - 1) * kChunkBytes, chunk = bytes - at < kChunkBytes ? bytes - at : kChunkBytes;
      error = cudaEventSynchronize(block.done);
      if (error == cudaSuccess) memcpy(to + at, block.data, chunk);
    }
  }
  for (const Pinned& block : blocks) {
    if (block.data) give_block(context, block);
  }
  return from_cuda(error, "copying from the GPU");
}

Status finish_csr(Context* context, const Pending& pending) {
  Csr* csr = pending.csr;
  if (!csr->reserve(csr, csr->row_ptr[csr->rows])) return fail("sparse_encode: out of memory for the sparse rows");
  int64_t at = 0;
  for (const CsrPart& part : pending.parts) {
    const size_t bytes = size_t(part.entries) * 4;
    Status status =
        bring(context, reinterpret_cast<char*>(csr->indices + at), reinterpret_cast<char*>(part.indices), bytes);
    if (!status.failed()) {
      status = bring(context, reinterpret_cast<char*>(csr->values + at), reinterpret_cast<char*>(part.values), bytes);
    }
    if (status.failed()) return status;
    at += part.entries;
  }
  return {};
}

Status finish(Context* context, Pending* pending) {
  enter(context);
  Host& host = *context->host;
  Status status;
  // without an event, all work is waited for
  const cudaError_t error =
      pending->ready ? cudaEventSynchronize(pending->ready) : cudaStreamSynchronize(context->stream);
  if (error != cudaSuccess) {
    status = late_error(error, pending->names);
  } else {
    // the copy stream may only be given work on data that this thread has waited for
    status = collect(context, pending->reports);
    if (!status.failed() && pending->staging) {
      status = bring(context, static_cast<char*>(pending->host), pending->staging, pending->bytes);
    }
    if (!status.failed() && pending->csr) status = finish_csr(context, *pending);
  }
  if (pending->staging) cudaFreeAsync(pending->staging, host.copies);
  for (const CsrPart& part : pending->parts) {
    if (part.indices) cudaFreeAsync(part.indices, host.copies);
    if (part.values) cudaFreeAsync(part.values, host.copies);
  }
  if (pending->ready) cudaEventDestroy(pending->ready);
  delete pending;
  return status;
}

Status synchronize(Context* context) {
  enter(context);
  Host& host = *context->host;
  const cudaError_t error = cudaStreamSynchronize(context->stream);
  return error != cudaSuccess ? late_error(error, host.names) : collect(context, host.reports);
}

// ---- operations

struct OperationText {
  const char *name, *parameters;
};
constexpr OperationText kTexts[] = {
#define OP(name, ...) {#name, #__VA_ARGS__},
    SONDE_OPS(OP)
#undef OP
};
enum OperationNumber {
#define OP(name, ...) k_##name,
  SONDE_OPS(OP)
#undef OP
};

// An operation with the steps around each: setting the thread's device, its name for late errors, and the errors of its launches.
template <class... A>
struct Entry {
  template <Status (*operation)(Context*, A...), int number>
  static Status run(Context* context, A... arguments) {
    static const std::string name = public_name(kTexts[number].name);
    const cudaError_t entered = enter(context);
    if (entered != cudaSuccess) return from_cuda(entered, "the GPU could not be chosen");
    Host& host = *context->host;
    host.names.push_back(name.c_str());
    if (host.names.size() > kNames) host.names.pop_front();
    host.describe = [&] {
      return name + "\n(of " + describe_arguments(tensor_arguments(kTexts[number].parameters, arguments...)) + ")";
    };
    const Status status = operation(context, arguments...);
    host.describe = nullptr;
    host.asked = 0;
    return after_reports(context, status.failed() ? status : launched());
  }
};
template <class... A>
Entry<A...> entry_of(Status (*)(Context*, A...));

int64_t no_filter_bytes(Context*, int64_t, int64_t, int64_t, DType) { return 0; }

const Operations kOperations = {
#define OP(name, ...) &decltype(entry_of(&name))::run<&name, k_##name>,
    SONDE_OPS(OP)
#undef OP
#define OP(name, ...) nullptr,
        SONDE_BACKWARD_OPS(OP)
#undef OP
            packed_bytes,
    planes_bytes,
    no_filter_bytes,
    nullptr,
};

const Operations* operations(const Context*) { return &kOperations; }

// ---- a shortage of memory

void on_shortage(Context* context, void (*reclaim)(void* owner), void* owner) {
  context->host->reclaim = reclaim;
  context->host->owner = owner;
}

// Scratch memory that the operation under way, if there is one, did not ask for.
void trim(Context* context) {
  enter(context);
  Host& host = *context->host;
  for (int slot = 0; slot < kScratchSlots; ++slot) {
    if (host.asked >> slot & 1) continue;
    if (host.scratch[slot].data) cudaFreeAsync(host.scratch[slot].data, context->stream);
    host.scratch[slot] = {};
  }
}

const Backend kBackend = {
    kBackendAbi, count,  identify, arithmetic, open,   close,       describe,    allocate, release,    set_bytes,
    get_bytes,   upload, download, mark,       finish, synchronize, on_shortage, trim,     operations,
};

}  // namespace

// ---- the functions of context.h

void* scratch(Context* context, ScratchSlot slot, size_t bytes) {
  Slot& held = context->host->scratch[slot];
  context->host->asked |= 1u << slot;
  if (held.bytes >= bytes && held.data) return held.data;
  if (held.data) cudaFreeAsync(held.data, context->stream);
  held = {};
  const size_t rounded = round_up_bytes(bytes ? bytes : 1, size_t(1) << 16);
  held.data = allocate_on_stream(context, rounded);
  held.bytes = held.data ? rounded : 0;
  return held.data;
}

Failure* failure_of_operation(Context* context, Status* status) {
  Host& host = *context->host;
  if (host.reports.open.size() >= kOpenReports) {
    // no mark has collected these for long: their entries are freed now
    const cudaError_t error = cudaStreamSynchronize(context->stream);
    if (error != cudaSuccess) {
      *status = late_error(error, host.names);
      return nullptr;
    }
    host.reports.first = collect(context, host.reports);
  }
  std::lock_guard<std::mutex> lock(host.mutex);
  if (host.free_failures.empty()) {
    void* more = nullptr;
    *status = from_cuda(cudaMallocHost(&more, kFailures * sizeof(Failure)), "pinned host memory");
    if (status->failed()) return nullptr;
    memset(more, 0, kFailures * sizeof(Failure));
    host.failures.push_back(static_cast<Failure*>(more));
    for (size_t i = 0; i < kFailures; ++i) host.free_failures.push_back(host.failures.back() + i);
  }
  host.reports.open.push_back({host.free_failures.back(), host.describe()});
  host.free_failures.pop_back();
  return host.reports.open.back().failure;
}

Status from_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return fail("%s: %s", what, cudaGetErrorString(error));
}

Status no_scratch(Context* context, size_t bytes) {
  const Status before = launched();
  if (before.failed()) return before;
  // when a kernel has failed, every call fails
  const cudaError_t error = cudaStreamQuery(context->stream);
  cudaGetLastError();
  if (error != cudaSuccess && error != cudaErrorNotReady) return late_error(error, context->host->names);
  return fail("out of GPU memory: %zu bytes for intermediate results", bytes);
}

Status launched() { return from_cuda(cudaGetLastError(), "a kernel could not be started"); }

void* allocate_on_stream(Context* context, size_t bytes) {
  if (cudaPeekAtLastError() != cudaSuccess) return nullptr;  // an earlier launch failed, which no_scratch reports
  void* data = allocate(context, bytes);
  if (data) return data;
  Host& host = *context->host;
  if (host.reclaim) host.reclaim(host.owner);
  trim(context);
  return allocate(context, bytes);
}
void release_on_stream(Context* context, void* data) { release(context, data); }

Status leave_csr_pending(Context* context, Csr* csr, const CsrPart* parts, int count) {
  csr->pending = mark(context);
  csr->pending->csr = csr;
  csr->pending->parts.assign(parts, parts + count);
  return {};
}

Status fetch(Context* context, void* host, const void* device, size_t bytes) {
  cudaError_t error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, context->stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(context->stream);
  return error == cudaSuccess ? Status() : late_error(error, context->host->names);
}

}  // namespace sonde

extern "C" __attribute__((visibility("default"))) const sonde::Backend* sonde_backend() { return &sonde::kBackend; }
