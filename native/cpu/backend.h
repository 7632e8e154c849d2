// The CPU backend: one table of functions, whichever instruction set it chooses.
#pragma once
#include "../ops.h"

namespace sonde {

extern const Backend cpu_backend;

}  // namespace sonde
