// Fused attention and its gradients: computes the probabilities of a few queries at a time, and stores them only where
// they are asked for.
//
// q, k, v [B, S or T, H, D] -> k and v of some heads as panels -> per block of kRows queries: scores [kRows, T] by the
// product's microkernel, scaled, masked, exponentiated -> times v [T, Dv] -> divided by the sums -> out [B, S, H, Dv].
// Under the causal mask a block reads no keys after those of its last query. A masked key counts as exactly 0, so a
// row's result does not depend on which other rows share its block; where a value is infinite or NaN, 0 times which is
// NaN, each row is a block of its own. Padding on one side alone parts the positions in two, of which each is computed as
// if the other were not there: bit for bit as without padding. Where bfloat16 is multiplied in pairs, the weights are
// rounded to bfloat16 for the second product, as attention that stores its probabilities rounds them. A single query
// uses keys and values once: they are packed a panel at a time, which stays in the cache.
//
// Backward, a thread takes a whole head: per block of queries, the probabilities again, P; the gradients of these, dP =
// dO v^T; of the scores, dS = P (dP - sum of P dP); dQ = dS k; and the block's part of dV = P^T dO and dK = dS^T q, which
// are added up block by block.
#include "operations.h"
#include "product.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kGroupBytes = int64_t(32) << 20;  // packed keys and values held at a time
constexpr int64_t kBlocksPerTask = 4;
// Most heads have 64 dimensions: values lie in panels that divide 64.
constexpr int kValueVectors = 2;
constexpr int64_t kValueColumns = kValueVectors * kWidth;

struct Shape {
  int64_t batch, queries, keys, heads, head_dim, value_dim;
  Layout layout;

  int64_t key_panels() const { return panel_count(keys); }
  int64_t value_panels() const { return panel_count(value_dim, kValueColumns); }
  int64_t key_bytes() const { return key_panels() * panel_bytes(layout, head_dim); }
  int64_t value_bytes() const { return value_panels() * panel_bytes(layout, keys, kValueColumns); }
  int64_t score_width() const { return key_panels() * kColumns; }
  int64_t result_width() const { return value_panels() * kValueColumns; }
};

// One head as a matrix [positions, head_dim], `count` positions from `first` on.
template <class T>
View head_of(const T& x, int64_t batch, int64_t head, int64_t first, int64_t count) {
  View m;
  const int64_t at = batch * x.stride[0] + first * x.stride[1] + head * x.stride[2];
  m.data = static_cast<char*>(x.data) + at * dtype_size(x.dtype);
  m.dtype = x.dtype;
  m.rank = 2;
  m.shape[0] = count;
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

// Where the padding of a row [keys] begins or ends, if that is once: the positions before see nothing of those after.
// `keys` where it never changes, 0 where it does so more often.
int64_t change_of(const uint8_t* pad, int64_t keys) {
  int64_t change = 1;
  while (change < keys && (pad[change] != 0) == (pad[0] != 0)) ++change;
  for (int64_t key = change; key < keys; ++key) {
    if ((pad[key] != 0) == (pad[0] != 0)) return 0;
  }
  return change;
}

// Whether one of `count` values is infinite or NaN. `panel` holds them as float32, or as pairs of bfloat16.
bool has_infinite(const char* panel, Layout layout, int64_t count) {
  constexpr int32_t kUpper = 0x7f800000, kLower = 0x7f80;  // exponents of all ones
  const int64_t words = layout == Layout::pairs ? count / 2 : count;
  const int32_t lower = layout == Layout::pairs ? kLower : -1;  // no word & kLower is -1
  vi found{};
  for (int64_t i = 0; i < words; i += kWidth) {  // panels hold whole vectors
    const vi bits = vi(load(reinterpret_cast<const float*>(panel) + i));
    found |= ((bits & kUpper) == kUpper) | ((bits & kLower) == lower);
  }
  return greater_bits(vi{}, found) != 0;
}

// Copies the panels of the values up to the last one that is seen, of an odd number of them in pairs: the value beside it
// becomes 0.
void copy_seen(char* to, const char* values, const Shape& s, int64_t seen) {
  const int64_t bytes = panel_bytes(Layout::pairs, s.keys, kValueColumns);
  const int64_t step = step_bytes(Layout::pairs, kValueColumns), before = seen / 2 * step;
  for (int64_t panel = 0; panel < s.value_panels(); ++panel) {
    memcpy(to + panel * bytes, values + panel * bytes, size_t(before + step));
    char* last = to + panel * bytes + before;
    for (int64_t i = 0; i < kValueColumns; ++i) memset(last + i * 4 + 2, 0, 2);
  }
}

// Positions of one head that are computed together: all of them, or a side of the change of the padding.
struct Part {
  int64_t batch, head;
  int64_t first_key, first_query;
  Shape shape;
  const uint8_t* pad;  // of all keys; null where every pair may see each other
};

// `parts` of a head: 1 without padding, else 2, of which one may have no queries.
Part part_of(const Shape& s, int64_t which, int64_t parts, const uint8_t* pad, const int64_t* changes) {
  const int64_t index = which / parts, batch = index / s.heads, before = s.keys - s.queries;
  const uint8_t* row = pad ? pad + batch * s.keys : nullptr;
  Part part{batch, index % s.heads, 0, 0, s, nullptr};
  if (!row) return part;
  const int64_t change = changes[batch];
  if (change == 0) part.pad = row;
  const int64_t cut = change ? change : s.keys;
  part.first_key = which % parts ? cut : 0;
  const int64_t end = which % parts ? s.keys : cut, first = max64(part.first_key, before);
  part.first_query = first - before;
  part.shape.keys = end - part.first_key;
  part.shape.queries = max64(0, end - first);
  return part;
}

// The scratch memory of one thread: queries that could not be read in place, scores, the weights that are made of them
// in bfloat16, results, zeros instead of a bias, rows of either product that are packed, and a panel of keys or values
// where there is a single query.
struct Workspace {
  float *queries, *scores, *rounded, *results, *zeros, *packed, *panel;

  // whole cache lines, as a vector that crosses one costs double
  static int64_t query_floats(const Shape& s) { return round_up(kRows * (s.head_dim + 1), 16); }
  static int64_t rounded_floats(const Shape& s) { return s.layout == Layout::pairs ? kRows * s.score_width() / 2 : 0; }
  static int64_t zero_count(const Shape& s) { return max64(s.score_width(), s.result_width()); }
  static int64_t packed_floats(const Shape& s) {
    return kPacksRows ? round_up(kRows * min64(kDepth, max64(s.head_dim, s.keys)), 16) : 0;
  }
  static int64_t panel_floats(const Shape& s) {
    if (s.queries > 1) return 0;
    return max64(panel_bytes(s.layout, s.head_dim), panel_bytes(s.layout, s.keys, kValueColumns)) / 4;
  }
  static size_t bytes(const Shape& s) {
    const int64_t rows = kRows * (s.score_width() + s.result_width());
    return size_t(query_floats(s) + rounded_floats(s) + rows + zero_count(s) + packed_floats(s) + panel_floats(s)) * 4;
  }
  static Workspace in(void* memory, const Shape& s) {
    Workspace workspace;
    workspace.queries = static_cast<float*>(memory);
    workspace.scores = workspace.queries + query_floats(s);
    workspace.rounded = workspace.scores + kRows * s.score_width();
    workspace.results = workspace.rounded + rounded_floats(s);
    workspace.zeros = workspace.results + kRows * s.result_width();
    memset(workspace.zeros, 0, size_t(zero_count(s)) * 4);
    workspace.packed = workspace.zeros + zero_count(s);
    workspace.panel = workspace.packed + packed_floats(s);
    return workspace;
  }
};

// x := exp(scale x - max) for the keys that the query may see, 0 up to `width`. Returns the sum.
float weigh(float* x, int64_t seen, int64_t width, float scale, const uint8_t* pad, int64_t query) {
  vf factor = broadcast(scale);
  if (pad) {
    map_row(x, x, seen, [=](vf v) { return v * factor; });
    for (int64_t key = 0; key < seen; ++key) {
      if ((pad[key] != 0) != (pad[query] != 0)) x[key] = -INFINITY;
    }
    factor = broadcast(1.0f);
  }
  const int64_t whole = seen / kWidth * kWidth;
  const int rest = int(seen - whole);
  const vf tail = rest ? load_partial(x + whole, rest) * factor : vf{};
  vf largest_lanes = broadcast(-INFINITY);
  for (int64_t i = 0; i < whole; i += kWidth) largest_lanes = maximum(load(x + i) * factor, largest_lanes);
  float largest = max_lanes(largest_lanes);
  for (int i = 0; i < rest; ++i) largest = tail[i] > largest ? tail[i] : largest;
  const vf shift = broadcast(largest);
  for (int64_t i = 0; i < whole; i += kWidth) store(x + i, exp(load(x + i) * factor - shift));
  for (int64_t at = whole; at < width; at += kWidth) store(x + at, vf{});
  store_partial(x + whole, exp(tail - shift), rest);
  return float(sum_row(x, seen));
}

// Divides x, the weights of the keys that a query may see, by their sum, and writes its row of probs [B, S, T, H], in
// which they begin at `first_key`. The whole row is NaN if the sum is.
void store_probabilities(const View& probs, int64_t batch, int64_t query, int64_t head, float* x, int64_t first_key,
                         int64_t seen, float sum) {
  const int64_t keys = probs.shape[2];
  memmove(x + first_key, x, size_t(seen) * 4);
  memset(x, 0, size_t(first_key) * 4);
  memset(x + first_key + seen, 0, size_t(keys - first_key - seen) * 4);
  map_row(x, x, keys, [=](vf v) { return v / sum; });
  const int64_t at = batch * probs.stride[0] + query * probs.stride[1] + head * probs.stride[3];
  write_row(static_cast<char*>(probs.data) + at * dtype_size(probs.dtype), probs.dtype, probs.stride[2], keys, x);
}

}  // namespace

Status attention(Context* context, Out out, Out planes, Out probs, In q, In k, In v, In pad, bool causal,
                 double scale) {
  if (planes.data) return no_planes();
  const bool pairs = kPairs && q.dtype == DType::bfloat16;
  const Layout layout = pairs ? Layout::pairs : Layout::float32;
  const Shape s{q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[3], v.shape[3], layout};
  if (element_count(out) == 0 && (!probs.data || element_count(probs) == 0)) return {};
  const auto* padding = static_cast<const uint8_t*>(pad.data);
  const int64_t parts = padding ? 2 : 1, part_count = s.batch * s.heads * parts;
  const bool packs_all = s.queries > 1 || part_count < thread_count(context);  // the threads share the packing
  const int64_t bytes = packs_all ? max64(64, round_up(s.key_bytes() + s.value_bytes(), 64)) : 64;
  const int64_t group = max64(1, min64(part_count, kGroupBytes / bytes));
  auto* packed = static_cast<char*>(shared_scratch(context, 0, size_t(group * bytes)));
  if (!packed) return out_of_memory("packed keys and values");
  auto* changes = static_cast<int64_t*>(shared_scratch(context, 1, size_t(s.batch) * sizeof(int64_t)));
  if (!changes) return out_of_memory("the padding");
  auto* infinite = static_cast<uint8_t*>(shared_scratch(context, 2, size_t(group)));  // heads with an infinite value
  if (!infinite) return out_of_memory("the infinite values");
  for (int64_t row = 0; padding && row < s.batch; ++row) changes[row] = change_of(padding + row * s.keys, s.keys);
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, Workspace::bytes(s))) return out_of_memory("a block of scores");
  }
  const int64_t tasks = ceil_div(ceil_div(s.queries, kRows), kBlocksPerTask);
  const int64_t score_width = s.score_width(), result_width = s.result_width();
  const auto nothing = [](int64_t, int, const float*) {};

  const auto pack_keys = [&](void* to, const Part& part, int64_t panel) {
    const View keys = head_of(k, part.batch, part.head, part.first_key, part.shape.keys);
    pack_panel(to, layout, transposed(keys), panel * kColumns, kColumns);
  };
  const auto pack_values = [&](void* to, const Part& part, int64_t panel) {
    const View values = head_of(v, part.batch, part.head, part.first_key, part.shape.keys);
    pack_panel(to, layout, values, panel * kValueColumns, kValueColumns);
  };

  // `keys` and `values`: all panels; null where they are packed one at a time. `copy`, where each row is a block of its
  // own: memory for the values that it sees.
  const auto attend = [&](const Part& part, int64_t first, int count, const char* keys, const char* values, char* copy,
                          const Workspace& workspace) {
    const Shape& u = part.shape;
    const int64_t before = u.keys - u.queries;  // keys that came before the first query
    const int64_t seen = causal ? before + first + count : u.keys, width = panel_count(seen) * kColumns;
    const View queries = head_of(q, part.batch, part.head, part.first_query, u.queries);
    Left left = left_of(queries);
    left.data = left.row(first);
    if (!is_left(queries, layout)) {
      left = {reinterpret_cast<char*>(workspace.queries), left_row_bytes(layout, u.head_dim)};
      for (int i = 0; i < count; ++i) {
        convert_row(reinterpret_cast<char*>(workspace.queries) + i * left.stride, queries, first + i, layout);
      }
    }
    const Scratch scratch{nullptr, workspace.packed, kRows};
    const int64_t head_steps = step_count(layout, u.head_dim);
    const int64_t key_panels = panel_count(seen), keys_at_once = keys ? key_panels : 1;
    for (int64_t panel = 0; panel < key_panels; panel += keys_at_once) {
      if (!keys) pack_keys(workspace.panel, part, panel);
      const char* panels = keys ? keys : reinterpret_cast<char*>(workspace.panel);
      product<kVectors>(left, count, {panels, layout, head_steps, head_steps}, keys_at_once, keys_at_once * kColumns,
                        workspace.zeros, {workspace.scores + panel * kColumns, score_width, false, true}, scratch,
                        nothing);
    }
    float sums[kRows];
    for (int i = 0; i < count; ++i) {
      const int64_t query = before + first + i;
      float* weights = workspace.scores + i * score_width;
      sums[i] = weigh(weights, causal ? query + 1 : u.keys, width, float(scale), part.pad, query);
      // all of the width, so that an odd last weight is paired with a 0
      if (pairs) narrow(workspace.rounded + i * score_width / 2, weights, DType::bfloat16, width);
    }
    const int64_t used = step_count(layout, seen);
    if (copy && seen % 2) {
      copy_seen(copy, values, u, seen);
      values = copy;
    }
    Left weights{reinterpret_cast<char*>(workspace.scores), score_width * 4};
    if (pairs) weights = {reinterpret_cast<char*>(workspace.rounded), score_width * 2};
    const int64_t values_at_once = values ? u.value_panels() : 1;
    for (int64_t panel = 0; panel < u.value_panels(); panel += values_at_once) {
      if (!values) pack_values(workspace.panel, part, panel);
      const char* panels = values ? values : reinterpret_cast<char*>(workspace.panel);
      product<kValueVectors>(weights, count, {panels, layout, step_count(layout, u.keys), used, kValueColumns},
                             values_at_once, values_at_once * kValueColumns, workspace.zeros,
                             {workspace.results + panel * kValueColumns, result_width, false, true}, scratch, nothing);
    }
    for (int i = 0; i < count; ++i) {
      float* result = workspace.results + i * result_width;
      const float sum = sums[i];
      // masked values have made 0 of a sum that was -0
      map_row(result, result, u.value_dim, [=](vf x) { return (x + 0.0f) / sum; });
      const int64_t query = part.first_query + first + i;
      const int64_t at = ((part.batch * s.queries + query) * s.heads + part.head) * s.value_dim;
      narrow(static_cast<char*>(out.data) + at * dtype_size(out.dtype), result, out.dtype, s.value_dim);
      if (!probs.data) continue;
      store_probabilities(probs, part.batch, query, part.head, workspace.scores + i * score_width, part.first_key, seen,
                          sum);
    }
  };

  for (int64_t start = 0; start < part_count; start += group) {
    const int64_t n = min64(group, part_count - start);
    const int64_t key_panels = s.key_panels(), panels = key_panels + s.value_panels();
    memset(infinite, 0, size_t(n));
    parallel(context, packs_all ? n * panels : 0, [&](int64_t task, int) {
      const int64_t i = task / panels, panel = task % panels;
      const Part part = part_of(s, start + i, parts, padding, changes);
      const Shape& u = part.shape;
      if (u.queries == 0) return;
      char* keys = packed + i * bytes;
      if (panel < key_panels) {
        if (panel >= u.key_panels()) return;
        return pack_keys(keys + panel * panel_bytes(layout, u.head_dim), part, panel);
      }
      const int64_t at = panel - key_panels;
      char* values = keys + s.key_bytes() + at * panel_bytes(layout, u.keys, kValueColumns);
      pack_values(values, part, at);
      const int64_t count = step_count(layout, u.keys) * (pairs ? 2 : 1) * kValueColumns;
      if (causal && u.queries > 1 && has_infinite(values, layout, count)) {
        __atomic_store_n(infinite + i, 1, __ATOMIC_RELAXED);
      }
    });
    const bool copies = pairs && memchr(infinite, 1, size_t(n));
    for (int thread = 0; copies && thread < thread_count(context); ++thread) {
      if (!thread_scratch(context, thread, 1, size_t(s.value_bytes()))) return out_of_memory("a copy of values");
    }
    // the last queries see the most keys, so they go first
    parallel(context, n * tasks, [&](int64_t task, int thread) {
      const int64_t i = task / tasks, at = tasks - 1 - task % tasks;
      const Part part = part_of(s, start + i, parts, padding, changes);
      const Workspace workspace = Workspace::in(thread_scratch(context, thread, 0, Workspace::bytes(s)), s);
      const char* keys = packs_all ? packed + i * bytes : nullptr;
      const char* values = packs_all ? keys + s.key_bytes() : nullptr;
      const int64_t at_once = infinite[i] ? 1 : kRows;
      auto* copy = infinite[i] && pairs
                       ? static_cast<char*>(thread_scratch(context, thread, 1, size_t(s.value_bytes())))
                       : nullptr;
      const int64_t end = min64(part.shape.queries, (at + 1) * kBlocksPerTask * kRows);
      for (int64_t first = at * kBlocksPerTask * kRows; first < end; first += at_once) {
        attend(part, first, int(min64(at_once, end - first)), keys, values, copy, workspace);
      }
    });
  }
  return {};
}

namespace {

// Queries that are dealt with together: a multiple of each instruction set's kRows, as sums over queries are added up
// block by block.
constexpr int64_t kBlock = 48;
static_assert(kBlock % kRows == 0);

// The scratch memory of one thread for a head's gradients. Matrices are in panels where they are right sides.
struct BackwardWorkspace {
  float *keys, *values;                // k^T and v^T: scores and the gradients of probabilities are products with them
  float* key_rows;                     // k
  float *of_keys, *of_values;          // the sums dK and dV, whole panels wide
  float *queries, *given;              // a block's rows of q and dO where they cannot be read in place
  float *query_panels, *given_panels;  // the same as right sides
  float *probs, *of_scores;            // P and dS of a block
  float *of_queries, *products, *zeros;  // dQ of a block, P dP of a row, no bias
  float* packed;                         // rows of a product

  static constexpr int kParts = 15;

  // The floats of each part, whole cache lines. Returns their sum.
  static int64_t sizes(const Shape& s, int64_t (&size)[kParts]) {
    const int64_t width = s.score_width(), head = round_up(s.head_dim, kValueColumns), value = s.result_width();
    const int64_t packed = kPacksRows ? kRows * min64(kDepth, max64(max64(s.head_dim, s.value_dim), s.keys)) : 0;
    const int64_t floats[kParts] = {width * s.head_dim,
                                    width * s.value_dim,
                                    s.keys * head,
                                    width * head,
                                    width * value,
                                    kBlock * s.head_dim,
                                    kBlock * s.value_dim,
                                    kBlock * head,
                                    kBlock * value,
                                    kBlock * width,
                                    kBlock * width,
                                    kBlock * head,
                                    width,
                                    max64(width, max64(head, value)),
                                    packed};
    int64_t sum = 0;
    for (int i = 0; i < kParts; ++i) sum += size[i] = round_up(floats[i], 16);
    return sum;
  }
  static size_t bytes(const Shape& s) {
    int64_t size[kParts];
    return size_t(sizes(s, size)) * 4;
  }
  static BackwardWorkspace in(void* memory, const Shape& s) {
    int64_t size[kParts];
    sizes(s, size);
    auto* at = static_cast<float*>(memory);
    int part = 0;
    const auto next = [&] {
      float* here = at;
      at += size[part++];
      return here;
    };
    // in the order of the members, as the braces demand
    return {next(), next(), next(), next(), next(), next(), next(), next(),
            next(), next(), next(), next(), next(), next(), next()};
  }
};

// c [rows, columns] += a^T b over `steps` steps, for a [steps, rows], read in whole tiles of rows, and b in panels of
// kValueColumns columns. Rows of a are `lda` floats apart, those of c `ldc`.
void add_product(int64_t steps, const float* a, int64_t lda, int64_t rows, const float* b, int64_t columns, float* c,
                 int64_t ldc) {
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t valid = min64(kRows, rows - row);
    for (int64_t column = 0; column < columns; column += kValueColumns) {
      Tile<kRows, kValueVectors> tile;
      tile.begin(nullptr);
      const float *left = a + row, *right = b + column * steps;
      for (int64_t i = 0; i < steps; ++i, left += lda, right += kValueColumns) packed_step(tile, left, right);
      float* to = c + row * ldc + column;
      if (valid == kRows) {
        tile.end(to, ldc, true, false);
        continue;
      }
      float edge[kRows * kValueColumns];  // rows beyond the last are 0 times b, which is NaN where b is infinite
      tile.end(edge, kValueColumns, false, false);
      for (int64_t i = 0; i < valid; ++i) {
        for (int64_t j = 0; j < kValueColumns; ++j) to[i * ldc + j] += edge[i * kValueColumns + j];
      }
    }
  }
}

// The gradients of one part of one head.
struct HeadGradients {
  const View &dq, &dk, &dv, &g, &q, &k, &v;
  const Part& part;
  const BackwardWorkspace& w;
  bool causal;
  float scale;
  int64_t before = part.shape.keys - part.shape.queries;  // keys that came before the first query
  int64_t width = part.shape.score_width();
  int64_t head = round_up(part.shape.head_dim, kValueColumns), value = part.shape.result_width();
  bool infinite_keys = false;

  View rows_of(const View& x, int64_t first, int64_t count) const {
    return head_of(x, part.batch, part.head, first, count);
  }
  // a block of queries, or what belongs to them
  View block_of(const View& x, int64_t first, int64_t count) const {
    return rows_of(x, part.first_query + first, count);
  }
  static void write(const View& to, const float* rows, int64_t stride) {
    for (int64_t i = 0; i < to.shape[0]; ++i) {
      map_row(static_cast<float*>(to.data) + i * to.stride[0], rows + i * stride, to.shape[1], [](vf x) { return x; });
    }
  }
  static Left left_side(const View& rows, float* scratch) {
    if (is_left(rows, Layout::float32)) return left_of(rows);
    for (int64_t i = 0; i < rows.shape[0]; ++i) {
      convert_row(reinterpret_cast<char*>(scratch + i * rows.shape[1]), rows, i, Layout::float32);
    }
    return {reinterpret_cast<char*>(scratch), rows.shape[1] * 4};
  }
  static void pack_right_side(float* to, const View& rows) {
    for (int64_t column = 0; column < rows.shape[1]; column += kValueColumns) {
      pack_float_panel(to + column * rows.shape[0], rows, column, kValueColumns);
    }
  }
  // rows of `out` [rows, columns of all panels] = left right, over the first `used` of its steps
  template <int V>
  void multiply(const Left& left, int64_t rows, const float* right, int64_t steps, int64_t used, int64_t columns,
                float* out, int64_t stride) const {
    constexpr int64_t kWide = V * kWidth;
    const Panels panels{reinterpret_cast<const char*>(right), Layout::float32, steps, used, kWide};
    product<V>(left, rows, panels, ceil_div(columns, kWide), round_up(columns, kWide), w.zeros,
               {out, stride, false, true}, {nullptr, w.packed, kRows}, [](int64_t, int, const float*) {});
  }

  void compute() {
    const Shape& s = part.shape;
    const View keys = rows_of(k, part.first_key, s.keys), values = rows_of(v, part.first_key, s.keys);
    for (int64_t column = 0; column < s.keys; column += kColumns) {
      pack_float_panel(w.keys + column * s.head_dim, transposed(keys), column, kColumns);
      pack_float_panel(w.values + column * s.value_dim, transposed(values), column, kColumns);
    }
    if (dq.data) pack_right_side(w.key_rows, keys);
    infinite_keys = is_infinite(w.keys, width * s.head_dim);
    memset(w.of_keys, 0, size_t(width * head) * 4);
    memset(w.of_values, 0, size_t(width * value) * 4);
    memset(w.zeros, 0, size_t(max64(width, max64(head, value))) * 4);
    for (int64_t first = 0; first < s.queries; first += kBlock) {
      const int64_t count = min64(kBlock, s.queries - first);
      pack_block(first, count);
      const bool alone = causal && (infinite_keys || is_infinite(w.query_panels, count * head) ||
                                    is_infinite(w.given_panels, count * value));
      if (!alone) block(first, count);
      // 0 times infinity is NaN: each query is then computed with nothing but what it sees
      for (int64_t i = first; alone && i < first + count; ++i) {
        pack_block(i, 1);
        block(i, 1);
      }
    }
    if (dk.data) write(rows_of(dk, part.first_key, s.keys), w.of_keys, head);
    if (dv.data) write(rows_of(dv, part.first_key, s.keys), w.of_values, value);
  }

  static bool is_infinite(const float* panels, int64_t count) {
    return has_infinite(reinterpret_cast<const char*>(panels), Layout::float32, count);
  }

  // Queries and dO of a block as right sides.
  void pack_block(int64_t first, int64_t count) const {
    pack_right_side(w.query_panels, block_of(q, first, count));
    pack_right_side(w.given_panels, block_of(g, first, count));
  }

  void block(int64_t first, int64_t count) const {
    const Shape& s = part.shape;
    const int64_t seen = causal ? before + first + count : s.keys, wide = panel_count(seen) * kColumns;
    const View queries = block_of(q, first, count), given = block_of(g, first, count);
    multiply<kVectors>(left_side(queries, w.queries), count, w.keys, s.head_dim, s.head_dim, seen, w.probs, width);
    multiply<kVectors>(left_side(given, w.given), count, w.values, s.value_dim, s.value_dim, seen, w.of_scores, width);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = before + first + i, own = causal ? query + 1 : s.keys;
      gradients_of_scores(w.probs + i * width, w.of_scores + i * width, query, own, wide);
    }
    if (dq.data) {
      const Left left{reinterpret_cast<char*>(w.of_scores), width * 4};
      multiply<kValueVectors>(left, count, w.key_rows, s.keys, seen, s.head_dim, w.of_queries, head);
      write(block_of(dq, first, count), w.of_queries, head);
    }
    if (dk.data) add_product(count, w.of_scores, width, seen, w.query_panels, s.head_dim, w.of_keys, head);
    if (dv.data) add_product(count, w.probs, width, seen, w.given_panels, s.value_dim, w.of_values, value);
  }

  // From a row of scores before scaling and of dP to P and dS: `seen` of them, and zeros up to `wide`.
  void gradients_of_scores(float* probs, float* of_scores, int64_t query, int64_t seen, int64_t wide) const {
    const float sum = weigh(probs, seen, wide, scale, part.pad, query);
    map_row_as_is(probs, probs, seen, [=](vf p) { return p / sum; });
    int64_t i = 0;
    for (; i + kWidth <= seen; i += kWidth) store(w.products + i, load(probs + i) * load(of_scores + i));
    for (; i < seen; ++i) w.products[i] = probs[i] * of_scores[i];
    const vf mean = broadcast(float(sum_row(w.products, seen))), factor = broadcast(scale);
    for (i = 0; i < seen; i += kWidth) {
      store(of_scores + i, load(probs + i) * (load(of_scores + i) - mean) * factor);
    }
    memset(of_scores + seen, 0, size_t(wide - seen) * 4);  // 0 times infinity is NaN
  }
};

}  // namespace

Status attention_backward(Context* context, Out dq, Out dk, Out dv, In g, In q, In k, In v, In pad, bool causal,
                          double scale) {
  const Shape s{q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[3], v.shape[3], Layout::float32};
  if (s.keys == 0) return {};
  const auto* padding = static_cast<const uint8_t*>(pad.data);
  const int64_t parts = padding ? 2 : 1;
  auto* changes = static_cast<int64_t*>(shared_scratch(context, 0, size_t(s.batch) * sizeof(int64_t)));
  if (!changes) return out_of_memory("the padding");
  for (int64_t row = 0; padding && row < s.batch; ++row) changes[row] = change_of(padding + row * s.keys, s.keys);
  const size_t bytes = BackwardWorkspace::bytes(s);
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, bytes)) return out_of_memory("the gradients of a head");
  }
  parallel(context, s.batch * s.heads * parts, [&](int64_t which, int thread) {
    const Part part = part_of(s, which, parts, padding, changes);
    if (part.shape.keys == 0) return;
    const auto workspace = BackwardWorkspace::in(thread_scratch(context, thread, 0, bytes), part.shape);
    HeadGradients{dq, dk, dv, g, q, k, v, part, workspace, causal, float(scale)}.compute();
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
