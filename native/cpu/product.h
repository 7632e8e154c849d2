// The matrix product behind linear, matmul, attention and sparse_encode.
//
// A task is some rows by a group of panels, kDepth steps at a time. Where rows are read in place, the group's part for
// these steps stays in the second-level cache while the rows are read, each tile of them in the first-level cache. Where
// they are packed, a block of them stays in the second-level cache, and each panel in turn is multiplied by all of its
// tiles while the next panel is fetched. Every sum starts from the bias and adds its products in ascending k, whatever
// the shape, the batch, the caches or the number of threads: the last tile of rows is only narrower, and the last panel
// is computed whole and its surplus dropped.
#pragma once
#include "panels.h"

namespace sonde::SONDE_ISA {

constexpr int64_t kDepth = 768;                                  // steps at a time
constexpr int64_t kGroup = (kPacksRows ? 384 : 192) / kColumns;  // panels at a time
constexpr int64_t kGroupColumns = kGroup * kColumns;
constexpr int64_t kTaskRows = 512 / kRows * kRows;  // rows at a time, at most

// ---- the left side: rows whose elements lie side by side, in the type that the layout needs

struct Left {
  const char* data;
  int64_t stride;  // bytes

  const char* row(int64_t i) const { return data + i * stride; }
};

// The layout in which x is multiplied by a right side: pairs are multiplied by pairs only where x is bfloat16.
inline Layout product_layout(Layout right, DType x) {
  return right == Layout::pairs && x != DType::bfloat16 ? Layout::widened_pairs : right;
}
// Whether x [M, K] can be read in place.
inline bool is_left(const View& x, Layout layout) {
  if (x.stride[1] != 1 && x.shape[1] > 1) return false;
  if (is_paired(layout) && x.shape[1] % 2) return false;
  return x.dtype == (layout == Layout::pairs ? DType::bfloat16 : DType::float32);
}
inline Left left_of(const View& x) { return {static_cast<const char*>(x.data), x.stride[0] * dtype_size(x.dtype)}; }
// Bytes of a row that was converted to the layout.
constexpr int64_t left_row_bytes(Layout layout, int64_t k) { return step_count(layout, k) * left_bytes(layout); }

// Converts row i of x, of any strides and float dtype, to the layout.
inline void convert_row(char* to, const View& x, int64_t i, Layout layout) {
  const int64_t k = x.shape[1], size = dtype_size(x.dtype);
  const char* from = static_cast<const char*>(x.data) + i * x.stride[0] * size;
  if (layout == Layout::widened_pairs && k % 2) {
    const float nothing = -0.0f;  // times the 0 of the right side: a sum of -0 stays -0
    memcpy(to + k * 4, &nothing, 4);
  } else if (layout == Layout::pairs && k % 2) {
    memset(to + k * 2, 0, 2);
  }
  if (layout != Layout::pairs) return read_strided(reinterpret_cast<float*>(to), from, x.dtype, x.stride[1], k);
  float part[64];
  for (int64_t done = 0; done < k; done += 64) {
    const int64_t n = min64(64, k - done);
    read_strided(part, from + done * x.stride[1] * size, x.dtype, x.stride[1], n);
    narrow(to + done * 2, part, DType::bfloat16, n);
  }
}

// Bytes from one converted row to the next. Where they were a multiple of 4 KiB, the rows of a tile would fall into the
// same few lines of the first-level cache.
constexpr int64_t converted_stride(Layout layout, int64_t k) {
  const int64_t bytes = left_row_bytes(layout, k);
  return bytes % 4096 ? bytes : bytes + 64;
}

// Converts rows i to i + count of x, `stride` bytes apart. Where its columns lie side by side, rows are read together, as
// they share cache lines.
inline void convert_rows(char* to, int64_t stride, const View& x, int64_t i, int64_t count, Layout layout) {
  const int64_t k = x.shape[1];
  const bool as_is = x.dtype == DType::float32 && left_row_bytes(layout, k) == k * 4 && layout != Layout::pairs;
  if (as_is && x.stride[0] == 1 && x.stride[1] != 1) {
    const float* from = static_cast<const float*>(x.data) + i;
    return transpose_block(reinterpret_cast<float*>(to), stride / 4, from, x.stride[1], k, count);
  }
  for (int64_t row = 0; row < count; ++row) convert_row(to + row * stride, x, i + row, layout);
}

// Packs kRows rows of float32, `stride` bytes apart, as [k][kRows].
inline void pack_rows(float* to, const char* from, int64_t stride, int64_t k) {
  const float* row[kRows];
  for (int i = 0; i < kRows; ++i) row[i] = reinterpret_cast<const float*>(from + i * stride);
  int64_t p = 0;
#if defined(__AVX2__) && !defined(__AVX512F__)
  static_assert(kRows == 6);
  for (; p + 8 <= k; p += 8, to += 48) {
    __m256 pair[3][2];  // of rows: their values of steps 0, 1, 4, 5 and of 2, 3, 6, 7
    for (int i = 0; i < 3; ++i) {
      const __m256 a = _mm256_loadu_ps(row[2 * i] + p), b = _mm256_loadu_ps(row[2 * i + 1] + p);
      pair[i][0] = _mm256_unpacklo_ps(a, b);
      pair[i][1] = _mm256_unpackhi_ps(a, b);
    }
    __m256 part[6];  // two steps of six rows in three vectors, in the lower halves; four steps later in the upper ones
    for (int i = 0; i < 2; ++i) {
      part[3 * i] = _mm256_shuffle_ps(pair[0][i], pair[1][i], 0x44);
      part[3 * i + 1] = _mm256_shuffle_ps(pair[2][i], pair[0][i], 0xe4);
      part[3 * i + 2] = _mm256_shuffle_ps(pair[1][i], pair[2][i], 0xee);
    }
    for (int i = 0; i < 3; ++i) {
      _mm256_storeu_ps(to + 8 * i, _mm256_permute2f128_ps(part[2 * i], part[2 * i + 1], 0x20));
      _mm256_storeu_ps(to + 24 + 8 * i, _mm256_permute2f128_ps(part[2 * i], part[2 * i + 1], 0x31));
    }
  }
#endif
  for (; p < k; ++p, to += kRows) {
    for (int i = 0; i < kRows; ++i) to[i] = row[i][p];
  }
}

// ---- a task

// Steps at a time: where pairs are widened to float32 first, a step has two k.
constexpr int64_t depth_of(Layout layout) { return layout == Layout::widened_pairs ? kDepth / 2 : kDepth; }
// Whether a product of `steps` steps is complete after one pass over its columns.
constexpr bool in_one_pass(Layout layout, int64_t steps) { return steps <= depth_of(layout); }

// Rows that are packed together, a block. With their sums they fill about half of a core's second-level cache; more than
// a few tiles gain nothing.
inline int64_t block_rows(Context* context) {
  if (!kPacksRows) return 0;
  constexpr int64_t kTileBytes = (kDepth + kGroupColumns) * 4 * kRows;
  return max64(2, min64(16, cache_bytes(context) / (2 * kTileBytes))) * kRows;
}

// The scratch memory of a product. One of fewer than kRows rows does not use it.
struct Scratch {
  float* widened = nullptr;  // panels as float32: one where rows are packed, else a group's
  float* packed = nullptr;   // a block of rows
  int64_t block_rows = 0;

  static int64_t widened_floats(Layout layout) {
    if (layout == Layout::float32 || layout == Layout::pairs) return 0;
    return kDepth * (kPacksRows ? kColumns : kGroupColumns);
  }
  static int64_t floats(Layout layout, int64_t block_rows) {
    return widened_floats(layout) + (kPacksRows ? kDepth * block_rows : 0);
  }
  static Scratch in(float* memory, Layout layout, int64_t block_rows) {
    return {memory, memory + widened_floats(layout), block_rows};
  }
};

// The memory of a product's sums: rows of `stride` floats, either for all rows or, where it is reused, for those that are
// computed together. `padded`: a row holds whole panels.
struct Sums {
  float* data;
  int64_t stride;
  bool reused;
  bool padded;

  float* row(int64_t i) const { return reused ? data : data + i * stride; }
  // Rows of memory that a product of `rows` rows needs.
  static int64_t rows(Layout layout, int64_t steps, int64_t rows, int64_t block_rows) {
    if (!in_one_pass(layout, steps)) return rows;
    return kPacksRows ? block_rows : kRows;
  }
};

// Panels as float32, side by side in `scratch`, from their step `at` on.
inline Panels widen_panels(const Panels& b, int64_t panels, int64_t at, int64_t depth, float* scratch) {
  const int64_t per_step = is_paired(b.layout) ? 2 : 1, k = depth * per_step;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t p = 0; p < k; ++p) unpack_row(scratch + (panel * k + p) * b.columns, b, panel, at * per_step + p);
  }
  return {reinterpret_cast<const char*>(scratch), Layout::float32, k, k, b.columns};
}

// One tile of rows, at most kRows, times `panels` panels; `columns` of their columns are wanted.
template <int V>
SONDE_INLINE void multiply_tile(Microkernel kernel, int count, int64_t depth, const char* a, int64_t lda,
                                const Panels& b, int64_t at, int64_t panels, int64_t columns, const float* bias,
                                bool last, const Sums& sums, float* c) {
  constexpr int64_t kWide = V * kWidth;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const float* start = bias ? bias + panel * kWide : nullptr;
    const int64_t valid = min64(kWide, columns - panel * kWide);
    float* out = c + panel * kWide;
    if (sums.padded || valid == kWide) {
      kernel(depth, a, lda, b.at(panel, at), out, sums.stride, start, last);
      continue;
    }
    float edge[kRows * kWide];
    for (int i = 0; !start && i < count; ++i) memcpy(edge + i * kWide, out + i * sums.stride, size_t(valid) * 4);
    kernel(depth, a, lda, b.at(panel, at), edge, kWide, start, last);
    for (int i = 0; i < count; ++i) memcpy(out + i * sums.stride, edge + i * kWide, size_t(valid) * 4);
  }
}

// Packs and multiplies `tiles` tiles of kRows rows; c has padded rows.
template <int V>
void multiply_packed_tiles(int64_t tiles, int64_t depth, const char* a, int64_t lda, const Panels& b, int64_t at,
                           int64_t panels, const float* bias, bool last, float* c, int64_t ldc,
                           const Scratch& scratch) {
  constexpr int64_t kWide = V * kWidth;
  // from one tile to the next: where in the next panel it begins to fetch
  const int64_t share = round_up(ceil_div(depth * step_bytes(b.layout, kWide), tiles), 64);
  for (int64_t i = 0; i < tiles; ++i) pack_rows(scratch.packed + i * kRows * depth, a + i * kRows * lda, lda, depth);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const char* columns = b.at(panel, at);
    if (Scratch::widened_floats(b.layout)) {
      widen(scratch.widened, columns, b.layout == Layout::float16 ? DType::float16 : DType::bfloat16, depth * kWide);
      columns = reinterpret_cast<const char*>(scratch.widened);
    }
    const char* next = b.at(panel + 1 < panels ? panel + 1 : 0, at);
    for (int64_t i = 0; i < tiles; ++i) {
      multiply_packed<V>(depth, scratch.packed + i * kRows * depth, reinterpret_cast<const float*>(columns),
                         c + i * kRows * ldc + panel * kWide, ldc, bias ? bias + panel * kWide : nullptr, last,
                         next + i * share);
    }
  }
}

// sums [rows, columns] = bias + a b, for `panels` panels of V vectors. b.layout is also the layout of a's rows. `bias`
// has a whole number of panels. finish(row, count, c) is called when a tile of rows is complete and still in the
// cache. A NaN among the sums is canonical. Where rows are packed, kRows of them or more need padded sums.
template <int V, class Finish>
SONDE_INLINE void product(const Left& a, int64_t rows, const Panels& b, int64_t panels, int64_t columns,
                          const float* bias, const Sums& sums, const Scratch& scratch, Finish finish) {
  int64_t at = 0;
  do {  // once even if there are no steps: the bias alone
    const int64_t depth = min64(depth_of(b.layout), b.used - at);
    const bool last = at + depth >= b.used;
    const float* start = at == 0 ? bias : nullptr;
    int64_t row = 0;
    if constexpr (kPacksRows) {
      // Widening a panel is worth it for two tiles. The blocks are of about the same size.
      const int64_t all = rows >= 2 * kRows || !Scratch::widened_floats(b.layout) ? rows / kRows : 0;
      const int64_t blocks = all ? ceil_div(all * kRows, scratch.block_rows) : 0;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t tiles = all * (block + 1) / blocks - all * block / blocks;
        float* c = sums.row(row);
        multiply_packed_tiles<V>(tiles, depth, a.row(row) + at * left_bytes(b.layout), a.stride, b, at, panels, start,
                                 last, c, sums.stride, scratch);
        for (int64_t i = 0; last && i < tiles; ++i) finish(row + i * kRows, kRows, c + i * kRows * sums.stride);
        row += tiles * kRows;
      }
    }
    Panels part = b;
    int64_t from = at, steps = depth;
    // panels of a group are used more than once where there is more than a tile
    if (!kPacksRows && rows > kRows && Scratch::widened_floats(b.layout)) {
      part = widen_panels(b, panels, at, depth, scratch.widened);
      from = 0;
      steps = part.steps;
    }
    const Microkernel full = microkernel<V>(part.layout, kRows);
    for (; row < rows; row += kRows) {
      const int count = int(min64(kRows, rows - row));
      const Microkernel kernel = count == kRows ? full : microkernel<V>(part.layout, count);
      float* c = sums.row(row);
      multiply_tile<V>(kernel, count, steps, a.row(row) + at * left_bytes(b.layout), a.stride, part, from, panels,
                       columns, start, last, sums, c);
      if (last) finish(row, count, c);
    }
    at += depth;
  } while (at < b.used);
}

// ---- bias, activation and the split into tasks

// Writes the bias [N], of any float dtype or left out, as float32 with zeros up to a whole number of panels.
inline void widen_bias(float* to, const View& bias, int64_t n) {
  memset(to, 0, size_t(panel_count(n) * kColumns) * 4);
  if (bias.data) widen(to, bias.data, bias.dtype, n);
}

SONDE_INLINE void activate(float* x, int64_t n, Activation activation) {
  if (activation == Activation::gelu) map_row(x, x, n, [](vf v) { return gelu(v); });
  if (activation == Activation::relu) map_row_as_is(x, x, n, [](vf v) { return v < 0.0f ? vf{} : v; });
}

// How a product is split into tasks: several for each thread, as some processors are slower than others.
struct Split {
  int64_t rows, panels;          // of a task
  int64_t row_parts, col_parts;  // tasks, in both directions
  int64_t count() const { return row_parts * col_parts; }
};
inline Split split(int64_t rows, int64_t panels, int threads, bool by_rows = true) {
  // fewer are not worth another trip of the panels through the cache
  constexpr int64_t kFewRows = (kPacksRows ? 4 : 8) * kRows;
  // One tile alone is bound by reading memory, and a task of more than a moment keeps the other threads waiting.
  const int64_t wanted = threads == 1 ? 1 : (rows > kRows ? 4 : 16) * threads;
  Split s{by_rows ? min64(rows, kTaskRows) : rows, min64(panels, kGroup), 0, 0};
  if (kPacksRows && by_rows && threads > 1) {
    // Blocks of rows are small anyway, and the smaller the tasks, the shorter the wait for the last one.
    const int64_t least = ceil_div(rows * ceil_div(panels, s.panels), 4 * wanted);
    s.rows = min64(s.rows, max64(kFewRows, round_up(least, kRows)));
  }
  for (;;) {
    s.row_parts = ceil_div(rows, s.rows);
    s.col_parts = ceil_div(panels, s.panels);
    if (s.count() >= wanted) return s;
    if (by_rows && s.rows > (s.panels > 1 ? kFewRows : kRows)) s.rows = round_up(ceil_div(s.rows, 2), kRows);
    else if (s.panels > 1) s.panels = ceil_div(s.panels, 2);
    else return s;
  }
}

}  // namespace sonde::SONDE_ISA
