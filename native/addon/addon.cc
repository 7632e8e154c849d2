// The addon's module: one method per operation of native/ops.h, which unwraps its arguments by their types and queues
// the work, and the methods of device_memory.cc, results.cc and profile.cc. Nothing is computed here. TypeScript checks
// shapes and dtypes; the addon only checks what memory safety needs: handles have the right type, and views lie inside
// their buffers.
#include <napi.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "../describe.h"
#include "../ops.h"
#include "arguments.h"
#include "handles.h"
#include "methods.h"

namespace sonde {
namespace {

template <class... A>
Napi::Value enqueue(const Napi::CallbackInfo& info, const char* name, const char* names,
                    Status (*Operations::*member)(Context*, A...)) {
  const std::shared_ptr<Device>& device = device_of(info);
  KeepAlive kept;
  auto arguments = read_arguments<A...>(info, kept, std::index_sequence_for<A...>{});
  auto* operation = device->backend.operations(device->context)->*member;
  Context* context = device->context;
  auto shared = std::make_shared<std::pair<std::tuple<A...>, KeepAlive>>(std::move(arguments), std::move(kept));
  Label label{name, [shared, names] {
                return std::apply([&](const A&... a) { return tensor_arguments(names, a...); }, shared->first);
              }};
  device->queue.push(std::move(label), [operation, context, shared] {
    return std::apply([&](const A&... a) { return operation(context, a...); }, shared->first);
  });
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
