// Copies and converts between any strides. Dimensions that are contiguous in both views are merged into one. Where the
// source is contiguous along another dimension than the output (a transpose), blocks keep its cache lines in use.
#include "../integers.h"
#include "moves.h"
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

// Whether float32 in between loses nothing: int32 to int32 or bool would lose digits.
bool exact(DType from, DType to) { return from != DType::int32 || (to != DType::int32 && to != DType::boolean); }

bool is_float(DType dtype) { return dtype != DType::int32 && dtype != DType::boolean; }

// Returns the index of the first of n floats that int32 does not hold, or -1.
int64_t outside_int32(const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const vf v = load(x + i);
    if (not_at_most_bits(broadcast(-2147483648.0f), v) || not_at_most_bits(v, broadcast(2147483520.0f))) break;
  }
  while (i < n && x[i] >= -2147483648.0f && x[i] < 2147483648.0f) ++i;
  return i < n ? i : -1;
}

// Returns the index of the first element that out's dtype does not hold, or -1.
int64_t copy_row(char* to, const View& out, const char* from, const View& x, int64_t n, int64_t to_stride,
                 int64_t from_stride, float* scratch) {
  if (out.dtype == x.dtype) {
    const int64_t size = dtype_size(x.dtype);
    with_bits(size, [&](auto bits) {
      using T = decltype(bits);
      move(reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from), n, to_stride, from_stride);
    });
    return -1;
  }
  if (!exact(x.dtype, out.dtype)) {  // int32 to bool
    for (int64_t i = 0; i < n; ++i) {
      to[i * to_stride] = reinterpret_cast<const int32_t*>(from)[i * from_stride] != 0;
    }
    return -1;
  }
  const float* row = read_row(from, x.dtype, from_stride, n, scratch);
  write_row(to, out.dtype, to_stride, n, row);
  return out.dtype == DType::int32 && is_float(x.dtype) ? outside_int32(row, n) : -1;
}

Status failed_at(const Failures& failures, const View& x) {
  if (!failures.any()) return {};
  const int64_t n = last_dimension(x), at = failures.first();
  float wide;
  const char* from = row_at(x, at / n) + at % n * last_stride(x) * dtype_size(x.dtype);
  return not_int32(at, *read_row(from, x.dtype, 1, 1, &wide));
}

}  // namespace

Status copy(Context* context, Out out, In x) {
  if (element_count(out) == 0) return {};
  View a = out, b = x;
  simplify(a, b);
  const int64_t n = last_dimension(a), to = last_stride(a), from = last_stride(b);
  const int64_t to_size = dtype_size(a.dtype), from_size = dtype_size(b.dtype);
  constexpr int64_t kChunk = 4096, kBlock = 32;
  if (!reserve_rows(context, 1, kChunk)) return out_of_memory("a row");
  Failures failures;
  const bool transposes = a.rank >= 2 && to == 1 && from != 1 && b.stride[b.rank - 2] == 1;
  if (transposes) {
    // blocks of 32 rows and columns, so that every cache line of the source is used whole while it is in the cache
    const int64_t height = a.shape[a.rank - 2], bands = ceil_div(height, kBlock);
    View a_lead = a, b_lead = b;
    a_lead.rank = b_lead.rank = a.rank - 1;
    each_row(context, row_count(a_lead) * bands, kBlock * n, [&](int64_t task, int thread) {
      const int64_t first = task % bands * kBlock, rows = min64(kBlock, height - first);
      char* t = row_at(a_lead, task / bands) + first * a.stride[a.rank - 2] * to_size;
      const char* f = row_at(b_lead, task / bands) + first * from_size;
      float* scratch = row_scratch(context, thread, 1, kChunk, 0);
      for (int64_t column = 0; column < n; column += kBlock) {
        const int64_t count = min64(kBlock, n - column);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t bad = copy_row(t + (r * a.stride[a.rank - 2] + column) * to_size, a,
                                       f + (r + column * from) * from_size, b, count, 1, from, scratch);
          if (bad >= 0) failures.at((task / bands * height + first + r) * n + column + bad);
        }
      }
    });
    return failed_at(failures, b);
  }
  const int64_t chunks = ceil_div(n, kChunk);
  each_row(context, row_count(a) * chunks, min64(kChunk, n), [&](int64_t task, int thread) {
    const int64_t row = task / chunks, at = task % chunks * kChunk, count = min64(kChunk, n - at);
    const int64_t bad = copy_row(row_at(a, row) + at * to * to_size, a, row_at(b, row) + at * from * from_size, b,
                                 count, to, from, row_scratch(context, thread, 1, kChunk, 0));
    if (bad >= 0) failures.at(row * n + at + bad);
  });
  return failed_at(failures, b);
}

}  // namespace sonde::SONDE_ISA
