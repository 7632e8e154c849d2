// Fused attention: the probabilities of a few queries at a time, stored only where they are asked for.
//
// q, k, v [B, S or T, H, D] -> k and v of some heads as panels -> per block of kRows queries: scores [kRows, T] by the
// product's microkernel, scaled, masked, exponentiated -> times v [T, Dv] -> divided by the sums -> out [B, S, H, Dv].
// Under the causal mask a block looks no further than its last query may. What is masked counts as exactly 0, so a row's
// result does not depend on which other rows share its block.
#include "operations.h"
#include "product.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kGroupBytes = int64_t(32) << 20;  // packed keys and values held at a time
constexpr int64_t kBlocksPerTask = 4;

struct Shape {
  int64_t batch, queries, keys, heads, channels, values;
  int64_t key_panels() const { return panel_count(keys); }
  int64_t value_panels() const { return panel_count(values); }
  int64_t key_floats() const { return key_panels() * kColumns * channels; }
  int64_t value_floats() const { return value_panels() * kColumns * keys; }
};

// Channels of one head as a matrix [positions, channels].
template <class T>
View head_of(const T& x, int64_t batch, int64_t head) {
  View m;
  m.data = static_cast<char*>(x.data) + (batch * x.stride[0] + head * x.stride[2]) * dtype_size(x.dtype);
  m.dtype = x.dtype;
  m.rank = 2;
  m.shape[0] = x.shape[1];
  m.shape[1] = x.shape[3];
  m.stride[0] = x.stride[1];
  m.stride[1] = x.stride[3];
  return m;
}

View transposed(View m) {
  const int64_t n = m.shape[0], s = m.stride[0];
  m.shape[0] = m.shape[1];
  m.stride[0] = m.stride[1];
  m.shape[1] = n;
  m.stride[1] = s;
  return m;
}

// Where a thread works: packed queries, scores, the scores packed, results, the bias that is none.
struct Desk {
  float *queries, *scores, *packed, *results, *zeros;

  static int64_t score_width(const Shape& s) { return s.key_panels() * kColumns; }
  static int64_t zero_count(const Shape& s) { return max64(score_width(s), s.value_panels() * kColumns); }
  static size_t bytes(const Shape& s) {
    return size_t(kRows * (s.channels + 2 * score_width(s) + s.value_panels() * kColumns) + zero_count(s)) * 4;
  }
  static Desk in(void* memory, const Shape& s) {
    Desk desk;
    desk.queries = static_cast<float*>(memory);
    desk.scores = desk.queries + kRows * s.channels;
    desk.packed = desk.scores + kRows * score_width(s);
    desk.results = desk.packed + kRows * score_width(s);
    desk.zeros = desk.results + kRows * s.value_panels() * kColumns;
    memset(desk.zeros, 0, size_t(zero_count(s)) * 4);
    return desk;
  }
};

// x := exp(scale x - max) for what the query may see, 0 up to `width`; returns the sum.
float weigh(float* x, int64_t seen, int64_t width, float scale, const uint8_t* pad, int64_t query) {
  map_row(x, x, seen, [=](vf v) { return v * scale; });
  if (pad) {
    for (int64_t key = 0; key < seen; ++key) {
      if ((pad[key] != 0) != (pad[query] != 0)) x[key] = -INFINITY;
    }
  }
  const float largest = max_row(x, seen);
  map_row(x, x, seen, [=](vf v) { return exp(v - largest); });
  memset(x + seen, 0, size_t(width - seen) * 4);
  return sum_row(x, seen);
}

// x, the weights of what a query may see, becomes its row of probs [B, S, T, H]; NaN altogether if their sum is.
void store_probabilities(const View& probs, int64_t batch, int64_t query, int64_t head, float* x, int64_t seen,
                         float sum) {
  const int64_t keys = probs.shape[2];
  memset(x + seen, 0, size_t(keys - seen) * 4);
  map_row(x, x, keys, [=](vf v) { return v / sum; });
  const int64_t at = batch * probs.stride[0] + query * probs.stride[1] + head * probs.stride[3];
  write_row(static_cast<char*>(probs.data) + at * dtype_size(probs.dtype), probs.dtype, probs.stride[2], keys, x);
}

}  // namespace

Status attention(Context* context, Out out, Out probs, In q, In k, In v, In pad, bool causal, double scale) {
  const Shape s{q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[3], v.shape[3]};
  if (element_count(out) == 0 && (!probs.data || element_count(probs) == 0)) return {};
  const int64_t pairs = s.batch * s.heads, floats = s.key_floats() + s.value_floats() + 1;
  const int64_t group = max64(1, min64(pairs, kGroupBytes / (4 * floats)));
  auto* packed = static_cast<float*>(shared_scratch(context, 0, size_t(group * floats) * 4));
  if (!packed) return out_of_memory("packed keys and values");
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, Desk::bytes(s))) return out_of_memory("a block of scores");
  }
  const int64_t blocks = ceil_div(s.queries, kRows), tasks = ceil_div(blocks, kBlocksPerTask);

  const auto attend = [&](int64_t pair, int64_t block, const float* keys, const float* values, const Desk& desk) {
    const int64_t batch = pair / s.heads, head = pair % s.heads, first = block * kRows;
    const int count = int(min64(kRows, s.queries - first));
    const int64_t before = s.keys - s.queries;  // keys that came before the first query
    const int64_t seen = causal ? before + first + count : s.keys, width = Desk::score_width(s);
    pack_rows(desk.queries, head_of(q, batch, head), first, count);
    product(desk.queries, count, {keys, DType::float32, s.channels, s.channels}, panel_count(seen), seen, desk.zeros,
            desk.scores, width, true, nullptr);
    float sums[kRows];
    for (int i = 0; i < count; ++i) {
      const int64_t query = before + first + i;
      const auto* padding = pad.data ? static_cast<const uint8_t*>(pad.data) + batch * s.keys : nullptr;
      sums[i] = weigh(desk.scores + i * width, causal ? query + 1 : s.keys, seen, float(scale), padding, query);
    }
    View weights;
    weights.data = desk.scores;
    weights.rank = 2;
    weights.shape[0] = count;
    weights.shape[1] = seen;
    weights.stride[0] = width;
    weights.stride[1] = 1;
    pack_rows(desk.packed, weights, 0, count);
    for (int i = 0; probs.data && i < count; ++i) {
      store_probabilities(probs, batch, first + i, head, desk.scores + i * width, seen, sums[i]);
    }
    const int64_t result_width = s.value_panels() * kColumns;
    product(desk.packed, count, {values, DType::float32, s.keys, seen}, s.value_panels(), s.values, desk.zeros,
            desk.results, result_width, true, nullptr);
    for (int i = 0; i < count; ++i) {
      float* result = desk.results + i * result_width;
      const float sum = sums[i];
      map_row(result, result, s.values, [=](vf x) { return x / sum; });
      const int64_t at = ((batch * s.queries + first + i) * s.heads + head) * s.values;
      narrow(static_cast<char*>(out.data) + at * dtype_size(out.dtype), result, out.dtype, s.values);
    }
  };

  for (int64_t start = 0; start < pairs; start += group) {
    const int64_t n = min64(group, pairs - start);
    parallel(context, n, [&](int64_t i, int) {
      const int64_t batch = (start + i) / s.heads, head = (start + i) % s.heads;
      float* keys = packed + i * floats;
      pack_panels(keys, transposed(head_of(k, batch, head)), 0, s.key_panels());
      pack_panels(keys + s.key_floats(), head_of(v, batch, head), 0, s.value_panels());
    });
    // the last queries see most: they go first
    parallel(context, n * tasks, [&](int64_t task, int thread) {
      const int64_t i = task % n, part = tasks - 1 - task / n;
      const Desk desk = Desk::in(thread_scratch(context, thread, 0, Desk::bytes(s)), s);
      const float* keys = packed + i * floats;
      const int64_t end = min64(blocks, (part + 1) * kBlocksPerTask);
      for (int64_t block = part * kBlocksPerTask; block < end; ++block) {
        attend(start + i, block, keys, keys + s.key_floats(), desk);
      }
    });
  }
  return {};
}

}  // namespace sonde::SONDE_ISA
