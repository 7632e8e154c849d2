// Multiplies sparse rows by a packed matrix: a block gathers the weights of a row's entries. A sum starts from the bias and takes
// its entries in their order.
#include "elements.cuh"
#include "packed.h"

namespace sonde {

namespace {

constexpr int kDecodeThreads = 128;

template <class W>
struct Decode {
  AnyElements out, bias;
  W w;
  const int32_t *row_ptr, *indices;
  const float* values;
  int64_t m, n, k, entries;
  Failure* failure;
};

template <class W>
__global__ void __launch_bounds__(kDecodeThreads) decode_kernel(Decode<W> x) {
  const int64_t row = blockIdx.x, column = (int64_t(blockIdx.y) * kDecodeThreads + threadIdx.x) * 4;
  int64_t first = x.row_ptr[row], last = x.row_ptr[row + 1];
  if (first < 0 || first > last || last > x.entries) {
    if (column == 0) report(x.failure, kBadPointer, row, x.entries, first, last);
    first = last = 0;
  }
  const int width = int(min64(4, x.n - column));
  const bool whole = !kIsAny<W> && width == 4 && x.n % 4 == 0;
  // loops of four whatever the width is: an array that is indexed at run time would lie in local memory
  float sum[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) sum[j] = j < width && x.bias.data ? x.bias.get(column + j) : 0.0f;
  for (int64_t i = first; i < last; ++i) {
    const int32_t index = x.indices[i];
    if (index < 0 || index >= x.k) {
      if (column == 0) report(x.failure, kBadEntry, index, i, x.k);
      continue;
    }
    const float value = x.values[i];
    const int64_t at = index * x.n + column;
    float w[4] = {};
    if (whole) {
      x.w.get4(w, at);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < width) w[j] = x.w.get(at + j);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] = fmaf(value, w[j], sum[j]);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < width) x.out.set(row * x.n + column + j, sum[j]);
  }
}

}  // namespace

Status sparse_decode(Context* context, Out out, In row_ptr, In indices, In values, Packed w, In bias) {
  const int64_t m = out.shape[0], n = out.shape[1];
  if (m == 0 || n == 0) return {};
  const int64_t blocks = ceil_div(n, kDecodeThreads * 4);
  if (blocks > 65535) return fail("a matrix of %lld columns is too wide", (long long)n);
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  return with_elements(
      [&](auto elements) {
        using W = decltype(elements);
        const Decode<W> x = {AnyElements::of(out),
                             AnyElements::of(bias),
                             W::of(w),
                             static_cast<const int32_t*>(row_ptr.data),
                             static_cast<const int32_t*>(indices.data),
                             static_cast<const float*>(values.data),
                             m,
                             n,
                             w.shape[0],
                             indices.shape[0],
                             failure};
        LAUNCH((decode_kernel<W>), dim3(unsigned(m), unsigned(blocks)), dim3(kDecodeThreads), 0, context->stream, x);
        return Status();
      },
      w);
}

}  // namespace sonde
