// Every kernel on the emulator against the CPU backend, on random shapes, layouts and dtypes, under several schedules; products against
// sums in double precision as well. Also built with sanitizers, and with planted mistakes, which it must find.
//   kernels_test [cases] [seeds] [word]...    cases per operation and schedule; only tests whose name contains a word
#include <math.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../kernels/split_operand.cuh"
#include "../native/check.h"
#include "cpu/backend.h"
#include "cuda_runtime.h"
#include "ops.h"

extern "C" const sonde::Backend* sonde_backend();

namespace sonde {
namespace {

struct Side {
  const Backend* backend;
  Context* context;
  const Operations* operations;
};
Side cpu, gpu;
std::mt19937 rng;
std::string current;  // the test and case, for messages

int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }
bool with_probability(double p) { return std::uniform_real_distribution<double>()(rng) < p; }
template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[integer(0, int(values.size()) - 1)];
}
// 1, primes, around tiles
int size() { return pick({1, 2, 3, 5, 7, 8, 17, 31, 32, 33, 64, 65, 100, 127, 130}); }
DType any_float() { return pick({DType::float32, DType::float32, DType::bfloat16, DType::float16}); }
double unit(DType dtype) { return dtype == DType::bfloat16 ? 0x1p-8 : dtype == DType::float16 ? 0x1p-10 : 0x1p-22; }

[[noreturn]] void wrong(const std::string& why) {
  fprintf(stderr, "kernels_test: WRONG: %s: %s\n", current.c_str(), why.c_str());
  exit(1);
}
void good(const Status& status) {
  if (status.failed()) wrong(status.text);
}
Side open(const Backend* backend, int device) {
  Status status;
  Context* context = backend->open(device, 1, &status);
  good(status);
  return {backend, context, backend->operations(context)};
}

using Numbers = std::vector<float>;

// A tensor in both memories. Buffers have just the size that the layout needs, so that sanitizers see reads beside it.
class Both {
 public:
  explicit Both(std::vector<int64_t> shape, DType dtype = DType::float32, bool strided = false) {
    view_.rank = int(shape.size());
    view_.dtype = dtype;
    std::vector<int> order(shape.size());
    for (size_t d = 0; d < shape.size(); ++d) order[d] = int(d);
    if (strided) std::shuffle(order.begin(), order.end(), rng);
    int64_t step = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      const int d = order[i];
      view_.stride[d] = step;
      step *= shape[size_t(d)] + (strided ? integer(0, 2) : 0);
    }
    elements_ = 1;
    int64_t last = 0;
    for (size_t d = 0; d < shape.size(); ++d) {
      view_.shape[d] = shape[d];
      elements_ *= shape[d];
      last += (shape[d] - 1) * view_.stride[d];
    }
    const size_t bytes = elements_ ? size_t(last + 1) * size_t(dtype_size(dtype)) : 1;
    for (int s = 0; s < 2; ++s) memory_[s] = side(s).backend->allocate(side(s).context, bytes);
  }
  ~Both() {
    for (int s = 0; s < 2; ++s) side(s).backend->release(side(s).context, memory_[s]);
  }
  Both(const Both&) = delete;

  static const Side& side(int s) { return s ? gpu : cpu; }
  template <class T>
  T on(int s) const {
    T view;
    static_cast<View&>(view) = view_;
    view.data = memory_[s];
    return view;
  }
  int64_t elements() const { return elements_; }
  const View& view() const { return view_; }
  // one dimension seen as repeated
  void repeat(int d) { view_.stride[d] = 0; }

  Both& set(const Numbers& values) {
    const DType dtype = view_.dtype;
    std::vector<char> bytes(size_t(elements_ * dtype_size(dtype)) + 1);
    for (int64_t i = 0; i < elements_; ++i) {
      const float x = values[size_t(i)];
      if (dtype == DType::float32) memcpy(&bytes[size_t(i * 4)], &x, 4);
      if (dtype == DType::int32) {
        const auto whole = int32_t(x);
        memcpy(&bytes[size_t(i * 4)], &whole, 4);
      }
      if (dtype == DType::boolean) bytes[size_t(i)] = x != 0;
      uint16_t half = float_to_half(x);
      if (dtype == DType::bfloat16)
        half = uint16_t((__float_as_uint(x) + 0x7fff + (__float_as_uint(x) >> 16 & 1)) >> 16);
      if (dtype_size(dtype) == 2) memcpy(&bytes[size_t(i * 2)], &half, 2);
    }
    for (int s = 0; s < 2; ++s) good(side(s).backend->upload(side(s).context, on<Out>(s), bytes.data()));
    return *this;
  }
  Both& normal(double scale = 1) {
    std::normal_distribution<double> values(0, scale);
    Numbers x(size_t(elements_) + 1);
    for (float& v : x) v = float(values(rng));
    return set(x);
  }
  Numbers get(int s) const {
    Numbers x(size_t(elements_) + 1);
    Pending* pending = nullptr;
    good(side(s).backend->download(side(s).context, x.data(), DType::float32, on<In>(s), &pending));
    if (pending) good(side(s).backend->finish(side(s).context, pending));
    x.pop_back();
    return x;
  }
  Numbers exact() const { return get(0); }

 private:
  View view_;
  void* memory_[2];
  int64_t elements_;
};

In absent() { return In(); }

// to a fraction of the largest element, or of `size`, the magnitude of the terms that were summed up
void compare(const Numbers& got, const Numbers& expected, double tolerance, const char* what, double size = 0) {
  double scale = size;
  for (const float x : expected) scale = std::isfinite(x) ? std::max(scale, fabs(double(x))) : scale;
  for (size_t i = 0; i < expected.size(); ++i) {
    const float a = got[i], b = expected[i];
    if (a == b || (a != a && b != b)) continue;
    if (fabs(double(a) - double(b)) <= tolerance * scale) continue;
    wrong(std::string(what) + " " + std::to_string(i) + " is " + std::to_string(a) + ", but should be " +
          std::to_string(b));
  }
}
// compares the results of both sides
void agree(const Both& out, double tolerance, const char* what = "element", double size = 0) {
  compare(out.get(1), out.get(0), tolerance, what, size);
}

#define ON_BOTH(operation, ...)                                                    \
  for (int s = 0; s < 2; ++s) {                                                    \
    good(Both::side(s).operations->operation(Both::side(s).context, __VA_ARGS__)); \
  }

std::vector<int64_t> shape_of(int rank) {
  std::vector<int64_t> shape;
  for (int d = 0; d < rank; ++d) shape.push_back(d + 1 < rank ? integer(1, 5) : size());
  return shape;
}
std::vector<int64_t> rows_of(std::vector<int64_t> shape) {
  shape.pop_back();
  return shape;
}

void test_elementwise() {
  const auto shape = shape_of(integer(1, 4));
  const DType dtype = any_float();
  Both a(shape, dtype, with_probability(0.5)),
      b(shape, with_probability(0.7) ? dtype : any_float(), with_probability(0.5)),
      out(shape, dtype, with_probability(0.5));
  a.normal();
  b.normal();
  if (with_probability(0.3)) b.repeat(integer(0, int(shape.size()) - 1));
  for (const BinaryKind kind :
       {BinaryKind::add, BinaryKind::sub, BinaryKind::mul, BinaryKind::maximum, BinaryKind::minimum}) {
    ON_BOTH(binary, out.on<Out>(s), a.on<In>(s), b.on<In>(s), kind);
    agree(out, unit(dtype));
    ON_BOTH(binary_scalar, out.on<Out>(s), a.on<In>(s), 1.5, kind);
    agree(out, unit(dtype));
  }
  for (const UnaryKind kind : {UnaryKind::relu, UnaryKind::abs, UnaryKind::neg, UnaryKind::sign}) {
    ON_BOTH(unary, out.on<Out>(s), a.on<In>(s), kind, 0.0, 0.0);
    agree(out, 0);
  }
  ON_BOTH(unary, out.on<Out>(s), a.on<In>(s), UnaryKind::clamp, -0.5, 1.0);
  agree(out, 0);
  for (const UnaryKind kind : {UnaryKind::exp, UnaryKind::log, UnaryKind::sqrt, UnaryKind::tanh, UnaryKind::sigmoid}) {
    ON_BOTH(unary, out.on<Out>(s), a.on<In>(s), kind, 0.0, 0.0);
    agree(out, 2 * unit(dtype));
  }
  // with the error that kernels/functions.cuh states, which is below 2^-18 where these are
  ON_BOTH(unary, out.on<Out>(s), a.on<In>(s), UnaryKind::gelu, 0.0, 0.0);
  agree(out, 2 * unit(dtype) + 0x1p-18);
  for (const double power : {0.0, 2.0, 3.0, 0.5, 5.0, 1.7}) {
    ON_BOTH(unary, out.on<Out>(s), a.on<In>(s), UnaryKind::pow, power, 0.0);
    agree(out, 2 * unit(dtype));
  }
  const CompareKind comparisons[] = {CompareKind::eq,          CompareKind::ne,        CompareKind::lt,
                                     CompareKind::le,          CompareKind::gt,        CompareKind::ge,
                                     CompareKind::logical_and, CompareKind::logical_or};
  Both truth(shape, DType::boolean, with_probability(0.5)), chosen(shape, dtype, with_probability(0.5));
  for (const CompareKind kind : comparisons) {
    ON_BOTH(compare, truth.on<Out>(s), a.on<In>(s), b.on<In>(s), kind);
    agree(truth, 0);
    ON_BOTH(compare_scalar, truth.on<Out>(s), a.on<In>(s), 0.25, kind);
    agree(truth, 0);
  }
  chosen.normal();
  ON_BOTH(compare_scalar, truth.on<Out>(s), a.on<In>(s), 0.0, CompareKind::gt);
  ON_BOTH(where, out.on<Out>(s), truth.on<In>(s), a.on<In>(s), chosen.on<In>(s));
  agree(out, 0);
  ON_BOTH(fill, out.on<Out>(s), 2.5);
  agree(out, 0);
  Both p(shape, DType::int32, with_probability(0.5)), q(shape, DType::int32),
      r(shape, DType::int32, with_probability(0.5));
  p.normal(1000);
  q.set(Numbers(size_t(q.elements()), 7));
  for (const BinaryKind kind :
       {BinaryKind::add, BinaryKind::sub, BinaryKind::mul, BinaryKind::div, BinaryKind::maximum, BinaryKind::minimum}) {
    ON_BOTH(binary, r.on<Out>(s), p.on<In>(s), q.on<In>(s), kind);
    agree(r, 0);
  }
  for (const UnaryKind kind : {UnaryKind::abs, UnaryKind::neg, UnaryKind::sign, UnaryKind::clamp}) {
    ON_BOTH(unary, r.on<Out>(s), p.on<In>(s), kind, -500.0, 7.0);
    agree(r, 0);
  }
  for (const CompareKind kind : comparisons) {
    ON_BOTH(compare, truth.on<Out>(s), p.on<In>(s), q.on<In>(s), kind);
    agree(truth, 0);
    ON_BOTH(compare_scalar, truth.on<Out>(s), p.on<In>(s), 7.5, kind);
    agree(truth, 0);
  }
}

// GELU in float32 against double precision, in units in the last place, all over its range: the bound that kernels/functions.cuh
// states. The emulator's special function unit is as wrong as a GPU's may be.
void test_gelu() {
  const int64_t count = 4000;
  Numbers values(count);
  for (int64_t i = 0; i < count; ++i) {
    const float scale = pick({0x1p-20f, 0.01f, 1.0f, 4.0f, 10.0f});
    values[size_t(i)] = scale * std::normal_distribution<float>()(rng);
  }
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-40f, -12.0f, -1000.0f};
  std::copy(std::begin(special), std::end(special), values.begin());
  Both x({count}), out({count});
  x.set(values);
  good(gpu.operations->unary(gpu.context, out.on<Out>(1), x.on<In>(1), UnaryKind::gelu, 0, 0));
  const Numbers got = out.get(1);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double v = double(values[size_t(i)]), y = double(got[size_t(i)]);
    const double power = -2 * sqrt(2 / M_PI) * (v + 0.044715 * v * v * v), exact = v / (1 + exp(power));
    if (y == exact || (y != y && exact != exact)) continue;
    const double unit = fabs(exact) < 0x1p-100 ? 0x1p-116 : exp2(double(ilogb(exact)) - 23);
    const double bound = fabs(exact) < 0x1p-100 ? 1
                         : v >= 0               ? 6
                                                : 9 + 1.5 * power / M_LN2,
                 error = fabs(y - exact) / unit;
    worst = std::max(worst, error / bound);
    if (!(error <= bound)) {
      wrong("gelu(" + std::to_string(v) + ") is " + std::to_string(error) + " units wrong, where " +
            std::to_string(bound) + " are allowed");
    }
  }
  if (!(worst > 0.1)) wrong("the error of gelu is far below its bound: what the emulator deviates is lost");
}

void test_copy() {
  const auto shape =
      with_probability(0.5) ? shape_of(integer(1, 4)) : std::vector<int64_t>{integer(1, 3), size(), size()};
  const DType from = pick({DType::float32, DType::bfloat16, DType::float16, DType::int32, DType::boolean});
  const DType to = with_probability(0.5)
                       ? from
                       : pick({DType::float32, DType::bfloat16, DType::float16, DType::int32, DType::boolean});
  Both x(shape, from, with_probability(0.6)), out(shape, to, with_probability(0.6));
  x.normal(3);
  ON_BOTH(copy, out.on<Out>(s), x.on<In>(s));
  agree(out, 0);
}

void test_rows() {
  auto shape = shape_of(integer(1, 3));
  if (with_probability(0.2)) shape.back() = pick({1025, 2500, 9000});
  const DType dtype = any_float();
  Both x(shape, dtype, with_probability(0.4)), y(shape, dtype, with_probability(0.4)), out(shape, dtype),
      sum(shape, dtype);
  x.normal();
  y.normal();
  const double tolerance = 4 * unit(dtype);
  Both row(rows_of(shape), dtype), index(rows_of(shape), DType::int32);
  for (const ReduceKind kind : {ReduceKind::sum, ReduceKind::mean, ReduceKind::max}) {
    ON_BOTH(reduce, row.on<Out>(s), x.on<In>(s), kind, 0.0);
    compare(row.get(1), row.get(0), tolerance * sqrt(double(shape.back())), "sum");
  }
  for (const bool smallest : {false, true}) {
    ON_BOTH(argmax, index.on<Out>(s), x.on<In>(s), smallest);
    agree(index, 0, "index");
  }
  for (const SoftmaxKind kind : {SoftmaxKind::softmax, SoftmaxKind::numerator, SoftmaxKind::log_softmax}) {
    ON_BOTH(softmax, out.on<Out>(s), x.on<In>(s), kind);
    agree(out, tolerance);
  }
  auto column = shape;
  column.back() = 1;
  Both scale(column, dtype);
  ON_BOTH(root_mean_square, scale.on<Out>(s), x.on<In>(s), 1e-5);
  agree(scale, tolerance);
  Both gain({shape.back()}, dtype), bias({shape.back()}, dtype);
  gain.normal();
  bias.normal();
  ON_BOTH(layer_norm, out.on<Out>(s), Out(), x.on<In>(s), gain.on<In>(s), bias.on<In>(s), 1e-5);
  agree(out, 4 * tolerance);
  ON_BOTH(add_layer_norm, sum.on<Out>(s), out.on<Out>(s), Out(), x.on<In>(s), y.on<In>(s), gain.on<In>(s),
          bias.on<In>(s), 1e-5);
  agree(sum, 0, "sum");
  agree(out, 4 * tolerance);
}

// A layer norm has the same bits wherever its rows lie, in memory that can be read 16 bytes at a time or not.
void test_norm_paths() {
  const int64_t rows = integer(1, 12), n = pick({1, 7, 8, 20, 64, 100, 768, 1024, 1028, 1600, 4160, 8200});
  const DType dtype = any_float();
  const bool add = with_probability(0.5);
  current += " [" + std::to_string(rows) + ", " + std::to_string(n) + "] dtype " + std::to_string(int(dtype));
  Both x({rows, n}, dtype), y({rows, n}, dtype), gain({n}, dtype), bias({n}, dtype);
  for (Both* t : {&x, &y, &gain, &bias}) t->normal();
  if (dtype != DType::float16 && n > 1) {
    // the order of sums shows where large elements cancel each other
    Numbers values = x.get(0);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t plus = integer(0, int(n) - 1), minus = (plus + integer(1, int(n) - 1)) % n;
      values[size_t(i * n + plus)] = 0x1p44f;
      values[size_t(i * n + minus)] = -0x1p44f;
    }
    x.set(values);
    bias.set(Numbers(size_t(n)));
  }
  const auto run = [&](const In& a, const In& b, const In& g, const Out& to, const Out& sum) {
    if (add) {
      good(gpu.operations->add_layer_norm(gpu.context, sum, to, Out(), a, b, g, bias.on<In>(1), 1e-5));
    } else {
      good(gpu.operations->layer_norm(gpu.context, to, Out(), a, g, bias.on<In>(1), 1e-5));
    }
  };
  Both out({rows, n}, dtype), sum({rows, n}, dtype);
  run(x.on<In>(1), y.on<In>(1), gain.on<In>(1), out.on<Out>(1), sum.on<Out>(1));
  const Numbers expected = out.get(1), total = sum.get(1);
  const auto same = [&](const Both& got, const char* what) {
    const Numbers values = got.get(1);
    if (memcmp(values.data(), expected.data(), expected.size() * 4) != 0) wrong(std::string("other bits ") + what);
  };
  // each in memory that begins one element later, and strided
  const auto later = [&](auto view, const Both& holder, const Both& from) {
    Both& to = const_cast<Both&>(holder);
    Numbers values = from.get(0);
    values.insert(values.begin(), 0.0f);
    to.set(values);
    view.data = static_cast<char*>(holder.on<View>(1).data) + dtype_size(dtype);
    return view;
  };
  Both longer({rows * n + 1}, dtype), other({n + 1}, dtype), strided({rows, n}, dtype, true),
      far({rows * n + 1}, dtype);
  run(later(x.on<In>(1), longer, x), y.on<In>(1), gain.on<In>(1), out.on<Out>(1), sum.on<Out>(1));
  same(out, "of x that is not aligned");
  run(x.on<In>(1), y.on<In>(1), later(gain.on<In>(1), other, gain), out.on<Out>(1), sum.on<Out>(1));
  same(out, "of gain that is not aligned");
  strided.set(y.get(0));
  run(x.on<In>(1), strided.on<In>(1), gain.on<In>(1), out.on<Out>(1), sum.on<Out>(1));
  same(out, "of b that is strided");
  strided.set(x.get(0));
  run(strided.on<In>(1), y.on<In>(1), gain.on<In>(1), out.on<Out>(1), sum.on<Out>(1));
  same(out, "of x that is strided");
  if (!add) return;
  // in place
  Both place({rows, n}, dtype);
  place.set(x.get(0));
  run(place.on<In>(1), y.on<In>(1), gain.on<In>(1), out.on<Out>(1), place.on<Out>(1));
  same(out, "in place");
  if (memcmp(place.get(1).data(), total.data(), total.size() * 4) != 0) wrong("another sum in place");
}

// Rows of several dimensions, of any dtype, of any kind; sums up to each element.
void test_reductions() {
  auto shape = shape_of(integer(1, 4));
  if (with_probability(0.2)) shape.back() = pick({1025, 2500});
  const DType dtype = with_probability(0.3) ? DType::int32 : any_float();
  const bool whole = dtype == DType::int32;
  Both x(shape, dtype, with_probability(0.6));
  x.normal(whole ? 1000 : 1);
  const int kept = integer(0, int(shape.size()));
  const std::vector<int64_t> rest(shape.begin(), shape.begin() + kept);
  double n = 1;
  for (size_t d = size_t(kept); d < shape.size(); ++d) n *= double(shape[d]);
  const auto check = [&](ReduceKind kind, DType to, double tolerance, double size = 0) {
    Both out(rest, to);
    ON_BOTH(reduce, out.on<Out>(s), x.on<In>(s), kind, 1.0);
    agree(out, tolerance, "row", size);
  };
  const DType real = whole ? DType::float32 : dtype;
  check(ReduceKind::sum, dtype, whole ? 0 : 2 * unit(dtype), sqrt(n));
  check(ReduceKind::mean, real, 2 * unit(real), 1 / sqrt(n));
  for (const ReduceKind kind : {ReduceKind::max, ReduceKind::min}) check(kind, dtype, 0);
  for (const ReduceKind kind : {ReduceKind::any, ReduceKind::all}) check(kind, DType::boolean, 0);
  for (const ReduceKind kind :
       {ReduceKind::variance, ReduceKind::deviation, ReduceKind::norm, ReduceKind::log_sum_exp}) {
    check(kind, real, 2 * unit(real));
  }
  Both sums(shape, dtype, with_probability(0.5));
  ON_BOTH(cumsum, sums.on<Out>(s), x.on<In>(s));
  agree(sums, whole ? 0 : unit(dtype));
}

void test_cross_entropy() {
  auto shape = shape_of(integer(1, 3));
  if (with_probability(0.2)) shape.back() = pick({1025, 2500});
  Both logits(shape, any_float(), with_probability(0.4)), losses(rows_of(shape)),
      targets(rows_of(shape), DType::int32, with_probability(0.5)),
      pad(rows_of(shape), DType::boolean, with_probability(0.5));
  logits.normal(3);
  Numbers target, padding;
  for (int64_t i = 0; i < targets.elements(); ++i) {
    padding.push_back(with_probability(0.3) ? 1.0f : 0.0f);
    target.push_back(padding.back() != 0 ? -100.0f : float(integer(0, int(shape.back()) - 1)));
  }
  targets.set(target);
  pad.set(padding);
  ON_BOTH(cross_entropy, losses.on<Out>(s), logits.on<In>(s), targets.on<In>(s), pad.on<In>(s));
  agree(losses, 4 * unit(DType::float32), "loss");
  target.assign(target.size(), 0.0f);
  targets.set(target);
  ON_BOTH(cross_entropy, losses.on<Out>(s), logits.on<In>(s), targets.on<In>(s), absent());
  agree(losses, 4 * unit(DType::float32), "loss");
  target[0] = float(shape.back());
  targets.set(target);
  good(gpu.operations->cross_entropy(gpu.context, losses.on<Out>(1), logits.on<In>(1), targets.on<In>(1), absent()));
  const Status status = gpu.backend->synchronize(gpu.context);
  if (!strstr(status.text, " at position 0 is outside [0, ")) wrong("a bad target is not reported");
}

void test_ranking() {
  auto shape = shape_of(integer(1, 3));
  if (with_probability(0.2)) shape.back() = pick({1025, 3000});
  const DType dtype = pick({DType::float32, DType::bfloat16, DType::int32});
  Both x(shape, dtype, with_probability(0.4));
  x.normal(3);  // bfloat16 and int32 have many equal values
  const int64_t k = integer(0, int(std::min<int64_t>(shape.back(), 2100)));
  auto narrow = shape;
  narrow.back() = k;
  Both values(narrow, dtype), indices(narrow, DType::int32), masked(shape, dtype);
  ON_BOTH(top_k, values.on<Out>(s), indices.on<Out>(s), x.on<In>(s));
  agree(values, 0, "value");
  agree(indices, 0, "index");
  Both sorted(shape, dtype), order(shape, DType::int32);
  for (const bool descending : {true, false}) {
    ON_BOTH(sort, sorted.on<Out>(s), order.on<Out>(s), x.on<In>(s), descending);
    agree(sorted, 0, "value");
    agree(order, 0, "index");
  }
  for (const bool relu : {true, false}) {
    ON_BOTH(top_k_mask, masked.on<Out>(s), x.on<In>(s), k, relu);
    agree(masked, 0);
  }
}

void test_lookup() {
  const int64_t rows = size(), width = size();
  const DType dtype = any_float();
  Both table({rows, width}, dtype), indices({integer(1, 3), size()}, DType::int32, with_probability(0.5));
  table.normal();
  Numbers index;
  for (int64_t i = 0; i < indices.elements(); ++i) index.push_back(float(integer(0, int(rows) - 1)));
  indices.set(index);
  Both out({indices.view().shape[0], indices.view().shape[1], width}, dtype);
  for (const bool accumulate : {false, true}) {
    ON_BOTH(embedding, out.on<Out>(s), indices.on<In>(s), table.on<In>(s), accumulate);
    agree(out, unit(dtype));
  }
  index[0] = float(rows);
  indices.set(index);
  good(gpu.operations->embedding(gpu.context, out.on<Out>(1), indices.on<In>(1), table.on<In>(1), false));
  const Status status = gpu.backend->synchronize(gpu.context);
  if (!strstr(status.text, "embedding: index") || !status.names_operation) wrong("a bad index is not reported");
  if (gpu.backend->synchronize(gpu.context).failed()) wrong("a failure is reported twice");
  Both latents({size(), size()}, dtype), stats({latents.view().shape[1]}, DType::int32);
  Numbers sparse(size_t(latents.elements()));
  for (float& v : sparse) v = with_probability(0.1) ? 1.0f : 0.0f;
  latents.set(sparse);
  stats.normal(100);
  ON_BOTH(update_last_nonzero, stats.on<Out>(s), latents.on<In>(s));
  agree(stats, 0);
  Both noise({size(), size()});
  ON_BOTH(random, noise.on<Out>(s), RandomKind::normal, 12345, 1.0, 2.0);
  agree(noise, 0x1p-22);
  Both whole({size()}, DType::int32);
  ON_BOTH(random, whole.on<Out>(s), RandomKind::integer, 99, -5.0, 1000.0);
  agree(whole, 0);
}

void test_choice() {
  const int64_t rows = integer(1, 3), n = pick({1, 5, 31, 257, 1023, 1025, 2100, 3500});
  Both x({rows, n}), random({rows, 2}, DType::int32), out({2, rows}, DType::int32);
  Numbers values(size_t(rows * n)), words;
  const bool sparse = with_probability(0.4);
  for (float& v : values) v = sparse && with_probability(0.9) ? 0.0f : float(integer(1, 1000)) / (500 * float(n));
  if (with_probability(0.3)) values[size_t(integer(0, int(rows * n) - 1))] = NAN;
  // A row sums to about 1, to 0.1 or to half of that, so that u is beyond some. Equal powers of 2 reach u itself.
  const float scale = pick({0.5f, 1.0f});
  for (float& v : values) v *= scale;
  if (with_probability(0.3)) values.assign(values.size(), float(exp2(-ceil(log2(double(n))))));
  for (int64_t r = 0; r < rows; ++r) {
    words.push_back(float(integer(0, 7) << 24 | integer(0, 1) << 23));
    words.push_back(float(integer(0, 3) << 24));
  }
  x.set(values);
  random.set(words);
  ON_BOTH(choose_index, out.on<Out>(s), x.on<In>(s), random.on<In>(s));
  agree(out, 0, "drawn");
  // few values, so that many are the largest
  for (float& v : values) v = float(integer(-3, 3));
  const int odd = integer(0, 5);
  if (odd < 3) values[size_t(integer(0, int(rows * n) - 1))] = odd == 0 ? NAN : odd == 1 ? INFINITY : -INFINITY;
  if (odd == 3) values.assign(values.size(), -INFINITY);
  x.set(values);
  ON_BOTH(choose_index, out.on<Out>(s), x.on<In>(s), absent());
  agree(out, 0, "largest");
}

DType any_dtype() { return pick({DType::float32, DType::bfloat16, DType::float16, DType::int32, DType::boolean}); }
void set_indices(Both& indices, int64_t limit) {
  Numbers values;
  for (int64_t i = 0; i < indices.elements(); ++i) values.push_back(float(integer(0, int(limit) - 1)));
  indices.set(values);
}
// Demands that the GPU reports these words, once.
void expect_report(const char* words) {
  const Status status = gpu.backend->synchronize(gpu.context);
  if (!strstr(status.text, words) || !status.names_operation)
    wrong(std::string("instead of \"") + words + "\": " + status.text);
  if (gpu.backend->synchronize(gpu.context).failed()) wrong("a failure is reported twice");
}
#define ON_GPU(operation, ...) good(gpu.operations->operation(gpu.context, __VA_ARGS__))

void test_indexing() {
  auto shape = shape_of(integer(1, 4));
  std::shuffle(shape.begin(), shape.end(), rng);
  const DType dtype = any_dtype();
  const int64_t dim = integer(0, int(shape.size()) - 1), n = shape[size_t(dim)];
  const auto strided = [] { return with_probability(0.5); };
  Both x(shape, dtype, strided());
  x.normal(3);

  auto wanted = shape;
  for (int64_t& size : wanted) size = integer(1, int(size));
  wanted[size_t(dim)] = size();
  Both index(wanted, DType::int32, strided()), gathered(wanted, dtype, strided());
  set_indices(index, n);
  ON_BOTH(gather, gathered.on<Out>(s), x.on<In>(s), index.on<In>(s), dim);
  agree(gathered, 0);

  auto slices = shape;
  slices[0] = size();
  Both list({slices[0]}, DType::int32), selected(slices, dtype, strided()), copied(shape, dtype, strided());
  set_indices(list, shape[0]);
  ON_BOTH(index_select, selected.on<Out>(s), x.on<In>(s), list.on<In>(s));
  agree(selected, 0);
  selected.normal(3);
  copied.set(x.exact());
  ON_BOTH(index_copy, copied.on<Out>(s), list.on<In>(s), selected.on<In>(s));
  agree(copied, 0);

  // as many terms as two chunks and some at times; all dtypes of floats, or integers
  auto many = wanted;
  if (with_probability(0.3)) many[size_t(dim)] = pick({256, 257, 700});
  const bool whole = with_probability(0.3);
  auto more = many;
  for (int64_t& size : more) size += integer(0, 1);
  Both into(shape, whole ? DType::int32 : any_float(), strided()),
      terms(more, whole ? DType::int32 : any_float(), strided()), to(many, DType::int32, strided());
  into.normal(100);
  terms.normal(100);
  set_indices(to, n);
  ON_BOTH(scatter_add, into.on<Out>(s), to.on<In>(s), terms.on<In>(s), dim);
  agree(into, 0);

  auto matrices = shape;
  matrices.push_back(size());
  Both square(matrices, dtype, strided()), side(matrices, dtype, strided());
  square.normal(3);
  const int64_t diagonal = integer(-5, 5);
  for (const bool upper : {false, true}) {
    ON_BOTH(triangle, side.on<Out>(s), square.on<In>(s), diagonal, upper);
    agree(side, 0);
  }

  // an index outside: nothing is read or written there, and where the whole is checked before, nothing is written at all
  Numbers bad(size_t(list.elements()), 0.0f);
  bad.back() = float(pick({-1, int(shape[0]), 1 << 20}));
  list.set(bad);
  const Numbers before = copied.get(1);
  ON_GPU(index_copy, copied.on<Out>(1), list.on<In>(1), selected.on<In>(1));
  expect_report("indexCopy: index");
  compare(copied.get(1), before, 0, "element");
  ON_GPU(index_select, selected.on<Out>(1), x.on<In>(1), list.on<In>(1));
  expect_report("indexSelect: index");
  bad.assign(size_t(to.elements()), 0.0f);
  bad.back() = float(pick({-1, int(n), 1 << 20}));
  to.set(bad);
  const Numbers sums = into.get(1);
  ON_GPU(scatter_add, into.on<Out>(1), to.on<In>(1), terms.on<In>(1), dim);
  expect_report("scatterAdd: index");
  compare(into.get(1), sums, 0, "sum");
  bad.assign(size_t(index.elements()), 0.0f);
  bad.front() = float(pick({-1, int(n), 1 << 20}));
  index.set(bad);
  ON_GPU(gather, gathered.on<Out>(1), x.on<In>(1), index.on<In>(1), dim);
  expect_report(" at position 0 is outside [0, ");
}

// Packed on both sides.
class Weights {
 public:
  Weights(int64_t k, int64_t n, DType dtype, double scale = 1)
      : plain({k, n}, dtype, with_probability(0.5)), dtype_(dtype) {
    plain.normal(scale);
    pack();
  }
  ~Weights() {
    for (int s = 0; s < 2; ++s) Both::side(s).backend->release(Both::side(s).context, memory_[s]);
  }
  void pack() {
    for (int s = 0; s < 2; ++s) {
      const Side& side = Both::side(s);
      const auto bytes = side.operations->packed_bytes(plain.view().shape[0], plain.view().shape[1], dtype_);
      if (!memory_[s]) memory_[s] = side.backend->allocate(side.context, size_t(bytes));
      good(side.operations->pack_weights(side.context, on<PackedOut>(s), plain.on<In>(s)));
    }
  }
  template <class T = Packed>
  T on(int s) const {
    T packed;
    packed.data = memory_[s];
    packed.dtype = dtype_;
    packed.rank = 2;
    packed.shape[0] = plain.view().shape[0];
    packed.shape[1] = plain.view().shape[1];
    return packed;
  }
  Both plain;

 private:
  DType dtype_;
  void* memory_[2] = {};
};

int product_size() { return pick({1, 5, 31, 64, 100, 127, 129, 200, 260}); }

void test_linear() {
  const int64_t m = product_size(), k = pick({1, 7, 63, 64, 65, 130, 200}), n = product_size();
  const DType dtype = any_float(), x_dtype = with_probability(0.7) ? dtype : any_float();
  Weights w(k, n, dtype);
  // rows of any pitch, of which the ends are left as they are; the residual may be the result itself
  const int64_t aligned = (n + 7) / 8 * 8;
  const int64_t pitch = pick({n, n + 3, aligned}), residual_pitch = pick({n, n + 5, aligned});
  const auto result_dtype = with_probability(0.8) ? x_dtype : any_float();
  Both x({m, k}, x_dtype), bias({n}, any_float()), residual({m, residual_pitch}, result_dtype),
      out({m, pitch}, result_dtype), back({k, n}, dtype);
  x.normal();
  bias.normal();
  residual.normal();
  out.normal();
  const auto first = [&](auto view) {
    view.shape[1] = n;
    return view;
  };
  ON_BOTH(unpack_weights, back.on<Out>(s), w.on(s));
  compare(back.get(1), w.plain.exact(), 0, "weight");
  const bool with_bias = with_probability(0.7), with_residual = with_probability(0.5);
  const auto activation = pick({Activation::none, Activation::relu, Activation::gelu});
  const auto precision =
      pick({Precision::float32, Precision::float32, Precision::strict, Precision::tf32, Precision::bf16});
  const bool in_place = with_probability(0.4);
  current += " precision " + std::to_string(int(precision)) + " dtypes " + std::to_string(int(x_dtype)) +
             std::to_string(int(dtype)) + std::to_string(int(result_dtype));
  ON_BOTH(linear, first(out.on<Out>(s)), Out(), x.on<In>(s), absent(), w.on(s), with_bias ? bias.on<In>(s) : absent(),
          with_residual ? first((in_place ? out : residual).on<In>(s)) : absent(), activation, precision);
  const bool single = x_dtype == DType::float32 || dtype != x_dtype;
  const double accuracy = single && precision == Precision::tf32   ? 0x1p-9
                          : single && precision == Precision::bf16 ? 0x1p-6
                                                                   : 0x1p-20;
  agree(out, accuracy + unit(result_dtype), "element", sqrt(double(k)));
}

void test_matmul() {
  const int64_t batch = integer(1, 3), m = pick({1, 33, 129}), k = pick({1, 40, 64, 70}), n = pick({1, 33, 130});
  const DType dtype = any_float();
  const bool batched = with_probability(0.5);
  const auto shape = [&](int64_t r, int64_t c) {
    return batched ? std::vector<int64_t>{batch, r, c} : std::vector<int64_t>{r, c};
  };
  Both a(shape(m, k), dtype, true), b(shape(k, n), dtype, true), out(shape(m, n), dtype), bias({n});
  a.normal();
  b.normal();
  bias.normal();
  if (batched && with_probability(0.5)) b.repeat(0);
  const bool with_bias = with_probability(0.5);
  const auto precision = pick({Precision::float32, Precision::strict});
  ON_BOTH(matmul, out.on<Out>(s), a.on<In>(s), b.on<In>(s), with_bias ? bias.on<In>(s) : absent(), precision);
  agree(out, 0x1p-20 + unit(dtype), "element", sqrt(double(k)));
}

// Many tiles for few multiprocessors, and so many steps that every stage is used again and again.
void test_pipeline() {
  for (const DType dtype : {DType::bfloat16, DType::float32}) {
    // also so few steps that one of two warpgroups is done before the other begins
    const int64_t m = 270, k = pick({64, 448, 500, 650}), n = 530;
    Weights w(k, n, dtype);
    Both x({m, k}, dtype), bias({n}), out({m, n});
    x.normal();
    bias.normal();
    ON_BOTH(linear, out.on<Out>(s), Out(), x.on<In>(s), absent(), w.on(s), bias.on<In>(s), absent(), Activation::none,
            Precision::float32);
    agree(out, 0x1p-18, "element", sqrt(double(k)));
  }
}

// A row's result has the same bits whatever else is in the batch.
void test_rows_alone() {
  const int64_t m = 150, k = 100, n = 140;
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    Weights w(k, n, dtype);
    Both x({m, k}, dtype), all({m, n}), one({1, n});
    x.normal();
    good(gpu.operations->linear(gpu.context, all.on<Out>(1), Out(), x.on<In>(1), absent(), w.on(1), absent(), absent(),
                                Activation::none, Precision::float32));
    In row = x.on<In>(1);
    row.shape[0] = 1;
    row.data = static_cast<char*>(row.data) + 137 * k * dtype_size(dtype);
    good(gpu.operations->linear(gpu.context, one.on<Out>(1), Out(), row, absent(), w.on(1), absent(), absent(),
                                Activation::none, Precision::float32));
    const Numbers whole = all.get(1), alone = one.get(1);
    if (memcmp(&whole[137 * n], alone.data(), size_t(n) * 4) != 0) wrong("a row alone has other bits");
  }
}

// Memory of planes on the GPU, of just their size, all of one value before they are written.
class OwnPlanes {
 public:
  OwnPlanes(int64_t rows, int64_t k)
      : bytes_(size_t(gpu.operations->planes_bytes(gpu.context, rows, k, DType::float32))),
        memory_(gpu.backend->allocate(gpu.context, bytes_)) {
    gpu.backend->set_bytes(gpu.context, memory_, 0xee, bytes_);
  }
  ~OwnPlanes() { gpu.backend->release(gpu.context, memory_); }
  OwnPlanes(const OwnPlanes&) = delete;

  template <class T>
  T view() const {
    T view;
    view.data = memory_;
    view.dtype = DType::boolean;
    view.rank = 1;
    view.shape[0] = int64_t(bytes_);
    view.stride[0] = 1;
    return view;
  }
  std::vector<unsigned char> read() const {
    good(gpu.backend->synchronize(gpu.context));
    std::vector<unsigned char> bytes(bytes_);
    gpu.backend->get_bytes(gpu.context, bytes.data(), memory_, bytes_);
    return bytes;
  }

 private:
  size_t bytes_;
  void* memory_;
};

// Each warp writes the planes of a fragment.
__global__ void fragments_kernel(Planes planes, const float* x, int64_t rows) {
  const int64_t row0 = int64_t(blockIdx.x) * 16, chunk = blockIdx.y;
  planes.fragment(row0, chunk, rows, [&](int j, int g, int h) {
    const int64_t row = row0 + threadIdx.x / 4 + 8 * g, column = chunk * kSplitChunk + 8 * j + threadIdx.x % 4 * 2 + h;
    return row < rows ? x[row * planes.k + column] : 0.0f;
  });
}

// What an operation writes of its result for the product that follows is what a pass over the result writes, byte for byte, and the
// product has the same bits with it.
void test_planes() {
  const int64_t k = pick({64, 64, 128, 192, 192, 832, 1088, 4160}), n = pick({1, 40, 130});
  const int64_t m = k > 800 ? pick({1, 17}) : pick({1, 5, 17, 130});
  current += " [" + std::to_string(m) + ", " + std::to_string(k) + ", " + std::to_string(n) + "]";
  if (gpu.operations->planes_bytes(gpu.context, m, k, DType::float32) == 0) wrong("there are no planes");
  if (gpu.operations->planes_bytes(gpu.context, m, k + 8, DType::float32) != 0 ||
      gpu.operations->planes_bytes(gpu.context, 0, k, DType::float32) != 0 ||
      gpu.operations->planes_bytes(gpu.context, m, k, DType::bfloat16) != 0) {
    wrong("there are planes that nothing reads");
  }
  const auto check = [](const Both& out, const OwnPlanes& got, int64_t rows, int64_t width, const char* what) {
    OwnPlanes expected(rows, width);
    good(write_planes(gpu.context, expected.view<Out>(), out.on<View>(1), rows, width));
    const auto a = got.read(), b = expected.read();
    for (size_t i = 0; i < b.size(); ++i) {
      if (a[i] != b[i]) wrong(std::string(what) + ": byte " + std::to_string(i) + " of " + std::to_string(b.size()));
    }
  };
  // rows and chunks that are zero, tiny, huge, or not finite
  const auto with_extremes = [](Both& x, int64_t rows, int64_t width) {
    Numbers values = x.exact();
    for (int64_t i = 0; i < rows; ++i) {
      const bool odd = with_probability(0.3);
      for (int64_t j = 0; j < width; j += kSplitChunk) {
        if (!odd || with_probability(0.6)) continue;
        const float by = pick({0.0f, 1e-42f, 1e-30f, 1e12f, 1e30f, NAN});
        const int64_t count = by != by ? 1 : std::min<int64_t>(kSplitChunk, width - j);
        for (int64_t l = 0; l < count; ++l) values[size_t(i * width + j + l)] *= by;
      }
    }
    x.set(values);
  };
  Both x({m, k}), sum({m, k}), normed({m, k}), y({m, k}, DType::float32, with_probability(0.3)), gain({1, k}),
      bias({k});
  x.normal();
  y.normal();
  gain.normal();
  bias.set(Numbers(size_t(k), with_probability(0.5) ? 0.0f : 0.25f));
  if (with_probability(0.5)) with_extremes(gain, 1, k);
  Numbers values = x.exact();
  if (with_probability(0.5)) values[size_t(m * k - 1)] = INFINITY;  // of one row
  x.set(values);
  OwnPlanes planes(m, k);
  In row = gain.on<In>(1);
  row.rank = 1;
  row.shape[0] = k;
  row.stride[0] = 1;
  if (with_probability(0.5)) {
    good(gpu.operations->layer_norm(gpu.context, normed.on<Out>(1), planes.view<Out>(), x.on<In>(1), row,
                                    bias.on<In>(1), 1e-5));
  } else {
    good(gpu.operations->add_layer_norm(gpu.context, sum.on<Out>(1), normed.on<Out>(1), planes.view<Out>(), x.on<In>(1),
                                        y.on<In>(1), row, bias.on<In>(1), 1e-5));
  }
  check(normed, planes, m, k, "layer norm");
  // what reads them
  const int64_t width = pick({64, 192});
  Weights w(k, n, DType::float32), hidden(k, width, with_probability(0.7) ? DType::float32 : DType::bfloat16);
  if (with_probability(0.5)) {
    // columns that operands do not represent
    Numbers weights = hidden.plain.exact();
    weights[5] = INFINITY;
    for (int64_t l = 0; l < k; ++l) weights[size_t(l * width + 40)] *= 1e-30f;
    hidden.plain.set(weights);
    hidden.pack();
  }
  Both with({m, n}), without({m, n}), active({m, width}), other({m, width}), bias_in({width});
  for (const In& from : {planes.view<In>(), absent()}) {
    good(gpu.operations->linear(gpu.context, (from.data ? with : without).on<Out>(1), Out(), normed.on<In>(1), from,
                                w.on(1), absent(), absent(), Activation::none, Precision::float32));
  }
  const auto same = [](const Both& a, const Both& b, const char* what) {
    const Numbers got = a.get(1), expected = b.get(1);
    if (memcmp(got.data(), expected.data(), got.size() * 4) != 0) wrong(std::string("other bits of ") + what);
  };
  same(with, without, "linear with planes");
  // a product that writes them
  bias_in.normal();
  with_extremes(x, m, k);
  OwnPlanes result(m, width);
  const auto activation = pick({Activation::none, Activation::relu, Activation::gelu});
  for (const bool wanted : {true, false}) {
    good(gpu.operations->linear(gpu.context, (wanted ? active : other).on<Out>(1), wanted ? result.view<Out>() : Out(),
                                x.on<In>(1), absent(), hidden.on(1), bias_in.on<In>(1), absent(), activation,
                                pick({Precision::float32, Precision::strict})));
    if (wanted) check(active, result, m, width, "linear");
  }
  // whole fragments
  with_extremes(y, m, k);
  Both contiguous({m, k});
  contiguous.set(y.exact());
  OwnPlanes fragments(m, k);
  const SplitOperand operand = planes_in(fragments.view<Out>(), m, k);
  good(clear_flags(gpu.context, operand));
  LAUNCH(fragments_kernel, dim3(unsigned(ceil_div(m, 16)), unsigned(k / kSplitChunk)), dim3(32), 0, gpu.context->stream,
         Planes::of(operand), static_cast<const float*>(contiguous.on<In>(1).data), m);
  check(contiguous, fragments, m, k, "fragments");
  // again, only where a product had something to repair
  Both words({3}, DType::int32);
  words.set({0, 0, 1});
  const auto* word = static_cast<const int32_t*>(words.on<In>(1).data);
  const int64_t other_word = integer(1, 2);
  OwnPlanes again(m, k);
  const auto untouched = again.read();
  good(rewrite_planes(gpu.context, again.view<Out>(), contiguous.on<View>(1), m, k, word, word + 1));
  if (again.read() != untouched) wrong("planes are written again without a reason");
  good(rewrite_planes(gpu.context, again.view<Out>(), contiguous.on<View>(1), m, k, word + 2 - other_word + 1,
                      word + other_word));
  check(contiguous, again, m, k, "planes that are written again");
  // the same by columns
  Both columns({k, m});
  Numbers turned(size_t(m * k));
  const Numbers rows = contiguous.exact();
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) turned[size_t(j * m + i)] = rows[size_t(i * k + j)];
  }
  columns.set(turned);
  View view = columns.on<View>(1);
  std::swap(view.shape[0], view.shape[1]);
  std::swap(view.stride[0], view.stride[1]);
  OwnPlanes of_columns(m, k);
  good(split(gpu.context, planes_in(of_columns.view<Out>(), m, k), OperandKind::split, view));
  check(contiguous, of_columns, m, k, "columns");
  // attention
  const int64_t b = integer(1, 2), t = pick({1, 33, 70}), heads = pick({2, 3, 4}), channels = heads == 3 ? 64 : 32;
  Both qkv({3, b, t, heads, channels}), mixed({b, t, heads, channels});
  qkv.normal();
  values = qkv.exact();
  if (with_probability(0.5)) values[size_t(qkv.elements() - 1)] = INFINITY;
  qkv.set(values);
  const auto part = [&](int64_t i) {
    In view = mixed.on<In>(1);
    view.data = static_cast<char*>(qkv.on<In>(1).data) + i * mixed.elements() * 4;
    return view;
  };
  OwnPlanes of_mixed(b * t, heads * channels);
  good(gpu.operations->attention(gpu.context, mixed.on<Out>(1), of_mixed.view<Out>(), Out(), part(0), part(1), part(2),
                                 absent(), true, 0.125));
  check(mixed, of_mixed, b * t, heads * channels, "attention");
}

// Split operands against one chain of float32, both against sums in double precision, with tensor cores that truncate.
void test_accuracy() {
  emulator::set_truncating(true);
  for (const char* kind : {"layer norm", "gelu", "outliers"}) {
    const int64_t m = 24, k = strcmp(kind, "gelu") ? 768 : 1536, n = 24;
    current = std::string("accuracy ") + kind;
    Weights w(k, n, DType::float32, 0.02);
    Both x({m, k}), split({m, n}), strict({m, n});
    x.normal();
    Numbers values = x.exact();
    for (int64_t i = 0; i < m * k; ++i) {
      float& v = values[size_t(i)];
      if (!strcmp(kind, "gelu")) v = 0.5f * v * (1 + erff(v * 0.70710678f));
      if (!strcmp(kind, "outliers") && i % k < 3) v *= 3000;
    }
    x.set(values);
    const Numbers weights = w.plain.exact();
    good(gpu.operations->linear(gpu.context, split.on<Out>(1), Out(), x.on<In>(1), absent(), w.on(1), absent(),
                                absent(), Activation::none, Precision::float32));
    good(gpu.operations->linear(gpu.context, strict.on<Out>(1), Out(), x.on<In>(1), absent(), w.on(1), absent(),
                                absent(), Activation::none, Precision::strict));
    double errors[2] = {}, size = 0;
    const Numbers got[2] = {split.get(1), strict.get(1)};
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l) sum += double(values[size_t(i * k + l)]) * double(weights[size_t(l * n + j)]);
        for (int s = 0; s < 2; ++s) errors[s] += pow(double(got[s][size_t(i * n + j)]) - sum, 2);
        size += sum * sum;
      }
    }
    printf("  %s, K %d: relative error %.2e, plain float32 %.2e\n", kind, int(k), sqrt(errors[0] / size),
           sqrt(errors[1] / size));
    if (!(errors[0] <= errors[1])) wrong("the split product is less accurate than plain float32");
  }
  emulator::set_truncating(false);
}

// Far beyond float16, infinite and NaN: rows and columns that split operands do not represent are computed in float32. Chunks of 64 k of
// a row differ.
void test_range() {
  const int64_t m = 140, k = 150, n = pick({135, 136, 192});
  Weights w(k, n, DType::float32);
  Numbers weights = w.plain.exact();
  const bool bad_columns = with_probability(0.6), bad_rows = !bad_columns || with_probability(0.5);
  for (int64_t l = 0; l < k; ++l) {
    if (bad_columns) weights[size_t(l * n + 3)] *= 1e-30f;
    if (bad_columns) weights[size_t(l * n + 131)] *= 1e25f;
    weights[size_t(l * n + 5)] *= 1e6f;
  }
  if (bad_columns) weights[7] = INFINITY;
  w.plain.set(weights);
  w.pack();
  Both x({m, k}), strided({m, k}, DType::float32, true), out({m, n}), bias({n});
  bias.set(Numbers(size_t(n), 0.5f));
  x.normal();
  Numbers values = x.exact();
  for (int64_t l = 0; l < k; ++l) {
    values[size_t(k + l)] *= 1e10f;
    values[size_t(5 * k + l)] *= l < 64 ? 1e-30f : 1;
    values[size_t(6 * k + l)] *= l / 64 == 1 ? 1e15f : 1;
    values[size_t(7 * k + l)] *= l / 64 == 1 ? 0 : 1e-20f;
    values[size_t(8 * k + l)] *= 1e-41f;
    if (bad_rows) values[size_t(9 * k + l)] *= l < 128 ? 1 : 1e30f;
    values[size_t(2 * k + l)] *= 1e-9f;
    values[size_t(130 * k + l)] *= 1e-35f;
    if (bad_rows) values[size_t(131 * k + l)] *= 1e30f;
    values[size_t(4 * k + l)] = 0;
  }
  if (bad_rows) {
    values[size_t(3 * k)] = NAN;
    values[size_t(10 * k + 149)] = INFINITY;
    values[size_t(11 * k + 64)] = 0x1p74f;
  }
  values[size_t(12 * k + 63)] = -0x1.fp73f;
  x.set(values);
  strided.set(values);
  // with a residual that the result takes the place of
  const bool in_place = with_probability(0.5);
  for (const char* operation : {"linear", "matmul"}) {
    out.set(Numbers(size_t(m * n), 0.75f));
    if (operation[0] == 'l') {
      ON_BOTH(linear, out.on<Out>(s), Out(), x.on<In>(s), absent(), w.on(s), bias.on<In>(s),
              in_place ? out.on<In>(s) : absent(), Activation::none, Precision::float32);
    } else {
      ON_BOTH(matmul, out.on<Out>(s), strided.on<In>(s), w.plain.on<In>(s), absent(), Precision::float32);
    }
    const Numbers got = out.get(1), expected = out.get(0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double size = operation[0] == 'l' ? in_place ? 1.25 : 0.5 : 0;
        for (int64_t l = 0; l < k; ++l)
          size += fabs(double(values[size_t(i * k + l)]) * double(weights[size_t(l * n + j)]));
        const float a = got[size_t(i * n + j)], b = expected[size_t(i * n + j)];
        if (a == b || (a != a && b != b) || fabs(double(a) - double(b)) <= 0x1p-20 * size + 1e-37) continue;
        wrong(std::string(operation) + ", row " + std::to_string(i) + ", column " + std::to_string(j) + ": " +
              std::to_string(a) + " for " + std::to_string(b));
      }
    }
  }
}

// The tensor with an element that is not finite.
void spoil(Both& x) {
  Numbers values = x.exact();
  values[size_t(integer(0, int(values.size()) - 1))] = pick({float(NAN), float(INFINITY), -float(INFINITY)});
  x.set(values);
}

void test_attention() {
  const DType dtype = any_float();
  // 650: Hopper's ring of slots goes around, and one of its groups has a step more than the other
  const int far = dtype == DType::float32 ? 150 : 650;
  const int64_t b = integer(1, 2), before = with_probability(0.3) ? pick({integer(1, 150), integer(1, 150), far}) : 0,
                s0 = before == 650 ? pick({1, 65, 130}) : pick({1, 5, 33, 64, 65, 90, 128, 150, 200}),
                h = pick({1, 2, 3, 5});
  const int64_t d = pick({1, 8, 20, 32, 64, 64, 64, 65, 72, 128, 130}),
                dv = with_probability(0.7) ? d : pick({1, 30, 40, 64, 100});
  current += " [" + std::to_string(b) + ", " + std::to_string(s0) + " + " + std::to_string(before) + ", " +
             std::to_string(h) + ", " + std::to_string(d) + ", " + std::to_string(dv) + "] dtype " +
             std::to_string(int(dtype));
  const bool joint = with_probability(0.5) && before == 0 && d == dv;
  Both qkv({b, s0, 3, h, d}, dtype), q({b, s0, h, d}, dtype), k({b, s0 + before, h, d}, dtype),
      v({b, s0 + before, h, dv}, dtype);
  qkv.normal();
  q.normal();
  k.normal();
  v.normal();
  const int odd = with_probability(0.15) && !joint ? integer(1, 3) : 0;
  if (odd) spoil(odd == 1 ? q : odd == 2 ? k : v);
  Both out({b, s0, h, dv}, dtype), probs({b, s0, s0 + before, h}, dtype, true), pad({b, s0 + before}, DType::boolean);
  Numbers padding(size_t(pad.elements()));
  for (float& p : padding) p = with_probability(0.2);
  pad.set(padding);
  const auto part = [&](int s, int64_t i) {
    In view;
    static_cast<View&>(view) = qkv.on<In>(s);
    view.data = static_cast<char*>(view.data) + i * h * d * dtype_size(dtype);
    view.rank = 4;
    view.shape[2] = h;
    view.shape[3] = d;
    view.stride[2] = d;
    view.stride[3] = 1;
    return view;
  };
  const bool causal = with_probability(0.7), padded = with_probability(0.3), watched = with_probability(0.4);
  const double scale = with_probability(0.1) ? pick({-0.25, 0.0}) : 1 / sqrt(double(d));
  ON_BOTH(attention, out.on<Out>(s), Out(), watched ? probs.on<Out>(s) : Out(), joint ? part(s, 0) : q.on<In>(s),
          joint ? part(s, 1) : k.on<In>(s), joint ? part(s, 2) : v.on<In>(s), padded ? pad.on<In>(s) : absent(), causal,
          scale);
  Numbers got = out.get(1);
  const Numbers expected = out.get(0);
  if (odd == 3 && dtype != DType::float32) {
    // a value that a query does not see may count as 0 times itself
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] != got[i] && std::isfinite(expected[i])) got[i] = expected[i];
    }
  }
  compare(got, expected, 4 * unit(dtype) + 0x1p-20, "element");
  if (watched) agree(probs, 4 * unit(dtype) + 0x1p-20, "probability");
  // the rest of the last queries, alone: a row does not depend on the others, nor on which of them there are
  if (!joint && !watched && causal && s0 > 2 && scale > 0 && odd == 0) {
    const int64_t rest = integer(1, int(std::min<int64_t>(s0 - 1, 70)));
    Both some({b, rest, h, dv}, dtype);
    In last = q.on<In>(1);
    last.data = static_cast<char*>(last.data) + (s0 - rest) * last.stride[1] * dtype_size(dtype);
    last.shape[1] = rest;
    good(gpu.operations->attention(gpu.context, some.on<Out>(1), Out(), Out(), last, k.on<In>(1), v.on<In>(1),
                                   padded ? pad.on<In>(1) : absent(), causal, scale));
    const Numbers all = out.get(1), alone = some.get(1);
    for (int64_t i = 0; i < some.elements(); ++i) {
      const int64_t at = i / (rest * h * dv) * s0 * h * dv + (s0 - rest) * h * dv + i % (rest * h * dv);
      const float x = all[size_t(at)], y = alone[size_t(i)];
      if (!(x == y) && !(x != x && y != y))
        wrong("element " + std::to_string(i) + " differs without the other queries");
    }
  }
  Both logits({b, h, s0, s0 + before}, dtype, with_probability(0.5));
  logits.normal();
  ON_BOTH(mask_logits, logits.on<Out>(s), padded ? pad.on<In>(s) : absent(), causal);
  agree(logits, 0);
}

struct Rows {
  std::vector<int64_t> row_ptr;
  std::vector<int32_t> indices;
  Numbers values;
};
struct OwnedCsr : Csr {
  std::vector<int64_t> pointers;
  std::vector<int32_t> index_storage;
  Numbers value_storage;
};

Rows encode(int s, const In& x, const Packed& w, const In& bias, const In& thresholds, double threshold, int64_t k,
            bool relu, Precision precision) {
  OwnedCsr csr;
  csr.rows = x.shape[0];
  csr.pointers.resize(size_t(csr.rows) + 1);
  csr.row_ptr = csr.pointers.data();
  csr.reserve = [](Csr* base, int64_t count) {
    auto* self = static_cast<OwnedCsr*>(base);
    self->index_storage.resize(size_t(count) + 1);
    self->value_storage.resize(size_t(count) + 1);
    self->indices = self->index_storage.data();
    self->values = self->value_storage.data();
    return true;
  };
  const Side& side = Both::side(s);
  const Status status =
      side.operations->sparse_encode(side.context, {&csr}, x, w, In{}, bias, thresholds, threshold, k, relu, precision);
  good(status);
  if (csr.pending) good(side.backend->finish(side.context, csr.pending));
  const auto count = size_t(csr.pointers.back());
  csr.index_storage.resize(count);
  csr.value_storage.resize(count);
  return {csr.pointers, csr.index_storage, csr.value_storage};
}

// Scores so large that the distance of two of them is beyond what their exponents hold: the largest one takes all.
void test_large_scores() {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const double size : {1.0, 30.0, 3e3, 1.4e4, 1e6, 1e9}) {
      if (dtype == DType::float16 && size > 2e4) continue;
      current = "large scores, dtype " + std::to_string(int(dtype)) + ", size " + std::to_string(size);
      const int64_t t = 20, d = 64;
      Both q({1, t, 1, d}, dtype), k({1, t, 1, d}, dtype), v({1, t, 1, d}, dtype), out({1, t, 1, d}, dtype);
      q.normal(size);
      k.normal(size);
      v.normal();
      ON_BOTH(attention, out.on<Out>(s), Out(), Out(), q.on<In>(s), k.on<In>(s), v.on<In>(s), absent(), true, 0.125);
      agree(out, 4 * unit(dtype) + 0x1p-16);
    }
  }
}

// jumps: columns have thresholds
void check_sparse(bool jumps) {
  const int64_t m = pick({1, 5, 70, 130}), k = pick({1, 20, 70}), n = pick({1, 40, 130, 600, 1200});
  const DType dtype = jumps ? pick({DType::float32, DType::float32, DType::bfloat16, DType::float16})
                            : pick({DType::float32, DType::float32, DType::bfloat16});
  Weights w(k, n, dtype);
  Both x({m, k}, dtype), bias({n}, pick({DType::float32, dtype})), thresholds({n});
  x.normal();
  bias.normal();
  if (dtype == DType::float32 && with_probability(0.4)) {
    // rows and columns that operands do not represent
    Numbers rows = x.exact(), columns = w.plain.exact();
    const int64_t row = integer(0, int(m) - 1), column = integer(0, int(n) - 1);
    const float by_row = pick({1.0f, 1e30f, 1e-30f}), by_column = pick({1e25f, 1e-30f});
    for (int64_t l = 0; l < k; ++l) {
      rows[size_t(row * k + l)] *= by_row;
      columns[size_t(l * n + column)] *= by_column;
    }
    if (with_probability(0.3)) rows[size_t(row * k)] = NAN;
    x.set(rows);
    w.plain.set(columns);
    w.pack();
  }
  const auto precision =
      pick({jumps ? Precision::strict : Precision::float32, Precision::float32, Precision::tf32, Precision::bf16});
  const In biases = with_probability(0.7) ? bias.on<In>(1) : absent();
  const bool relu = jumps || with_probability(0.6);
  const int64_t top = !jumps && with_probability(0.5) ? integer(1, int(std::min<int64_t>(n, 40))) : 0;
  const double threshold = pick({0.0, 0.5, 3.0});
  current +=
      " [" + std::to_string(m) + ", " + std::to_string(k) + ", " + std::to_string(n) + "] top " + std::to_string(top);
  // the expected rows, from the dense product of the same kernels
  Both dense({m, n});
  good(gpu.operations->linear(gpu.context, dense.on<Out>(1), Out(), x.on<In>(1), absent(), w.on(1), biases, absent(),
                              Activation::none, precision));
  const Numbers values = dense.get(1);
  // many thresholds are values of their column; NaN counts as none
  Numbers own(size_t(n), NAN);
  for (int64_t j = 0; jumps && j < n; ++j) {
    const float value = values[size_t(integer(0, int(m) - 1) * n + j)];
    own[size_t(j)] = pick({value > 0 ? value : 0.0f, fabsf(value), 0.0f, -0.0f, INFINITY});
  }
  thresholds.set(own);
  const Rows got =
      encode(1, x.on<In>(1), w.on(1), biases, jumps ? thresholds.on<In>(1) : absent(), threshold, top, relu, precision);
  const auto same = [](float a, float b) { return a == b || (a != a && b != b); };
  size_t at = 0;
  for (int64_t i = 0; i < m; ++i) {
    std::vector<int64_t> order;
    for (int64_t j = 0; j < n; ++j) order.push_back(j);
    const float* row = &values[size_t(i * n)];
    if (top) {
      // NaN is the largest
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t p, int64_t q) { return row[q] == row[q] && (row[p] != row[p] || row[p] > row[q]); });
      order.resize(size_t(top));
      std::sort(order.begin(), order.end());
    }
    for (const int64_t j : order) {
      if ((relu ? double(row[j]) : fabs(double(row[j]))) <= threshold || row[j] <= own[size_t(j)]) continue;
      if (at >= got.indices.size() || got.indices[at] != j || !same(got.values[at], row[j]))
        wrong("entry " + std::to_string(at));
      ++at;
    }
    if (got.row_ptr[size_t(i) + 1] != int64_t(at)) wrong("row_ptr of row " + std::to_string(i));
  }
  if (at != got.indices.size()) wrong("more entries than there are");
  // and back
  const int64_t width = pick({1, 30, 64, 513});
  Weights decoder(n, width, dtype);
  Both out({m, width}, dtype), pointers({m + 1}, DType::int32), indices({int64_t(at)}, DType::int32),
      kept({int64_t(at)});
  Numbers p(got.row_ptr.begin(), got.row_ptr.end()), q(got.indices.begin(), got.indices.end());
  pointers.set(p);
  if (at) indices.set(q);
  if (at) kept.set(got.values);
  ON_BOTH(sparse_decode, out.on<Out>(s), pointers.on<In>(s), indices.on<In>(s), kept.on<In>(s), decoder.on(s),
          absent());
  for (const float value : got.values) {
    if (!std::isfinite(value) || fabs(value) > 1e20) return;  // sums without a meaning
  }
  agree(out, unit(dtype) + 0x1p-20, "element", 1);
}

void test_sparse() { check_sparse(false); }
void test_thresholds() { check_sparse(true); }

// A tensor is read while the next operations change it.
void test_transfers() {
  const int64_t n = with_probability(0.3) ? 5'000'000 : 1000;
  Both x({n}), y({n});
  x.normal();
  const Numbers before = x.get(1);
  Numbers host(static_cast<size_t>(n));
  Pending* pending = nullptr;
  good(gpu.backend->download(gpu.context, host.data(), DType::float32, x.on<In>(1), &pending));
  good(gpu.operations->fill(gpu.context, x.on<Out>(1), 7));
  good(gpu.operations->copy(gpu.context, y.on<Out>(1), x.on<In>(1)));
  good(gpu.backend->finish(gpu.context, pending));
  compare(host, before, 0, "what was read");
  compare(y.get(1), Numbers(size_t(n), 7.0f), 0, "what came after");
}

// ---- the table: failures, devices, memory

// A row of a table, looked up on the GPU alone; the index may lie outside.
class Lookup {
 public:
  Lookup(int rows, int index) : index(index), table_({rows, 3}) {
    table_.normal();
    indices_.set({float(index)});
  }
  void begin() {
    good(gpu.operations->embedding(gpu.context, out_.on<Out>(1), indices_.on<In>(1), table_.on<In>(1), false));
  }
  const int index;

 private:
  Both table_, indices_{{1}, DType::int32}, out_{{1, 3}};
};

// Demands the failure of an index outside of a table of so many rows, or none.
void expect_failure(const Status& status, int index, int rows, const std::string& who) {
  const std::string text = status.text, of = std::to_string(rows);
  const std::string expected =
      index < rows ? ""
                   : "embedding: index " + std::to_string(index) + " at position 0 is outside [0, " + of +
                         ") (of out [1, 3] float32, indices [1] int32, table [" + of + ", 3] float32)";
  if (text != expected) wrong(who + " says \"" + text + "\", but should say \"" + expected + "\"");
  if (status.failed() && !status.names_operation) wrong(who + " names no operation");
}

// A failure that depends on the data is reported once, by the mark behind the operation, whichever mark is finished first and
// however far the stream has come.
void test_failures() {
  Lookup lookups[] = {{5, 0}, {5, 9}, {5, 4}, {5, 77}, {5, 1}, {5, 5}};
  constexpr int kMarks = 12;
  int first[kMarks] = {};  // that failed before each mark, since the one before
  Pending* marks[kMarks];
  for (int m = 0; m < kMarks; ++m) {
    for (int n = integer(0, 3); n > 0; --n) {
      Lookup& lookup = lookups[integer(0, 5)];
      lookup.begin();
      if (first[m] < 5 && lookup.index >= 5) first[m] = lookup.index;
    }
    marks[m] = gpu.backend->mark(gpu.context);
  }
  // the stream is ahead of the threads that wait
  if (with_probability(0.5)) cudaDeviceSynchronize();
  Status statuses[kMarks];
  std::vector<std::thread> threads;
  for (int m = kMarks; m-- > 0;) {
    threads.emplace_back([m, &statuses, &marks] { statuses[m] = gpu.backend->finish(gpu.context, marks[m]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int m = 0; m < kMarks; ++m) expect_failure(statuses[m], first[m], 5, "mark " + std::to_string(m));
  // and by synchronize, if no mark came
  lookups[1].begin();
  expect_failure(gpu.backend->synchronize(gpu.context), 9, 5, "synchronize");
  expect_failure(gpu.backend->synchronize(gpu.context), 0, 5, "synchronize once more");
}

// More operations than there are entries for their failures: the first failure is still the one that is reported.
void test_many_failures() {
  Lookup good_one(5, 1), first(4, 17), other(5, 2000), last(5, 9);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 2500; ++i) (i == 17 ? first : i == 2000 ? other : good_one).begin();
    Pending* mark = gpu.backend->mark(gpu.context);
    last.begin();
    expect_failure(gpu.backend->finish(gpu.context, mark), 17, 4, "the mark");
    expect_failure(gpu.backend->synchronize(gpu.context), 9, 5, "synchronize");
  }
}

// One thread works on two GPUs in turn, the second one opened when the first was in use.
void test_devices() {
  const Side sides[] = {gpu, open(gpu.backend, 1)};
  const int64_t m = 130, k = 70, n = 65;  // a product, which asks for shared memory on each
  for (int i = 0; i < 6; ++i) {
    const Side& side = sides[i % 2];
    const auto tensor = [&](int64_t rows, int64_t columns) {
      Out view;
      view.rank = 2;
      view.shape[0] = rows;
      view.shape[1] = view.stride[0] = columns;
      view.stride[1] = 1;
      view.data = side.backend->allocate(side.context, size_t(rows * columns) * 4);
      return view;
    };
    const auto in = [](const View& view) {
      In x;
      static_cast<View&>(x) = view;
      return x;
    };
    const Out a = tensor(m, k), b = tensor(k, n), out = tensor(m, n);
    good(side.operations->fill(side.context, a, i + 1));
    good(side.operations->fill(side.context, b, 0.5));
    good(side.operations->matmul(side.context, out, in(a), in(b), absent(), Precision::float32));
    Numbers got(size_t(m * n));
    Pending* pending = nullptr;
    good(side.backend->download(side.context, got.data(), DType::float32, in(out), &pending));
    good(side.backend->finish(side.context, pending));
    compare(got, Numbers(got.size(), float(i + 1) * 35), 1e-6, "element");
    int current = -1;
    cudaGetDevice(&current);
    if (current != i % 2) wrong("the thread is left on GPU " + std::to_string(current));
    for (const Out& view : {a, b, out}) side.backend->release(side.context, view.data);
  }
  sides[1].backend->close(sides[1].context);
}

// A GPU with little memory, and blocks that a caller, like the addon's allocator, keeps for later.
class Small {
 public:
  explicit Small(size_t bytes) {
    setenv("SONDE_EMULATE_MEMORY", std::to_string(bytes).c_str(), 1);
    side = open(gpu.backend, 1);  // another GPU, whose memory nobody uses
    side.backend->on_shortage(
        side.context, [](void* self) { static_cast<Small*>(self)->give_up(); }, this);
  }
  ~Small() {
    give_up();
    for (void* block : matrices_) side.backend->release(side.context, block);
    side.backend->close(side.context);
    unsetenv("SONDE_EMULATE_MEMORY");
  }
  Small(const Small&) = delete;

  void give_up() {
    for (void* block : kept_) side.backend->release(side.context, block);
    kept_.clear();
  }
  // keeps as many blocks of this size as fit
  size_t keep(size_t bytes) {
    while (void* block = side.backend->allocate(side.context, bytes)) kept_.push_back(block);
    return kept_.size();
  }
  void holds(size_t bytes, size_t blocks) {
    const size_t there = keep(bytes);
    give_up();
    if (there != blocks) wrong(std::to_string(there) + " blocks of " + std::to_string(bytes) + " bytes");
  }
  Out matrix(float value) {
    Out out;
    out.rank = 2;
    out.shape[0] = out.shape[1] = out.stride[0] = 100;
    out.stride[1] = 1;
    out.data = side.backend->allocate(side.context, 40000);
    matrices_.push_back(out.data);
    good(side.operations->fill(side.context, out, value));
    return out;
  }
  void reads(const Out& view, float value) {
    In x;
    static_cast<View&>(x) = view;
    Numbers got(10000);
    Pending* pending = nullptr;
    good(side.backend->download(side.context, got.data(), DType::float32, x, &pending));
    good(side.backend->finish(side.context, pending));
    compare(got, Numbers(10000, value), 0, "element");
  }
  // its operands take two slots of scratch memory of 65,536 bytes
  Status square(const Out& out, const Out& x) {
    In in;
    static_cast<View&>(in) = x;
    return side.operations->matmul(side.context, out, in, in, absent(), Precision::float32);
  }

  Side side;

 private:
  std::vector<void*> kept_, matrices_;
};

// Memory that was freed in one size can be allocated in another.
void test_pool() {
  Small small(1'000'000);
  small.holds(100'000, 10);
  small.holds(300'000, 3);
  small.holds(1'000'000, 1);
  small.holds(1'000'001, 0);
  small.holds(70'000, 14);
  if (cudaGetLastError() != cudaSuccess) wrong("an error was left behind");
}

// An operation's scratch memory is taken from blocks that the caller keeps, and from scratch memory of other operations.
void test_shortage() {
  Small small(500'000);
  const Out x = small.matrix(2), out = small.matrix(0);
  small.keep(10'000);
  small.reads(x, 2);  // by way of 40,000 bytes
  good(small.square(out, x));
  small.holds(300'000, 0);
  small.side.backend->trim(small.side.context);
  small.holds(420'000, 1);
  // one of the two slots fits: the one that is allocated already stays
  small.keep(320'000);
  good(small.square(out, x));
  small.reads(out, 400);
  // nothing is left to give up
  small.side.backend->trim(small.side.context);
  std::vector<void*> held;
  while (void* block = small.side.backend->allocate(small.side.context, 10'000)) held.push_back(block);
  const auto says = [](const Status& status, const char* text) {
    if (!strstr(status.text, text) || (*text == 0 && status.failed())) wrong(std::string(text) + ": " + status.text);
  };
  says(small.square(out, x), "out of GPU memory: ");
  // an operation that failed on its data before is reported first, and only once
  Out integers = x;
  integers.dtype = DType::int32;
  In divided;
  static_cast<View&>(divided) = integers;
  good(small.side.operations->binary_scalar(small.side.context, integers, divided, 0, BinaryKind::div));
  says(small.square(out, x), "binaryScalar: division by zero at element ");
  says(small.square(out, x), "out of GPU memory: ");
  says(small.side.backend->synchronize(small.side.context), "");
  for (void* block : held) small.side.backend->release(small.side.context, block);
  if (cudaGetLastError() != cudaSuccess) wrong("an error was left behind");
}

struct Test {
  const char* name;
  void (*run)();
  bool once;  // not for each case
};
constexpr Test kTests[] = {
    {"elementwise", test_elementwise, false},
    {"gelu", test_gelu, false},
    {"copy", test_copy, false},
    {"rows", test_rows, false},
    {"norm paths", test_norm_paths, false},
    {"reductions", test_reductions, false},
    {"cross-entropy", test_cross_entropy, false},
    {"ranking", test_ranking, false},
    {"lookup", test_lookup, false},
    {"choice", test_choice, false},
    {"indexing", test_indexing, false},
    {"linear", test_linear, false},
    {"matmul", test_matmul, false},
    {"rows alone", test_rows_alone, true},
    {"range", test_range, true},
    {"attention", test_attention, false},
    {"large scores", test_large_scores, true},
    {"planes", test_planes, false},
    {"sparse", test_sparse, false},
    {"thresholds", test_thresholds, false},
    {"transfers", test_transfers, true},
    {"accuracy", test_accuracy, true},
    {"pipeline", test_pipeline, true},
    {"failures", test_failures, false},
    {"many failures", test_many_failures, true},
    {"devices", test_devices, true},
    {"pool", test_pool, true},
    {"shortage", test_shortage, true},
};

}  // namespace
}  // namespace sonde

int main(int argc, char** argv) {
  using namespace sonde;
  const int cases = argc > 1 ? atoi(argv[1]) : 4, seeds = argc > 2 ? atoi(argv[2]) : 6;
  setenv("SONDE_EMULATE_DEVICES", "2", 1);
  cpu = open(&cpu_backend, 0);
  gpu = open(sonde_backend(), 0);
  for (const Test& test : kTests) {
    bool wanted = argc <= 3;
    for (int i = 3; i < argc; ++i) wanted = wanted || strstr(test.name, argv[i]);
    if (!wanted) continue;
    // where float32 products are plain, nothing reads planes
    if (test.run == test_planes && gpu.context->capability == 86) continue;
    for (int seed = 0; seed < seeds; ++seed) {
      if (test.run == test_accuracy && seed > 0) break;  // says nothing about schedules
      emulator::set_schedule(seed);
      for (int i = 0; i < (test.once ? 1 : cases); ++i) {
        rng.seed(unsigned(seed * 1000 + i));
        current = std::string(test.name) + ", schedule " + std::to_string(seed) + ", case " + std::to_string(i) + ":";
        test.run();
      }
    }
    printf("kernels_test: %s: good\n", test.name);
    fflush(stdout);
  }
  gpu.backend->close(gpu.context);
  cpu.backend->close(cpu.context);
}
