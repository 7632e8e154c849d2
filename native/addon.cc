// The addon: handles for devices, buffers, views, packed matrices and CSR results, and one method per line of native/ops.h.
// It unwraps arguments by their types and queues the work; nothing is computed here. What can be known of shapes and dtypes
// is checked in TypeScript; here only what memory safety needs: handles are what they claim, views lie inside their buffers.
#include <napi.h>

#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "buffer.h"
#include "cpu/backend.h"
#include "cuda_loader.h"
#include "describe.h"
#include "ops.h"
#include "queue.h"

namespace sonde {
namespace {

// ---- what JavaScript holds

struct Completion {
  Completion(Napi::Env env, Napi::Object kept) : deferred(env), host(Napi::Persistent(kept)) {}
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference host;  // the array that is written to, alive until JavaScript has been told
  std::shared_ptr<Csr> csr;
  std::string error;
  double number = 0;  // what the promise gives, if has_number
  bool has_number = false;
  Pending* pending = nullptr;
};

void tell(Napi::Env env, Napi::Function, struct Device* device, Completion* completion);
using Teller = Napi::TypedThreadSafeFunction<Device, Completion, tell>;

struct Device {
  Device(const Backend& backend, int32_t index, int32_t threads)
      : backend(backend),
        context(backend, open(backend, index, threads)),
        queue(getenv("SONDE_DEBUG") != nullptr, trace_path(), [this] { return this->backend.synchronize(context); }),
        finisher(false, ""),
        allocator(backend, context, queue, getenv("SONDE_POISON") != nullptr, &finisher) {
    if (backend.on_shortage) backend.on_shortage(context, reclaim, this);
  }
  ~Device() { shutdown(); }

  // On the queue's thread: what was read is held until the finisher has brought it over.
  static void reclaim(void* device) {
    static_cast<Device*>(device)->finisher.wait();
    static_cast<Device*>(device)->allocator.reclaim();
  }

  static std::string trace_path() {
    const char* path = getenv("SONDE_TRACE");
    return path ? path : "";
  }

  struct OpenContext {
    const Backend& backend;
    Context* context;
    OpenContext(const Backend& b, Context* c) : backend(b), context(c) {}
    ~OpenContext() { backend.close(context); }
    OpenContext(const OpenContext&) = delete;
    OpenContext& operator=(const OpenContext&) = delete;
    operator Context*() const { return context; }
  };
  static Context* open(const Backend& backend, int32_t index, int32_t threads) {
    Status status;
    Context* context = backend.open(index, threads, &status);
    if (!context) throw std::runtime_error(status.text);
    return context;
  }

  // Ends the threads, on the JavaScript thread: the queue first, which gives the finisher its work. Handles may outlive them.
  // The teller is not released here: it closes by itself when the environment does, and closing it twice crashes Node 20.
  void shutdown() {
    queue.stop();
    finisher.stop();
  }

  const Backend& backend;
  OpenContext context;
  Queue queue;
  Queue finisher;  // completes, in order, what operations left pending, while the queue goes on
  Allocator allocator;
  Teller teller;
  int pending = 0;  // promises not yet settled; while there are any, the process stays alive
};

struct TensorView : View {
  std::shared_ptr<Buffer> buffer;
};
struct PackedView : View {
  std::shared_ptr<Buffer> buffer;
};

// One random tag per kind of handle: a wrong object is then an error, also when two copies of the addon are loaded.
constexpr napi_type_tag kDeviceTag = {0x3a1f86d2c94b4e07, 0x9d5be0a7c6314f21};
constexpr napi_type_tag kBufferTag = {0x6c0d2f4be1a94875, 0xb27c19e05f8d43a6};
constexpr napi_type_tag kViewTag = {0x1e94b7c3058f4d62, 0x84a3d6f19b0e4c57};
constexpr napi_type_tag kPackedTag = {0xf2805a6e3bd74c19, 0x5f16c8e42a9d4b73};
constexpr napi_type_tag kCsrTag = {0x8b3de96107f24ac5, 0x2c79f4b05e1d4386};

template <class T>
struct HandleOf;
template <>
struct HandleOf<std::shared_ptr<Device>> {
  static constexpr const napi_type_tag& tag = kDeviceTag;
  static constexpr const char* name = "a device";
};
template <>
struct HandleOf<std::shared_ptr<Buffer>> {
  static constexpr const napi_type_tag& tag = kBufferTag;
  static constexpr const char* name = "a buffer";
};
template <>
struct HandleOf<TensorView> {
  static constexpr const napi_type_tag& tag = kViewTag;
  static constexpr const char* name = "a view";
};
template <>
struct HandleOf<PackedView> {
  static constexpr const napi_type_tag& tag = kPackedTag;
  static constexpr const char* name = "a packed matrix";
};
template <>
struct HandleOf<std::shared_ptr<Csr>> {
  static constexpr const napi_type_tag& tag = kCsrTag;
  static constexpr const char* name = "a CSR result";
};

template <class T, class Finalizer>
Napi::Value wrap(Napi::Env env, T value, Finalizer finalizer) {
  auto external = Napi::External<T>::New(env, new T(std::move(value)), [finalizer](Napi::Env e, T* held) {
    finalizer(e, *held);
    delete held;
  });
  external.TypeTag(&HandleOf<T>::tag);
  return external;
}

template <class T>
T& unwrap(const Napi::CallbackInfo& info, size_t index) {
  const Napi::Value value = info[index];
  if (value.IsExternal()) {
    auto external = value.As<Napi::External<T>>();
    if (external.CheckTypeTag(&HandleOf<T>::tag)) return *external.Data();
  }
  throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " of a native call must be " +
                                             HandleOf<T>::name + ", but is none");
}

int64_t integer(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsNumber()) {
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " of a native call must be a number");
  }
  return info[index].As<Napi::Number>().Int64Value();
}

DType dtype_of(const Napi::CallbackInfo& info, size_t index) {
  const int64_t code = integer(info, index);
  if (code < 0 || code > int64_t(DType::boolean)) throw Napi::RangeError::New(info.Env(), "no such dtype");
  return DType(code);
}

int64_t element_count(const View& view) {
  int64_t count = 1;
  for (int d = 0; d < view.rank; ++d) count *= view.shape[d];
  return count;
}

// ---- operations

// Keeps what an operation's arguments point to until it has been carried out.
using Kept = std::vector<std::shared_ptr<void>>;

template <class Handle, class T>
T read_view(const Napi::CallbackInfo& info, size_t index, Kept& kept) {
  T view;
  if (info[index].IsNull()) return view;
  const Handle& held = unwrap<Handle>(info, index);
  if (held.buffer->released()) {
    throw Napi::Error::New(info.Env(), "argument " + std::to_string(index) + " of a native call was disposed");
  }
  static_cast<View&>(view) = held;
  kept.push_back(held.buffer);
  return view;
}

template <class T>
T read_argument(const Napi::CallbackInfo& info, size_t index, Kept& kept) {
  if constexpr (std::is_same_v<T, Packed> || std::is_same_v<T, PackedOut>) {
    return read_view<PackedView, T>(info, index, kept);
  } else if constexpr (std::is_base_of_v<View, T>) {
    return read_view<TensorView, T>(info, index, kept);
  } else if constexpr (std::is_same_v<T, CsrOut>) {
    auto& csr = unwrap<std::shared_ptr<Csr>>(info, index);
    kept.push_back(csr);
    return {csr.get()};
  } else if constexpr (std::is_same_v<T, bool>) {
    return info[index].ToBoolean();
  } else if constexpr (std::is_floating_point_v<T>) {
    return T(info[index].ToNumber().DoubleValue());
  } else {
    return T(integer(info, index));
  }
}

template <class... A, size_t... I>
std::tuple<A...> read_arguments(const Napi::CallbackInfo& info, Kept& kept, std::index_sequence<I...>) {
  return {read_argument<A>(info, I + 1, kept)...};  // the device comes first
}

template <class... A>
Napi::Value enqueue(const Napi::CallbackInfo& info, const char* name, const char* names,
                    Status (*Operations::*member)(Context*, A...)) {
  const std::shared_ptr<Device>& device = unwrap<std::shared_ptr<Device>>(info, 0);
  Kept kept;
  auto arguments = read_arguments<A...>(info, kept, std::index_sequence_for<A...>{});
  auto* operation = device->backend.operations(device->context)->*member;
  Context* context = device->context;
  auto shared = std::make_shared<std::pair<std::tuple<A...>, Kept>>(std::move(arguments), std::move(kept));
  Label label{name, [shared, names] {
                return std::apply([&](const A&... a) { return tensor_arguments(names, a...); }, shared->first);
              }};
  device->queue.push(std::move(label), [operation, context, shared] {
    return std::apply([&](const A&... a) { return operation(context, a...); }, shared->first);
  });
  return info.Env().Undefined();
}

// ---- devices and memory

// cudaDevices(path of the library) -> { reason } or { devices: [what each is] }
Napi::Value cuda_devices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const LoadedBackend loaded = load_backend(info[0].ToString());
  auto out = Napi::Object::New(env);
  if (!loaded.backend) {
    out.Set("reason", loaded.reason);
    return out;
  }
  Status status;
  auto devices = Napi::Array::New(env);
  for (int32_t i = 0; i < loaded.backend->count(&status); ++i) {
    char text[256] = {};
    loaded.backend->identify(i, text, sizeof text);
    devices.Set(uint32_t(i), text);
  }
  out.Set("devices", devices);
  return out;
}

// open(path of the CUDA library, or null for the CPU, index, threads)
Napi::Value open_device(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Backend* backend = &cpu_backend;
  if (!info[0].IsNull()) {
    const LoadedBackend loaded = load_backend(info[0].ToString());
    if (!loaded.backend) throw Napi::Error::New(env, loaded.reason);
    backend = loaded.backend;
  }
  auto device = std::make_shared<Device>(*backend, int32_t(integer(info, 1)), int32_t(integer(info, 2)));
  device->teller = Teller::New(env, "sonde", 0, 1, device.get());
  device->teller.Unref(env);
  // The thread must have ended before the environment does; added after the teller, so that it runs before its own clean-up.
  env.AddCleanupHook(
      [](std::weak_ptr<Device>* weak) {
        if (auto alive = weak->lock()) alive->shutdown();
        delete weak;
      },
      new std::weak_ptr<Device>(device));
  return wrap(env, device, [](Napi::Env, std::shared_ptr<Device>& held) { held->shutdown(); });
}

Napi::Value describe_device(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  char text[256] = {};
  device->backend.describe(device->context, text, sizeof text);
  return Napi::String::New(info.Env(), text);
}

Napi::Value device_memory(const Napi::CallbackInfo& info) {
  const Memory memory = unwrap<std::shared_ptr<Device>>(info, 0)->allocator.memory();
  auto out = Napi::Object::New(info.Env());
  out.Set("allocated", double(memory.allocated));
  out.Set("peak", double(memory.peak));
  return out;
}

void release_buffer(Napi::Env env, Buffer& buffer) {
  const size_t freed = buffer.release();
  if (freed) Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(freed));
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  const int64_t bytes = integer(info, 1);
  if (bytes < 0) throw Napi::RangeError::New(env, "a buffer cannot have a negative size");
  void* data = device->allocator.take(size_t(bytes));
  if (!data) {
    auto error = Napi::Error::New(env, "out of memory");
    error.Set("code", Napi::String::New(env, "OUT_OF_MEMORY"));
    throw error;
  }
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  auto buffer = std::make_shared<Buffer>(std::shared_ptr<Allocator>(device, &device->allocator), data, size_t(bytes));
  return wrap(env, buffer, [](Napi::Env e, std::shared_ptr<Buffer>& held) { release_buffer(e, *held); });
}

Napi::Value release(const Napi::CallbackInfo& info) {
  release_buffer(info.Env(), *unwrap<std::shared_ptr<Buffer>>(info, 0));
  return info.Env().Undefined();
}

// view(buffer, dtype, offset, shape, strides), in elements
Napi::Value make_view(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  TensorView view;
  view.buffer = unwrap<std::shared_ptr<Buffer>>(info, 0);
  view.dtype = dtype_of(info, 1);
  const int64_t offset = integer(info, 2);
  auto shape = info[3].As<Napi::Array>();
  auto strides = info[4].As<Napi::Array>();
  if (view.buffer->released()) throw Napi::Error::New(env, "the buffer of a view was disposed");
  if (shape.Length() > kMaxRank || strides.Length() != shape.Length()) throw Napi::RangeError::New(env, "bad rank");
  view.rank = int32_t(shape.Length());
  // every element must lie inside the buffer; doubles cannot overflow and are exact far beyond any real size
  double end = double(offset) + 1;
  bool empty = false;
  for (int d = 0; d < view.rank; ++d) {
    view.shape[d] = shape.Get(uint32_t(d)).ToNumber().Int64Value();
    view.stride[d] = strides.Get(uint32_t(d)).ToNumber().Int64Value();
    if (view.shape[d] < 0 || view.stride[d] < 0) throw Napi::RangeError::New(env, "negative shape or stride");
    empty = empty || view.shape[d] == 0;
    end += double(view.shape[d] - 1) * double(view.stride[d]);
  }
  if (offset < 0 || (!empty && end * double(dtype_size(view.dtype)) > double(view.buffer->bytes()))) {
    throw Napi::RangeError::New(env, "a view would reach outside its buffer");
  }
  view.data = static_cast<char*>(view.buffer->data()) + (empty ? 0 : offset * dtype_size(view.dtype));
  return wrap(env, std::move(view), [](Napi::Env, TensorView&) {});
}

// packed(device, buffer, dtype, k, n)
Napi::Value make_packed(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  PackedView view;
  view.buffer = unwrap<std::shared_ptr<Buffer>>(info, 1);
  view.dtype = dtype_of(info, 2);
  view.rank = 2;
  view.shape[0] = integer(info, 3);
  view.shape[1] = integer(info, 4);
  const Operations* operations = device->backend.operations(device->context);
  if (view.buffer->released()) throw Napi::Error::New(env, "the buffer of a packed matrix was disposed");
  if (view.shape[0] < 0 || view.shape[1] < 0 ||
      operations->packed_bytes(view.shape[0], view.shape[1], view.dtype) > int64_t(view.buffer->bytes())) {
    throw Napi::RangeError::New(env, "a packed matrix would reach outside its buffer");
  }
  view.data = view.buffer->data();
  return wrap(env, std::move(view), [](Napi::Env, PackedView&) {});
}

Napi::Value packed_bytes(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  const Operations* operations = device->backend.operations(device->context);
  return Napi::Number::New(info.Env(),
                           double(operations->packed_bytes(integer(info, 1), integer(info, 2), dtype_of(info, 3))));
}

// ---- host memory

struct HostBytes {
  char* data;
  size_t bytes;
};

HostBytes host_bytes(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsTypedArray()) throw Napi::TypeError::New(info.Env(), "a typed array is missing");
  auto array = info[index].As<Napi::TypedArray>();
  return {static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
}

// upload(device, out, host)
Napi::Value upload(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  Kept kept;
  const Out out = read_argument<Out>(info, 1, kept);
  const HostBytes host = host_bytes(info, 2);
  if (int64_t(host.bytes) != element_count(out) * dtype_size(out.dtype)) {
    throw Napi::RangeError::New(env, "upload: the array has another size than the tensor");
  }
  // The memory may be in use by operations queued earlier, and the caller may change his array: the bytes wait in a copy.
  std::shared_ptr<char> copy(static_cast<char*>(malloc(host.bytes + 1)), free);
  if (!copy) {
    auto error = Napi::Error::New(env, "out of memory");
    error.Set("code", Napi::String::New(env, "OUT_OF_MEMORY"));
    throw error;
  }
  if (host.bytes) memcpy(copy.get(), host.data, host.bytes);
  device->queue.push({"upload", nullptr}, [copy, out, kept = std::move(kept), raw = device.get()] {
    return raw->backend.upload(raw->context, out, copy.get());
  });
  return env.Undefined();
}

// ---- waiting

void tell(Napi::Env env, Napi::Function, Device* device, Completion* completion) {
  std::unique_ptr<Completion> done(completion);
  if (!env) {
    done.release()->host.SuppressDestruct();  // the environment is gone, and what it held with it
    return;
  }
  if (--device->pending == 0) device->teller.Unref(env);
  if (!done->error.empty()) return done->deferred.Reject(Napi::Error::New(env, done->error).Value());
  if (done->has_number) return done->deferred.Resolve(Napi::Number::New(env, done->number));
  if (!done->csr) return done->deferred.Resolve(env.Undefined());
  const Csr& csr = *done->csr;
  const int64_t count = csr.row_ptr[csr.rows];
  auto row_ptr = Napi::BigInt64Array::New(env, size_t(csr.rows) + 1);
  auto indices = Napi::Int32Array::New(env, size_t(count));
  auto values = Napi::Float32Array::New(env, size_t(count));
  memcpy(row_ptr.Data(), csr.row_ptr, (size_t(csr.rows) + 1) * sizeof(int64_t));
  if (count) {
    memcpy(indices.Data(), csr.indices, size_t(count) * sizeof(int32_t));
    memcpy(values.Data(), csr.values, size_t(count) * sizeof(float));
  }
  auto out = Napi::Object::New(env);
  out.Set("rowPtr", row_ptr);
  out.Set("indices", indices);
  out.Set("values", values);
  done->deferred.Resolve(out);
}

// Calls done(error) when all that was queued before is done, on a thread of the device. With tell_error, `error` is the first failure
// of what was queued before this and not told yet: never of what comes later, although the queue goes on. What `at` points to is
// pending already, or is set to a mark.
template <class Done>
void when_done(Device* device, Pending*& at, bool tell_error, Done done) {
  device->queue.push([device, &at, tell_error, done = std::move(done)] {
    if (!at) at = device->backend.mark(device->context);
    if (!at) return done(tell_error ? device->queue.take_error() : "");
    // the finisher keeps errors in the order of these points: what failed to begin before this one, then what is noticed late
    device->finisher.push([device, pending = at, tell_error, error = device->queue.take_error(), done] {
      const Status status = device->backend.finish(device->context, pending);
      if (!error.empty()) device->finisher.keep_error(error);
      if (status.failed()) device->finisher.keep_error(status.text);
      done(tell_error ? device->finisher.take_error() : "");
    });
  });
}

// A promise that is settled when all that was queued before is done.
Napi::Value settle_later(Napi::Env env, const std::shared_ptr<Device>& device, Completion* completion,
                         bool tell_error) {
  if (device->pending++ == 0) device->teller.Ref(env);
  auto promise = completion->deferred.Promise();
  if (completion->csr) {
    // known only when the operation has run
    device->queue.push([completion] { completion->pending = std::exchange(completion->csr->pending, nullptr); });
  }
  when_done(device.get(), completion->pending, tell_error, [completion, raw = device.get()](std::string error) {
    completion->error = std::move(error);
    raw->teller.BlockingCall(completion);
  });
  return promise;
}

// read(device, x, host, dtype)
Napi::Value read(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  Kept kept;
  const In x = read_argument<In>(info, 1, kept);
  const HostBytes host = host_bytes(info, 2);
  const DType dtype = dtype_of(info, 3);
  if (int64_t(host.bytes) != element_count(x) * dtype_size(dtype)) {
    throw Napi::RangeError::New(info.Env(), "read: the array has another size than the tensor");
  }
  auto* completion = new Completion(info.Env(), info[2].As<Napi::Object>());
  device->queue.push({"read", nullptr}, [x, host, dtype, completion, kept = std::move(kept), raw = device.get()] {
    return raw->backend.download(raw->context, host.data, dtype, x, &completion->pending);
  });
  return settle_later(info.Env(), device, completion, true);
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  return settle_later(info.Env(), device, new Completion(info.Env(), Napi::Object::New(info.Env())), true);
}

Napi::Value reached(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  auto* completion = new Completion(info.Env(), Napi::Object::New(info.Env()));
  return settle_later(info.Env(), device, completion, false);
}

Napi::Value wait(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  // shared: the other thread may still be inside set_value when this one goes on
  auto done = std::make_shared<std::promise<std::string>>();
  auto future = done->get_future();
  Pending* pending = nullptr;
  when_done(device.get(), pending, true, [done](std::string text) { done->set_value(std::move(text)); });
  const std::string error = future.get();
  return error.empty() ? info.Env().Null() : Napi::String::New(info.Env(), error);
}

// ---- how fast

// ceiling(device, kind) -> promise of a number per second, 0 where it cannot be measured
Napi::Value ceiling(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  const int64_t kind = integer(info, 1);
  if (kind < 0 || kind > int64_t(Ceiling::bandwidth)) throw Napi::RangeError::New(info.Env(), "no such ceiling");
  auto* completion = new Completion(info.Env(), Napi::Object::New(info.Env()));
  completion->has_number = true;
  device->queue.push({"ceiling", nullptr}, [kind, completion, raw = device.get()]() -> Status {
    auto* measure = raw->backend.operations(raw->context)->ceiling;
    return measure ? measure(raw->context, Ceiling(kind), &completion->number) : Status();
  });
  return settle_later(info.Env(), device, completion, true);
}

Napi::Value set_section(const Napi::CallbackInfo& info) {
  unwrap<std::shared_ptr<Device>>(info, 0)->queue.set_section(int(integer(info, 1)));
  return info.Env().Undefined();
}

Napi::Value start_profile(const Napi::CallbackInfo& info) {
  unwrap<std::shared_ptr<Device>>(info, 0)->queue.start_profile();
  return info.Env().Undefined();
}

// takeProfile(device) -> [{ operation, arguments: [{ name, dtype, shape }], section, begin, seconds }]
Napi::Value take_profile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<Timing> timings = unwrap<std::shared_ptr<Device>>(info, 0)->queue.take_profile();
  auto out = Napi::Array::New(env, timings.size());
  for (size_t i = 0; i < timings.size(); ++i) {
    auto arguments = Napi::Array::New(env, timings[i].arguments.size());
    for (size_t a = 0; a < timings[i].arguments.size(); ++a) {
      const Argument& from = timings[i].arguments[a];
      auto shape = Napi::Array::New(env, from.shape.size());
      for (size_t d = 0; d < from.shape.size(); ++d) shape.Set(uint32_t(d), double(from.shape[d]));
      auto argument = Napi::Object::New(env);
      argument.Set("name", from.name);
      argument.Set("dtype", dtype_name(from.dtype));
      argument.Set("shape", shape);
      arguments.Set(uint32_t(a), argument);
    }
    auto entry = Napi::Object::New(env);
    entry.Set("operation", timings[i].name);
    entry.Set("arguments", arguments);
    entry.Set("section", timings[i].section);
    entry.Set("begin", timings[i].begin);
    entry.Set("seconds", timings[i].seconds);
    out.Set(uint32_t(i), entry);
  }
  return out;
}

// ---- CSR results

bool reserve(Csr* csr, int64_t count) {
  const size_t n = size_t(count) + 1;
  auto* indices = static_cast<int32_t*>(realloc(csr->indices, n * sizeof(int32_t)));
  if (!indices) return false;
  csr->indices = indices;
  auto* values = static_cast<float*>(realloc(csr->values, n * sizeof(float)));
  if (!values) return false;
  csr->values = values;
  return true;
}

Napi::Value make_csr(const Napi::CallbackInfo& info) {
  const int64_t rows = integer(info, 0);
  if (rows < 0) throw Napi::RangeError::New(info.Env(), "negative number of rows");
  std::shared_ptr<Csr> csr(new Csr(), [](Csr* held) {
    free(held->row_ptr);
    free(held->indices);
    free(held->values);
    delete held;
  });
  csr->rows = rows;
  csr->row_ptr = static_cast<int64_t*>(calloc(size_t(rows) + 1, sizeof(int64_t)));
  csr->reserve = reserve;
  if (!csr->row_ptr) throw Napi::Error::New(info.Env(), "out of memory");
  return wrap(info.Env(), csr, [](Napi::Env, std::shared_ptr<Csr>&) {});
}

Napi::Value read_csr(const Napi::CallbackInfo& info) {
  auto& device = unwrap<std::shared_ptr<Device>>(info, 0);
  auto* completion = new Completion(info.Env(), Napi::Object::New(info.Env()));
  completion->csr = unwrap<std::shared_ptr<Csr>>(info, 1);
  return settle_later(info.Env(), device, completion, true);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  const auto method = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  method("cudaDevices", cuda_devices);
  method("open", open_device);
  method("describe", describe_device);
  method("memory", device_memory);
  method("allocate", allocate);
  method("release", release);
  method("view", make_view);
  method("packed", make_packed);
  method("packedBytes", packed_bytes);
  method("upload", upload);
  method("read", read);
  method("synchronize", synchronize);
  method("reached", reached);
  method("wait", wait);
  method("ceiling", ceiling);
  method("setSection", set_section);
  method("startProfile", start_profile);
  method("takeProfile", take_profile);
  method("csr", make_csr);
  method("readCsr", read_csr);
#define OP(name, ...)                                                               \
  {                                                                                 \
    static const std::string in_javascript = public_name(#name);                    \
    method(in_javascript.c_str(), [](const Napi::CallbackInfo& info) {              \
      return enqueue(info, in_javascript.c_str(), #__VA_ARGS__, &Operations::name); \
    });                                                                             \
  }
  SONDE_OPS(OP)
#undef OP
  return exports;
}

NODE_API_MODULE(sonde, init)

}  // namespace
}  // namespace sonde
