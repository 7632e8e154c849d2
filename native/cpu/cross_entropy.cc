// Computes the cross-entropy of each row of logits with a target, reading the row once.
#include "exp_sum.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status cross_entropy(Context* context, Out losses, In logits, In targets, In pad) {
  const int64_t n = last_dimension(logits), rows = element_count(losses), stride = last_stride(logits);
  const int64_t size = dtype_size(logits.dtype);
  const auto is_padding = [&](int64_t row) {
    return pad.data && static_cast<const uint8_t*>(pad.data)[leading_offset(pad, 0, row)];
  };
  const auto target_of = [&](int64_t row) {
    return static_cast<const int32_t*>(targets.data)[leading_offset(targets, 0, row)];
  };
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t target = target_of(row);
    if ((target < 0 || target >= n) && !is_padding(row)) {
      return fail("target %d at position %lld is outside [0, %lld)", target, static_cast<long long>(row),
                  static_cast<long long>(n));
    }
  }
  if (!reserve_rows(context, 1, kExpPart)) return out_of_memory("a part of a row");
  each_row(context, rows, n, [&](int64_t row, int thread) {
    float& loss = static_cast<float*>(losses.data)[row];
    loss = 0;
    if (is_padding(row)) return;
    const char* from = row_at(logits, row);
    ExpSum sum;
    for (int64_t i = 0; i < n; i += kExpPart) {
      const int64_t count = min64(kExpPart, n - i);
      const char* part = from + i * stride * size;
      sum.add(read_row(part, logits.dtype, stride, count, row_scratch(context, thread, 1, kExpPart, 0)), count);
    }
    float at_target;
    widen(&at_target, from + target_of(row) * stride * size, logits.dtype, 1);
    // an infinite logit makes the loss NaN, as it does in PyTorch
    loss = sum.top == INFINITY ? NAN : canonical(float(double(sum.top) - double(at_target) + log_of(sum.sum)));
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
