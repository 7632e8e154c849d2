// Computes x w + bias straight to CSR. Sums are scanned while they are in the cache; only the values that are kept are
// stored. With a filter, upper bounds of the sums come first, and only sums whose bounds pass are computed; where that
// would be most of them, all are.
#include "../threshold.h"
#include "sparse_lists.h"
#include "sparse_top.h"

namespace sonde::SONDE_ISA {

Status sparse_encode(Context* context, CsrOut out, In x, Packed w, In filter, In bias, In thresholds, double threshold,
                     int64_t k, bool relu, Precision) {
  const int64_t m = x.shape[0], depth = w.shape[0], n = w.shape[1];
  const int threads = thread_count(context);
  out.csr->row_ptr[0] = 0;
  if (!out.csr->reserve(out.csr, 0)) return out_of_memory("the sparse rows");
  if (n == 0) memset(out.csr->row_ptr, 0, size_t(m + 1) * sizeof(int64_t));
  if (m == 0 || n == 0) return {};
  const int64_t columns = panel_count(n) * kColumns;
  auto* biases = static_cast<float*>(shared_scratch(context, kBiasSlot, size_t(3 * columns) * 4));
  float* const limits = biases + columns;
  Work work{context, x, w, out.csr, biases, nullptr, limits, float_threshold(threshold, relu), k, relu};
  const bool in_place = is_left(x, work.layout());
  const int64_t row_bytes = left_row_bytes(work.layout(), depth);
  if (!in_place) {
    const size_t bytes = size_t(min64(m, kRowsAtOnce) * row_bytes);
    work.converted = static_cast<char*>(shared_scratch(context, kConvertedSlot, bytes));
  }
  if (!biases || (!in_place && !work.converted)) return out_of_memory("converted rows");
  for (int thread = 0; thread < threads; ++thread) {
    if (!thread_scratch(context, thread, kSumsSlot, work.scratch_bytes())) return out_of_memory("a group of columns");
  }
  widen_bias(biases, bias, n);
  const auto* own = static_cast<const float*>(thresholds.data);
  for (int64_t j = 0; j < columns; ++j) {
    limits[j] = own && j < n && own[j] > work.threshold ? own[j] : work.threshold;  // a NaN counts as none
  }
  // Values of both signs may be kept where there is a threshold alone. Where k is a large part, most sums are needed.
  const bool pays_off = m >= kLeastFilterRows && (k == 0 || bounded_capacity(k) <= n);
  work.filtered = filter.data && depth > 0 && (k > 0 || relu) && (pays_off || filter_use(context) == FilterUse::always);
  if (work.filtered) {
    if (filter.shape[0] != Filter::size(depth, n)) return fail("the filter is one of another matrix");
    work.filter = Filter::in(filter.data, depth, n);
    float* const upper = limits + columns;
    for (int64_t j = 0; j < columns; ++j) upper[j] = upper_bias(biases[j], k > 0 ? 0 : limits[j], depth);
    work.upper_bias = upper;
    const int64_t rows = min64(m, kRowsAtOnce);
    bool enough = shared_scratch(context, kFilterSlot, filter_row_bytes(rows, depth)) != nullptr;
    for (int thread = 0; thread < threads; ++thread) {
      enough =
          enough && thread_scratch(context, thread, kTileSlot, tile_bytes(depth)) &&
          thread_scratch(context, thread, kPossibleSlot, PossibleSums::size(work.group_panels() * kVectors, rows)) &&
          thread_scratch(context, thread, kFineSlot, work.fine_bytes()) &&
          thread_scratch(context, thread, kChosenSlot, ChosenMemory::size(work.group_panels() * kVectors, rows)) &&
          thread_scratch(context, thread, kHitsSlot, Hits::size(work.group_panels() * kVectors, rows));
    }
    if (!enough) return out_of_memory("the filter's rows");
  }
  // what is kept of the rows at hand takes at most 128 MiB, however large k is
  const int64_t kept = max64(candidate_capacity(k) * int64_t(sizeof(uint64_t)),
                             work.filtered ? bounded_capacity(k) * int64_t(sizeof(Bounded)) : 0);
  const int64_t fit = (int64_t(1) << 27) / max64(1, threads * kept);
  const int64_t at_once = k > 0 ? max64(1, min64(kRowsAtOnce, fit)) : kRowsAtOnce;
  for (int64_t row = 0; row < m; row += at_once) {
    const int64_t rows = min64(at_once, m - row);
    const Status status = k > 0 ? by_rank(work, row, rows) : by_threshold(work, row, rows);
    if (status.failed()) return status;
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
