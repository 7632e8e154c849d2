// The bounds of sparse_encode's filter (native/cpu/filter.h and fine_bounds.h). Oracle: float32 sums in the order of the
// kernels, computed here with std::fma. No bound may lie on the wrong side of its sum, in random cases and in some that nearly attain one
// term of the bound each. filter.test.ts plants bounds that are a little too small.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/fine_bounds.h"
#include "cpu/pack_filter.cc"

// What pack_filter.cc links to, and nothing here calls.
namespace sonde {
int thread_count(const Context*) { abort(); }
void* thread_scratch(Context*, int, int, size_t) { abort(); }
void parallel_for(Context*, int64_t, void (*)(void*, int64_t, int), void*) { abort(); }
FilterUse filter_use(const Context*) { abort(); }
bool dots_bytes(const Context*) { abort(); }
double measured_once(Context*, double (*)()) { abort(); }
}  // namespace sonde

using namespace sonde;
using namespace sonde::SONDE_ISA;

namespace {

std::mt19937 engine(1);
double uniform(double low, double high) { return low + (high - low) * double(engine()) / 4294967296.0; }
float normal() { return float(std::sqrt(-2 * std::log(uniform(1e-10, 1))) * std::cos(uniform(0, 6.2831853))); }

// bias + x w in float32: blocks of kDepth products, of which the first one starts from the bias.
float float_sum(const std::vector<float>& x, const std::vector<float>& w, float bias) {
  float all = 0;
  for (size_t from = 0; from < x.size(); from += kDepth) {
    float sum = from == 0 ? bias : 0;
    for (size_t p = from; p < x.size() && p < from + kDepth; ++p) sum = std::fma(x[p], w[p], sum);
    all = from == 0 ? sum : all + sum;
  }
  return all;
}

int wrong = 0;

// Compares the bounds of a row times a column with their sum, for a threshold and for a ranking. `splits` is how many of the
// first channels are split off.
void check(const char* what, const std::vector<float>& x, const std::vector<float>& w, float bias, int splits = 0) {
  const int64_t k = int64_t(x.size());
  const float sum = float_sum(x, w, bias);

  std::vector<char> filter_memory(size_t(Filter::size(k, 1)));
  const Filter filter = Filter::in(filter_memory.data(), k, 1);
  std::vector<float> panel(size_t(k * kColumns));
  for (int64_t p = 0; p < k; ++p) panel[size_t(p * kColumns)] = w[size_t(p)];
  pack_columns(filter, 0, panel.data(), k);

  std::vector<char> row_memory(FilterRows::size(1, k));
  FilterRows rows = FilterRows::in(row_memory.data(), 1, k);
  rows.splits = splits;
  for (int s = 0; s < splits; ++s) rows.channels[s] = s;
  for (int i = 0; i < kDotRows; ++i) {
    std::vector<float> row(size_t(round_up(k, 64)));
    if (i == 0) memcpy(row.data(), x.data(), size_t(k) * 4);
    rows.set(i, row.data(), k);
  }

  std::vector<int16_t> fine_memory(FineColumns::size(k, kColumns) / 2);
  const FineColumns fine = FineColumns::in(fine_memory.data(), k, kColumns);
  fine.set({reinterpret_cast<const char*>(panel.data()), Layout::float32, k, k}, 0, filter, 0, k);

  int32_t sums[kDotRows * kColumns];
  dot_tile(filter.steps, rows.bytes, rows.stride, rows.start, filter.panel(0), sums, nullptr);
  std::vector<float> split(size_t(max64(1, splits) * kColumns));
  for (int s = 0; s < splits; ++s) split[size_t(s * kColumns)] = w[size_t(s)];
  const auto coarse_bound = [&](float threshold) {
    float biases[kColumns] = {upper_bias(bias, threshold, k)};
    vf upper[kDotRows];
    upper_bounds(upper, sums, rows.rows, splits,
                 {filter.scale, filter.norm, filter.residual, biases, split.data(), kColumns});
    return upper[0][0];
  };
  const auto fine_bound = [&](float threshold) {
    const int16_t* column = fine.column(0);
    double sum;
    multiply_shorts(1, rows.shorts, &column, fine.stride, &sum);
    const FineBound own = {filter.scale[0], filter.norm[0], fine.residual[0], upper_bias(bias, threshold, k),
                           split.data()};
    return own.upper(sum, rows.rows[0], splits, kColumns);
  };
  const auto try_bound = [&](const char* kind, auto bound, const RowBound& row, float residual) {
    const auto fail = [&](const char* which, double value) {
      if (wrong++ < 5) std::fprintf(stderr, "WRONG %s: %s %s %.9g, sum %.9g\n", what, kind, which, value, double(sum));
    };
    const float upper = bound(0.0f);
    if (upper < sum) fail("upper", upper);
    const float lower = lower_bound(upper, row, filter.norm[0], residual, bias, k);
    if (!(lower <= sum) && sum == sum) fail("lower", lower);
    // the largest threshold that the sum is above
    const float below = nextafterf(sum, -INFINITY);
    if (below >= 0 && below < INFINITY && bound(below) <= 0) fail("threshold", below);
  };
  try_bound("coarse", coarse_bound, rows.rows[0].coarse, filter.residual[0]);
  // fine bounds are used where the coarse one is finite
  if (coarse_bound(0) < INFINITY) try_bound("fine", fine_bound, rows.rows[0].fine, fine.residual[0]);
}

// ---- cases that nearly attain a term

using Floats = std::vector<float>;

// What rounding to multiples of 1/largest of the largest value, 1, leaves is nearly half of one in all channels but the first.
Floats half_steps(int64_t k, double steps, int largest) {
  Floats x(size_t(k), float((steps + 0.4999) / largest));
  x[0] = 1;
  return x;
}
Floats all_but_first(int64_t k, float value) {
  Floats w(size_t(k), value);
  w[0] = 0;
  return w;
}

void tight() {
  for (const int64_t k : {2, 3, 5, 16, 20, 64, 127, 300, 700}) {
    for (const double steps : {0.0, 1.0, 5.0}) {
      for (const float size : {1.0f, -1.0f, 1000.0f, 1e-6f}) {
        for (const int largest : {kLargestByte, kLargestShort}) {
          const Floats x = half_steps(k, steps, largest), w = all_but_first(k, size);
          check("the row's error", x, w, 0);
          check("the row's error", x, w, -0.001f * size);
          check("the column's error", w, x, 0);
          check("the column's error", w, x, 0.001f * size);
        }
      }
    }
  }
  // Each product is a little more than half a unit in the last place of the sum, which is rounded up every time, or down. The
  // first product is split off, or it is the bias.
  for (const int64_t k : {64, 256, 512, 767, 768}) {
    const float unit = 0x1p-24f, step = 1.0f / 127;
    Floats w(size_t(k), step), x(size_t(k), unit * 127.0001f);
    w[0] = x[0] = 1;
    check("rounded up", x, w, 0, 1);
    x[0] = 0;
    w[0] = 1;
    check("rounded up from the bias", x, w, 1);
    for (float& v : x) v = -v;
    check("rounded down from the bias", x, w, 1 + 0x1p-12f);
    x[0] = 1 + 0x1p-12f;
    check("rounded down", x, w, 0, 1);
  }
}

// ---- random cases

void at_random() {
  constexpr float kSpecial[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 0x1p61f, 1e-40f, -1e-45f};
  for (int i = 0; i < 6000; ++i) {
    const auto k = int64_t(i % 50 == 0 ? uniform(700, 1700) : uniform(1, 100));
    constexpr double kScales[] = {1, 1, 1, 1e-3, 1e15, 0x1p-110, 0x1p-140, 0x1p58};
    const auto scale = [&] { return kScales[size_t(uniform(0, 8))]; };
    const auto values = [&](double by) {
      Floats v(static_cast<size_t>(k));
      const int kind = int(uniform(0, 6));
      for (float& f : v) {
        f = normal() * float(by);
        if (kind == 0) f = uniform(0, 1) < 0.9 ? 0 : f;
        if (kind == 1) f *= uniform(0, 1) < 0.1 ? 300 : 1;
        if (kind == 2 && uniform(0, 1) < 0.05) f = kSpecial[size_t(uniform(0, 8))];
      }
      return v;
    };
    const Floats x = values(scale()), w = values(scale());
    const float bias = i % 3 == 0 ? 0 : i % 31 == 0 ? kSpecial[size_t(uniform(0, 8))] : normal() * float(scale());
    check("random", x, w, bias, int(uniform(0, double(min64(k, kSplitChannels) + 1))));
  }
}

}  // namespace

int main() {
  tight();
  at_random();
  if (wrong) return 1;
  std::printf("filter_test: good\n");
}
