// The value is converted once and written to every element.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status fill(Context* context, Out out, double value) {
  const int64_t size = dtype_size(out.dtype), n = last_dimension(out), stride = last_stride(out);
  if (element_count(out) == 0) return {};
  char element[4];
  if (out.dtype == DType::int32) {
    const int32_t whole = value != value           ? 0
                          : value >= 2147483647.0  ? INT32_MAX
                          : value <= -2147483648.0 ? INT32_MIN
                                                   : int32_t(value);
    memcpy(element, &whole, 4);
  } else if (out.dtype == DType::boolean) {
    element[0] = value != 0;
  } else {
    const float single = float(value);
    narrow(element, &single, out.dtype, 1);
  }
  each_row(context, row_count(out), n, [&](int64_t row, int) {
    char* to = row_at(out, row);
    for (int64_t i = 0; i < n; ++i) memcpy(to + i * stride * size, element, size_t(size));
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
