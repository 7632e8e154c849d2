// The choice of a kernel and its operands, for any epilogue.
#pragma once
#include "packed.h"
#include "product.h"
#include "product_hopper.cuh"
#include "product_simt.cuh"

namespace sonde {

struct Recipe {
  bool simt;
  PlaneKind kind;
};

inline Recipe recipe_for(const Context* context, DType a, DType b, Precision precision) {
  if (precision == Precision::strict) return {true, PlaneKind::split};
  if (a == b && a == DType::bfloat16) return {false, PlaneKind::bfloat16};
  if (a == b && a == DType::float16) return {false, PlaneKind::float16};
  if (precision == Precision::bf16) return {false, PlaneKind::bfloat16};
  if (precision == Precision::tf32) return {false, PlaneKind::half};
  // elsewhere three half-precision products take longer than float32's own arithmetic
  const bool fast = context->capability == 80 || context->capability == 90;
  return {!fast, PlaneKind::split};
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

// A single matrix of 16-bit floats that the copies in the background can read where it is.
inline bool readable_in_place(const View& x, PlaneKind kind) {
  const DType dtype = kind == PlaneKind::bfloat16 ? DType::bfloat16 : DType::float16;
  if (is_scaled(kind) || x.dtype != dtype || row_count(x) != x.shape[x.rank - 2]) return false;
  const int64_t pitch = x.stride[x.rank - 2];
  return x.stride[x.rank - 1] == 1 && pitch >= x.shape[x.rank - 1] && pitch % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

// x [..., rows, k] as planes, where it is or in scratch memory; null `high` when there is no memory left.
inline Planes planes_of_rows(Context* context, ScratchSlot slot, PlaneKind kind, const View& x, Status* status) {
  const int64_t rows = x.shape[x.rank - 2], k = x.shape[x.rank - 1];
  if (readable_in_place(x, kind)) {
    Planes planes;
    planes.high = static_cast<const uint16_t*>(x.data);
    planes.rows = rows;
    planes.k = k;
    planes.pitch = x.stride[x.rank - 2];
    return planes;
  }
  const int64_t batch = element_count(x) / (rows * k);
  const size_t bytes = planes_bytes(kind, batch, rows, k);
  void* memory = scratch(context, slot, bytes);
  if (!memory) {
    *status = no_scratch(context, bytes);
    return {};
  }
  const Planes planes = planes_in(memory, kind, batch, rows, k);
  *status = fill_planes(context, planes, kind, x);
  return planes;
}

inline Planes planes_of_packed(const Packed& packed, PlaneKind kind) {
  const PackedLayout layout = PackedLayout::of(packed.shape[0], packed.shape[1], packed.dtype);
  const char* base = static_cast<const char*>(packed.data);
  Planes planes;
  planes.high = reinterpret_cast<const uint16_t*>(base + layout.high);
  if (is_scaled(kind)) {
    planes.low = reinterpret_cast<const uint16_t*>(base + layout.low);
    planes.scale = reinterpret_cast<const float*>(base + layout.scale);
    planes.flags = reinterpret_cast<const int32_t*>(base + layout.flag);
  }
  planes.rows = layout.n;
  planes.k = layout.k;
  planes.pitch = layout.pitch;
  return planes;
}

inline Planes right_planes(Context* context, const Right& right, PlaneKind kind, Status* status) {
  const DType dtype = right.view.dtype;
  const bool packed =
      right.packed &&
      (dtype == DType::float32 ? is_scaled(kind)
                               : kind == (dtype == DType::bfloat16 ? PlaneKind::bfloat16 : PlaneKind::float16));
  Planes planes = packed ? planes_of_packed(*right.packed, kind)
                         : planes_of_rows(context, kRightPlanes, kind, transposed(right.view), status);
  if (right.columns == planes.rows) return planes;
  planes.high += right.first_column * planes.pitch;
  if (planes.low) planes.low += right.first_column * planes.pitch;
  if (planes.scale) planes.scale += right.first_column;
  if (planes.flags) planes.flags += right.first_column;
  planes.rows = right.columns;
  return planes;
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
Status launch_product(Context* context, const Planes& a, const Planes& b, const Scaling& scaling,
                      const Epilogue& epilogue) {
  if (context->capability == 90 && a.batch == 1) {
    return launch_hopper<kSplit, kF16, Scaling, Epilogue>(context, a, b, scaling, epilogue);
  }
  return launch_mma<kSplit, kF16, Scaling, Epilogue>(context, a, b, scaling, epilogue);
}

template <class Epilogue>
Status multiply_with(Context* context, const View& a, const Right& right, Precision precision,
                     const Epilogue& epilogue) {
  const int64_t m = a.shape[a.rank - 2], k = a.shape[a.rank - 1], n = right.columns;
  if (m == 0 || n == 0 || (k > 0 && element_count(a) == 0)) return {};
  View b = right.view;
  b.shape[b.rank - 1] = n;
  b.data = static_cast<char*>(b.data) + right.first_column * b.stride[b.rank - 1] * dtype_size(b.dtype);
  const Recipe recipe = recipe_for(context, a.dtype, b.dtype, precision);
  if (recipe.simt || k == 0) return launch_simt<false>(context, a, b, m, n, k, {}, epilogue);
  Status status;
  const Planes left = planes_of_rows(context, kLeftPlanes, recipe.kind, a, &status);
  if (status.failed()) return status;
  const Planes planes = right_planes(context, right, recipe.kind, &status);
  if (status.failed()) return status;
  const Scales scales = Scales::of(left, planes);
  switch (recipe.kind) {
    case PlaneKind::bfloat16: return launch_product<false, false>(context, left, planes, NoScales(), epilogue);
    case PlaneKind::float16: return launch_product<false, true>(context, left, planes, NoScales(), epilogue);
    case PlaneKind::half: status = launch_product<false, true>(context, left, planes, scales, epilogue); break;
    case PlaneKind::split: status = launch_product<true, true>(context, left, planes, scales, epilogue); break;
  }
  if (status.failed()) return status;
  return launch_simt<true>(context, a, b, m, n, k, scales, epilogue);
}

}  // namespace sonde
