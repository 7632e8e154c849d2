// Epilogues of products: they process a product's elements while these are in registers. Kernels hand them over in one of two ways:
//
//   fragment  16 rows x 8 kPairs columns of a warp, as the tensor cores leave them: value(j, g, h) is the element of row
//             lane / 4 + 8 g and column lane % 4 * 2 + 8 j + h
//   chunk     Epilogue::kChunk neighbours of a row, from a column that is a multiple of kChunk
//
// Each element comes once, in no certain order. What all rows share, a tile's bias and the factors of its columns, lies in shared
// memory by then: load_columns(). All lanes of a warp call fragment() together, and are together again when it returns: the
// next instruction may be one of the whole warp.
#pragma once
#include "functions.cuh"
#include "ranking.cuh"
#include "rows.cuh"
#include "split_operand.cuh"

namespace sonde {

// The factors that undo the scaling of both operands, powers of two, but not where the product has applied those of the left one; and
// the rows and columns that the operands do not represent: the epilogue skips these, and a product in plain float32
// (product_simt.cuh) computes them. Their factors are 0.
template <bool kWithRows>
struct Scales {
  static constexpr bool kColumns = true, kRows = kWithRows;
  const float* rows = nullptr;
  const int32_t* row_flags = nullptr;
  const float* columns = nullptr;

  static Scales of(const SplitOperand& a, const SplitOperand& b) { return {a.scale, a.flags, b.scale}; }
  SONDE_DEVICE float row(int64_t i) const { return kRows ? rows[i] : row_flags[i] ? 0.0f : 1.0f; }
  SONDE_DEVICE float column(int64_t i) const { return columns[i]; }
};
struct NoScales {
  static constexpr bool kColumns = false, kRows = false;
  SONDE_DEVICE float row(int64_t) const { return 1; }
  SONDE_DEVICE float column(int64_t) const { return 1; }
};

// ---- the columns of a tile

// What a tile's columns share, in shared memory: `count` values of bias, and as many factors where the product has them.
constexpr int kColumnArrays = 2;

// bias of -0 changes nothing where there is none: x + -0 is x, also for -0
template <class Scaling>
SONDE_DEVICE void load_columns(float* to, int count, const AnyElements& bias, const Scaling& scaling, int64_t batch,
                               int64_t column0, int64_t n, int thread, int threads) {
  for (int c = thread; c < count; c += threads) {
    const int64_t column = column0 + c;
    to[c] = bias.data && column < n ? bias.get(column) : -0.0f;
    if constexpr (Scaling::kColumns) to[count + c] = column < n ? scaling.column(batch * n + column) : 0.0f;
  }
}

// Where the columns of a fragment lie in what load_columns() wrote.
struct Columns {
  const float *bias, *scale;

  SONDE_DEVICE static Columns at(const float* loaded, int count, int first) {
    return {loaded + first, loaded + count + first};
  }
};

// A lane's two neighbours of a pair of columns.
SONDE_DEVICE float2 pair_at(const float* values, int j) {
  return *reinterpret_cast<const float2*>(values + 8 * j + int(threadIdx.x) % 4 * 2);
}

// The element with its scaling undone, and its bias. `linear` and `sparse_encode` must agree in every bit.
template <class Scaling>
SONDE_DEVICE float finished(float product, float row_scale, float column_scale, float bias) {
  if constexpr (Scaling::kRows) product *= row_scale;
  if constexpr (Scaling::kColumns) return fmaf(product, column_scale, bias);
  else return product + bias;
}

// A fragment's 16 rows: which of them are wanted, a bit each, and the factors of the lane's two. Without kSkips, rows that operands do
// not represent are wanted, too: what is written there does no harm, as it is written again.
struct FragmentRows {
  unsigned wanted;
  float scale[2];
};
template <bool kSkips, class Scaling>
SONDE_DEVICE FragmentRows fragment_rows(const Scaling& scaling, int64_t batch, int64_t row0, int64_t m) {
  const int lane = int(threadIdx.x) % kWarp, inside = int(min64(m - row0, 16));
  FragmentRows rows = {inside <= 0 ? 0u : (1u << inside) - 1, {1, 1}};
  if constexpr (Scaling::kColumns && kSkips) {
    const float scale = lane < inside ? scaling.row(batch * m + row0 + lane) : 0.0f;
    rows.wanted = __ballot_sync(kAll, scale != 0);
  }
  if constexpr (Scaling::kRows) {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int row = lane / 4 + 8 * g;
      rows.scale[g] = row < inside ? scaling.row(batch * m + row0 + row) : 0.0f;
    }
  }
  return rows;
}

// ---- epilogues

// Bytes of a warp's staging buffer in shared memory: 16 rows of so many bytes, and gaps against bank conflicts.
template <int kRow>
constexpr int kStagingBytes = 16 * (kRow + 32);

// out [batch][m, n] = activation(product + bias) + residual
template <class T, Activation kActivation, bool kResidual, bool kPlanes = false>
struct Dense {
  static constexpr bool kWritesPlanes = kPlanes;  // of out, as well
  static constexpr int kChunk = Chunk<T>::size;

  T* out;
  int64_t out_stride, out_batch;
  AnyElements bias;   // [n], or null data
  const T* residual;  // as out, with kResidual; it may be out itself
  int64_t residual_stride;
  int64_t m, n;
  bool aligned;   // chunks of a row may be written, and read from residual, at once
  Planes planes;  // with kPlanes; where the product repairs something, they are written again

  SONDE_DEVICE static float activated(float x) {
    if constexpr (kActivation == Activation::gelu) return Gelu()(x);
    else if constexpr (kActivation == Activation::relu) return Relu()(x);
    else return x;
  }
  // as if the value had been stored, and read again
  SONDE_DEVICE static float rounded(float value) { return Format<T>::widen(Format<T>::narrow(value)); }

  // mask: which of the chunk are wanted
  SONDE_DEVICE void chunk(int64_t batch, int64_t row, int64_t column, const float (&v)[kChunk], const float* biases,
                          unsigned mask) const {
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = activated(v[i] + biases[i]);
    T* to = out + batch * out_batch + row * out_stride + column;
    const int64_t other = row * residual_stride + column;
    if (mask == (1u << kChunk) - 1 && aligned) {
      if constexpr (kResidual) {
        float others[kChunk];
        Chunk<T>::load(residual + other).get(others);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) values[i] = rounded(values[i]) + others[i];
      }
      Chunk<T>::of(values).store(to);
      return;
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (!(mask >> i & 1)) continue;
      if constexpr (kResidual) values[i] = rounded(values[i]) + Format<T>::widen(residual[other + i]);
      to[i] = Format<T>::narrow(values[i]);
    }
  }

  // Parts of kRow bytes of columns go through staging, so that lanes write neighbouring memory, 16 bytes each. Rows whose pitch
  // does not allow that are written element by element, a warp side by side.
  template <int kPairs, int kRow, class Scaling, class Value>
  SONDE_DEVICE void fragment(void* memory, const Columns& columns, const Scaling& scaling, int64_t batch, int64_t row0,
                             int64_t column0, Value value) const {
    constexpr int kPart = kRow / int(sizeof(T)) / 8 < kPairs ? kRow / int(sizeof(T)) / 8 : kPairs;  // pairs
    constexpr int kPitch = (kRow + (sizeof(T) == 4 ? 32 : 16)) / int(sizeof(T));
    constexpr int kWidth = 8 * kPart, kRowChunks = kWidth / kChunk, kRowStep = kWarp / kRowChunks;
    constexpr int kSteps = 16 / kRowStep;
    static_assert(kPairs % kPart == 0 && kWidth % kWarp == 0, "");
    T* const staging = static_cast<T*>(memory);
    const int lane = int(threadIdx.x) % kWarp;
    const FragmentRows rows = fragment_rows<kResidual>(scaling, batch, row0, m);
    // this lane's chunks: of every kRowStep-th row, from this one on
    const int first_row = lane / kRowChunks, first = lane % kRowChunks * kChunk;
    T* const corner = out + batch * out_batch + row0 * out_stride + column0;
    T* const to = corner + first_row * out_stride + first;
    const int64_t other = (row0 + first_row) * residual_stride + column0 + first;
    const int64_t jump = kRowStep * out_stride;
    const int inside = int(min64(n - column0, 8 * kPairs));  // columns
    // the four elements of the lane's pair of columns j: [g][h]
    const auto finished_pair = [&](int j, float(&v)[2][2]) {
      const float2 bias = pair_at(columns.bias, j);
      float2 scale = {1, 1};
      if constexpr (Scaling::kColumns) scale = pair_at(columns.scale, j);
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        v[g][0] = activated(finished<Scaling>(value(j, g, 0), rows.scale[g], scale.x, bias.x));
        v[g][1] = activated(finished<Scaling>(value(j, g, 1), rows.scale[g], scale.y, bias.y));
      }
    };
    constexpr int kHeld = kPlanes ? kSplitChunk / 8 : 1;  // pairs that are computed before their part
    float held[kHeld][2][2];
#pragma unroll
    for (int part = 0; part < kPairs / kPart; ++part) {
      if constexpr (kPlanes) {
        static_assert(kHeld % kPart == 0 && kPairs % kHeld == 0, "");
        if (part * kPart % kHeld == 0) {
#pragma unroll
          for (int j = 0; j < kHeld; ++j) finished_pair(part * kPart + j, held[j]);
          planes.fragment(row0, (column0 + part * kWidth) / kSplitChunk, part * kWidth < inside ? m : 0,
                          [&](int j, int g, int h) { return held[j][g][h]; });
        }
      }
      const int left = inside - part * kWidth;
      const bool chunked = aligned & ((left >= kWidth) | (left % kChunk == 0));
      const unsigned my_rows = first < left ? rows.wanted >> first_row : 0u;
      Chunk<T> others[kResidual ? kSteps : 1];
      if constexpr (kResidual) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          others[step] = Chunk<T>::load(residual + other + step * kRowStep * residual_stride + part * kWidth,
                                        chunked ? my_rows & 1u << step * kRowStep : 0);
        }
      }
      __syncwarp();  // the part before has been read
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        float(&v)[2][2] = held[kPlanes ? (part * kPart + j) % kHeld : 0];
        if constexpr (!kPlanes) finished_pair(part * kPart + j, v);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          put_pair(staging + (lane / 4 + 8 * g) * kPitch + 8 * j + lane % 4 * 2, v[g][0], v[g][1]);
        }
      }
      __syncwarp();
      if (chunked) {
        T* at = to + part * kWidth;
#pragma unroll
        for (int step = 0; step < kSteps; ++step, at += jump) {
          Chunk<T> chunk = Chunk<T>::load_shared(staging + (first_row + step * kRowStep) * kPitch + first);
          if constexpr (kResidual) {
            float values[kChunk], other_values[kChunk];
            chunk.get(values);
            others[step].get(other_values);
#pragma unroll
            for (int i = 0; i < kChunk; ++i) {
              values[i] = sum<Scaling>(values[i], other_values[i], columns, part * kWidth + first + i);
            }
            chunk = Chunk<T>::of(values);
          }
          chunk.store(at, my_rows & 1u << step * kRowStep);
        }
      } else {
#pragma unroll 1
        for (unsigned other_rows = rows.wanted; other_rows != 0; other_rows &= other_rows - 1) {
          const int row = __ffs(int(other_rows)) - 1;
          T* const at = corner + row * out_stride + part * kWidth;
#pragma unroll
          for (int i = 0; i < kWidth / kWarp; ++i) {
            const int column = i * kWarp + lane;
            if (column >= left) continue;
            T element = staging[row * kPitch + column];
            if constexpr (kResidual) {
              const T one = residual[(row0 + row) * residual_stride + column0 + part * kWidth + column];
              element = Format<T>::narrow(
                  sum<Scaling>(Format<T>::widen(element), Format<T>::widen(one), columns, part * kWidth + column));
            }
            at[column] = element;
          }
        }
      }
    }
    __syncwarp();
  }

 private:
  SONDE_DEVICE static void put_pair(T* to, float low, float high) {
    if constexpr (sizeof(T) == 4) *reinterpret_cast<float2*>(to) = make_float2(low, high);
    else *reinterpret_cast<uint32_t*>(to) = Format<T>::narrow2(low, high);
  }

  // Columns that are not wanted keep what residual has, which may be out itself.
  template <class Scaling>
  SONDE_DEVICE static float sum(float value, float other, const Columns& columns, int column) {
    if constexpr (Scaling::kColumns) {
      if (columns.scale[column] == 0) return other;
    }
    return value + other;
  }
};

// Elements that pass go to their row's list, as candidates (ranking.cuh), in no certain order: all that are above the limit and,
// where columns have thresholds, above their column's; and NaN. A list's count may exceed its capacity: elements that do not fit
// are counted and not stored.
struct Sparse {
  static constexpr int kChunk = 4;

  uint64_t* lists;      // [m][capacity]
  int32_t* counts;      // [m]
  const float* limits;  // [m]; null: `limit` for all
  float limit;
  bool magnitude;           // |value| has to be above the limit
  const float* thresholds;  // [n] of the columns, or null; one that is NaN counts as none
  int32_t capacity;
  AnyElements bias;  // [n] of the columns counted here, or null data
  int64_t m, n;
  int64_t first_column;  // of the columns counted here

  // the bits of a value that are compared
  SONDE_DEVICE unsigned compared() const { return magnitude ? 0x7fffffffu : ~0u; }
  SONDE_DEVICE static bool passes(float least, float value, unsigned compared) {
    return !(__uint_as_float(unsigned(__float_as_int(value)) & compared) <= least);
  }
  // the thresholds of two neighbouring columns, which may lie outside
  SONDE_DEVICE float2 own_pair(int64_t column) const {
    return {column < n ? thresholds[column] : 0.0f, column + 1 < n ? thresholds[column + 1] : 0.0f};
  }
  SONDE_DEVICE float least_of(int64_t row) const { return limits ? limits[row] : limit; }
  SONDE_DEVICE void store(int64_t row, int64_t column, int32_t slot, float value) const {
    if (slot < capacity) lists[row * capacity + slot] = candidate(key_of(value), first_column + column);
  }

  SONDE_DEVICE void chunk(int64_t, int64_t row, int64_t column, const float (&v)[kChunk], const float* biases,
                          unsigned mask) const {
    const float least = least_of(row);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float value = v[i] + biases[i];
      if (!(mask >> i & 1) || !passes(least, value, compared())) continue;
      if (thresholds != nullptr && value <= thresholds[column + i]) continue;
      store(row, column + i, atomicAdd(&counts[row], 1), value);
    }
  }

  // Two rounds. The first marks what passes, a bit each, without a branch. The four lanes of a quad share two rows: they count their
  // hits together, one atomic addition for a row that has any. The second goes over the 32 columns at a time in which the
  // warp has hits at all, and stores them by their bits; the values come from staging, as registers cannot be indexed.
  template <int kPairs, int kRow, class Scaling, class Value>
  SONDE_DEVICE void fragment(void* memory, const Columns& columns, const Scaling& scaling, int64_t batch, int64_t row0,
                             int64_t column0, Value value) const {
    static_assert(kPairs <= 32 && kPairs % 4 == 0, "");
    const int lane = int(threadIdx.x) % kWarp, first = lane % 4 * 2;
    FragmentRows rows = fragment_rows<true>(scaling, batch, row0, m);
    const unsigned bits = compared();
    float least[2] = {0, 0};
    bool wanted[2];
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int row = lane / 4 + 8 * g;
      wanted[g] = rows.wanted >> row & 1;
      if (wanted[g]) least[g] = least_of(row0 + row);
    }
    uint32_t hits[2][2] = {};
    // own: whether columns have thresholds
    const auto mark = [&](auto own) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 bias = pair_at(columns.bias, j);
        float2 scale = {1, 1}, limits = {0, 0};
        if constexpr (Scaling::kColumns) scale = pair_at(columns.scale, j);
        if constexpr (decltype(own)::value) limits = own_pair(column0 + 8 * j + first);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          const float left = finished<Scaling>(value(j, g, 0), rows.scale[g], scale.x, bias.x);
          const float right = finished<Scaling>(value(j, g, 1), rows.scale[g], scale.y, bias.y);
          bool left_passes = scale.x != 0 && passes(least[g], left, bits);
          bool right_passes = scale.y != 0 && passes(least[g], right, bits);
          if constexpr (decltype(own)::value) {
            left_passes = left_passes && !(left <= limits.x);
            right_passes = right_passes && !(right <= limits.y);
          }
          if (left_passes) hits[g][0] |= 1u << j;
          if (right_passes) hits[g][1] |= 1u << j;
        }
      }
    };
    if (thresholds == nullptr) mark(std::false_type());
    else mark(std::true_type());
    int slot[2];
    bool any = false;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        // column 8 j + first + h is one of n
        const int64_t inside = (n - column0 - first - h + 7) / 8;
        if (inside < kPairs) hits[g][h] &= inside > 0 ? (1u << inside) - 1 : 0u;
        if (!wanted[g]) hits[g][h] = 0;
      }
      any = any || (hits[g][0] | hits[g][1]) != 0;
    }
    if (!__any_sync(kAll, any)) {
      __syncwarp();
      return;
    }
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int count = __popc(hits[g][0]) + __popc(hits[g][1]);
      int before = count;  // of this lane and those before it in the quad
      for (int step = 1; step < 4; step *= 2) {
        const int other = __shfl_up_sync(kAll, before, step);
        if (lane % 4 >= step) before += other;
      }
      slot[g] = 0;
      if (lane % 4 == 3 && before > 0) slot[g] = atomicAdd(&counts[row0 + lane / 4 + 8 * g], before);
      slot[g] = __shfl_sync(kAll, slot[g], lane | 3) + before - count;
    }
    // from here on values are computed once more: to keep them all would take more registers than there are
    if constexpr (Scaling::kRows) keep_registers(rows.scale);
    float* const staging = static_cast<float*>(memory);
#pragma unroll
    for (int part = 0; part < kPairs; part += 4) {
      // bit 8 g + 4 h + j
      uint32_t left = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) left |= (hits[i / 2][i % 2] >> part & 15) << (4 * i);
      if (!__any_sync(kAll, left != 0)) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 bias = pair_at(columns.bias, part + j);
        float2 scale = {1, 1};
        if constexpr (Scaling::kColumns) scale = pair_at(columns.scale, part + j);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          staging[(8 * g + j) * kWarp + lane] =
              finished<Scaling>(value(part + j, g, 0), rows.scale[g], scale.x, bias.x);
          staging[(8 * g + 4 + j) * kWarp + lane] =
              finished<Scaling>(value(part + j, g, 1), rows.scale[g], scale.y, bias.y);
        }
      }
      for (; left != 0; left &= left - 1) {
        const int i = __ffs(int(left)) - 1, g = i / 8;
        const int64_t row = row0 + lane / 4 + 8 * g, column = column0 + 8 * (part + i % 4) + first + i / 4 % 2;
        store(row, column, g ? slot[1] : slot[0], staging[i * kWarp + lane]);
        slot[0] += 1 - g;
        slot[1] += g;
      }
    }
    __syncwarp();
  }
};

}  // namespace sonde
