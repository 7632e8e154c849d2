#include "product.h"

namespace sonde {

Status unpack_weights(Context* context, Out b, Packed packed) {
  if (element_count(b) == 0) return {};
  In rows;
  static_cast<View&>(rows) = Right::of(packed).view;
  return copy(context, b, rows);
}

}  // namespace sonde
