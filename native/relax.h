// A hint to the processor that a thread spins: it saves power, and leaves more of the core to the core's other thread.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sonde {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace sonde
