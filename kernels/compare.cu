// Comparisons of two elements, as bool: in float32, or in int32 where both sides are int32, or exactly where integers or bools are
// compared with a number.
#include "elements.cuh"

namespace sonde {

namespace {

template <class T>
SONDE_DEVICE bool compared(T a, T b, CompareKind kind) {
  switch (kind) {
    case CompareKind::eq: return a == b;
    case CompareKind::ne: return a != b;
    case CompareKind::lt: return a < b;
    case CompareKind::le: return a <= b;
    case CompareKind::gt: return a > b;
    case CompareKind::ge: return a >= b;
    case CompareKind::logical_and: return a != T(0) && b != T(0);
    default: return a != T(0) || b != T(0);
  }
}

struct Int32 {
  const int32_t* data;
  static Int32 of(const View& view) { return {static_cast<const int32_t*>(view.data)}; }
  SONDE_DEVICE int32_t get(int64_t at) const { return data[at]; }
};
// int32 or bool as double
struct Exact {
  const void* data;
  bool integers;
  static Exact of(const View& view) { return {view.data, view.dtype == DType::int32}; }
  SONDE_DEVICE double get(int64_t at) const {
    return integers ? double(static_cast<const int32_t*>(data)[at])
                    : double(static_cast<const uint8_t*>(data)[at] != 0);
  }
};
template <class T>
struct Number {
  T value;
  SONDE_DEVICE T get(int64_t) const { return value; }
};

// a number, rounded to the dtype of the elements beside it
template <class E>
struct Rounded {
  E beside;
  float value;
  SONDE_DEVICE float get(int64_t) const { return beside.rounded(value); }
};

template <class A, class B>
__global__ void __launch_bounds__(kThreads)
    compare_kernel(uint8_t* out, A a, B b, Positions<3> positions, CompareKind kind) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= positions.count) return;
  int64_t offset[3];
  positions.at(i, offset);
  out[offset[0]] = compared(a.get(offset[1]), b.get(offset[2]), kind);
}

template <class A, class B>
Status run(Context* context, const View& out, const View& a, const View& b, A left, B right, CompareKind kind) {
  const View* const views[] = {&out, &a, &b};
  const auto where = positions(views);
  if (where.count == 0) return {};
  LAUNCH((compare_kernel<A, B>), dim3(unsigned(ceil_div(where.count, kThreads))), dim3(kThreads), 0, context->stream,
         static_cast<uint8_t*>(out.data), left, right, where, kind);
  return {};
}

}  // namespace

Status compare(Context* context, Out out, In a, In b, CompareKind kind) {
  if (a.dtype == DType::int32 && b.dtype == DType::int32) {
    return run(context, out, a, b, Int32::of(a), Int32::of(b), kind);
  }
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        return run(context, out, a, b, E::of(a), E::of(b), kind);
      },
      a, b);
}

Status compare_scalar(Context* context, Out out, In a, double b, CompareKind kind) {
  if (a.dtype == DType::int32 || a.dtype == DType::boolean) {
    return run(context, out, a, a, Exact::of(a), Number<double>{b}, kind);
  }
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        return run(context, out, a, a, E::of(a), Rounded<E>{E::of(a), float(b)}, kind);
      },
      a);
}

}  // namespace sonde
