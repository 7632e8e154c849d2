// Writes slices of a tensor, at a list of indices. For each index that is named, a table has the last place in the list that
// names it: that slice is written, and no other.
#include "indices.cuh"
#include "slices.cuh"

namespace sonde {

namespace {

struct List {
  const int32_t* indices;
  int64_t step, count;
  const int* wrong;  // 1: nothing is written
  int32_t* last;     // an entry for each index that can be named
};

__global__ void __launch_bounds__(kThreads) find_last_kernel(List list) {
  const int64_t j = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (j < list.count && !*list.wrong) atomicMax(&list.last[list.indices[j * list.step]], int32_t(j));
}

// A thread moves a value.
template <class T>
__global__ void __launch_bounds__(kThreads) index_copy_kernel(T* out, const T* source, List list, Slices slices) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= list.count * slices.where.count || *list.wrong) return;
  const int64_t j = i / slices.where.count, within = i - j * slices.where.count;
  const int32_t index = list.indices[j * list.step];
  if (list.last[index] != j) return;
  int64_t offset[2];
  slices.where.at(within, offset);
  out[offset[0] + index * slices.out_step] = source[offset[1] + j * slices.in_step];
}

}  // namespace

Status index_copy(Context* context, Out out, In indices, In source) {
  Failure* failure = nullptr;
  int* wrong = nullptr;
  const Status status = check_indices(context, indices, out.shape[0], &failure, &wrong);
  if (status.failed() || element_count(source) == 0) return status;
  const size_t bytes = size_t(out.shape[0]) * sizeof(int32_t);
  auto* last = static_cast<int32_t*>(scratch(context, kLists, bytes));
  if (!last) return no_scratch(context, bytes);
  const List list = {static_cast<const int32_t*>(indices.data), indices.stride[0], indices.shape[0], wrong, last};
  cudaMemsetAsync(last, 0xff, bytes, context->stream);  // -1
  LAUNCH(find_last_kernel, dim3(unsigned(ceil_div(list.count, kThreads))), dim3(kThreads), 0, context->stream, list);
  return with_slices(out, source, [&](auto bits, const Slices& slices) {
    using T = decltype(bits);
    LAUNCH((index_copy_kernel<T>), dim3(unsigned(ceil_div(list.count * slices.where.count, kThreads))), dim3(kThreads),
           0, context->stream, static_cast<T*>(out.data), static_cast<const T*>(source.data), list, slices);
    return Status();
  });
}

}  // namespace sonde
