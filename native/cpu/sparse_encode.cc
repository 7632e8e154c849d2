// Computes x w + bias straight to CSR. Sums are scanned while they are in the cache; only the values that are kept are
// stored.
//
// Threshold: the values above it are appended to one list per group of columns, in row order; at the end the lists are
// merged into rows. Top-k: each thread keeps, per row, candidates and the k-th best of them so far. A value that is not
// above that one cannot be among the k largest, as a thread meets columns in ascending order and equal values lose to
// lower indices. The bound that one thread has found also holds for the others, except for equal values, whose indices
// may be lower there. A value and its index are held as one integer that sorts in the wanted order. The choice is
// exact, whatever the threads did.
#include "../threshold.h"
#include "operations.h"
#include "product.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kRowsAtOnce = 1024 / kRows * kRows;

// ---- threshold

struct List {
  int32_t* indices;
  float* values;
  int64_t count, capacity;
  int32_t* row_counts;  // [rows + 1]; merge_lists makes offsets of them
};

bool grow(List& list, int64_t more) {
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

// Appends the values of row x [n] that pass, where x[0] is in column `column`. thresholds are those of all columns, or
// null, as they must be without relu. The list must have capacity for n more.
int32_t pick(List& list, const float* x, int64_t n, int64_t column, float threshold, bool relu,
             const float* thresholds) {
  const int64_t before = list.count;
  const auto limits = [&](int64_t j, int count) {
    const vf limit = broadcast(threshold);
    if (!thresholds) return limit;
    const vf own = count == kWidth ? load(thresholds + column + j) : load_partial(thresholds + column + j, count);
    return maximum(own, limit);  // a threshold that is NaN counts as none
  };
  const auto passes = [&](vf v, vf limit) {
    if (relu) return not_at_most_bits(v, limit);  // NaN passes
    const vf magnitude = vf(vi(v) & 0x7fffffff);
    return greater_bits(vi(magnitude), vi(limit));  // compared as integers, NaN is above all
  };
  const auto append = [&](uint32_t bits, int64_t at) {
    for (; bits; bits &= bits - 1) {
      const int64_t j = at + __builtin_ctz(bits);
      list.indices[list.count] = int32_t(column + j);
      list.values[list.count++] = x[j];
    }
  };
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) append(passes(load(x + j), limits(j, kWidth)), j);
  if (const int left = int(n - j)) append(passes(load_partial(x + j, left), limits(j, left)) & ((1u << left) - 1), j);
  return int32_t(list.count - before);
}

// ---- top-k

// small, as every selection among the candidates makes the bound tighter
constexpr int64_t candidate_capacity(int64_t k) { return 4 * k + 2 * kWidth; }

struct Candidates {
  uint64_t* all;  // `capacity` of a row
  int64_t count;
  int32_t limit;  // keys must be above it
};

void shrink(Candidates& row, int64_t k) {
  select(row.all, row.count, k);
  row.count = k;
  uint64_t least = row.all[0];
  for (int64_t i = 1; i < k; ++i) least = row.all[i] < least ? row.all[i] : least;
  row.limit = key_of(least);
}

// `shared` is the limit that any thread has found for this row: keys that are not above it are not wanted.
void consider(Candidates& row, int32_t* shared, const float* x, int64_t n, int64_t column, int64_t k,
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

// ---- threshold and top-k

struct Work {
  Context* context;
  const In& x;
  const Packed& w;
  Csr* csr;
  const float* bias;
  const float* thresholds;  // of all columns, or null
  char* converted;          // rows of x in another layout; null if x can be read in place
  float threshold;
  int64_t k;
  bool relu;
  int64_t written = 0;  // entries in csr

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

// Calls use(sums, count, first column, row, group, thread) for every row of every group of columns.
template <class Use>
void each_row_of_sums(const Work& work, int64_t first, int64_t rows, Use use) {
  const int64_t n = work.w.shape[1], panels = panel_count(n), at_once = work.group_panels();
  const Layout layout = work.layout();
  Left left = left_of(work.x);
  left.data = left.row(first);
  if (work.converted) {
    const int64_t row_bytes = left_row_bytes(layout, work.w.shape[0]);
    left = {work.converted, row_bytes};
    parallel(work.context, ceil_div(rows, kRows), [&](int64_t block, int) {
      for (int64_t i = block * kRows; i < min64(rows, (block + 1) * kRows); ++i) {
        convert_row(work.converted + i * row_bytes, work.x, first + i, layout);
      }
    });
  }
  parallel(work.context, work.groups(), [&](int64_t group, int thread) {
    auto* sums = static_cast<float*>(thread_scratch(work.context, thread, 0, work.scratch_bytes()));
    const int64_t panel = group * at_once, count = min64(at_once, panels - panel), column = panel * kColumns;
    const int64_t columns = min64(n - column, count * kColumns);
    Panels b = panels_from(work.w, panel);
    b.layout = layout;
    const Sums to{sums, kGroupColumns, in_one_pass(layout, b.used), true};
    const Scratch scratch = Scratch::in(sums + work.sum_floats(), layout, block_rows(work.context));
    for (int64_t row = 0; row < rows; row += kTaskRows) {
      product<kVectors>({left.row(row), left.stride}, min64(kTaskRows, rows - row), b, count, columns,
                        work.bias + column, to, scratch, [&](int64_t block, int height, const float* c) {
                          for (int i = 0; i < height; ++i) {
                            use(c + i * kGroupColumns, columns, column, row + block + i, group, thread);
                          }
                        });
    }
  });
}

constexpr int64_t kRowsPerMerge = 64;

// Moves the entries of all lists into csr, some rows at a time. Returns false when there is not enough memory.
bool merge_lists(Work& work, List* lists, int64_t first, int64_t rows) {
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

Status by_threshold(Work& work, int64_t first, int64_t rows) {
  const int64_t groups = work.groups();
  const float* own = work.thresholds;
  auto* lists = static_cast<List*>(calloc(size_t(groups), sizeof(List)));
  auto* row_counts = static_cast<int32_t*>(calloc(size_t(groups * (rows + 1)), 4));
  bool enough = lists && row_counts;
  if (enough) {
    for (int64_t i = 0; i < groups; ++i) lists[i].row_counts = row_counts + i * (rows + 1);
    each_row_of_sums(work, first, rows,
                     [&](const float* x, int64_t n, int64_t column, int64_t row, int64_t group, int) {
                       if (!grow(lists[group], n)) {
                         __atomic_store_n(&enough, false, __ATOMIC_RELAXED);
                         return;
                       }
                       lists[group].row_counts[row] = pick(lists[group], x, n, column, work.threshold, work.relu, own);
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

Status by_rank(Work& work, int64_t first, int64_t rows) {
  const int threads = thread_count(work.context);
  const int64_t k = work.k, capacity = candidate_capacity(k);
  // scratch memory that is kept between calls, as touching new pages would cost as much as the search
  const int64_t scratch_count = threads * (rows + threads) * capacity;  // and one row per thread to merge in
  auto* scratch = static_cast<uint64_t*>(shared_scratch(
      work.context, 2, size_t(scratch_count) * sizeof(uint64_t) + size_t(threads * rows) * sizeof(Candidates)));
  auto* limits = static_cast<int32_t*>(shared_scratch(work.context, 3, size_t(rows) * sizeof(int32_t)));
  if (!scratch || !limits || !work.csr->reserve(work.csr, work.written + rows * k)) {
    return out_of_memory("the candidates of top-k");
  }
  uint64_t* merged = scratch + threads * rows * capacity;
  auto* candidates = reinterpret_cast<Candidates*>(scratch + scratch_count);
  // values that would be dropped in the end are skipped from the start
  const int32_t least = work.relu ? keys(broadcast(work.threshold))[0] : INT32_MIN;
  for (int64_t i = 0; i < threads * rows; ++i) candidates[i] = {scratch + i * capacity, 0, least};
  for (int64_t row = 0; row < rows; ++row) limits[row] = least;
  each_row_of_sums(work, first, rows, [&](const float* x, int64_t n, int64_t column, int64_t row, int64_t, int thread) {
    consider(candidates[thread * rows + row], limits + row, x, n, column, k, capacity);
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
    candidates[row].count = count;
  });
  for (int64_t row = 0; row < rows; ++row) {
    const uint64_t* best = candidates[row].all;
    for (int64_t i = 0; i < candidates[row].count; ++i) {
      const float value = value_of(best[i]);
      if ((work.relu ? value : fabsf(value)) <= work.threshold) continue;  // NaN is kept
      work.csr->indices[work.written] = int32_t(index_of(best[i]));
      work.csr->values[work.written++] = value;
    }
    work.csr->row_ptr[first + row + 1] = work.written;
  }
  return {};
}

}  // namespace

Status sparse_encode(Context* context, CsrOut out, In x, Packed w, In bias, In thresholds, double threshold, int64_t k,
                     bool relu, Precision) {
  const int64_t m = x.shape[0], n = w.shape[1];
  out.csr->row_ptr[0] = 0;
  if (!out.csr->reserve(out.csr, 0)) return out_of_memory("the sparse rows");
  if (n == 0) memset(out.csr->row_ptr, 0, size_t(m + 1) * sizeof(int64_t));
  if (m == 0 || n == 0) return {};
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  const auto* own = static_cast<const float*>(thresholds.data);
  Work work{context, x, w, out.csr, wide_bias, own, nullptr, float_threshold(threshold, relu), k, relu};
  const bool in_place = is_left(x, work.layout());
  const int64_t row_bytes = left_row_bytes(work.layout(), w.shape[0]);
  if (!in_place)
    work.converted = static_cast<char*>(shared_scratch(context, 0, size_t(min64(m, kRowsAtOnce) * row_bytes)));
  if (!wide_bias || (!in_place && !work.converted)) return out_of_memory("converted rows");
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, work.scratch_bytes())) return out_of_memory("a group of columns");
  }
  widen_bias(wide_bias, bias, n);
  // the candidates of the rows at hand take at most 128 MiB, however large k is
  const int64_t fit = (int64_t(1) << 24) / (thread_count(context) * candidate_capacity(k));
  const int64_t at_once = k > 0 ? max64(1, min64(kRowsAtOnce, fit)) : kRowsAtOnce;
  for (int64_t row = 0; row < m; row += at_once) {
    const int64_t rows = min64(at_once, m - row);
    const Status status = k > 0 ? by_rank(work, row, rows) : by_threshold(work, row, rows);
    if (status.failed()) return status;
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
