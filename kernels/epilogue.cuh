// Epilogues of products: they process a product's elements while these are in registers. Kernels hand them over in one of two ways:
//
//   fragment  16 rows x 8 kPairs columns of a warp, as the tensor cores leave them: value(j, g, h) is the element of row
//             lane / 4 + 8 g and column lane % 4 * 2 + 8 j + h
//   quad      four neighbours of a row, from a column that is a multiple of four
//
// Each element comes once, in no certain order. All lanes of a warp call fragment() together, and are together again when it
// returns: the next instruction may be one of the whole warp.
#pragma once
#include "functions.cuh"
#include "ranking.cuh"
#include "split_operand.cuh"

namespace sonde {

// The factors that undo the scaling of both operands, but not where the product has applied those of the left one, and the rows and
// columns that the operands do not represent: the epilogue skips these, and a product in plain float32 (product_simt.cuh) computes
// them.
struct Scales {
  const float *rows = nullptr, *columns = nullptr;  // no rows: 1
  const int32_t *row_flags = nullptr, *column_flags = nullptr;
  const int32_t *any_row = nullptr, *any_column = nullptr;  // 0 where none is flagged

  static Scales of(const SplitOperand& a, const SplitOperand& b) {
    return {a.in_chunks ? nullptr : a.scale, b.scale, a.flags, b.flags, a.any, b.any};
  }
  SONDE_DEVICE float row(int64_t i) const {
    return row_flags[i] ? 0.0f : rows ? rows[i] : 1.0f;
  }  // 0: not to be written
  SONDE_DEVICE float column(int64_t i) const { return column_flags[i] ? 0.0f : columns[i]; }
};
struct NoScales {
  SONDE_DEVICE float row(int64_t) const { return 1; }
  SONDE_DEVICE float column(int64_t) const { return 1; }
};

// A warp's staging buffer in shared memory, in which Dense arranges fragments in the order of memory: 16 rows of 32 columns.
constexpr int kStagingPitch = 36;
constexpr int kStagingFloats = 16 * kStagingPitch;

// out [batch][m, n] = activation(product + bias) + residual
struct Dense {
  AnyElements out;
  int64_t out_stride, out_batch;
  AnyElements bias;      // [n], or null data
  AnyElements residual;  // as out, or null data
  int64_t residual_stride;
  Activation activation;
  int64_t m, n;
  bool aligned;  // four neighbours of a row may be written at once

  // mask: which of the four are to be written
  SONDE_DEVICE void quad(int64_t batch, int64_t row, int64_t column, float (&v)[4], unsigned mask) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (bias.data && mask >> i & 1) v[i] += bias.get(column + i);
    }
    if (activation == Activation::gelu) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = Gelu()(v[i]);
    } else if (activation == Activation::relu) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = Relu()(v[i]);
    }
    if (residual.data) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (mask >> i & 1) v[i] = out.rounded(v[i]) + residual.get(row * residual_stride + column + i);
      }
    }
    const int64_t at = batch * out_batch + row * out_stride + column;
    if (mask == 15 && aligned && out.dtype == DType::float32) {
      Elements<float>{static_cast<float*>(out.data)}.set4(at, v);
    } else if (mask == 15 && aligned && out.dtype == DType::bfloat16) {
      Elements<Bf16>{static_cast<Bf16*>(out.data)}.set4(at, v);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (mask >> i & 1) out.set(at + i, v[i]);
      }
    }
  }

  template <int kPairs, class Scaling, class Value>
  SONDE_DEVICE void fragment(float* staging, const Scaling& scaling, int64_t batch, int64_t row0, int64_t column0,
                             Value value) const {
    static_assert(kPairs % 4 == 0, "");
    const int lane = int(threadIdx.x) % 32, left = lane % 8 * 4;
#pragma unroll
    for (int part = 0; part < kPairs / 4; ++part) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int g = 0; g < 2; ++g) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            staging[(lane / 4 + 8 * g) * kStagingPitch + 8 * j + lane % 4 * 2 + h] = value(part * 4 + j, g, h);
          }
        }
      }
      __syncwarp();
      const int64_t column = column0 + part * 32 + left;
      float scale[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) scale[i] = column + i < n ? scaling.column(batch * n + column + i) : 0.0f;
#pragma unroll 1
      for (int step = 0; step < 4; ++step) {
        const int64_t row = row0 + step * 4 + lane / 8;
        if (row >= m) continue;
        const float row_scale = scaling.row(batch * m + row);
        float v[4];
        unsigned mask = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // both are powers of two: their product is exact
          const float factor = row_scale * scale[i];
          if (factor != 0) mask |= 1u << i;
          v[i] = staging[(step * 4 + lane / 8) * kStagingPitch + left + i] * factor;
        }
        if (mask) quad(batch, row, column, v, mask);
      }
    }
    __syncwarp();
  }
};

// Elements that pass go to their row's list, as candidates (ranking.cuh), in no certain order: all that are above the limit, and
// NaN. A list's count may exceed its capacity: elements that do not fit are counted
// and not stored.
struct Sparse {
  uint64_t* lists;      // [m][capacity]
  int32_t* counts;      // [m]
  const float* limits;  // [m]; null: `limit` for all
  float limit;
  bool magnitude;  // |value| has to be above the limit
  int32_t capacity;
  const float* bias;  // [n] of the columns counted here, or null
  int64_t m, n;
  int64_t first_column;  // of the columns counted here

  SONDE_DEVICE bool passes(float least, float value) const { return !((magnitude ? fabsf(value) : value) <= least); }
  SONDE_DEVICE float least_of(int64_t row) const { return limits ? limits[row] : limit; }
  SONDE_DEVICE void store(int64_t row, int64_t column, int32_t slot, float value) const {
    if (slot < capacity) lists[row * capacity + slot] = candidate(key_of(value), first_column + column);
  }

  SONDE_DEVICE void quad(int64_t, int64_t row, int64_t column, float (&v)[4], unsigned mask) const {
    const float least = least_of(row);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!(mask >> i & 1)) continue;
      const float value = bias ? v[i] + bias[column + i] : v[i];
      if (passes(least, value)) store(row, column + i, atomicAdd(&counts[row], 1), value);
    }
  }

  // The four lanes of a quad share two rows: they count their hits together, one atomic addition for a row that has any.
  template <int kPairs, class Scaling, class Value>
  SONDE_DEVICE void fragment(float*, const Scaling& scaling, int64_t batch, int64_t row0, int64_t column0,
                             Value value) const {
    static_assert(kPairs <= 32, "");
    const int lane = int(threadIdx.x) % 32;
    const int64_t column = column0 + lane % 4 * 2;
    float least[2], scale[2];
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int64_t row = row0 + lane / 4 + 8 * g;
      scale[g] = row < m ? scaling.row(batch * m + row) : 0.0f;
      least[g] = row < m ? least_of(row) : 0.0f;
    }
    const auto finished = [&](int j, int g, int h, float column_scale) {
      const float v = value(j, g, h) * (scale[g] * column_scale);
      return bias ? v + bias[column + 8 * j + h] : v;
    };
    uint32_t hits[2][2] = {};
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t c = column + 8 * j + h;
        if (c >= n) continue;
        const float column_scale = scaling.column(batch * n + c);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          const bool wanted = scale[g] * column_scale != 0;
          if (wanted && passes(least[g], finished(j, g, h, column_scale))) hits[g][h] |= 1u << j;
        }
      }
    }
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int64_t row = row0 + lane / 4 + 8 * g;
      const int count = __popc(hits[g][0]) + __popc(hits[g][1]);
      int before = count;  // of this lane and those before it in the quad
      for (int step = 1; step < 4; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, before, step);
        if (lane % 4 >= step) before += other;
      }
      int slot = 0;
      if (lane % 4 == 3 && before > 0) slot = atomicAdd(&counts[row], before);
      slot = __shfl_sync(0xffffffffu, slot, lane | 3) + before - count;
      if (count == 0) continue;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (!(hits[g][h] >> j & 1)) continue;
          const int64_t c = column + 8 * j + h;
          store(row, c, slot++, finished(j, g, h, scaling.column(batch * n + c)));
        }
      }
    }
    __syncwarp();
  }
};

}  // namespace sonde
