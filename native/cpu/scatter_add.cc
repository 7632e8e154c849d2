// Adds terms to the elements that a tensor of indices names. A row is one index of every dimension but one; a thread adds
// its terms in their order to sums in double precision, one for each element of the row, of which only those are used
// that are named.
#include "../integers.h"
#include "indices.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// Without dimension d.
View without(View x, int64_t d) {
  --x.rank;
  for (int64_t i = d; i < x.rank; ++i) {
    x.shape[i] = x.shape[i + 1];
    x.stride[i] = x.stride[i + 1];
  }
  return x;
}

// The first elements of x, in the shape of another view.
View in_shape_of(const View& shape, View x) {
  for (int d = 0; d < x.rank; ++d) x.shape[d] = shape.shape[d];
  return x;
}

// One row: `count` indices and terms.
struct Row {
  char* out;
  const int32_t* index;
  const char* terms;
  int64_t count, out_step, index_step, term_step;
};

void add_floats(const Row& row, DType dtype, DType term_dtype, double* sums, float* scratch) {
  const int64_t size = dtype_size(dtype);
  for (int64_t j = 0; j < row.count; ++j) {
    const int64_t i = row.index[j * row.index_step];
    float held;
    widen(&held, row.out + i * row.out_step * size, dtype, 1);
    sums[i] = held;
  }
  const float* terms = read_row(row.terms, term_dtype, row.term_step, row.count, scratch);
  for (int64_t j = 0; j < row.count; ++j) sums[row.index[j * row.index_step]] += terms[j];
  for (int64_t j = 0; j < row.count; ++j) {
    const int64_t i = row.index[j * row.index_step];
    const float sum = float(sums[i]);
    narrow(row.out + i * row.out_step * size, &sum, dtype, 1);
  }
}

// Returns the lowest index whose sum int32 does not hold, or -1; the sum is in `sums`, and the row is left as it was.
int64_t add_integers(const Row& row, int64_t* sums) {
  auto* out = reinterpret_cast<int32_t*>(row.out);
  const auto* terms = reinterpret_cast<const int32_t*>(row.terms);
  for (int64_t j = 0; j < row.count; ++j) {
    const int64_t i = row.index[j * row.index_step];
    sums[i] = out[i * row.out_step];
  }
  for (int64_t j = 0; j < row.count; ++j) sums[row.index[j * row.index_step]] += terms[j * row.term_step];
  int64_t bad = -1;
  for (int64_t j = 0; j < row.count; ++j) {
    const int64_t i = row.index[j * row.index_step];
    if (int32_t(sums[i]) != sums[i] && (bad < 0 || i < bad)) bad = i;
  }
  for (int64_t j = 0; bad < 0 && j < row.count; ++j) {
    const int64_t i = row.index[j * row.index_step];
    out[i * row.out_step] = int32_t(sums[i]);
  }
  return bad;
}

}  // namespace

Status scatter_add(Context* context, Out out, In index, In source, int64_t dim) {
  const int64_t length = out.shape[dim], count = index.shape[dim];
  const Status status = check_indices(context, index, length);
  if (status.failed() || element_count(index) == 0) return status;
  if (!reserve_rows(context, 1, count)) return out_of_memory("a row");
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 1, size_t(length) * 8)) return out_of_memory("the sums of a row");
  }
  const auto sums_of = [&](int thread) { return thread_scratch(context, thread, 1, size_t(length) * 8); };
  // rows are those of index; the other two may have more
  const View rows = without(index, dim);
  const View outs = in_shape_of(rows, without(out, dim)), sources = in_shape_of(rows, without(source, dim));
  const auto row_of = [&](int64_t i) -> Row {
    return {static_cast<char*>(out.data) + leading_offset(outs, 0, i) * dtype_size(out.dtype),
            static_cast<const int32_t*>(index.data) + leading_offset(rows, 0, i),
            static_cast<const char*>(source.data) + leading_offset(sources, 0, i) * dtype_size(source.dtype),
            count,
            out.stride[dim],
            index.stride[dim],
            source.stride[dim]};
  };
  Failures failures;
  each_row(context, element_count(rows), count, [&](int64_t i, int thread) {
    if (out.dtype == DType::int32) {
      if (add_integers(row_of(i), static_cast<int64_t*>(sums_of(thread))) >= 0) failures.at(i);
      return;
    }
    float* scratch = row_scratch(context, thread, 1, count, 0);
    add_floats(row_of(i), out.dtype, source.dtype, static_cast<double*>(sums_of(thread)), scratch);
  });
  if (!failures.any()) return {};
  auto* sums = static_cast<int64_t*>(sums_of(0));
  const int64_t bad = add_integers(row_of(failures.first()), sums);  // once more: the row was left as it was
  const View numbers = contiguous_view(out, nullptr, DType::int32);
  const View firsts = in_shape_of(rows, without(numbers, dim));
  return element_sum_not_int32(leading_offset(firsts, 0, failures.first()) + bad * numbers.stride[dim], sums[bad]);
}

}  // namespace sonde::SONDE_ISA
