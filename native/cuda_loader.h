// The CUDA backend, a shared library of its own that is loaded when it is first needed. If something is missing, a
// sentence says what.
#pragma once
#include <string>

#include "ops.h"

namespace sonde {

struct LoadedBackend {
  const Backend* backend = nullptr;
  std::string reason;  // why there is none
};

// Loads the library at `path` and counts its devices. It stays loaded, and later calls for the path return the first
// answer.
LoadedBackend load_backend(const std::string& path);

}  // namespace sonde
