// Attention by mma.sync, for every GPU and dtype: a block takes 64 queries of one head and goes over the keys 64 at a time (or 16), with
// a running softmax; the scores live in registers. Under the causal mask a block looks no further than its last query may. Steps
// that hide no key from any query of the block come first, and know no mask.
//
// float32 is split into three bfloat16 parts, x = a + b + c, of whose products the six largest are computed: as accurate as float32's
// own, over its whole range. The tensor cores truncate their sums instead of rounding, so its sums over keys are added up in registers
// after every step.
//
// Probabilities, where they are asked for, take a second sweep, when each query's maximum and sum are known.
#pragma once
#include "attention.cuh"

namespace sonde {

namespace {

constexpr int kBlock = 64;  // queries of a block
constexpr int kAttentionThreads = 128;

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

// The parts of two neighbours, a pair of each.
template <class E>
SONDE_DEVICE void parts_of(float x, float y, uint32_t (&part)[kParts<E>]) {
  if constexpr (kParts<E> == 3) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      part[i] = pair_bf16(x, y);
      x -= bf16_to_float(uint16_t(part[i]));
      y -= bf16_to_float(uint16_t(part[i] >> 16));
    }
  } else {
    part[0] = pair_of<E>(x, y);
  }
}

// Loads kRows positions of one head into shared memory, a matrix per part, rows kPitch apart, zeros from position `count` on. Returns
// whether this thread met a value that its parts do not represent. kFast: memory is aligned, and channels are a multiple of four that
// is not 0; what lies outside is then read from the last position or the first channel, and replaced: no branch.
template <class E, int kWidth, int kRows, bool kFast>
SONDE_DEVICE bool load_block(uint16_t* to, const Heads<E>& from, int64_t offset, int first, int count, int channels) {
  constexpr int kPitch = kWidth + 8, kPartSize = kRows * kPitch, kChunks = kWidth / 4,
                kAtOnce = kAttentionThreads / kChunks;
  static_assert(kRows % kAtOnce == 0, "");
  const int c = int(threadIdx.x) % kChunks * 4, row0 = int(threadIdx.x) / kChunks;
  const int64_t base = offset + (c < channels ? c : 0);
  bool bad = false;
#pragma unroll(kFast ? 4 : 1)
  for (int k = 0; k < kRows / kAtOnce; ++k) {
    const int row = row0 + k * kAtOnce;
    const bool inside = first + row < count && c < channels;
    const int64_t at = base + int64_t(min(first + row, count - 1)) * from.position;
    float x[4] = {};
    if constexpr (kFast) {
      from.x.get4(x, at);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = inside ? x[j] : 0.0f;
    } else {
      for (int j = 0; j < 4 && inside && c + j < channels; ++j) x[j] = from.x.get(at + j);
    }
    uint32_t low[kParts<E>], high[kParts<E>];
    parts_of<E>(x[0], x[1], low);
    parts_of<E>(x[2], x[3], high);
    if constexpr (kParts < E >> 1) {
#pragma unroll
      for (int j = 0; j < 4; ++j) bad |= !(fabsf(x[j]) <= 3.38e38f);  // above, it rounds to infinity
    }
#pragma unroll
    for (int p = 0; p < kParts<E>; ++p) {
      *reinterpret_cast<uint2*>(to + p * kPartSize + row * kPitch + c) = make_uint2(low[p], high[p]);
    }
  }
  return bad;
}

// As load_block, by asynchronous copies where there is one part and memory is aligned for them.
template <class E, int kWidth, int kRows, bool kFast>
SONDE_DEVICE bool begin_block(uint16_t* to, const Heads<E>& from, int64_t offset, int first, int count, int channels) {
  if constexpr (kParts<E> == 1 && kFast) {
    constexpr int kChunks = kWidth / 8, kAtOnce = kAttentionThreads / kChunks;
    static_assert(kRows % kAtOnce == 0, "");
    const int c = int(threadIdx.x) % kChunks * 8, row0 = int(threadIdx.x) / kChunks;
    const int bytes = max(min(channels - c, 8), 0) * 2;
    const int64_t base = offset + (c < channels ? c : 0);
#pragma unroll
    for (int k = 0; k < kRows / kAtOnce; ++k) {
      const int row = row0 + k * kAtOnce;
      const int64_t at = base + int64_t(min(first + row, count - 1)) * from.position;
      cp_async16(to + row * (kWidth + 8) + c, from.x.data + at, first + row < count ? bytes : 0);
    }
    return false;
  } else {
    return load_block<E, kWidth, kRows, kFast>(to, from, offset, first, count, channels);
  }
}

// The parts that the p-th of six products multiplies, the smallest product first: 1 1, 0 2, 2 0, 0 1, 1 0, 0 0.
__host__ __device__ constexpr int left_part(int p) { return p == 0 || p == 4 ? 1 : p == 2 ? 2 : 0; }
__host__ __device__ constexpr int right_part(int p) { return p == 0 || p == 3 ? 1 : p == 1 ? 2 : 0; }
template <class E>
constexpr int kFirstProduct = kParts<E> == 3 ? 0 : 5;

// The warp's 16 queries times a step's keys.
template <class E, int kWidth>
SONDE_DEVICE void scores(float (&s)[kKeys<E, kWidth> / 8][4], const uint16_t* queries, const uint16_t* keys) {
  constexpr int kPitch = kWidth + 8, kSteps = kKeys<E, kWidth> / 8, kTogether = kSteps < 4 ? kSteps : 4;
  const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16;
#pragma unroll
  for (int j = 0; j < kSteps; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[j][i] = 0;
  }
#pragma unroll
  for (int c = 0; c < kWidth; c += 16) {
    uint32_t a[kParts<E>][4];
#pragma unroll
    for (int p = 0; p < kParts<E>; ++p) {
      ldmatrix_x4(a[p], queries + p * kBlock * kPitch + (warp_row + lane % 16) * kPitch + c + lane / 16 * 8);
    }
#pragma unroll
    for (int j = 0; j < kSteps; j += kTogether) {
      uint32_t b[kParts<E>][kTogether / 2][4];
#pragma unroll
      for (int p = 0; p < kParts<E>; ++p) {
#pragma unroll
        for (int i = 0; i < kTogether / 2; ++i) {
          ldmatrix_x4(b[p][i], keys + p * kSteps * 8 * kPitch + ((j + i * 2) * 8 + lane % 8 + lane / 16 * 8) * kPitch +
                                   c + lane / 8 % 2 * 8);
        }
      }
#pragma unroll
      for (int p = kFirstProduct<E>; p < 6; ++p) {
#pragma unroll
        for (int i = 0; i < kTogether / 2; ++i) {
          const uint32_t(&right)[4] = b[right_part(p)][i];
          product16<E>(s[j + i * 2], a[left_part(p)], right[0], right[1]);
          product16<E>(s[j + i * 2 + 1], a[left_part(p)], right[2], right[3]);
        }
      }
    }
  }
}

// out += the terms of a step times its values
template <class E, int kWidth>
SONDE_DEVICE void add_values(float (&out)[kWidth / 8][4], const float (&s)[kKeys<E, kWidth> / 8][4],
                             const uint16_t* values) {
  constexpr int kPitch = kWidth + 8, kStep = kKeys<E, kWidth>;
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < kStep / 8; j += 2) {  // 16 keys
    uint32_t a[kParts<E>][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // rows lane / 4 (+8), keys 8 j + lane % 4 * 2 (+8): registers 0, 1 are the first 8 keys, 2, 3 the others
      uint32_t parts[kParts<E>];
      parts_of<E>(s[j + i / 2][i % 2 * 2], s[j + i / 2][i % 2 * 2 + 1], parts);
#pragma unroll
      for (int p = 0; p < kParts<E>; ++p) a[p][i] = parts[p];
    }
#pragma unroll
    for (int n = 0; n < kWidth / 8; n += 2) {
      uint32_t b[kParts<E>][4];
#pragma unroll
      for (int p = 0; p < kParts<E>; ++p) {
        ldmatrix_x4_transposed(b[p],
                               values + p * kStep * kPitch + (j * 8 + lane % 16) * kPitch + n * 8 + lane / 16 * 8);
      }
#pragma unroll
      for (int p = kFirstProduct<E>; p < 6; ++p) {
        const uint32_t(&left)[4] = a[left_part(p)];
        const uint32_t(&right)[4] = b[right_part(p)];
        product16<E>(out[n], left, right[0], right[1]);
        product16<E>(out[n + 1], left, right[2], right[3]);
      }
    }
  }
}

// kWidth: channels of queries and keys, and of values, rounded up to 64 or 128
template <class E, int kWidth, bool kFast>
__global__ void __launch_bounds__(kAttentionThreads, kParts<E> == 3 ? 1
                                                     : kWidth == 64 ? 3
                                                                    : 2)
    attention_kernel(const __grid_constant__ Attention<E> x, int64_t pairs) {
  constexpr int kPitch = kWidth + 8, kStep = kKeys<E, kWidth>, kTile = kParts<E> * kStep * kPitch;
  DYNAMIC_SHARED(uint16_t, shared);
  uint16_t* const queries = shared;
  uint16_t* const tiles = shared + kParts<E> * kBlock * kPitch;  // keys and values of each stage
  const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16;
  // the last queries see the most keys, so they go first
  const int first_query = int(ceil_div(x.shape.queries, kBlock) - 1 - blockIdx.x / pairs) * kBlock;
  const int64_t which = blockIdx.x % pairs;
  const int64_t batch = which / x.shape.heads, head = which % x.shape.heads;
  bool bad = begin_block<E, kWidth, kBlock, kFast>(queries, x.q, x.q.offset(batch, head), first_query, x.shape.queries,
                                                   x.shape.channels);

  const int before = x.shape.keys - x.shape.queries, end = before + first_query + kBlock;
  const int seen = x.causal && end < x.shape.keys ? end : x.shape.keys;
  // of these keys none is masked for any query of the block
  const int clear = x.pad ? 0 : (x.causal ? before + first_query + 1 : seen) / kStep * kStep;
  const Mask mask = Mask::of(x, batch, before + first_query + warp_row + lane / 4);
  Softmax softmax;
  float out[kWidth / 8][4] = {};
  const auto begin_keys = [&](int first_key, uint16_t* to) {
    bad |= begin_block<E, kWidth, kStep, kFast>(to, x.k, x.k.offset(batch, head), first_key, seen, x.shape.channels);
  };
  const auto begin = [&](int first_key, int stage) {
    uint16_t* to = tiles + stage * 2 * kTile;
    begin_keys(first_key, to);
    bad |=
        begin_block<E, kWidth, kStep, kFast>(to + kTile, x.v, x.v.offset(batch, head), first_key, seen, x.shape.values);
    cp_async_commit();
  };
  int stage = 0;
  const auto step = [&](auto masked, int first_key) {
    const uint16_t *keys = tiles + stage * 2 * kTile, *values = keys + kTile;
    if constexpr (kStages<E> == 2) {
      cp_async_wait<0>();
      __syncthreads();  // all see this step's keys and values, and nobody reads those of the step before any more
      stage ^= 1;
      begin(first_key + kStep, stage);
    } else {
      __syncthreads();  // nobody reads the keys and values of the step before any more
      begin(first_key, stage);
      __syncthreads();
    }
    float s[kStep / 8][4], shrink[2];
    scores<E, kWidth>(s, queries, keys);
    if constexpr (decltype(masked)::value) hide<kStep / 8>(s, mask, first_key);
    softmax.template step<kStep / 8>(s, x.factor, shrink);
    if constexpr (kParts<E> == 3) {
      float part[kWidth / 8][4] = {};
      add_values<E, kWidth>(part, s, values);
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[n][i] = fmaf(out[n][i], shrink[i / 2], part[n][i]);
      }
    } else {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[n][i] *= shrink[i / 2];
      }
      add_values<E, kWidth>(out, s, values);
    }
  };
  if constexpr (kStages<E> == 2) begin(0, 0);
  for (int first_key = 0; first_key < clear; first_key += kStep) step(std::false_type(), first_key);
  for (int first_key = clear; first_key < seen; first_key += kStep) step(std::true_type(), first_key);
  cp_async_wait<0>();
  if constexpr (kStages<E> == 1) {
    if (__syncthreads_or(bad)) {
      for (int64_t row = first_query + warp_row; row < min64(x.shape.queries, first_query + warp_row + 16); ++row) {
        attend_alone(x, batch, head, row);
      }
      if (x.planes.high) {
        __syncwarp();  // results are read that other lanes have written
        const int chunks = x.shape.values / kSplitChunk;
#pragma unroll 1
        for (int i = lane / kChunkLanes; i < 16 * chunks; i += kWarp / kChunkLanes) {
          const int query = first_query + warp_row + i / chunks;
          const bool inside = query < x.shape.queries;
          const int64_t row = batch * x.shape.queries + query;
          const int64_t j = head * x.shape.values + i % chunks * kSplitChunk + lane % kChunkLanes * 4;
          float v[4] = {};
          if (inside) x.out.get4(v, row * x.planes.k + j);
          x.planes.quarters(row, j, v, inside);
        }
      }
      return;
    }
  }
  float inverse[2];
  softmax.template inverse<E>(inverse);
  store_fragment<kWidth>(x, out, inverse, batch, head, first_query + warp_row);
  if constexpr (kParts<E> == 3) {
    if (x.planes.high) {
      store_planes<kWidth>(x, batch, head, first_query + warp_row,
                           [&](int n, int i) { return out[n][i] * inverse[i / 2]; });
    }
  }
  if (!x.probs.data) return;
  for (int first_key = 0; first_key < x.shape.keys; first_key += kStep) {
    float s[kStep / 8][4];
    if (first_key < seen) {
      __syncthreads();
      begin_keys(first_key, tiles);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
      scores<E, kWidth>(s, queries, tiles);
    }
    // behind `seen`, all are hidden
    hide<kStep / 8>(s, mask, first_key);
    store_probs<kStep / 8>(x, s, softmax, inverse, batch, head, first_query + warp_row, first_key);
  }
}

template <class E, int kWidth, bool kFast>
Status launch_attention(Context* context, const Attention<E>& x) {
  constexpr size_t kShared = size_t(kParts<E>) * (kBlock + 2 * kStages<E> * kKeys<E, kWidth>)*(kWidth + 8) * 2;
  auto* kernel = attention_kernel<E, kWidth, kFast>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kShared));
  if (error != cudaSuccess) return from_cuda(error, "the shared memory of attention");
  const int64_t pairs = x.shape.batch * x.shape.heads, blocks = pairs * ceil_div(x.shape.queries, kBlock);
  if (blocks > kGridLimit) return fail("attention over %lld heads is too large", (long long)pairs);
  LAUNCH((attention_kernel<E, kWidth, kFast>), dim3(unsigned(blocks)), dim3(kAttentionThreads), kShared,
         context->stream, x, pairs);
  return {};
}

}  // namespace

}  // namespace sonde
