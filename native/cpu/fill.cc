// Fills a tensor: the value is converted once and written to every element.
#include "elements.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status fill(Context* context, Out out, double value) {
  const int64_t size = dtype_size(out.dtype);
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
    const float single = canonical(float(value));
    narrow(element, &single, out.dtype, 1);
  }
  alignas(64) char line[4 * kPartLength];
  const int64_t length = min64(kPartLength, element_count(out));
  for (int64_t i = 0; i < length; ++i) memcpy(line + i * size, element, size_t(size));
  const auto body = [&](const Part<1>& part) {
    if (part.streamed) return stream(part.at[0], line, part.count * size);
    if (part.stride[0] == 1) {
      memcpy(part.at[0], line, size_t(part.count * size));
      return;
    }
    for (int64_t i = 0; i < part.count; ++i) memcpy(part.at[0] + i * part.stride[0] * size, element, size_t(size));
  };
  return each_part(context, Order::of_memory, body, out);
}

}  // namespace sonde::SONDE_ISA
