// Finds the lowest index of each row's largest or smallest value.
#include "extremes.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kPart = 4096;  // elements of a row at a time: they stay in the first-level cache

int64_t first_extreme(const int32_t* x, int64_t n, int64_t stride, bool smallest) {
  int64_t index = 0;
  int32_t best = x[0];
  for (int64_t i = 0; i < n; ++i) {
    const int32_t value = x[i * stride];
    if (smallest ? value >= best : value <= best) continue;
    best = value;
    index = i;
  }
  return index;
}

int64_t index_of(const float* x, float value) {
  int64_t i = 0;
  while (x[i] != value) ++i;
  return i;
}

int64_t first_extreme(const char* from, DType dtype, int64_t stride, int64_t n, float* scratch, bool smallest) {
  int64_t index = 0;
  float best = smallest ? INFINITY : -INFINITY;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t count = min64(kPart, n - begin);
    const float* x = read_row(from + begin * stride * dtype_size(dtype), dtype, stride, count, scratch);
    if (has_nan(x, count)) {
      int64_t i = 0;
      while (x[i] == x[i]) ++i;
      return begin + i;
    }
    const float here = smallest ? min_row(x, count) : max_row(x, count);
    if (smallest ? here >= best : here <= best) continue;
    best = here;
    index = begin + index_of(x, here);
  }
  return index;
}

// ---- rows that lie side by side

constexpr int64_t kBeside = 256;  // of them together, at most

// Whether b takes the place of a, an element before it. NaN is above all, and below all.
template <class T>
SONDE_INLINE auto is_better(T b, T a, bool smallest) {
  return (smallest ? b < a : b > a) | ((b != b) & (a == a));
}

// Sees element i of `width` rows.
template <class T, class Vector>
SONDE_INLINE void see(const T* x, int32_t i, T* best, int32_t* index, int64_t width, bool smallest) {
  int64_t j = 0;
  for (; j + kWidth <= width; j += kWidth) {
    const Vector here = load(x + j), before = load(best + j);
    const vi better = is_better(here, before, smallest);
    *reinterpret_cast<Vector*>(best + j) = better ? here : before;
    *reinterpret_cast<vi*>(index + j) = better ? vi{} + i : load(index + j);
  }
  for (; j < width; ++j) {
    if (!is_better(x[j], best[j], smallest)) continue;
    best[j] = x[j];
    index[j] = i;
  }
}

void find_beside(int32_t* to, const char* from, const View& x, int64_t width, bool smallest) {
  const int64_t n = last_dimension(x), step = last_stride(x) * dtype_size(x.dtype);
  alignas(64) int32_t index[kBeside] = {};
  if (x.dtype == DType::int32) {
    alignas(64) int32_t best[kBeside];
    memcpy(best, from, size_t(width) * 4);
    for (int64_t i = 1; i < n; ++i) {
      const auto* here = reinterpret_cast<const int32_t*>(from + i * step);
      if (smallest) see<int32_t, vi>(here, int32_t(i), best, index, width, true);
      else see<int32_t, vi>(here, int32_t(i), best, index, width, false);
    }
  } else {
    alignas(64) float best[kBeside], wide[kBeside];
    memcpy(best, read_row(from, x.dtype, 1, width, wide), size_t(width) * 4);
    for (int64_t i = 1; i < n; ++i) {
      const float* here = read_row(from + i * step, x.dtype, 1, width, wide);
      if (smallest) see<float, vf>(here, int32_t(i), best, index, width, true);
      else see<float, vf>(here, int32_t(i), best, index, width, false);
    }
  }
  memcpy(to, index, size_t(width) * 4);
}

}  // namespace

Status argmax(Context* context, Out out, In x, bool smallest) {
  const int64_t n = last_dimension(x), stride = last_stride(x);
  auto* to = static_cast<int32_t*>(out.data);
  if (x.rank >= 2 && x.stride[x.rank - 2] == 1 && x.shape[x.rank - 2] > 1 && stride != 1) {
    const int64_t width = x.shape[x.rank - 2], groups = ceil_div(width, kBeside);
    each_row(context, leading_count(x, 2) * groups, n * min64(width, kBeside), [&](int64_t i, int) {
      const int64_t first = i % groups * kBeside, row = i / groups * width + first;
      find_beside(to + row, row_at(x, row), x, min64(kBeside, width - first), smallest);
    });
    return {};
  }
  if (!reserve_rows(context, 1, kPart)) return out_of_memory("a part of a row");
  each_row(context, element_count(out), n, [&](int64_t row, int thread) {
    const char* from = row_at(x, row);
    const int64_t index =
        x.dtype == DType::int32
            ? first_extreme(reinterpret_cast<const int32_t*>(from), n, stride, smallest)
            : first_extreme(from, x.dtype, stride, n, row_scratch(context, thread, 1, kPart, 0), smallest);
    to[row] = int32_t(index);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
