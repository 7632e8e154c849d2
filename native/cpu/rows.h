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

// out = function(x), element by element: the kernels of one input and one output.
template <class Function>
Status map(Context* context, const View& out, const View& x, Function function) {
  const bool flat = is_contiguous(out) && is_contiguous(x);
  constexpr int64_t kChunk = 4096;
  const int64_t count = element_count(x);
  if (count == 0) return {};
  const int64_t n = flat ? min64(kChunk, count) : last_dimension(x);
  if (!reserve_rows(context, 2, n)) return out_of_memory("a row");
  const int64_t rows = flat ? ceil_div(count, n) : row_count(x);
  each_row(context, rows, n, [&](int64_t row, int thread) {
    const int64_t length = flat && row == rows - 1 ? count - row * n : n;
    const char* from = flat ? static_cast<char*>(x.data) + row * n * dtype_size(x.dtype) : row_at(x, row);
    char* to = flat ? static_cast<char*>(out.data) + row * n * dtype_size(out.dtype) : row_at(out, row);
    const int64_t in_stride = flat ? 1 : last_stride(x), out_stride = flat ? 1 : last_stride(out);
    const float* in = read_row(from, x.dtype, in_stride, length, row_scratch(context, thread, 2, n, 0));
    float* result = result_row(to, out.dtype, out_stride, row_scratch(context, thread, 2, n, 1));
    map_row(result, in, length, function);
    write_row(to, out.dtype, out_stride, length, result);
  });
  return {};
}

// ---- sums and maxima of a row, in an order that depends on its length alone

SONDE_INLINE float sum_row(const float* x, int64_t n) {
  vf a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    a += load(x + i);
    b += load(x + i + kWidth);
    c += load(x + i + 2 * kWidth);
    d += load(x + i + 3 * kWidth);
  }
  for (; i + kWidth <= n; i += kWidth) a += load(x + i);
  if (i < n) b += load_partial(x + i, int(n - i));
  return sum_lanes((a + b) + (c + d));
}

// sum of (x - shift)^2
SONDE_INLINE float squares_row(const float* x, int64_t n, float shift) {
  const vf middle = broadcast(shift);
  vf a{}, b{};
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    const vf p = load(x + i) - middle, q = load(x + i + kWidth) - middle;
    a = fma(p, p, a);
    b = fma(q, q, b);
  }
  float rest = 0;
  for (; i < n; ++i) rest += (x[i] - shift) * (x[i] - shift);
  return sum_lanes(a + b) + rest;
}

// the largest element, -inf of an empty row; NaN is skipped
SONDE_INLINE float max_row(const float* x, int64_t n) {
  vf a = broadcast(-INFINITY);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) a = maximum(load(x + i), a);
  float largest = max_lanes(a);
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

}  // namespace sonde::SONDE_ISA
