// Attention on Hopper (sm_90a), in bfloat16 and float16: a block takes 128 queries of one head and goes over the keys 128 at a time. One
// warpgroup only asks the copy engine (TMA) for tiles of keys and values, a ring of slots ahead: keys 0, values 0, keys 1 and so on. Two
// multiply, 64 queries each: queries and keys straight from shared memory (wgmma), then the terms of the softmax, in registers, and the
// values, which lie in shared memory as in memory (a transposed operand). The next step's scores are computed while this step's
// terms are multiplied by their values, and the two groups fill each other's waits.
//
// Tiles are boxes of views of four dimensions: what lies outside the queries, keys or channels is zero, and hidden by the mask. Steps behind
// a group's last query are skipped; those before its first one know no mask.
#pragma once
#include "attention.cuh"

namespace sonde {

namespace {

template <int kWidth>
struct HopperAttention {
  static constexpr int queries = 128, keys = 128;
  static constexpr int blocks = kWidth / 64;  // of 64 channels, 128 bytes, as the copy engine's swizzle has them
  static constexpr int tile = keys * kWidth;  // elements
  static constexpr int slots = kWidth == 64 ? 6 : 4;
  static constexpr size_t shared = size_t(queries * kWidth + slots * tile) * 2 + (2 * slots + 1) * sizeof(uint64_t);
};
static_assert(HopperAttention<64>::shared <= 227 << 10 && HopperAttention<128>::shared <= 227 << 10, "");
constexpr int kHopperAttentionThreads = 384;

template <class E, int kWidth>
__global__ void __launch_bounds__(kHopperAttentionThreads, 1)
    hopper_attention_kernel(const __grid_constant__ TmaMap q_map, const __grid_constant__ TmaMap k_map,
                            const __grid_constant__ TmaMap v_map, const __grid_constant__ Attention<E> x,
                            int64_t pairs) {
#ifdef SONDE_HOPPER
  using Plan = HopperAttention<kWidth>;
  constexpr int kSlots = Plan::slots, kKeys = Plan::keys, kColumn = kKeys * 64;  // a block of 64 channels of a tile
  constexpr bool kF16 = !kIsBf16<E>;
  DYNAMIC_SHARED(uint16_t, queries);
  uint16_t* const tiles = queries + Plan::queries * kWidth;
  auto* full = reinterpret_cast<uint64_t*>(tiles + kSlots * Plan::tile);
  uint64_t* const empty = full + kSlots;
  uint64_t* const queries_full = empty + kSlots;
  // by a shuffle, so that the compiler knows it for the same in all lanes: what depends on it parts no warp
  const int group = __shfl_sync(kAll, int(threadIdx.x) / 128, 0), t = int(threadIdx.x) % 128;
  // the last queries see the most keys, so they go first
  const int first_query = int(ceil_div(x.shape.queries, Plan::queries) - 1 - blockIdx.x / pairs) * Plan::queries;
  const int64_t which = blockIdx.x % pairs;
  const int64_t batch = which / x.shape.heads, head = which % x.shape.heads;
  const int before = x.shape.keys - x.shape.queries;
  // keys that a group of 64 queries sees, and their steps
  const auto steps_of = [&](int first) {
    const int end = before + min(first + 64, x.shape.queries);
    return (x.causal ? end + kKeys - 1 : x.shape.keys + kKeys - 1) / kKeys;
  };
  const int groups = first_query + 64 < x.shape.queries ? 2 : 1;
  const int steps = steps_of(first_query + 64 * (groups - 1));
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 4 * groups);  // the multiplying warps
    }
    mbarrier_init(queries_full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();

  if (group == 0) {
    registers_down<24>();
    if (t == 0) {
      mbarrier_expect(queries_full, Plan::queries * kWidth * 2);
      for (int i = 0; i < 2 * Plan::blocks; ++i) {
        const int part = i / Plan::blocks, block = i % Plan::blocks;
        tma_load_4d(queries + i * 64 * 64, &q_map, block * 64, int(head), first_query + part * 64, int(batch),
                    queries_full);
      }
      int count = 0;  // slots filled so far
      const auto load = [&](const TmaMap* map, int first_key) {
        const int slot = count % kSlots;
        if (count >= kSlots) mbarrier_wait(empty + slot, (count / kSlots - 1) & 1);
        mbarrier_expect(full + slot, Plan::tile * 2);
        for (int block = 0; block < Plan::blocks; ++block) {
          tma_load_4d(tiles + slot * Plan::tile + block * kColumn, map, block * 64, int(head), first_key, int(batch),
                      full + slot);
        }
        ++count;
      };
      for (int step = 0; step < steps; ++step) {
        load(&k_map, step * kKeys);
        load(&v_map, step * kKeys);
      }
      for (int step = 0; step < steps && x.probs.data; ++step) load(&k_map, step * kKeys);
    }
    return;
  }

  registers_up<240>();
  const int half = group - 1, lane = t % 32, first = first_query + half * 64;
  if (half >= groups) return;
  const int own = steps_of(first);
  // of the keys of these steps none is masked for any query of the group
  const int clear = x.pad ? 0 : (x.causal ? before + first + 1 : x.shape.keys) / kKeys;
  const int warp_row = first + t / 32 * 16;
  const Mask mask = Mask::of(x, batch, before + warp_row + lane / 4);
  Softmax softmax;
  float s[kKeys / 2], out[kWidth / 2];
  uint32_t terms[kKeys / 16][4];
#pragma unroll
  for (int i = 0; i < kWidth / 2; ++i) out[i] = 0;

  const auto tile = [&](int i) { return tiles + i % kSlots * Plan::tile; };
  const auto wait_for = [&](int i) { mbarrier_wait(full + i % kSlots, i / kSlots & 1); };
  const auto release = [&](int i) { mbarrier_arrive_if(empty + i % kSlots, lane == 0); };
  // s := queries times the keys in slot i
  const auto begin_scores = [&](int i) {
    const uint16_t* keys = tile(i);
#pragma unroll
    for (int c = 0; c < kWidth / 16; ++c) {
      const uint64_t a = wgmma_descriptor(queries + (half * Plan::blocks + c / 4) * 64 * 64) + c % 4 * 2;
      const uint64_t b = wgmma_descriptor(keys + c / 4 * kColumn) + c % 4 * 2;
      wgmma<kF16, kKeys>(s, a, b, c > 0);
    }
    wgmma_commit();
  };
  // out += the terms times the values in slot i
  const auto begin_values = [&](int i) {
    const uint64_t b = wgmma_descriptor_transposed(tile(i), kColumn * 2);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) wgmma_registers<kF16, kWidth>(out, terms[k], b + k * 128);
    wgmma_commit();
  };
  const auto pack = [&] {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = (2 * k + i / 2) * 4 + i % 2 * 2;
        terms[k][i] = pair_of<E>(s[at], s[at + 1]);
      }
    }
    __syncwarp();  // the next instruction may be one of the whole warp
  };
  const auto scores_alone = [&](int i) {
    wait_for(i);
    keep_registers(s);
    wgmma_fence();
    begin_scores(i);
    wgmma_wait<0>();
    keep_registers(s);
    release(i);
  };

  float shrink[2];
  mbarrier_wait(queries_full, 0);
  scores_alone(0);
  if (clear == 0) hide<kKeys / 8>(s, mask, 0);
  softmax.step<kKeys / 8>(s, x.factor, shrink);
  pack();
  wait_for(1);
  const auto go_on = [&](auto masked, int step) {
    wait_for(2 * step);
    keep_registers(s);
    keep_registers(out);
    keep_registers(terms);
    wgmma_fence();
    begin_scores(2 * step);
    begin_values(2 * step - 1);
    wgmma_wait<1>();
    keep_registers(s);
    release(2 * step);
    if constexpr (decltype(masked)::value) hide<kKeys / 8>(s, mask, step * kKeys);
    softmax.step<kKeys / 8>(s, x.factor, shrink);
    // The terms are computed while the products go on: the compiler moves nothing across this wait, which the next step needs.
    keep_registers(s);
    wait_for(2 * step + 1);
    wgmma_wait<0>();
    keep_registers(out);
    keep_registers(terms);
    release(2 * step - 1);
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) out[i] *= shrink[i / 2 % 2];
    pack();
  };
  int step = 1;
  for (; step < clear; ++step) go_on(std::false_type(), step);
  for (; step < own; ++step) go_on(std::true_type(), step);
  keep_registers(out);
  keep_registers(terms);
  wgmma_fence();
  begin_values(2 * own - 1);
  wgmma_wait<0>();
  keep_registers(out);
  keep_registers(terms);
  release(2 * own - 1);
  // the other group's steps
  for (int i = 2 * own; i < 2 * steps; ++i) {
    wait_for(i);
    release(i);
  }

  float inverse[2];
  softmax.inverse<E>(inverse);
  store_fragment<kWidth>(x, out, inverse, batch, head, warp_row);
  if (!x.probs.data) return;
  for (int later = 0; later * kKeys < x.shape.keys; ++later) {
    __syncwarp();
    if (later < own) {
      scores_alone(2 * steps + later);
    } else if (later < steps) {
      wait_for(2 * steps + later);
      release(2 * steps + later);
    }
    // behind its own steps, all are hidden
    hide<kKeys / 8>(s, mask, later * kKeys);
    store_probs<kKeys / 8>(x, s, softmax, inverse, batch, head, warp_row, later * kKeys);
  }
#endif
}

// A map of one of q, k, v; false if the copy engine cannot read it: if its channels do not lie in chunks of 16 bytes, or the strides of
// batch, positions and heads are no multiples of each other.
template <class E>
bool make_heads_map(TmaMap* map, const Heads<E>& x, const Shape& shape, int positions, int channels, int box_rows) {
  const uint64_t sizes[4] = {uint64_t(channels), uint64_t(shape.heads), uint64_t(positions), uint64_t(shape.batch)};
  const int64_t strides[3] = {x.head, x.position, x.batch};
  uint64_t pitches[3] = {};
  // a dimension of 1 may have any stride: that of the next one, or else of the one before
  for (int d = 2; d >= 0; --d) {
    if (sizes[d + 1] > 1) pitches[d] = uint64_t(strides[d]) * 2;
    else pitches[d] = d < 2 ? pitches[d + 1] : 0;
  }
  for (int d = 0; d < 3; ++d) {
    if (pitches[d] == 0) pitches[d] = d > 0 ? pitches[d - 1] : (uint64_t(channels) * 2 + 15) / 16 * 16;
    if (sizes[d + 1] > 1 && strides[d] <= 0) return false;
    if (pitches[d] < uint64_t(channels) * 2 || pitches[d] >> 40 || (d > 0 && pitches[d] % pitches[d - 1])) return false;
  }
  return x.aligned && channels > 0 && make_tma_map_4d(map, x.x.data, sizes, pitches, uint32_t(box_rows));
}

template <class E>
struct HopperMaps {
  TmaMap q, k, v;

  bool make(const Attention<E>& x) {
    return make_heads_map(&q, x.q, x.shape, x.shape.queries, x.shape.channels, 64) &&
           make_heads_map(&k, x.k, x.shape, x.shape.keys, x.shape.channels, 128) &&
           make_heads_map(&v, x.v, x.shape, x.shape.keys, x.shape.values, 128);
  }
};

template <class E, int kWidth>
Status launch_hopper_attention(Context* context, const HopperMaps<E>& maps, const Attention<E>& x) {
  using Plan = HopperAttention<kWidth>;
  auto* kernel = hopper_attention_kernel<E, kWidth>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(Plan::shared));
  if (error != cudaSuccess) return from_cuda(error, "the shared memory of attention");
  const int64_t pairs = x.shape.batch * x.shape.heads, blocks = pairs * ceil_div(x.shape.queries, Plan::queries);
  if (blocks > kGridLimit) return fail("attention over %lld heads is too large", (long long)pairs);
  LAUNCH((hopper_attention_kernel<E, kWidth>), dim3(unsigned(blocks)), dim3(kHopperAttentionThreads), Plan::shared,
         context->stream, maps.q, maps.k, maps.v, x, pairs);
  return {};
}

}  // namespace

}  // namespace sonde
