// How a weight matrix [K, N] lies in GPU memory, twice: row after row, for kernels that gather rows or compute in plain float32; and
// column after column ("K-major", each column's K values side by side), as the tensor cores read it.
//
//   float32       [K][N] float32 | high [N][P] float16 | low [N][P] float16 | scale [N] float32 | flag [N] int32, any int32
//   16-bit floats [K][N] | [N][P], of the dtype
//
// P is K rounded up to 8 elements, the 16 bytes that an asynchronous copy moves at a time. High and low are the parts of a split
// operand (split_operand.cuh).
#pragma once
#include "context.h"

namespace sonde {

struct PackedLayout {
  int64_t k, n, pitch;
  size_t high, low, scale, flag, any, bytes;

  static PackedLayout of(int64_t k, int64_t n, DType dtype) {
    PackedLayout layout = {};
    layout.k = k;
    layout.n = n;
    layout.pitch = round_up(k, 8);
    const auto after = [](size_t at, int64_t bytes) { return size_t(round_up(int64_t(at) + bytes, 256)); };
    layout.high = after(0, k * n * dtype_size(dtype));
    layout.low = layout.scale = layout.flag = layout.any = layout.bytes = after(layout.high, n * layout.pitch * 2);
    if (dtype != DType::float32) return layout;
    layout.scale = after(layout.low, n * layout.pitch * 2);
    layout.flag = after(layout.scale, n * 4);
    layout.any = layout.flag + size_t(n) * 4;
    layout.bytes = after(layout.any, 4);
    return layout;
  }
};

int64_t packed_bytes(int64_t k, int64_t n, DType dtype);

}  // namespace sonde
