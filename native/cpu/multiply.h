// A whole product x w + bias with what follows it, shared by linear (packed w) and matmul (w packed on the way).
#pragma once
#include "product.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kConvertedRows = 1024;  // rows of x that are held in another form at a time

// The right side: packed panels, or a view whose panels are packed as they are needed.
struct RightSide {
  const Packed* packed = nullptr;
  const View* view = nullptr;

  int64_t k() const { return packed ? packed->shape[0] : view->shape[0]; }
  int64_t n() const { return packed ? packed->shape[1] : view->shape[1]; }
  // how the panels lie, and how x is multiplied by them
  Form lies(DType x) const {
    if (packed) return packed_form(packed->dtype);
    return kPairs && view->dtype == DType::bfloat16 && x == DType::bfloat16 ? Form::pairs : Form::float32;
  }
  Form form(DType x) const { return joined(lies(x), x); }
};

// Where a product goes: out = activation(product) + residual; the residual is left out, or of out's dtype and may be out.
struct Target {
  View out;
  View residual = {};
  Activation activation = Activation::none;

  // whether sums can be made where they are to be
  bool takes_sums() const { return out.dtype == DType::float32 && residual.data != out.data; }
};

// What one thread needs besides: columns packed on the way, columns widened, sums that are not made in place.
struct Room {
  char* columns;
  float* widened;
  float* sums;

  static int64_t column_bytes(const RightSide& w, Form form) {
    return w.view ? ceil_div(kGroup * panel_bytes(form, w.k()), 64) * 64 : 0;
  }
  // rows of sums: a block is enough where it is complete at once
  static int64_t sum_rows(const RightSide& w, Form form, int64_t rows) {
    return in_one_pass(form, step_count(form, w.k())) ? kRows : rows;
  }
  static size_t bytes(const RightSide& w, Form form, int64_t rows) {
    const int64_t floats = widening_floats(form) + sum_rows(w, form, rows) * kGroupColumns;
    return size_t(column_bytes(w, form) + floats * 4);
  }
  static Room in(void* memory, const RightSide& w, Form form) {
    char* at = static_cast<char*>(memory);
    auto* floats = reinterpret_cast<float*>(at + column_bytes(w, form));
    return {at, floats, floats + widening_floats(form)};
  }
};

// A row of sums, n <= kGroupColumns, to out's row; rounded before the residual is added, as if it had been stored.
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
    for (int64_t i = 0; i < n; ++i) row[i] += added[i];
  }
  if (static_cast<void*>(to) != row) narrow(to, row, dtype, n);
}

// Columns of `count` panels from `first` on, for rows a, which are the target's from `out_row` on.
inline void multiply_columns(const Left& a, int64_t rows, DType x, const RightSide& w, int64_t first, int64_t count,
                             const float* bias, const Target& target, int64_t out_row, const Room& room) {
  const View &out = target.out, &residual = target.residual;
  const Activation activation = target.activation;
  const int64_t k = w.k(), column = first * kColumns, columns = min64(w.n(), (first + count) * kColumns) - column;
  const Form form = w.form(x);
  Panels b;
  if (w.packed) {
    b = panels_from(*w.packed, first);
    b.form = form;
  } else {
    b = {room.columns, form, step_count(form, k), step_count(form, k)};
    for (int64_t i = 0; i < count; ++i) {
      pack_panel(room.columns + i * panel_bytes(form, k), form, *w.view, column + i * kColumns, kColumns);
    }
  }
  const int64_t size = dtype_size(out.dtype), stride = out.stride[out.rank - 2];
  const int64_t added_stride = residual.data ? residual.stride[residual.rank - 2] : 0;
  char* to = static_cast<char*>(out.data) + (out_row * stride + column) * size;
  const char* added = nullptr;
  if (residual.data) added = static_cast<char*>(residual.data) + (out_row * added_stride + column) * size;
  Sums sums{room.sums, kGroupColumns, in_one_pass(form, b.used), true};
  if (target.takes_sums()) sums = {reinterpret_cast<float*>(to), stride, false, false};
  product<kVectors>(a, rows, b, count, columns, bias + column, sums, room.widened, [&](int64_t row, int n, float* c) {
    for (int i = 0; i < n; ++i) {
      const char* residual_row = added ? added + (row + i) * added_stride * size : nullptr;
      finish_row(to + (row + i) * stride * size, residual_row, out.dtype, c + i * sums.stride, columns, activation);
    }
  });
}

// The whole product, dealt out to the threads in tasks of some rows by some panels.
inline Status multiply_all(Context* context, const View& x, const RightSide& w, const View& bias,
                           const Target& target) {
  const int64_t m = x.shape[0], n = w.n(), k = w.k();
  if (m == 0 || n == 0) return {};
  const int threads = thread_count(context);
  const Form form = w.form(x.dtype);
  const bool in_place = is_left(x, form);
  const int64_t row_bytes = left_row_bytes(form, k), at_once = in_place ? m : min64(m, kConvertedRows);
  // a view's panels are packed by every task: not again for other rows
  const Split tasks = split(at_once, panel_count(n), threads, w.packed != nullptr);
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  char* converted = nullptr;
  if (!in_place) converted = static_cast<char*>(shared_scratch(context, 0, size_t(at_once * row_bytes)));
  if (!wide_bias || (!in_place && !converted)) return out_of_memory("converted rows");
  const size_t room_bytes = Room::bytes(w, form, tasks.rows);
  for (int thread = 0; thread < threads; ++thread) {
    if (!thread_scratch(context, thread, 0, room_bytes)) return out_of_memory("a group of columns");
  }
  widen_bias(wide_bias, bias, n);
  for (int64_t start = 0; start < m; start += at_once) {
    const int64_t rows = min64(at_once, m - start);
    Left left = left_of(x);
    if (!in_place) {
      left = {converted, row_bytes};
      parallel(context, ceil_div(rows, kRows), [&](int64_t block, int) {
        for (int64_t i = block * kRows; i < min64(rows, (block + 1) * kRows); ++i) {
          convert_row(converted + i * row_bytes, x, start + i, form);
        }
      });
    }
    parallel(context, tasks.count(), [&](int64_t task, int thread) {
      const int64_t row = task % tasks.row_parts * tasks.rows, first = task / tasks.row_parts * tasks.panels;
      if (row >= rows) return;
      const Room room = Room::in(thread_scratch(context, thread, 0, room_bytes), w, form);
      multiply_columns({left.row(row), left.stride}, min64(tasks.rows, rows - row), x.dtype, w, first,
                       min64(tasks.panels, panel_count(n) - first), wide_bias, target, start + row, room);
    });
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
