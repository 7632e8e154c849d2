// The CUDA backend: a shared library of its own, loaded when it is first asked for. Whatever is missing is a sentence.
#pragma once
#include <string>

#include "ops.h"

namespace sonde {

struct LoadedBackend {
  const Backend* backend = nullptr;
  std::string reason;  // why there is none
};

// The library at `path`, and its devices counted; it stays loaded. The first answer for a path is the answer for good.
LoadedBackend load_backend(const std::string& path);

}  // namespace sonde
