// What the kernels of attention share: the operands, the mask, the running softmax, and how results are stored.
//
// Warps take 16 queries each and hold scores and results in fragments, as the tensor cores leave them: element i of column group j is in
// column 8 j + lane % 4 * 2 + i % 2 of row lane / 4 + i / 2 * 8.
//
// Distances of scores from the largest one are multiplied by scale log2(e), and powers of two are taken by the special function unit:
// within 2 units in the last place, as expf(), which ends in the same instruction. So float32 keeps its accuracy.
#pragma once
#include "rows.cuh"
#include "split_operand.cuh"

namespace sonde {

namespace {

struct Shape {
  int64_t batch, heads;
  int queries, keys, channels, values;
};

// One of q, k, v: [batch, positions, heads, channels], last stride 1.
template <class E>
struct Heads {
  E x;
  int64_t batch, position, head;
  bool aligned;  // 16 bytes can be copied at once, where so many channels are left

  static Heads of(const View& view) {
    bool aligned = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
    // the stride of a dimension of 1 does not matter
    for (int d = 0; d < 3; ++d) {
      aligned = aligned && (view.shape[d] <= 1 || view.stride[d] * int64_t(sizeof(*E::data)) % 16 == 0);
    }
    return {E::of(view), view.stride[0], view.stride[1], view.stride[2], aligned};
  }
  SONDE_DEVICE int64_t offset(int64_t b, int64_t h) const { return b * batch + h * head; }
};

template <class E>
struct Attention {
  Shape shape;
  Heads<E> q, k, v;
  E out;
  bool vectors;   // out takes 16 bytes at once
  Planes planes;  // of out, [batch queries, heads values], where values are whole chunks; or null parts
  E probs;        // null data: not asked for
  int64_t probs_stride[4];
  const uint8_t* pad;  // [batch, keys] or null
  bool causal;
  float scale;
  float factor;  // scale log2(e)
};

// float32 is split into three bfloat16 parts
template <class E>
constexpr int kParts = 1;
template <>
constexpr int kParts<Elements<float>> = 3;

template <class E>
SONDE_DEVICE uint32_t pair_of(float low, float high) {
  if constexpr (kIsBf16<E>) return pair_bf16(low, high);
  else return pair_half(low, high);
}

// element i of column group j
template <int N>
SONDE_DEVICE float& element(float (&s)[N][4], int j, int i) {
  return s[j][i];
}
template <int N>
SONDE_DEVICE float& element(float (&s)[N], int j, int i) {
  return s[j * 4 + i];
}

SONDE_DEVICE float quad_max(float v) {
  for (int step = 1; step < 4; step *= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, step));
  return v;
}
SONDE_DEVICE float quad_sum(float v) {
  for (int step = 1; step < 4; step *= 2) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

// What the two queries of a lane see: keys up to `last`, of these the ones that are padding as they are.
struct Mask {
  int last[2];
  const uint8_t* pad;  // of the batch's item, or null
  bool padding[2];

  // first: the position of the lane's first query
  template <class E>
  static SONDE_DEVICE Mask of(const Attention<E>& x, int64_t batch, int first) {
    Mask mask;
    mask.pad = x.pad ? x.pad + batch * x.shape.keys : nullptr;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int position = first + 8 * g, end = x.shape.keys - 1;
      mask.last[g] = x.causal && position < end ? position : end;
      mask.padding[g] = mask.pad && position <= end && mask.pad[position] != 0;
    }
    return mask;
  }
};

// scores of the masked keys := -inf
template <int kGroups, class S>
SONDE_DEVICE void hide(S& s, const Mask& mask, int first_key) {
  const int first = first_key + int(threadIdx.x) % 4 * 2;
  if (mask.pad) {
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int key = first + j * 8 + h;
        const bool padding =
            key <= mask.last[1] && mask.pad[key] != 0;  // the later query sees what the earlier one does
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          if (key > mask.last[g] || padding != mask.padding[g]) element(s, j, g * 2 + h) = -INFINITY;
        }
      }
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j * 8 + i % 2 > mask.last[i / 2] - first) element(s, j, i) = -INFINITY;
    }
  }
}

// The running softmax of a lane's two queries.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};  // the largest score so far, before it is scaled
  float sum[2] = {0, 0};                  // of the lane's own terms, of the largest score's power

  // top, or 0 where no key was seen so far
  SONDE_DEVICE float base(int g) const { return top[g] == -INFINITY ? 0.0f : top[g]; }

  // Scores of a step become their terms; shrink: the factors of all terms before. NaN among the scores makes the sum NaN, and so does
  // +inf, as inf - inf does. A step that is masked altogether changes nothing: its terms are 0 and its factor 1, or 0
  // while there are no terms before.
  template <int kGroups, class S>
  SONDE_DEVICE void step(S& s, float factor, float (&shrink)[2]) {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      float most[2] = {element(s, 0, g * 2), element(s, 0, g * 2 + 1)};
#pragma unroll
      for (int j = 1; j < kGroups; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) most[h] = fmaxf(most[h], element(s, j, g * 2 + h));
      }
      const float before = top[g];
      top[g] = fmaxf(before, quad_max(fmaxf(most[0], most[1])));
      shrink[g] = exp2_approx((before - base(g)) * factor);
      float here[2] = {0, 0};
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) here[h] += element(s, j, g * 2 + h) = term(element(s, j, g * 2 + h), factor, g);
      }
      sum[g] = fmaf(sum[g], shrink[g], here[0] + here[1]);
    }
  }
  // Subtracted before it is multiplied: the largest term is 1 however large the scores are.
  SONDE_DEVICE float term(float score, float factor, int g) const { return exp2_approx((score - base(g)) * factor); }

  // The factors of the finished sums. A sum of 0, where a query sees no key, gives infinity, and 0 times that NaN.
  template <class E>
  SONDE_DEVICE void inverse(float (&factor)[2]) const {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const float all = quad_sum(sum[g]);
      factor[g] = kParts<E> == 3 ? 1.0f / all : reciprocal_approx(all);
    }
  }
};

// The probabilities of a step, from scores in which masked keys are -inf.
template <int kGroups, class E, class S>
SONDE_DEVICE void store_probs(const Attention<E>& x, S& s, const Softmax& softmax, const float (&inverse)[2],
                              int64_t batch, int64_t head, int first_query, int first_key) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t(&to)[4] = x.probs_stride;
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const int query = first_query + lane / 4 + 8 * g;
    if (query >= x.shape.queries) continue;
    const int64_t row = batch * to[0] + query * to[1] + head * to[3];
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int key = first_key + j * 8 + lane % 4 * 2 + h;
        if (key >= x.shape.keys) continue;
        x.probs.set(row + key * to[2], softmax.term(element(s, j, g * 2 + h), x.factor, g) * inverse[g]);
      }
    }
  }
}

// Stores the results of a warp's 16 queries from first_query on, each times its factor. The lanes of a quad exchange what they hold, so
// that each has 16 bytes that lie together.
template <int kWidth, class E, class S>
SONDE_DEVICE void store_fragment(const Attention<E>& x, S& out, const float (&factor)[2], int64_t batch, int64_t head,
                                 int first_query) {
  const int lane = int(threadIdx.x) % 32, quarter = lane % 4;
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const int query = first_query + lane / 4 + g * 8;
    const bool inside = query < x.shape.queries;
    const int64_t at = ((batch * x.shape.queries + query) * x.shape.heads + head) * x.shape.values;
    if (!x.vectors) {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int c = n * 8 + quarter * 2 + h;
          if (inside && c < x.shape.values) x.out.set(at + c, element(out, n, g * 2 + h) * factor[g]);
        }
      }
    } else if constexpr (kParts<E> == 3) {
      // of two column groups, even lanes take the first, odd lanes the second
      const bool odd = quarter % 2 != 0;
#pragma unroll
      for (int n = 0; n < kWidth / 8; n += 2) {
        float own[2], other[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float first = element(out, n, g * 2 + h) * factor[g],
                      second = element(out, n + 1, g * 2 + h) * factor[g];
          own[h] = odd ? second : first;
          other[h] = __shfl_xor_sync(kAll, odd ? first : second, 1);
        }
        const int c = (n + quarter % 2) * 8 + quarter / 2 * 4;
        const float four[4] = {odd ? other[0] : own[0], odd ? other[1] : own[1], odd ? own[0] : other[0],
                               odd ? own[1] : other[1]};
        if (inside && c < x.shape.values) x.out.set4(at + c, four);
      }
    } else {
      // of four column groups, each lane takes one
#pragma unroll
      for (int n = 0; n < kWidth / 8; n += 4) {
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          word[i] = pair_of<E>(element(out, n + i, g * 2) * factor[g], element(out, n + i, g * 2 + 1) * factor[g]);
        }
        transpose_in_quad(word);
        const int c = (n + quarter) * 8;
        if (inside && c < x.shape.values) {
          *reinterpret_cast<uint4*>(x.out.data + at + c) = make_uint4(word[0], word[1], word[2], word[3]);
        }
      }
    }
  }
}

// Writes the planes of a warp's 16 queries from first_query on: value(n, i) is element i of column group n. The lanes of the warp call it
// together.
template <int kWidth, class E, class Value>
SONDE_DEVICE void store_planes(const Attention<E>& x, int64_t batch, int64_t head, int first_query, Value value) {
  const int64_t row0 = batch * x.shape.queries + first_query, end = (batch + 1) * x.shape.queries;
  const int chunks = x.shape.values / kSplitChunk;
#pragma unroll
  for (int c = 0; c < kWidth / kSplitChunk; ++c) {
    constexpr int kGroups = kSplitChunk / 8;
    x.planes.fragment(row0, head * chunks + c, c < chunks ? end : 0,
                      [&](int j, int g, int h) { return value(c * kGroups + j, g * 2 + h); });
  }
}

// One query by a warp, in plain float32, for any number of channels: slow. For heads that are too wide for the other kernels, for blocks
// with infinities or NaN, which parts do not represent, and for a scale that is not positive.
constexpr int kWideHeld = 8;  // values a lane adds up at a time

template <class E>
__device__ __noinline__ void attend_alone(const Attention<E>& x, int64_t batch, int64_t head, int64_t row) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t query = x.shape.keys - x.shape.queries + row;
  const uint8_t* pad = x.pad ? x.pad + batch * x.shape.keys : nullptr;
  const int64_t seen = x.causal ? query + 1 : x.shape.keys;
  const int64_t q = batch * x.q.batch + row * x.q.position + head * x.q.head;
  const auto score = [&](int64_t key) {
    if (pad && (pad[key] != 0) != (pad[query] != 0)) return -INFINITY;
    const int64_t k = batch * x.k.batch + key * x.k.position + head * x.k.head;
    float sum = 0;
    for (int c = lane; c < x.shape.channels; c += kWarp) sum = fmaf(x.q.x.get(q + c), x.k.x.get(k + c), sum);
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    return sum * x.scale;
  };
  float largest = -INFINITY, total = 0;
  for (int64_t key = 0; key < seen; ++key) {
    const float s = score(key), most = s > largest ? s : largest, base = most == -INFINITY ? 0.0f : most;
    total = total * expf(largest - base) + expf(s - base);
    largest = most;
  }
  const float base = largest == -INFINITY ? 0.0f : largest;
  const int64_t out = ((batch * x.shape.queries + row) * x.shape.heads + head) * x.shape.values;
  for (int first = 0; first < x.shape.values; first += kWarp * kWideHeld) {
    float sum[kWideHeld] = {};
    for (int64_t key = 0; key < seen; ++key) {
      const float p = expf(score(key) - base);
      const int64_t v = batch * x.v.batch + key * x.v.position + head * x.v.head;
      for (int j = 0; j < kWideHeld; ++j) {
        const int c = first + j * kWarp + lane;
        if (c < x.shape.values) sum[j] = fmaf(p, x.v.x.get(v + c), sum[j]);
      }
    }
    for (int j = 0; j < kWideHeld; ++j) {
      const int c = first + j * kWarp + lane;
      if (c < x.shape.values) x.out.set(out + c, sum[j] / total);
    }
  }
  if (!x.probs.data) return;
  for (int64_t key = 0; key < x.shape.keys; ++key) {
    const float p = key < seen ? expf(score(key) - base) / total : total > 0 ? 0.0f : NAN;
    const int64_t(&to)[4] = x.probs_stride;
    if (lane == 0) x.probs.set(batch * to[0] + row * to[1] + key * to[2] + head * to[3], p);
  }
}

template <class E>
__global__ void __launch_bounds__(kThreads)
    wide_attention_kernel(const __grid_constant__ Attention<E> x, int64_t count) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (i >= count) return;
  const int64_t row = i / x.shape.heads % x.shape.queries;
  attend_alone(x, i / x.shape.heads / x.shape.queries, i % x.shape.heads, row);
}

}  // namespace

}  // namespace sonde
