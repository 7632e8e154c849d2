// Copies and converts between any strides. Where the source is contiguous along another dimension than the result (a transpose),
// squares go through shared memory, so that both sides are read and written along their rows.
#include "elements.cuh"

namespace sonde {

namespace {

// copies the bits as they are
template <class T>
struct Bits {
  T* out;
  const T* in;
  using Value = T;
  SONDE_DEVICE Value get(int64_t at) const { return in[at]; }
  SONDE_DEVICE void set(int64_t at, Value value) const { out[at] = value; }
};

struct Convert {
  AnyElements out, in;
  using Value = float;
  SONDE_DEVICE Value get(int64_t at) const { return in.get(at); }
  SONDE_DEVICE void set(int64_t at, Value value) const { out.set(at, value); }
};

// compares with 0 in int32, without a conversion to float32
struct IntegerToBool {
  uint8_t* out;
  const int32_t* in;
  using Value = int32_t;
  SONDE_DEVICE Value get(int64_t at) const { return in[at]; }
  SONDE_DEVICE void set(int64_t at, Value value) const { out[at] = value != 0; }
};

// floats, truncated; a failure for a value that int32 does not hold
struct FloatToInteger {
  int32_t* out;
  AnyElements in;
  Failure* failure;
};

__global__ void __launch_bounds__(kThreads) truncate_kernel(FloatToInteger x, Positions<2> positions) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[2];
  positions.at(i, offset);
  const float value = x.in.get(offset[1]);
  x.out[offset[0]] = float_to_int32(value);
  if (value >= -2147483648.0f && value < 2147483648.0f) return;
  report(x.failure, kNotInt32, i, __double_as_longlong(value), 0);
}

template <class Move>
__global__ void __launch_bounds__(kThreads) copy_kernel(Move move, Positions<2> positions) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[2];
  positions.at(i, offset);
  move.set(offset[0], move.get(offset[1]));
}

// A matrix [rows, columns] for each entry of `positions`: the result is side by side along columns, the source along rows.
struct Crossed {
  int64_t rows, columns;
  int64_t out_row, in_column;  // strides
  int64_t row_tiles, column_tiles;
};

constexpr int kSquare = 32;

template <class Move>
__global__ void __launch_bounds__(kThreads) transpose_kernel(Move move, Positions<2> positions, Crossed m) {
  SHARED(typename Move::Value, square, [kSquare][kSquare + 1]);  // one more: columns of it lie in different banks
  const int64_t tile = blockIdx.x, matrix = tile / (m.row_tiles * m.column_tiles);
  const int64_t row = tile / m.column_tiles % m.row_tiles * kSquare, column = tile % m.column_tiles * kSquare;
  int64_t offset[2];
  positions.at(matrix, offset);
  const int x = int(threadIdx.x) % kSquare, y = int(threadIdx.x) / kSquare;
  for (int j = y; j < kSquare; j += int(kThreads) / kSquare) {
    if (row + x < m.rows && column + j < m.columns) {
      square[j][x] = move.get(offset[1] + row + x + (column + j) * m.in_column);
    }
  }
  __syncthreads();
  for (int j = y; j < kSquare; j += int(kThreads) / kSquare) {
    if (row + j < m.rows && column + x < m.columns) {
      move.set(offset[0] + (row + j) * m.out_row + column + x, square[x][j]);
    }
  }
}

// Makes dimension d the last but one.
void move_dimension(View& view, int d) {
  const int64_t n = view.shape[d], stride = view.stride[d];
  for (int i = d; i + 2 < view.rank; ++i) {
    view.shape[i] = view.shape[i + 1];
    view.stride[i] = view.stride[i + 1];
  }
  view.shape[view.rank - 2] = n;
  view.stride[view.rank - 2] = stride;
}

template <class Move>
Status run(Context* context, Move move, View out, View x) {
  const int last = out.rank - 1;
  int along = -1;  // the dimension along which the source lies side by side
  for (int d = 0; d < last; ++d) {
    if (x.stride[d] == 1 && x.shape[d] >= 8 && out.shape[last] >= 8) along = d;
  }
  if (along >= 0 && out.stride[last] == 1 && x.stride[last] != 1) {
    move_dimension(out, along);
    move_dimension(x, along);
    const View* const views[] = {&out, &x};
    const auto where = positions(views, 2);
    Crossed m = {out.shape[last - 1], out.shape[last], out.stride[last - 1], x.stride[last], 0, 0};
    m.row_tiles = ceil_div(m.rows, kSquare);
    m.column_tiles = ceil_div(m.columns, kSquare);
    const int64_t blocks = where.count * m.row_tiles * m.column_tiles;
    if (blocks <= kGridLimit) {
      LAUNCH((transpose_kernel<Move>), dim3(unsigned(blocks)), dim3(kThreads), 0, context->stream, move, where, m);
      return {};
    }
  }
  const View* const views[] = {&out, &x};
  const auto where = positions(views);
  LAUNCH((copy_kernel<Move>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream, move,
         where);
  return {};
}

Status truncate(Context* context, const View& out, const View& x) {
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  const View* const views[] = {&out, &x};
  const auto where = positions(views);
  LAUNCH(truncate_kernel, dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         FloatToInteger{static_cast<int32_t*>(out.data), AnyElements::of(x), failure}, where);
  return {};
}

// Contiguous, from one dtype of floats to another: four elements a thread.
template <class To, class From>
__global__ void __launch_bounds__(kThreads) convert_kernel(To to, From from, int64_t count) {
  const int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at + 4 <= count) {
    float x[4];
    from.get4(x, at);
    to.set4(at, x);
    return;
  }
  for (int64_t i = at; i < count; ++i) to.set(i, from.get(i));
}

template <class To, class From>
Status convert(Context* context, const View& out, const View& x) {
  const int64_t count = element_count(out);
  LAUNCH((convert_kernel<To, From>), dim3(unsigned(ceil_div(count, kThreads * 4))), dim3(kThreads), 0, context->stream,
         To::of(out), From::of(x), count);
  return {};
}

Status convert(Context* context, const View& out, const View& x) {
  using F = Elements<float>;
  using B = Elements<Bf16>;
  using H = Elements<Half>;
  if (F::aligned(out) && F::aligned(x)) {  // 16 bytes do for the others as well
    if (out.dtype == DType::float32 && x.dtype == DType::bfloat16) return convert<F, B>(context, out, x);
    if (out.dtype == DType::float32 && x.dtype == DType::float16) return convert<F, H>(context, out, x);
    if (out.dtype == DType::bfloat16 && x.dtype == DType::float32) return convert<B, F>(context, out, x);
    if (out.dtype == DType::float16 && x.dtype == DType::float32) return convert<H, F>(context, out, x);
  }
  return convert<AnyElements, AnyElements>(context, out, x);
}

}  // namespace

Status copy(Context* context, Out out, In x) {
  const int64_t count = element_count(out), size = dtype_size(x.dtype);
  if (count == 0) return {};
  const bool flat = is_contiguous(out) && is_contiguous(x);
  if (out.dtype == x.dtype) {
    if (flat) {
      return from_cuda(
          cudaMemcpyAsync(out.data, x.data, size_t(count * size), cudaMemcpyDeviceToDevice, context->stream),
          "copying");
    }
    if (size == 4)
      return run(context, Bits<uint32_t>{static_cast<uint32_t*>(out.data), static_cast<uint32_t*>(x.data)}, out, x);
    if (size == 2)
      return run(context, Bits<uint16_t>{static_cast<uint16_t*>(out.data), static_cast<uint16_t*>(x.data)}, out, x);
    return run(context, Bits<uint8_t>{static_cast<uint8_t*>(out.data), static_cast<uint8_t*>(x.data)}, out, x);
  }
  if (x.dtype == DType::int32 && out.dtype == DType::boolean) {
    return run(context, IntegerToBool{static_cast<uint8_t*>(out.data), static_cast<int32_t*>(x.data)}, out, x);
  }
  if (out.dtype == DType::int32 && x.dtype != DType::boolean) return truncate(context, out, x);
  if (flat) return convert(context, out, x);
  return run(context, Convert{AnyElements::of(out), AnyElements::of(x)}, out, x);
}

}  // namespace sonde
