// The sums of sparse_encode: all of a group of columns, or upper bounds of them by the filter.
#pragma once
#include "fine_bounds.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kRowsAtOnce = 1024 / kRows * kRows;

// The slots of scratch memory that this operation uses.
enum SharedSlot {
  kConvertedSlot,
  kBiasSlot,
  kRankSlot,
  kLimitSlot,
  kFilterSlot,
  kBoundedSlot,
  kPlacesSlot,
  kGatherSlot,
  kBlocksSlot
};
enum ThreadSlot { kSumsSlot, kTileSlot, kHitsSlot, kSelectSlot, kChosenSlot, kPossibleSlot, kFineSlot };

struct Work {
  Context* context;
  const In& x;
  const Packed& w;
  Csr* csr;
  const float* bias;        // of whole panels
  char* converted;          // rows of x in another layout; null if x can be read in place
  const float* thresholds;  // of the columns, of whole panels
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
  bool may_be_fine() const { return w.shape[0] <= kLargestFineK; }
  size_t fine_bytes() const { return may_be_fine() ? FineColumns::size(w.shape[0], group_panels() * kColumns) : 1; }
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

// Calls use(sums, row) for the rows of a group.
template <class Use>
void all_sums(const Work& work, const Left& left, int64_t rows, const Group& group, int thread, Use use) {
  const Layout layout = work.layout();
  auto* sums = static_cast<float*>(thread_scratch(work.context, thread, kSumsSlot, work.scratch_bytes()));
  Panels b = panels_from(work.w, group.panel);
  b.layout = layout;
  const Sums to{sums, kGroupColumns, in_one_pass(layout, b.used), true};
  const Scratch scratch = Scratch::in(sums + work.sum_floats(), layout, block_rows(work.context));
  for (int64_t row = 0; row < rows; row += kTaskRows) {
    product<kVectors>({left.row(row), left.stride}, min64(kTaskRows, rows - row), b, group.panels, group.columns,
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

inline size_t filter_row_bytes(int64_t rows, int64_t k) {
  return FilterRows::size(rows, k) + size_t(row_floats(k)) * 8;
}

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

constexpr int64_t kFetchedRows = 32;

// Fine bounds pay off for a panel with so many possible sums.
constexpr int64_t kLeastFine = 48 * kVectors;
// Where more of a panel's sums are possible, no bounds are made fine, and they are used before the next panel is bounded.
constexpr double kDense = 0.25;

// Sums of a row and a vector of columns whose upper bounds are above the row's limit.
struct Possible {
  uint32_t lanes;
  int32_t row;
  int16_t vector, found;  // of the group; how many lanes there were at first
  int32_t next;           // of the row, or -1
};

// Those of a group.
struct PossibleSums {
  float* upper;  // [kWidth] of each
  Possible* all;
  int32_t count, *first, *last;  // [rows], after link_rows()
  float* below;                  // [rows], the limits

  static size_t size(int64_t vectors, int64_t rows) {
    return size_t(vectors * rows + 1) * (kWidth * 4 + sizeof(Possible)) + size_t(rows) * 12;
  }
  static PossibleSums in(void* memory, int64_t vectors, int64_t rows) {
    auto* upper = static_cast<float*>(memory);
    auto* all = reinterpret_cast<Possible*>(upper + (vectors * rows + 1) * kWidth);
    auto* first = reinterpret_cast<int32_t*>(all + vectors * rows + 1);
    return {upper, all, 0, first, first + rows, reinterpret_cast<float*>(first + 2 * rows)};
  }
  // Where no lane is above, it adds nothing: a branch would often be mispredicted.
  SONDE_INLINE void add(int64_t row, int64_t vector, vf upper_bounds, uint32_t lanes) {
    store(upper + count * kWidth, upper_bounds);
    all[count] = {lanes, int32_t(row), int16_t(vector), int16_t(__builtin_popcount(lanes)), -1};
    count += lanes != 0;
  }
  // Makes a list for each row, in ascending order of vectors.
  void link_rows(int64_t rows) {
    memset(first, 0xff, size_t(rows) * 4);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t row = all[i].row;
      *(first[row] < 0 ? &first[row] : &all[last[row]].next) = i;
      last[row] = i;
    }
  }
};

// What the upper bounds of a row and a vector of columns were made of.
struct Bound {
  const RowBound& row;
  const float* residual;  // [kWidth]
};

// Makes the upper bounds of a row's possible sums fine, in the panels where `fine` is true, and takes away the lanes of those that
// are not above the row's limit.
inline void make_fine(const Work& work, const FilterRows& rows, int64_t row, const PossibleSums& possible,
                      const Group& group, const FineColumns& columns, const bool* fine, const float* split) {
  const Filter& filter = work.filter;
  const FilterRow& own = rows.rows[row];
  const int16_t* integers = rows.shorts + row * rows.short_stride;
  int32_t some[kFineColumns];
  int64_t at[kFineColumns];  // columns of the group
  int count = 0;
  const auto flush = [&] {
    const int16_t* factors[kFineColumns];
    double sums[kFineColumns];
    for (int i = 0; i < count; ++i) factors[i] = columns.column(at[i]);
    multiply_shorts(count, integers, factors, columns.stride, sums);
    for (int i = 0; i < count; ++i) {
      const int64_t column = group.column + at[i], lane = at[i] % kWidth;
      const FineBound bound = {filter.scale[column], filter.norm[column], columns.residual[at[i]],
                               work.upper_bias[column], split + at[i]};
      const float upper = bound.upper(sums[i], own, rows.splits, kGroupColumns);
      possible.upper[some[i] * kWidth + lane] = upper;
      possible.all[some[i]].lanes &= ~(uint32_t(upper <= possible.below[row]) << lane);
    }
    count = 0;
  };
  for (int32_t i = possible.first[row]; i >= 0; i = possible.all[i].next) {
    const Possible& one = possible.all[i];
    if (!fine[one.vector / kVectors]) continue;
    for (uint32_t bits = one.lanes; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      if (!(possible.upper[i * kWidth + lane] < INFINITY)) continue;  // something is not finite
      some[count] = i;
      at[count++] = one.vector * kWidth + lane;
      if (count == kFineColumns) flush();
    }
  }
  if (count > 0) flush();
}

constexpr int64_t kNoFine = INT64_MAX;

// How many possible sums there were where bounds were made fine, and how many of them still were possible then.
struct FineCounts {
  int64_t possible = 0, kept = 0;
};

// Calls use(row, vector, bits, upper bounds, what they were made of) where some of them are above the row's limit. The rows of a
// vector come in ascending order, and so do the vectors of a row. limits(row, count, to) gives the limits of a tile of rows.
// After each panel it calls proceed(sums that are possible so far, of how many). Where that is false it returns, and some that
// are possible were not used. The bounds of a panel with at least `least_fine` possible sums are made fine, of none with kNoFine.
template <class Limits, class Use, class Proceed>
FineCounts bounded_sums(const Work& work, const FilterRows& rows, int64_t row_count, const Group& group, int thread,
                        int64_t least_fine, Limits limits, Use use, Proceed proceed) {
  FineCounts counts;
  if (!work.may_be_fine()) least_fine = kNoFine;
  const int64_t k = work.w.shape[0];
  auto* split = static_cast<float*>(thread_scratch(work.context, thread, kTileSlot, tile_bytes(k)));
  auto* sums = reinterpret_cast<int32_t*>(split + kSplitChannels * kGroupColumns);
  const int64_t group_vectors = work.group_panels() * kVectors;
  const size_t possible_bytes = PossibleSums::size(group_vectors, row_count), fine_bytes = work.fine_bytes();
  PossibleSums possible =
      PossibleSums::in(thread_scratch(work.context, thread, kPossibleSlot, possible_bytes), group_vectors, row_count);
  FineColumns fine_columns =
      FineColumns::in(thread_scratch(work.context, thread, kFineSlot, fine_bytes), k, work.group_panels() * kColumns);
  bool fine[kGroup] = {}, any_fine = false;  // of the panels
  const Panels panels = panels_from(work.w, group.panel);
  const DotTile multiply_bytes = dot_tile_of(work.context);
  for (int s = 0; s < rows.splits; ++s) {
    for (int64_t i = 0; i < group.panels; ++i) {
      unpack_row(split + s * kGroupColumns + i * kColumns, panels, i, rows.channels[s]);
    }
  }
  const auto use_rows = [&] {
    possible.link_rows(row_count);
    for (int64_t row = 0; row < row_count; ++row) {
      if (any_fine && possible.first[row] >= 0) {
        make_fine(work, rows, row, possible, group, fine_columns, fine, split);
      }
      const FilterRow& own = rows.rows[row];
      for (int32_t i = possible.first[row]; i >= 0; i = possible.all[i].next) {
        const Possible& one = possible.all[i];
        const int64_t at = one.vector * kWidth;
        const bool is_fine = fine[one.vector / kVectors];
        const Bound bound = {is_fine ? own.fine : own.coarse,
                             is_fine ? fine_columns.residual + at : work.filter.residual + group.column + at};
        if (one.lanes) use(row, one.vector, one.lanes, possible.upper + i * kWidth, bound);
        if (is_fine) counts.kept += __builtin_popcount(one.lanes);
        if (is_fine) counts.possible += one.found;
      }
    }
    possible.count = 0;
  };
  // Meanwhile the columns are fetched for the chosen sums: with many rows, most of their cache lines will be needed.
  const char* next = panels.at(0, 0);
  const int64_t fetched = row_count < kFetchedRows ? 0 : ceil_div(work.filter.steps, kDotStepsPerLine) * 64;
  int64_t all = 0;
  for (int64_t i = 0; i < group.panels; ++i) {  // which stays in the first-level cache while the rows are read
    const uint8_t* panel = work.filter.panel(group.panel + i);
    int64_t lanes = 0;
    for (int64_t row = 0; row < row_count; row += kDotRows) {
      const int height = int(min64(kDotRows, row_count - row));
      float below[kDotRows];
      if (!limits(row, height, below)) continue;
      memcpy(possible.below + row, below, size_t(height) * 4);
      multiply_bytes(work.filter.steps, rows.bytes + row * rows.stride, rows.stride, rows.start + row, panel, sums,
                     next);
      next += fetched;
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = i * kColumns + j * kWidth, column = group.column + at, count = group.columns - at;
        if (count <= 0) break;
        const Columns columns = {work.filter.scale + column,
                                 work.filter.norm + column,
                                 work.filter.residual + column,
                                 work.upper_bias + column,
                                 split + at,
                                 kGroupColumns};
        vf upper[kDotRows];
        upper_bounds(upper, sums + j * kWidth, rows.rows + row, rows.splits, columns);
        const uint32_t wanted = count >= kWidth ? ~0u : (1u << count) - 1;
#pragma GCC unroll 8
        for (int r = 0; r < kDotRows; ++r) {
          if (r == height) break;
          const uint32_t bits = not_at_most_bits(upper[r], broadcast(below[r])) & wanted;  // NaN passes
          if (least_fine != kNoFine) {
            possible.add(row + r, at / kWidth, upper[r], bits);
            lanes += __builtin_popcount(bits);
          } else if (bits) {
            float bounds[kWidth];
            store(bounds, upper[r]);
            use(row + r, at / kWidth, bits, bounds, Bound{rows.rows[row + r].coarse, columns.residual});
            lanes += __builtin_popcount(bits);
          }
        }
      }
    }
    all += lanes;
    if (!proceed(all, row_count * min64(group.columns, (i + 1) * kColumns))) return counts;
    const bool dense = double(lanes) > kDense * double(row_count * kColumns);
    fine[i] = lanes >= least_fine && !dense;
    if (fine[i]) {
      any_fine = true;
      fine_columns.set(panels, i, work.filter, group.column + i * kColumns, k);
    }
    // where that many are above the limits, these may be tighter afterwards
    if (dense) use_rows();
  }
  use_rows();
  return counts;
}

}  // namespace sonde::SONDE_ISA
