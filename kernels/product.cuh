// Chooses a product's kernel and prepares its operands, for any epilogue.
#pragma once
#include "packed.h"
#include "product.h"
#include "product_hopper.cuh"
#include "product_simt.cuh"

namespace sonde {

struct Recipe {
  bool simt;
  OperandKind kind;
};

inline Recipe recipe_for(const Context* context, DType a, DType b, Precision precision) {
  if (precision == Precision::strict) return {true, OperandKind::split};
  if (a == b && a == DType::bfloat16) return {false, OperandKind::bfloat16};
  if (a == b && a == DType::float16) return {false, OperandKind::float16};
  if (precision == Precision::bf16) return {false, OperandKind::bfloat16};
  if (precision == Precision::tf32) return {false, OperandKind::high_only};
  return {!splits_float32(context), OperandKind::split};
}

inline View transposed(const View& x) {
  View out = x;
  const int r = x.rank - 1, c = x.rank - 2;
  out.shape[r] = x.shape[c];
  out.stride[r] = x.stride[c];
  out.shape[c] = x.shape[r];
  out.stride[c] = x.stride[r];
  return out;
}

// Whether x is a single matrix of 16-bit floats that asynchronous copies can read in place.
inline bool readable_in_place(const View& x, OperandKind kind) {
  const DType dtype = kind == OperandKind::bfloat16 ? DType::bfloat16 : DType::float16;
  if (is_scaled(kind) || x.dtype != dtype || row_count(x) != x.shape[x.rank - 2]) return false;
  const int64_t pitch = x.stride[x.rank - 2];
  return x.stride[x.rank - 1] == 1 && pitch >= x.shape[x.rank - 1] && pitch % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

// x [..., rows, k] as an operand, in place or in scratch memory. `high` is null when there is no memory left.
inline SplitOperand operand_of_rows(Context* context, OperandSide side, OperandKind kind, const View& x,
                                    Status* status) {
  const int64_t rows = x.shape[x.rank - 2], k = x.shape[x.rank - 1];
  if (readable_in_place(x, kind)) {
    SplitOperand operand;
    operand.high = static_cast<const uint16_t*>(x.data);
    operand.rows = rows;
    operand.k = k;
    operand.pitch = x.stride[x.rank - 2];
    return operand;
  }
  const int64_t batch = element_count(x) / (rows * k);
  const size_t bytes = split_operand_bytes(kind, side, batch, rows, k);
  void* memory = scratch(context, side == OperandSide::left ? kLeftOperand : kRightOperand, bytes);
  if (!memory) {
    *status = no_scratch(context, bytes);
    return {};
  }
  const SplitOperand operand = split_operand_in(memory, kind, side, batch, rows, k);
  *status = split(context, operand, kind, x);
  return operand;
}

inline SplitOperand operand_of_packed(const Packed& packed, OperandKind kind) {
  const PackedLayout layout = PackedLayout::of(packed.shape[0], packed.shape[1], packed.dtype);
  const char* base = static_cast<const char*>(packed.data);
  SplitOperand operand;
  operand.high = reinterpret_cast<const uint16_t*>(base + layout.high);
  if (is_scaled(kind)) {
    operand.low = reinterpret_cast<const uint16_t*>(base + layout.low);
    operand.scale = reinterpret_cast<const float*>(base + layout.scale);
    operand.flags = reinterpret_cast<const int32_t*>(base + layout.flag);
    operand.any = reinterpret_cast<const int32_t*>(base + layout.any);
  }
  operand.rows = layout.n;
  operand.k = layout.k;
  operand.pitch = layout.pitch;
  return operand;
}

inline SplitOperand operand_of_right(Context* context, const Right& right, OperandKind kind, Status* status) {
  const DType dtype = right.view.dtype;
  const bool packed =
      right.packed &&
      (dtype == DType::float32 ? is_scaled(kind)
                               : kind == (dtype == DType::bfloat16 ? OperandKind::bfloat16 : OperandKind::float16));
  SplitOperand operand = packed ? operand_of_packed(*right.packed, kind)
                                : operand_of_rows(context, OperandSide::right, kind, transposed(right.view), status);
  if (right.columns == operand.rows) return operand;
  operand.high += right.first_column * operand.pitch;
  if (operand.low) operand.low += right.first_column * operand.pitch;
  if (operand.scale) operand.scale += right.first_column;
  if (operand.flags) operand.flags += right.first_column;
  operand.rows = right.columns;
  return operand;
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
Status launch_product(Context* context, const SplitOperand& a, const SplitOperand& b, const Scaling& scaling,
                      const Epilogue& epilogue) {
  if (context->capability == 90 && a.batch == 1) {
    return launch_hopper<kSplit, kF16, Scaling, Epilogue>(context, a, b, scaling, epilogue);
  }
  return launch_mma<kSplit, kF16, Scaling, Epilogue>(context, a, b, scaling, epilogue);
}

template <class Epilogue>
Status multiply_with(Context* context, const View& a, const View& a_planes, const Right& right, Precision precision,
                     const Epilogue& epilogue) {
  const int64_t m = a.shape[a.rank - 2], k = a.shape[a.rank - 1], n = right.columns;
  if (m == 0 || n == 0 || (k > 0 && element_count(a) == 0)) return {};
  View b = right.view;
  b.shape[b.rank - 1] = n;
  b.data = static_cast<char*>(b.data) + right.first_column * b.stride[b.rank - 1] * dtype_size(b.dtype);
  const Recipe recipe = recipe_for(context, a.dtype, b.dtype, precision);
  if (recipe.simt || k == 0) return launch_simt<false>(context, a, b, m, n, k, {}, epilogue);
  Status status;
  const SplitOperand left_operand = recipe.kind == OperandKind::split && a_planes.data
                                        ? planes_in(a_planes, m, k)
                                        : operand_of_rows(context, OperandSide::left, recipe.kind, a, &status);
  if (status.failed()) return status;
  const SplitOperand right_operand = operand_of_right(context, right, recipe.kind, &status);
  if (status.failed()) return status;
  const Scales scales = Scales::of(left_operand, right_operand);
  switch (recipe.kind) {
    case OperandKind::bfloat16:
      return launch_product<false, false>(context, left_operand, right_operand, NoScales(), epilogue);
    case OperandKind::float16:
      return launch_product<false, true>(context, left_operand, right_operand, NoScales(), epilogue);
    case OperandKind::high_only:
      status = launch_product<false, true>(context, left_operand, right_operand, scales, epilogue);
      break;
    case OperandKind::split:
      status = launch_product<true, true>(context, left_operand, right_operand, scales, epilogue);
      break;
  }
  if (status.failed()) return status;
  return launch_simt<true>(context, a, b, m, n, k, scales, epilogue);
}

}  // namespace sonde
