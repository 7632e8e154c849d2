// Applies attention's mask to stored logits.
#include "elements.cuh"

namespace sonde {

namespace {

struct Mask {
  AnyElements logits;
  int64_t heads, queries, keys;
  int64_t stride[4];
  const uint8_t* pad;  // [batch, keys] or null
  bool causal;
};

__global__ void __launch_bounds__(kThreads) mask_kernel(Mask m, int64_t count) {
  int64_t rest = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (rest >= count) return;
  const int64_t key = rest % m.keys;
  rest /= m.keys;
  const int64_t row = rest % m.queries, query = m.keys - m.queries + row;
  rest /= m.queries;
  const int64_t head = rest % m.heads, batch = rest / m.heads;
  const bool beyond = m.causal && key > query;
  const bool apart = m.pad && (m.pad[batch * m.keys + key] != 0) != (m.pad[batch * m.keys + query] != 0);
  if (!beyond && !apart) return;
  m.logits.set(batch * m.stride[0] + head * m.stride[1] + row * m.stride[2] + key * m.stride[3], -INFINITY);
}

}  // namespace

Status mask_logits(Context* context, Out logits, In pad, bool causal) {
  const int64_t count = element_count(logits);
  if (count == 0) return {};
  const Mask m = {AnyElements::of(logits),
                  logits.shape[1],
                  logits.shape[2],
                  logits.shape[3],
                  {logits.stride[0], logits.stride[1], logits.stride[2], logits.stride[3]},
                  static_cast<const uint8_t*>(pad.data),
                  causal};
  LAUNCH(mask_kernel, dim3(unsigned(ceil_div(count, kThreads))), dim3(kThreads), 0, context->stream, m, count);
  return {};
}

}  // namespace sonde
