// Operands of the tensor cores: matrices of 16-bit floats whose rows hold their K values side by side. A float32 matrix is split into
// two such matrices, its high and its low part; other dtypes and precisions need the high part alone.
//
// float32 by half-precision products (Ootomo and Yokota, arXiv 2203.03341): each row is scaled by a power of two so that its
// largest element is in [2^13, 2^14), and x = high + low / 2048 with 11 bits each. Three products, high high + (high low +
// low high) / 2048, are then as accurate as float32's own: the error is below 2^-22 of each product and 2^-49 of the row's
// largest element. Rows that cannot be scaled so are flagged, left zero, and computed in plain float32 instead: those with an
// element that is infinite, NaN or at least 2^74, and those, except for rows of zeros, whose elements are all below 2^-47.
#pragma once
#include "context.h"

namespace sonde {

struct SplitOperand {
  const uint16_t* high = nullptr;
  const uint16_t* low = nullptr;   // only read where the kind is `split`
  const float* scale = nullptr;    // [rows]: the factor of the row's results; null: 1
  const int32_t* flags = nullptr;  // [rows]: not 0 where the operand does not represent the row; null: none
  int64_t rows = 0, k = 0;
  int64_t pitch = 0;  // elements from one row to the next, a multiple of 8
  int64_t batch = 1;  // matrices, one after the other
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

// Bytes of the parts of batch x rows rows of k elements, with their scales and flags.
size_t split_operand_bytes(OperandKind kind, int64_t batch, int64_t rows, int64_t k);
// The operand that `memory`, of so many bytes, holds once split() has written it.
SplitOperand split_operand_in(void* memory, OperandKind kind, int64_t batch, int64_t rows, int64_t k);
// Writes the operand's parts, scales and flags from x [..., rows, k], any strides, any float dtype.
Status split(Context* context, const SplitOperand& operand, OperandKind kind, const View& x);

}  // namespace sonde
