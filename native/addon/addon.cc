// The addon's module: one method per operation of native/ops.h, which unwraps its arguments by their types and queues
// the work, and the methods of device_memory.cc, results.cc and profile.cc. Nothing is computed here. TypeScript checks
// shapes and dtypes; the addon only checks what memory safety needs: arguments are of the right kind, and views lie inside
// their buffers.
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
    return std::apply([this](const A&... a) { return operation(context, a...); }, given);
  }
  std::vector<Argument> arguments() const {
    return std::apply([this](const A&... a) { return tensor_arguments(names, a...); }, given);
  }
};

template <class... A>
Napi::Value enqueue(const Napi::CallbackInfo& info, const char* name, const char* names,
                    Status (*Operations::*member)(Context*, A...)) {
  Device& device = *device_of(info);
  Arguments reader(info);
  KeepAlive kept;
  std::tuple<A...> given = {reader.next<A>(kept)...};  // in their order, as the braces demand
  auto* operation = device.backend.operations(device.context)->*member;
  device.queue.push(name, Call<A...>{operation, device.context, names, std::move(given), std::move(kept)});
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env, Napi::Object exports) {
  add_memory_methods(exports);
  add_result_methods(exports);
  add_profile_methods(exports);
#define OP(name, ...)                                                               \
  {                                                                                 \
    static const std::string in_javascript = public_name(#name);                    \
    add_method(exports, in_javascript.c_str(), [](const Napi::CallbackInfo& info) { \
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
