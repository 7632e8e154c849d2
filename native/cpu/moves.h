// Elements moved as bits, whatever their dtype: between rows, and between the slices of two tensors.
#pragma once
#include "elements.h"

namespace sonde::SONDE_ISA {

// body(an integer of so many bytes, its value being this number)
template <class Body>
SONDE_INLINE void with_bits(int64_t size, Body body) {
  if (size == 4) body(uint32_t(4));
  else if (size == 2) body(uint16_t(2));
  else body(uint8_t(1));
}

template <class T>
SONDE_INLINE void move(T* to, const T* from, int64_t n, int64_t to_stride, int64_t from_stride) {
  if (to_stride == 1 && from_stride == 1) {
    memcpy(to, from, size_t(n) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < n; ++i) to[i * to_stride] = from[i * from_stride];
}

// The slices of two tensors along their first dimensions: elements of one shape.
struct Slices {
  View out, in;               // the first slice of each, simplified
  int64_t out_step, in_step;  // from one slice to the next, in elements
  int64_t rows;               // of a slice
  int64_t part, parts;  // elements of a row that are moved together, and how often: 1 where they are not side by side

  // `most`: of a part
  static Slices of(const View& out, const View& in, int64_t most) {
    View slices[2] = {without_first(out), without_first(in)};
    join_dimensions(slices);
    Slices s = {slices[0], slices[1], out.stride[0], in.stride[0], 0, 0, 0};
    const int64_t n = last_dimension(s.out);
    const bool beside = last_stride(s.out) == 1 && last_stride(s.in) == 1;
    s.rows = row_count(s.out);
    s.part = beside ? min64(n, most) : 1;
    s.parts = s.part ? ceil_div(n, s.part) : 0;
    return s;
  }
  // Calls body(to, from, count): part `task` of the first slices. Tasks are rows * parts.
  template <class T, class Body>
  SONDE_INLINE void at(int64_t task, Body body) const {
    const int64_t row = task / parts, first = task % parts * part;
    const int64_t count = min64(part, last_dimension(out) - first);
    body(reinterpret_cast<T*>(row_at(out, row)) + first * last_stride(out),
         reinterpret_cast<const T*>(row_at(in, row)) + first * last_stride(in), count);
  }

 private:
  static View without_first(const View& x) {
    View slice;
    slice.data = x.data;
    slice.dtype = x.dtype;
    slice.rank = x.rank - 1;
    for (int d = 0; d < slice.rank; ++d) {
      slice.shape[d] = x.shape[d + 1];
      slice.stride[d] = x.stride[d + 1];
    }
    return slice;
  }
};

}  // namespace sonde::SONDE_ISA
