// Reduces rows to one value each: sums, means, extremes, variances, norms, logarithms of sums of powers. A row is what
// the last dimensions hold, one or several.
#include "../integers.h"
#include "exp_sum.h"
#include "extremes.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

constexpr int64_t kPart = 4096;         // elements of a row at a time: they stay in the first-level cache
constexpr int64_t kAhead = 1024;        // elements from one that is added to one that is fetched from memory meanwhile
constexpr int64_t kBlock = 32 * kPart;  // elements of a long row that one thread takes
constexpr int64_t kColumns = 512;       // rows that lie side by side and are reduced together, at most
constexpr int64_t kFewest = 8;          // the fewest of them, where a row is long
constexpr int64_t kLong = 64;           // elements of a long row
constexpr int64_t kNarrow = 64;         // so few that all of their lanes stay in the first-level cache
constexpr int64_t kShiftPart = 16;      // elements whose mean is subtracted before a variance's squares are added up
constexpr int kHalf = kLanes / 2;       // of Sum's lanes: float32 of a cache line

// ---- rows of several dimensions

// The dimensions of a row, joined where they lie together: one of them at least.
struct RowShape {
  int rank = 0;
  int64_t shape[kMaxRank], stride[kMaxRank], count = 1;

  RowShape(const View& x, int leading) {
    for (int d = leading; d < x.rank; ++d) {
      count *= x.shape[d];
      if (x.shape[d] == 1) continue;
      const bool joins = rank > 0 && stride[rank - 1] == x.shape[d] * x.stride[d];
      if (!joins) ++rank;
      shape[rank - 1] = joins ? shape[rank - 1] * x.shape[d] : x.shape[d];
      stride[rank - 1] = x.stride[d];
    }
    if (rank > 0) return;
    rank = 1;
    shape[0] = stride[0] = 1;
  }
  // the offset of element i
  int64_t at(int64_t i) const {
    int64_t offset = 0;
    for (int d = rank - 1; d > 0; --d) {
      offset += i % shape[d] * stride[d];
      i /= shape[d];
    }
    return offset + i * stride[0];
  }
  // Calls use(offset, stride, length) for stretches of one stride that make up elements [begin, end).
  template <class Use>
  SONDE_INLINE void each_stretch(int64_t begin, int64_t end, Use use) const {
    const int last = rank - 1;
    while (begin < end) {
      const int64_t length = rank == 1 ? end - begin : min64(end - begin, shape[last] - begin % shape[last]);
      use(at(begin), stride[last], length);
      begin += length;
    }
  }
};

// What is reduced: `rows` rows of x, each of them of shape `row`.
struct Task {
  Context* context;
  const View& out;
  const View& x;
  ReduceKind kind;
  double correction;
  RowShape row;
  int64_t rows;

  int64_t n() const { return row.count; }
  const char* from(int64_t i) const {
    return static_cast<char*>(x.data) + leading_offset(x, x.rank - out.rank, i) * dtype_size(x.dtype);
  }
  char* to(int64_t i) const { return static_cast<char*>(out.data) + i * dtype_size(out.dtype); }
  void write(int64_t i, float value) const { narrow(to(i), &value, out.dtype, 1); }
  // the number of rows that lie side by side: those of the dimension before the row's; 1 where they are better reduced
  // one by one, as they are few and long
  int64_t beside() const {
    const int d = out.rank - 1;
    if (out.rank == 0 || x.stride[d] != 1 || row.stride[row.rank - 1] == 1) return 1;
    return x.shape[d] < kFewest && row.count >= kLong ? 1 : x.shape[d];
  }
  // Elements [begin, end) of a row as float32, at most as many as scratch holds.
  const float* part(const char* from, int64_t begin, int64_t end, float* scratch) const {
    const int64_t size = dtype_size(x.dtype);
    if (row.rank == 1) {
      return read_row(from + begin * row.stride[0] * size, x.dtype, row.stride[0], end - begin, scratch);
    }
    float* to = scratch;
    row.each_stretch(begin, end, [&](int64_t offset, int64_t stride, int64_t length) {
      const float* stretch = read_row(from + offset * size, x.dtype, stride, length, to);
      if (stretch != to) memcpy(to, stretch, size_t(length) * 4);
      to += length;
    });
    return scratch;
  }
  // Calls use(elements, count) for the elements [begin, end) of a row, `part` at a time.
  template <class Use>
  SONDE_INLINE void each_part(const char* from, int64_t begin, int64_t end, int64_t length, float* scratch,
                              Use use) const {
    for (int64_t i = begin; i < end; i += length) {
      const int64_t count = min64(length, end - i);
      use(part(from, i, i + count, scratch), count);
    }
  }
};

// Reduces each row by find(row, begin, end, thread), a long one in blocks: merge(result, block) puts their results
// together in the order of the row, finish(row, result) writes them.
template <class Result, class Find, class Merge, class Finish>
Status in_blocks(const Task& task, Find find, Merge merge, Finish finish) {
  const int64_t n = task.n(), blocks = ceil_div(n, kBlock);
  if (blocks <= 1) {
    each_row(task.context, task.rows, n, [&](int64_t i, int thread) { finish(i, find(i, 0, n, thread)); });
    return {};
  }
  auto* results =
      static_cast<Result*>(shared_scratch(task.context, 0, size_t(task.rows) * size_t(blocks) * sizeof(Result)));
  if (!results) return out_of_memory("parts of rows");
  parallel(task.context, task.rows * blocks, [&](int64_t i, int thread) {
    const int64_t begin = i % blocks * kBlock;
    results[i] = find(i / blocks, begin, min64(n, begin + kBlock), thread);
  });
  for (int64_t i = 0; i < task.rows; ++i) {
    Result result = results[i * blocks];
    for (int64_t j = 1; j < blocks; ++j) merge(result, results[i * blocks + j]);
    finish(i, result);
  }
  return {};
}

// Calls body(first row, number of rows, thread) for groups of at most `most` rows that lie side by side.
template <class Body>
void each_group(const Task& task, int64_t most, Body body) {
  const int64_t width = task.beside(), leading = width ? task.rows / width : 0;
  // groups for all threads, but none narrower than a cache line
  while (most > kHalf && leading * ceil_div(width, most) < thread_count(task.context)) most /= 2;
  const int64_t groups = ceil_div(width, most);
  each_row(task.context, leading * groups, task.n() * min64(width, most), [&](int64_t i, int thread) {
    const int64_t first = i % groups * most;
    body(i / groups * width + first, min64(most, width - first), thread);
  });
}

// a[j] = function(a[j], x[j])
template <class Function>
SONDE_INLINE void map_rows(float* a, const float* x, int64_t n, Function function) {
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) store(a + j, function(load(a + j), load(x + j)));
  const int rest = int(n - j);
  if (rest) store_partial(a + j, function(load_partial(a + j, rest), load_partial(x + j, rest)), rest);
}

// ---- sums of floats

bool is_variance(ReduceKind kind) { return kind == ReduceKind::variance || kind == ReduceKind::deviation; }
bool needs_squares(ReduceKind kind) { return kind == ReduceKind::norm || is_variance(kind); }

// Sums over a row of x - shift and of its square.
struct Sums {
  double values = 0, squares = 0;
};

// The sum of squares about the mean over what is left of n, 0 at least: infinite or NaN then, as in PyTorch.
double variance_of(double squares, double n, double correction) {
  if (n == 0) return NAN;
  const double left = n - correction;
  return (squares < 0 ? 0 : squares) / (left > 0 ? left : 0);
}

float finished(const Task& task, const Sums& sums) {
  const auto n = double(task.n());
  switch (task.kind) {
    case ReduceKind::sum: return canonical(float(sums.values));
    case ReduceKind::mean: return task.n() ? canonical(float(sums.values / n)) : NAN;
    case ReduceKind::norm: return canonical(float(__builtin_sqrt(sums.squares)));
    default: break;
  }
  // of distances from the shift, which is close to the mean: little is lost when the mean's is subtracted
  const double squares = task.n() ? sums.squares - sums.values * sums.values / n : 0;
  const double variance = variance_of(squares, n, task.correction);
  return canonical(float(task.kind == ReduceKind::variance ? variance : __builtin_sqrt(variance)));
}

// What a variance's elements are shifted by: the mean of the first ones. Whatever they are, the variance of n elements
// is then at least the square of the distance from shift to mean, times kShiftPart / n.
double shift_of(const Task& task, const char* from, float* scratch) {
  const int64_t count = min64(kShiftPart, task.n());
  if (!is_variance(task.kind) || count == 0) return 0;
  return sum_row(task.part(from, 0, count, scratch), count) / double(count);
}

// Sum's lanes, of x - shift and of its square: those that a kind needs.
struct Lanes {
  alignas(64) double values[kLanes] = {}, squares[kLanes] = {};
};

// Adds n elements to kCount of the lanes, from `first` on: what these get of them.
template <int kCount, bool kValues, bool kSquares, bool kShift>
SONDE_INLINE void add_terms(Lanes& lanes, const float* x, int64_t n, int first, double shift) {
  constexpr int kVectors = kCount / kDoubles;
  vd values[kVectors], squares[kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j) {
    if (kValues) values[j] = load(lanes.values + first + j * kDoubles);
    if (kSquares) squares[j] = load(lanes.squares + first + j * kDoubles);
  }
  int64_t i = first;
  for (; i + kCount <= n; i += kLanes) {
    for (int j = 0; j < kCount; j += 16) __builtin_prefetch(x + i + j + kAhead);
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      vd v = load_doubles(x + i + j * kDoubles);
      if (kShift) v -= shift;
      if (kValues) values[j] += v;
      if (kSquares) squares[j] += v * v;
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j) {
    if (kValues) store(lanes.values + first + j * kDoubles, values[j]);
    if (kSquares) store(lanes.squares + first + j * kDoubles, squares[j]);
  }
  for (int j = first; i < n; ++i, ++j) {
    const double v = kShift ? x[i] - shift : x[i];
    if (kValues) lanes.values[j] += v;
    if (kSquares) lanes.squares[j] += v * v;
  }
}

template <int kCount>
SONDE_INLINE void add_terms(const Task& task, Lanes& lanes, const float* x, int64_t n, int first, double shift) {
  if (task.kind == ReduceKind::norm) add_terms<kCount, false, true, false>(lanes, x, n, first, shift);
  else if (is_variance(task.kind)) add_terms<kCount, true, true, true>(lanes, x, n, first, shift);
  else add_terms<kCount, true, false, false>(lanes, x, n, first, shift);
}

double total_of(double* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

Sums add_row(const Task& task, const char* from, float* scratch) {
  const int64_t n = task.n();
  if (n < kLanes && !needs_squares(task.kind)) return {sum_row(task.part(from, 0, n, scratch), n), 0};
  const double shift = shift_of(task, from, scratch);
  Lanes lanes;
  task.each_part(from, 0, n, kPart, scratch,
                 [&](const float* x, int64_t count) { add_terms<kLanes>(task, lanes, x, count, 0, shift); });
  return {total_of(lanes.values), total_of(lanes.squares)};
}

// Sums of few long rows of float32 that lie side by side in memory: two threads share a row, one takes the even cache
// lines, the other the odd ones. The lanes are those of Sum.
Status add_halves(const Task& task) {
  auto* lanes = static_cast<Lanes*>(shared_scratch(task.context, 0, size_t(task.rows) * sizeof(Lanes)));
  if (!lanes) return out_of_memory("sums of rows");
  for (int64_t i = 0; i < task.rows; ++i) lanes[i] = Lanes();
  parallel(task.context, task.rows * 2, [&](int64_t i, int) {
    const char* from = task.from(i / 2);
    const auto* x = reinterpret_cast<const float*>(from);
    add_terms<kHalf>(task, lanes[i / 2], x, task.n(), int(i % 2) * kHalf, shift_of(task, from, nullptr));
  });
  for (int64_t i = 0; i < task.rows; ++i) {
    task.write(i, finished(task, {total_of(lanes[i].values), total_of(lanes[i].squares)}));
  }
  return {};
}

// ---- sums of rows that lie side by side

// Scratch memory of a thread for its columns.
struct Columns {
  // Sums of some of the lanes: one that is complete, or several that wait for the lanes that they are added to.
  static constexpr int kLevels = 6;
  alignas(64) double values[kLevels][kColumns], squares[kLevels][kColumns];
  double shift[kColumns];
  float wide[4][kColumns + kWidth];

  static Columns* of(Context* context, int thread) {
    return static_cast<Columns*>(thread_scratch(context, thread, 1, sizeof(Columns)));
  }
  static bool reserve(Context* context) {
    for (int thread = 0; thread < thread_count(context); ++thread) {
      if (!of(context, thread)) return false;
    }
    return true;
  }
};

// Element i of `width` rows side by side as float32, and anything up to a multiple of kDoubles.
const float* across(const Task& task, const char* from, int64_t i, int64_t width, float* wide) {
  const int64_t size = dtype_size(task.x.dtype);
  const float* x = read_row(from + task.row.at(i) * size, task.x.dtype, 1, width, wide);
  const bool more = task.row.rank == 1 && task.row.stride[0] >= kDoubles && i + 1 < task.n();  // memory of x behind it
  if (x != wide && !more && width % kDoubles) {
    memcpy(wide, x, size_t(width) * 4);
    return wide;
  }
  return x;
}

// Adds kRows elements of each row, one after the other.
template <int kRows, bool kValues, bool kSquares, bool kShift>
SONDE_INLINE void add_across(double* values, double* squares, const double* shift, const float* const* x,
                             int64_t width) {
  for (int64_t j = 0; j < width; j += kDoubles) {
    vd sum, square;
    if (kValues) sum = load(values + j);
    if (kSquares) square = load(squares + j);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      vd v = load_doubles(x[i] + j);
      if (kShift) v -= load(shift + j);
      if (kValues) sum += v;
      if (kSquares) square += v * v;
    }
    if (kValues) store(values + j, sum);
    if (kSquares) store(squares + j, square);
  }
}

SONDE_INLINE void add_level(double* to, const double* from, int64_t width) {
  for (int64_t j = 0; j < width; j += kDoubles) store(to + j, load(to + j) + load(from + j));
}

// The first n elements of `width` <= kNarrow rows, one after the other, with all lanes in the cache: use(i, lane) adds
// element i to the lanes that begin there.
template <class Use>
SONDE_INLINE void each_narrow(Columns* c, int64_t n, int64_t width, bool squares, Use use) {
  int used = 1;
  while (used < n && used < kLanes) used *= 2;
  memset(c->values, 0, sizeof(double) * size_t(used * kNarrow));
  if (squares) memset(c->squares, 0, sizeof(double) * size_t(used * kNarrow));
  for (int64_t i = 0; i < n; ++i) use(i, i % kLanes * kNarrow);
  for (int half = used / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      add_level(c->values[0] + i * kNarrow, c->values[0] + (i + half) * kNarrow, width);
      if (squares) add_level(c->squares[0] + i * kNarrow, c->squares[0] + (i + half) * kNarrow, width);
    }
  }
}

// The sums of the first n elements of `width` rows, in level 0 of c: each in the order of Sum. Of many rows, a lane is
// added up at a time, so that its sums stay in the cache; the lanes come in the order in which Sum adds them to each
// other.
template <bool kValues, bool kSquares, bool kShift>
SONDE_INLINE void add_columns(const Task& task, const char* from, int64_t n, int64_t width, Columns* c) {
  if (width <= kNarrow) {
    each_narrow(c, n, width, kSquares, [&](int64_t i, int64_t lane) {
      const float* x = across(task, from, i, width, c->wide[0]);
      add_across<1, kValues, kSquares, kShift>(c->values[0] + lane, c->squares[0] + lane, c->shift, &x, width);
    });
    return;
  }
  int used = 1, bits = 0;
  for (; used < n && used < kLanes; used *= 2) ++bits;
  int top = -1;
  for (int k = 0; k < used; ++k) {
    int lane = 0;
    for (int bit = 0; bit < bits; ++bit) lane |= (k >> bit & 1) << (bits - 1 - bit);
    ++top;
    if (kValues) memset(c->values[top], 0, sizeof(double) * size_t(round_up(width, kDoubles)));
    if (kSquares) memset(c->squares[top], 0, sizeof(double) * size_t(round_up(width, kDoubles)));
    int64_t i = lane;
    for (const float* x[4]; i + 3 * kLanes < n; i += 4 * kLanes) {
      for (int j = 0; j < 4; ++j) x[j] = across(task, from, i + j * kLanes, width, c->wide[j]);
      add_across<4, kValues, kSquares, kShift>(c->values[top], c->squares[top], c->shift, x, width);
    }
    for (; i < n; i += kLanes) {
      const float* x = across(task, from, i, width, c->wide[0]);
      add_across<1, kValues, kSquares, kShift>(c->values[top], c->squares[top], c->shift, &x, width);
    }
    for (int done = k; done & 1; done >>= 1) {
      --top;
      if (kValues) add_level(c->values[top], c->values[top + 1], width);
      if (kSquares) add_level(c->squares[top], c->squares[top + 1], width);
    }
  }
}

Status add_neighbours(const Task& task) {
  if (!Columns::reserve(task.context)) return out_of_memory("sums of rows");
  const int64_t n = task.n();
  each_group(task, kColumns, [&](int64_t first, int64_t width, int thread) {
    Columns* c = Columns::of(task.context, thread);
    const char* from = task.from(first);
    if (task.kind == ReduceKind::norm) {
      add_columns<false, true, false>(task, from, n, width, c);
    } else if (!is_variance(task.kind)) {
      add_columns<true, false, false>(task, from, n, width, c);
    } else {
      const int64_t count = min64(kShiftPart, n);
      add_columns<true, false, false>(task, from, count, width, c);
      for (int64_t j = 0; j < round_up(width, kDoubles); ++j) c->shift[j] = count ? c->values[0][j] / double(count) : 0;
      add_columns<true, true, true>(task, from, n, width, c);
    }
    float results[kColumns];
    for (int64_t j = 0; j < width; ++j) results[j] = finished(task, {c->values[0][j], c->squares[0][j]});
    narrow(task.to(first), results, task.out.dtype, width);
  });
  return {};
}

// ---- extremes of floats: the largest or smallest element, 0 above -0; or of flags, which are 1 where an element is not
// 0

struct Extreme {
  bool largest, flags;

  explicit Extreme(ReduceKind kind)
      : largest(kind == ReduceKind::max || kind == ReduceKind::any),
        flags(kind == ReduceKind::any || kind == ReduceKind::all) {}
  float none() const { return flags ? (largest ? 0.0f : 1.0f) : largest ? -INFINITY : INFINITY; }
  // a, or b where it is better; NaN is best
  float better(float a, float b) const {
    const bool other = a == b ? largest == bool(__builtin_signbit(a)) : largest ? b > a : b < a;
    return other || b != b ? b : a;
  }
};

// The zero that is best, of a row whose best element is a zero.
float best_zero(const Extreme& e, const float* x, int64_t n) {
  const float best = e.largest ? 0.0f : -0.0f;
  int32_t wanted;
  memcpy(&wanted, &best, 4);
  int found = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    memcpy(&bits, x + i, 4);
    found |= bits == wanted;
  }
  return found ? best : -best;
}

float extreme_of(const Extreme& e, const float* x, int64_t n) {
  if (e.flags) {
    int zeros = 0, others = 0;
    for (int64_t i = 0; i < n; ++i) {
      zeros |= x[i] == 0;
      others |= x[i] != 0;
    }
    return (e.largest ? others : !zeros) ? 1.0f : 0.0f;
  }
  if (has_nan(x, n)) return NAN;
  const float best = e.largest ? max_row(x, n) : min_row(x, n);
  return best == 0 ? best_zero(e, x, n) : best;
}

template <bool kLargest, bool kFlags>
SONDE_INLINE void extremes_across(float* best, const float* x, int64_t width) {
  map_rows(best, x, width, [](vf a, vf b) {
    if (kFlags) b = b != 0.0f ? broadcast(1.0f) : vf{};
    const vf best = (kLargest ? b > a : b < a) | (b != b) ? b : a;
    const vi equal = a == b;  // the bits of equal elements differ in the sign of 0 alone
    return vf(kLargest ? vi(best) & (vi(b) | ~equal) : vi(best) | (vi(b) & equal));
  });
}

Status extremes(const Task& task) {
  const Extreme extreme(task.kind);
  if (task.beside() > 1) {
    each_group(task, kColumns, [&](int64_t first, int64_t width, int) {
      float best[kColumns], wide[kColumns];
      for (int64_t j = 0; j < width; ++j) best[j] = extreme.none();
      const char* from = task.from(first);
      for (int64_t i = 0; i < task.n(); ++i) {
        const char* at = from + task.row.at(i) * dtype_size(task.x.dtype);
        const float* x = read_row(at, task.x.dtype, 1, width, wide);
        if (extreme.flags && extreme.largest) extremes_across<true, true>(best, x, width);
        else if (extreme.flags) extremes_across<false, true>(best, x, width);
        else if (extreme.largest) extremes_across<true, false>(best, x, width);
        else extremes_across<false, false>(best, x, width);
      }
      for (int64_t j = 0; j < width; ++j) best[j] = canonical(best[j]);
      narrow(task.to(first), best, task.out.dtype, width);
    });
    return {};
  }
  if (!reserve_rows(task.context, 1, kPart)) return out_of_memory("a part of a row");
  return in_blocks<float>(
      task,
      [&](int64_t i, int64_t begin, int64_t end, int thread) {
        float best = extreme.none();
        float* scratch = row_scratch(task.context, thread, 1, kPart, 0);
        task.each_part(task.from(i), begin, end, kPart, scratch, [&](const float* x, int64_t count) {
          best = extreme.better(best, extreme_of(extreme, x, count));
        });
        return best;
      },
      [&](float& best, float block) { best = extreme.better(best, block); },
      [&](int64_t i, float best) { task.write(i, best); });
}

// ---- logarithms of sums of powers

// The sums of the powers of n elements of `width` rows, in level 0 of c: in the order of ExpSum. row(i, wide) gives
// element i of each.
template <class Row>
SONDE_INLINE void add_powers(Columns* c, int64_t n, int64_t width, const float* top, Row row) {
  constexpr int64_t kCount = ExpSum::kLanes;
  float wide[4][kNarrow + kWidth], beyond[kNarrow], fours[kNarrow + kWidth];
  for (float& x : beyond) x = -INFINITY;
  memset(c->values, 0, sizeof(double) * size_t(kCount * kNarrow));
  for (int64_t i = 0; i < n; i += ExpSum::kStep) {
    for (int64_t l = 0; l < kCount; ++l) {
      const float* x[4];
      for (int64_t m = 0; m < 4; ++m) x[m] = i + l + m * kCount < n ? row(i + l + m * kCount, wide[m]) : beyond;
      for (int64_t j = 0; j < width; j += kWidth) {
        const int count = int(min64(kWidth, width - j));
        const auto at = [&](const float* p) { return count == kWidth ? load(p + j) : load_partial(p + j, count); };
        const vf largest = at(top);
        const auto power = [&](int m) { return exp_below(at(x[m]) - largest); };
        store(fours + j, (power(0) + power(1)) + (power(2) + power(3)));
      }
      const float* sums = fours;
      add_across<1, true, false, false>(c->values[0] + l * kNarrow, nullptr, nullptr, &sums, width);
    }
  }
  for (int64_t half = kCount / 2; half > 0; half /= 2) {
    for (int64_t l = 0; l < half; ++l) {
      add_level(c->values[0] + l * kNarrow, c->values[0] + (l + half) * kNarrow, width);
    }
  }
}

Status log_sums(const Task& task) {
  const bool beside = task.beside() > 1;
  if (beside ? !Columns::reserve(task.context) : !reserve_rows(task.context, 1, kExpPart)) {
    return out_of_memory("parts of rows");
  }
  const int64_t n = task.n(), size = dtype_size(task.x.dtype);
  if (!beside) {
    return in_blocks<ExpSum>(
        task,
        [&](int64_t i, int64_t begin, int64_t end, int thread) {
          ExpSum sum;
          float* scratch = row_scratch(task.context, thread, 1, kExpPart, 0);
          task.each_part(task.from(i), begin, end, kExpPart, scratch,
                         [&](const float* x, int64_t count) { sum.add(x, count); });
          return sum;
        },
        [](ExpSum& sum, const ExpSum& block) { sum.add(block); },
        [&](int64_t i, const ExpSum& sum) { task.write(i, canonical(float(sum.log_sum()))); });
  }
  // of rows that lie side by side, a part stays in the second-level cache
  each_group(task, kNarrow, [&](int64_t first, int64_t width, int thread) {
    Columns* c = Columns::of(task.context, thread);
    float *wide = c->wide[0], *top = c->wide[1];
    const char* from = task.from(first);
    const auto row = [&](int64_t i, float* scratch) {
      return read_row(from + task.row.at(i) * size, task.x.dtype, 1, width, scratch);
    };
    ExpSum sums[kNarrow], blocks[kNarrow];
    for (int64_t begin = 0; begin < n; begin += kExpPart) {
      const int64_t count = min64(kExpPart, n - begin);
      for (int64_t j = 0; j < width; ++j) top[j] = -INFINITY;
      for (int64_t i = 0; i < count; ++i) {
        map_rows(top, row(begin + i, wide), width, [](vf a, vf x) { return maximum(x, a); });
      }
      add_powers(c, count, width, top, [&](int64_t i, float* scratch) { return row(begin + i, scratch); });
      for (int64_t j = 0; j < width; ++j) {
        if (top[j] - top[j] == 0) continue;
        c->values[0][j] = top[j] > 0 ? 1 : 0;
        for (int64_t i = 0; i < count; ++i) {
          const float x = row(begin + i, wide)[j];
          if (x != x) c->values[0][j] = NAN;
        }
      }
      const bool last = begin + count == n || (begin + count) % kBlock == 0;  // of a block, as in in_blocks()
      for (int64_t j = 0; j < width; ++j) {
        blocks[j].add({top[j], c->values[0][j]});
        if (!last) continue;
        if (begin < kBlock) sums[j] = blocks[j];
        else sums[j].add(blocks[j]);
        blocks[j] = {};
      }
    }
    float results[kNarrow];
    for (int64_t j = 0; j < width; ++j) results[j] = canonical(float(sums[j].log_sum()));
    narrow(task.to(first), results, task.out.dtype, width);
  });
  return {};
}

// ---- int32

// What the elements of a row come to, exactly: their sum and its squares' sum, or the extreme in the sum's place.
struct Whole {
  int64_t value;
  unsigned __int128 squares;
};

Status integers(const Task& task) {
  const bool sums = task.kind != ReduceKind::max && task.kind != ReduceKind::min,
             largest = task.kind == ReduceKind::max;
  const bool squares = needs_squares(task.kind);
  const Whole none = {sums ? 0 : largest ? INT32_MIN : INT32_MAX, 0};
  Failures failures;
  const auto finish = [&](int64_t i, const Whole& all) {
    const auto n = double(task.n());
    float result;
    switch (task.kind) {
      case ReduceKind::mean: result = task.n() ? float(double(all.value) / n) : NAN; break;
      case ReduceKind::norm: result = float(__builtin_sqrt(double(all.squares))); break;
      case ReduceKind::variance:
      case ReduceKind::deviation: {
        const auto mean_square = static_cast<unsigned __int128>(static_cast<__int128>(all.value) * all.value);
        const unsigned __int128 spread = all.squares * static_cast<unsigned __int128>(task.n()) - mean_square;
        const double variance = variance_of(task.n() ? double(spread) / n : 0, n, task.correction);
        result = canonical(float(task.kind == ReduceKind::variance ? variance : __builtin_sqrt(variance)));
        break;
      }
      default: {
        const auto value = int32_t(all.value);
        if (value != all.value) failures.at(i);
        memcpy(&result, &value, 4);
      }
    }
    memcpy(task.to(i), &result, 4);
  };
  const auto find = [&](int64_t row, int64_t begin, int64_t end, int) {
    Whole all = none;
    const auto* from = reinterpret_cast<const int32_t*>(task.from(row));
    task.row.each_stretch(begin, end, [&](int64_t offset, int64_t stride, int64_t length) {
      const int32_t* x = from + offset;
      if (squares) {
        for (int64_t i = 0; i < length; ++i) {
          const int64_t value = x[i * stride];
          all.value += value;
          all.squares += uint64_t(value * value);
        }
      } else if (sums) {
        for (int64_t i = 0; i < length; ++i) all.value += x[i * stride];
      } else if (largest) {
        for (int64_t i = 0; i < length; ++i) all.value = max64(all.value, x[i * stride]);
      } else {
        for (int64_t i = 0; i < length; ++i) all.value = min64(all.value, x[i * stride]);
      }
    });
    return all;
  };
  Status status;
  if (task.beside() > 1 && !squares) {
    each_group(task, kColumns, [&](int64_t first, int64_t width, int) {
      int64_t all[kColumns];
      for (int64_t j = 0; j < width; ++j) all[j] = none.value;
      const auto* from = reinterpret_cast<const int32_t*>(task.from(first));
      for (int64_t i = 0; i < task.n(); ++i) {
        const int32_t* x = from + task.row.at(i);
        if (sums) {
          for (int64_t j = 0; j < width; ++j) all[j] += x[j];
        } else if (largest) {
          for (int64_t j = 0; j < width; ++j) all[j] = max64(all[j], x[j]);
        } else {
          for (int64_t j = 0; j < width; ++j) all[j] = min64(all[j], x[j]);
        }
      }
      for (int64_t j = 0; j < width; ++j) finish(first + j, {all[j], 0});
    });
  } else {
    status = in_blocks<Whole>(
        task, find,
        [&](Whole& all, const Whole& block) {
          all.value = sums      ? all.value + block.value
                      : largest ? max64(all.value, block.value)
                                : min64(all.value, block.value);
          all.squares += block.squares;
        },
        finish);
  }
  if (status.failed() || !failures.any()) return status;
  return sum_not_int32(failures.first(), find(failures.first(), 0, task.n(), 0).value);
}

}  // namespace

Status reduce(Context* context, Out out, In x, ReduceKind kind, double correction) {
  const Task task = {context, out, x, kind, correction, RowShape(x, out.rank), element_count(out)};
  if (task.rows == 0) return {};
  if (kind == ReduceKind::log_sum_exp) return log_sums(task);
  if (kind == ReduceKind::any || kind == ReduceKind::all) return extremes(task);
  if (x.dtype == DType::int32) return integers(task);
  if (kind == ReduceKind::max || kind == ReduceKind::min) return extremes(task);
  if (task.beside() > 1) return add_neighbours(task);
  const bool flat = task.row.rank == 1 && task.row.stride[0] == 1 && x.dtype == DType::float32;
  if (flat && task.rows < thread_count(context) && task.n() >= 2 * kWorthSharing) return add_halves(task);
  if (!reserve_rows(context, 1, kPart)) return out_of_memory("a part of a row");
  each_row(context, task.rows, task.n(), [&](int64_t i, int thread) {
    task.write(i, finished(task, add_row(task, task.from(i), row_scratch(context, thread, 1, kPart, 0))));
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
