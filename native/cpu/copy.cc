// Copies and converts between any strides.
#include "../integers.h"
#include "moves.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// Whether float32 in between loses nothing: int32 to int32 or bool would lose digits.
bool exact(DType from, DType to) { return from != DType::int32 || (to != DType::int32 && to != DType::boolean); }

bool is_float(DType dtype) { return dtype != DType::int32 && dtype != DType::boolean; }

// Returns the index of the first of n floats that int32 does not hold, or -1.
int64_t outside_int32(const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const vf v = load(x + i);
    if (not_at_most_bits(broadcast(-2147483648.0f), v) || not_at_most_bits(v, broadcast(2147483520.0f))) break;
  }
  while (i < n && x[i] >= -2147483648.0f && x[i] < 2147483648.0f) ++i;
  return i < n ? i : -1;
}

void copy_bits(const Part<2>& part, int64_t size) {
  if (part.streamed && part.stride[1] == 1) return stream(part.at[0], part.at[1], part.count * size);
  with_bits(size, [&](auto bits) {
    using T = decltype(bits);
    move(reinterpret_cast<T*>(part.at[0]), reinterpret_cast<const T*>(part.at[1]), part.count, part.stride[0],
         part.stride[1]);
  });
}

void integers_to_bools(const Part<2>& part) {
  const auto* from = reinterpret_cast<const int32_t*>(part.at[1]);
  for (int64_t i = 0; i < part.count; ++i) part.at[0][i * part.stride[0]] = from[i * part.stride[1]] != 0;
}

}  // namespace

Status copy(Context* context, Out out, In x) {
  const bool alike = out.dtype == x.dtype, truncates = out.dtype == DType::int32 && is_float(x.dtype);
  Failures failures;
  const auto body = [&](const Part<2>& part) {
    if (alike) return copy_bits(part, dtype_size(x.dtype));
    if (!exact(x.dtype, out.dtype)) return integers_to_bools(part);
    const float* row = part.read(1);
    part.write(row);
    const int64_t bad = truncates ? outside_int32(row, part.count) : -1;
    if (bad >= 0) failures.at(part.first + bad);
  };
  const Status status = each_part(context, truncates ? Order::row_major : Order::of_memory, body, out, x);
  if (status.failed() || !failures.any()) return status;
  float wide;
  const char* from = static_cast<const char*>(x.data) + leading_offset(x, 0, failures.first()) * dtype_size(x.dtype);
  return not_int32(failures.first(), *read_row(from, x.dtype, 1, 1, &wide));
}

}  // namespace sonde::SONDE_ISA
