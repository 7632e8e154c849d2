// Opens the library with dlopen, finds its one entry point, and compares the version of the interface.
#include "cuda_loader.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

namespace sonde {

namespace {

LoadedBackend load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    return {nullptr, "its library could not be loaded: " + std::string(why ? why : path)};
  }
  auto* entry = reinterpret_cast<const Backend* (*)()>(dlsym(library, "sonde_backend"));
  if (!entry) return {nullptr, "its library is not sonde's: " + path};
  const Backend* backend = entry();
  if (backend->abi != kBackendAbi) {
    return {nullptr, "its library was built for another version of sonde; to build it anew: npm run build:cuda"};
  }
  Status status;
  if (backend->count(&status) > 0) return {backend, ""};
  return {nullptr, status.text};
}

}  // namespace

LoadedBackend load_backend(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, LoadedBackend> loaded;
  std::lock_guard lock(mutex);
  auto found = loaded.find(path);
  if (found == loaded.end()) found = loaded.emplace(path, load(path)).first;
  return found->second;
}

}  // namespace sonde
