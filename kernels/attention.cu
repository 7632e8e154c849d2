// Fused attention (Dao, "FlashAttention-2", arXiv 2307.08691): a block takes 64 queries of one head and goes over the keys 64 at a
// time (or 16), with a running maximum and sum per query; the scores live in registers. Warps take 16 queries each, products run on the
// tensor cores (mma.sync). Under the causal mask a block looks no further than its last query may.
//
// float32 is split into three bfloat16 parts, x = a + b + c, of whose products the six largest are computed: as accurate as float32's
// own, over its whole range. The tensor cores truncate their sums instead of rounding, so sums over keys are added up in registers
// after every step.
//
// Probabilities, where they are asked for, take a second sweep, when each query's maximum and sum are known.
#include "rows.cuh"
#include "split_operand.cuh"

namespace sonde {

namespace {

struct Shape {
  int64_t batch, heads;
  int queries, keys, channels, values;
};

// One of q, k, v: [batch, positions, heads, channels], last stride 1.
template <class E>
struct Heads {
  E x;
  int64_t batch, position, head;
  bool aligned;  // four neighbours can be read at once
  bool chunked;  // 16 bytes can be copied at once

  static Heads of(const View& view) {
    const int64_t(&s)[kMaxRank] = view.stride;
    const auto divide = [&](int64_t n) { return s[0] % n == 0 && s[1] % n == 0 && s[2] % n == 0; };
    const bool chunked = reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && divide(8);
    return {E::of(view), s[0], s[1], s[2], E::aligned(view) && divide(4), chunked};
  }
};

template <class E>
struct Attention {
  Shape shape;
  Heads<E> q, k, v;
  E out;
  E probs;  // null data: not asked for
  int64_t probs_stride[4];
  const uint8_t* pad;  // [batch, keys] or null
  bool causal;
  float scale;
};

constexpr int kBlock = 64;  // queries of a block
constexpr int kAttentionThreads = 128;

template <class E>
constexpr int kParts = 1;
template <>
constexpr int kParts<Elements<float>> = 3;

// Stages in shared memory: where there is one part, the next step's keys and values are copied while this step is computed.
template <class E>
constexpr int kStages = kParts<E> == 1 ? 2 : 1;

// keys of a step: fewer where three parts of 128 channels fill the registers
template <class E, int kWidth>
constexpr int kKeys = kParts<E> == 3 && kWidth == 128 ? 16 : 64;

template <class E>
SONDE_DEVICE void product16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kParts<E> == 1 && !kIsBf16<E>) mma_f16(d, a, b0, b1);
  else mma_bf16(d, a, b0, b1);
}

// x as its parts
template <class E>
SONDE_DEVICE void parts_of(float x, uint16_t (&part)[kParts<E>]) {
  if constexpr (kParts<E> == 3) {
    for (int i = 0; i < 3; ++i) {
      part[i] = float_to_bf16(x);
      x -= bf16_to_float(part[i]);
    }
  } else if constexpr (kIsBf16<E>) {
    part[0] = float_to_bf16(x);
  } else {
    part[0] = float_to_half(x);
  }
}

// Loads kRows positions of one head into shared memory, a matrix per part, rows kPitch apart, zeros outside. Returns whether this
// thread met a value that its parts do not represent.
template <class E, int kWidth, int kRows>
SONDE_DEVICE bool load_block(uint16_t* to, const Heads<E>& from, int64_t offset, int first, int count, int channels) {
  constexpr int kPitch = kWidth + 8, kPartSize = kRows * kPitch;
  bool bad = false;
#pragma unroll(kParts <E> == 3 ? 1 : 4)
  for (int i = int(threadIdx.x); i < kRows * kWidth / 4; i += kAttentionThreads) {
    const int row = i / (kWidth / 4), c = i % (kWidth / 4) * 4;
    float x[4] = {};
    if (first + row < count && c < channels) {
      const int64_t at = offset + int64_t(first + row) * from.position + c;
      if (from.aligned && c + 4 <= channels) {
        from.x.get4(x, at);
      } else {
        for (int j = 0; j < 4 && c + j < channels; ++j) x[j] = from.x.get(at + j);
      }
    }
    uint16_t parts[4][kParts<E>];
    for (int j = 0; j < 4; ++j) {
      parts_of<E>(x[j], parts[j]);
      bad = bad || (kParts<E> > 1 && !(fabsf(x[j]) <= 3.38e38f));  // above, it rounds to infinity
    }
    for (int p = 0; p < kParts<E>; ++p) {
      uint2 four;
      four.x = uint32_t(parts[0][p]) | uint32_t(parts[1][p]) << 16;
      four.y = uint32_t(parts[2][p]) | uint32_t(parts[3][p]) << 16;
      *reinterpret_cast<uint2*>(to + p * kPartSize + row * kPitch + c) = four;
    }
  }
  return bad;
}

// As load_block, by asynchronous copies where memory is aligned for them.
template <class E, int kWidth, int kRows>
SONDE_DEVICE bool begin_block(uint16_t* to, const Heads<E>& from, int64_t offset, int first, int count, int channels) {
  if constexpr (kParts<E> == 1) {
    if (from.chunked) {
      for (int i = int(threadIdx.x); i < kRows * kWidth / 8; i += kAttentionThreads) {
        const int row = i / (kWidth / 8), c = i % (kWidth / 8) * 8, left = channels - c;
        const int inside = first + row >= count || left < 0 ? 0 : left < 8 ? left : 8;
        const int64_t at = inside ? offset + int64_t(first + row) * from.position + c : 0;
        cp_async16(to + row * (kWidth + 8) + c, from.x.data + at, inside * 2);
      }
      return false;
    }
  }
  return load_block<E, kWidth, kRows>(to, from, offset, first, count, channels);
}

// The parts that the p-th of six products multiplies, the smallest product first: 1 1, 0 2, 2 0, 0 1, 1 0, 0 0.
__host__ __device__ constexpr int left_part(int p) { return p == 0 || p == 4 ? 1 : p == 2 ? 2 : 0; }
__host__ __device__ constexpr int right_part(int p) { return p == 0 || p == 3 ? 1 : p == 1 ? 2 : 0; }

// The warp's 16 queries times a step's keys, scaled and masked: s[j] are columns 8 j + lane % 4 * 2 (+1) of rows lane / 4 (+8).
template <class E, int kWidth>
SONDE_DEVICE void scores(float (&s)[kKeys<E, kWidth> / 8][4], const uint16_t* queries, const uint16_t* keys,
                         const Attention<E>& x, int64_t batch, int first_query, int first_key) {
  constexpr int kPitch = kWidth + 8, kSteps = kKeys<E, kWidth> / 8;
  const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16;
#pragma unroll
  for (int j = 0; j < kSteps; ++j) {
    for (int i = 0; i < 4; ++i) s[j][i] = 0;
  }
  constexpr int kProducts = kParts<E> == 3 ? 6 : 1;
#pragma unroll 1
  for (int c = 0; c < kWidth; c += 16) {
#pragma unroll
    for (int p = 6 - kProducts; p < 6; ++p) {
      uint32_t a[4];
      ldmatrix_x4(a, queries + left_part(p) * kBlock * kPitch + (warp_row + lane % 16) * kPitch + c + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < kSteps; j += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, keys + right_part(p) * kSteps * 8 * kPitch + (j * 8 + lane % 8 + lane / 16 * 8) * kPitch + c +
                           lane / 8 % 2 * 8);
        product16<E>(s[j], a, b[0], b[1]);
        product16<E>(s[j + 1], a, b[2], b[3]);
      }
    }
  }
  const int before = x.shape.keys - x.shape.queries;
  const bool masked = x.pad || first_key + kSteps * 8 > x.shape.keys ||
                      (x.causal && first_key + kSteps * 8 - 1 > before + first_query + warp_row);
#pragma unroll
  for (int j = 0; j < kSteps; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[j][i] *= x.scale;
      if (!masked) continue;
      const int key = first_key + j * 8 + lane % 4 * 2 + i % 2;
      const int query = before + first_query + warp_row + lane / 4 + i / 2 * 8;
      bool hidden = key >= x.shape.keys || (x.causal && key > query);
      if (!hidden && x.pad && query < x.shape.keys) {
        const uint8_t* pad = x.pad + batch * x.shape.keys;
        hidden = (pad[key] != 0) != (pad[query] != 0);
      }
      if (hidden) s[j][i] = -INFINITY;
    }
  }
}

SONDE_DEVICE float quad_max(float v) {
  for (int step = 1; step < 4; step *= 2) {
    const float other = __shfl_xor_sync(kAll, v, step);
    v = other > v ? other : v;
  }
  return v;
}
SONDE_DEVICE float quad_sum(float v) {
  for (int step = 1; step < 4; step *= 2) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

SONDE_DEVICE uint32_t pair(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

// One query by a warp, in plain float32, for any number of channels: slow. For heads that are too wide for the kernel below, and
// for blocks with infinities or NaN, which parts do not represent.
constexpr int kWideHeld = 8;  // values a lane adds up at a time

template <class E>
__device__ __noinline__ void attend_alone(const Attention<E>& x, int64_t batch, int64_t head, int64_t row) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t query = x.shape.keys - x.shape.queries + row;
  const uint8_t* pad = x.pad ? x.pad + batch * x.shape.keys : nullptr;
  const int64_t seen = x.causal ? query + 1 : x.shape.keys;
  const int64_t q = batch * x.q.batch + row * x.q.position + head * x.q.head;
  const auto score = [&](int64_t key) {
    if (pad && (pad[key] != 0) != (pad[query] != 0)) return -INFINITY;
    const int64_t k = batch * x.k.batch + key * x.k.position + head * x.k.head;
    float sum = 0;
    for (int c = lane; c < x.shape.channels; c += kWarp) sum = fmaf(x.q.x.get(q + c), x.k.x.get(k + c), sum);
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    return sum * x.scale;
  };
  float largest = -INFINITY, total = 0;
  for (int64_t key = 0; key < seen; ++key) {
    const float s = score(key), most = s > largest ? s : largest, base = most == -INFINITY ? 0.0f : most;
    total = total * expf(largest - base) + expf(s - base);
    largest = most;
  }
  const float base = largest == -INFINITY ? 0.0f : largest;
  const int64_t out = ((batch * x.shape.queries + row) * x.shape.heads + head) * x.shape.values;
  for (int first = 0; first < x.shape.values; first += kWarp * kWideHeld) {
    float sum[kWideHeld] = {};
    for (int64_t key = 0; key < seen; ++key) {
      const float p = expf(score(key) - base);
      const int64_t v = batch * x.v.batch + key * x.v.position + head * x.v.head;
      for (int j = 0; j < kWideHeld; ++j) {
        const int c = first + j * kWarp + lane;
        if (c < x.shape.values) sum[j] = fmaf(p, x.v.x.get(v + c), sum[j]);
      }
    }
    for (int j = 0; j < kWideHeld; ++j) {
      const int c = first + j * kWarp + lane;
      if (c < x.shape.values) x.out.set(out + c, sum[j] / total);
    }
  }
  if (!x.probs.data) return;
  for (int64_t key = 0; key < x.shape.keys; ++key) {
    const float p = key < seen ? expf(score(key) - base) / total : total > 0 ? 0.0f : NAN;
    const int64_t(&to)[4] = x.probs_stride;
    if (lane == 0) x.probs.set(batch * to[0] + row * to[1] + key * to[2] + head * to[3], p);
  }
}

template <class E>
__global__ void __launch_bounds__(kThreads)
    wide_attention_kernel(const __grid_constant__ Attention<E> x, int64_t count) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (i >= count) return;
  const int64_t row = i / x.shape.heads % x.shape.queries;
  attend_alone(x, i / x.shape.heads / x.shape.queries, i % x.shape.heads, row);
}

// kWidth: channels of queries and keys, and of values, rounded up to 64 or 128
template <class E, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kParts<E> == 3 ? 1 : 2)
    attention_kernel(const __grid_constant__ Attention<E> x, int64_t pairs) {
  constexpr int kPitch = kWidth + 8, kStep = kKeys<E, kWidth>, kPartSize = kStep * kPitch;
  DYNAMIC_SHARED(uint16_t, shared);
  constexpr int kTile = kParts<E> * kPartSize;
  uint16_t* const queries = shared;
  uint16_t* const tiles = shared + kParts<E> * kBlock * kPitch;  // keys and values of each stage
  const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16;
  // the last queries see the most keys, so they go first
  const int first_query = int(ceil_div(x.shape.queries, kBlock) - 1 - blockIdx.x / pairs) * kBlock;
  const int64_t which = blockIdx.x % pairs;
  const int64_t batch = which / x.shape.heads, head = which % x.shape.heads;
  const auto offset = [&](const Heads<E>& h) { return batch * h.batch + head * h.head; };
  bool bad = load_block<E, kWidth, kBlock>(queries, x.q, offset(x.q), first_query, x.shape.queries, x.shape.channels);

  const int before = x.shape.keys - x.shape.queries, end = before + first_query + kBlock;
  const int seen = x.causal && end < x.shape.keys ? end : x.shape.keys;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  float out[kWidth / 8][4] = {};
  const auto begin = [&](int first_key, int stage) {
    if (first_key < seen) {
      uint16_t* to = tiles + stage * 2 * kTile;
      bad |= begin_block<E, kWidth, kStep>(to, x.k, offset(x.k), first_key, x.shape.keys, x.shape.channels);
      bad |= begin_block<E, kWidth, kStep>(to + kTile, x.v, offset(x.v), first_key, x.shape.keys, x.shape.values);
    }
    cp_async_commit();
  };
  if constexpr (kStages<E> == 2) begin(0, 0);
  int stage = 0;
  for (int first_key = 0; first_key < seen; first_key += kStep, stage ^= kStages<E> - 1) {
    const uint16_t *keys = tiles + stage * 2 * kTile, *values = keys + kTile;
    __syncthreads();  // nobody reads the keys and values of the step before any more
    begin(kStages<E> == 2 ? first_key + kStep : first_key, stage ^ (kStages<E> - 1));
    cp_async_wait<kStages<E> - 1>();
    __syncthreads();
    float s[kStep / 8][4];
    scores<E, kWidth>(s, queries, keys, x, batch, first_query, first_key);
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      float most = largest[g];
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j) {
        for (int h = 0; h < 2; ++h) most = s[j][g * 2 + h] > most ? s[j][g * 2 + h] : most;
      }
      most = quad_max(most);
      const float base = most == -INFINITY ? 0.0f : most;  // no key was seen so far
      const float shrink = expf(largest[g] - base);
      largest[g] = most;
      float here = 0;
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j) {
        for (int h = 0; h < 2; ++h) {
          s[j][g * 2 + h] = expf(s[j][g * 2 + h] - base);
          here += s[j][g * 2 + h];
        }
      }
      sum[g] = fmaf(sum[g], shrink, here);
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        out[n][g * 2] *= shrink;
        out[n][g * 2 + 1] *= shrink;
      }
    }
    // out += s v
    float part[kWidth / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kStep / 8; j += 2) {  // 16 keys
      uint32_t a[kParts<E>][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // rows lane / 4 (+8), keys 8 j + lane % 4 * 2 (+8): registers 0, 1 are the first 8 keys, 2, 3 the others
        uint16_t low[kParts<E>], high[kParts<E>];
        parts_of<E>(s[j + i / 2][i % 2 * 2], low);
        parts_of<E>(s[j + i / 2][i % 2 * 2 + 1], high);
        for (int p = 0; p < kParts<E>; ++p) a[p][i] = pair(low[p], high[p]);
      }
#pragma unroll
      for (int n = 0; n < kWidth / 8; n += 2) {
        constexpr int kProducts = kParts<E> == 3 ? 6 : 1;
        uint32_t b[kParts<E>][4];
#pragma unroll
        for (int p = 0; p < kParts<E>; ++p) {
          ldmatrix_x4_transposed(b[p], values + p * kPartSize + (j * 8 + lane % 16) * kPitch + n * 8 + lane / 16 * 8);
        }
#pragma unroll
        for (int p = 6 - kProducts; p < 6; ++p) {
          const uint32_t(&left)[4] = a[left_part(p)];
          const uint32_t(&right)[4] = b[right_part(p)];
          product16<E>(part[n], left, right[0], right[1]);
          product16<E>(part[n + 1], left, right[2], right[3]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      for (int i = 0; i < 4; ++i) out[n][i] += part[n][i];
    }
  }
  cp_async_wait<0>();
  if constexpr (kStages<E> == 1) {
    if (__syncthreads_or(bad)) {
      for (int64_t row = first_query + warp_row; row < min64(x.shape.queries, first_query + warp_row + 16); ++row) {
        attend_alone(x, batch, head, row);
      }
      return;
    }
  }
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    sum[g] = quad_sum(sum[g]);
    const int query = first_query + warp_row + lane / 4 + g * 8;
    if (query >= x.shape.queries) continue;
    const int64_t at = ((batch * x.shape.queries + query) * x.shape.heads + head) * x.shape.values;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int c = n * 8 + lane % 4 * 2;
      for (int h = 0; h < 2; ++h) {
        if (c + h < x.shape.values) x.out.set(at + c + h, out[n][g * 2 + h] / sum[g]);
      }
    }
  }
  if (!x.probs.data) return;
  for (int first_key = 0; first_key < x.shape.keys; first_key += kStep) {
    float s[kStep / 8][4];
    if (first_key < seen) {
      __syncthreads();
      load_block<E, kWidth, kStep>(tiles, x.k, offset(x.k), first_key, x.shape.keys, x.shape.channels);
      __syncthreads();
      scores<E, kWidth>(s, queries, tiles, x, batch, first_query, first_key);
    }
#pragma unroll
    for (int j = 0; j < kStep / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + j * 8 + lane % 4 * 2 + i % 2;
        const int query = first_query + warp_row + lane / 4 + i / 2 * 8;
        if (key >= x.shape.keys || query >= x.shape.queries) continue;
        const bool beyond = first_key >= seen || (x.causal && key > before + query);
        const float base = largest[i / 2] == -INFINITY ? 0.0f : largest[i / 2];
        const int64_t(&p)[4] = x.probs_stride;
        // where a query sees no key, or its sum is NaN, all are NaN
        const float hidden = sum[i / 2] > 0 ? 0.0f : NAN;
        x.probs.set(batch * p[0] + query * p[1] + key * p[2] + head * p[3],
                    beyond ? hidden : expf(s[j][i] - base) / sum[i / 2]);
      }
    }
  }
}

template <class E, int kWidth>
Status launch(Context* context, const Attention<E>& x) {
  constexpr size_t kShared = size_t(kParts<E>) * (kBlock + 2 * kStages<E> * kKeys<E, kWidth>)*(kWidth + 8) * 2;
  auto* kernel = attention_kernel<E, kWidth>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kShared));
  if (error != cudaSuccess) return from_cuda(error, "the shared memory of attention");
  const int64_t pairs = x.shape.batch * x.shape.heads, blocks = pairs * ceil_div(x.shape.queries, kBlock);
  if (blocks > kGridLimit) return fail("attention over %lld heads is too large", (long long)pairs);
  LAUNCH((attention_kernel<E, kWidth>), dim3(unsigned(blocks)), dim3(kAttentionThreads), kShared, context->stream, x,
         pairs);
  return {};
}

}  // namespace

Status attention(Context* context, Out out, Out planes, Out probs, In q, In k, In v, In pad, bool causal,
                 double scale) {
  if (k.shape[1] > INT32_MAX / 2) return fail("%lld keys are too many", (long long)k.shape[1]);
  const Shape shape = {q.shape[0], q.shape[2], int(q.shape[1]), int(k.shape[1]), int(q.shape[3]), int(v.shape[3])};
  const int64_t count = shape.batch * shape.queries * shape.heads;
  if (count == 0 || (shape.values == 0 && !probs.data)) return {};
  const auto run = [&](auto elements) -> Status {
    using E = decltype(elements);
    Attention<E> x = {shape,
                      Heads<E>::of(q),
                      Heads<E>::of(k),
                      Heads<E>::of(v),
                      E::of(out),
                      E::of(probs),
                      {},
                      static_cast<const uint8_t*>(pad.data),
                      causal,
                      float(scale)};
    for (int d = 0; d < 4 && probs.data; ++d) x.probs_stride[d] = probs.stride[d];
    const int width = shape.channels > shape.values ? shape.channels : shape.values;
    if (width <= 64) return launch<E, 64>(context, x);
    if (width <= 128) return launch<E, 128>(context, x);
    LAUNCH((wide_attention_kernel<E>), dim3(unsigned(ceil_div(count * kWarp, kThreads))), dim3(kThreads), 0,
           context->stream, x, count);
    return {};
  };
  switch (q.dtype) {
    case DType::float32: {
      const Status status = run(Elements<float>());
      if (status.failed() || !planes.data) return status;
      return write_planes(context, planes, out, shape.batch * shape.queries, shape.heads * shape.values);
    }
    case DType::bfloat16: return run(Elements<Bf16>());
    default: return run(Elements<Half>());
  }
}

}  // namespace sonde
