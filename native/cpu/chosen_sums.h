// The sums of a group of columns that the filter has chosen, with the bits that product() gives them.
//
// Where a vector of columns is multiplied by a row, all of its sums come out, of which one is wanted as a rule. AVX-512 can
// give each column of a vector a row of its own instead, out of 32 rows that were transposed: a permutation more for each
// step, and several wanted sums in a vector.
#pragma once
#include "sparse_sums.h"

namespace sonde::SONDE_ISA {

// The columns of a vector whose sums with a row are wanted.
struct Hit {
  int32_t row;
  uint32_t lanes;
  int32_t entry;  // of the first of them, for the caller
};

// The hits of a group, a list for each vector of columns, in ascending order of rows.
struct Hits {
  Hit* all;  // `capacity` of each vector
  int32_t* counts;
  int64_t capacity;

  static size_t size(int64_t vectors, int64_t rows) { return size_t(vectors * (rows * int64_t(sizeof(Hit)) + 4)); }
  static Hits in(void* memory, int64_t vectors, int64_t rows) {
    auto* all = static_cast<Hit*>(memory);
    auto* counts = reinterpret_cast<int32_t*>(all + vectors * rows);
    memset(counts, 0, size_t(vectors) * 4);
    return {all, counts, rows};
  }
  Hit& add(int64_t vector) { return all[vector * capacity + counts[vector]++]; }
  // the last one of a vector, or null
  Hit* last(int64_t vector) { return counts[vector] ? &all[vector * capacity + counts[vector] - 1] : nullptr; }
};

// ---- a row for all columns of a vector

constexpr int kChosenRows = 12;  // that are multiplied together, more than enough to hide the latency of a multiply-add

// A row whose sums with a vector of columns are computed, and where they are held.
struct Product {
  int32_t row;
  float* sums;  // [kWidth]
};

// The sums of R products with a vector of columns, `steps` steps on. `offset`: of the first step in a row, in bytes. `next`
// is prefetched meanwhile, a line in four steps.
template <Layout layout, int R>
__attribute__((noinline)) void multiply_chosen(int64_t steps, const Left& left, const Product* products, int64_t offset,
                                               const char* column, const char* next) {
  constexpr int64_t kStep = step_bytes(layout, kColumns);
  const char* row[R];
  Tile<R, 1> tile;
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
    row[i] = left.row(products[i].row) + offset;
    tile.sum[i][0] = load(products[i].sums);
  }
  for (int64_t p = 0; p < steps; ++p, column += kStep) {
    const int64_t at = p * left_bytes(layout);
    if (p % 4 == 0) {
      __builtin_prefetch(next, 0, 2);
      next += kStep;
    }
    if constexpr (layout == Layout::widened_pairs) {
      const vf pair = load_step<layout>(column);
      const vf first[1] = {vf(vu(pair) << 16)}, second[1] = {vf(vu(pair) & 0xffff0000u)};
#pragma GCC unroll 12
      for (int i = 0; i < R; ++i) {
        tile.template add<layout>(i, broadcast_at(row[i] + at), first);
        tile.template add<layout>(i, broadcast_at(row[i] + at + 4), second);
      }
    } else {
      const vf one[1] = {load_step<layout>(column)};
#pragma GCC unroll 12
      for (int i = 0; i < R; ++i) tile.template add<layout>(i, broadcast_at(row[i] + at), one);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) store(products[i].sums, tile.sum[i][0]);
}

using ChosenKernel = void (*)(int64_t steps, const Left& left, const Product* products, int64_t offset,
                              const char* column, const char* next);

// For `count` products, at most R.
template <Layout layout, int R = kChosenRows>
ChosenKernel chosen_kernel_for(int count) {
  if constexpr (R > 1) {
    if (count < R) return chosen_kernel_for<layout, R - 1>(count);
  }
  return multiply_chosen<layout, R>;
}
inline ChosenKernel chosen_kernel(Layout layout, int count) {
  switch (layout) {
    case Layout::float32: return chosen_kernel_for<Layout::float32>(count);
    case Layout::float16: return chosen_kernel_for<Layout::float16>(count);
#if defined(__AVX512BF16__)
    case Layout::pairs: return chosen_kernel_for<Layout::pairs>(count);
    default: return chosen_kernel_for<Layout::widened_pairs>(count);
#else
    default: return chosen_kernel_for<Layout::bfloat16>(count);
#endif
  }
}

// ---- a row for each column of a vector

constexpr int64_t kBlockRows = 32;  // that a permutation chooses from
constexpr int kMixedVectors = 6;    // that are multiplied together
constexpr int kDenseHits = 2;       // of a vector of columns and a block, on average, and
constexpr int kLeastMixed = 3;      // lanes for which that is faster
constexpr int kMostMixed = 8;       // of a vector of columns and a block

// Steps at a time: for a group's columns they fill half of the first-level cache, where they stay while blocks come and go.
constexpr int64_t kMixedSlice = 32;

// Rows in blocks, as [slice of kMixedSlice steps][block][step][kBlockRows]; null where there are none.
struct RowBlocks {
  const float* data = nullptr;
  int64_t blocks = 0;

  const float* at(int64_t block, int64_t step) const {
    return data + ((step / kMixedSlice * blocks + block) * kMixedSlice + step % kMixedSlice) * kBlockRows;
  }
};

// A vector of columns whose lanes have rows of their own, out of a block.
struct Mixed {
  const char* column;  // the first step
  uint8_t* rows;       // [kWidth] in the block
  float* sums;         // [kWidth]
};

// Transposes rows of elements of four bytes, where that is of use.
inline RowBlocks row_blocks(const Work& work, const Left& left, int64_t rows) {
#if defined(__AVX512F__)
  const Layout layout = work.layout();
  const bool aligned = left.stride % 4 == 0 && reinterpret_cast<uintptr_t>(left.data) % 4 == 0;
  if (left_bytes(layout) != 4 || !aligned || rows < kBlockRows / 2) return {};
  const int64_t steps = work.steps(), blocks = ceil_div(rows, kBlockRows);
  const size_t bytes = size_t(blocks * round_up(steps, kMixedSlice) * kBlockRows) * 4;
  const RowBlocks to = {static_cast<float*>(shared_scratch(work.context, kBlocksSlot, bytes)), blocks};
  if (!to.data) return {};
  parallel(work.context, blocks, [&](int64_t block, int) {
    const auto* from = reinterpret_cast<const float*>(left.row(block * kBlockRows));
    const int64_t count = min64(kBlockRows, rows - block * kBlockRows);
    for (int64_t step = 0; step < steps; step += 16) {
      auto* part = const_cast<float*>(to.at(block, step));
      transpose_block(part, kBlockRows, from + step, left.stride / 4, count, min64(16, steps - step));
    }
  });
  return to;
#else
  static_cast<void>(work), static_cast<void>(left), static_cast<void>(rows);
  return {};
#endif
}

#if defined(__AVX512F__)
// The sums of N vectors of columns with rows of one block, `steps` steps on. `offset`: of the first of these steps in the
// columns, in bytes. The block that follows is prefetched.
template <Layout layout, int N>
__attribute__((noinline)) void multiply_mixed(int64_t steps, const float* rows, const Mixed* mixed, int64_t offset) {
  constexpr int64_t kStep = step_bytes(layout, kColumns);
  const char* column[N];
  __m512i index[N];
  vf sum[N];
#pragma GCC unroll 6
  for (int i = 0; i < N; ++i) {
    column[i] = mixed[i].column + offset;
    index[i] = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mixed[i].rows)));
    sum[i] = load(mixed[i].sums);
  }
  for (int64_t p = 0; p < steps; ++p, rows += kBlockRows) {
    const __m512 low = _mm512_loadu_ps(rows), high = _mm512_loadu_ps(rows + kWidth);
    __builtin_prefetch(rows + kMixedSlice * kBlockRows);
    __builtin_prefetch(rows + kMixedSlice * kBlockRows + kWidth);
#pragma GCC unroll 6
    for (int i = 0; i < N; ++i) {
      const vf row = vf(_mm512_permutex2var_ps(low, index[i], high));
      sum[i] = accumulate<layout>(row, load_step<layout>(column[i] + p * kStep), sum[i]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < N; ++i) store(mixed[i].sums, sum[i]);
}

template <Layout layout, int N = kMixedVectors>
void multiply_mixed_of(int count, int64_t steps, const float* rows, const Mixed* mixed, int64_t offset) {
  if constexpr (N > 1) {
    if (count < N) return multiply_mixed_of<layout, N - 1>(count, steps, rows, mixed, offset);
  }
  multiply_mixed<layout, N>(steps, rows, mixed, offset);
}
inline void multiply_mixed(Layout layout, int count, int64_t steps, const float* rows, const Mixed* mixed,
                           int64_t offset) {
  switch (layout) {
    case Layout::float32: return multiply_mixed_of<Layout::float32>(count, steps, rows, mixed, offset);
    case Layout::float16: return multiply_mixed_of<Layout::float16>(count, steps, rows, mixed, offset);
#if defined(__AVX512BF16__)
    default: return multiply_mixed_of<Layout::pairs>(count, steps, rows, mixed, offset);
#else
    default: return multiply_mixed_of<Layout::bfloat16>(count, steps, rows, mixed, offset);
#endif
  }
}
#endif

// ---- both

constexpr int64_t kSlice = 256;  // steps at a time: one vector of their columns stays in the first-level cache

// The memory of the sums of a group.
struct ChosenMemory {
  float* sums;     // [kWidth] of each hit and, behind them, of each mixed vector
  float* earlier;  // of the blocks of steps before
  Mixed* mixed;    // in the order of their blocks
  int32_t* ends;   // of each block's
  // of the hits that are not, or not only, in mixed vectors, in the order of their vectors of columns
  Product* products;
  // of each mixed vector, in the order of its vector of columns:
  uint32_t* lanes;  // which of them are wanted
  int32_t* hits;    // [kWidth], the hit that a lane belongs to
  uint8_t* rows;    // [kWidth], in the block
  int32_t* cells;   // [vectors][blocks], where those of a vector of columns and a block end

  static int64_t blocks(int64_t rows) { return ceil_div(rows, kBlockRows); }
  static size_t size(int64_t vectors, int64_t rows) {
    const size_t hits = size_t(vectors * rows), cells = size_t(vectors * blocks(rows)), most = cells * kMostMixed;
    const size_t for_all = 2 * kWidth * sizeof(float), for_mixed = sizeof(Mixed) + 4 + kWidth * (4 + 1);
    return (hits + most) * for_all + hits * sizeof(Product) + most * for_mixed + (cells + size_t(blocks(rows))) * 4;
  }
  static ChosenMemory in(void* memory, int64_t vectors, int64_t rows) {
    const int64_t hits = vectors * rows, cells = vectors * blocks(rows), most = cells * kMostMixed;
    ChosenMemory own;
    own.sums = static_cast<float*>(memory);
    own.earlier = own.sums + (hits + most) * kWidth;
    own.mixed = reinterpret_cast<Mixed*>(own.earlier + (hits + most) * kWidth);
    own.products = reinterpret_cast<Product*>(own.mixed + most);
    own.ends = reinterpret_cast<int32_t*>(own.products + hits);
    own.lanes = reinterpret_cast<uint32_t*>(own.ends + blocks(rows));
    own.hits = reinterpret_cast<int32_t*>(own.lanes + most);
    own.cells = own.hits + most * kWidth;
    own.rows = reinterpret_cast<uint8_t*>(own.cells + cells);
    return own;
  }
};

// Decides which hits of a group are computed how, and begins all sums. `ends`: of the products of each vector of columns.
// Returns the number of mixed vectors.
inline int64_t begin_chosen(const Work& work, const RowBlocks& row_blocks, const Group& group, const Hits& hits,
                            const ChosenMemory& memory, int64_t total, int64_t* ends) {
  const int64_t blocks = ChosenMemory::blocks(hits.capacity);
  const bool mixes = row_blocks.data && total >= kDenseHits * group.vectors() * blocks;
  int64_t products = 0, count = 0;
  int32_t number = 0;  // of the hit
  for (int64_t vector = 0; vector < group.vectors(); ++vector) {
    const vf bias = load(work.bias + group.column + vector * kWidth);
    const Hit* hit = hits.all + vector * hits.capacity;
    const Hit* const last = hit + hits.counts[vector];
    for (int64_t block = 0; block < blocks; ++block) {
      // Of the rows that want a column, the first one has it in the first mixed vector, the next one in the second.
      uint32_t lanes[kMostMixed] = {};
      const Hit* end = hit;
      for (; mixes && end < last && end->row / kBlockRows == block; ++end) {
        uint32_t wanted = end->lanes;
        for (int i = 0; wanted && i < kMostMixed; ++i) {
          const uint32_t taken = wanted & ~lanes[i];
          lanes[i] |= taken;
          wanted &= ~taken;
        }
      }
      const int64_t first = count;
      for (int i = 0; i < kMostMixed && __builtin_popcount(lanes[i]) >= kLeastMixed; ++i, ++count) {
        memory.lanes[count] = lanes[i];
        memset(memory.rows + count * kWidth, 0, kWidth);
        store(memory.sums + (total + count) * kWidth, bias);
      }
      memory.cells[vector * blocks + block] = int32_t(count);
      uint32_t open[kMostMixed];
      memcpy(open, lanes, sizeof open);
      for (; hit < last && hit->row / kBlockRows == block; ++hit, ++number) {
        uint32_t wanted = hit->lanes;
        for (int64_t at = first; wanted && at < count; ++at) {
          const uint32_t taken = wanted & open[at - first];
          open[at - first] &= ~taken;
          wanted &= ~taken;
          for (uint32_t bits = taken; bits; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            memory.rows[at * kWidth + lane] = uint8_t(hit->row - block * kBlockRows);
            memory.hits[at * kWidth + lane] = number;
          }
        }
        if (!wanted) continue;
        float* const to = memory.sums + number * kWidth;
        memory.products[products++] = {hit->row, to};
        store(to, bias);
      }
    }
    ends[vector] = products;
  }
  return count;
}

// Calls use(hit, vector, sums [kWidth]) for each hit of a group, vector by vector. As product() does it, sums of a block of
// steps are added up before they are added to those of earlier blocks.
template <class Use>
void chosen_sums(const Work& work, const Left& left, const RowBlocks& row_blocks, const Group& group, const Hits& hits,
                 const ChosenMemory& memory, Use use) {
  Panels b = panels_from(work.w, group.panel);
  b.layout = work.layout();
  const int64_t vectors = group.vectors(), vector_bytes = step_bytes(b.layout, kWidth);
  const int64_t depth = depth_of(b.layout), row_step = left_bytes(b.layout);
  const auto column = [&](int64_t vector, int64_t step) {
    return b.at(vector / kVectors, step) + vector % kVectors * vector_bytes;
  };
  int64_t total = 0, ends[kGroup * kVectors];
  for (int64_t vector = 0; vector < vectors; ++vector) total += hits.counts[vector];
  const int64_t mixed = begin_chosen(work, row_blocks, group, hits, memory, total, ends);
  const int64_t blocks = ChosenMemory::blocks(hits.capacity);
  int32_t ordered = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const int64_t cell = vector * blocks + block;
      for (int64_t i = cell > 0 ? memory.cells[cell - 1] : 0; i < memory.cells[cell]; ++i) {
        memory.mixed[ordered++] = {column(vector, 0), memory.rows + i * kWidth, memory.sums + (total + i) * kWidth};
      }
    }
    memory.ends[block] = ordered;
  }
  // calls use(place in memory.sums) for each vector of sums that is computed
  const auto each_sum = [&](auto apply) {
    const Product* const last = memory.products + (vectors > 0 ? ends[vectors - 1] : 0);
    for (const Product* product = memory.products; product < last; ++product) apply(product->sums - memory.sums);
    for (int64_t i = total; i < total + mixed; ++i) apply(i * kWidth);
  };
  for (int64_t at = 0, steps; at < b.used; at += steps) {
    if (at > 0 && at % depth == 0) {
      each_sum([&](int64_t i) {
        const vf sum = load(memory.sums + i);
        store(memory.earlier + i, at == depth ? sum : load(memory.earlier + i) + sum);
        store(memory.sums + i, vf{});
      });
    }
    steps = min64(min64(kSlice, depth - at % depth), b.used - at);
#if defined(__AVX512F__)
    for (int64_t part = 0; mixed > 0 && part < steps; part += kMixedSlice) {
      const int64_t count = min64(kMixedSlice, steps - part), offset = (at + part) * step_bytes(b.layout, kColumns);
      const Mixed* one = memory.mixed;
      for (int64_t block = 0; block < blocks; ++block) {
        const float* rows = row_blocks.at(block, at + part);
        for (const Mixed* end = memory.mixed + memory.ends[block]; one < end; one += kMixedVectors) {
          multiply_mixed(b.layout, int(min64(kMixedVectors, end - one)), count, rows, one, offset);
        }
        one = memory.mixed + memory.ends[block];
      }
    }
#endif
    const Product* product = memory.products;
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const bool last = vector + 1 == vectors;
      const char* next = column(last ? 0 : vector + 1, last ? at + steps : at);
      for (const Product* end = memory.products + ends[vector]; product < end;) {
        const int count = int(min64(kChosenRows, end - product));
        chosen_kernel(b.layout, count)(steps, left, product, at * row_step, column(vector, at), next);
        product += count;
        next += kSlice / 4 * step_bytes(b.layout, kColumns);
      }
    }
  }
  each_sum([&](int64_t i) {
    const vf sum = load(memory.sums + i);
    store(memory.sums + i, canonical(b.used > depth ? load(memory.earlier + i) + sum : sum));
  });
  for (int64_t i = 0; i < mixed; ++i) {
    for (uint32_t bits = memory.lanes[i]; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      const int32_t hit = memory.hits[i * kWidth + lane];
      memory.sums[hit * kWidth + lane] = memory.sums[(total + i) * kWidth + lane];
    }
  }
  const float* sums = memory.sums;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const Hit* hit = hits.all + vector * hits.capacity;
    for (const Hit* end = hit + hits.counts[vector]; hit < end; ++hit, sums += kWidth) use(*hit, vector, sums);
  }
}

}  // namespace sonde::SONDE_ISA
