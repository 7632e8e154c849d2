// How the files of the addon add their methods to the module.
#pragma once
#include <napi.h>

namespace sonde {

inline void add_method(Napi::Object exports, const char* name, Napi::Value (*method)(const Napi::CallbackInfo&)) {
  exports.Set(name, Napi::Function::New(exports.Env(), method, name));
}

void add_memory_methods(Napi::Object exports);   // device_memory.cc
void add_result_methods(Napi::Object exports);   // results.cc
void add_profile_methods(Napi::Object exports);  // profile.cc

}  // namespace sonde
