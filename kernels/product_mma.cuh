// Products on the tensor cores of sm_80 and later: tiles of 128 x 128 by eight warps of 32 x 64, three stages of 32 k filled by
// asynchronous copies. 16-byte chunks are swizzled within a row, so that ldmatrix has no bank conflicts.
//
// Split operands: the tensor cores do not round their sums but cut them off, so that sums over all of K would be 10 to 40 times
// worse than float32's. Each 32 k are summed there, scaled, and added to float32 registers outside.
#pragma once
#include "epilogue.cuh"

namespace sonde {

struct MmaWork {
  SplitOperand a, b;
  int64_t first_batch;
  int64_t m, n, k;
  unsigned row_tiles, column_tiles;
};

constexpr int kMmaStagingRow = 256;
constexpr int kMmaTile = 128, kMmaDepth = 32, kMmaStages = 3, kMmaThreads = 256;
constexpr int kMmaPart = kMmaTile * kMmaDepth;  // elements of one part of an operand in a stage
template <bool kSplit>
constexpr int kMmaStage = (kSplit ? 4 : 2) * kMmaPart;
static_assert(8 * kStagingBytes<kMmaStagingRow> <= kMmaStages * kMmaStage<false> * 2, "");
template <bool kSplit>
constexpr size_t kMmaShared = size_t(kMmaStages) * kMmaStage<kSplit> * 2 + kColumnArrays* kMmaTile * 4;

// Tiles in the order in which neighbours share operands: bands of 8 tiles of rows, column after column.
SONDE_DEVICE void tile_at(unsigned i, unsigned row_tiles, unsigned column_tiles, unsigned& row, unsigned& column) {
  constexpr unsigned kBand = 8;
  const unsigned band = i / kBand / column_tiles, first = band * kBand, rest = i - first * column_tiles;
  const unsigned height = row_tiles - first < kBand ? row_tiles - first : kBand;
  row = first + rest % height;
  column = rest / height;
}

// the offset of chunk `chunk` (8 elements) of row `row` in a part
SONDE_DEVICE int mma_offset(int row, int chunk) { return row * kMmaDepth + ((chunk ^ (row >> 1 & 3)) * 8); }

template <bool kF16>
SONDE_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kF16) mma_f16(d, a, b0, b1);
  else mma_bf16(d, a, b0, b1);
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
__global__ void __launch_bounds__(kMmaThreads, 1) mma_kernel(MmaWork work, Scaling scaling, Epilogue epilogue) {
  DYNAMIC_SHARED(uint16_t, shared);
  auto* const column_values = reinterpret_cast<float*>(shared + kMmaStages * kMmaStage<kSplit>);
  const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 64;
  unsigned tile_row, tile_column;
  tile_at(blockIdx.x, work.row_tiles, work.column_tiles, tile_row, tile_column);
  const int64_t row0 = int64_t(tile_row) * kMmaTile, column0 = int64_t(tile_column) * kMmaTile;
  const int64_t batch = work.first_batch + blockIdx.z;
  const int steps = int(ceil_div(work.k, kMmaDepth));

  // Loads one part of an operand into a stage: the rows from `first` on, the k from `k0` on, zeros outside.
  const auto load_part = [&](uint16_t* to, const uint16_t* from, const SplitOperand& operand, int64_t first,
                             int64_t k0) {
    for (int i = t; i < kMmaTile * 4; i += kMmaThreads) {
      const int row = i / 4, chunk = i % 4;
      const int64_t r = first + row, k = k0 + chunk * 8;
      const int64_t inside = r < operand.rows ? min64(8, operand.k - k) : 0;
      const bool any = inside > 0;
      const uint16_t* source = from + ((batch * operand.rows + (any ? r : 0)) * operand.pitch + (any ? k : 0));
      cp_async16(to + mma_offset(row, chunk), source, any ? int(inside) * 2 : 0);
    }
  };
  const auto load = [&](int step) {
    if (step < steps) {
      uint16_t* to = shared + step % kMmaStages * kMmaStage<kSplit>;
      const int64_t k0 = int64_t(step) * kMmaDepth;
      load_part(to, work.a.high, work.a, row0, k0);
      load_part(to + kMmaPart, work.b.high, work.b, column0, k0);
      if constexpr (kSplit) {
        load_part(to + 2 * kMmaPart, work.a.low, work.a, row0, k0);
        load_part(to + 3 * kMmaPart, work.b.low, work.b, column0, k0);
      }
    }
    cp_async_commit();  // also where there is nothing left to load: the waits count groups
  };

  float sums[2][8][4] = {};
  // d += the warp's part of a b^T over this stage's k
  const auto multiply = [&](float(&d)[2][8][4], const uint16_t* a, const uint16_t* b) {
  // split operands leave no free registers: addresses are computed again
#pragma unroll(kSplit ? 1 : 2)
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t left[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ldmatrix_x4(left[i], a + mma_offset(warp_row + i * 16 + lane % 16, k / 8 + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t right[4];
        ldmatrix_x4(right, b + mma_offset(warp_column + j * 8 + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma<kF16>(d[i][j], left[i], right[0], right[1]);
          mma<kF16>(d[i][j + 1], left[i], right[2], right[3]);
        }
      }
    }
  };

  for (int step = 0; step < kMmaStages - 1; ++step) load(step);
  load_columns(column_values, kMmaTile, epilogue.bias, scaling, batch, column0, work.n, t, kMmaThreads);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kMmaStages - 2>();
    __syncthreads();  // all see this stage, and have left the one that is loaded next
    load(step + kMmaStages - 1);
    const uint16_t* a = shared + step % kMmaStages * kMmaStage<kSplit>;
    const uint16_t* b = a + kMmaPart;
    if constexpr (kSplit) {
      const uint16_t *a_low = a + 2 * kMmaPart, *b_low = a + 3 * kMmaPart;
      float part[2][8][4] = {};
      multiply(part, a_low, b);
      multiply(part, a, b_low);
      // of rows i / 2 * 16 + lane / 4 + i % 2 * 8; rows outside have that of the last one
      float scale[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t row = min64(row0 + warp_row + i / 2 * 16 + lane / 4 + i % 2 * 8, work.m - 1);
        scale[i] = work.a.scale[(batch * work.m + row) * work.a.chunks + step * kMmaDepth / kSplitChunk];
      }
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        float& p = part[i / 32][i / 4 % 8][i % 4];
        float& sum = sums[i / 32][i / 4 % 8][i % 4];
        sum = fmaf(p, scale[i / 32 * 2 + i / 2 % 2] / 2048, sum);
        p = 0;
      }
      multiply(part, a, b);
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        float& sum = sums[i / 32][i / 4 % 8][i % 4];
        sum = fmaf(part[i / 32][i / 4 % 8][i % 4], scale[i / 32 * 2 + i / 2 % 2], sum);
      }
    } else {
      multiply(sums, a, b);
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // the stages are free: each warp uses a part of them for staging
  char* const staging = reinterpret_cast<char*>(shared) + warp * kStagingBytes<kMmaStagingRow>;
  const Columns columns = Columns::at(column_values, kMmaTile, warp_column);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    epilogue.template fragment<8, kMmaStagingRow>(staging, columns, scaling, batch, row0 + warp_row + i * 16,
                                                  column0 + warp_column,
                                                  [&](int j, int g, int h) { return sums[i][j][g * 2 + h]; });
  }
}

template <bool kSplit, bool kF16, class Scaling, class Epilogue>
Status launch_mma(Context* context, const SplitOperand& a, const SplitOperand& b, const Scaling& scaling,
                  const Epilogue& epilogue) {
  auto* kernel = mma_kernel<kSplit, kF16, Scaling, Epilogue>;
  const int64_t row_tiles = ceil_div(a.rows, kMmaTile), column_tiles = ceil_div(b.rows, kMmaTile);
  const int64_t tiles = row_tiles * column_tiles;
  if (tiles > kGridLimit) return fail("a product of [%lld, %lld] is too large", (long long)a.rows, (long long)b.rows);
  MmaWork work = {a, b, 0, a.rows, b.rows, a.k, unsigned(row_tiles), unsigned(column_tiles)};
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kMmaShared<kSplit>));
  if (error != cudaSuccess) return from_cuda(error, "the shared memory of a product");
  for (; work.first_batch < a.batch; work.first_batch += 65535) {
    const int64_t batches = min64(a.batch - work.first_batch, 65535);
    LAUNCH((mma_kernel<kSplit, kF16, Scaling, Epilogue>), dim3(unsigned(tiles), 1, unsigned(batches)),
           dim3(kMmaThreads), kMmaShared<kSplit>, context->stream, work, scaling, epilogue);
  }
  return {};
}

}  // namespace sonde
