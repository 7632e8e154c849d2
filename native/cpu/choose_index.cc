// Chooses an index from each row, by random numbers from probabilities, or the largest of logits.
#include "extremes.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// -1: there is none to choose. The differences are taken one after the other, as what is left decides at each of them.
int64_t drawn(const float* probs, int64_t n, double left) {
  if (probs[0] != probs[0]) return -1;
  for (int64_t i = 0; i < n; ++i) {
    left -= double(probs[i]);
    if (left < 0) return i;
  }
  // by rounding, they sum to less than 1
  int64_t last = n - 1;
  while (last > 0 && probs[last] == 0) --last;
  return last;
}

int64_t greediest(const float* logits, int64_t n) {
  if (has_nan(logits, n)) return -1;
  const float largest = max_row(logits, n);
  if (largest == INFINITY || largest == -INFINITY) return -1;
  int64_t i = 0;
  while (logits[i] != largest) ++i;  // zeros of both signs are equal here
  return i;
}

}  // namespace

Status choose_index(Context* context, Out out, In x, In random) {
  const int64_t rows = x.shape[0], n = x.shape[1];
  auto* to = static_cast<int32_t*>(out.data);
  const auto* words = static_cast<const int32_t*>(random.data);
  each_row(context, rows, n, [&](int64_t row, int) {
    const float* from = static_cast<const float*>(x.data) + row * x.stride[0];
    const int64_t index = words
                              ? drawn(from, n, (double(words[2 * row]) * 0x1p26 + double(words[2 * row + 1])) * 0x1p-53)
                              : greediest(from, n);
    to[row] = index < 0 ? 0 : int32_t(index);
    to[rows + row] = index >= 0;
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
