// The sums of sparse_encode: all of a group of columns, upper bounds of them by the filter, or chosen ones. A sum has the
// same bits however it was chosen.
#pragma once
#include "filter.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kRowsAtOnce = 1024 / kRows * kRows;

// The slots of scratch memory that this operation uses.
enum SharedSlot { kConvertedSlot, kBiasSlot, kRankSlot, kLimitSlot, kFilterSlot, kBoundedSlot, kPlacesSlot, kGatherSlot };
enum ThreadSlot { kSumsSlot, kTileSlot, kHitsSlot, kSelectSlot, kChosenSlot };

struct Work {
  Context* context;
  const In& x;
  const Packed& w;
  Csr* csr;
  const float* bias;  // of whole panels
  char* converted;    // rows of x in another layout; null if x can be read in place
  float threshold;
  int64_t k;
  bool relu;
  bool filtered = false;
  Filter filter = {};
  const float* upper_bias = nullptr;  // of whole panels: see filter.h
  int64_t written = 0;                // entries in csr

  Layout layout() const { return product_layout(packed_layout(w.dtype), x.dtype); }
  int64_t steps() const { return step_count(layout(), w.shape[0]); }
  // Panels of a group of columns. A group is a task: several for each thread, as some processors are slower than others.
  int64_t group_panels() const {
    const int threads = thread_count(context);
    return threads == 1 ? kGroup : min64(kGroup, ceil_div(panel_count(w.shape[1]), 4 * threads));
  }
  int64_t groups() const { return ceil_div(panel_count(w.shape[1]), group_panels()); }
  int64_t sum_floats() const { return Sums::rows(layout(), steps(), kTaskRows, block_rows(context)) * kGroupColumns; }
  size_t scratch_bytes() const { return size_t(sum_floats() + Scratch::floats(layout(), block_rows(context))) * 4; }
};

// A group of columns.
struct Group {
  int64_t index, panel, panels, column, columns;

  Group(const Work& work, int64_t i) : index(i) {
    const int64_t n = work.w.shape[1], at_once = work.group_panels();
    panel = i * at_once;
    panels = min64(at_once, panel_count(n) - panel);
    column = panel * kColumns;
    columns = min64(n - column, panels * kColumns);
  }
  int64_t vectors() const { return ceil_div(columns, kWidth); }
};

// Rows of x from `first` on, as they are multiplied.
inline Left left_rows(const Work& work, int64_t first, int64_t rows) {
  Left left = left_of(work.x);
  left.data = left.row(first);
  if (!work.converted) return left;
  const Layout layout = work.layout();
  left = {work.converted, left_row_bytes(layout, work.w.shape[0])};
  parallel(work.context, ceil_div(rows, kRows), [&](int64_t block, int) {
    for (int64_t i = block * kRows; i < min64(rows, (block + 1) * kRows); ++i) {
      convert_row(work.converted + i * left.stride, work.x, first + i, layout);
    }
  });
  return left;
}

// ---- all sums

// Calls use(sums, row) for the rows [from, end) of a group.
template <class Use>
void all_sums(const Work& work, const Left& left, int64_t from, int64_t end, const Group& group, int thread, Use use) {
  const Layout layout = work.layout();
  auto* sums = static_cast<float*>(thread_scratch(work.context, thread, kSumsSlot, work.scratch_bytes()));
  Panels b = panels_from(work.w, group.panel);
  b.layout = layout;
  const Sums to{sums, kGroupColumns, in_one_pass(layout, b.used), true};
  const Scratch scratch = Scratch::in(sums + work.sum_floats(), layout, block_rows(work.context));
  for (int64_t row = from; row < end; row += kTaskRows) {
    product<kVectors>({left.row(row), left.stride}, min64(kTaskRows, end - row), b, group.panels, group.columns,
                      work.bias + group.column, to, scratch, [&](int64_t block, int height, const float* c) {
                        for (int i = 0; i < height; ++i) use(c + i * kGroupColumns, row + block + i);
                      });
  }
}

// ---- upper bounds

// Reads a row as float32, whose exact values every layout has.
inline void read_row_as_floats(float* to, const char* from, Layout layout, int64_t k) {
  if (layout == Layout::pairs) return widen(to, from, DType::bfloat16, k);
  memcpy(to, from, size_t(k) * 4);
}

// Chooses the channels to split off: those in which some rows are far larger than in the others.
inline void choose_channels(FilterRows& to, const Left& left, int64_t rows, Layout layout, int64_t k, float* row,
                            float* most) {
  constexpr int64_t kSampled = 128;
  constexpr float kFar = 1.5f;
  memset(most, 0, size_t(k) * 4);
  for (int64_t i = 0; i < rows; i += max64(1, rows / kSampled)) {
    read_row_as_floats(row, left.row(i), layout, k);
    for (int64_t p = 0; p < k; ++p) {
      const float size = fabsf(row[p]);
      if (size > most[p] && size < INFINITY) most[p] = size;
    }
  }
  float largest[kSplitChannels + 1] = {};  // in descending order
  int32_t channels[kSplitChannels + 1] = {};
  for (int64_t p = 0; p < k; ++p) {
    if (most[p] <= largest[kSplitChannels]) continue;
    int at = kSplitChannels;
    for (; at > 0 && largest[at - 1] < most[p]; --at) {
      largest[at] = largest[at - 1];
      channels[at] = channels[at - 1];
    }
    largest[at] = most[p];
    channels[at] = int32_t(p);
  }
  to.splits = 0;
  while (to.splits < kSplitChannels && largest[to.splits] > kFar * largest[kSplitChannels]) {
    to.channels[to.splits] = channels[to.splits];
    ++to.splits;
  }
}

inline int64_t row_floats(int64_t k) { return round_up(k, 64); }
// Memory of a thread for a tile of the filter, and for one row.
inline size_t tile_bytes(int64_t k) {
  return size_t(kSplitChannels * kGroupColumns + kDotRows * kColumns + row_floats(k)) * 4;
}

inline size_t filter_row_bytes(int64_t rows, int64_t k) { return FilterRows::size(rows, k) + size_t(row_floats(k)) * 8; }

// Quantises rows for the filter.
inline FilterRows filter_rows(const Work& work, const Left& left, int64_t rows) {
  const int64_t k = work.w.shape[0];
  const Layout layout = work.layout();
  auto* memory = static_cast<char*>(shared_scratch(work.context, kFilterSlot, filter_row_bytes(rows, k)));
  auto* floats = reinterpret_cast<float*>(memory);
  FilterRows to = FilterRows::in(memory + row_floats(k) * 8, rows, k);
  choose_channels(to, left, rows, layout, k, floats, floats + row_floats(k));
  parallel(work.context, FilterRows::padded(rows) / kDotRows, [&](int64_t tile, int thread) {
    auto* row = static_cast<float*>(thread_scratch(work.context, thread, kTileSlot, tile_bytes(k)));
    for (int64_t i = tile * kDotRows; i < (tile + 1) * kDotRows; ++i) {
      if (i < rows) read_row_as_floats(row, left.row(i), layout, k);
      else memset(row, 0, size_t(k) * 4);
      to.set(i, row, k);
    }
  });
  return to;
}

// Calls use(row, vector, bits, upper bounds) where some of them are above the row's limit, for the rows [from, end), from
// being a multiple of kDotRows. limits(row, count, to) gives the limits of a tile of rows.
template <class Limits, class Use>
void bounded_sums(const Work& work, const FilterRows& rows, int64_t from, int64_t end, const Group& group, int thread,
                  Limits limits, Use use) {
  const int64_t k = work.w.shape[0];
  auto* split = static_cast<float*>(thread_scratch(work.context, thread, kTileSlot, tile_bytes(k)));
  auto* sums = reinterpret_cast<int32_t*>(split + kSplitChannels * kGroupColumns);
  const Panels panels = panels_from(work.w, group.panel);
  const DotTile multiply_bytes = dot_tile_of(work.context);
  for (int s = 0; s < rows.splits; ++s) {
    for (int64_t i = 0; i < group.panels; ++i) {
      unpack_row(split + s * kGroupColumns + i * kColumns, panels, i, rows.channels[s]);
    }
  }
  for (int64_t i = 0; i < group.panels; ++i) {  // which stays in the first-level cache while the rows are read
    const uint8_t* panel = work.filter.panel(group.panel + i);
    for (int64_t row = from; row < end; row += kDotRows) {
      const int height = int(min64(kDotRows, end - row));
      float below[kDotRows];
      if (!limits(row, height, below)) continue;
      multiply_bytes(work.filter.steps, rows.bytes + row * rows.stride, rows.stride, rows.start + row, panel, sums);
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = i * kColumns + j * kWidth, column = group.column + at, count = group.columns - at;
        if (count <= 0) break;
        const Columns columns = {work.filter.scale + column,    work.filter.norm + column,
                                 work.filter.residual + column, work.upper_bias + column,
                                 split + at,                    kGroupColumns};
        vf upper[kDotRows];
        upper_bounds(upper, sums + j * kWidth, rows.rows + row, rows.splits, columns);
        const uint32_t wanted = count >= kWidth ? ~0u : (1u << count) - 1;
#pragma GCC unroll 8
        for (int r = 0; r < kDotRows; ++r) {
          const uint32_t bits = not_at_most_bits(upper[r], broadcast(below[r])) & wanted;  // NaN passes
          if (bits && r < height) use(row + r, at / kWidth, bits, upper[r]);
        }
      }
    }
  }
}

// ---- chosen sums

constexpr int kChosenRows = 12;  // enough to hide the latency of a multiply-add

// The columns of a vector whose sums with a row are wanted.
struct Hit {
  int32_t row;
  uint32_t lanes;
  int32_t entry;  // of the first of them, for the caller
};

// sums [R][kWidth] += rows times one vector of columns, in ascending steps. `next` is prefetched meanwhile, a line in four
// steps.
template <Layout layout, int R>
__attribute__((noinline)) void multiply_chosen(int64_t steps, const char* const* rows, const char* column, float* sums,
                                               const char* next) {
  constexpr int64_t kStep = step_bytes(layout, kColumns);
  const char* row[R];
  Tile<R, 1> tile;
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
    row[i] = rows[i];
    tile.sum[i][0] = load(sums + i * kWidth);
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
  for (int i = 0; i < R; ++i) store(sums + i * kWidth, tile.sum[i][0]);
}

using ChosenKernel = void (*)(int64_t steps, const char* const* rows, const char* column, float* sums,
                              const char* next);

template <Layout layout>
ChosenKernel chosen_kernel_for(int rows) {
  switch (rows) {
    case 1: return multiply_chosen<layout, 1>;
    case 2: return multiply_chosen<layout, 2>;
    case 3: return multiply_chosen<layout, 3>;
    case 4: return multiply_chosen<layout, 4>;
    case 5: return multiply_chosen<layout, 5>;
    case 6: return multiply_chosen<layout, 6>;
    case 7: return multiply_chosen<layout, 7>;
    case 8: return multiply_chosen<layout, 8>;
    case 9: return multiply_chosen<layout, 9>;
    case 10: return multiply_chosen<layout, 10>;
    case 11: return multiply_chosen<layout, 11>;
    default: return multiply_chosen<layout, kChosenRows>;
  }
}
inline ChosenKernel chosen_kernel(Layout layout, int rows) {
  switch (layout) {
    case Layout::float32: return chosen_kernel_for<Layout::float32>(rows);
    case Layout::float16: return chosen_kernel_for<Layout::float16>(rows);
#if defined(__AVX512BF16__)
    case Layout::pairs: return chosen_kernel_for<Layout::pairs>(rows);
    default: return chosen_kernel_for<Layout::widened_pairs>(rows);
#else
    default: return chosen_kernel_for<Layout::bfloat16>(rows);
#endif
  }
}

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

// Steps at a time: one vector of their columns stays in the first-level cache, and all rows' part in the second.
constexpr int64_t kSlice = 256;
inline size_t chosen_bytes(int64_t vectors, int64_t rows) { return size_t(2 * vectors * rows * kWidth) * 4; }

// Calls use(hit, vector, sums [kWidth]) for each hit of a group, vector by vector. As product() does it, sums of a block of
// steps are added up before they are added to those of earlier blocks. memory: chosen_bytes(vectors, hits.capacity).
template <class Use>
void chosen_sums(const Work& work, const Left& left, const Group& group, const Hits& hits, float* memory, Use use) {
  Panels b = panels_from(work.w, group.panel);
  b.layout = work.layout();
  const int64_t vectors = group.vectors(), vector_bytes = step_bytes(b.layout, kWidth);
  const int64_t depth = depth_of(b.layout), row_step = left_bytes(b.layout);
  int64_t total = 0;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const vf bias = load(work.bias + group.column + vector * kWidth);
    for (int32_t i = 0; i < hits.counts[vector]; ++i) store(memory + total++ * kWidth, bias);
  }
  float* const earlier = memory + total * kWidth;
  const auto column = [&](int64_t vector, int64_t step) {
    return b.at(vector / kVectors, step) + vector % kVectors * vector_bytes;
  };
  for (int64_t at = 0, steps; at < b.used; at += steps) {
    if (at > 0 && at % depth == 0) {
      for (int64_t i = 0; i < total * kWidth; i += kWidth) {
        store(earlier + i, at == depth ? load(memory + i) : load(earlier + i) + load(memory + i));
        store(memory + i, vf{});
      }
    }
    steps = min64(min64(kSlice, depth - at % depth), b.used - at);
    float* sums = memory;
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const Hit* hit = hits.all + vector * hits.capacity;
      const int64_t count = hits.counts[vector];
      const char* next = column(vector + 1 < vectors ? vector + 1 : 0, vector + 1 < vectors ? at : at + steps);
      for (int64_t i = 0; i < count; i += kChosenRows) {
        const int height = int(min64(kChosenRows, count - i));
        const char* rows[kChosenRows];
        for (int r = 0; r < height; ++r) rows[r] = left.row(hit[i + r].row) + at * row_step;
        chosen_kernel(b.layout, height)(steps, rows, column(vector, at), sums + i * kWidth, next);
        next += kSlice / 4 * step_bytes(b.layout, kColumns);
      }
      sums += count * kWidth;
    }
  }
  float* sum = memory;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const Hit* hit = hits.all + vector * hits.capacity;
    for (const Hit* end = hit + hits.counts[vector]; hit < end; ++hit, sum += kWidth) {
      const vf all = b.used > depth ? load(sum - memory + earlier) + load(sum) : load(sum);
      store(sum, canonical(all));
      use(*hit, vector, sum);
    }
  }
}

}  // namespace sonde::SONDE_ISA
