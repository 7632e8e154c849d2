// A whole product x w + bias with its activation and residual, shared by linear (packed w) and matmul (w packed as
// needed).
#pragma once
#include "product.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kConvertedRows = 1024 / kRows * kRows;  // rows of x that are held in another layout at a time
constexpr int64_t kConvertedTogether = 16;                // rows that a task converts

// The right side: packed panels, or the transpose of packed panels or a view, whose panels are packed as they are needed.
struct RightSide {
  const Packed* packed = nullptr;
  const View* view = nullptr;
  bool transposed = false;  // with packed: in float32

  bool is_ready() const { return packed && !transposed; }
  int64_t k() const { return packed ? packed->shape[transposed] : view->shape[0]; }
  int64_t n() const { return packed ? packed->shape[!transposed] : view->shape[1]; }
  // the layout of the panels
  Layout panel_layout(DType x) const {
    if (packed) return transposed ? Layout::float32 : packed_layout(packed->dtype);
    return kPairs && view->dtype == DType::bfloat16 && x == DType::bfloat16 ? Layout::pairs : Layout::float32;
  }
  // how x is multiplied by them
  Layout layout(DType x) const { return product_layout(panel_layout(x), x); }
};

// The output of a product: out = activation(product) + residual. The residual may be left out; it has out's dtype and
// may be out.
struct Target {
  View out;
  View residual = {};
  Activation activation = Activation::none;

  // whether the sums of so many rows can be computed in out itself, whose rows are not padded
  bool holds_sums(int64_t rows) const {
    return out.dtype == DType::float32 && residual.data != out.data && (!kPacksRows || rows < kRows);
  }
};

// The scratch memory of one thread: columns that are packed as needed, the product's, sums that are not computed in
// out.
struct Workspace {
  char* columns;
  Scratch scratch;
  float* sums;

  static int64_t column_bytes(const RightSide& w, Layout layout, int64_t panels) {
    return w.is_ready() ? 0 : round_up(panels * panel_bytes(layout, w.k()), 64);
  }
  // for tasks of `rows` rows and `panels` panels
  static size_t bytes(const RightSide& w, Layout layout, int64_t rows, int64_t panels, int64_t block_rows) {
    const int64_t sum_rows = Sums::rows(layout, step_count(layout, w.k()), min64(rows, kTaskRows), block_rows);
    const int64_t floats = Scratch::floats(layout, block_rows) + sum_rows * kGroupColumns;
    return size_t(column_bytes(w, layout, panels) + floats * 4);
  }
  static Workspace in(void* memory, const RightSide& w, Layout layout, int64_t panels, int64_t block_rows) {
    char* at = static_cast<char*>(memory);
    auto* floats = reinterpret_cast<float*>(at + column_bytes(w, layout, panels));
    return {at, Scratch::in(floats, layout, block_rows), floats + Scratch::floats(layout, block_rows)};
  }
};

// Writes a row of sums, n <= kGroupColumns, to out's row. It is rounded before the residual is added, as if it had been
// stored. A NaN of the residual becomes canonical.
inline void finish_row(char* to, const char* residual, DType dtype, float* row, int64_t n, Activation activation) {
  activate(row, n, activation);
  if (residual) {
    float wide[kGroupColumns];
    const float* added = reinterpret_cast<const float*>(residual);
    if (dtype != DType::float32) {
      uint16_t stored[kGroupColumns];
      narrow(stored, row, dtype, n);
      widen(row, stored, dtype, n);
      widen(wide, residual, dtype, n);
      added = wide;
    }
    for (int64_t i = 0; i < n; ++i) row[i] = canonical(row[i] + added[i]);
  }
  if (static_cast<void*>(to) != row) narrow(to, row, dtype, n);
}

// Computes the columns of `count` panels from `first` on, for rows a, which are the target's from `out_row` on.
inline void multiply_columns(const Left& a, int64_t rows, DType x, const RightSide& w, int64_t first, int64_t count,
                             const float* bias, const Target& target, int64_t out_row, const Workspace& workspace) {
  const View &out = target.out, &residual = target.residual;
  const Activation activation = target.activation;
  const int64_t k = w.k(), column = first * kColumns, columns = min64(w.n(), (first + count) * kColumns) - column;
  const Layout layout = w.layout(x);
  Panels b;
  if (w.is_ready()) {
    b = panels_from(*w.packed, first);
    b.layout = layout;
  } else {
    b = {workspace.columns, layout, step_count(layout, k), step_count(layout, k)};
    for (int64_t i = 0; i < count; ++i) {
      char* to = workspace.columns + i * panel_bytes(layout, k);
      const int64_t at = column + i * kColumns;
      if (w.view) pack_panel(to, layout, *w.view, at, kColumns);
      else pack_transposed_panel(reinterpret_cast<float*>(to), *w.packed, at);
    }
  }
  const int64_t size = dtype_size(out.dtype), stride = out.stride[out.rank - 2];
  const int64_t added_stride = residual.data ? residual.stride[residual.rank - 2] : 0;
  for (int64_t from = 0; from < rows; from += kTaskRows) {
    const int64_t part = min64(kTaskRows, rows - from);
    char* to = static_cast<char*>(out.data) + ((out_row + from) * stride + column) * size;
    const char* added = nullptr;
    if (residual.data) {
      added = static_cast<char*>(residual.data) + ((out_row + from) * added_stride + column) * size;
    }
    Sums sums{workspace.sums, kGroupColumns, in_one_pass(layout, b.used), true};
    if (target.holds_sums(part)) sums = {reinterpret_cast<float*>(to), stride, false, false};
    product<kVectors>({a.row(from), a.stride}, part, b, count, columns, bias + column, sums, workspace.scratch,
                      [&](int64_t row, int n, float* c) {
                        for (int i = 0; i < n; ++i) {
                          const char* residual_row = added ? added + (row + i) * added_stride * size : nullptr;
                          finish_row(to + (row + i) * stride * size, residual_row, out.dtype, c + i * sums.stride,
                                     columns, activation);
                        }
                      });
  }
}

// The whole product, distributed over the threads in tasks of some rows by some panels.
inline Status multiply_all(Context* context, const View& x, const RightSide& w, const View& bias,
                           const Target& target) {
  const int64_t m = x.shape[0], n = w.n(), k = w.k();
  if (m == 0 || n == 0) return {};
  const int threads = thread_count(context);
  const Layout layout = w.layout(x.dtype);
  const bool in_place = is_left(x, layout);
  const int64_t row_bytes = converted_stride(layout, k), at_once = in_place ? m : min64(m, kConvertedRows);
  // every task packs panels that are not ready itself, so it takes all rows
  const Split tasks = split(at_once, panel_count(n), threads, w.is_ready());
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  char* converted = nullptr;
  if (!in_place) converted = static_cast<char*>(shared_scratch(context, 0, size_t(at_once * row_bytes)));
  if (!wide_bias || (!in_place && !converted)) return out_of_memory("converted rows");
  const int64_t block = block_rows(context);
  const size_t workspace_bytes = Workspace::bytes(w, layout, tasks.rows, tasks.panels, block);
  for (int thread = 0; thread < threads; ++thread) {
    if (!thread_scratch(context, thread, 0, workspace_bytes)) return out_of_memory("a group of columns");
  }
  widen_bias(wide_bias, bias, n);
  for (int64_t start = 0; start < m; start += at_once) {
    const int64_t rows = min64(at_once, m - start);
    Left left = left_of(x);
    if (!in_place) {
      left = {converted, row_bytes};
      parallel(context, ceil_div(rows, kConvertedTogether), [&](int64_t block, int) {
        const int64_t first = block * kConvertedTogether;
        convert_rows(converted + first * row_bytes, row_bytes, x, start + first,
                     min64(kConvertedTogether, rows - first), layout);
      });
    }
    parallel(context, tasks.count(), [&](int64_t task, int thread) {
      const int64_t row = task % tasks.row_parts * tasks.rows, first = task / tasks.row_parts * tasks.panels;
      if (row >= rows) return;
      void* memory = thread_scratch(context, thread, 0, workspace_bytes);
      const Workspace workspace = Workspace::in(memory, w, layout, tasks.panels, block);
      multiply_columns({left.row(row), left.stride}, min64(tasks.rows, rows - row), x.dtype, w, first,
                       min64(tasks.panels, panel_count(n) - first), wide_bias, target, start + row, workspace);
    });
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
