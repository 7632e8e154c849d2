// Ranking: a value and its index become one integer, so that integer order ranks by value, and equal values by the
// lowest index.
#pragma once
#include "rows.h"

namespace sonde::SONDE_ISA {

// Larger is better: the value's order in the upper half, the index's complement below it.
SONDE_INLINE uint64_t candidate(int32_t key, int64_t index) {
  return uint64_t(uint32_t(key) ^ 0x80000000u) << 32 | (0xffffffffu - uint32_t(index));
}
SONDE_INLINE int32_t key_of(uint64_t c) { return int32_t(uint32_t(c >> 32) ^ 0x80000000u); }
SONDE_INLINE int64_t index_of(uint64_t c) { return int64_t(0xffffffffu - uint32_t(c)); }
// A float as an integer of the same order; both zeros are equal, NaN is above all. It is its own inverse except for
// those.
SONDE_INLINE vi keys(vf v) {
  const vi bits = vi(v + 0.0f);
  const vi key = bits < 0 ? bits ^ 0x7fffffff : bits;
  return v != v ? vi{} + INT32_MAX : key;
}
// The same of one float.
SONDE_INLINE int32_t key_of(float f) {
  if (f != f) return INT32_MAX;
  f += 0.0f;
  int32_t bits;
  memcpy(&bits, &f, 4);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
// The float of a key; NaN for the largest and the smallest key.
SONDE_INLINE float float_of(int32_t key) {
  if (key == INT32_MAX) return NAN;
  if (key < 0) key ^= 0x7fffffff;
  float f;
  memcpy(&f, &key, 4);
  return f;
}
SONDE_INLINE float value_of(uint64_t c) { return float_of(key_of(c)); }

// The candidates of n elements, `stride` apart; with `flip` smaller values are better. scratch: n floats.
inline void rank(uint64_t* c, const char* from, DType dtype, int64_t stride, int64_t n, bool flip, float* scratch) {
  const int32_t flipped = flip ? -1 : 0;
  if (dtype == DType::int32) {
    const auto* integers = reinterpret_cast<const int32_t*>(from);
    for (int64_t i = 0; i < n; ++i) c[i] = candidate(integers[i * stride] ^ flipped, i);
    return;
  }
  const float* floats = read_row(from, dtype, stride, n, scratch);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int count = int(min64(kWidth, n - i));
    const vi key = keys(count == kWidth ? load(floats + i) : load_partial(floats + i, count)) ^ flipped;
    for (int lane = 0; lane < count; ++lane) c[i + lane] = candidate(key[lane], i + lane);
  }
}

// Brings the k largest of c [n] to the front, in no order (Hoare's selection).
inline void select(uint64_t* c, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    const uint64_t middle = c[low + (high - low) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (c[i] > middle) ++i;
      while (c[j] < middle) --j;
      if (i > j) break;
      const uint64_t swap = c[i];
      c[i++] = c[j];
      c[j--] = swap;
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else return;
  }
}

// Brings the k largest to the front and gives the least of them, 0 < k <= n.
inline uint64_t select_kth(uint64_t* c, int64_t n, int64_t k) {
  select(c, n, k);
  uint64_t least = c[0];
  for (int64_t i = 1; i < k; ++i) least = c[i] < least ? c[i] : least;
  return least;
}

inline void sort_by_index(uint64_t* c, int64_t n) {
  qsort(c, size_t(n), sizeof *c, [](const void* a, const void* b) {
    const uint32_t x = uint32_t(*static_cast<const uint64_t*>(a)), y = uint32_t(*static_cast<const uint64_t*>(b));
    return x > y ? -1 : x < y;  // complements: the larger one has the lower index
  });
}

// Puts the best of n candidates first: digit by digit (LSD radix sort), or a few by insertion. The candidates are in
// the order of their bytes below `byte`: 0 where they are in no order, 4 where they are in that of their indices.
// Returns where they are then: c or `other`, of as many.
inline uint64_t* sort_by_value(uint64_t* c, uint64_t* other, int64_t n, int byte) {
  constexpr int64_t kFew = 40;
  constexpr int kBytes = 8, kDigits = 256;
  if (n <= kFew) {
    for (int64_t i = 1; i < n; ++i) {
      const uint64_t own = c[i];
      int64_t j = i;
      for (; j > 0 && c[j - 1] < own; --j) c[j] = c[j - 1];
      c[j] = own;
    }
    return c;
  }
  int64_t counts[kBytes][kDigits] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = byte; pass < kBytes; ++pass) ++counts[pass][c[i] >> 8 * pass & 255];
  }
  for (int pass = byte; pass < kBytes; ++pass) {
    int64_t* count = counts[pass];
    if (count[c[0] >> 8 * pass & 255] == n) continue;  // all have the same digit
    int64_t at = 0;
    for (int digit = kDigits - 1; digit >= 0; --digit) {
      const int64_t here = count[digit];
      count[digit] = at;
      at += here;
    }
    for (int64_t i = 0; i < n; ++i) other[count[c[i] >> 8 * pass & 255]++] = c[i];
    uint64_t* const sorted = other;
    other = c;
    c = sorted;
  }
  return c;
}

}  // namespace sonde::SONDE_ISA
