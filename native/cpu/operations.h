// Declares every operation in this build's namespace; each kernel file defines those of its name.
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

#define OP(name, ...) Status name(Context*, __VA_ARGS__);
SONDE_OPS(OP)
SONDE_BACKWARD_OPS(OP)
#undef OP
int64_t packed_bytes(int64_t k, int64_t n, DType dtype);
int64_t planes_bytes(Context*, int64_t rows, int64_t k, DType dtype);
Status no_planes();
int64_t filter_bytes(Context*, int64_t rows, int64_t k, int64_t n, DType dtype);
Status ceiling(Context*, Ceiling kind, double* per_second);

}  // namespace sonde::SONDE_ISA
