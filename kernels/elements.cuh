// Elements of any dtype as float32, at any stride. A kernel is compiled for operands that are all float32, bfloat16 or float16, and
// once for any mix of dtypes, which checks the dtype at each access.
#pragma once
#include "context.h"

namespace sonde {

SONDE_DEVICE float bf16_to_float(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
// truncated and held inside int32's range; NaN is 0
SONDE_DEVICE int32_t float_to_int32(float x) {
  return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : int32_t(x);
}

template <class T>
struct Format;
template <>
struct Format<float> {
  static SONDE_DEVICE float widen(float x) { return x; }
  static SONDE_DEVICE float narrow(float x) { return x; }
};
struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
template <>
struct Format<Bf16> {
  static SONDE_DEVICE float widen(Bf16 x) { return bf16_to_float(x.bits); }
  static SONDE_DEVICE Bf16 narrow(float x) { return {float_to_bf16(x)}; }
  static SONDE_DEVICE uint32_t narrow2(float low, float high) { return pair_bf16(low, high); }
};
template <>
struct Format<Half> {
  static SONDE_DEVICE float widen(Half x) { return half_to_float(x.bits); }
  static SONDE_DEVICE Half narrow(float x) { return {float_to_half(x)}; }
  static SONDE_DEVICE uint32_t narrow2(float low, float high) { return pair_half(low, high); }
};

// 16 bytes of elements side by side, from a multiple of 16 bytes on.
template <class T>
struct Chunk {
  static constexpr int size = 16 / int(sizeof(T));
  uint4 words;

  SONDE_DEVICE static Chunk load(const T* from, unsigned wanted = 1) { return {load_global16_if(from, wanted)}; }
  SONDE_DEVICE static Chunk load_shared(const T* from) { return {load_shared16(from)}; }
  SONDE_DEVICE void store(T* to, unsigned wanted = 1) const { store_global16_if(to, words, wanted); }
  SONDE_DEVICE void get(float (&to)[size]) const {
    const uint32_t x[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < size; ++i) {
      if constexpr (sizeof(T) == 4) to[i] = __uint_as_float(x[i]);
      else to[i] = Format<T>::widen({uint16_t(x[i / 2] >> (i % 2 * 16))});
    }
  }
  SONDE_DEVICE static Chunk of(const float (&from)[size]) {
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) x[i] = __float_as_uint(from[i]);
      else x[i] = Format<T>::narrow2(from[2 * i], from[2 * i + 1]);
    }
    return {{x[0], x[1], x[2], x[3]}};
  }
};

template <class T>
struct alignas(4 * sizeof(T)) Quad {
  T x[4];
};

// Memory of elements T. Offsets are in elements.
template <class T>
struct Elements {
  T* data;

  static Elements of(const View& view) { return {static_cast<T*>(view.data)}; }
  SONDE_DEVICE float get(int64_t at) const { return Format<T>::widen(data[at]); }
  SONDE_DEVICE void set(int64_t at, float value) const { data[at] = Format<T>::narrow(value); }
  // the value that set() stores for `value`
  SONDE_DEVICE float rounded(float value) const { return Format<T>::widen(Format<T>::narrow(value)); }
  // four side by side, from a multiple of four on
  SONDE_DEVICE void get4(float (&to)[4], int64_t at) const {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(data + at);
    for (int i = 0; i < 4; ++i) to[i] = Format<T>::widen(quad.x[i]);
  }
  SONDE_DEVICE void set4(int64_t at, const float (&from)[4]) const {
    Quad<T> quad;
    for (int i = 0; i < 4; ++i) quad.x[i] = Format<T>::narrow(from[i]);
    *reinterpret_cast<Quad<T>*>(data + at) = quad;
  }
  static bool aligned(const View& view) { return reinterpret_cast<uintptr_t>(view.data) % sizeof(Quad<T>) == 0; }
};

template <class E>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<Elements<Bf16>> = true;

// Memory of a dtype that is known when the kernel runs.
struct AnyElements {
  void* data;
  DType dtype;

  static AnyElements of(const View& view) { return {view.data, view.dtype}; }
  SONDE_DEVICE float get(int64_t at) const {
    switch (dtype) {
      case DType::float32: return static_cast<const float*>(data)[at];
      case DType::bfloat16: return bf16_to_float(static_cast<const uint16_t*>(data)[at]);
      case DType::float16: return half_to_float(static_cast<const uint16_t*>(data)[at]);
      case DType::int32: return float(static_cast<const int32_t*>(data)[at]);
      default: return static_cast<const uint8_t*>(data)[at] ? 1.0f : 0.0f;
    }
  }
  SONDE_DEVICE void set(int64_t at, float value) const {
    switch (dtype) {
      case DType::float32: static_cast<float*>(data)[at] = value; return;
      case DType::bfloat16: static_cast<uint16_t*>(data)[at] = float_to_bf16(value); return;
      case DType::float16: static_cast<uint16_t*>(data)[at] = float_to_half(value); return;
      case DType::int32: static_cast<int32_t*>(data)[at] = float_to_int32(value); return;
      default: static_cast<uint8_t*>(data)[at] = value != 0; return;
    }
  }
  SONDE_DEVICE float rounded(float value) const {
    if (dtype == DType::bfloat16) return bf16_to_float(float_to_bf16(value));
    if (dtype == DType::float16) return half_to_float(float_to_half(value));
    return value;
  }
  SONDE_DEVICE void get4(float (&to)[4], int64_t at) const {
    for (int i = 0; i < 4; ++i) to[i] = get(at + i);
  }
  SONDE_DEVICE void set4(int64_t at, const float (&from)[4]) const {
    for (int i = 0; i < 4; ++i) set(at + i, from[i]);
  }
  static bool aligned(const View&) { return true; }
};

template <class E>
constexpr bool kIsAny = false;
template <>
constexpr bool kIsAny<AnyElements> = true;

// Calls body(Elements<T>()) for the dtype that all the views have, or body(AnyElements()) for a mix.
template <class Body, class... Views>
Status with_elements(Body body, const View& first, const Views&... others) {
  const bool alike = ((others.dtype == first.dtype) && ...);
  if (alike && first.dtype == DType::float32) return body(Elements<float>());
  if (alike && first.dtype == DType::bfloat16) return body(Elements<Bf16>());
  if (alike && first.dtype == DType::float16) return body(Elements<Half>());
  return body(AnyElements());
}

// ---- positions in strided views of one shape

template <int kViews>
struct Positions {
  int rank;
  int64_t count;
  int64_t shape[kMaxRank];
  int64_t stride[kViews][kMaxRank];

  // the offset of element i in each view
  SONDE_DEVICE void at(int64_t i, int64_t (&offset)[kViews]) const {
    for (int v = 0; v < kViews; ++v) offset[v] = 0;
    if (count <= INT32_MAX) {  // 32-bit division is several times faster
      auto rest = uint32_t(i);
      for (int d = rank - 1; d >= 0; --d) {
        const auto n = uint32_t(shape[d]);
        const uint32_t next = d > 0 ? rest / n : 0, here = rest - next * n;
        for (int v = 0; v < kViews; ++v) offset[v] += int64_t(here) * stride[v][d];
        rest = next;
      }
      return;
    }
    int64_t rest = i;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t next = d > 0 ? rest / shape[d] : 0, here = rest - next * shape[d];
      for (int v = 0; v < kViews; ++v) offset[v] += here * stride[v][d];
      rest = next;
    }
  }
};

// Dimensions of 1 are dropped, neighbours that lie together in every view are joined; the last `kept` dimensions are left out.
template <int kViews>
Positions<kViews> positions(const View* const (&views)[kViews], int kept = 0) {
  Positions<kViews> out = {};
  out.count = 1;
  const View& first = *views[0];
  for (int d = 0; d + kept < first.rank; ++d) {
    const int64_t n = first.shape[d];
    out.count *= n;
    if (n == 1) continue;
    bool joins = out.rank > 0;
    for (int v = 0; joins && v < kViews; ++v) joins = out.stride[v][out.rank - 1] == n * views[v]->stride[d];
    if (!joins) ++out.rank;
    out.shape[out.rank - 1] = joins ? out.shape[out.rank - 1] * n : n;
    for (int v = 0; v < kViews; ++v) out.stride[v][out.rank - 1] = views[v]->stride[d];
  }
  return out;
}

constexpr unsigned kThreads = 256;  // of a block, where nothing else is said
constexpr int64_t kGridLimit = INT32_MAX;

// ---- out = function(inputs), element by element

template <class E, int kInputs>
struct Operands {
  E out;
  E in[kInputs];
};

// All views contiguous: four elements a thread.
template <class E, int kInputs, class Function>
__global__ void __launch_bounds__(kThreads) map_flat(Operands<E, kInputs> x, int64_t count, Function function) {
  const int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at + 4 <= count) {
    float in[kInputs][4], out[4];
    for (int j = 0; j < kInputs; ++j) x.in[j].get4(in[j], at);
    for (int i = 0; i < 4; ++i) {
      float arguments[kInputs];
      for (int j = 0; j < kInputs; ++j) arguments[j] = in[j][i];
      out[i] = function(arguments);
    }
    x.out.set4(at, out);
    return;
  }
  for (int64_t i = at; i < count; ++i) {
    float arguments[kInputs];
    for (int j = 0; j < kInputs; ++j) arguments[j] = x.in[j].get(i);
    x.out.set(i, function(arguments));
  }
}

template <class E, int kInputs, class Function>
__global__ void __launch_bounds__(kThreads)
    map_strided(Operands<E, kInputs> x, Positions<kInputs + 1> positions, Function function) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[kInputs + 1];
  positions.at(i, offset);
  float arguments[kInputs];
  for (int j = 0; j < kInputs; ++j) arguments[j] = x.in[j].get(offset[j + 1]);
  x.out.set(offset[0], function(arguments));
}

// function(const float (&)[inputs]) -> float
template <class Function, class... Views>
Status map(Context* context, Function function, const View& out, const Views&... inputs) {
  constexpr int kInputs = sizeof...(Views);
  const View* const views[kInputs + 1] = {&out, &inputs...};
  const auto where = positions(views);
  if (where.count == 0) return {};
  bool flat = is_contiguous(out) && (is_contiguous(inputs) && ...);
  if (ceil_div(where.count, kThreads) > kGridLimit)
    return fail("a tensor of %lld elements is too large", (long long)where.count);
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const Operands<E, kInputs> operands = {E::of(out), {E::of(inputs)...}};
        if (flat && E::aligned(out) && (E::aligned(inputs) && ...)) {
          LAUNCH((map_flat<E, kInputs, Function>), dim3(unsigned(ceil_div(where.count, kThreads * 4))), dim3(kThreads),
                 0, context->stream, operands, where.count, function);
        } else {
          LAUNCH((map_strided<E, kInputs, Function>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads),
                 0, context->stream, operands, where, function);
        }
        return Status();
      },
      out, inputs...);
}

}  // namespace sonde
