// Computes layer norm and its gradients row by row.
#include "layer_norm_row.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

Status layer_norm(Context* context, Out out, Out planes, In x, In gain, In bias, double eps) {
  if (planes.data) return no_planes();
  const int64_t n = last_dimension(x);
  if (element_count(x) == 0) return {};
  auto* scratch = static_cast<float*>(shared_scratch(context, 0, size_t(2 * n) * 4));
  if (!scratch || !reserve_rows(context, 2, n)) return out_of_memory("a row");
  const NormWeights weights = NormWeights::widened(scratch, gain, bias, n);
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const float* in = read_row(row_at(x, row), x.dtype, last_stride(x), n, row_scratch(context, thread, 2, n, 0));
    char* to = static_cast<char*>(out.data) + row * n * dtype_size(out.dtype);
    float* result = result_row(to, out.dtype, 1, row_scratch(context, thread, 2, n, 1));
    layer_norm_row(result, in, n, weights, eps);
    write_row(to, out.dtype, 1, n, result);
  });
  return {};
}

// With y = (x - mean) / deviation and d = g gain, the gradient of x is (d - mean of d - y mean of (d y)) / deviation.
Status layer_norm_backward(Context* context, Out out, Out products, In g, In x, In gain, In added, double eps) {
  constexpr int kScratchRows = 5;
  const int64_t n = last_dimension(x);
  if (element_count(x) == 0) return {};
  auto* scale = static_cast<float*>(shared_scratch(context, 0, size_t(n) * 4));
  if (!scale || !reserve_rows(context, kScratchRows, n)) return out_of_memory("a row");
  widen(scale, gain.data, gain.dtype, n);
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const auto scratch = [&](int which) { return row_scratch(context, thread, kScratchRows, n, which); };
    const auto read = [&](const View& from, int which) {
      return read_row(row_at(from, row), from.dtype, last_stride(from), n, scratch(which));
    };
    const float *in = read(x, 0), *given = read(g, 1);
    const Statistics statistics = Statistics::of(in, n, eps);
    const vf middle = broadcast(statistics.middle), factor = broadcast(statistics.factor);
    const auto each_vector = [n](auto body) {  // body(i, load, store)
      int64_t i = 0;
      for (; i + kWidth <= n; i += kWidth) {
        body(
            i, [](const float* p) { return load(p); }, [](float* p, vf v) { store(p, v); });
      }
      const int rest = int(n - i);
      if (rest == 0) return;
      body(
          i, [=](const float* p) { return load_partial(p, rest); }, [=](float* p, vf v) { store_partial(p, v, rest); });
    };
    if (products.data) {
      float* to = static_cast<float*>(products.data) + row * n;
      each_vector([&](int64_t i, auto load, auto store) {
        store(to + i, canonical(load(given + i) * ((load(in + i) - middle) * factor)));
      });
    }
    if (!out.data) return;
    float *gained = scratch(2), *along = scratch(3);  // d and d y
    each_vector([&](int64_t i, auto load, auto store) {
      const vf d = load(given + i) * load(scale + i);
      store(gained + i, d);
      store(along + i, d * ((load(in + i) - middle) * factor));
    });
    const vf mean = broadcast(float(sum_row(gained, n) / double(n)));
    const vf slope = broadcast(float(sum_row(along, n) / double(n)));
    const float* rest = added.data ? read(added, 4) : nullptr;
    float* to = static_cast<float*>(out.data) + row * n;
    each_vector([&](int64_t i, auto load, auto store) {
      const vf y = (load(in + i) - middle) * factor;
      vf result = (load(gained + i) - mean - y * slope) * factor;
      if (rest) result += load(rest + i);
      store(to + i, canonical(result));
    });
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
