// Chooses an index from each row, by random numbers from probabilities, or the largest of logits. A block takes a row.
#include "ranking.cuh"
#include "rows.cuh"

namespace sonde {

namespace {

using Block = Group<kRowThreads>;

struct Choice {
  int32_t* to;
  int64_t rows;
  SONDE_DEVICE void set(int64_t row, bool chosen, int64_t index) const {
    to[row] = chosen ? int32_t(index) : 0;
    to[rows + row] = chosen;
  }
};

constexpr int kTile = 1024;  // probabilities
constexpr int kStep = 8;     // differences between two jumps
static_assert(kTile % kStep == 0);

// The first of `count` probabilities after which less than 0 is left; -1 if there is none. kStep of them are subtracted
// before any is looked at: a difference waits for the one before it, and for nothing else.
SONDE_DEVICE int first_below(const double* probs, int count, double* left) {
  double x = *left;
  int i = 0;
  for (; i + kStep <= count; i += kStep) {
    int first = kStep;
    double after = x;
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      after -= probs[i + j];
      if (after < 0 && first == kStep) first = j;
    }
    if (first < kStep) return i + first;
    x = after;
  }
  for (; i < count; ++i) {
    x -= probs[i];
    if (x < 0) return i;
  }
  *left = x;
  return -1;
}

// Thread 0 subtracts one tile while the warps after its own fetch the next one.
__global__ void __launch_bounds__(kRowThreads)
    draw_kernel(Choice out, const float* x, int64_t stride, int64_t n, const int32_t* random) {
  SHARED(double, tiles, [2][kTile]);
  SHARED(int, found, [2]);
  const int64_t row = blockIdx.x;
  const float* probs = x + row * stride;
  const auto fetch = [&](int64_t first, double* tile, int rank, int threads) {
    for (int i = rank; i < kTile && first + i < n; i += threads) tile[i] = double(probs[first + i]);
  };
  fetch(0, tiles[0], int(threadIdx.x), kRowThreads);
  const double high = random[2 * row], low = random[2 * row + 1];
  double left = (high * 67108864.0 + low) * 0x1p-53;
  __syncthreads();
  const double head = tiles[0][0];
  if (head != head) {
    if (threadIdx.x == 0) out.set(row, false, 0);
    return;
  }
  for (int64_t first = 0; first < n; first += kTile) {
    const int side = int(first / kTile % 2);
    if (threadIdx.x == 0) {
      const int64_t rest = n - first;
      found[side] = first_below(tiles[side], int(rest < kTile ? rest : kTile), &left);
    } else if (threadIdx.x >= kWarp) {
      fetch(first + kTile, tiles[side ^ 1], int(threadIdx.x) - kWarp, kRowThreads - kWarp);
    }
    __syncthreads();
    // The next tile's answer has a place of its own, as some threads may still read this one.
    if (found[side] < 0) continue;
    if (threadIdx.x == 0) out.set(row, true, first + found[side]);
    return;
  }
  // by rounding, they sum to less than 1
  int64_t last = 0;
  for (int64_t i = threadIdx.x; i < n; i += kRowThreads) last = probs[i] != 0 ? i : last;
  last = Block::all(last, [](int64_t a, int64_t b) { return a > b ? a : b; });
  if (threadIdx.x == 0) out.set(row, true, last);
}

__global__ void __launch_bounds__(kRowThreads) greedy_kernel(Choice out, const float* x, int64_t stride, int64_t n) {
  const int64_t row = blockIdx.x;
  const float* logits = x + row * stride;
  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < n; i += kRowThreads) {
    const uint64_t here = candidate(key_of(logits[i]), i);
    best = here > best ? here : best;
  }
  best = Block::all(best, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  const float largest = float_of(key_of(best));  // NaN is above all
  if (threadIdx.x == 0) out.set(row, largest > -INFINITY && largest < INFINITY, index_of(best));
}

}  // namespace

Status choose_index(Context* context, Out out, In x, In random) {
  const int64_t rows = x.shape[0], n = x.shape[1];
  if (rows == 0) return {};
  const Choice choice = {static_cast<int32_t*>(out.data), rows};
  const auto* from = static_cast<const float*>(x.data);
  const dim3 grid(unsigned(rows), 1, 1), block(kRowThreads);
  if (random.data) {
    LAUNCH(draw_kernel, grid, block, 0, context->stream, choice, from, x.stride[0], n,
           static_cast<const int32_t*>(random.data));
  } else {
    LAUNCH(greedy_kernel, grid, block, 0, context->stream, choice, from, x.stride[0], n);
  }
  return {};
}

}  // namespace sonde
