// The matrix product behind linear, matmul, attention and sparse_encode.
//
// A task is some rows by a group of panels. The group's part for kDepth steps stays in the second-level cache while the
// rows are read, each block of them in the first-level cache. Every sum starts from the bias and adds its products in
// ascending k, whatever the shape, the batch or the number of threads: the last block of rows is only narrower, and the
// last panel is computed whole and its surplus dropped.
#pragma once
#include "panels.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kDepth = 768;             // steps at a time
constexpr int64_t kGroup = 192 / kColumns;  // panels at a time: 590 KB of them are then in use
constexpr int64_t kGroupColumns = kGroup * kColumns;
constexpr int64_t kTaskRows = 512;  // rows at a time, at most

// ---- the left side: rows whose elements lie side by side, in the type that the layout needs

struct Left {
  const char* data;
  int64_t stride;  // bytes

  const char* row(int64_t i) const { return data + i * stride; }
};

// The layout in which x is multiplied by a right side: pairs are multiplied by pairs only where x is bfloat16.
inline Layout product_layout(Layout right, DType x) {
  return right == Layout::pairs && x != DType::bfloat16 ? Layout::widened_pairs : right;
}
// Whether x [M, K] can be read in place.
inline bool is_left(const View& x, Layout layout) {
  if (x.stride[1] != 1 && x.shape[1] > 1) return false;
  if (is_paired(layout) && x.shape[1] % 2) return false;
  return x.dtype == (layout == Layout::pairs ? DType::bfloat16 : DType::float32);
}
inline Left left_of(const View& x) { return {static_cast<const char*>(x.data), x.stride[0] * dtype_size(x.dtype)}; }
// Bytes of a row that was converted to the layout.
constexpr int64_t left_row_bytes(Layout layout, int64_t k) { return step_count(layout, k) * left_bytes(layout); }

// Converts row i of x, of any strides and float dtype, to the layout.
inline void convert_row(char* to, const View& x, int64_t i, Layout layout) {
  const int64_t k = x.shape[1], size = dtype_size(x.dtype);
  const char* from = static_cast<const char*>(x.data) + i * x.stride[0] * size;
  if (layout == Layout::widened_pairs && k % 2) {
    const float nothing = -0.0f;  // times the 0 of the right side: a sum of -0 stays -0
    memcpy(to + k * 4, &nothing, 4);
  } else if (layout == Layout::pairs && k % 2) {
    memset(to + k * 2, 0, 2);
  }
  if (layout != Layout::pairs) return read_strided(reinterpret_cast<float*>(to), from, x.dtype, x.stride[1], k);
  float part[64];
  for (int64_t done = 0; done < k; done += 64) {
    const int64_t n = min64(64, k - done);
    read_strided(part, from + done * x.stride[1] * size, x.dtype, x.stride[1], n);
    narrow(to + done * 2, part, DType::bfloat16, n);
  }
}

// ---- a task

// Steps at a time: where pairs are widened to float32 first, a step has two k.
constexpr int64_t depth_of(Layout layout) { return layout == Layout::widened_pairs ? kDepth / 2 : kDepth; }
// Whether a product of `steps` steps is complete after one pass over its columns.
constexpr bool in_one_pass(Layout layout, int64_t steps) { return steps <= depth_of(layout); }
// Scratch memory that a product needs for widened columns, in floats.
constexpr int64_t widening_floats(Layout layout) {
  return layout == Layout::float32 || layout == Layout::pairs ? 0 : kDepth * kGroupColumns;
}

// The memory of a product's sums: rows of `stride` floats, either for all rows, or for one block of kRows that is used
// again for the next one. `padded`: a row holds whole panels.
struct Sums {
  float* data;
  int64_t stride;
  bool one_block;
  bool padded;

  float* row(int64_t i) const { return one_block ? data : data + i * stride; }
};

// Panels as float32, side by side in `scratch`, from their step `at` on.
inline Panels widen_panels(const Panels& b, int64_t panels, int64_t at, int64_t depth, float* scratch) {
  const int64_t per_step = is_paired(b.layout) ? 2 : 1, k = depth * per_step;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t p = 0; p < k; ++p) unpack_row(scratch + (panel * k + p) * b.columns, b, panel, at * per_step + p);
  }
  return {reinterpret_cast<const char*>(scratch), Layout::float32, k, k, b.columns};
}

// One block of rows, at most kRows, times `panels` panels; `columns` of their columns are wanted.
template <int V>
SONDE_INLINE void multiply_block(Microkernel kernel, int count, int64_t depth, const char* a, int64_t lda,
                                 const Panels& b, int64_t at, int64_t panels, int64_t columns, const float* bias,
                                 bool last, const Sums& sums, float* c) {
  constexpr int64_t kWide = V * kWidth;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const float* start = bias ? bias + panel * kWide : nullptr;
    const int64_t valid = min64(kWide, columns - panel * kWide);
    float* out = c + panel * kWide;
    if (sums.padded || valid == kWide) {
      kernel(depth, a, lda, b.at(panel, at), out, sums.stride, start, last);
      continue;
    }
    float edge[kRows * kWide];
    for (int i = 0; !start && i < count; ++i) memcpy(edge + i * kWide, out + i * sums.stride, size_t(valid) * 4);
    kernel(depth, a, lda, b.at(panel, at), edge, kWide, start, last);
    for (int i = 0; i < count; ++i) memcpy(out + i * sums.stride, edge + i * kWide, size_t(valid) * 4);
  }
}

// sums [rows, columns] = bias + a b, for `panels` panels of V vectors. b.layout is also the layout of a's rows. `bias`
// has a whole number of panels. finish(row, count, c) is called when a block of rows is complete and still in the
// cache. A NaN among the sums is canonical.
template <int V, class Finish>
SONDE_INLINE void product(const Left& a, int64_t rows, const Panels& b, int64_t panels, int64_t columns,
                          const float* bias, const Sums& sums, float* scratch, Finish finish) {
  int64_t at = 0;
  do {  // once even if there are no steps: the bias alone
    const int64_t depth = min64(depth_of(b.layout), b.used - at);
    const bool last = at + depth >= b.used;
    Panels part = b;
    int64_t from = at, steps = depth;
    if (rows > kRows && widening_floats(b.layout)) {  // worth widening first, as they are used more than once
      part = widen_panels(b, panels, at, depth, scratch);
      from = 0;
      steps = part.steps;
    }
    const Microkernel full = microkernel<V>(part.layout, kRows);
    for (int64_t row = 0; row < rows; row += kRows) {
      const int count = int(min64(kRows, rows - row));
      const Microkernel kernel = count == kRows ? full : microkernel<V>(part.layout, count);
      float* c = sums.row(row);
      multiply_block<V>(kernel, count, steps, a.row(row) + at * left_bytes(b.layout), a.stride, part, from, panels,
                        columns, at == 0 ? bias : nullptr, last, sums, c);
      if (last) finish(row, count, c);
    }
    at += depth;
  } while (at < b.used);
}

// ---- bias, activation and the split into tasks

// Writes the bias [N], of any float dtype or left out, as float32 with zeros up to a whole number of panels.
inline void widen_bias(float* to, const View& bias, int64_t n) {
  memset(to, 0, size_t(panel_count(n) * kColumns) * 4);
  if (bias.data) widen(to, bias.data, bias.dtype, n);
}

SONDE_INLINE void activate(float* x, int64_t n, Activation activation) {
  if (activation == Activation::gelu) map_row(x, x, n, [](vf v) { return gelu(v); });
  if (activation == Activation::relu) map_row_as_is(x, x, n, [](vf v) { return v < 0.0f ? vf{} : v; });
}

// How a product is split into tasks: several for each thread, as some processors are slower than others.
struct Split {
  int64_t rows, panels;          // of a task
  int64_t row_parts, col_parts;  // tasks, in both directions
  int64_t count() const { return row_parts * col_parts; }
};
inline Split split(int64_t rows, int64_t panels, int threads, bool by_rows = true) {
  constexpr int64_t kFewRows = 8 * kRows;  // fewer are not worth another trip of the panels through the cache
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;
  Split s{by_rows ? min64(rows, kTaskRows) : rows, min64(panels, kGroup), 0, 0};
  for (;;) {
    s.row_parts = ceil_div(rows, s.rows);
    s.col_parts = ceil_div(panels, s.panels);
    if (s.count() >= wanted) return s;
    if (by_rows && s.rows > (s.panels > 1 ? kFewRows : kRows)) s.rows = round_up(ceil_div(s.rows, 2), kRows);
    else if (s.panels > 1) s.panels = ceil_div(s.panels, 2);
    else return s;
  }
}

}  // namespace sonde::SONDE_ISA
