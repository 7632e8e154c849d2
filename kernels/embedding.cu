// Copies or adds rows of a table.
#include "elements.cuh"

namespace sonde {

namespace {

template <class E>
struct Lookup {
  E out, table;
  const int32_t* indices;
  Positions<1> positions;
  int64_t rows, width;
  bool accumulate;
  Failure* failure;
};

// A warp takes a row.
template <class E>
__global__ void __launch_bounds__(kThreads) embedding_kernel(Lookup<E> x) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int lane = int(threadIdx.x) % 32;
  if (i >= x.positions.count) return;
  int64_t offset[1];
  x.positions.at(i, offset);
  const int32_t index = x.indices[offset[0]];
  const bool good = index >= 0 && index < x.rows;
  if (!good && lane == 0) report(x.failure, kBadIndex, index, i, x.rows);
  for (int64_t j = lane; j < x.width; j += 32) {
    const float value = good ? x.table.get(index * x.width + j) : 0.0f;
    x.out.set(i * x.width + j, x.accumulate ? x.out.get(i * x.width + j) + value : value);
  }
}

}  // namespace

Status embedding(Context* context, Out out, In indices, In table, bool accumulate) {
  const View* const views[] = {&indices};
  const auto where = positions(views);
  const int64_t width = table.shape[1];
  if (where.count == 0) return {};
  Status status;
  Failure* failure = failure_of_operation(context, &status);
  if (status.failed()) return status;
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        const Lookup<E> x = {E::of(out), E::of(table),   static_cast<const int32_t*>(indices.data),
                             where,      table.shape[0], width,
                             accumulate, failure};
        LAUNCH((embedding_kernel<E>), dim3(unsigned(ceil_div(where.count * 32, kThreads))), dim3(kThreads), 0,
               context->stream, x);
        return Status();
      },
      out, table);
}

}  // namespace sonde
