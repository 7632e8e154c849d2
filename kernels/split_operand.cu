// Splits matrices into the 16-bit parts of operands. Two kernels for operands with one scale a row, and two for those with a scale for
// each 64 k: one for matrices that lie side by side along K, one for columns of a row-major matrix, which go through shared memory
// in squares.
#include "split_operand.cuh"

#include "rows.cuh"

namespace sonde {

namespace {

// A group of threads takes a row, four elements a thread at a time: the pitch is a multiple of eight.
template <OperandKind kind, class E, class G>
__global__ void __launch_bounds__(kRowThreads, 2) split_rows_kernel(Planes to, E x, Rows rows, bool aligned) {
  const int64_t i = G::row();
  if (i >= rows.positions.count) return;
  const Row row = rows.row(i);
  const auto get4 = [&](float(&v)[4], int64_t j) {
    if (aligned && j + 4 <= to.k) return x.get4(v, row.offset + j);
    for (int e = 0; e < 4; ++e) v[e] = j + e < to.k ? x.get(row.offset + (j + e) * row.stride) : 0.0f;
  };
  float factor = 1;
  if constexpr (is_scaled(kind)) {
    float largest = 0;
    for (int64_t j = G::rank() * 4; j < to.k; j += G::size * 4) {
      float v[4];
      get4(v, j);
      for (int e = 0; e < 4; ++e) largest = larger(largest, v[e]);
    }
    factor = factor_for<false>(G::max(largest != largest ? INFINITY : largest));  // max() drops NaN
    if (G::rank() == 0) to.put_scale(i, 0, factor);
  }
  for (int64_t j = G::rank() * 4; j < to.pitch; j += G::size * 4) {
    float v[4];
    get4(v, j);
    uint16_t high[4], low[4];
    for (int e = 0; e < 4; ++e) split_element<kind>(v[e], factor, high[e], low[e]);
    put4(to.high + i * to.pitch + j, high);
    if constexpr (kind == OperandKind::split) put4(to.low + i * to.pitch + j, low);
  }
}

constexpr int kSquare = 32;

// A block takes 32 rows of one matrix; neighbouring rows lie side by side in x.
template <OperandKind kind>
__global__ void __launch_bounds__(kRowThreads)
    split_columns_kernel(Planes to, int64_t rows, AnyElements x, Positions<1> matrices, int64_t blocks,
                         int64_t k_stride) {
  constexpr int kHeight = kRowThreads / kSquare;
  SHARED(float, square, [kSquare][kSquare + 1]);
  SHARED(float, maxima, [kHeight][kSquare]);
  int64_t offset[1];
  matrices.at(blockIdx.x / blocks, offset);
  const int lane = int(threadIdx.x) % kSquare, warp = int(threadIdx.x) / kSquare;
  const int64_t first = blockIdx.x % blocks * kSquare, row0 = blockIdx.x / blocks * rows + first;
  const bool inside = first + lane < rows;
  const int64_t column = offset[0] + first + lane;
  float largest = 0;
  if constexpr (is_scaled(kind)) {
    for (int64_t j = warp; inside && j < to.k; j += kHeight) largest = larger(largest, x.get(column + j * k_stride));
    maxima[warp][lane] = largest;
    __syncthreads();
    for (int i = 0; i < kHeight; ++i) largest = larger(largest, maxima[i][lane]);
    if (inside && warp == 0) to.put_scale(row0 + lane, 0, factor_for<false>(largest));
  }
  for (int64_t j0 = 0; j0 < to.pitch; j0 += kSquare) {
    __syncthreads();
    for (int j = warp; j < kSquare; j += kHeight) {
      square[j][lane] = inside && j0 + j < to.k ? x.get(column + (j0 + j) * k_stride) : 0.0f;
    }
    if constexpr (is_scaled(kind)) {
      if (warp == 0) maxima[0][lane] = factor_for<false>(largest);
    }
    __syncthreads();
    for (int r = warp; r < kSquare; r += kHeight) {
      if (first + r >= rows || j0 + lane >= to.pitch) continue;
      const int64_t at = (row0 + r) * to.pitch + j0 + lane;
      uint16_t high, low;
      split_element<kind>(square[lane][r], is_scaled(kind) ? maxima[0][r] : 1.0f, high, low);
      to.high[at] = high;
      if constexpr (kind == OperandKind::split) to.low[at] = low;
    }
  }
}

// Kernels that end at once unless one of these words on the device is not 0.
struct Condition {
  const int32_t *a, *b;  // null: there is no condition

  SONDE_DEVICE bool holds() const { return !a || *a != 0 || *b != 0; }
};

__global__ void __launch_bounds__(kThreads) clear_flags_kernel(int32_t* flags, int64_t count, Condition condition) {
  if (!condition.holds()) return;
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = first; i < count; i += step) flags[i] = 0;
}

// kChunkLanes threads take a chunk of a row.
template <class E>
__global__ void __launch_bounds__(kThreads)
    split_chunks_kernel(Planes to, E x, Rows rows, bool aligned, int64_t blocks, Condition condition) {
  if (!condition.holds()) return;
  const int lane = int(threadIdx.x) % kChunkLanes;
  const int64_t count = rows.positions.count * to.chunks;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t i = (block * kThreads + threadIdx.x) / kChunkLanes;
    // 32-bit division is several times faster
    const int64_t row = count <= INT32_MAX ? int64_t(uint32_t(i) / uint32_t(to.chunks)) : i / to.chunks;
    const int64_t chunk = i - row * to.chunks, j = chunk * kSplitChunk + lane * 4;
    float v[4] = {};
    if (i < count) {
      const Row from = rows.row(row);
      if (aligned && j + 4 <= to.k) {
        x.get4(v, from.offset + j);
      } else {
        for (int e = 0; e < 4 && j + e < to.k; ++e) v[e] = x.get(from.offset + (j + e) * from.stride);
      }
    }
    to.quarters(row, j, v, i < count);
  }
}

// A block takes a chunk of 32 rows of one matrix; neighbouring rows lie side by side in x.
__global__ void __launch_bounds__(kRowThreads)
    split_column_chunks_kernel(Planes to, int64_t rows, AnyElements x, Positions<1> matrices, int64_t blocks,
                               int64_t k_stride) {
  constexpr int kHeight = kRowThreads / kSquare;
  SHARED(float, values, [kSplitChunk][kSquare + 1]);
  SHARED(float, maxima, [kHeight][kSquare]);
  const int64_t chunk = blockIdx.x % to.chunks, block = blockIdx.x / to.chunks, k0 = chunk * kSplitChunk;
  int64_t offset[1];
  matrices.at(block / blocks, offset);
  const int lane = int(threadIdx.x) % kSquare, warp = int(threadIdx.x) / kSquare;
  const int64_t first = block % blocks * kSquare, row0 = block / blocks * rows + first;
  const bool inside = first + lane < rows;
  const int64_t column = offset[0] + first + lane;
  float largest = 0;
  for (int j = warp; j < kSplitChunk; j += kHeight) {
    const float v = inside && k0 + j < to.k ? x.get(column + (k0 + j) * k_stride) : 0.0f;
    values[j][lane] = v;
    largest = larger(largest, v);
  }
  maxima[warp][lane] = largest;
  __syncthreads();
  for (int i = 0; i < kHeight; ++i) largest = larger(largest, maxima[i][lane]);
  const float factor = factor_for<true>(largest);
  if (inside && warp == 0) to.put_scale(row0 + lane, chunk, factor);
  for (int r = warp; r < kSquare; r += kHeight) {
    const float factor_of_row = __shfl_sync(kAll, factor, r);
    for (int j = lane; j < kSplitChunk; j += kSquare) {
      if (first + r >= rows || k0 + j >= to.pitch) continue;
      const int64_t at = (row0 + r) * to.pitch + k0 + j;
      split_element<OperandKind::split>(values[j][r], factor_of_row, to.high[at], to.low[at]);
    }
  }
}

// Launches split_chunks_kernel.
Status split_rows_in_chunks(Context* context, const Planes& to, const View& x, const Condition& condition) {
  const Rows rows = Rows::of(x);
  const int64_t blocks = ceil_div(rows.positions.count * to.chunks, kThreads / kChunkLanes);
  if (blocks == 0) return {};
  const int64_t most = condition.a ? 8 * context->multiprocessors : kGridLimit;
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const int64_t k_stride = x.stride[x.rank - 1];
        bool aligned = E::aligned(x) && k_stride == 1;
        for (int d = 0; d + 1 < x.rank; ++d) aligned = aligned && (x.shape[d] == 1 || x.stride[d] % 4 == 0);
        LAUNCH((split_chunks_kernel<E>), dim3(unsigned(min64(blocks, most))), dim3(kThreads), 0, context->stream, to,
               E::of(x), rows, aligned, blocks, condition);
        return Status();
      },
      x);
}

// Chooses by what lies side by side in memory: the rows' elements, or the rows.
Status split_in_chunks(Context* context, const Planes& to, const View& x) {
  const int64_t k_stride = x.stride[x.rank - 1], row_stride = x.stride[x.rank - 2];
  if (row_stride == 1 && k_stride != 1) {
    const View* const views[] = {&x};
    const auto matrices = positions(views, 2);
    const int64_t rows = x.shape[x.rank - 2], blocks = ceil_div(rows, kSquare);
    const int64_t all = matrices.count * blocks * to.chunks;
    if (all > kGridLimit) return fail("a matrix of [%lld, %lld] is too large", (long long)rows, (long long)to.k);
    if (all == 0) return {};
    LAUNCH(split_column_chunks_kernel, dim3(unsigned(all)), dim3(kRowThreads), 0, context->stream, to, rows,
           AnyElements::of(x), matrices, blocks, k_stride);
    return {};
  }
  return split_rows_in_chunks(context, to, x, {});
}

template <OperandKind kind>
Status split_as(Context* context, const Planes& to, const View& x) {
  const int64_t k_stride = x.stride[x.rank - 1], row_stride = x.stride[x.rank - 2];
  if (row_stride == 1 && k_stride != 1) {
    const View* const views[] = {&x};
    const auto matrices = positions(views, 2);
    const int64_t rows = x.shape[x.rank - 2], blocks = ceil_div(rows, kSquare);
    if (matrices.count * blocks == 0) return {};
    LAUNCH((split_columns_kernel<kind>), dim3(unsigned(matrices.count * blocks)), dim3(kRowThreads), 0, context->stream,
           to, rows, AnyElements::of(x), matrices, blocks, k_stride);
    return {};
  }
  const Rows rows = Rows::of(x);
  if (rows.positions.count == 0) return {};
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        bool aligned = E::aligned(x) && k_stride == 1;
        for (int d = 0; d + 1 < x.rank; ++d) aligned = aligned && (x.shape[d] == 1 || x.stride[d] % 4 == 0);
        with_group(to.k, [&](auto group) {
          using G = decltype(group);
          LAUNCH((split_rows_kernel<kind, E, G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0,
                 context->stream, to, E::of(x), rows, aligned);
        });
        return Status();
      },
      x);
}

// Where the pieces of an operand lie: flags and `any` side by side, high, low, scales.
struct OperandLayout {
  size_t any, high, low, scale, bytes;

  static OperandLayout of(OperandKind kind, int64_t rows, int64_t k, int64_t chunks) {
    const auto after = [](size_t at, int64_t bytes) { return size_t(round_up(int64_t(at) + bytes, 256)); };
    const int64_t part = rows * round_up(k, 8) * 2;
    OperandLayout layout = {};
    layout.any = size_t(rows) * 4;
    if (is_scaled(kind)) layout.high = after(layout.any, 4);
    layout.low = layout.scale = layout.bytes = after(layout.high, part);
    if (part_count(kind) == 2) layout.scale = layout.bytes = after(layout.low, part);
    if (is_scaled(kind)) layout.bytes = after(layout.scale, rows * chunks * 4);
    return layout;
  }
};

bool in_chunks(OperandKind kind, OperandSide side) { return kind == OperandKind::split && side == OperandSide::left; }
int64_t chunks_of(OperandKind kind, OperandSide side, int64_t k) {
  return in_chunks(kind, side) ? ceil_div(k, kSplitChunk) : 1;
}

}  // namespace

size_t split_operand_bytes(OperandKind kind, OperandSide side, int64_t batch, int64_t rows, int64_t k) {
  return OperandLayout::of(kind, batch * rows, k, chunks_of(kind, side, k)).bytes;
}

SplitOperand split_operand_in(void* memory, OperandKind kind, OperandSide side, int64_t batch, int64_t rows,
                              int64_t k) {
  SplitOperand operand;
  operand.rows = rows;
  operand.k = k;
  operand.pitch = round_up(k, 8);
  operand.batch = batch;
  operand.chunks = chunks_of(kind, side, k);
  operand.in_chunks = in_chunks(kind, side);
  const OperandLayout layout = OperandLayout::of(kind, batch * rows, k, operand.chunks);
  char* base = static_cast<char*>(memory);
  operand.high = reinterpret_cast<uint16_t*>(base + layout.high);
  if (kind == OperandKind::split) operand.low = reinterpret_cast<uint16_t*>(base + layout.low);
  if (is_scaled(kind)) {
    operand.flags = reinterpret_cast<int32_t*>(base);
    operand.any = reinterpret_cast<int32_t*>(base + layout.any);
    operand.scale = reinterpret_cast<float*>(base + layout.scale);
  }
  return operand;
}

Status clear_flags(Context* context, const SplitOperand& operand) {
  const size_t bytes = size_t(operand.any + 1 - operand.flags) * sizeof(int32_t);
  return from_cuda(cudaMemsetAsync(const_cast<int32_t*>(operand.flags), 0, bytes, context->stream), "clearing flags");
}

Status split(Context* context, const SplitOperand& operand, OperandKind kind, const View& x) {
  if (is_scaled(kind)) {
    const Status status = clear_flags(context, operand);
    if (status.failed()) return status;
  }
  const Planes to = Planes::of(operand);
  if (operand.in_chunks) return split_in_chunks(context, to, x);
  switch (kind) {
    case OperandKind::split: return split_as<OperandKind::split>(context, to, x);
    case OperandKind::high_only: return split_as<OperandKind::high_only>(context, to, x);
    case OperandKind::float16: return split_as<OperandKind::float16>(context, to, x);
    default: return split_as<OperandKind::bfloat16>(context, to, x);
  }
}

int64_t planes_bytes(Context* context, int64_t rows, int64_t k, DType dtype) {
  if (!splits_float32(context) || dtype != DType::float32 || rows == 0 || k == 0 || k % kSplitChunk != 0) return 0;
  return int64_t(split_operand_bytes(OperandKind::split, OperandSide::left, 1, rows, k));
}

SplitOperand planes_in(const View& memory, int64_t rows, int64_t k) {
  return split_operand_in(memory.data, OperandKind::split, OperandSide::left, 1, rows, k);
}

namespace {

View as_matrix(const View& x, int64_t rows, int64_t k) {
  if (x.rank == 2 && x.shape[1] == k) return x;
  View matrix = x;
  matrix.rank = 2;
  matrix.shape[0] = rows;
  matrix.shape[1] = matrix.stride[0] = k;
  matrix.stride[1] = 1;
  return matrix;
}

}  // namespace

Status write_planes(Context* context, const View& memory, const View& x, int64_t rows, int64_t k) {
  return split(context, planes_in(memory, rows, k), OperandKind::split, as_matrix(x, rows, k));
}

Status rewrite_planes(Context* context, const View& memory, const View& x, int64_t rows, int64_t k,
                      const int32_t* any_a, const int32_t* any_b) {
  const Planes planes = Planes::of(planes_in(memory, rows, k));
  const Condition condition = {any_a, any_b};
  const int64_t flags = planes.any + 1 - planes.flags;
  const int64_t blocks = min64(ceil_div(flags, kThreads), context->multiprocessors);
  LAUNCH(clear_flags_kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, context->stream, planes.flags, flags,
         condition);
  return split_rows_in_chunks(context, planes, as_matrix(x, rows, k), condition);
}

}  // namespace sonde
