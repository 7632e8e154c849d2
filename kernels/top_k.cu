// Finds the k largest of each row: as values and indices, or as a copy of the row with zeros elsewhere. A block takes a row: it finds
// the k-th largest, and the elements that are not smaller are the k largest.
#include "ranking.cuh"
#include "rows.cuh"

namespace sonde {

namespace {

struct TopK {
  Keys keys;
  Rows rows;
  int64_t k;
  uint64_t* workspace;  // global memory for lists that do not fit shared memory: power_of_two(k) entries for each block
};

// Leaves the row's k best candidates in `list`, in no order.
SONDE_DEVICE void collect(const TopK& x, const Row& row, uint64_t* list, unsigned* counts, uint64_t* found,
                          unsigned* length) {
  const auto get = [&](int64_t i) { return candidate(x.keys.at(row.offset + i * row.stride), i); };
  const uint64_t least = kth_largest(get, x.rows.length, x.k, counts, found);
  if (threadIdx.x == 0) *length = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < x.rows.length; i += kRankThreads) {
    const uint64_t c = get(i);
    if (c >= least) list[atomicAdd(length, 1u)] = c;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kRankThreads, 2) top_k_kernel(AnyElements values, int32_t* indices, TopK x) {
  SHARED(uint64_t, near, [kSharedList]);
  SHARED(unsigned, counts, [kCounters]);
  SHARED(uint64_t, found, [2]);
  SHARED(unsigned, length, [1]);
  const int64_t size = power_of_two(x.k);
  uint64_t* list = size <= kSharedList ? near : x.workspace + blockIdx.x * size;
  for (int64_t i = blockIdx.x; i < x.rows.positions.count; i += gridDim.x) {
    const Row row = x.rows.row(i);
    collect(x, row, list, counts, found, length);
    for (int64_t j = x.k + threadIdx.x; j < size; j += kRankThreads) list[j] = 0;
    sort_descending(list, size);
    for (int64_t j = threadIdx.x; j < x.k; j += kRankThreads) {
      const int32_t index = index_of(list[j]);
      indices[i * x.k + j] = index;
      const int64_t from = row.offset + index * row.stride;
      if (values.dtype == DType::int32) {
        static_cast<int32_t*>(values.data)[i * x.k + j] = static_cast<const int32_t*>(x.keys.x.data)[from];
      } else {
        values.set(i * x.k + j, x.keys.x.get(from));
      }
    }
    __syncthreads();  // the list is filled anew
  }
}

__global__ void __launch_bounds__(kRankThreads) top_k_mask_kernel(AnyElements out, TopK x, bool relu) {
  SHARED(unsigned, counts, [kCounters]);
  SHARED(uint64_t, found, [2]);
  for (int64_t i = blockIdx.x; i < x.rows.positions.count; i += gridDim.x) {
    const Row row = x.rows.row(i);
    const auto get = [&](int64_t j) { return candidate(x.keys.at(row.offset + j * row.stride), j); };
    const uint64_t least = x.k > 0 ? kth_largest(get, x.rows.length, x.k, counts, found) : ~uint64_t(0);
    for (int64_t j = threadIdx.x; j < x.rows.length; j += kRankThreads) {
      const uint64_t c = get(j);
      const bool kept = x.k > 0 && c >= least && !(relu && key_of(c) < 0);
      const int64_t to = i * x.rows.length + j, from = row.offset + j * row.stride;
      if (out.dtype == DType::int32) {
        static_cast<int32_t*>(out.data)[to] = kept ? static_cast<const int32_t*>(x.keys.x.data)[from] : 0;
      } else {
        out.set(to, kept ? x.keys.x.get(from) : 0.0f);
      }
    }
  }
}

}  // namespace

Status top_k(Context* context, Out values, Out indices, In x) {
  const int64_t k = last_dimension(values);
  if (element_count(values) == 0) return {};
  TopK work = {Keys{AnyElements::of(x)}, Rows::of(x), k, nullptr};
  int64_t blocks = min64(work.rows.positions.count, 65535);
  if (power_of_two(k) > kSharedList) {
    blocks = min64(blocks, context->multiprocessors);
    const size_t bytes = size_t(blocks * power_of_two(k)) * sizeof(uint64_t);
    work.workspace = static_cast<uint64_t*>(scratch(context, kLists, bytes));
    if (!work.workspace) return no_scratch(context, bytes);
  }
  LAUNCH(top_k_kernel, dim3(unsigned(blocks)), dim3(kRankThreads), 0, context->stream, AnyElements::of(values),
         static_cast<int32_t*>(indices.data), work);
  return {};
}

Status top_k_mask(Context* context, Out out, In x, int64_t k, bool relu) {
  if (element_count(out) == 0) return {};
  const TopK work = {Keys{AnyElements::of(x)}, Rows::of(x), k, nullptr};
  LAUNCH(top_k_mask_kernel, dim3(unsigned(min64(work.rows.positions.count, 65535))), dim3(kRankThreads), 0,
         context->stream, AnyElements::of(out), work, relu);
  return {};
}

}  // namespace sonde
