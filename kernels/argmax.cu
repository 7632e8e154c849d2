// Finds the lowest index of each row's largest or smallest value. A value and its index are one integer that is largest where they
// are best.
#include "ranking.cuh"
#include "rows.cuh"

namespace sonde {

namespace {

// An element's key; where the smallest is wanted, the order is turned round, but for NaN, which wins either way.
SONDE_DEVICE int32_t key_at(Keys keys, int64_t offset, bool smallest) {
  if (!smallest) return keys.at(offset);
  if (keys.x.dtype == DType::int32) return ~keys.at(offset);
  return key_of(-keys.x.get(offset));
}

template <class G>
__global__ void __launch_bounds__(kRowThreads) argmax_kernel(int32_t* out, Keys keys, Rows rows, bool smallest) {
  const int64_t i = G::row();
  if (i >= rows.positions.count) return;
  const Row row = rows.row(i);
  uint64_t best = 0;
  for (int64_t j = G::rank(); j < rows.length; j += G::size) {
    const uint64_t here = candidate(key_at(keys, row.offset + j * row.stride, smallest), j);
    best = here > best ? here : best;
  }
  best = G::all(best, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  if (G::rank() == 0) out[i] = index_of(best);
}

}  // namespace

Status argmax(Context* context, Out out, In x, bool smallest) {
  const Rows rows = Rows::of(x);
  if (rows.positions.count == 0) return {};
  with_group(rows.length, [&](auto group) {
    using G = decltype(group);
    LAUNCH((argmax_kernel<G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
           static_cast<int32_t*>(out.data), Keys{AnyElements::of(x)}, rows, smallest);
  });
  return {};
}

}  // namespace sonde
