// The addon's module: one method per operation of native/ops.h, which unwraps its arguments by their types and queues
// the work, one that queues several operations, and the methods of device_memory.cc, results.cc and profile.cc. Nothing is
// computed here. TypeScript checks shapes and dtypes; the addon only checks what memory safety needs: arguments are of the
// right kind, and views lie inside their buffers.
#include <napi.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../describe.h"
#include "../ops.h"
#include "arguments.h"
#include "handles.h"
#include "methods.h"

namespace sonde {
namespace {

// An operation with its arguments, as the queue holds it.
template <class... A>
struct Call {
  Status (*operation)(Context*, A...);
  Context* context;
  const char* names;  // its parameter list in native/ops.h
  std::tuple<A...> given;
  KeepAlive kept;

  Status operator()() const {
    if (!operation) return fail("this device does not have the operation");
    return std::apply([this](const A&... a) { return operation(context, a...); }, given);
  }
  std::vector<Argument> arguments() const {
    return std::apply([this](const A&... a) { return tensor_arguments(names, a...); }, given);
  }
  FilterCounts filter() const { return kept ? kept->filter : FilterCounts(); }
};

template <class... A>
Call<A...> read_call(Device& device, Arguments& reader, const char* names,
                     Status (*Operations::*member)(Context*, A...)) {
  KeepAlive kept;
  std::tuple<A...> given = {reader.next<A>(kept)...};  // in their order, as the braces demand
  auto* operation = device.backend.operations(device.context)->*member;
  return {operation, device.context, names, std::move(given), std::move(kept)};
}

// An operation as JavaScript knows it. Its number is its place in native/ops.h.
struct Method {
  std::string name;
  // Reads the arguments, and adds the operation to the batch under this name.
  void (*add)(DeviceQueue::Batch& batch, const char* name, Device& device, Arguments& reader);
};

const std::vector<Method>& methods() {
#define OP(name, ...)                                                                                                \
  {public_name(#name), [](DeviceQueue::Batch& batch, const char* in_javascript, Device& device, Arguments& reader) { \
     batch.add(in_javascript, read_call(device, reader, #__VA_ARGS__, &Operations::name));                           \
   }},
  static const std::vector<Method> all = {SONDE_OPS(OP) SONDE_BACKWARD_OPS(OP)};
#undef OP
  return all;
}

Napi::Value enqueue(const Napi::CallbackInfo& info) {
  const auto* method = static_cast<const Method*>(info.Data());
  Device& device = *device_of(info);
  Arguments reader(info);
  DeviceQueue::Batch batch;
  method->add(batch, method->name.c_str(), device, reader);
  device.queue.push(std::move(batch));
  return info.Env().Undefined();
}

// enqueueAll(device, numbers): the numbers hold operations, each by its number and its arguments. Where one of them cannot
// be read, none is queued.
Napi::Value enqueue_all(const Napi::CallbackInfo& info) {
  Device& device = *device_of(info);
  Arguments reader(info);
  DeviceQueue::Batch batch;
  while (!reader.at_end()) {
    const int64_t number = reader.operation();
    if (number < 0 || number >= int64_t(methods().size())) {
      throw Napi::RangeError::New(info.Env(), "there is no operation of this number");
    }
    const Method& method = methods()[size_t(number)];
    method.add(batch, method.name.c_str(), device, reader);
  }
  device.queue.push(std::move(batch));
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  add_memory_methods(exports);
  add_result_methods(exports);
  add_profile_methods(exports);
  auto names = Napi::Array::New(env);
  for (const Method& method : methods()) {
    const char* name = method.name.c_str();
    names.Set(names.Length(), name);
    exports.Set(name, Napi::Function::New(env, enqueue, name, const_cast<Method*>(&method)));
  }
  exports.Set("operations", names);
  add_method(exports, "enqueueAll", enqueue_all);
  return exports;
}

NODE_API_MODULE(sonde, init)

}  // namespace
}  // namespace sonde
