// Computes the cross-entropy of each row of logits with a target, reading the row once, and its gradient, which reads it
// twice, the second time from the cache.
#include "exp_sum.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// Rows of logits with their targets.
struct Predictions {
  const View &logits, &targets, &pad;
  int64_t n = last_dimension(logits), rows = row_count(logits);

  bool is_padding(int64_t row) const {
    return pad.data && static_cast<const uint8_t*>(pad.data)[leading_offset(pad, 0, row)];
  }
  int64_t target(int64_t row) const {
    return static_cast<const int32_t*>(targets.data)[leading_offset(targets, 0, row)];
  }
  Status check() const {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t at = target(row);
      if ((at < 0 || at >= n) && !is_padding(row)) {
        return fail("target %lld at position %lld is outside [0, %lld)", static_cast<long long>(at),
                    static_cast<long long>(row), static_cast<long long>(n));
      }
    }
    return {};
  }
  // kExpPart elements of a row or fewer, from i on
  const float* part(int64_t row, int64_t i, int64_t count, float* scratch) const {
    const int64_t stride = last_stride(logits);
    return read_row(row_at(logits, row) + i * stride * dtype_size(logits.dtype), logits.dtype, stride, count, scratch);
  }
  ExpSum sum(int64_t row, float* scratch) const {
    ExpSum sum;
    for (int64_t i = 0; i < n; i += kExpPart) {
      const int64_t count = min64(kExpPart, n - i);
      sum.add(part(row, i, count, scratch), count);
    }
    return sum;
  }
  float at_target(int64_t row) const {
    float logit;
    widen(&logit, row_at(logits, row) + target(row) * last_stride(logits) * dtype_size(logits.dtype), logits.dtype, 1);
    return logit;
  }
};

}  // namespace

Status cross_entropy(Context* context, Out losses, In logits, In targets, In pad) {
  const Predictions given{logits, targets, pad};
  const Status status = given.check();
  if (status.failed()) return status;
  if (!reserve_rows(context, 1, kExpPart)) return out_of_memory("a part of a row");
  each_row(context, given.rows, given.n, [&](int64_t row, int thread) {
    float& loss = static_cast<float*>(losses.data)[row];
    loss = 0;
    if (given.is_padding(row)) return;
    const ExpSum sum = given.sum(row, row_scratch(context, thread, 1, kExpPart, 0));
    // an infinite logit makes the loss NaN, as it does in PyTorch
    const double loss_at = double(sum.top) - double(given.at_target(row)) + log_of(sum.sum);
    loss = sum.top == INFINITY ? NAN : canonical(float(loss_at));
  });
  return {};
}

Status cross_entropy_backward(Context* context, Out out, In g, In logits, In targets, In pad) {
  const Predictions given{logits, targets, pad};
  const Status status = given.check();
  if (status.failed()) return status;
  if (!reserve_rows(context, 1, kExpPart)) return out_of_memory("a part of a row");
  const int64_t n = given.n;
  each_row(context, given.rows, n, [&](int64_t row, int thread) {
    float* to = static_cast<float*>(out.data) + row * n;
    if (given.is_padding(row)) {
      memset(to, 0, size_t(n) * 4);
      return;
    }
    const float at_target = given.at_target(row);  // read first, as out may be logits
    float* scratch = row_scratch(context, thread, 1, kExpPart, 0);
    const ExpSum sum = given.sum(row, scratch);
    const float top = sum.top, of_loss = static_cast<const float*>(g.data)[leading_offset(g, 0, row)];
    const bool finite = top - top == 0;
    const float factor = finite ? float(double(of_loss) / sum.sum) : NAN;
    for (int64_t i = 0; i < n; i += kExpPart) {
      const int64_t count = min64(kExpPart, n - i);
      map_row(to + i, given.part(row, i, count, scratch), count, [=](vf x) { return exp(x - top) * factor; });
    }
    // there the probability is close to 1 where the prediction is good
    const double power = double(exp(broadcast(at_target - top))[0]);
    if (finite) to[given.target(row)] = canonical(float((power / sum.sum - 1) * double(of_loss)));
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
