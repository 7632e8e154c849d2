// Comparisons of two elements, as bool. Both are compared as float32, or as int32 where both are.
#include "elements.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// kWidth bools from the lanes of a comparison, which are 0 or -1
SONDE_INLINE void store_bools(uint8_t* to, vi truth) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(__m512i(truth & 1)));
#elif defined(__AVX2__)
  const __m256i ones = __m256i(truth & 1);
  const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(ones), _mm256_extracti128_si256(ones, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(shorts, shorts));
#else
  for (int i = 0; i < kWidth; ++i) to[i] = uint8_t(truth[i] & 1);
#endif
}

// to[i] = function(a[i], b[i]); for a and b of floats or of int32
template <class T, class Function>
SONDE_INLINE void compare_row(uint8_t* to, const T* a, const T* b, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store_bools(to + i, vi(function(load(a + i), load(b + i))));
  for (; i < n; ++i) to[i] = function(a[i], b[i]) ? 1 : 0;
}

template <class T>
void compare_row(uint8_t* to, const T* a, const T* b, int64_t n, CompareKind kind) {
  switch (kind) {
    case CompareKind::eq: return compare_row(to, a, b, n, [](auto p, auto q) { return p == q; });
    case CompareKind::ne: return compare_row(to, a, b, n, [](auto p, auto q) { return p != q; });
    case CompareKind::lt: return compare_row(to, a, b, n, [](auto p, auto q) { return p < q; });
    case CompareKind::le: return compare_row(to, a, b, n, [](auto p, auto q) { return p <= q; });
    case CompareKind::gt: return compare_row(to, a, b, n, [](auto p, auto q) { return p > q; });
    case CompareKind::ge: return compare_row(to, a, b, n, [](auto p, auto q) { return p >= q; });
    case CompareKind::logical_and: return compare_row(to, a, b, n, [](auto p, auto q) { return (p != 0) & (q != 0); });
    case CompareKind::logical_or: return compare_row(to, a, b, n, [](auto p, auto q) { return (p != 0) | (q != 0); });
  }
}

// as int32 in place, or a copy in the view's scratch
const int32_t* read_integers(const Part<3>& part, int view) {
  const auto* from = reinterpret_cast<const int32_t*>(part.at[view]);
  if (part.stride[view] == 1 || part.count == 1) return from;
  auto* to = reinterpret_cast<int32_t*>(part.scratch(view));
  for (int64_t i = 0; i < part.count; ++i) to[i] = from[i * part.stride[view]];
  return to;
}

bool compare_doubles(double a, double b, CompareKind kind) {
  switch (kind) {
    case CompareKind::eq: return a == b;
    case CompareKind::ne: return a != b;
    case CompareKind::lt: return a < b;
    case CompareKind::le: return a <= b;
    case CompareKind::gt: return a > b;
    case CompareKind::ge: return a >= b;
    case CompareKind::logical_and: return a != 0 && b != 0;
    case CompareKind::logical_or: break;
  }
  return a != 0 || b != 0;
}

// Integers and bools beside a number that neither float32 nor int32 need hold.
Status compare_exactly(Context* context, const View& out, const View& a, double b, CompareKind kind) {
  const auto body = [&](const Part<2>& part) {
    for (int64_t i = 0; i < part.count; ++i) {
      const char* from = part.at[1] + i * part.stride[1] * dtype_size(a.dtype);
      const double value =
          a.dtype == DType::int32 ? double(*reinterpret_cast<const int32_t*>(from)) : double(*from != 0);
      part.at[0][i * part.stride[0]] = compare_doubles(value, b, kind);
    }
  };
  return each_part(context, Order::of_memory, body, out, a);
}

// One element, seen in the shape of `like`.
In repeated(const View& like, void* element) {
  In view;
  static_cast<View&>(view) = like;
  view.data = element;
  for (int d = 0; d < view.rank; ++d) view.stride[d] = 0;
  return view;
}

}  // namespace

Status compare(Context* context, Out out, In a, In b, CompareKind kind) {
  const bool integers = a.dtype == DType::int32 && b.dtype == DType::int32;
  const auto body = [&](const Part<3>& part) {
    const bool direct = part.stride[0] == 1 && !part.streamed;
    auto* bools = reinterpret_cast<uint8_t*>(direct ? part.at[0] : reinterpret_cast<char*>(part.scratch(0)));
    if (integers) {
      const int32_t* left = read_integers(part, 1);
      compare_row(bools, left, read_integers(part, 2), part.count, kind);
    } else {
      const float* left = part.read(1);
      compare_row(bools, left, part.read(2), part.count, kind);
    }
    if (part.streamed) stream(part.at[0], reinterpret_cast<const char*>(bools), part.count);
    else if (!direct) {
      for (int64_t i = 0; i < part.count; ++i) part.at[0][i * part.stride[0]] = char(bools[i]);
    }
  };
  return each_part(context, Order::of_memory, body, out, a, b);
}

Status compare_scalar(Context* context, Out out, In a, double b, CompareKind kind) {
  if (a.dtype == DType::int32 && b == double(int32_t(b >= -2147483648.0 && b <= 2147483647.0 ? b : 0))) {
    auto value = int32_t(b);
    return compare(context, out, a, repeated(a, &value), kind);
  }
  if (a.dtype == DType::int32 || a.dtype == DType::boolean) return compare_exactly(context, out, a, b, kind);
  const float single = float(b);
  float value = 0;  // the number in a's dtype
  narrow(&value, &single, a.dtype, 1);
  return compare(context, out, a, repeated(a, &value), kind);
}

}  // namespace sonde::SONDE_ISA
