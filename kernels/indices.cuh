// Indices that come from the user's data, checked by a kernel of their own: nothing may be written if one is wrong.
#pragma once
#include "elements.cuh"

namespace sonde {

// Reports the indices outside [0, limit), and sets *wrong if there is one.
static __global__ void __launch_bounds__(kThreads)
    check_indices_kernel(const int32_t* indices, Positions<1> positions, int64_t limit, Failure* failure, int* wrong) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[1];
  positions.at(i, offset);
  if (!is_index(failure, indices[offset[0]], i, limit)) atomicMax(wrong, 1);
}

// Checks them all. *wrong, in the device's memory, is then 1 if there is an index outside, else 0.
static Status check_indices(Context* context, const View& indices, int64_t limit, Failure** failure, int** wrong) {
  Status status;
  *failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  *wrong = static_cast<int*>(scratch(context, kSmall, sizeof(int)));
  if (!*wrong) return no_scratch(context, sizeof(int));
  cudaMemsetAsync(*wrong, 0, sizeof(int), context->stream);
  const View* const views[] = {&indices};
  const auto where = positions(views);
  if (where.count == 0) return {};
  LAUNCH(check_indices_kernel, dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         static_cast<const int32_t*>(indices.data), where, limit, *failure, *wrong);
  return {};
}

}  // namespace sonde
