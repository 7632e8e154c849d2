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

// A product whose kernel is chosen.
struct Product {
  View a, b;  // [..., m, k], [..., k, n]
  int64_t m, n, k;
  Recipe recipe;
  SplitOperand left, right;  // unless recipe.simt

  // nothing to compute
  bool is_empty() const { return m == 0 || n == 0 || (k > 0 && element_count(a) == 0); }
};

inline Status prepare(Product* product, Context* context, const View& a, const View& a_planes, const Right& right,
                      Precision precision) {
  product->a = a;
  product->b = right.view;
  View& b = product->b;
  product->m = a.shape[a.rank - 2];
  product->n = b.shape[b.rank - 1] = right.columns;
  product->k = a.shape[a.rank - 1];
  b.data = static_cast<char*>(b.data) + right.first_column * b.stride[b.rank - 1] * dtype_size(b.dtype);
  product->recipe = recipe_for(context, a.dtype, b.dtype, precision);
  product->recipe.simt |= product->k == 0;
  Status status;
  if (product->recipe.simt || product->is_empty()) return status;
  product->left = product->recipe.kind == OperandKind::split && a_planes.data
                      ? planes_in(a_planes, product->m, product->k)
                      : operand_of_rows(context, OperandSide::left, product->recipe.kind, a, &status);
  if (status.failed()) return status;
  product->right = operand_of_right(context, right, product->recipe.kind, &status);
  return status;
}

template <class Epilogue>
Status launch_plain(Context* context, const Product& product, const Epilogue& epilogue) {
  return launch_simt<false>(context, product.a, product.b, product.m, product.n, product.k, {}, epilogue);
}

// On the tensor cores; what the operands do not represent, in plain float32 afterwards.
template <OperandKind kind, class Epilogue>
Status launch_tensor(Context* context, const Product& product, const Epilogue& epilogue) {
  constexpr bool kSplit = kind == OperandKind::split, kF16 = kind != OperandKind::bfloat16;
  const SplitOperand &left = product.left, &right = product.right;
  if constexpr (!is_scaled(kind)) {
    return launch_product<kSplit, kF16>(context, left, right, NoScales(), epilogue);
  } else {
    const auto scales = Scales<!kSplit>::of(left, right);
    const Status status = launch_product<kSplit, kF16>(context, left, right, scales, epilogue);
    if (status.failed()) return status;
    const Flagged flagged = {left.flags, right.flags, left.any, right.any};
    return launch_simt<true>(context, product.a, product.b, product.m, product.n, product.k, flagged, epilogue);
  }
}

}  // namespace sonde
