// The time that measurements are taken with.
#pragma once
#include <time.h>

namespace sonde::SONDE_ISA {

// Seconds from an arbitrary origin.
inline double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

}  // namespace sonde::SONDE_ISA
