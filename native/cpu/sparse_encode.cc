// x w + bias straight to CSR. A thread computes a tile that stays in its cache, picks out what passes, and forgets it.
//
// Threshold: the picked values of each group of columns go to a list of their own, in row order; at the end the lists are
// dealt out to the rows. Top-k: each thread keeps, per row, candidates and the k-th best of them so far; what is not above
// that cannot be among the k largest, as a thread meets columns in ascending order and equal values lose to lower indices.
// Values and indices are held as one integer that sorts as wanted. The choice is exact, whatever the threads did.
#include "operations.h"
#include "product.h"
#include "ranking.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kRowsAtOnce = 256;

// ---- threshold

struct List {
  int32_t* indices;
  float* values;
  int64_t count, capacity;
  int32_t* row_counts;  // kRowsAtOnce of them
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

// Appends what passes of row x [n], whose first column is `column`. There must be room for n more.
int32_t pick(List& list, const float* x, int64_t n, int64_t column, float threshold, bool relu) {
  const int64_t before = list.count;
  const vf limit = broadcast(threshold);
  const auto passes = [&](vf v) {
    if (relu) return greater_bits(v, limit);
    const vf magnitude = vf(vi(v) & 0x7fffffff);
    return greater_bits(vi(magnitude), vi(limit));  // as integers, NaN is above all
  };
  const auto append = [&](uint32_t bits, int64_t at) {
    for (; bits; bits &= bits - 1) {
      const int64_t j = at + __builtin_ctz(bits);
      list.indices[list.count] = int32_t(column + j);
      list.values[list.count++] = x[j];
    }
  };
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) append(passes(load(x + j)), j);
  if (j < n) append(passes(load_partial(x + j, int(n - j))) & ((1u << (n - j)) - 1), j);
  return int32_t(list.count - before);
}

// The largest float that is not above the threshold: a float is larger than both or than neither.
float float_threshold(double threshold, bool relu) {
  if (relu && threshold < 0) return 0;
  const float nearest = float(threshold);
  return double(nearest) > threshold ? nextafterf(nearest, -INFINITY) : nearest;
}

// ---- top-k

constexpr int64_t candidate_capacity(int64_t k) { return 4 * k + 16 * kWidth; }

struct Candidates {
  uint64_t* all;  // `capacity` of a row
  int64_t count;
  int32_t limit;  // keys have to be above it
};

void shrink(Candidates& row, int64_t k) {
  select(row.all, row.count, k);
  row.count = k;
  uint64_t least = row.all[0];
  for (int64_t i = 1; i < k; ++i) least = row.all[i] < least ? row.all[i] : least;
  row.limit = key_of(least);
}

void consider(Candidates& row, const float* x, int64_t n, int64_t column, int64_t k, int64_t capacity) {
  for (int64_t j = 0; j < n; j += kWidth) {
    const int count = int(min64(kWidth, n - j));
    const vi key = keys(count == kWidth ? load(x + j) : load_partial(x + j, count));
    uint32_t bits = greater_bits(key, vi{} + row.limit);
    if (row.limit == INT32_MIN) bits = ~0u;
    if (count < 32) bits &= (1u << count) - 1;
    for (; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      row.all[row.count++] = candidate(key[lane], column + j + lane);
    }
    if (row.count > capacity - kWidth) shrink(row, k);
  }
}

// ---- both

struct Work {
  Context* context;
  const In& x;
  const Packed& w;
  Csr* csr;
  const float* bias;
  float* left;
  float threshold;
  int64_t k;
  bool relu;
  int64_t written = 0;  // entries in csr
};

constexpr size_t kTileBytes = size_t(kTileRows * kTileColumns + kDepth * kColumns) * 4;

// Calls use(tile row, its length, first column, row, task, thread) for every row of every tile of rows [first, first + rows).
template <class Use>
void each_tile_row(const Work& work, int64_t first, int64_t rows, Use use) {
  const int64_t n = work.w.shape[1], k = work.w.shape[0], panels = panel_count(n), step = kTileColumns / kColumns;
  pack_left(work.context, work.left, work.x, first, rows);
  parallel(work.context, ceil_div(panels, step), [&](int64_t task, int thread) {
    auto* tile = static_cast<float*>(thread_scratch(work.context, thread, 0, kTileBytes));
    const int64_t panel = task * step, count = min64(step, panels - panel), column = panel * kColumns;
    const int64_t columns = min64(n - column, count * kColumns);
    const Panels b = panels_from(work.w, panel);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t height = min64(kTileRows, rows - row);
      product(work.left + row * k, height, b, count, columns, work.bias + column, tile, kTileColumns, true,
              tile + kTileRows * kTileColumns);
      for (int64_t i = 0; i < height; ++i) use(tile + i * kTileColumns, columns, column, row + i, task, thread);
    }
  });
}

Status by_threshold(Work& work, int64_t first, int64_t rows) {
  const int64_t lists = ceil_div(work.w.shape[1], kTileColumns);
  auto* all = static_cast<List*>(calloc(size_t(lists), sizeof(List)));
  auto* row_counts = static_cast<int32_t*>(calloc(size_t(lists * kRowsAtOnce), 4));
  int64_t* row_ptr = work.csr->row_ptr + first;
  bool enough = all && row_counts;
  if (enough) {
    for (int64_t i = 0; i < lists; ++i) all[i].row_counts = row_counts + i * kRowsAtOnce;
    each_tile_row(work, first, rows, [&](const float* x, int64_t n, int64_t column, int64_t row, int64_t task, int) {
      if (!grow(all[task], n)) {
        __atomic_store_n(&enough, false, __ATOMIC_RELAXED);
        return;
      }
      all[task].row_counts[row] = pick(all[task], x, n, column, work.threshold, work.relu);
    });
  }
  if (enough) {
    for (int64_t row = 0; row < rows; ++row) {
      int64_t count = 0;
      for (int64_t i = 0; i < lists; ++i) count += all[i].row_counts[row];
      row_ptr[row + 1] = row_ptr[row] + count;
    }
    enough = work.csr->reserve(work.csr, row_ptr[rows]);
  }
  if (enough) {
    // each list's read position, in row_counts' stead: lists hold their rows in order
    for (int64_t i = 0; i < lists; ++i) all[i].count = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < lists; ++i) {
        List& list = all[i];
        const int32_t count = list.row_counts[row];
        memcpy(work.csr->indices + work.written, list.indices + list.count, size_t(count) * 4);
        memcpy(work.csr->values + work.written, list.values + list.count, size_t(count) * 4);
        list.count += count;
        work.written += count;
      }
    }
  }
  for (int64_t i = 0; all && i < lists; ++i) {
    free(all[i].indices);
    free(all[i].values);
  }
  free(row_counts);
  free(all);
  return enough ? Status() : out_of_memory("the sparse rows");
}

Status by_rank(Work& work, int64_t first, int64_t rows) {
  const int threads = thread_count(work.context);
  const int64_t k = work.k, capacity = candidate_capacity(k);
  auto* room = static_cast<uint64_t*>(malloc(size_t(threads * rows * capacity) * sizeof(uint64_t)));
  auto* candidates = static_cast<Candidates*>(malloc(size_t(threads * rows) * sizeof(Candidates)));
  auto* merged = static_cast<uint64_t*>(malloc(size_t(rows * threads * capacity) * sizeof(uint64_t)));
  bool enough = room && candidates && merged && work.csr->reserve(work.csr, work.written + rows * k);
  if (enough) {
    for (int64_t i = 0; i < threads * rows; ++i) candidates[i] = {room + i * capacity, 0, INT32_MIN};
    each_tile_row(work, first, rows, [&](const float* x, int64_t n, int64_t column, int64_t row, int64_t, int thread) {
      consider(candidates[thread * rows + row], x, n, column, k, capacity);
    });
    parallel(work.context, rows, [&](int64_t row, int) {
      uint64_t* all = merged + row * threads * capacity;
      int64_t count = 0;
      for (int thread = 0; thread < threads; ++thread) {
        const Candidates& part = candidates[thread * rows + row];
        memcpy(all + count, part.all, size_t(part.count) * sizeof(uint64_t));
        count += part.count;
      }
      if (count > k) select(all, count, k);
      sort_by_index(all, min64(count, k));
    });
    const int64_t kept = min64(k, work.w.shape[1]);
    for (int64_t row = 0; row < rows; ++row) {
      const uint64_t* best = merged + row * threads * capacity;
      for (int64_t i = 0; i < kept; ++i) {
        const float value = value_of(best[i]);
        if (work.relu ? !(value > work.threshold) : fabsf(value) <= work.threshold) continue;
        work.csr->indices[work.written] = int32_t(index_of(best[i]));
        work.csr->values[work.written++] = value;
      }
      work.csr->row_ptr[first + row + 1] = work.written;
    }
  }
  free(merged);
  free(candidates);
  free(room);
  return enough ? Status() : out_of_memory("the candidates of top-k");
}

}  // namespace

Status sparse_encode(Context* context, CsrOut out, In x, Packed w, In bias, double threshold, int64_t k, bool relu,
                     Precision) {
  const int64_t m = x.shape[0], n = w.shape[1];
  out.csr->row_ptr[0] = 0;
  if (!out.csr->reserve(out.csr, 0)) return out_of_memory("the sparse rows");
  if (n == 0) memset(out.csr->row_ptr, 0, size_t(m + 1) * sizeof(int64_t));
  if (m == 0 || n == 0) return {};
  auto* left = static_cast<float*>(shared_scratch(context, 0, size_t(min64(m, kRowsAtOnce) * w.shape[0] + 1) * 4));
  auto* wide_bias = static_cast<float*>(shared_scratch(context, 1, size_t(panel_count(n) * kColumns) * 4));
  if (!left || !wide_bias) return out_of_memory("packed rows");
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, kTileBytes)) return out_of_memory("a tile");
  }
  widen_bias(wide_bias, bias, n);
  Work work{context, x, w, out.csr, wide_bias, left, float_threshold(threshold, relu), k, relu};
  // the candidates of a step's rows take at most 128 MiB, however large k is
  const int64_t fit = (int64_t(1) << 23) / (thread_count(context) * candidate_capacity(k));
  const int64_t at_once = k > 0 ? max64(1, min64(kRowsAtOnce, fit)) : kRowsAtOnce;
  for (int64_t row = 0; row < m; row += at_once) {
    const int64_t rows = min64(at_once, m - row);
    const Status status = k > 0 ? by_rank(work, row, rows) : by_threshold(work, row, rows);
    if (status.failed()) return status;
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
