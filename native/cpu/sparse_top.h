// The top-k of sparse_encode. Each thread keeps, per row, candidates and the k-th best of them so far. A value that is not
// above that one cannot be among the k largest, as a thread meets columns in ascending order and equal values lose to
// lower indices. The bound that one thread has found also holds for the others, except for equal values, whose indices
// may be lower there. A value and its index are held as one integer that sorts in the wanted order. The choice is
// exact, whatever the threads did.
//
// With a filter, the k-th best of a row's lower bounds is a limit that the upper bounds of its k largest reach.
#pragma once
#include "chosen_sums.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

// ---- without filter

// small, as every selection among the candidates makes the bound tighter
constexpr int64_t candidate_capacity(int64_t k) { return 4 * k + 2 * kWidth; }

struct Candidates {
  uint64_t* all;  // `capacity` of a row
  int64_t count;
  int32_t limit;  // keys must be above it
};

inline void shrink(Candidates& row, int64_t k) {
  row.limit = key_of(select_kth(row.all, row.count, k));
  row.count = k;
}

// `shared` is the limit that any thread has found for this row: keys that are not above it are not wanted.
inline void consider(Candidates& row, int32_t* shared, const float* x, int64_t n, int64_t column, int64_t k,
                     int64_t capacity) {
  const int32_t others = __atomic_load_n(shared, __ATOMIC_RELAXED);
  if (others > row.limit) row.limit = others;
  // Floats have the order of their keys except for NaN, which passes, and where the limit stands for NaN, all floats
  // pass.
  vf bound = broadcast(float_of(row.limit));
  for (int64_t j = 0; j < n; j += kWidth) {
    const int count = int(min64(kWidth, n - j));
    const vf v = count == kWidth ? load(x + j) : load_partial(x + j, count);
    uint32_t bits = not_at_most_bits(v, bound);
    if (count < 32) bits &= (1u << count) - 1;
    if (!bits) continue;
    const vi key = keys(v);
    for (; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      row.all[row.count++] = candidate(key[lane], column + j + lane);
    }
    if (row.count <= capacity - kWidth) continue;
    shrink(row, k);
    bound = broadcast(float_of(row.limit));
    const int32_t known = row.limit - 1;  // an equal value may be wanted
    for (int32_t before = __atomic_load_n(shared, __ATOMIC_RELAXED); before < known;) {
      if (__atomic_compare_exchange_n(shared, &before, known, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) break;
    }
  }
}

// The k largest of a row, in the order of their indices.
struct Best {
  uint64_t* all;
  int64_t count;
};

// The key of a value that is dropped in the end, as are all below it.
inline int32_t least_key(const Work& work) { return work.relu ? key_of(work.threshold) : INT32_MIN; }

// Ranks all sums of some rows. false: there is not enough memory.
inline bool rank_all(const Work& work, const Left& left, int64_t rows, Best* best) {
  const int threads = thread_count(work.context);
  const int64_t k = work.k, capacity = candidate_capacity(k);
  // scratch memory that is kept between calls, as touching new pages would cost as much as the search
  const int64_t scratch_count = threads * (rows + threads) * capacity;  // and one row per thread to merge in
  auto* scratch = static_cast<uint64_t*>(shared_scratch(
      work.context, kRankSlot, size_t(scratch_count) * sizeof(uint64_t) + size_t(threads * rows) * sizeof(Candidates)));
  auto* limits = static_cast<int32_t*>(shared_scratch(work.context, kLimitSlot, size_t(rows) * sizeof(int32_t)));
  if (!scratch || !limits) return false;
  uint64_t* merged = scratch + threads * rows * capacity;
  auto* candidates = reinterpret_cast<Candidates*>(scratch + scratch_count);
  // values that would be dropped in the end are skipped from the start
  const int32_t least = least_key(work);
  for (int64_t i = 0; i < threads * rows; ++i) candidates[i] = {scratch + i * capacity, 0, least};
  for (int64_t row = 0; row < rows; ++row) limits[row] = least;
  parallel(work.context, work.groups(), [&](int64_t i, int thread) {
    const Group group(work, i);
    all_sums(work, left, rows, group, thread, [&](const float* x, int64_t row) {
      consider(candidates[thread * rows + row], limits + row, x, group.columns, group.column, k, capacity);
    });
  });
  parallel(work.context, rows, [&](int64_t row, int thread) {
    uint64_t* all = merged + thread * threads * capacity;
    int64_t count = 0;
    for (int i = 0; i < threads; ++i) {
      const Candidates& part = candidates[i * rows + row];
      memcpy(all + count, part.all, size_t(part.count) * sizeof(uint64_t));
      count += part.count;
    }
    if (count > k) select(all, count, k);
    count = min64(count, k);
    sort_by_index(all, count);
    memcpy(candidates[row].all, all, size_t(count) * sizeof(uint64_t));
    best[row] = {candidates[row].all, count};
  });
  return true;
}

// ---- with a filter

// A sum of which bounds are known, and later the sum itself.
struct Bounded {
  float upper, lower;
  int32_t index;

  // that of NaN, the largest, where the upper bound may be one of NaN
  int32_t upper_key() const { return upper < INFINITY ? key_of(upper) : INT32_MAX; }
};

// How many a thread keeps of a row. Where more are possible after all others were dropped, the filter is no good for it.
constexpr int64_t bounded_capacity(int64_t k) { return 12 * k + 768; }

// What a thread knows of a row.
struct Bounds {
  Bounded* all;
  int32_t count, trigger;  // how many there are, and at which number those below the limit are dropped
  int32_t limit;           // the key of a value that upper bounds must be above
};

// The bounds of the sums of some rows, kept where an upper bound is not below the k-th best lower bound.
struct BoundedRows {
  Bounded* all;  // [rows][threads][capacity]
  Bounds* bounds;
  int32_t* limits;  // [rows], the highest that any thread has found
  int32_t* full;    // [rows], not 0 where there are too many
  int64_t rows, capacity;
  int threads;

  static size_t size(int64_t rows, int64_t k, int threads) {
    const size_t each = size_t(bounded_capacity(k)) * sizeof(Bounded) + sizeof(Bounds);
    return size_t(rows) * (size_t(threads) * each + 8);
  }
  static BoundedRows in(void* memory, int64_t rows, int64_t k, int threads, int32_t least) {
    const int64_t capacity = bounded_capacity(k), all = rows * threads;
    auto* bounds = static_cast<Bounds*>(memory);
    auto* limits = reinterpret_cast<int32_t*>(bounds + all);
    auto* bounded = reinterpret_cast<Bounded*>(limits + 2 * rows);
    for (int64_t i = 0; i < all; ++i)
      bounds[i] = {bounded + i * capacity, 0, int32_t(min64(3 * k + 48, capacity - kWidth)), least};
    for (int64_t row = 0; row < rows; ++row) limits[row] = least;
    memset(limits + rows, 0, size_t(rows) * 4);
    return {bounded, bounds, limits, limits + rows, rows, capacity, threads};
  }
  Bounds& of(int64_t row, int thread) const { return bounds[row * threads + thread]; }
  bool is_full(int64_t row) const { return __atomic_load_n(&full[row], __ATOMIC_RELAXED) != 0; }
};

// The k-th highest key of `count`, or the lowest key where there are not so many. scratch: `count` keys.
template <class Key>
int32_t kth_key(const Bounded* all, int64_t count, int64_t k, uint64_t* scratch, Key key) {
  if (count < k) return INT32_MIN;
  for (int64_t i = 0; i < count; ++i) scratch[i] = candidate(key(all[i]), i);
  return key_of(select_kth(scratch, count, k));
}

// Makes the k-th best of the lower bounds the limit, and drops upper bounds below it. scratch: `count` keys.
inline int32_t drop_below(Bounded* all, int32_t count, int32_t& limit, int64_t k, uint64_t* scratch) {
  if (count >= k) {
    const int32_t kth = kth_key(all, count, k, scratch, [](const Bounded& one) { return key_of(one.lower); });
    const int32_t below = kth - 1;  // an upper bound that equals it may be one of the k largest
    if (below > limit) limit = below;
  }
  const float bound = float_of(limit);
  int32_t kept = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (!(all[i].upper <= bound)) all[kept++] = all[i];
  }
  return kept;
}

inline void drop_bounds(const BoundedRows& rows, int64_t row, int thread, int64_t k, uint64_t* scratch) {
  Bounds& own = rows.of(row, thread);
  own.count = drop_below(own.all, own.count, own.limit, k, scratch);
  own.trigger = int32_t(min64(rows.capacity - kWidth, 2 * int64_t(own.count) + 4 * k + 32));
  if (own.count > rows.capacity / 2) __atomic_store_n(&rows.full[row], 1, __ATOMIC_RELAXED);
  int32_t* shared = rows.limits + row;
  for (int32_t known = __atomic_load_n(shared, __ATOMIC_RELAXED); known < own.limit;) {
    if (__atomic_compare_exchange_n(shared, &known, own.limit, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) break;
  }
}

constexpr int64_t kAtOnce = 3;

// Fine bounds pay off for so many rows.
constexpr int64_t kLeastFineRows = 512;

// Ranks the sums of some rows by their bounds. best[row].all is null for rows that the filter is no good for. Returns their
// number, or -1 when there is not enough memory.
inline int64_t rank_bounded(const Work& work, const Left& left, int64_t rows, Best* best) {
  const int threads = thread_count(work.context);
  const int64_t k = work.k, groups = work.groups();
  work.csr->filter.groups += groups;
  const FilterRows filter = filter_rows(work, left, rows);
  void* memory = shared_scratch(work.context, kBoundedSlot, BoundedRows::size(rows, k, threads));
  // of each row: the k largest; where each group's places end; the keys that upper bounds must reach, first and then
  auto* places = shared_scratch(work.context, kPlacesSlot, size_t(rows) * (size_t(k) * 8 + size_t(groups + 3) * 4));
  auto* largest = static_cast<uint64_t*>(places);
  auto* ends = reinterpret_cast<int32_t*>(largest + rows * k);
  int32_t *first = ends + rows * (groups + 1), *then = first + rows;
  const int64_t kept_at_once = threads * bounded_capacity(k);
  const size_t select_bytes = size_t(kept_at_once) * (sizeof(uint64_t) + sizeof(Bounded));
  const size_t hit_bytes = Hits::size(work.group_panels() * kVectors, rows);
  bool enough = memory && places;
  for (int thread = 0; thread < threads; ++thread) {
    enough = enough && thread_scratch(work.context, thread, kSelectSlot, select_bytes) &&
             thread_scratch(work.context, thread, kHitsSlot, hit_bytes);
  }
  if (!enough) return -1;
  // an infinite upper bound may be that of NaN, which is above any threshold
  const int32_t least = least_key(work), finite = key_of(INFINITY) - 1;
  const BoundedRows bounded = BoundedRows::in(memory, rows, k, threads, least < finite ? least : finite);

  // Rows whose error leaves too many sums possible: more than kLargestError standard deviations of a row's sums with columns
  // that have no preferred direction.
  constexpr double kLargestError = 1.5;
  const double root = sqrt(double(work.w.shape[0]));
  for (int64_t row = 0; row < rows; ++row) {
    const FilterRow& own = filter.rows[row];
    double square = double(own.coarse.norm) * own.coarse.norm;
    for (int s = 0; s < filter.splits; ++s) square += double(own.split[s]) * own.split[s];
    if (own.coarse.error * root > kLargestError * sqrt(square)) bounded.full[row] = 1;
  }

  const RowBlocks blocks = row_blocks(work, left, rows);

  // 1. the bounds of all sums
  parallel(work.context, groups, [&](int64_t i, int thread) {
    const Group group(work, i);
    auto* scratch = static_cast<uint64_t*>(thread_scratch(work.context, thread, kSelectSlot, select_bytes));
    const auto limits = [&](int64_t row, int height, float* below) {
      bool any = false;
      for (int r = 0; r < height; ++r) {
        Bounds& own = bounded.of(row + r, thread);
        const int32_t others = __atomic_load_n(bounded.limits + row + r, __ATOMIC_RELAXED);
        if (others > own.limit) own.limit = others;
        below[r] = bounded.is_full(row + r) ? INFINITY : float_of(own.limit);
        any = any || !bounded.is_full(row + r);
      }
      return any;
    };
    bounded_sums(
        work, filter, rows, group, thread, rows < kLeastFineRows ? kNoFine : kLeastFine, limits,
        [&](int64_t row, int64_t vector, uint32_t bits, const float* upper, const Bound& bound) {
          if (bounded.is_full(row)) return;
          Bounds& own = bounded.of(row, thread);
          for (; bits; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            const int64_t column = group.column + vector * kWidth + lane;
            const float lower = lower_bound(upper[lane], bound.row, work.filter.norm[column], bound.residual[lane],
                                            work.bias[column], work.w.shape[0]);
            own.all[own.count++] = {upper[lane], lower, int32_t(column)};
          }
          if (own.count >= own.trigger) drop_bounds(bounded, row, thread, k, scratch);
        },
        [](int64_t, int64_t) { return true; });
  });

  // 2. those that are possible after all, in the order of their columns
  int64_t not_ranked = 0;
  parallel(work.context, rows, [&](int64_t row, int thread) {
    best[row] = {nullptr, 0};
    if (bounded.is_full(row)) {
      __atomic_fetch_add(&not_ranked, 1, __ATOMIC_RELAXED);
      return;
    }
    auto* scratch = static_cast<uint64_t*>(thread_scratch(work.context, thread, kSelectSlot, select_bytes));
    auto* possible = reinterpret_cast<Bounded*>(scratch + kept_at_once);
    int32_t count = 0, limit = bounded.limits[row];
    for (int i = 0; i < threads; ++i) {
      const Bounds& part = bounded.of(row, i);
      memcpy(possible + count, part.all, size_t(part.count) * sizeof(Bounded));
      count += part.count;
    }
    count = drop_below(possible, count, limit, k, scratch);
    // by group, which only one thread has met, in the order of its columns
    const int64_t group_columns = work.group_panels() * kColumns;
    int32_t* end = ends + row;  // of a group: `rows` apart
    for (int64_t i = 0; i <= groups; ++i) end[i * rows] = 0;
    for (int32_t i = 0; i < count; ++i) ++end[(possible[i].index / group_columns + 1) * rows];
    for (int64_t i = 0; i < groups; ++i) end[(i + 1) * rows] += end[i * rows];
    Bounded* to = bounded.of(row, 0).all;
    for (int32_t i = 0; i < count; ++i) to[end[possible[i].index / group_columns * rows]++] = possible[i];
    best[row] = {largest + row * k, count};
    // of few, all sums are computed at once
    first[row] = count <= kAtOnce * k
                     ? INT32_MIN
                     : kth_key(to, count, k, scratch, [](const Bounded& one) { return one.upper_key(); });
  });

  // 3. the sums of the k highest upper bounds; the lowest of them is a limit for all others. Sums replace lower bounds.
  const auto compute = [&](auto is_wanted) {
    parallel(work.context, groups, [&](int64_t i, int thread) {
      const Group group(work, i);
      Hits hits = Hits::in(thread_scratch(work.context, thread, kHitsSlot, hit_bytes), group.vectors(), rows);
      int64_t candidates = 0;
      for (int64_t row = 0; row < rows; ++row) {
        if (!best[row].all) continue;
        const Bounded* all = bounded.of(row, 0).all;
        const int32_t* end = ends + i * rows + row;
        for (int32_t at = i > 0 ? end[-rows] : 0; at < *end; ++at) {
          if (!is_wanted(row, all[at].upper_key())) continue;
          const int64_t column = all[at].index - group.column, vector = column / kWidth;
          Hit* last = hits.last(vector);
          if (!last || last->row != row) {
            last = &hits.add(vector);
            *last = {int32_t(row), 0, at};
          }
          last->lanes |= 1u << column % kWidth;
          ++candidates;
        }
      }
      const size_t chosen_bytes = ChosenMemory::size(group.vectors(), rows);
      const ChosenMemory memory =
          ChosenMemory::in(thread_scratch(work.context, thread, kChosenSlot, chosen_bytes), group.vectors(), rows);
      chosen_sums(work, left, blocks, group, hits, memory, [&](const Hit& hit, int64_t, const float* sums) {
        Bounded* one = bounded.of(hit.row, 0).all + hit.entry;
        for (uint32_t bits = hit.lanes; bits; ++one) {
          const int64_t lane = (one->index - group.column) % kWidth;
          if (bits >> lane & 1) one->lower = sums[lane];
          bits &= ~(1u << lane);
        }
      });
      __atomic_fetch_add(&work.csr->filter.candidates, candidates, __ATOMIC_RELAXED);
    });
  };
  compute([&](int64_t row, int32_t key) { return key >= first[row]; });
  bool rest = false;
  parallel(work.context, rows, [&](int64_t row, int thread) {
    if (!best[row].all) return;
    auto* scratch = static_cast<uint64_t*>(thread_scratch(work.context, thread, kSelectSlot, select_bytes));
    if (first[row] > INT32_MIN) __atomic_store_n(&rest, true, __ATOMIC_RELAXED);
    then[row] = kth_key(bounded.of(row, 0).all, best[row].count, k, scratch, [&](const Bounded& one) {
      return one.upper_key() >= first[row] ? key_of(one.lower) : INT32_MIN;
    });
  });

  // 4. the sums whose upper bounds reach that limit
  if (rest) compute([&](int64_t row, int32_t key) { return key < first[row] && key >= then[row]; });

  // 5. the k largest
  parallel(work.context, rows, [&](int64_t row, int thread) {
    if (!best[row].all) return;
    auto* scratch = static_cast<uint64_t*>(thread_scratch(work.context, thread, kSelectSlot, select_bytes));
    const Bounded* all = bounded.of(row, 0).all;
    const int64_t count = best[row].count;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t bound = all[i].upper_key(), key = key_of(all[i].lower);
      if ((bound >= first[row] || bound >= then[row]) && key > least) scratch[kept++] = candidate(key, all[i].index);
    }
    if (kept > k) select(scratch, kept, k);
    kept = min64(kept, k);
    sort_by_index(scratch, kept);
    memcpy(best[row].all, scratch, size_t(kept) * sizeof(uint64_t));
    best[row].count = kept;
  });
  return not_ranked;
}

// ---- both

inline Status by_rank(Work& work, int64_t first, int64_t rows) {
  const int64_t k = work.k;
  auto* best = static_cast<Best*>(malloc(size_t(rows) * sizeof(Best)));
  const Left left = left_rows(work, first, rows);
  bool enough = best && work.csr->reserve(work.csr, work.written + rows * k);
  if (enough && !work.filtered) enough = rank_all(work, left, rows, best);
  if (enough && work.filtered) {
    const int64_t not_ranked = rank_bounded(work, left, rows, best);
    enough = not_ranked >= 0;
    if (not_ranked > 0) {  // their sums are computed all together
      work.csr->filter.fell_back += ceil_div(work.groups() * not_ranked, rows);
      const int64_t bytes = left_row_bytes(work.layout(), work.w.shape[0]);
      auto* others = static_cast<Best*>(
          shared_scratch(work.context, kGatherSlot, size_t(not_ranked) * (size_t(bytes) + sizeof(Best))));
      enough = others != nullptr;
      auto* gathered = reinterpret_cast<char*>(others + not_ranked);
      int64_t at = 0;
      for (int64_t row = 0; enough && row < rows; ++row) {
        if (!best[row].all) memcpy(gathered + at++ * bytes, left.row(row), size_t(bytes));
      }
      enough = enough && rank_all(work, {gathered, bytes}, not_ranked, others);
      at = 0;
      for (int64_t row = 0; enough && row < rows; ++row) {
        if (!best[row].all) best[row] = others[at++];
      }
    }
  }
  for (int64_t row = 0; enough && row < rows; ++row) {
    for (int64_t i = 0; i < best[row].count; ++i) {
      const float value = value_of(best[row].all[i]);
      if ((work.relu ? value : fabsf(value)) <= work.threshold) continue;  // NaN is kept
      work.csr->indices[work.written] = int32_t(index_of(best[row].all[i]));
      work.csr->values[work.written++] = value;
    }
    work.csr->row_ptr[first + row + 1] = work.written;
  }
  free(best);
  return enough ? Status() : out_of_memory("the candidates of top-k");
}

}  // namespace sonde::SONDE_ISA
