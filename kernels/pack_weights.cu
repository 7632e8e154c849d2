// Stores b [K, N] row after row, and column after column for the tensor cores; and brings it back. See packed.h for the layout.
#include "packed.h"
#include "product.cuh"
#include "split_operand.cuh"

namespace sonde {

int64_t packed_bytes(int64_t k, int64_t n, DType dtype) { return int64_t(PackedLayout::of(k, n, dtype).bytes); }

Status pack_weights(Context* context, PackedOut packed, In b) {
  if (packed.shape[0] == 0 || packed.shape[1] == 0) return {};
  Packed done;
  static_cast<View&>(done) = packed;
  const OperandKind kind = packed.dtype == DType::float32    ? OperandKind::split
                           : packed.dtype == DType::bfloat16 ? OperandKind::bfloat16
                                                             : OperandKind::float16;
  Out rows;
  static_cast<View&>(rows) = Right::of(done).view;
  const Status status = copy(context, rows, b);
  if (status.failed()) return status;
  // from the stored values, so that no value is rounded twice
  return split(context, operand_of_packed(done, kind), kind, transposed(rows));
}

Status unpack_weights(Context* context, Out b, Packed packed) {
  if (element_count(b) == 0) return {};
  In rows;
  static_cast<View&>(rows) = Right::of(packed).view;
  return copy(context, b, rows);
}

}  // namespace sonde
