// The handles that JavaScript holds: devices, buffers and CSR results.
#pragma once
#include <napi.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "../buffer.h"
#include "../device_queue.h"
#include "../ops.h"

namespace sonde {

// ---- devices

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

  // Runs on the queue's thread. Data that is being read holds memory until the finisher has copied it to the host.
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

  // Ends the threads, on the JavaScript thread: the queue first, as it gives the finisher its work. Handles may outlive
  // them. The notifier is not released here: the environment closes it, and closing it twice crashes Node 20.
  void shutdown() {
    queue.stop();
    finisher.stop();
  }

  const Backend& backend;
  OpenContext context;
  DeviceQueue queue;
  DeviceQueue finisher;  // completes, in order, the work that operations left pending, while the queue goes on
  Allocator allocator;
  Buffers buffers{allocator};                   // used on the JavaScript thread alone
  napi_threadsafe_function notifier = nullptr;  // settles promises on the JavaScript thread; see open_notifier()
  int pending = 0;  // promises that are not settled yet; while there are any, the process stays alive
};

// Gives the device its notifier, which keeps the process alive only while promises are pending (results.cc).
void open_notifier(Napi::Env env, Device* device);

// ---- buffers

// One of a device's buffers. JavaScript uses a handle again for other memory when it has released what it had.
struct BufferHandle {
  std::shared_ptr<Device> device;
  size_t number;
};

// ---- handles as JavaScript values

// One random tag per kind of handle: a wrong object is then an error, even if two copies of the addon are loaded.
inline constexpr napi_type_tag kDeviceTag = {0x3a1f86d2c94b4e07, 0x9d5be0a7c6314f21};
inline constexpr napi_type_tag kBufferTag = {0x6c0d2f4be1a94875, 0xb27c19e05f8d43a6};
inline constexpr napi_type_tag kCsrTag = {0x8b3de96107f24ac5, 0x2c79f4b05e1d4386};

template <class T>
struct HandleOf;
template <>
struct HandleOf<std::shared_ptr<Device>> {
  static constexpr const napi_type_tag& tag = kDeviceTag;
  static constexpr const char* name = "a device";
};
template <>
struct HandleOf<BufferHandle> {
  static constexpr const napi_type_tag& tag = kBufferTag;
  static constexpr const char* name = "a buffer";
};
template <>
struct HandleOf<std::shared_ptr<Csr>> {
  static constexpr const napi_type_tag& tag = kCsrTag;
  static constexpr const char* name = "a CSR result";
};

// `finalizer` runs when JavaScript has dropped the handle.
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

inline const std::shared_ptr<Device>& device_of(const Napi::CallbackInfo& info) {
  return unwrap<std::shared_ptr<Device>>(info, 0);
}

}  // namespace sonde
