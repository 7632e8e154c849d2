// Fused attention (Dao, "FlashAttention-2", arXiv 2307.08691): the scores of some queries with some keys at a time, a running maximum and
// sum per query, and no scores in memory.
//
// Which kernel takes a call depends on the GPU and on the call's dtype, channels, layout and scale: not on padding, on whether
// probabilities are asked for, or on how many rows there are. So a row has the same bits in any batch of one layout; in float32, unless
// its block holds NaN or infinities. (Where the items of a batch lie inside its positions, as in [positions, batch, heads, channels], the
// copy engine reads a batch of one only, and larger ones have another kernel.)
#include "attention_hopper.cuh"
#include "attention_mma.cuh"

namespace sonde {

namespace {

template <class E>
Status launch_wide(Context* context, const Attention<E>& x) {
  const int64_t count = x.shape.batch * x.shape.queries * x.shape.heads;
  LAUNCH((wide_attention_kernel<E>), dim3(unsigned(ceil_div(count * kWarp, kThreads))), dim3(kThreads), 0,
         context->stream, x, count);
  return {};
}

template <class E>
int width_of(const Attention<E>& x) {
  return x.shape.channels > x.shape.values ? x.shape.channels : x.shape.values;
}

// The other kernels look for the largest score before they multiply it by the scale.
template <class E>
bool takes_wide(const Attention<E>& x) {
  return width_of(x) > 128 || !(x.factor > 0 && x.factor < INFINITY);
}

// Whether the kernel writes the planes of its result itself.
template <class E>
bool writes_planes(const Attention<E>& x) {
  return kParts<E> == 3 && !takes_wide(x) && x.vectors && x.shape.values > 0 && x.shape.values % kSplitChunk == 0;
}

template <class E>
Status launch(Context* context, const Attention<E>& x) {
  const int width = width_of(x);
  if (takes_wide(x)) return launch_wide(context, x);
  if constexpr (kParts<E> == 1) {
    HopperMaps<E> maps;
    if (context->capability == 90 && maps.make(x)) {
      if (width <= 64) return launch_hopper_attention<E, 64>(context, maps, x);
      return launch_hopper_attention<E, 128>(context, maps, x);
    }
  }
  const auto divides = [](int channels) { return kParts<E> == 1 || (channels > 0 && channels % 4 == 0); };
  const bool fast = x.q.aligned && x.k.aligned && x.v.aligned && divides(x.shape.channels) && divides(x.shape.values);
  if (width <= 64) return fast ? launch_attention<E, 64, true>(context, x) : launch_attention<E, 64, false>(context, x);
  return fast ? launch_attention<E, 128, true>(context, x) : launch_attention<E, 128, false>(context, x);
}

}  // namespace

Status attention(Context* context, Out out, Out planes, Out probs, In q, In k, In v, In pad, bool causal,
                 double scale) {
  if (k.shape[1] > INT32_MAX / 2) return fail("%lld keys are too many", (long long)k.shape[1]);
  const Shape shape = {q.shape[0], q.shape[2], int(q.shape[1]), int(k.shape[1]), int(q.shape[3]), int(v.shape[3])};
  const int64_t count = shape.batch * shape.queries * shape.heads, rows = shape.batch * shape.queries;
  if (count == 0 || (shape.values == 0 && !probs.data)) return {};
  const auto run = [&](auto elements) -> Status {
    using E = decltype(elements);
    Attention<E> x = {};
    x.shape = shape;
    x.q = Heads<E>::of(q);
    x.k = Heads<E>::of(k);
    x.v = Heads<E>::of(v);
    x.out = E::of(out);
    x.vectors =
        reinterpret_cast<uintptr_t>(out.data) % 16 == 0 && shape.values * int64_t(sizeof(*x.out.data)) % 16 == 0;
    x.probs = E::of(probs);
    for (int d = 0; d < 4 && probs.data; ++d) x.probs_stride[d] = probs.stride[d];
    x.pad = static_cast<const uint8_t*>(pad.data);
    x.causal = causal;
    x.scale = float(scale);
    x.factor = float(scale * 1.4426950408889634);
    if (!planes.data || !writes_planes(x)) {
      const Status status = launch(context, x);
      if (status.failed() || !planes.data) return status;
      return write_planes(context, planes, out, rows, shape.heads * shape.values);
    }
    const SplitOperand operand = planes_in(planes, rows, shape.heads * shape.values);
    x.planes = Planes::of(operand);
    const Status status = clear_flags(context, operand);
    return status.failed() ? status : launch(context, x);
  };
  switch (q.dtype) {
    case DType::float32: return run(Elements<float>());
    case DType::bfloat16: return run(Elements<Bf16>());
    default: return run(Elements<Half>());
  }
}

}  // namespace sonde
