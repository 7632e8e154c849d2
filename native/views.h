// Properties of views that the addon, the backends and their kernels compute, and the integer arithmetic for it. Every
// function has internal linkage: native/cpu is compiled once per instruction set, and the linker must not keep a copy
// that was compiled for one set instead of all copies. No C++ library header is included, for the same reason.
#pragma once
#include "ops.h"

#ifdef __CUDACC__
#define SONDE_HOST_DEVICE __host__ __device__
#else
#define SONDE_HOST_DEVICE
#endif

namespace sonde {

SONDE_HOST_DEVICE static constexpr int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
SONDE_HOST_DEVICE static constexpr int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
SONDE_HOST_DEVICE static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
SONDE_HOST_DEVICE static constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
// for sizes of memory, which may be larger than any int64_t
static constexpr size_t round_up_bytes(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

// ---- leading dimensions: all but the last `inner`

static inline int64_t leading_count(const View& x, int inner) {
  int64_t count = 1;
  for (int d = 0; d + inner < x.rank; ++d) count *= x.shape[d];
  return count;
}
// The offset, in elements, of entry `i` of the leading dimensions in row-major order.
static inline int64_t leading_offset(const View& x, int inner, int64_t i) {
  int64_t offset = 0;
  for (int d = x.rank - 1 - inner; d >= 0; --d) {
    offset += i % x.shape[d] * x.stride[d];
    i /= x.shape[d];
  }
  return offset;
}

static inline int64_t element_count(const View& x) { return leading_count(x, 0); }

// ---- rows: the last dimension; a scalar is one row of one element

static inline int64_t row_count(const View& x) { return leading_count(x, 1); }
static inline int64_t last_dimension(const View& x) { return x.rank ? x.shape[x.rank - 1] : 1; }
static inline int64_t last_stride(const View& x) { return x.rank ? x.stride[x.rank - 1] : 1; }

// ---- row-major views without gaps

static inline bool is_contiguous(const View& x) {
  int64_t step = 1;
  for (int d = x.rank - 1; d >= 0; --d) {
    if (x.shape[d] != 1 && x.stride[d] != step) return false;
    step *= x.shape[d];
  }
  return true;
}
// Memory at `data` as a contiguous view of the shape of `like`.
template <class T = View>
static inline T contiguous_view(const View& like, void* data, DType dtype) {
  T view;
  view.data = data;
  view.dtype = dtype;
  view.rank = like.rank;
  int64_t step = 1;
  for (int d = like.rank - 1; d >= 0; --d) {
    view.shape[d] = like.shape[d];
    view.stride[d] = step;
    step *= like.shape[d];
  }
  return view;
}

}  // namespace sonde
