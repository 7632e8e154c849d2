// A choice between the elements of two tensors, whose bits are moved as they are.
#include "elements.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// kWidth bools, each in the lane of an integer
SONDE_INLINE vi load_bools(const uint8_t* p) {
#if defined(__AVX512F__)
  return vi(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return vi(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  vi v;
  for (int i = 0; i < kWidth; ++i) v[i] = p[i];
  return v;
#endif
}

// y[i] = c[i] ? p[i] : q[i], or q[0] where `repeated`, of elements of four bytes side by side
void choose_words(int32_t* y, const uint8_t* c, const int32_t* p, const int32_t* q, bool repeated, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const vi chosen = load_bools(c + i);
    const vi other = repeated ? vi{} + q[0] : load(q + i);
    *reinterpret_cast<vi_unaligned*>(y + i) = chosen != 0 ? load(p + i) : other;
  }
  for (; i < n; ++i) y[i] = c[i] ? p[i] : q[repeated ? 0 : i];
}

template <class T>
void choose(char* to, const char* condition, const char* a, const char* b, const int64_t (&stride)[4], int64_t n) {
  auto* y = reinterpret_cast<T*>(to);
  const auto* c = reinterpret_cast<const uint8_t*>(condition);
  const auto *p = reinterpret_cast<const T*>(a), *q = reinterpret_cast<const T*>(b);
  if (stride[0] == 1 && stride[1] == 1 && stride[2] == 1 && stride[3] <= 1) {
    if constexpr (sizeof(T) == 4) return choose_words(y, c, p, q, stride[3] == 0, n);
    // with masks instead of branches, which compilers turn into vector code
    if (stride[3] == 0) {
      const T other = *q;
      for (int64_t i = 0; i < n; ++i) y[i] = T(other ^ ((p[i] ^ other) & T(-int(c[i] != 0))));
    } else {
      for (int64_t i = 0; i < n; ++i) y[i] = T(q[i] ^ ((p[i] ^ q[i]) & T(-int(c[i] != 0))));
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    y[i * stride[0]] = c[i * stride[1]] ? p[i * stride[2]] : q[i * stride[3]];
  }
}

}  // namespace

Status where(Context* context, Out out, In condition, In a, In b) {
  const int64_t size = dtype_size(out.dtype);
  const auto body = [&](const Part<4>& part) {
    char* to = part.streamed ? reinterpret_cast<char*>(part.scratch(0)) : part.at[0];
    const char* chosen = part.at[1];
    if (size == 4) choose<int32_t>(to, chosen, part.at[2], part.at[3], part.stride, part.count);
    else if (size == 2) choose<uint16_t>(to, chosen, part.at[2], part.at[3], part.stride, part.count);
    else choose<uint8_t>(to, chosen, part.at[2], part.at[3], part.stride, part.count);
    if (part.streamed) stream(part.at[0], to, part.count * size);
  };
  return each_part(context, Order::of_memory, body, out, condition, a, b);
}

}  // namespace sonde::SONDE_ISA
