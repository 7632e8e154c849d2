// Methods that time operations on a device; see device_queue.h.
#include <napi.h>

#include <vector>

#include "../describe.h"
#include "arguments.h"
#include "handles.h"
#include "methods.h"

namespace sonde {
namespace {

Napi::Value set_section(const Napi::CallbackInfo& info) {
  device_of(info)->queue.set_section(int(integer(info, 1)));
  return info.Env().Undefined();
}

Napi::Value start_profile(const Napi::CallbackInfo& info) {
  device_of(info)->queue.start_profile();
  return info.Env().Undefined();
}

// takeProfile(device) -> [{ operation, arguments: [{ name, dtype, shape }], section, begin, seconds, filter? }]
Napi::Value take_profile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<Timing> timings = device_of(info)->queue.take_profile();
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
    const FilterCounts& counts = timings[i].filter;
    if (counts.groups > 0) {
      auto filter = Napi::Object::New(env);
      filter.Set("groups", double(counts.groups));
      filter.Set("fellBack", double(counts.fell_back));
      filter.Set("candidates", double(counts.candidates));
      entry.Set("filter", filter);
    }
    out.Set(uint32_t(i), entry);
  }
  return out;
}

}  // namespace

void add_profile_methods(Napi::Object exports) {
  add_method(exports, "setSection", set_section);
  add_method(exports, "startProfile", start_profile);
  add_method(exports, "takeProfile", take_profile);
}

}  // namespace sonde
