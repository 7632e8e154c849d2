// Oracle: every operation of native/ops.h in every instruction set's table, or this does not link; and the tables agree
// on values computed by hand. The numbers of each operation are tested through JavaScript, in test/engine.
#include <initializer_list>
#include <string>
#include <vector>

#include "../../native/cpu/backend.h"
#include "../../native/cpu/context.h"
#include "check.h"

namespace sonde {

namespace portable {
extern const Operations operations;
}
#ifdef __x86_64__
namespace avx2 {
extern const Operations operations;
}
namespace avx512 {
extern const Operations operations;
}
namespace avx512_bf16 {
extern const Operations operations;
}
#endif

namespace {

template <class Argument>
Argument argument(float* data, std::initializer_list<int64_t> shape) {
  Argument view;
  view.data = data;
  view.rank = int32_t(shape.size());
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; i--) {
    view.shape[i] = shape.begin()[i];
    view.stride[i] = stride;
    stride *= view.shape[i];
  }
  return view;
}

void check_table(Context* context, const Operations& table) {
#define OP(name, ...) CHECK(table.name != nullptr);
  SONDE_OPS(OP)
  SONDE_BACKWARD_OPS(OP)
#undef OP
  CHECK(table.packed_bytes(3, 5, DType::float32) >= 60);
  CHECK(table.planes_bytes(nullptr, 3, 64, DType::float32) == 0);

  // longer than a vector and no multiple of one
  std::vector<float> a(67, 2), b(67), sum(67);
  for (int i = 0; i < 67; i++) b[i] = float(i);
  const Status status = table.binary(context, argument<Out>(sum.data(), {67}), argument<In>(a.data(), {67}),
                                     argument<In>(b.data(), {67}), BinaryKind::add);
  CHECK(!status.failed());
  for (int i = 0; i < 67; i++) CHECK(sum[i] == float(i + 2));

  // an index outside of the table is an error that gives it, not a read
  int32_t index = 9;
  In indices = argument<In>(nullptr, {1});
  indices.data = &index;
  indices.dtype = DType::int32;
  const Status outside =
      table.embedding(context, argument<Out>(sum.data(), {1, 4}), indices, argument<In>(a.data(), {9, 4}), false);
  CHECK(outside.failed());
  CHECK(std::string(outside.text).find('9') != std::string::npos);
}

// Each i occurs once, with any number of threads, and one call's work is over before the next one's begins.
void check_parallel(Context* context) {
  for (const int64_t count : {0, 1, 2, 7, 1000}) {
    std::vector<int> times(size_t(count) + 1, 0);
    struct Task {
      std::vector<int>* times;
      Context* context;
    } task{&times, context};
    for (int round = 0; round < 20; round++) {
      parallel_for(
          context, count,
          [](void* arg, int64_t i, int thread) {
            auto* task = static_cast<Task*>(arg);
            CHECK(thread >= 0 && thread < thread_count(task->context));
            auto* scratch = static_cast<int64_t*>(thread_scratch(task->context, thread, 0, 64));
            CHECK(scratch != nullptr);
            *scratch = i;
            (*task->times)[size_t(i)]++;
            CHECK(*scratch == i);  // no other thread has this thread's scratch memory
          },
          &task);
    }
    for (int64_t i = 0; i < count; i++) CHECK(times[size_t(i)] == 20);
  }
}

Context* open(int32_t threads) {
  Status status;
  Context* context = cpu_backend.open(0, threads, &status);
  CHECK(context != nullptr && !status.failed());
  CHECK(thread_count(context) == threads);
  return context;
}

}  // namespace
}  // namespace sonde

int main() {
  using namespace sonde;
  CHECK(cpu_backend.abi == kBackendAbi);
  for (const int threads : {1, 2, 5}) {
    Context* context = open(threads);
    Context* other = open(2);
    check_parallel(context);
    check_parallel(other);
    check_table(context, *cpu_backend.operations(context));
    check_table(context, portable::operations);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) check_table(context, avx2::operations);
    if (__builtin_cpu_supports("avx512vl")) check_table(context, avx512::operations);
    if (__builtin_cpu_supports("avx512bf16")) check_table(context, avx512_bf16::operations);
#endif
    cpu_backend.close(other);
    cpu_backend.close(context);
  }
  std::puts("operations_test: good");
}
