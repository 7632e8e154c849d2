// Kernels that go through views of one shape element by element. The views are cut into parts: a part is a piece of a
// row, short enough for its copies to stay in the first-level cache.
#pragma once
#include "rows.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kPartLength = 4096;  // elements

// ---- results that no cache holds: whole lines are written to memory without being read first, which would be a third
// of the traffic of out = function(x)

constexpr int64_t kStreamed = int64_t(16) << 20;  // bytes; a smaller result is often read while a cache still has it

// Copies bytes past the caches.
inline void stream(char* to, const char* from, int64_t bytes) {
#if defined(__SSE2__)
  constexpr int64_t kLine = 64;
  const int64_t head = min64(bytes, (kLine - int64_t(reinterpret_cast<uintptr_t>(to) % kLine)) % kLine);
  memcpy(to, from, size_t(head));
  int64_t i = head;
  for (; i + kLine <= bytes; i += kLine) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
    const auto* p = reinterpret_cast<const __m256i*>(from + i);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), _mm256_loadu_si256(p));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + 32), _mm256_loadu_si256(p + 1));
#else
    const auto* p = reinterpret_cast<const __m128i*>(from + i);
    for (int j = 0; j < 4; ++j) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j * 16), _mm_loadu_si128(p + j));
    }
#endif
  }
  memcpy(to + i, from + i, size_t(bytes - i));
  _mm_sfence();  // other threads see these bytes before they see that the task is done
#else
  memcpy(to, from, size_t(bytes));
#endif
}

// ---- parts

template <int kViews>
struct Part {
  char* at[kViews];  // the first element
  int64_t stride[kViews];
  DType dtype[kViews];
  int64_t count;
  int64_t first;  // the number of the first element, in the order in which each_part goes through them
  bool streamed;  // whether the first view's elements are to be written by stream()
  Context* context;
  int thread;

  // kPartLength floats for each view
  SONDE_INLINE float* scratch(int view) const { return row_scratch(context, thread, kViews, kPartLength, view); }
  // the elements as float32: in place, or a copy in the view's scratch
  SONDE_INLINE const float* read(int view) const {
    const bool direct = dtype[view] == DType::float32 && (stride[view] == 1 || count == 1);
    if (direct) return reinterpret_cast<const float*>(at[view]);
    return read_row(at[view], dtype[view], stride[view], count, scratch(view));
  }
  // where the float32 results go before write(): the first view itself where it can hold them, else its scratch
  SONDE_INLINE float* results() const {
    const bool direct = dtype[0] == DType::float32 && stride[0] == 1 && !streamed;
    return direct ? reinterpret_cast<float*>(at[0]) : scratch(0);
  }
  // Writes results to the first view. What was read through another view's scratch is gone if they are streamed.
  SONDE_INLINE void write(const float* results) const {
    if (!streamed) return write_row(at[0], dtype[0], stride[0], count, results);
    if (dtype[0] != DType::float32) {
      float* narrowed = results == scratch(0) ? scratch(1) : scratch(0);
      narrow(narrowed, results, dtype[0], count);
      results = narrowed;
    }
    stream(at[0], reinterpret_cast<const char*>(results), count * dtype_size(dtype[0]));
  }
};

enum class Order { row_major, of_memory };

// Brings the dimensions of all views in descending order of the first one's strides.
template <int kViews>
void sort_dimensions(View (&views)[kViews]) {
  View& first = views[0];
  for (int d = 1; d < first.rank; ++d) {
    for (int i = d; i > 0 && first.stride[i - 1] < first.stride[i]; --i) {
      for (View& view : views) {
        const int64_t n = view.shape[i], stride = view.stride[i];
        view.shape[i] = view.shape[i - 1], view.stride[i] = view.stride[i - 1];
        view.shape[i - 1] = n, view.stride[i - 1] = stride;
      }
    }
  }
}

// Joins dimensions that lie together in every view.
template <int kViews>
void join_dimensions(View (&views)[kViews]) {
  View& first = views[0];
  int rank = 0;
  for (int d = 0; d < first.rank; ++d) {
    const int64_t n = first.shape[d];
    if (n == 1) continue;
    bool joins = rank > 0;
    for (const View& view : views) joins = joins && view.stride[rank - 1] == n * view.stride[d];
    if (!joins) ++rank;
    for (View& view : views) {
      view.shape[rank - 1] = joins ? view.shape[rank - 1] * n : n;
      view.stride[rank - 1] = view.stride[d];
    }
  }
  for (View& view : views) view.rank = rank;
}

// The dimension, other than the last, along which a view other than the first lies side by side, while its last one is
// strided: rows of that dimension should then be read together, as they share cache lines. -1: there is none.
template <int kViews>
int crossed_dimension(const View (&views)[kViews]) {
  for (int v = 1; v < kViews; ++v) {
    const View& view = views[v];
    if (view.rank < 2 || last_stride(view) <= 1 || last_dimension(view) < 8) continue;
    for (int d = view.rank - 2; d >= 0; --d) {
      if (view.stride[d] == 1 && view.shape[d] >= 8) return d;
    }
  }
  return -1;
}

// Makes dimension d the last but one.
template <int kViews>
void move_dimension(View (&views)[kViews], int d) {
  for (View& view : views) {
    const int64_t n = view.shape[d], stride = view.stride[d];
    for (int i = d; i + 2 < view.rank; ++i) view.shape[i] = view.shape[i + 1], view.stride[i] = view.stride[i + 1];
    view.shape[view.rank - 2] = n, view.stride[view.rank - 2] = stride;
  }
}

// Calls body(part) for parts of views of one shape, side by side on several threads. The order of elements is row-major
// where that matters, else the first view's own.
template <class Body, class... Views>
Status each_part(Context* context, Order order, Body body, const Views&... all) {
  constexpr int kViews = sizeof...(Views);
  View views[kViews] = {all...};
  if (element_count(views[0]) == 0) return {};
  if (order == Order::of_memory) sort_dimensions(views);
  join_dimensions(views);
  if (!reserve_rows(context, kViews, kPartLength)) return out_of_memory("a part of a row");
  int64_t length = kPartLength, band = 1, height = 1;  // a task: a part of each of `band` rows of `height`
  const int crossed = crossed_dimension(views);
  if (crossed >= 0 && (order == Order::of_memory || crossed == views[0].rank - 2)) {
    move_dimension(views, crossed);
    length = 64;
    band = 32;
    height = views[0].shape[views[0].rank - 2];
  }
  // what is written in place was read, and short pieces of lines are no whole lines
  bool streamed = length == kPartLength && is_contiguous(views[0]) &&
                  element_count(views[0]) * dtype_size(views[0].dtype) >= kStreamed;
  for (int v = 1; v < kViews; ++v) streamed = streamed && views[v].data != views[0].data;
  const int64_t n = last_dimension(views[0]), parts = ceil_div(n, length), bands = ceil_div(height, band);
  const int64_t tasks = row_count(views[0]) / height * bands * parts;
  each_row(context, tasks, min64(n, length) * min64(height, band), [&](int64_t task, int thread) {
    const int64_t begin = task % parts * length, top = task / parts % bands * band;
    const int64_t first_row = task / parts / bands * height + top;
    Part<kViews> part;
    part.count = min64(length, n - begin);
    part.streamed = streamed;
    part.context = context;
    part.thread = thread;
    for (int v = 0; v < kViews; ++v) {
      part.dtype[v] = views[v].dtype;
      part.stride[v] = last_stride(views[v]);
    }
    for (int v = 0; v < kViews; ++v) {
      part.at[v] = row_at(views[v], first_row) + begin * part.stride[v] * dtype_size(part.dtype[v]);
    }
    part.first = first_row * n + begin;
    for (int64_t left = min64(band, height - top); left > 0; --left) {
      body(part);
      if (left == 1) break;
      for (int v = 0; v < kViews; ++v) {  // to the next row
        part.at[v] += views[v].stride[views[v].rank - 2] * dtype_size(part.dtype[v]);
      }
      part.first += n;
    }
  });
  return {};
}

// Element i of int32, in row-major order.
inline const int32_t* integer_at(const View& x, int64_t i) {
  return static_cast<const int32_t*>(x.data) + leading_offset(x, 0, i);
}

// out = function(x), element by element: the kernels of one input and one output.
template <class Function>
Status map(Context* context, const View& out, const View& x, Function function) {
  const auto body = [&](const Part<2>& part) {
    const float* in = part.read(1);
    float* results = part.results();
    map_row(results, in, part.count, function);
    part.write(results);
  };
  return each_part(context, Order::of_memory, body, out, x);
}

}  // namespace sonde::SONDE_ISA
