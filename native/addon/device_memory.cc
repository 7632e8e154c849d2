// Methods on devices and their memory: opening, buffers, uploads.
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

void release_buffer(Napi::Env env, const BufferHandle& held) {
  const size_t freed = held.device->buffers.release(held.number);
  if (freed) Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(freed));
}

// buffer(device) -> a handle of a buffer without memory
Napi::Value make_buffer(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  return wrap(info.Env(), BufferHandle{device, device->buffers.add()}, [](Napi::Env env, BufferHandle& held) {
    release_buffer(env, held);
    held.device->buffers.remove(held.number);
  });
}

// allocate(buffer, bytes) -> the buffer's number
Napi::Value allocate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto& held = unwrap<BufferHandle>(info, 0);
  const int64_t bytes = integer(info, 1);
  if (bytes < 0) throw Napi::RangeError::New(env, "a buffer cannot have a negative size");
  release_buffer(env, held);
  if (!held.device->buffers.allocate(held.number, size_t(bytes))) throw out_of_memory(env);
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  return Napi::Number::New(env, double(held.number));
}

Napi::Value release(const Napi::CallbackInfo& info) {
  release_buffer(info.Env(), unwrap<BufferHandle>(info, 0));
  return info.Env().Undefined();
}

Napi::Value packed_bytes(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  const Operations* operations = device->backend.operations(device->context);
  return Napi::Number::New(info.Env(),
                           double(operations->packed_bytes(integer(info, 1), integer(info, 2), dtype_of(info, 3))));
}

// planesBytes(device, rows, k, dtype)
Napi::Value planes_bytes(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  const Operations* operations = device->backend.operations(device->context);
  const int64_t bytes =
      operations->planes_bytes(device->context, integer(info, 1), integer(info, 2), dtype_of(info, 3));
  return Napi::Number::New(info.Env(), double(bytes));
}

// filterBytes(device, rows, k, n, dtype)
Napi::Value filter_bytes(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  const Operations* operations = device->backend.operations(device->context);
  const int64_t bytes = operations->filter_bytes(device->context, integer(info, 1), integer(info, 2), integer(info, 3),
                                                 dtype_of(info, 4));
  return Napi::Number::New(info.Env(), double(bytes));
}

// ---- uploads

// upload(device, numbers, host): the numbers hold the tensor to write
Napi::Value upload(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& device = device_of(info);
  KeepAlive none;
  const Out out = Arguments(info).next<Out>(none);
  const HostBytes host = host_bytes(info, 2);
  if (int64_t(host.bytes) != element_count(out) * dtype_size(out.dtype)) {
    throw Napi::RangeError::New(env, "upload: the array has another size than the tensor");
  }
  // Operations that were queued earlier may still use the memory, and the caller may change the array, so the bytes are
  // copied.
  std::shared_ptr<char> copy(static_cast<char*>(malloc(host.bytes + 1)), free);
  if (!copy) throw out_of_memory(env);
  if (host.bytes) memcpy(copy.get(), host.data, host.bytes);
  device->queue.push("upload",
                     [copy, out, raw = device.get()] { return raw->backend.upload(raw->context, out, copy.get()); });
  return env.Undefined();
}

}  // namespace

void add_memory_methods(Napi::Object exports) {
  add_method(exports, "cudaDevices", cuda_devices);
  add_method(exports, "arithmetic", device_arithmetic);
  add_method(exports, "open", open_device);
  add_method(exports, "describe", describe_device);
  add_method(exports, "memory", device_memory);
  add_method(exports, "buffer", make_buffer);
  add_method(exports, "allocate", allocate);
  add_method(exports, "release", release);
  add_method(exports, "packedBytes", packed_bytes);
  add_method(exports, "planesBytes", planes_bytes);
  add_method(exports, "filterBytes", filter_bytes);
  add_method(exports, "upload", upload);
}

}  // namespace sonde
