// Products on Hopper (sm_90a). Blocks are persistent: each takes tile after tile. One warpgroup only asks the copy engine (TMA) for
// operands, a ring of stages ahead; two multiply, 64 rows each, straight from shared memory (wgmma). mbarriers
// say that a stage is full or empty. Tiles are 128 x 256, or 128 x 128 for split operands, whose three products share a stage.
//
// Split operands: the tensor cores cut their sums off instead of rounding. The sums of each 64 k, a chunk of the left operand, are
// scaled and taken to float32 registers.
#pragma once
#include "product_mma.cuh"

namespace sonde {

struct HopperWork {
  int64_t m, n, k;
  int64_t row_tiles, column_tiles;
  const float* scale;  // [m][steps], of split operands
};

template <bool kSplit>
struct HopperShape {
  static constexpr int rows = 128, columns = kSplit ? 128 : 256, depth = 64, parts = kSplit ? 2 : 1;
  static constexpr int stages = kSplit ? 3 : 4;
  static constexpr int a = rows * depth, b = columns * depth;  // elements
  static constexpr int stage = parts * (a + b);
  static constexpr size_t shared = size_t(stages) * stage * 2 + 8 * kStagingFloats * 4 + 2 * stages * sizeof(uint64_t);
};
constexpr int kHopperThreads = 384;

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_kernel(const __grid_constant__ TmaMap a_high, const __grid_constant__ TmaMap a_low,
                  const __grid_constant__ TmaMap b_high, const __grid_constant__ TmaMap b_low, HopperWork work,
                  Scaling scaling, Epilogue epilogue) {
#ifdef SONDE_HOPPER
  using Shape = HopperShape<kSplit>;
  constexpr int kN = Shape::columns, kStages = Shape::stages;
  DYNAMIC_SHARED(uint16_t, shared);
  auto* staging = reinterpret_cast<float*>(shared + kStages * Shape::stage);  // for each of the multiplying warps
  auto* full = reinterpret_cast<uint64_t*>(staging + 8 * kStagingFloats);
  uint64_t* empty = full + kStages;
  const int group = int(threadIdx.x) / 128, t = int(threadIdx.x) % 128;
  const int steps = int(ceil_div(work.k, Shape::depth));
  const int64_t tiles = work.row_tiles * work.column_tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 8);  // the multiplying warps
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (group == 0) {
    registers_down<24>();
    if (t == 0) {
      int64_t count = 0;  // stages filled so far
      for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t tile_row, tile_column;
        tile_at(tile, work.row_tiles, work.column_tiles, tile_row, tile_column);
        const int row = int(tile_row * Shape::rows), column = int(tile_column * kN);
        for (int step = 0; step < steps; ++step, ++count) {
          const int s = int(count % kStages), k = step * Shape::depth;
          uint16_t* to = shared + s * Shape::stage;
          if (count >= kStages) mbarrier_wait(empty + s, int((count / kStages - 1) & 1));
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
  int64_t count = 0;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int64_t tile_row, tile_column;
    tile_at(tile, work.row_tiles, work.column_tiles, tile_row, tile_column);
    const int64_t row = tile_row * Shape::rows + half * 64 + warp * 16, column = tile_column * kN;
    // the factors of this thread's two rows for the step; rows outside have those of the last one
    const float* scales[2];
    float scale[2];
    if constexpr (kSplit) {
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) sums[i] = 0;
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        scales[g] = work.scale + min64(row + lane / 4 + 8 * g, work.m - 1) * steps;
        scale[g] = scales[g][0];
      }
    }
    for (int step = 0; step < steps; ++step, ++count) {
      const int s = int(count % kStages);
      const uint16_t* a = shared + s * Shape::stage + half * 64 * Shape::depth;
      const uint16_t* b = shared + s * Shape::stage + Shape::a;
      mbarrier_wait(full + s, int(count / kStages & 1));
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
        if (step > 0) mbarrier_arrive_if(empty + int((count - 1) % kStages), lane == 0);
      }
    }
    if constexpr (!kSplit) {
      wgmma_wait<0>();
      keep_registers(high);
      mbarrier_arrive_if(empty + int((count - 1) % kStages), lane == 0);
    }
    float* warp_staging = staging + (half * 4 + warp) * kStagingFloats;
    epilogue.template fragment<kN / 8>(warp_staging, scaling, 0, row, column, [&](int j, int g, int h) {
      const int i = j * 4 + g * 2 + h;
      if constexpr (kSplit) return sums[i];
      else return high[i];
    });
  }
#endif
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
Status launch_hopper(Context* context, const SplitOperand& a, const SplitOperand& b, const Scaling& scaling,
                     const Epilogue& epilogue) {
  using Shape = HopperShape<kSplit>;
  const HopperWork work = {a.rows, b.rows, a.k, ceil_div(a.rows, Shape::rows), ceil_div(b.rows, Shape::columns),
                           a.scale};
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
  const int64_t blocks = min64(work.row_tiles * work.column_tiles, context->multiprocessors);
  LAUNCH((hopper_kernel<kSplit, kF16, Scaling, Epilogue>), dim3(unsigned(blocks)), dim3(kHopperThreads), Shape::shared,
         context->stream, maps[0], maps[1], maps[2], maps[3], work, scaling, epilogue);
  return {};
}

}  // namespace sonde
