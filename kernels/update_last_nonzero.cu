// Counts, for each latent, the calls since it was last active, the present one included.
#include "elements.cuh"

namespace sonde {

namespace {

constexpr int kColumns = 32;

// A block takes 32 columns; its eight warps share the rows.
__global__ void __launch_bounds__(kThreads)
    update_last_nonzero_kernel(int32_t* stats, int64_t stride, AnyElements latents, int64_t rows, int64_t n) {
  SHARED(unsigned, fired, [kColumns]);
  const int lane = int(threadIdx.x) % kColumns;
  const int64_t column = int64_t(blockIdx.x) * kColumns + lane;
  if (threadIdx.x < kColumns) fired[lane] = 0;
  __syncthreads();
  bool any = false;
  for (int64_t row = threadIdx.x / kColumns; column < n && row < rows; row += kThreads / kColumns) {
    any = any || latents.get(row * n + column) != 0;
  }
  if (any) atomicOr(&fired[lane], 1u);
  __syncthreads();
  if (threadIdx.x >= kColumns || column >= n) return;
  const int32_t before = fired[lane] ? 0 : stats[column * stride];
  stats[column * stride] = before == INT32_MAX ? before : before + 1;
}

}  // namespace

Status update_last_nonzero(Context* context, Out stats, In latents) {
  const int64_t rows = latents.shape[0], n = latents.shape[1];
  if (n == 0) return {};
  LAUNCH(update_last_nonzero_kernel, dim3(unsigned(ceil_div(n, kColumns))), dim3(kThreads), 0, context->stream,
         static_cast<int32_t*>(stats.data), stats.stride[0], AnyElements::of(latents), rows, n);
  return {};
}

}  // namespace sonde
