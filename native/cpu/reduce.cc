// Computes sums, means and maxima of rows.
#include "../integers.h"
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kPart = 4096;      // elements of a row at a time: they stay in the first-level cache
constexpr int64_t kNeighbours = 16;  // rows that lie side by side and are added up together: a line of float32

// ---- integers

// Returns false for a sum that int32 does not hold.
bool reduce_integers(char* to, const char* row, int64_t stride, int64_t n, ReduceKind kind, int64_t* sum) {
  const auto* x = reinterpret_cast<const int32_t*>(row);
  int32_t result = n ? x[0] : 0;
  *sum = 0;
  if (kind == ReduceKind::max) {
    for (int64_t i = 0; i < n; ++i) result = x[i * stride] > result ? x[i * stride] : result;
  } else {
    for (int64_t i = 0; i < n; ++i) *sum += x[i * stride];
    if (kind == ReduceKind::mean) {
      const float mean = n ? float(double(*sum) / double(n)) : NAN;
      memcpy(to, &mean, 4);
      return true;
    }
    result = int32_t(*sum);
    if (result != *sum) return false;
  }
  memcpy(to, &result, 4);
  return true;
}

Status integers(Context* context, const View& out, const View& x, ReduceKind kind) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  Failures failures;
  each_row(context, element_count(out), n, [&](int64_t row, int) {
    int64_t sum;
    char* to = static_cast<char*>(out.data) + row * dtype_size(out.dtype);
    if (!reduce_integers(to, row_at(x, row), stride, n, kind, &sum)) failures.at(row);
  });
  if (!failures.any()) return {};
  int64_t sum;
  char result[4];
  reduce_integers(result, row_at(x, failures.first()), stride, n, kind, &sum);
  return sum_not_int32(failures.first(), sum);
}

// ---- floats

float finished(double sum, int64_t n, ReduceKind kind) {
  if (kind == ReduceKind::sum) return float(sum);
  return n ? float(sum / double(n)) : NAN;
}

// Calls use(part, count) for the elements of a row as float32, some at a time.
template <class Use>
SONDE_INLINE void each_part(const char* from, DType dtype, int64_t stride, int64_t n, float* scratch, Use use) {
  for (int64_t i = 0; i < n; i += kPart) {
    const int64_t count = min64(kPart, n - i);
    use(read_row(from + i * stride * dtype_size(dtype), dtype, stride, count, scratch), count);
  }
}

float reduce_floats(const char* from, DType dtype, int64_t stride, int64_t n, ReduceKind kind, float* scratch) {
  if (kind != ReduceKind::max && n < kLanes) {
    return finished(sum_row(read_row(from, dtype, stride, n, scratch), n), n, kind);
  }
  if (kind != ReduceKind::max) {
    Sum sum;
    each_part(from, dtype, stride, n, scratch, [&](const float* x, int64_t count) { sum.add(x, count); });
    return finished(sum.total(), n, kind);
  }
  float largest = -INFINITY;
  bool nan = false;
  each_part(from, dtype, stride, n, scratch, [&](const float* x, int64_t count) {
    int64_t i = 0;
    vi odd{};
    for (; i + kWidth <= count; i += kWidth) odd |= vi(load(x + i) != load(x + i));
    nan = nan || greater_bits(vi{}, odd);
    for (; i < count; ++i) nan = nan || x[i] != x[i];
    const float here = max_row(x, count);
    largest = here > largest ? here : largest;
  });
  return nan ? NAN : largest;
}

// The sums of `rows` rows that lie side by side, at most kNeighbours: each in the order of Sum.
void sum_neighbours(double* sums, const char* from, DType dtype, int64_t stride, int64_t n, int64_t rows) {
  alignas(64) double lanes[kLanes][kNeighbours] = {};
  const int64_t step = stride * dtype_size(dtype);
  for (int64_t i = 0; i < n; ++i) {
    float wide[kNeighbours] = {};
    const float* x = read_row(from + i * step, dtype, 1, rows, wide);
    double* lane = lanes[i % kLanes];
    if (rows == kNeighbours) {
      for (int64_t j = 0; j < kNeighbours; j += kDoubles) store(lane + j, load(lane + j) + load_doubles(x + j));
    } else {
      for (int64_t j = 0; j < rows; ++j) lane[j] += x[j];
    }
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      for (int64_t j = 0; j < kNeighbours; ++j) lanes[i][j] += lanes[i + half][j];
    }
  }
  memcpy(sums, lanes[0], sizeof lanes[0]);
}

// Sums and means over a dimension that is not the last one in memory: rows that share cache lines go together.
void reduce_neighbours(Context* context, const View& out, const View& x, ReduceKind kind) {
  const int64_t n = last_dimension(x), width = x.shape[x.rank - 2], groups = ceil_div(width, kNeighbours);
  const int64_t size = dtype_size(out.dtype);
  each_row(context, leading_count(x, 2) * groups, n * kNeighbours, [&](int64_t task, int) {
    const int64_t first = task / groups * width + task % groups * kNeighbours;
    const int64_t rows = min64(kNeighbours, width - task % groups * kNeighbours);
    double sums[kNeighbours];
    sum_neighbours(sums, row_at(x, first), x.dtype, last_stride(x), n, rows);
    float results[kNeighbours];
    for (int64_t j = 0; j < rows; ++j) results[j] = finished(sums[j], n, kind);
    narrow(static_cast<char*>(out.data) + first * size, results, out.dtype, rows);
  });
}

}  // namespace

Status reduce(Context* context, Out out, In x, ReduceKind kind, double correction) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  if (x.dtype == DType::int32) return integers(context, out, x, kind);
  const bool beside = x.rank >= 2 && x.stride[x.rank - 2] == 1 && x.shape[x.rank - 2] > 1 && stride != 1;
  if (beside && kind != ReduceKind::max) {
    reduce_neighbours(context, out, x, kind);
    return {};
  }
  if (!reserve_rows(context, 1, kPart)) return out_of_memory("a part of a row");
  each_row(context, element_count(out), n, [&](int64_t row, int thread) {
    const float value =
        reduce_floats(row_at(x, row), x.dtype, stride, n, kind, row_scratch(context, thread, 1, kPart, 0));
    narrow(static_cast<char*>(out.data) + row * dtype_size(out.dtype), &value, out.dtype, 1);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
