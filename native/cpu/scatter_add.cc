// Adds terms to the elements that a tensor of indices names. A row is one index of every dimension but one. A thread
// adds a row's terms, in their order, to sums in double precision: one for each element of the row, of which only those
// are used that are named.
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

// Some rows, of `count` indices and terms each. Where these do not lie side by side, neighbours go together, as they
// share cache lines.
constexpr int kTogether = 16;
constexpr int64_t kFewSums = 65536;  // of a row, up to which rows go together
struct Block {
  int rows;
  char* out[kTogether];
  const int32_t* index[kTogether];
  const char* terms[kTogether];
  int64_t count, index_step;
  int64_t out_step, term_step;  // in bytes
  int64_t width;                // rows of a full block: the distance of two sums of one row
};

// Calls body(row, index, sum, term) for each term of the block.
template <class T, class Body>
SONDE_INLINE void each_term(const Block& block, T* sums, Body body) {
  for (int64_t j = 0; j < block.count; ++j) {
    for (int row = 0; row < block.rows; ++row) {
      const int64_t i = block.index[row][j * block.index_step];
      body(row, i, sums[i * block.width + row], block.terms[row] + j * block.term_step);
    }
  }
}

SONDE_INLINE double float_at(const char* at, DType dtype) {
  float x;
  widen(&x, at, dtype, 1);
  return x;
}
int32_t int_at(const char* at) {
  int32_t x;
  memcpy(&x, at, 4);
  return x;
}

void add_floats(const Block& block, DType dtype, DType term_dtype, double* sums) {
  const auto place = [&](int row, int64_t i) { return block.out[row] + i * block.out_step; };
  each_term(block, sums, [&](int row, int64_t i, double& sum, const char*) { sum = float_at(place(row, i), dtype); });
  each_term(block, sums, [&](int, int64_t, double& sum, const char* term) { sum += float_at(term, term_dtype); });
  each_term(block, sums, [&](int row, int64_t i, double& sum, const char*) {
    const float rounded = canonical(float(sum));
    narrow(place(row, i), &rounded, dtype, 1);
  });
}

// A sum that int32 does not hold.
struct Overflow {
  int64_t row = -1, index = 0, sum = 0;
};

// Returns the overflow of the lowest row and index; the block is then left as it was.
Overflow add_integers(const Block& block, int64_t* sums) {
  const auto place = [&](int row, int64_t i) { return block.out[row] + i * block.out_step; };
  each_term(block, sums, [&](int row, int64_t i, int64_t& sum, const char*) { sum = int_at(place(row, i)); });
  each_term(block, sums, [&](int, int64_t, int64_t& sum, const char* term) { sum += int_at(term); });
  Overflow bad;
  each_term(block, sums, [&](int row, int64_t i, int64_t sum, const char*) {
    if (int32_t(sum) == sum) return;
    if (bad.row < 0 || row < bad.row || (row == bad.row && i < bad.index)) bad = {row, i, sum};
  });
  if (bad.row >= 0) return bad;
  each_term(block, sums, [&](int row, int64_t i, int64_t sum, const char*) {
    const int32_t held = int32_t(sum);
    memcpy(place(row, i), &held, 4);
  });
  return bad;
}

}  // namespace

Status scatter_add(Context* context, Out out, In index, In source, int64_t dim) {
  const int64_t length = out.shape[dim], count = index.shape[dim];
  const Status status = check_indices(context, index, length);
  if (status.failed() || element_count(index) == 0) return status;
  // rows are those of index; the other two may have more
  const View rows = without(index, dim);
  const View outs = in_shape_of(rows, without(out, dim)), sources = in_shape_of(rows, without(source, dim));
  const int64_t row_total = element_count(rows), width = index.stride[dim] == 1 || length > kFewSums ? 1 : kTogether;
  const auto sums_of = [&](int thread) { return thread_scratch(context, thread, 0, size_t(length * width) * 8); };
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!sums_of(thread)) return out_of_memory("the sums of a row");
  }
  const int64_t out_size = dtype_size(out.dtype), term_size = dtype_size(source.dtype);
  const auto block_of = [&](int64_t number) {
    Block block = {};
    block.rows = int(min64(width, row_total - number * width));
    for (int row = 0; row < block.rows; ++row) {
      const int64_t i = number * width + row;
      block.out[row] = static_cast<char*>(out.data) + leading_offset(outs, 0, i) * out_size;
      block.index[row] = static_cast<const int32_t*>(index.data) + leading_offset(rows, 0, i);
      block.terms[row] = static_cast<const char*>(source.data) + leading_offset(sources, 0, i) * term_size;
    }
    block.count = count;
    block.index_step = index.stride[dim];
    block.out_step = out.stride[dim] * out_size;
    block.term_step = source.stride[dim] * term_size;
    block.width = width;
    return block;
  };
  Failures failures;
  each_row(context, ceil_div(row_total, width), count * width, [&](int64_t number, int thread) {
    const Block block = block_of(number);
    if (out.dtype != DType::int32) {
      add_floats(block, out.dtype, source.dtype, static_cast<double*>(sums_of(thread)));
    } else if (add_integers(block, static_cast<int64_t*>(sums_of(thread))).row >= 0) {
      failures.at(number);
    }
  });
  if (!failures.any()) return {};
  // once more: the block was left as it was
  const Overflow bad = add_integers(block_of(failures.first()), static_cast<int64_t*>(sums_of(0)));
  const View numbers = contiguous_view(out, nullptr, DType::int32);
  const View firsts = in_shape_of(rows, without(numbers, dim));
  const int64_t first = leading_offset(firsts, 0, failures.first() * width + bad.row);
  return element_sum_not_int32(first + bad.index * numbers.stride[dim], bad.sum);
}

}  // namespace sonde::SONDE_ISA
