// Products on Hopper (sm_90a). Blocks are persistent: each takes tile after tile. One warpgroup only asks the copy engine (TMA) for
// operands, a ring of stages ahead; two multiply, 64 rows each, straight from shared memory (wgmma). mbarriers
// say that a stage is full or empty. Tiles are 128 x 256, or 128 x 128 for split operands, whose three products share a stage.
//
// The first of the two multiplying warpgroups starts some steps ahead of the second, and gets no further ahead than the ring has stages:
// while it is in its epilogue, the other one has the tensor cores, and later the other way round.
//
// Split operands: the tensor cores cut their sums off instead of rounding. The sums of each 64 k, a chunk of the left operand, are
// scaled and taken to float32 registers.
#pragma once
#include "product_mma.cuh"

namespace sonde {

struct HopperWork {
  int64_t m, n, k;
  unsigned row_tiles, column_tiles;
  const float* scale;  // [m][steps], of split operands
};

constexpr int kHopperStagingRow = 128, kHopperStaging = kStagingBytes<kHopperStagingRow>;

template <bool kSplit>
struct HopperShape {
  static constexpr int rows = 128, columns = kSplit ? 128 : 256, depth = 64, parts = kSplit ? 2 : 1;
  static constexpr int stages = kSplit ? 3 : 4;
  static constexpr int a = rows * depth, b = columns * depth;  // elements
  static constexpr int stage = parts * (a + b);
  static constexpr int column_values = kColumnArrays * columns;  // of one tile, for one of the multiplying warpgroups
  static constexpr int lead = stages - 1;                        // steps that the first of these is ahead of the second
  static constexpr size_t shared =
      size_t(stages) * stage * 2 + 8 * kHopperStaging + 4 * column_values * 4 + (2 * stages + 1) * sizeof(uint64_t);
};
constexpr int kHopperThreads = 384;

// The stage that is next, and the parity of the phases of its barriers.
template <int kStages>
struct Ring {
  int stage = 0, parity = 0;
  bool around = false;  // every stage has been used

  SONDE_DEVICE void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
    around = true;
  }
};

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_kernel(const __grid_constant__ TmaMap a_high, const __grid_constant__ TmaMap a_low,
                  const __grid_constant__ TmaMap b_high, const __grid_constant__ TmaMap b_low, HopperWork work,
                  Scaling scaling, Epilogue epilogue) {
#ifdef SONDE_HOPPER
  using Shape = HopperShape<kSplit>;
  constexpr int kN = Shape::columns, kStages = Shape::stages;
  DYNAMIC_SHARED(uint16_t, shared);
  auto* staging = reinterpret_cast<char*>(shared + kStages * Shape::stage);      // for each of the multiplying warps
  auto* column_values = reinterpret_cast<float*>(staging + 8 * kHopperStaging);  // two tiles' for each warpgroup
  auto* full = reinterpret_cast<uint64_t*>(column_values + 4 * Shape::column_values);
  uint64_t* const empty = full + kStages;
  uint64_t* const ahead = empty + kStages;
  const int group = int(threadIdx.x) / 128, t = int(threadIdx.x) % 128;
  const int steps = int(ceil_div(work.k, Shape::depth));
  const unsigned tiles = work.row_tiles * work.column_tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 8);  // the multiplying warps
    }
    mbarrier_init(ahead, 4);  // the warps of the first multiplying warpgroup
    mbarrier_init_fence();
  }
  __syncthreads();

  if (group == 0) {
    registers_down<24>();
    if (t == 0) {
      Ring<kStages> ring;
      for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        unsigned tile_row, tile_column;
        tile_at(tile, work.row_tiles, work.column_tiles, tile_row, tile_column);
        const int row = int(tile_row * Shape::rows), column = int(tile_column * kN);
        for (int step = 0; step < steps; ++step, ring.advance()) {
          const int s = ring.stage, k = step * Shape::depth;
          uint16_t* to = shared + s * Shape::stage;
          if (ring.around) mbarrier_wait(empty + s, ring.parity ^ 1);
          mbarrier_expect(full + s, Shape::stage * 2);
          tma_load_2d(to, &a_high, k, row, full + s);
          tma_load_2d(to + Shape::a, &b_high, k, column, full + s);
          if constexpr (kSplit) {
            tma_load_2d(to + Shape::a + Shape::b, &a_low, k, row, full + s);
            tma_load_2d(to + 2 * Shape::a + Shape::b, &b_low, k, column, full + s);
          }
        }
      }
    }
    return;
  }

  registers_up<240>();
  const int half = group - 1, warp = t / 32, lane = t % 32;
  float high[kN / 2], cross[kSplit ? kN / 2 : 1], sums[kSplit ? kN / 2 : 1];
  Ring<kStages> ring;
  int count = 0;  // steps of this warpgroup, as long as they are few
  float* values = column_values + half * 2 * Shape::column_values;
  if (half == 1) mbarrier_wait(ahead, 0);
  for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    unsigned tile_row, tile_column;
    tile_at(tile, work.row_tiles, work.column_tiles, tile_row, tile_column);
    const int64_t row = int64_t(tile_row) * Shape::rows + half * 64 + warp * 16, column = int64_t(tile_column) * kN;
    // The values of the tile before may still be read, those of the one before it no more: all have been at this barrier since.
    load_columns(values, kN, epilogue.bias, scaling, 0, column, work.n, t, 128);
    named_barrier(1 + half, 128);
    // the factors of this thread's two rows for the step; rows outside have those of the last one
    const float* scales[2];
    float scale[2];
    forget_registers(high);
    if constexpr (kSplit) {
      forget_registers(cross);
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) sums[i] = 0;
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        scales[g] = work.scale + min64(row + lane / 4 + 8 * g, work.m - 1) * steps;
        scale[g] = scales[g][0];
      }
    }
    for (int step = 0; step < steps; ++step, ring.advance()) {
      const int s = ring.stage;
      const uint16_t* a = shared + s * Shape::stage + half * 64 * Shape::depth;
      const uint16_t* b = shared + s * Shape::stage + Shape::a;
      mbarrier_wait(full + s, ring.parity);
      if (count <= Shape::lead) {
        mbarrier_arrive_if(ahead, half == 0 && lane == 0 && count == Shape::lead);
        ++count;
      }
      const uint64_t da = wgmma_descriptor(a), db = wgmma_descriptor(b);
      keep_registers(high);
      if constexpr (kSplit) keep_registers(cross);
      wgmma_fence();
      // a step of 16 k is 32 bytes further: 2 in a descriptor's units of 16
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma<kF16, kN>(high, da + 2 * k, db + 2 * k, kSplit ? k > 0 : step > 0 || k > 0);
      if constexpr (kSplit) {
        const uint64_t da_low = wgmma_descriptor(a + Shape::a + Shape::b);
        const uint64_t db_low = wgmma_descriptor(b + Shape::a + Shape::b);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          wgmma<kF16, kN>(cross, da_low + 2 * k, db + 2 * k, k > 0);
          wgmma<kF16, kN>(cross, da + 2 * k, db_low + 2 * k, 1);
        }
      }
      wgmma_commit();
      if constexpr (kSplit) {
        const int after = step + 1 < steps ? step + 1 : step;
        const float next[2] = {scales[0][after], scales[1][after]};
        wgmma_wait<0>();
        keep_registers(high);
        keep_registers(cross);
        mbarrier_arrive_if(empty + s, lane == 0);
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) {
          sums[i] = fmaf(fmaf(cross[i], 1.0f / 2048, high[i]), scale[i / 2 % 2], sums[i]);
        }
        scale[0] = next[0];
        scale[1] = next[1];
      } else {
        // this step's products go on while the next one is prepared; the step before is over
        wgmma_wait<1>();
        keep_registers(high);
        if (step > 0) mbarrier_arrive_if(empty + (s > 0 ? s : kStages) - 1, lane == 0);
      }
    }
    if constexpr (!kSplit) {
      wgmma_wait<0>();
      keep_registers(high);
      mbarrier_arrive_if(empty + (ring.stage > 0 ? ring.stage : kStages) - 1, lane == 0);
    }
    epilogue.template fragment<kN / 8, kHopperStagingRow>(staging + (half * 4 + warp) * kHopperStaging,
                                                          Columns::at(values, kN, 0), scaling, 0, row, column,
                                                          [&](int j, int g, int h) {
                                                            const int i = j * 4 + g * 2 + h;
                                                            if constexpr (kSplit) return sums[i];
                                                            else return high[i];
                                                          });
    float* const other = column_values + half * 2 * Shape::column_values;
    values = values == other ? other + Shape::column_values : other;
  }
  mbarrier_arrive_if(ahead, half == 0 && lane == 0 && count <= Shape::lead);
#endif
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
Status launch_hopper(Context* context, const SplitOperand& a, const SplitOperand& b, const Scaling& scaling,
                     const Epilogue& epilogue) {
  using Shape = HopperShape<kSplit>;
  const int64_t row_tiles = ceil_div(a.rows, Shape::rows), column_tiles = ceil_div(b.rows, Shape::columns);
  const int64_t tiles = row_tiles * column_tiles;
  if (tiles > kGridLimit) return fail("a product of [%lld, %lld] is too large", (long long)a.rows, (long long)b.rows);
  const HopperWork work = {a.rows, b.rows, a.k, unsigned(row_tiles), unsigned(column_tiles), a.scale};
  TmaMap maps[4];
  const auto map = [](TmaMap* to, const uint16_t* part, const SplitOperand& x, int rows) {
    return make_tma_map(to, part, uint64_t(x.rows), uint64_t(x.k), uint64_t(x.pitch) * 2, uint32_t(rows));
  };
  if (!map(&maps[0], a.high, a, Shape::rows) || !map(&maps[1], kSplit ? a.low : a.high, a, Shape::rows) ||
      !map(&maps[2], b.high, b, Shape::columns) || !map(&maps[3], kSplit ? b.low : b.high, b, Shape::columns)) {
    return fail("the copy engine cannot read a matrix of [%lld, %lld]", (long long)a.rows, (long long)a.k);
  }
  auto* kernel = hopper_kernel<kSplit, kF16, Scaling, Epilogue>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(Shape::shared));
  if (error != cudaSuccess) return from_cuda(error, "the shared memory of a product");
  const int64_t blocks = min64(tiles, context->multiprocessors);
  LAUNCH((hopper_kernel<kSplit, kF16, Scaling, Epilogue>), dim3(unsigned(blocks)), dim3(kHopperThreads), Shape::shared,
         context->stream, maps[0], maps[1], maps[2], maps[3], work, scaling, epilogue);
  return {};
}

}  // namespace sonde
