// The threshold of sparse_encode: the values above it are appended to one list per group of columns, in row order; at the
// end the lists are merged into rows.
#pragma once
#include "chosen_sums.h"

namespace sonde::SONDE_ISA {

struct List {
  int32_t* indices;
  float* values;
  int64_t count, capacity;
  int32_t* row_counts;  // [rows + 1]; merge_lists makes offsets of them
};

inline bool grow(List& list, int64_t more) {
  if (list.count + more <= list.capacity) return true;
  const int64_t capacity = max64(2 * list.capacity, max64(1024, list.count + more));
  auto* indices = static_cast<int32_t*>(realloc(list.indices, size_t(capacity) * 4));
  if (!indices) return false;
  list.indices = indices;
  auto* values = static_cast<float*>(realloc(list.values, size_t(capacity) * 4));
  if (!values) return false;
  list.values = values;
  list.capacity = capacity;
  return true;
}

// A bit for each value that is kept.
SONDE_INLINE uint32_t passing_bits(vf v, vf threshold, bool relu) {
  if (relu) return not_at_most_bits(v, threshold);  // NaN passes
  const vf magnitude = vf(vi(v) & 0x7fffffff);
  return greater_bits(vi(magnitude), vi(threshold));  // compared as integers, NaN is above all
}

// Appends the values of row x [n] that pass their columns' thresholds, where x[0] is in column `column`. The list must
// have capacity for n more.
inline int32_t pick(List& list, const float* x, int64_t n, int64_t column, const float* thresholds, bool relu) {
  const int64_t before = list.count;
  const auto append = [&](uint32_t bits, int64_t at) {
    for (; bits; bits &= bits - 1) {
      const int64_t j = at + __builtin_ctz(bits);
      list.indices[list.count] = int32_t(column + j);
      list.values[list.count++] = x[j];
    }
  };
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) append(passing_bits(load(x + j), load(thresholds + j), relu), j);
  if (j < n) {
    const vf rest = load_partial(x + j, int(n - j));
    append(passing_bits(rest, load(thresholds + j), relu) & ((1u << (n - j)) - 1), j);
  }
  return int32_t(list.count - before);
}

// Where more than this of the sums are possible, computing all of them costs less than the filter and the chosen sums.
constexpr double kFewPossible = 0.2;

// Where fine bounds leave more than this of the possible sums, computing all of these costs less.
constexpr double kFewKept = 0.3;

// Whether to try the filter, and its fine bounds, on one more group. Where it has failed for most, only some are tried.
struct Trials {
  int32_t tried = 0, failed = 0;
  FineCounts fine;

  bool wanted(int64_t group) const {
    const int32_t t = __atomic_load_n(&tried, __ATOMIC_RELAXED), f = __atomic_load_n(&failed, __ATOMIC_RELAXED);
    return t < 2 || 2 * f <= t || group % 16 == 0;
  }
  bool wants_fine(int64_t group) const {
    const int64_t possible = __atomic_load_n(&fine.possible, __ATOMIC_RELAXED);
    return double(__atomic_load_n(&fine.kept, __ATOMIC_RELAXED)) <= kFewKept * double(possible) || group % 64 == 63;
  }
  void count(const FineCounts& counts) {
    __atomic_fetch_add(&fine.possible, counts.possible, __ATOMIC_RELAXED);
    __atomic_fetch_add(&fine.kept, counts.kept, __ATOMIC_RELAXED);
  }
  void count(bool worked) {
    __atomic_fetch_add(&tried, 1, __ATOMIC_RELAXED);
    if (!worked) __atomic_fetch_add(&failed, 1, __ATOMIC_RELAXED);
  }
};

// A value that was chosen by the filter and passes.
struct Chosen {
  int32_t row, column;
  float value;
};

// What became of a group.
enum class Filtered { done, too_many_hits, out_of_memory };

// Appends the values of a group that pass, where the filter is good for it, as its panels show one after the other.
inline Filtered pick_filtered(const Work& work, List& list, const Left& left, const RowBlocks& row_blocks,
                              const FilterRows& filter, int64_t rows, const Group& group, Trials& trials, int thread) {
  const size_t bytes = Hits::size(group.vectors(), rows);
  Hits hits = Hits::in(thread_scratch(work.context, thread, kHitsSlot, bytes), group.vectors(), rows);
  int64_t candidates = 0;
  bool few = true;
  const auto limits = [](int64_t, int height, float* below) {
    for (int i = 0; i < height; ++i) below[i] = 0;
    return true;
  };
  const auto hit = [&](int64_t row, int64_t vector, uint32_t bits, const float*, const Bound&) {
    hits.add(vector) = {int32_t(row), bits, 0};
    candidates += __builtin_popcount(bits);
  };
  const int64_t least_fine = trials.wants_fine(group.index) ? kLeastFine : kNoFine;
  const auto proceed = [&](int64_t possible, int64_t all) {
    few = double(possible) <= kFewPossible * double(all);
    return few;
  };
  trials.count(bounded_sums(work, filter, rows, group, thread, least_fine, limits, hit, proceed));
  trials.count(few);
  if (!few) return Filtered::too_many_hits;
  // in the order of columns first: they are sorted by rows afterwards
  const int64_t capacity = max64(1, candidates);
  auto* chosen = static_cast<Chosen*>(malloc(size_t(capacity) * sizeof(Chosen)));
  if (!chosen) return Filtered::out_of_memory;
  int64_t count = 0;
  const size_t chosen_bytes = ChosenMemory::size(group.vectors(), rows);
  const ChosenMemory memory =
      ChosenMemory::in(thread_scratch(work.context, thread, kChosenSlot, chosen_bytes), group.vectors(), rows);
  chosen_sums(work, left, row_blocks, group, hits, memory, [&](const Hit& hit, int64_t vector, const float* own) {
    const vf thresholds = load(work.thresholds + group.column + vector * kWidth);
    uint32_t bits = passing_bits(load(own), thresholds, work.relu) & hit.lanes;
    list.row_counts[hit.row] += __builtin_popcount(bits);
    for (; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      chosen[count++] = {hit.row, int32_t(group.column + vector * kWidth + lane), own[lane]};
    }
  });
  const bool enough = grow(list, count);
  auto* offsets = static_cast<int32_t*>(malloc(size_t(rows) * 4));
  if (enough && offsets) {
    int32_t offset = 0;
    for (int64_t row = 0; row < rows; ++row) {
      offsets[row] = offset;
      offset += list.row_counts[row];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int32_t to = offsets[chosen[i].row]++;
      list.indices[to] = chosen[i].column;
      list.values[to] = chosen[i].value;
    }
    list.count = count;
  }
  const bool failed = !enough || !offsets;
  free(offsets);
  free(chosen);
  __atomic_fetch_add(&work.csr->filter.candidates, candidates, __ATOMIC_RELAXED);
  return failed ? Filtered::out_of_memory : Filtered::done;
}

constexpr int64_t kRowsPerMerge = 64;

// Moves the entries of all lists into csr, some rows at a time. Returns false when there is not enough memory.
inline bool merge_lists(Work& work, List* lists, int64_t first, int64_t rows) {
  const int64_t groups = work.groups(), merges = ceil_div(rows, kRowsPerMerge);
  int64_t* row_ptr = work.csr->row_ptr + first;
  // the counts of a list become offsets into it
  parallel(work.context, groups, [&](int64_t i, int) {
    int32_t offset = 0;
    for (int64_t row = 0; row <= rows; ++row) {
      const int32_t count = row < rows ? lists[i].row_counts[row] : 0;
      lists[i].row_counts[row] = offset;
      offset += count;
    }
  });
  parallel(work.context, merges, [&](int64_t merge, int) {
    const int64_t from = merge * kRowsPerMerge, end = min64(rows, from + kRowsPerMerge);
    for (int64_t row = from; row < end; ++row) row_ptr[row + 1] = 0;
    for (int64_t i = 0; i < groups; ++i) {
      const int32_t* offsets = lists[i].row_counts;
      for (int64_t row = from; row < end; ++row) row_ptr[row + 1] += offsets[row + 1] - offsets[row];
    }
  });
  for (int64_t row = 0; row < rows; ++row) row_ptr[row + 1] += row_ptr[row];
  if (!work.csr->reserve(work.csr, row_ptr[rows])) return false;
  parallel(work.context, merges, [&](int64_t merge, int) {
    const int64_t from = merge * kRowsPerMerge, end = min64(rows, from + kRowsPerMerge);
    int64_t at[kRowsPerMerge];
    for (int64_t row = from; row < end; ++row) at[row - from] = row_ptr[row];
    for (int64_t i = 0; i < groups; ++i) {
      const List& list = lists[i];
      for (int64_t row = from; row < end; ++row) {
        int64_t& to = at[row - from];
        for (int32_t entry = list.row_counts[row]; entry < list.row_counts[row + 1]; ++entry, ++to) {
          work.csr->indices[to] = list.indices[entry];
          work.csr->values[to] = list.values[entry];
        }
      }
    }
  });
  work.written = row_ptr[rows];
  return true;
}

inline Status by_threshold(Work& work, int64_t first, int64_t rows) {
  const int64_t groups = work.groups();
  auto* lists = static_cast<List*>(calloc(size_t(groups), sizeof(List)));
  auto* row_counts = static_cast<int32_t*>(calloc(size_t(groups * (rows + 1)), 4));
  bool enough = lists && row_counts;
  if (enough) {
    for (int64_t i = 0; i < groups; ++i) lists[i].row_counts = row_counts + i * (rows + 1);
    const Left left = left_rows(work, first, rows);
    const FilterRows filter = work.filtered ? filter_rows(work, left, rows) : FilterRows{};
    const RowBlocks blocks = work.filtered ? row_blocks(work, left, rows) : RowBlocks{};
    if (work.filtered) work.csr->filter.groups += groups;
    Trials trials;
    const auto lacks_memory = [&] { __atomic_store_n(&enough, false, __ATOMIC_RELAXED); };
    parallel(work.context, groups, [&](int64_t i, int thread) {
      const Group group(work, i);
      List& list = lists[i];
      if (work.filtered && trials.wanted(i)) {
        const Filtered filtered = pick_filtered(work, list, left, blocks, filter, rows, group, trials, thread);
        if (filtered == Filtered::out_of_memory) return lacks_memory();
        if (filtered == Filtered::done) return;
      }
      if (work.filtered) __atomic_fetch_add(&work.csr->filter.fell_back, 1, __ATOMIC_RELAXED);
      all_sums(work, left, rows, group, thread, [&](const float* x, int64_t row) {
        if (!grow(list, group.columns)) return lacks_memory();
        list.row_counts[row] = pick(list, x, group.columns, group.column, work.thresholds + group.column, work.relu);
      });
    });
  }
  if (enough) enough = merge_lists(work, lists, first, rows);
  for (int64_t i = 0; lists && i < groups; ++i) {
    free(lists[i].indices);
    free(lists[i].values);
  }
  free(row_counts);
  free(lists);
  return enough ? Status() : out_of_memory("the sparse rows");
}

}  // namespace sonde::SONDE_ISA
