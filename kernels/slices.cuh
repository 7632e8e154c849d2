// The slices of two tensors along their first dimensions, moved as bits: as many bytes at a time as all of them allow.
#pragma once
#include "elements.cuh"

namespace sonde {

struct alignas(16) Bits128 {
  uint32_t x[4];
};

struct Slices {
  Positions<2> where;         // of the first slices: the result's and the source's
  int64_t out_step, in_step;  // from one slice to the next
};

// body(an integer of the size of an element)
template <class Body>
Status with_bits(int64_t size, Body body) {
  if (size == 4) return body(uint32_t());
  return size == 2 ? body(uint16_t()) : body(uint8_t());
}

// body(a value of the size that is moved at a time, the slices in that size)
template <class Body>
Status with_slices(View out, View in, Body body) {
  Slices slices = {{}, out.stride[0], in.stride[0]};
  for (View* view : {&out, &in}) {
    --view->rank;
    for (int d = 0; d < view->rank; ++d) {
      view->shape[d] = view->shape[d + 1];
      view->stride[d] = view->stride[d + 1];
    }
  }
  const View* const views[] = {&out, &in};
  slices.where = positions(views);
  Positions<2>& where = slices.where;
  const int64_t size = dtype_size(out.dtype), wide = int64_t(sizeof(Bits128)) / size;
  const auto fits = [&](const View& view, int64_t step) {
    return reinterpret_cast<uintptr_t>(view.data) % sizeof(Bits128) == 0 && step % wide == 0;
  };
  const bool flat = where.rank == 1 && where.stride[0][0] == 1 && where.stride[1][0] == 1;
  if (flat && where.count % wide == 0 && fits(out, slices.out_step) && fits(in, slices.in_step)) {
    where.count /= wide;
    where.shape[0] /= wide;
    slices.out_step /= wide;
    slices.in_step /= wide;
    return body(Bits128(), slices);
  }
  return with_bits(size, [&](auto bits) { return body(bits, slices); });
}

}  // namespace sonde
