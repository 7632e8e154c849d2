// Sorts rows. A block takes a row: its candidates in order, in shared memory or, where they do not fit, in global memory.
#include "ranking.cuh"
#include "rows.cuh"
#include "slices.cuh"

namespace sonde {

namespace {

template <class T>
struct Sort {
  T* values;
  const T* in;
  int32_t* indices;
  Keys keys;
  Rows rows;
  int32_t flipped;      // -1: the smallest first
  uint64_t* workspace;  // power_of_two(length) entries for each block
};

template <class T>
__global__ void __launch_bounds__(kRankThreads, 2) sort_kernel(Sort<T> x) {
  SHARED(uint64_t, near, [kSharedList]);
  const int64_t n = x.rows.length, size = power_of_two(n);
  uint64_t* list = size <= kSharedList ? near : x.workspace + blockIdx.x * size;
  // a thread fills and reads the same places of the list
  for (int64_t i = blockIdx.x; i < x.rows.positions.count; i += gridDim.x) {
    const Row row = x.rows.row(i);
    for (int64_t j = threadIdx.x; j < size; j += kRankThreads) {
      list[j] = j < n ? candidate(x.keys.at(row.offset + j * row.stride) ^ x.flipped, j) : 0;
    }
    sort_descending(list, size);
    for (int64_t j = threadIdx.x; j < n; j += kRankThreads) {
      const int32_t index = index_of(list[j]);
      x.indices[i * n + j] = index;
      x.values[i * n + j] = x.in[row.offset + index * row.stride];
    }
  }
}

}  // namespace

Status sort(Context* context, Out values, Out indices, In x, bool descending) {
  if (element_count(x) == 0) return {};
  const Rows rows = Rows::of(x);
  const int64_t size = power_of_two(rows.length);
  int64_t blocks = min64(rows.positions.count, 65535);
  uint64_t* workspace = nullptr;
  if (size > kSharedList) {
    blocks = min64(blocks, context->multiprocessors);
    const size_t bytes = size_t(blocks * size) * sizeof(uint64_t);
    workspace = static_cast<uint64_t*>(scratch(context, kLists, bytes));
    if (!workspace) return no_scratch(context, bytes);
  }
  return with_bits(dtype_size(x.dtype), [&](auto bits) {
    using T = decltype(bits);
    const Sort<T> work = {static_cast<T*>(values.data),
                          static_cast<const T*>(x.data),
                          static_cast<int32_t*>(indices.data),
                          Keys{AnyElements::of(x)},
                          rows,
                          descending ? 0 : -1,
                          workspace};
    LAUNCH((sort_kernel<T>), dim3(unsigned(blocks)), dim3(kRankThreads), 0, context->stream, work);
    return Status();
  });
}

}  // namespace sonde
