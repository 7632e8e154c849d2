// Products in plain float32, one chain of fused multiply-adds per element with k ascending: for precision 'strict', for GPUs whose
// tensor cores are no faster for float32, and for the rows and columns that split operands do not represent.
#pragma once
#include "epilogue.cuh"

namespace sonde {

// A matrix for each index of the leading dimensions.
struct Matrix {
  AnyElements x;
  int64_t row, column;  // strides

  static Matrix of(const View& view) {
    return {AnyElements::of(view), view.stride[view.rank - 2], view.stride[view.rank - 1]};
  }
};

// The rows and columns that operands do not represent, and whether there are any; null: none.
struct Flagged {
  const int32_t *rows = nullptr, *columns = nullptr, *any_row = nullptr, *any_column = nullptr;
};

struct SimtWork {
  Matrix a, b;            // [m, k], [k, n]
  Positions<2> matrices;  // of a and of b over the batch
  int64_t first_batch;
  int64_t m, n, k;
  int64_t row_tiles, column_tiles;
  Flagged flagged;  // with kMasked: only the elements of flagged rows and columns are wanted
};

constexpr int kSimtTile = 128, kSimtDepth = 16, kSimtThreads = 256;

// A tile of 128 x 128, 8 x 8 a thread; the next 16 k are on their way in registers while these are multiplied.
template <bool kMasked, class Epilogue>
SONDE_DEVICE void simt_tile(const SimtWork& work, const Epilogue& epilogue, int64_t batch, int64_t tile) {
  constexpr int kEach = kSimtTile * kSimtDepth / kSimtThreads;
  SHARED(float, left, [kSimtDepth][kSimtTile + 4]);
  SHARED(float, right, [kSimtDepth][kSimtTile + 4]);
  SHARED(float, biases, [kSimtTile]);
  const int t = int(threadIdx.x);
  const int64_t row0 = tile / work.column_tiles * kSimtTile, column0 = tile % work.column_tiles * kSimtTile;
  const auto flagged = [&](const int32_t* flags, int64_t i, int64_t count) {
    return flags && i < count && flags[batch * count + i] != 0;
  };
  if constexpr (kMasked) {
    const bool here = t < kSimtTile ? flagged(work.flagged.rows, row0 + t, work.m)
                                    : flagged(work.flagged.columns, column0 + t - kSimtTile, work.n);
    if (!__syncthreads_or(here)) return;
  }
  int64_t offset[2];
  work.matrices.at(batch, offset);
  float next_left[kEach], next_right[kEach];
  // neighbouring threads read neighbouring memory, whichever way the matrix lies
  const auto locate = [&](bool along_k, int i, int& tile, int& depth) {
    const int at = t + i * kSimtThreads;
    tile = along_k ? at / kSimtDepth : at % kSimtTile;
    depth = along_k ? at % kSimtDepth : at / kSimtTile;
  };
  const bool left_along_k = work.a.column == 1, right_along_k = work.b.column != 1;
  const auto load = [&](int64_t k0) {
    for (int i = 0; i < kEach; ++i) {
      int tile, depth;
      locate(left_along_k, i, tile, depth);
      const int64_t row = row0 + tile, k = k0 + depth;
      const bool inside = row < work.m && k < work.k;
      next_left[i] = inside ? work.a.x.get(offset[0] + row * work.a.row + k * work.a.column) : 0.0f;
    }
    for (int i = 0; i < kEach; ++i) {
      int tile, depth;
      locate(right_along_k, i, tile, depth);
      const int64_t column = column0 + tile, k = k0 + depth;
      const bool inside = column < work.n && k < work.k;
      next_right[i] = inside ? work.b.x.get(offset[1] + k * work.b.row + column * work.b.column) : 0.0f;
    }
  };
  const int y = t / 16 * 8, x = t % 16 * 4;  // columns x to x + 3 and x + 64 to x + 67
  float sums[8][8] = {};
  load(0);
  load_columns(biases, kSimtTile, epilogue.bias, NoScales(), batch, column0, work.n, t, kSimtThreads);
  for (int64_t k0 = 0; k0 < work.k; k0 += kSimtDepth) {
    for (int i = 0; i < kEach; ++i) {
      int tile, depth;
      locate(left_along_k, i, tile, depth);
      left[depth][tile] = next_left[i];
      locate(right_along_k, i, tile, depth);
      right[depth][tile] = next_right[i];
    }
    __syncthreads();
    if (k0 + kSimtDepth < work.k) load(k0 + kSimtDepth);
    const int depth = int(min64(kSimtDepth, work.k - k0));
    for (int k = 0; k < depth; ++k) {
      float p[8], q[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) p[i] = left[k][y + i];
#pragma unroll
      for (int j = 0; j < 8; ++j) q[j] = right[k][x + j % 4 + j / 4 * 64];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(p[i], q[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  // eight times: 16 rows of the tile, by way of shared memory, so that neighbouring threads write neighbouring memory
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) left[t / 16][x + j % 4 + j / 4 * 64] = sums[i][j];
    __syncthreads();
    constexpr int kChunk = Epilogue::kChunk, kRowChunks = kSimtTile / kChunk;
#pragma unroll 1
    for (int at = t; at < 16 * kRowChunks; at += kSimtThreads) {
      const int first = at % kRowChunks * kChunk;
      const int64_t row = row0 + at / kRowChunks * 8 + i, column = column0 + first;
      if (row >= work.m) continue;
      const bool all = !kMasked || flagged(work.flagged.rows, row, work.m);
      float v[kChunk];
      unsigned mask = 0;
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        v[j] = left[at / kRowChunks][first + j];
        const bool wanted = column + j < work.n && (all || flagged(work.flagged.columns, column + j, work.n));
        mask |= wanted ? 1u << j : 0;
      }
      if (mask) epilogue.chunk(batch, row, column, v, biases + first, mask);
    }
    __syncthreads();
  }
}

// A block for each tile; with kMasked, a few that end at once where nothing is flagged, and else take tile after tile.
template <bool kMasked, class Epilogue>
__global__ void __launch_bounds__(kSimtThreads) simt_kernel(SimtWork work, Epilogue epilogue) {
  if constexpr (kMasked) {
    if (*work.flagged.any_row == 0 && *work.flagged.any_column == 0) return;
    const int64_t tiles = work.row_tiles * work.column_tiles;
    for (int64_t i = blockIdx.x; i < tiles * work.matrices.count; i += gridDim.x) {
      simt_tile<true>(work, epilogue, i / tiles, i % tiles);
    }
  } else {
    simt_tile<false>(work, epilogue, work.first_batch + blockIdx.z, blockIdx.x);
  }
}

template <bool kMasked, class Epilogue>
Status launch_simt(Context* context, const View& a, const View& b, int64_t m, int64_t n, int64_t k,
                   const Flagged& flagged, const Epilogue& epilogue) {
  const View* const views[] = {&a, &b};
  SimtWork work = {Matrix::of(a),          Matrix::of(b), positions(views, 2), 0, m, n, k, ceil_div(m, kSimtTile),
                   ceil_div(n, kSimtTile), flagged};
  const int64_t tiles = work.row_tiles * work.column_tiles;
  if constexpr (kMasked) {
    const int64_t blocks = min64(tiles * work.matrices.count, 2 * context->multiprocessors);
    LAUNCH((simt_kernel<true, Epilogue>), dim3(unsigned(blocks)), dim3(kSimtThreads), 0, context->stream, work,
           epilogue);
    return {};
  }
  if (tiles > kGridLimit) return fail("a product of [%lld, %lld] is too large", (long long)m, (long long)n);
  for (; work.first_batch < work.matrices.count; work.first_batch += 65535) {
    const int64_t batches = min64(work.matrices.count - work.first_batch, 65535);
    LAUNCH((simt_kernel<kMasked, Epilogue>), dim3(unsigned(tiles), 1, unsigned(batches)), dim3(kSimtThreads), 0,
           context->stream, work, epilogue);
  }
  return {};
}

}  // namespace sonde
