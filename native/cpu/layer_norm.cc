// Two passes over a row that is in the cache: the mean, then the mean of squared distances from it. One pass (mean of squares
// minus square of the mean) would cancel where the mean is large.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status layer_norm(Context* context, Out out, In x, In gain, In bias, double eps) {
  const int64_t n = last_dimension(x);
  if (element_count(x) == 0) return {};
  auto* scale = static_cast<float*>(shared_scratch(context, 0, size_t(2 * n) * 4));
  if (!scale || !reserve_rows(context, 2, n)) return no_room();
  float* shift = scale + n;
  widen(scale, gain.data, gain.dtype, n);
  widen(shift, bias.data, bias.dtype, n);
  each_row(context, row_count(x), n, [&](int64_t row, int thread) {
    const float* in = read_row(row_at(x, row), x.dtype, last_stride(x), n, row_room(context, thread, 2, n, 0));
    char* to = static_cast<char*>(out.data) + row * n * dtype_size(out.dtype);
    float* result = result_room(to, out.dtype, 1, row_room(context, thread, 2, n, 1));
    const float mean = sum_row(in, n) / float(n);
    const float deviation = sqrtf(squares_row(in, n, mean) / float(n) + float(eps));
    const vf middle = broadcast(mean), factor = broadcast(1.0f / deviation);
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) {
      store(result + i, fma((load(in + i) - middle) * factor, load(scale + i), load(shift + i)));
    }
    if (i < n) {
      const int rest = int(n - i);
      const vf y = fma((load_partial(in + i, rest) - middle) * factor, load_partial(scale + i, rest),
                       load_partial(shift + i, rest));
      store_partial(result + i, y, rest);
    }
    write_row(to, out.dtype, 1, n, result);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
