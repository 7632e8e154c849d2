// Computes the root of the mean square of each row.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

Status root_mean_square(Context* context, Out out, In x, double eps) {
  const int64_t n = last_dimension(x);
  if (!reserve_rows(context, 1, n)) return out_of_memory("a row");
  each_row(context, element_count(out), n, [&](int64_t row, int thread) {
    const float* in = read_row(row_at(x, row), x.dtype, last_stride(x), n, row_scratch(context, thread, 1, n, 0));
    const float value = canonical(float(sqrt(squares_row(in, n, 0) / double(n) + eps)));
    narrow(static_cast<char*>(out.data) + row * dtype_size(out.dtype), &value, out.dtype, 1);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
