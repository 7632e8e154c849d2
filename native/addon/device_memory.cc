// Methods on devices and their memory: opening, buffers, views, uploads.
#include <napi.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "../cpu/backend.h"
#include "../cuda_loader.h"
#include "../views.h"
#include "arguments.h"
#include "handles.h"
#include "methods.h"

namespace sonde {
namespace {

// ---- devices

// cudaDevices(path of the library) -> { reason } or { devices: [a description of each] }
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

// The backend whose library an argument names; null stands for the CPU's.
const Backend& backend_of(const Napi::CallbackInfo& info, size_t index) {
  if (info[index].IsNull()) return cpu_backend;
  const LoadedBackend loaded = load_backend(info[index].ToString());
  if (!loaded.backend) throw Napi::Error::New(info.Env(), loaded.reason);
  return *loaded.backend;
}

// arithmetic(path of the CUDA library, or null for the CPU, index, dtype)
Napi::Value device_arithmetic(const Napi::CallbackInfo& info) {
  char text[256] = {};
  backend_of(info, 0).arithmetic(int32_t(integer(info, 1)), dtype_of(info, 2), text, sizeof text);
  if (!*text) throw Napi::Error::New(info.Env(), "the device does not say what its arithmetic is");
  return Napi::String::New(info.Env(), text);
}

// open(path of the CUDA library, or null for the CPU, index, threads)
Napi::Value open_device(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Backend& backend = backend_of(info, 0);
  auto device = std::make_shared<Device>(backend, int32_t(integer(info, 1)), int32_t(integer(info, 2)));
  open_notifier(env, device.get());
  // The threads must end before the environment does. This hook is added after the notifier, so that it runs before the
  // notifier's own clean-up.
  env.AddCleanupHook(
      [](std::weak_ptr<Device>* weak) {
        if (auto alive = weak->lock()) alive->shutdown();
        delete weak;
      },
      new std::weak_ptr<Device>(device));
  return wrap(env, device, [](Napi::Env, std::shared_ptr<Device>& held) { held->shutdown(); });
}

Napi::Value describe_device(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  char text[256] = {};
  device->backend.describe(device->context, text, sizeof text);
  return Napi::String::New(info.Env(), text);
}

Napi::Value device_memory(const Napi::CallbackInfo& info) {
  const Memory memory = device_of(info)->allocator.memory();
  auto out = Napi::Object::New(info.Env());
  out.Set("allocated", double(memory.allocated));
  out.Set("peak", double(memory.peak));
  return out;
}

// ---- buffers

Napi::Error out_of_memory(Napi::Env env) {
  auto error = Napi::Error::New(env, "out of memory");
  error.Set("code", Napi::String::New(env, "OUT_OF_MEMORY"));
  return error;
}

void release_buffer(Napi::Env env, Buffer& buffer) {
  const size_t freed = buffer.release();
  if (freed) Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(freed));
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = device_of(info);
  const int64_t bytes = integer(info, 1);
  if (bytes < 0) throw Napi::RangeError::New(env, "a buffer cannot have a negative size");
  void* data = device->allocator.take(size_t(bytes));
  if (!data) throw out_of_memory(env);
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  auto buffer = std::make_shared<Buffer>(std::shared_ptr<Allocator>(device, &device->allocator), data, size_t(bytes));
  return wrap(env, buffer, [](Napi::Env e, std::shared_ptr<Buffer>& held) { release_buffer(e, *held); });
}

Napi::Value release(const Napi::CallbackInfo& info) {
  release_buffer(info.Env(), *unwrap<std::shared_ptr<Buffer>>(info, 0));
  return info.Env().Undefined();
}

// ---- views

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
  // Every element must lie inside the buffer. Doubles do not overflow, and are exact far beyond any real size.
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
  auto& device = device_of(info);
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
  auto& device = device_of(info);
  const Operations* operations = device->backend.operations(device->context);
  return Napi::Number::New(info.Env(),
                           double(operations->packed_bytes(integer(info, 1), integer(info, 2), dtype_of(info, 3))));
}

// ---- uploads

// upload(device, out, host)
Napi::Value upload(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = device_of(info);
  KeepAlive kept;
  const Out out = read_argument<Out>(info, 1, kept);
  const HostBytes host = host_bytes(info, 2);
  if (int64_t(host.bytes) != element_count(out) * dtype_size(out.dtype)) {
    throw Napi::RangeError::New(env, "upload: the array has another size than the tensor");
  }
  // Operations that were queued earlier may still use the memory, and the caller may change the array, so the bytes are
  // copied.
  std::shared_ptr<char> copy(static_cast<char*>(malloc(host.bytes + 1)), free);
  if (!copy) throw out_of_memory(env);
  if (host.bytes) memcpy(copy.get(), host.data, host.bytes);
  device->queue.push({"upload", nullptr}, [copy, out, kept = std::move(kept), raw = device.get()] {
    return raw->backend.upload(raw->context, out, copy.get());
  });
  return env.Undefined();
}

}  // namespace

void add_memory_methods(Napi::Object exports) {
  add_method(exports, "cudaDevices", cuda_devices);
  add_method(exports, "arithmetic", device_arithmetic);
  add_method(exports, "open", open_device);
  add_method(exports, "describe", describe_device);
  add_method(exports, "memory", device_memory);
  add_method(exports, "allocate", allocate);
  add_method(exports, "release", release);
  add_method(exports, "view", make_view);
  add_method(exports, "packed", make_packed);
  add_method(exports, "packedBytes", packed_bytes);
  add_method(exports, "upload", upload);
}

}  // namespace sonde
