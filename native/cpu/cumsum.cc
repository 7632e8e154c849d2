// Adds up each row's elements one after the other, and writes every sum.
#include "../integers.h"
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kPart = 2048;     // elements of a row at a time
constexpr int64_t kColumns = 1024;  // rows that are added up together, at most

// The dimension whose rows are added up together: one along which x has a smaller stride than along the rows; -1
// without one.
int column_dimension(const View& x) {
  int best = -1;
  for (int d = 0; d + 1 < x.rank; ++d) {
    if (x.shape[d] > 1 && x.stride[d] < (best < 0 ? last_stride(x) : x.stride[best])) best = d;
  }
  return best;
}

// One row after the other, in parts.
Status along(Context* context, const View& out, const View& x) {
  const int64_t n = last_dimension(x), in_step = last_stride(x) * dtype_size(x.dtype),
                out_step = last_stride(out) * dtype_size(out.dtype);
  if (!reserve_rows(context, 2, kPart)) return out_of_memory("a part of a row");
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const char* from = row_at(x, row);
    char* to = row_at(out, row);
    double sum = 0;
    for (int64_t begin = 0; begin < n; begin += kPart) {
      const int64_t count = min64(kPart, n - begin);
      const float* in =
          read_row(from + begin * in_step, x.dtype, last_stride(x), count, row_scratch(context, thread, 2, kPart, 0));
      char* there = to + begin * out_step;
      float* sums = result_row(there, out.dtype, last_stride(out), row_scratch(context, thread, 2, kPart, 1));
      for (int64_t i = 0; i < count; ++i) sums[i] = canonical(float(sum += in[i]));
      write_row(there, out.dtype, last_stride(out), count, sums);
    }
  });
  return {};
}

// Calls body(in_offset, out_offset, width, row, step, thread) for groups of `width` rows that are added up together:
// those of dimension `columns`, cut into groups. The offsets are those of the group's first element, `row` is the number
// of its first row, `step` the distance of these numbers from one row to the next.
template <class Body>
void each_columns(Context* context, const View& out, const View& x, int columns, Body body) {
  View rest = x;  // the leading dimensions without that one
  rest.rank = 0;
  int64_t step = 1, out_stride[kMaxRank] = {};
  for (int d = 0; d + 1 < x.rank; ++d) {
    if (d > columns) step *= x.shape[d];
    if (d == columns) continue;
    rest.shape[rest.rank] = x.shape[d];
    out_stride[rest.rank] = out.stride[d];
    rest.stride[rest.rank++] = x.stride[d];
  }
  const int64_t width = x.shape[columns], leading = leading_count(rest, 0), n = last_dimension(x);
  int64_t most = kColumns;
  while (most > 32 && leading * ceil_div(width, most) < 2 * thread_count(context)) most /= 2;
  const int64_t groups = ceil_div(width, most);
  each_row(context, leading * groups, n * min64(width, most), [&](int64_t task, int thread) {
    const int64_t first = task % groups * most, row = task / groups;
    int64_t in_offset = leading_offset(rest, 0, row) + first * x.stride[columns],
            out_offset = first * out.stride[columns];
    View to = rest;
    for (int d = 0; d < rest.rank; ++d) to.stride[d] = out_stride[d];
    out_offset += leading_offset(to, 0, row);
    const int64_t outer = row / step, inner = row % step;  // the dimensions before and after `columns`
    body(in_offset, out_offset, min64(most, width - first), (outer * width + first) * step + inner, step, thread);
  });
}

Status across(Context* context, const View& out, const View& x, int columns) {
  if (!reserve_rows(context, 2, kColumns)) return out_of_memory("parts of rows");
  const int64_t size = dtype_size(x.dtype), stride = x.stride[columns], out_stride = out.stride[columns];
  each_columns(context, out, x, columns,
               [&](int64_t in_offset, int64_t out_offset, int64_t width, int64_t, int64_t, int thread) {
                 alignas(64) double sums[kColumns] = {};
                 float* scratch = row_scratch(context, thread, 2, kColumns, 0);
                 for (int64_t i = 0; i < last_dimension(x); ++i) {
                   const char* from = static_cast<char*>(x.data) + (in_offset + i * last_stride(x)) * size;
                   const float* in = read_row(from, x.dtype, stride, width, scratch);
                   char* to = static_cast<char*>(out.data) + (out_offset + i * last_stride(out)) * size;
                   float* results = result_row(to, out.dtype, out_stride, row_scratch(context, thread, 2, kColumns, 1));
                   for (int64_t j = 0; j < width; ++j) results[j] = canonical(float(sums[j] += in[j]));
                   write_row(to, out.dtype, out_stride, width, results);
                 }
               });
  return {};
}

Status integers(Context* context, const View& out, const View& x, int columns) {
  const int64_t n = last_dimension(x), stride = last_stride(x), out_stride = last_stride(out);
  const auto* in = static_cast<const int32_t*>(x.data);
  auto* to = static_cast<int32_t*>(out.data);
  Failures failures;  // row * n + element
  if (columns < 0) {
    each_row(context, row_count(x), n, [&](int64_t row, int) {
      const int32_t* from = in + leading_offset(x, 1, row);
      int32_t* sums = to + leading_offset(out, 1, row);
      int64_t sum = 0;
      for (int64_t i = 0; i < n; ++i) {
        sum += from[i * stride];
        sums[i * out_stride] = int32_t(sum);
        if (int32_t(sum) != sum) return failures.at(row * n + i);
      }
    });
  } else {
    each_columns(context, out, x, columns,
                 [&](int64_t in_offset, int64_t out_offset, int64_t width, int64_t row, int64_t step, int) {
                   int64_t sums[kColumns] = {};
                   for (int64_t i = 0; i < n; ++i) {
                     const int32_t* from = in + in_offset + i * stride;
                     int32_t* results = to + out_offset + i * out_stride;
                     bool held = true;
                     for (int64_t j = 0; j < width; ++j) {
                       sums[j] += from[j * x.stride[columns]];
                       results[j * out.stride[columns]] = int32_t(sums[j]);
                       held = held && int32_t(sums[j]) == sums[j];
                     }
                     for (int64_t j = 0; !held && j < width; ++j) {
                       if (int32_t(sums[j]) != sums[j]) failures.at((row + j * step) * n + i);
                     }
                   }
                 });
  }
  if (!failures.any()) return {};
  const int64_t row = failures.first() / n, element = failures.first() % n;
  int64_t sum = 0;
  for (int64_t i = 0; i <= element; ++i) sum += in[leading_offset(x, 1, row) + i * stride];
  return partial_sum_not_int32(row, element, sum);
}

}  // namespace

Status cumsum(Context* context, Out out, In x) {
  if (element_count(x) == 0) return {};
  const int columns = column_dimension(x);
  if (x.dtype == DType::int32) return integers(context, out, x, columns);
  return columns < 0 ? along(context, out, x) : across(context, out, x, columns);
}

}  // namespace sonde::SONDE_ISA
