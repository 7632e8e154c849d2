// A whole product x w + bias with what follows it, shared by linear (packed w) and matmul (w packed on the way).
#pragma once
#include "product.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kRowsAtOnce = 1024;  // rows whose packed form is held at a time

// The right side: packed panels, or a view whose panels are packed as they are needed.
struct RightSide {
  const Packed* packed = nullptr;
  const View* view = nullptr;
  int64_t k() const { return packed ? packed->shape[0] : view->shape[0]; }
  int64_t n() const { return packed ? packed->shape[1] : view->shape[1]; }
};

// Where a product goes: out = activation(product) + residual; the residual is left out, or of out's dtype and may be out.
struct Target {
  View out;
  View residual = {};
  Activation activation = Activation::none;
};

// What one thread needs besides: packed columns, widened 16-bit columns, a tile of results.
struct Room {
  float* columns;
  float* widened;
  float* tile;

  static size_t bytes(const RightSide& w) {
    const int64_t columns = w.view ? kTileColumns * w.k() : 0;
    return size_t(columns + kDepth * kColumns + kTileRows * kTileColumns) * 4;
  }
  static Room in(void* memory, const RightSide& w) {
    float* at = static_cast<float*>(memory);
    const int64_t columns = w.view ? kTileColumns * w.k() : 0;
    return {at, at + columns, at + columns + kDepth * kColumns};
  }
};

// A row of a tile, n <= kTileColumns, to out's row; rounded before the residual is added, as if it had been stored.
inline void finish_row(char* to, const char* residual, DType dtype, float* row, int64_t n, Activation activation) {
  activate(row, n, activation);
  if (residual) {
    float wide[kTileColumns];
    const float* added = reinterpret_cast<const float*>(residual);
    if (dtype != DType::float32) {
      uint16_t stored[kTileColumns];
      narrow(stored, row, dtype, n);
      widen(row, stored, dtype, n);
      widen(wide, residual, dtype, n);
      added = wide;
    }
    for (int64_t i = 0; i < n; ++i) row[i] += added[i];
  }
  narrow(to, row, dtype, n);
}

// Columns of `count` panels from `first` on, for packed rows a: the target's rows from `out_row` on.
inline void multiply_columns(const float* a, int64_t rows, const RightSide& w, int64_t first, int64_t count,
                             const float* bias, const Target& target, int64_t out_row, const Room& room) {
  const auto& [out, residual, activation] = target;
  const int64_t n = w.n(), column = first * kColumns, columns = min64(n, (first + count) * kColumns) - column;
  Panels b;
  if (w.packed) {
    b = panels_from(*w.packed, first);
  } else {
    pack_panels(room.columns, *w.view, first, first + count);
    b = {room.columns, DType::float32, w.k(), w.k()};
  }
  const int64_t size = dtype_size(out.dtype), stride = out.stride[out.rank - 2];
  const int64_t added_stride = residual.data ? residual.stride[residual.rank - 2] : 0;
  for (int64_t row = 0; row < rows; row += kTileRows) {
    const int64_t height = min64(kTileRows, rows - row);
    const float* part = a + row * b.k;
    char* to = static_cast<char*>(out.data) + ((out_row + row) * stride + column) * size;
    const char* added = nullptr;
    if (residual.data) added = static_cast<char*>(residual.data) + ((out_row + row) * added_stride + column) * size;
    if (out.dtype == DType::float32 && !added) {
      float* direct = reinterpret_cast<float*>(to);
      product(part, height, b, count, columns, bias + column, direct, stride, false, room.widened);
      if (activation == Activation::none) continue;
      for (int64_t i = 0; i < height; ++i) activate(direct + i * stride, columns, activation);
      continue;
    }
    product(part, height, b, count, columns, bias + column, room.tile, kTileColumns, true, room.widened);
    for (int64_t i = 0; i < height; ++i) {
      finish_row(to + i * stride * size, added ? added + i * added_stride * size : nullptr, out.dtype,
                 room.tile + i * kTileColumns, columns, activation);
    }
  }
}

// The whole product, its columns dealt out to the threads.
inline Status multiply_all(Context* context, const View& x, const RightSide& w, const View& bias,
                           const Target& target) {
  const int64_t m = x.shape[0], n = w.n(), k = w.k();
  if (m == 0 || n == 0) return {};
  const int64_t at_once = min64(m, kRowsAtOnce);
  auto* left = static_cast<float*>(shared_scratch(context, 0, size_t(at_once * k + 1) * 4));
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  if (!left || !wide_bias) return out_of_memory("packed rows");
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, Room::bytes(w))) return out_of_memory("a tile");
  }
  widen_bias(wide_bias, bias, n);
  const int64_t panels = panel_count(n), step = panels_per_task(n, thread_count(context));
  for (int64_t row = 0; row < m; row += at_once) {
    const int64_t rows = min64(at_once, m - row);
    pack_left(context, left, x, row, rows);
    parallel(context, ceil_div(panels, step), [&](int64_t task, int thread) {
      const Room room = Room::in(thread_scratch(context, thread, 0, Room::bytes(w)), w);
      const int64_t first = task * step;
      multiply_columns(left, rows, w, first, min64(step, panels - first), wide_bias, target, row, room);
    });
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
