// Rows, the last dimension of a strided view, as float32: a pointer into the view where its elements already lie so,
// else a widened copy in the caller's scratch memory. Each kernel thus writes its arithmetic once, for every dtype and
// stride.
#pragma once
#include "simd.h"

namespace sonde::SONDE_ISA {

// The first element of a row, as bytes.
inline char* row_at(const View& x, int64_t row) {
  return static_cast<char*>(x.data) + leading_offset(x, 1, row) * dtype_size(x.dtype);
}

// n elements, `stride` apart, as float32: `from` itself or a copy in `scratch`.
inline const float* read_row(const char* from, DType dtype, int64_t stride, int64_t n, float* scratch) {
  if (stride == 1 || n <= 1) {
    if (dtype == DType::float32) return reinterpret_cast<const float*>(from);
    widen(scratch, from, dtype, n);
    return scratch;
  }
  if (stride == 0) {
    float value;
    widen(&value, from, dtype, 1);
    for (int64_t i = 0; i < n; ++i) scratch[i] = value;
    return scratch;
  }
  const int64_t step = stride * dtype_size(dtype);
  if (dtype == DType::float32) {
    for (int64_t i = 0; i < n; ++i) scratch[i] = *reinterpret_cast<const float*>(from + i * step);
  } else {
    for (int64_t i = 0; i < n; ++i) widen(scratch + i, from + i * step, dtype, 1);
  }
  return scratch;
}

inline void write_row(char* to, DType dtype, int64_t stride, int64_t n, const float* row) {
  if (stride == 1 || n <= 1) {
    if (static_cast<const void*>(to) != row) narrow(to, row, dtype, n);
    return;
  }
  for (int64_t i = 0; i < n; ++i) narrow(to + i * stride * dtype_size(dtype), row + i, dtype, 1);
}

// Where a row's results go before they are narrowed: the output itself if it is float32 side by side, else `scratch`.
inline float* result_row(char* to, DType dtype, int64_t stride, float* scratch) {
  return dtype == DType::float32 && stride == 1 ? reinterpret_cast<float*>(to) : scratch;
}

// Fewer elements than these are not worth waking another thread for.
constexpr int64_t kWorthSharing = 16384;

// Calls body(row, thread) for every row, in groups that are large enough for a thread of their own.
template <class Body>
SONDE_INLINE void each_row(Context* context, int64_t rows, int64_t width, Body body) {
  const int64_t group = width >= kWorthSharing ? 1 : kWorthSharing / (width ? width : 1);
  const int64_t groups = ceil_div(rows, group);
  parallel(context, groups, [&](int64_t i, int thread) {
    const int64_t end = min64(rows, (i + 1) * group);
    for (int64_t row = i * group; row < end; ++row) body(row, thread);
  });
}

// Reserves scratch memory for `rows` rows of n floats for each thread, in its slot 0; false when there is not enough
// memory.
inline bool reserve_rows(Context* context, int rows, int64_t n) {
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, size_t(rows) * size_t(n + kWidth) * 4)) return false;
  }
  return true;
}
inline float* row_scratch(Context* context, int thread, int rows, int64_t n, int which) {
  auto* all = static_cast<float*>(thread_scratch(context, thread, 0, size_t(rows) * size_t(n + kWidth) * 4));
  return all + which * (n + kWidth);
}

// The lowest index at which any thread found what makes the operation fail.
class Failures {
 public:
  void at(int64_t i) {
    int64_t first = __atomic_load_n(&first_, __ATOMIC_RELAXED);
    while (i < first && !__atomic_compare_exchange_n(&first_, &first, i, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }
  bool any() const { return first_ != INT64_MAX; }
  int64_t first() const { return first_; }

 private:
  int64_t first_ = INT64_MAX;
};

// ---- sums and maxima of a row

// A sum in double precision: of floats, it is off by less than 1e-8 of the sum of their magnitudes, and it overflows
// nowhere. Element i is added to lane i % kLanes; at the end, the upper half of the lanes is added to the lower one
// until one is left. So the order depends on neither the instruction set nor the number of threads. The terms come in
// parts, of which all but the last have a multiple of kLanes.
constexpr int kLanes = 32;

class Sum {
 public:
  // adds term(x[i]), a function of doubles and of vectors of them
  template <class Term>
  SONDE_INLINE void add(const float* x, int64_t n, Term term) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) lanes_[j] += term(load_doubles(x + i + j * kDoubles));
    }
    if (i == n) return;
    alignas(64) double lane[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(lane + j * kDoubles, lanes_[j]);
    for (int j = 0; i < n; ++i, ++j) lane[j] += term(double(x[i]));
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) lanes_[j] = load(lane + j * kDoubles);
  }
  SONDE_INLINE void add(const float* x, int64_t n) {
    add(x, n, [](auto v) { return v; });
  }
  SONDE_INLINE double total() {
#pragma GCC unroll 4
    for (int half = kVectors / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < half; ++j) lanes_[j] += lanes_[j + half];
    }
    return sum_lanes(lanes_[0]);
  }

 private:
  static constexpr int kVectors = kLanes / kDoubles;
  vd lanes_[kVectors] = {};
};

// The same for fewer than kLanes elements: most lanes stay 0.
template <class Term>
SONDE_INLINE double sum_few(const float* x, int64_t n, Term term) {
  double lane[kLanes];
  int used = 1;
  while (used < n) used *= 2;
  for (int i = 0; i < used; ++i) lane[i] = i < n ? 0.0 + term(double(x[i])) : 0.0;
  for (int half = used / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <class Term>
SONDE_INLINE double sum_row(const float* x, int64_t n, Term term) {
  if (n < kLanes) return sum_few(x, n, term);
  Sum sum;
  sum.add(x, n, term);
  return sum.total();
}
SONDE_INLINE double sum_row(const float* x, int64_t n) {
  return sum_row(x, n, [](auto v) { return v; });
}

// sum of (x - shift)^2
SONDE_INLINE double squares_row(const float* x, int64_t n, double shift) {
  return sum_row(x, n, [=](auto v) {
    const auto distance = v - shift;
    return distance * distance;
  });
}

// the largest element, -inf of an empty row; NaN is skipped, and of zeros it may be either
SONDE_INLINE float max_row(const float* x, int64_t n) {
  vf a = broadcast(-INFINITY);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) a = maximum(load(x + i), a);
  float largest = max_lanes(a);
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

}  // namespace sonde::SONDE_ISA
