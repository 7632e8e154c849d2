// Splits matrices into the 16-bit parts of operands. Two kernels: one for matrices that lie side by side along K, one for columns of a
// row-major matrix, which go through shared memory in squares.
#include "split_operand.cuh"

#include "rows.cuh"

namespace sonde {

namespace {

constexpr float kLowScale = 2048;

struct Target {
  uint16_t* high;
  uint16_t* low;
  float* scale;
  int32_t* flags;
  int64_t rows, k, pitch;
};

// 2^s that brings `largest` to [2^13, 2^14), or 0 where none within 2^-60 and 2^60 does
SONDE_DEVICE float factor_for(float largest) {
  if (largest == 0) return 1;
  const int exponent = (__float_as_int(largest) >> 23 & 255) - 127, s = 13 - exponent;
  return largest <= 3.4028234e38f && s >= -60 && s <= 60 ? __int_as_float((127 + s) << 23) : 0.0f;
}

// the largest magnitude; NaN counts as infinite
SONDE_DEVICE float larger(float a, float x) {
  const float size = x != x ? INFINITY : fabsf(x);
  return size > a ? size : a;
}

template <OperandKind kind>
SONDE_DEVICE void split_element(float x, float factor, uint16_t& high, uint16_t& low) {
  low = 0;
  if constexpr (kind == OperandKind::bfloat16) {
    high = float_to_bf16(x);
  } else if constexpr (kind == OperandKind::float16) {
    high = float_to_half(x);
  } else {
    const float scaled = factor == 0 ? 0.0f : x * factor;
    high = float_to_half(scaled);
    if constexpr (kind == OperandKind::split) low = float_to_half((scaled - half_to_float(high)) * kLowScale);
  }
}

SONDE_DEVICE void put4(uint16_t* to, const uint16_t (&x)[4]) {
  uint2 four;
  four.x = uint32_t(x[0]) | uint32_t(x[1]) << 16;
  four.y = uint32_t(x[2]) | uint32_t(x[3]) << 16;
  *reinterpret_cast<uint2*>(to) = four;
}

SONDE_DEVICE void put_scale(const Target& to, int64_t row, float factor) {
  to.scale[row] = factor == 0 ? 1.0f : 1.0f / factor;
  to.flags[row] = factor == 0;
}

// A group of threads takes a row, four elements a thread at a time: the pitch is a multiple of eight.
template <OperandKind kind, class E, class G>
__global__ void __launch_bounds__(kRowThreads, 2) split_rows_kernel(Target to, E x, Rows rows, bool aligned) {
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
    factor = factor_for(G::max(largest));
    if (G::rank() == 0) put_scale(to, i, factor);
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
    split_columns_kernel(Target to, AnyElements x, Positions<1> matrices, int64_t blocks, int64_t k_stride) {
  constexpr int kHeight = kRowThreads / kSquare;
  SHARED(float, square, [kSquare][kSquare + 1]);
  SHARED(float, maxima, [kHeight][kSquare]);
  int64_t offset[1];
  matrices.at(blockIdx.x / blocks, offset);
  const int lane = int(threadIdx.x) % kSquare, warp = int(threadIdx.x) / kSquare;
  const int64_t first = blockIdx.x % blocks * kSquare, row0 = blockIdx.x / blocks * to.rows + first;
  const bool inside = first + lane < to.rows;
  const int64_t column = offset[0] + first + lane;
  float largest = 0;
  if constexpr (is_scaled(kind)) {
    for (int64_t j = warp; inside && j < to.k; j += kHeight) largest = larger(largest, x.get(column + j * k_stride));
    maxima[warp][lane] = largest;
    __syncthreads();
    for (int i = 0; i < kHeight; ++i) largest = maxima[i][lane] > largest ? maxima[i][lane] : largest;
    if (inside && warp == 0) put_scale(to, row0 + lane, factor_for(largest));
  }
  for (int64_t j0 = 0; j0 < to.pitch; j0 += kSquare) {
    __syncthreads();
    for (int j = warp; j < kSquare; j += kHeight) {
      square[j][lane] = inside && j0 + j < to.k ? x.get(column + (j0 + j) * k_stride) : 0.0f;
    }
    if constexpr (is_scaled(kind)) {
      if (warp == 0) maxima[0][lane] = factor_for(largest);
    }
    __syncthreads();
    for (int r = warp; r < kSquare; r += kHeight) {
      if (first + r >= to.rows || j0 + lane >= to.pitch) continue;
      const int64_t at = (row0 + r) * to.pitch + j0 + lane;
      uint16_t high, low;
      split_element<kind>(square[lane][r], is_scaled(kind) ? maxima[0][r] : 1.0f, high, low);
      to.high[at] = high;
      if constexpr (kind == OperandKind::split) to.low[at] = low;
    }
  }
}

template <OperandKind kind>
Status split_as(Context* context, const Target& to, const View& x) {
  const int64_t k_stride = x.stride[x.rank - 1], row_stride = x.stride[x.rank - 2];
  if (row_stride == 1 && k_stride != 1) {
    const View* const views[] = {&x};
    const auto matrices = positions(views, 2);
    const int64_t blocks = ceil_div(to.rows, kSquare);
    if (matrices.count * blocks == 0) return {};
    LAUNCH((split_columns_kernel<kind>), dim3(unsigned(matrices.count * blocks)), dim3(kRowThreads), 0, context->stream,
           to, AnyElements::of(x), matrices, blocks, k_stride);
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

}  // namespace

size_t split_operand_bytes(OperandKind kind, int64_t batch, int64_t rows, int64_t k) {
  const int64_t part = round_up(batch * rows * round_up(k, 8) * 2, 256);
  return size_t(part_count(kind) * part + (is_scaled(kind) ? 2 * round_up(batch * rows * 4, 256) : 0));
}

SplitOperand split_operand_in(void* memory, OperandKind kind, int64_t batch, int64_t rows, int64_t k) {
  SplitOperand operand;
  operand.rows = rows;
  operand.k = k;
  operand.pitch = round_up(k, 8);
  operand.batch = batch;
  char* at = static_cast<char*>(memory);
  const int64_t part = round_up(batch * rows * operand.pitch * 2, 256);
  operand.high = reinterpret_cast<uint16_t*>(at);
  at += part;
  if (kind == OperandKind::split) {
    operand.low = reinterpret_cast<uint16_t*>(at);
    at += part;
  }
  if (is_scaled(kind)) {
    operand.scale = reinterpret_cast<float*>(at);
    operand.flags = reinterpret_cast<int32_t*>(at + round_up(batch * rows * 4, 256));
  }
  return operand;
}

Status split(Context* context, const SplitOperand& operand, OperandKind kind, const View& x) {
  const Target to = {const_cast<uint16_t*>(operand.high),
                     const_cast<uint16_t*>(operand.low),
                     const_cast<float*>(operand.scale),
                     const_cast<int32_t*>(operand.flags),
                     operand.rows,
                     operand.k,
                     operand.pitch};
  switch (kind) {
    case OperandKind::split: return split_as<OperandKind::split>(context, to, x);
    case OperandKind::high_only: return split_as<OperandKind::high_only>(context, to, x);
    case OperandKind::float16: return split_as<OperandKind::float16>(context, to, x);
    default: return split_as<OperandKind::bfloat16>(context, to, x);
  }
}

}  // namespace sonde
