// Writes one value to every element.
#include "elements.cuh"

namespace sonde {

namespace {

// int32 and bool do not go through float32, which has fewer digits
__global__ void __launch_bounds__(kThreads)
    fill_kernel(AnyElements out, Positions<1> positions, float value, int32_t whole) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[1];
  positions.at(i, offset);
  if (out.dtype == DType::int32) static_cast<int32_t*>(out.data)[offset[0]] = whole;
  else if (out.dtype == DType::boolean) static_cast<uint8_t*>(out.data)[offset[0]] = uint8_t(whole);
  else out.set(offset[0], value);
}

}  // namespace

Status fill(Context* context, Out out, double value) {
  const View* const views[] = {&out};
  const auto where = positions(views);
  if (where.count == 0) return {};
  int32_t whole = value != value           ? 0
                  : value >= 2147483647.0  ? INT32_MAX
                  : value <= -2147483648.0 ? INT32_MIN
                                           : int32_t(value);
  if (out.dtype == DType::boolean) whole = value != 0;
  LAUNCH(fill_kernel, dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         AnyElements::of(out), where, float(value), whole);
  return {};
}

}  // namespace sonde
