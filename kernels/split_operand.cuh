// Operands of the tensor cores: matrices of 16-bit floats whose rows hold their K values side by side. A float32 matrix is split into
// two such matrices, its high and its low part; other dtypes and precisions need the high part alone.
//
// float32 by half-precision products (Ootomo and Yokota, arXiv 2203.03341): elements are scaled by powers of two so that the
// largest is in [2^13, 2^14), and x = high + low / 2048 with 11 bits each. Three products, high high + (high low + low high) / 2048,
// are then as accurate as float32's own: the error is below 2^-22 of each product and 2^-49 of that of the largest elements.
//
// The left operand of kind `split` has a power for each row and chunk of 64 k, which a product applies to each chunk's sum, so that
// whoever writes a chunk (split(), or the operation whose result it is) needs to see nothing else of its row, and writes the same bits.
// A chunk whose elements are all below 2^-113 is scaled by 2^126, which loses no bit. Sums of such chunks may lie at the end of
// float32's range, where they lose up to 2^-163 of the column's largest element: 2^-14 of the distance between two such small
// numbers. Right operands, and all others with scales, have one power for each row (a column of the product), which the epilogue
// applies.
//
// Rows that no power represents are flagged, and computed in plain float32 instead: those with an element that is infinite, NaN or at
// least 2^74, and, where the whole row has one power, those whose elements are all below 2^-47 and not all 0. What is written for the
// elements of a chunk, or row, without a power is zero.
#pragma once
#include "context.h"

namespace sonde {

constexpr int kSplitChunk = 64;

struct SplitOperand {
  const uint16_t* high = nullptr;
  const uint16_t* low = nullptr;   // only read where the kind is `split`
  const float* scale = nullptr;    // [batch rows][chunks]: the factors of results; null: 1
  const int32_t* flags = nullptr;  // [batch rows]: not 0 where the operand does not represent the row; null: none
  const int32_t* any = nullptr;    // one: not 0 where a row is flagged
  int64_t rows = 0, k = 0;
  int64_t pitch = 0;       // elements from one row to the next, a multiple of 8
  int64_t batch = 1;       // matrices, one after the other
  int64_t chunks = 1;      // scales of a row
  bool in_chunks = false;  // a scale for each 64 k
};

enum class OperandKind {
  split,      // high and low, scaled, float16
  high_only,  // high alone, scaled, float16
  bfloat16,   // rounded to bfloat16
  float16,    // rounded to float16, not scaled
};

__host__ __device__ constexpr int part_count(OperandKind kind) { return kind == OperandKind::split ? 2 : 1; }
__host__ __device__ constexpr bool is_scaled(OperandKind kind) {
  return kind == OperandKind::split || kind == OperandKind::high_only;
}

enum class OperandSide { left, right };

// Bytes of the parts of batch x rows rows of k elements, with their scales and flags.
size_t split_operand_bytes(OperandKind kind, OperandSide side, int64_t batch, int64_t rows, int64_t k);
// The operand that `memory`, of so many bytes and aligned for 64, holds once split() has written it.
SplitOperand split_operand_in(void* memory, OperandKind kind, OperandSide side, int64_t batch, int64_t rows, int64_t k);
// Writes the operand's parts, scales and flags from x [..., rows, k], any strides, any float dtype.
Status split(Context* context, const SplitOperand& operand, OperandKind kind, const View& x);

// No row is flagged: before the chunks of an operand are written, which flag rows.
Status clear_flags(Context* context, const SplitOperand& operand);

// ---- "planes": the left operand of a product of float32, written by the operation whose result [rows, k] it is

// Whether products of float32 are three of half precision on this GPU. On others these take longer than float32's own arithmetic.
inline bool splits_float32(const Context* context) { return context->capability == 80 || context->capability == 90; }
// Bytes of planes; 0 where products do not read any.
int64_t planes_bytes(Context* context, int64_t rows, int64_t k, DType dtype);
SplitOperand planes_in(const View& memory, int64_t rows, int64_t k);
// Writes the planes of x by a pass of its own: [rows, k], or contiguous with as many elements.
Status write_planes(Context* context, const View& memory, const View& x, int64_t rows, int64_t k);
// Writes them again where one of the two words is not 0, those of a product's operands: its repair has written into x. Ends at once
// where none is.
Status rewrite_planes(Context* context, const View& memory, const View& x, int64_t rows, int64_t k,
                      const int32_t* any_a, const int32_t* any_b);

// ---- for kernels that write operands

constexpr float kLowScale = 2048;

// 2^s that brings `largest` to [2^13, 2^14), or for chunks as near as 2^126 does; 0 where no power represents the elements
template <bool kInChunks>
SONDE_DEVICE float factor_for(float largest) {
  if (largest == 0) return 1;
  constexpr int kMost = kInChunks ? 126 : 60;
  const int exponent = int(__float_as_uint(largest) >> 23 & 255) - 127;
  const int s = kInChunks && exponent < 13 - kMost ? kMost : 13 - exponent;
  return s >= -60 && s <= kMost ? __int_as_float((127 + s) << 23) : 0.0f;
}

// the factor that undoes it; both are powers of two, or 0
SONDE_DEVICE float undone(float factor) {
  return factor == 0 ? 0.0f : __int_as_float((254 << 23) - __float_as_int(factor));
}

// the largest magnitude, or NaN
SONDE_DEVICE float larger(float a, float x) { return max_or_nan(a, fabsf(x)); }

template <OperandKind kind>
SONDE_DEVICE void split_element(float x, float factor, uint16_t& high, uint16_t& low) {
  low = 0;
  if constexpr (kind == OperandKind::bfloat16) {
    high = float_to_bf16(x);
  } else if constexpr (kind == OperandKind::float16) {
    high = float_to_half(x);
  } else {
    const float scaled = factor == 0 ? 0.0f : x * factor;
    high = float_to_half(scaled);
    if constexpr (kind == OperandKind::split) low = float_to_half((scaled - half_to_float(high)) * kLowScale);
  }
}

// two of kind `split` at once, the same bits, the first in the lower half
SONDE_DEVICE void split_pair(float first, float second, float factor, uint32_t& high, uint32_t& low) {
  const float x = factor == 0 ? 0.0f : first * factor, y = factor == 0 ? 0.0f : second * factor;
  high = pair_half(x, y);
  low =
      pair_half((x - half_to_float(uint16_t(high))) * kLowScale, (y - half_to_float(uint16_t(high >> 16))) * kLowScale);
}

SONDE_DEVICE uint32_t joined(uint16_t first, uint16_t second) { return uint32_t(first) | uint32_t(second) << 16; }

SONDE_DEVICE void put4(uint16_t* to, const uint16_t (&x)[4]) {
  uint2 four;
  four.x = joined(x[0], x[1]);
  four.y = joined(x[2], x[3]);
  *reinterpret_cast<uint2*>(to) = four;
}

// The four lanes of a quad have four words each: lane i gets the i-th word of each of them.
SONDE_DEVICE void transpose_in_quad(uint32_t (&w)[4]) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool odd = (threadIdx.x & unsigned(step)) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w[i] : w[i + step], step);
      if (odd) w[i] = other;
      else w[i + step] = other;
    }
  }
}

// Lanes of a warp that take a chunk, four elements each.
constexpr int kChunkLanes = kSplitChunk / 4;

// Where kernels write an operand; most of them, the left one of kind `split`. Where there are flags, clear_flags() comes before them.
struct Planes {
  uint16_t *high, *low;
  float* scale;
  int32_t *flags, *any;
  int64_t k, pitch, chunks;

  static Planes of(const SplitOperand& operand) {
    return {const_cast<uint16_t*>(operand.high),
            const_cast<uint16_t*>(operand.low),
            const_cast<float*>(operand.scale),
            const_cast<int32_t*>(operand.flags),
            const_cast<int32_t*>(operand.any),
            operand.k,
            operand.pitch,
            operand.chunks};
  }

  // by one thread for each scale; with one for a whole row, that is chunk 0
  SONDE_DEVICE void put_scale(int64_t row, int64_t chunk, float factor) const {
    scale[row * chunks + chunk] = undone(factor);
    if (factor != 0) return;
    atomicExch(flags + row, 1);
    atomicExch(any, 1);
  }

  // Elements j to j + 3 of a row from each lane, kChunkLanes neighbours from a multiple of kChunkLanes on being those of a chunk,
  // zeros from k on. All lanes of a warp call it together; those with `inside` write.
  SONDE_DEVICE void quarters(int64_t row, int64_t j, const float (&v)[4], bool inside) const {
    float largest = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) largest = larger(largest, v[e]);
#pragma unroll
    for (int step = kChunkLanes / 2; step > 0; step /= 2) {
      largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    }
    if (!inside) return;
    const float factor = factor_for<true>(largest);
    if (threadIdx.x % kChunkLanes == 0) put_scale(row, j / kSplitChunk, factor);
    if (j >= pitch) return;
    uint16_t h[4], l[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) split_element<OperandKind::split>(v[e], factor, h[e], l[e]);
    put4(high + row * pitch + j, h);
    put4(low + row * pitch + j, l);
  }

  // A whole chunk, `chunk`, of 16 rows from row0 on, as the tensor cores leave it: value(j, g, h) is the element of row lane / 4 + 8 g
  // and column lane % 4 * 2 + 8 j + h, j < 8. Rows from `end` on are not written. All lanes of a warp call it together, and are
  // together again when it returns.
  template <class Value>
  SONDE_DEVICE void fragment(int64_t row0, int64_t chunk, int64_t end, Value value) const {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int64_t row = row0 + lane / 4 + 8 * g;
      float largest = 0;
#pragma unroll
      for (int i = 0; i < 16; ++i) largest = larger(largest, value(i / 2, g, i % 2));
#pragma unroll
      for (int step = 1; step <= 2; step *= 2) {
        largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, step));
      }
      const float factor = factor_for<true>(largest);
      if (lane % 4 == 0 && row < end) put_scale(row, chunk, factor);
      __syncwarp();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // lane i of a quad writes eight columns, those of the i-th j of this half
        uint32_t h[4], l[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          split_pair(value(half * 4 + j, g, 0), value(half * 4 + j, g, 1), factor, h[j], l[j]);
        }
        transpose_in_quad(h);
        transpose_in_quad(l);
        const int64_t at = row * pitch + chunk * kSplitChunk + half * 32 + lane % 4 * 8;
        store_global16_if(high + at, make_uint4(h[0], h[1], h[2], h[3]), row < end);
        store_global16_if(low + at, make_uint4(l[0], l[1], l[2], l[3]), row < end);
      }
    }
    __syncwarp();
  }
};

}  // namespace sonde
