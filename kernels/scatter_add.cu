// Adds terms to the elements that a tensor of indices names. A row is one index of every dimension but one, and a block takes it.
// The terms come in chunks: the first thread of a chunk that has an index adds up all of the chunk's terms for it, in their order.
// Between chunks, the sums of a row lie in global memory, one for each element, of which only those are used that are named.
#include "indices.cuh"

namespace sonde {

namespace {

constexpr int kChunk = int(kThreads);
constexpr size_t kSumsBytes = size_t(256) << 20;  // of all blocks, where one row does not need more

struct Scatter {
  const int32_t* index;
  Positions<3> rows;  // out's, index's and source's first elements of each
  int64_t length, count;
  int64_t out_step, index_step, source_step;
  Positions<1> firsts;  // the number, in out, of each row's first element
  int64_t number_step;  // from one element of a row to the next in these numbers
  const int* wrong;
  Failure* failure;
};

struct Floats {
  using Sum = double;
  AnyElements out, source;
  SONDE_DEVICE double held(int64_t at) const { return out.get(at); }
  SONDE_DEVICE double term(int64_t at) const { return source.get(at); }
  SONDE_DEVICE bool set(int64_t at, double sum) const {
    out.set(at, float(sum));
    return true;
  }
};

struct Integers {
  using Sum = long long;
  int32_t* out;
  const int32_t* source;
  SONDE_DEVICE long long held(int64_t at) const { return out[at]; }
  SONDE_DEVICE long long term(int64_t at) const { return source[at]; }
  SONDE_DEVICE bool set(int64_t at, long long sum) const {
    if (int32_t(sum) != sum) return false;
    out[at] = int32_t(sum);
    return true;
  }
};

// What a chunk's first thread of an index does.
enum class Step {
  all,    // of a row of one chunk: sums up and stores
  begin,  // fetches what the row holds
  add,
  store,
};

template <class Elements>
__global__ void __launch_bounds__(kThreads)
    scatter_add_kernel(Elements elements, Scatter x, typename Elements::Sum* all_sums) {
  using Sum = typename Elements::Sum;
  SHARED(int32_t, indices, [kChunk]);
  SHARED(Sum, terms, [kChunk]);
  if (*x.wrong) return;
  Sum* sums = all_sums + blockIdx.x * x.length;
  const int t = int(threadIdx.x);
  for (int64_t i = blockIdx.x; i < x.rows.count; i += gridDim.x) {
    int64_t offset[3];
    x.rows.at(i, offset);
    const auto step_through = [&](Step step) {
      for (int64_t first = 0; first < x.count; first += kChunk) {
        const int n = int(x.count - first < kChunk ? x.count - first : kChunk);
        __syncthreads();  // the chunk before is done
        if (t < n) {
          indices[t] = x.index[offset[1] + (first + t) * x.index_step];
          terms[t] = elements.term(offset[2] + (first + t) * x.source_step);
        }
        __syncthreads();
        bool leads = t < n;
        for (int other = 0; leads && other < t; ++other) leads = indices[other] != indices[t];
        if (!leads) continue;
        const int32_t at = indices[t];
        const int64_t place = offset[0] + at * x.out_step;
        Sum sum = step == Step::all || step == Step::begin ? elements.held(place) : sums[at];
        if (step == Step::all || step == Step::add) {
          for (int other = t; other < n; ++other) {
            if (indices[other] == at) sum += terms[other];
          }
        }
        if (step == Step::begin || step == Step::add) sums[at] = sum;
        else if (!elements.set(place, sum)) {
          int64_t number[1];
          x.firsts.at(i, number);
          report(x.failure, kElementNotInt32, number[0] + at * x.number_step, (long long)sum, 0);
        }
      }
    };
    if (x.count <= kChunk) step_through(Step::all);
    else {
      step_through(Step::begin);
      step_through(Step::add);
      step_through(Step::store);
    }
  }
}

View without(View x, int64_t d) {
  --x.rank;
  for (int64_t i = d; i < x.rank; ++i) {
    x.shape[i] = x.shape[i + 1];
    x.stride[i] = x.stride[i + 1];
  }
  return x;
}

template <class Elements>
Status add(Context* context, Elements elements, const Scatter& work) {
  using Sum = typename Elements::Sum;
  const size_t row = size_t(work.length) * sizeof(Sum);
  int64_t blocks = min64(work.rows.count, 4 * context->multiprocessors);
  blocks = max64(1, min64(blocks, int64_t(kSumsBytes / row)));
  auto* sums = static_cast<Sum*>(scratch(context, kLists, size_t(blocks) * row));
  if (!sums) return no_scratch(context, size_t(blocks) * row);
  LAUNCH((scatter_add_kernel<Elements>), dim3(unsigned(blocks)), dim3(kThreads), 0, context->stream, elements, work,
         sums);
  return {};
}

}  // namespace

Status scatter_add(Context* context, Out out, In index, In source, int64_t dim) {
  Failure* failure = nullptr;
  int* wrong = nullptr;
  const Status status = check_indices(context, index, out.shape[dim], &failure, &wrong);
  // of a dimension without elements every index is wrong, and has been reported
  if (status.failed() || element_count(index) == 0 || out.shape[dim] == 0) return status;
  const View numbers = contiguous_view(out, nullptr, DType::int32);
  // rows are those of index; the other tensors may have more
  View rows = without(index, dim), outs = without(out, dim), sources = without(source, dim),
       firsts = without(numbers, dim);
  for (View* view : {&outs, &sources, &firsts}) {
    for (int d = 0; d < rows.rank; ++d) view->shape[d] = rows.shape[d];
  }
  const View* const views[] = {&outs, &rows, &sources};
  const View* const number[] = {&firsts};
  const Scatter work = {static_cast<const int32_t*>(index.data),
                        positions(views),
                        out.shape[dim],
                        index.shape[dim],
                        out.stride[dim],
                        index.stride[dim],
                        source.stride[dim],
                        positions(number),
                        numbers.stride[dim],
                        wrong,
                        failure};
  if (out.dtype == DType::int32) {
    return add(context, Integers{static_cast<int32_t*>(out.data), static_cast<const int32_t*>(source.data)}, work);
  }
  return add(context, Floats{AnyElements::of(out), AnyElements::of(source)}, work);
}

}  // namespace sonde
