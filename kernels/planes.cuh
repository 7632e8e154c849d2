// Operands of the tensor cores: matrices whose rows hold their K values side by side, in one or two planes of 16-bit floats.
//
// float32 through half-precision products (Ootomo and Yokota, arXiv 2203.03341): each row is scaled by a power of two so that its
// largest element is in [2^13, 2^14), and x = high + low / 2048 with 11 bits each. Three products, high high + (high low +
// low high) / 2048, then are as accurate as float32's own: what is lost is below 2^-22 of each product and 2^-49 of the row's
// largest element. Rows that cannot be scaled so (infinite, NaN, or all of them below 2^-47 or above 2^73) are flagged, left zero,
// and computed in plain float32 instead.
#pragma once
#include "context.h"

namespace sonde {

struct Planes {
  const uint16_t* high = nullptr;
  const uint16_t* low = nullptr;
  const float* scale = nullptr;    // [rows]: what results of the row are multiplied with; null: 1
  const int32_t* flags = nullptr;  // [rows]: not 0 where the planes do not stand for the row; null: none
  int64_t rows = 0, k = 0;
  int64_t pitch = 0;  // elements from one row to the next, a multiple of 8
  int64_t batch = 1;  // matrices, one after the other
};

enum class PlaneKind {
  split,     // high and low, scaled, float16
  half,      // high alone, scaled, float16
  bfloat16,  // rounded to bfloat16
  float16,   // rounded to float16, not scaled
};

__host__ __device__ constexpr int planes_of(PlaneKind kind) { return kind == PlaneKind::split ? 2 : 1; }
__host__ __device__ constexpr bool is_scaled(PlaneKind kind) {
  return kind == PlaneKind::split || kind == PlaneKind::half;
}

// Bytes of planes for batch x rows rows of k elements, with their scales and flags.
size_t planes_bytes(PlaneKind kind, int64_t batch, int64_t rows, int64_t k);
// Where the planes lie in `memory`.
Planes planes_in(void* memory, PlaneKind kind, int64_t batch, int64_t rows, int64_t k);
// Fills them from x [..., rows, k], any strides, any float dtype.
Status fill_planes(Context* context, const Planes& planes, PlaneKind kind, const View& x);

}  // namespace sonde
