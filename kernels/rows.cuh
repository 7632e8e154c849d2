// Kernels over rows, the last dimension of a strided view: a group of threads takes a row, a warp where it is short. What is
// added up is added in double precision, in an order that depends on the row's length alone: these kernels wait for memory, so
// that GPUs with few units for doubles lose little.
#pragma once
#include "elements.cuh"

namespace sonde {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kRowThreads = 256;     // of a block
constexpr int64_t kShortRow = 1024;  // up to here a warp takes a row

struct Row {
  int64_t offset;  // of its first element
  int64_t stride;
};

// The rows of a view, and how long they are.
struct Rows {
  Positions<1> positions;
  int64_t length, stride;

  static Rows of(const View& view) {
    const View* const views[] = {&view};
    return {sonde::positions(views, view.rank ? 1 : 0), last_dimension(view), last_stride(view)};
  }
  SONDE_DEVICE Row row(int64_t i) const {
    int64_t offset[1];
    positions.at(i, offset);
    return {offset[0], stride};
  }
};

// The threads that share a row: 32 (a warp) or 256 (a block). All of them take part in each call.
template <int kSize>
struct Group {
  static constexpr int size = kSize;
  static constexpr int per_block = kRowThreads / kSize;
  SONDE_DEVICE static int rank() { return int(threadIdx.x) % kSize; }
  SONDE_DEVICE static int64_t row() { return int64_t(blockIdx.x) * per_block + int(threadIdx.x) / kSize; }

  template <class T, class Combine>
  SONDE_DEVICE static T all(T value, Combine combine) {
    for (int step = kWarp / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(kAll, value, step));
    if constexpr (kSize > kWarp) {
      constexpr int kWarps = kSize / kWarp;
      SHARED(T, parts, [kWarps]);
      __syncthreads();  // the parts of the call before may still be read
      if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = parts[0];
      for (int i = 1; i < kWarps; ++i) value = combine(value, parts[i]);
    }
    return value;
  }
  SONDE_DEVICE static double sum(double value) {
    return all(value, [](double a, double b) { return a + b; });
  }
  SONDE_DEVICE static float max(float value) {
    return all(value, [](float a, float b) { return b > a ? b : a; });
  }
};

// body(Group<32>()) or body(Group<256>()), by the rows' length
template <class Body>
void with_group(int64_t length, Body body) {
  if (length <= kShortRow) body(Group<kWarp>());
  else body(Group<kRowThreads>());
}

template <class G>
dim3 row_grid(int64_t rows) {
  return dim3(unsigned(ceil_div(rows, G::per_block)));
}

}  // namespace sonde
