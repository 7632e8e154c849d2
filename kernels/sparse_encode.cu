// Computes x w + bias straight to CSR; the dense latents are never stored. The product's epilogue appends the elements that pass to a list
// per row; a block per row then chooses exactly, sorts by index, and the rows are packed one after the other.
//
// Top-k takes two products. The first, of a sixteenth of the columns, is stored: the k-th largest of those is a limit that the k
// largest of all do not fall below. The second, of the rest, appends the elements above it: about 16 k of a row's elements if its
// columns are alike. Lower columns come first, so that equal values lose to them as they must.
//
// A count above the capacity shows that a list was too short: the rows are then encoded again with longer lists.
#include "product.h"
#include "rows.cuh"
#include "threshold.h"

namespace sonde {

namespace {

constexpr int64_t kListBytes = int64_t(512) << 20;  // of lists, or of stored columns, at a time
constexpr int64_t kNearList = 2048;                 // candidates that a block sorts in shared memory

struct Choice {
  uint64_t* lists;
  int32_t* counts;
  int32_t capacity;
  int64_t k;  // 0: all
  float threshold;
  bool relu;
};

// The k largest of the first columns become the list, and the k-th largest the limit for the other columns.
__global__ void __launch_bounds__(kRankThreads)
    seed_kernel(Choice c, const float* dense, int64_t columns, float* limits) {
  SHARED(unsigned, counters, [kCounters]);
  SHARED(uint64_t, found, [2]);
  SHARED(int, length, [1]);
  SHARED(uint64_t, worst, [1]);
  const int64_t row = blockIdx.x;
  const auto get = [&](int64_t i) { return candidate(key_of(dense[row * columns + i]), i); };
  const uint64_t least = kth_largest(get, columns, c.k, counters, found);
  if (threadIdx.x == 0) {
    *length = 0;
    *worst = ~uint64_t(0);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < columns; i += kRankThreads) {
    const uint64_t here = get(i);
    if (here < least) continue;
    c.lists[row * c.capacity + atomicAdd(length, 1)] = here;
    // the bound that kth_largest gives may be below the smallest of the k
    for (uint64_t now = ~uint64_t(0); here < now;) {
      const uint64_t before = atomicCAS(reinterpret_cast<unsigned long long*>(worst), now, here);
      if (before == now) break;
      now = before;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    c.counts[row] = *length;
    limits[row] = float_of(key_of(*worst));
  }
}

// Leaves in each list the entries that are kept, by ascending index, and their number in `kept`.
__global__ void __launch_bounds__(kRankThreads) choose_kernel(Choice c, int32_t* kept) {
  SHARED(uint64_t, near, [kNearList]);
  SHARED(unsigned, counters, [kCounters]);
  SHARED(uint64_t, found, [2]);
  SHARED(int, length, [1]);
  const int64_t row = blockIdx.x;
  uint64_t* list = c.lists + row * c.capacity;
  const int64_t n = min64(c.counts[row], c.capacity);
  uint64_t least = 0;
  if (c.k > 0 && n > c.k) least = kth_largest([&](int64_t i) { return list[i]; }, n, c.k, counters, found);
  const auto passes = [&](uint64_t here) {
    const float value = float_of(key_of(here));
    return here >= least && !((c.relu ? value : fabsf(value)) <= c.threshold);  // NaN passes
  };
  // the index's complement above the value: sorted from the largest on, that is from the lowest index on
  const auto swapped = [](uint64_t here) { return here << 32 | here >> 32; };
  const bool fits = n <= kNearList;
  uint64_t* sorted = fits ? near : list;
  if (threadIdx.x == 0) *length = 0;
  __syncthreads();
  if (fits) {
    for (int64_t i = threadIdx.x; i < n; i += kRankThreads) {
      if (passes(list[i])) near[atomicAdd(length, 1)] = swapped(list[i]);
    }
  } else {
    // in place, so nothing moves yet: zeros, the dropped entries, sort to the end
    for (int64_t i = threadIdx.x; i < n; i += kRankThreads) {
      const bool good = passes(list[i]);
      list[i] = good ? swapped(list[i]) : 0;
      if (good) atomicAdd(length, 1);
    }
  }
  __syncthreads();
  const int64_t filled = fits ? *length : n, size = power_of_two(filled);
  for (int64_t i = filled + threadIdx.x; i < size; i += kRankThreads) sorted[i] = 0;
  __syncthreads();
  sort_descending(sorted, size);
  for (int64_t i = threadIdx.x; i < *length; i += kRankThreads) list[i] = swapped(sorted[i]);
  if (threadIdx.x == 0) kept[row] = *length;
}

// row_ptr [rows + 1] from the rows' numbers, and the largest count there was: one block.
constexpr int kScanThreads = 1024;
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const int32_t* kept, const int32_t* counts, int64_t rows, int64_t* row_ptr, int64_t* most) {
  SHARED(int64_t, sums, [kScanThreads / kWarp]);
  SHARED(int64_t, total, [1]);
  SHARED(int, largest, [1]);
  const int t = int(threadIdx.x), lane = t % kWarp, warp = t / kWarp;
  if (t == 0) {
    *total = 0;
    *largest = 0;
    row_ptr[0] = 0;
  }
  __syncthreads();
  for (int64_t first = 0; first < rows; first += kScanThreads) {
    const int64_t row = first + t;
    int64_t sum = row < rows ? kept[row] : 0;
    if (row < rows) atomicMax(largest, counts[row]);
    for (int step = 1; step < kWarp; step *= 2) {
      const int64_t other = __shfl_up_sync(kAll, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == kWarp - 1) sums[warp] = sum;
    __syncthreads();
    int64_t before = *total;
    for (int i = 0; i < warp; ++i) before += sums[i];
    if (row < rows) row_ptr[row + 1] = before + sum;
    __syncthreads();
    if (t == kScanThreads - 1) *total = before + sum;
    __syncthreads();
  }
  if (t == 0) *most = *largest;
}

__global__ void __launch_bounds__(kThreads) pack_kernel(const uint64_t* lists, int32_t capacity, const int64_t* row_ptr,
                                                        int64_t rows, int32_t* indices, float* values) {
  const int64_t row = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;
  const int64_t first = row_ptr[row], count = row_ptr[row + 1] - first;
  for (int64_t i = threadIdx.x % kWarp; i < count; i += kWarp) {
    const uint64_t here = lists[row * capacity + i];
    indices[first + i] = index_of(here);
    values[first + i] = float_of(key_of(here));
  }
}

struct Call {
  Context* context;
  const In& x;
  const Packed& w;
  const In& bias;
  const In& thresholds;
  double threshold;
  int64_t k;
  bool relu;
  Precision precision;
};

View rows_of(const View& x, int64_t first, int64_t rows) {
  View part = x;
  part.shape[0] = rows;
  part.data = static_cast<char*>(x.data) + first * x.stride[0] * dtype_size(x.dtype);
  return part;
}

// The number of the first columns that top-k stores.
int64_t stored_columns(int64_t n, int64_t k) {
  const int64_t wanted = round_up(max64(ceil_div(n, 16), 4 * k), 256);
  return min64(wanted, n);
}

// Device memory for a span of rows: their lists, and row_ptr with the largest count behind it.
struct Workspace {
  Choice choice;
  int32_t* kept;
  float* limits;
  int64_t* row_ptr;  // [rows + 2]
};

Status encode_rows(const Call& call, int64_t first, int64_t rows, const Workspace& workspace) {
  Context* context = call.context;
  const int64_t n = call.w.shape[1];
  const View x = rows_of(call.x, first, rows);
  cudaMemsetAsync(workspace.choice.counts, 0, size_t(rows) * 4, context->stream);
  Sparse epilogue = {};
  epilogue.lists = workspace.choice.lists;
  epilogue.counts = workspace.choice.counts;
  epilogue.capacity = workspace.choice.capacity;
  epilogue.limit = workspace.choice.threshold;
  epilogue.magnitude = !call.relu;
  epilogue.thresholds = static_cast<const float*>(call.thresholds.data);
  epilogue.m = rows;
  Right right = Right::of(call.w);
  if (call.k > 0) {
    const int64_t columns = stored_columns(n, call.k);
    const size_t bytes = size_t(rows * columns) * 4;
    View stored;
    stored.data = scratch(context, kDense, bytes);
    if (!stored.data) return no_scratch(context, bytes);
    stored.rank = 2;
    stored.shape[0] = rows;
    stored.shape[1] = stored.stride[0] = columns;
    stored.stride[1] = 1;
    right.columns = columns;
    const Status status = multiply(context, x, View(), right, call.precision, {stored, call.bias});
    if (status.failed()) return status;
    LAUNCH(seed_kernel, dim3(unsigned(rows)), dim3(kRankThreads), 0, context->stream, workspace.choice,
           static_cast<const float*>(stored.data), columns, workspace.limits);
    epilogue.limits = workspace.limits;
    epilogue.magnitude = false;
    right.first_column = columns;
    right.columns = n - columns;
  }
  epilogue.n = right.columns;
  epilogue.first_column = right.first_column;
  epilogue.bias = AnyElements::of(call.bias);
  if (epilogue.bias.data) {
    epilogue.bias.data = static_cast<char*>(epilogue.bias.data) + right.first_column * dtype_size(call.bias.dtype);
  }
  const Status status = multiply(context, x, right, call.precision, epilogue);
  if (status.failed()) return status;
  LAUNCH(choose_kernel, dim3(unsigned(rows)), dim3(kRankThreads), 0, context->stream, workspace.choice, workspace.kept);
  LAUNCH(scan_kernel, dim3(1), dim3(kScanThreads), 0, context->stream, workspace.kept, workspace.choice.counts, rows,
         workspace.row_ptr, workspace.row_ptr + rows + 1);
  return launched();
}

// Encodes a span of rows and leaves `part` and row_ptr's entries; or sets `again`, with a larger list_capacity to try with.
Status encode_part(const Call& call, Csr* csr, int64_t first, int64_t rows, const Workspace& workspace, CsrPart* part,
                   bool* again) {
  Context* context = call.context;
  Status status = encode_rows(call, first, rows, workspace);
  if (status.failed()) return status;
  auto* fetched = static_cast<int64_t*>(malloc(size_t(rows + 2) * 8));
  if (!fetched) return fail("out of memory for %lld rows", (long long)rows);
  status = fetch(context, fetched, workspace.row_ptr, size_t(rows + 2) * 8);
  *again = !status.failed() && fetched[rows + 1] > workspace.choice.capacity;
  if (*again) context->list_capacity = int32_t(power_of_two(fetched[rows + 1]));
  if (!status.failed() && !*again) {
    const int64_t before = csr->row_ptr[first];
    for (int64_t i = 1; i <= rows; ++i) csr->row_ptr[first + i] = before + fetched[i];
    part->rows = rows;
    part->entries = fetched[rows];
  }
  free(fetched);
  if (status.failed() || *again || part->entries == 0) return status;
  const size_t bytes = size_t(part->entries) * 4;
  part->indices = static_cast<int32_t*>(allocate_on_stream(context, bytes));
  part->values = static_cast<float*>(allocate_on_stream(context, bytes));
  if (!part->indices || !part->values) return no_scratch(context, 2 * bytes);
  LAUNCH(pack_kernel, dim3(unsigned(ceil_div(rows * kWarp, kThreads))), dim3(kThreads), 0, context->stream,
         static_cast<const uint64_t*>(workspace.choice.lists), workspace.choice.capacity,
         static_cast<const int64_t*>(workspace.row_ptr), rows, part->indices, part->values);
  return launched();
}

}  // namespace

Status sparse_encode(Context* context, CsrOut out, In x, Packed w, In, In bias, In thresholds, double threshold,
                     int64_t k, bool relu, Precision precision) {
  const int64_t m = x.shape[0], n = w.shape[1];
  for (int64_t i = 0; i <= m; ++i) out.csr->row_ptr[i] = 0;
  if (!out.csr->reserve(out.csr, 0)) return fail("out of memory for the sparse rows");
  if (m == 0 || n == 0) return {};
  const Call call = {context, x, w, bias, thresholds, threshold, k, relu, precision};
  CsrPart* parts = nullptr;
  int count = 0;
  Status status;
  for (int64_t first = 0; first < m && !status.failed();) {
    // a list need not be longer than the columns that a row has
    const int64_t capacity = min64(power_of_two(n), max64(context->list_capacity, power_of_two(2 * k)));
    const int64_t per_row = max64(capacity * 8, k > 0 ? stored_columns(n, k) * 4 : 0);
    const int64_t rows = min64(m - first, max64(1, kListBytes / per_row));
    const size_t lists = size_t(rows * capacity) * 8, small = size_t(rows) * 12 + size_t(rows + 2) * 8;
    Workspace workspace = {};
    auto* base = static_cast<char*>(scratch(context, kSmall, small));
    workspace.choice = {static_cast<uint64_t*>(scratch(context, kLists, lists)),
                        nullptr,
                        int32_t(capacity),
                        k,
                        float_threshold(threshold, relu),
                        relu};
    if (!base || !workspace.choice.lists) {
      status = no_scratch(context, lists + small);
      break;
    }
    workspace.row_ptr = reinterpret_cast<int64_t*>(base);
    workspace.choice.counts = reinterpret_cast<int32_t*>(workspace.row_ptr + rows + 2);
    workspace.kept = workspace.choice.counts + rows;
    workspace.limits = reinterpret_cast<float*>(workspace.kept + rows);
    auto* longer = static_cast<CsrPart*>(realloc(parts, size_t(count + 1) * sizeof(CsrPart)));
    if (!longer) {
      status = fail("out of memory for the sparse rows");
      break;
    }
    parts = longer;
    parts[count] = CsrPart();
    bool again = false;
    status = encode_part(call, out.csr, first, rows, workspace, &parts[count], &again);
    if (again) continue;
    ++count;
    first += rows;
  }
  if (!status.failed()) {
    status = leave_csr_pending(context, out.csr, parts, count);
  } else {
    for (int i = 0; i < count; ++i) {
      if (parts[i].indices) release_on_stream(context, parts[i].indices);
      if (parts[i].values) release_on_stream(context, parts[i].values);
    }
    for (int64_t i = 0; i <= m; ++i) out.csr->row_ptr[i] = 0;
  }
  free(parts);
  return status;
}

}  // namespace sonde
