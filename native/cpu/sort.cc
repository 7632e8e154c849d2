// Sorts rows: long ones digit by digit (LSD radix sort, which is stable), short ones by insertion.
#include "moves.h"
#include "operations.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kShort = 40;  // elements, up to which insertion is faster
constexpr int kDigit = 256;

// Puts the best candidates first. Candidates differ, as their indices do.
void insert(uint64_t* c, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t own = c[i];
    int64_t j = i;
    for (; j > 0 && c[j - 1] < own; --j) c[j] = c[j - 1];
    c[j] = own;
  }
}

// The same for candidates in the order of their indices, which the passes keep among equal keys. Returns where they are
// then: c or `other`.
uint64_t* sort_digits(uint64_t* c, uint64_t* other, int64_t n) {
  constexpr int kPasses = 4;  // bytes of a key
  int64_t counts[kPasses][kDigit] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][c[i] >> (32 + 8 * pass) & 255];
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    const int shift = 32 + 8 * pass;
    int64_t* count = counts[pass];
    if (count[c[0] >> shift & 255] == n) continue;  // all have the same digit
    int64_t at = 0;
    for (int digit = kDigit - 1; digit >= 0; --digit) {
      const int64_t here = count[digit];
      count[digit] = at;
      at += here;
    }
    for (int64_t i = 0; i < n; ++i) other[count[c[i] >> shift & 255]++] = c[i];
    uint64_t* sorted = other;
    other = c;
    c = sorted;
  }
  return c;
}

}  // namespace

Status sort(Context* context, Out values, Out indices, In x, bool descending) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  if (element_count(x) == 0) return {};
  const auto candidates = [&](int thread) {
    return static_cast<uint64_t*>(thread_scratch(context, thread, 1, size_t(n) * 2 * sizeof(uint64_t)));
  };
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!candidates(thread)) return out_of_memory("the keys of a row");
  }
  if (!reserve_rows(context, 1, n)) return out_of_memory("a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    uint64_t* best = candidates(thread);
    rank(best, row_at(x, row), x.dtype, stride, n, !descending, row_scratch(context, thread, 1, n, 0));
    if (n <= kShort) insert(best, n);
    else best = sort_digits(best, best + n, n);
    auto* order = static_cast<int32_t*>(indices.data) + row * n;
    for (int64_t i = 0; i < n; ++i) order[i] = int32_t(index_of(best[i]));
    with_bits(dtype_size(x.dtype), [&](auto bits) {
      using T = decltype(bits);
      const T* from = reinterpret_cast<const T*>(row_at(x, row));
      T* to = static_cast<T*>(values.data) + row * n;
      for (int64_t i = 0; i < n; ++i) to[i] = from[order[i] * stride];
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
