// Computes the four arithmetic operations. Rows are converted to float32, or stay int32 when all three sides are; a
// repeated element (stride 0) is written out once per row.
#include "operations.h"
#include "rows.h"

namespace sonde::SONDE_ISA {

namespace {

template <class Vector>
SONDE_INLINE Vector apply(BinaryKind kind, Vector a, Vector b) {
  switch (kind) {
    case BinaryKind::add: return a + b;
    case BinaryKind::sub: return a - b;
    case BinaryKind::mul: return a * b;
    default: return a / b;
  }
}

// y = a kind b; the kind is chosen outside the loop
void float_row(float* y, const float* a, const float* b, int64_t n, BinaryKind kind) {
  const auto loop = [&](auto function) {
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store(y + i, function(load(a + i), load(b + i)));
    for (; i < n; ++i) y[i] = function(a[i], b[i]);
  };
  switch (kind) {
    case BinaryKind::add: return loop([](auto p, auto q) { return p + q; });
    case BinaryKind::sub: return loop([](auto p, auto q) { return p - q; });
    case BinaryKind::mul: return loop([](auto p, auto q) { return p * q; });
    case BinaryKind::div: return loop([](auto p, auto q) { return p / q; });
  }
}

// One element in wrapping arithmetic. Returns false where the divisor is 0.
bool integer(int32_t* y, int32_t a, int32_t b, BinaryKind kind) {
  if (kind == BinaryKind::div) {
    if (b == 0) return false;
    *y = b == -1 ? int32_t(0u - uint32_t(a)) : a / b;
    return true;
  }
  *y = int32_t(apply(kind, uint32_t(a), uint32_t(b)));
  return true;
}

bool all_int32(const View& a, const View& b, const View& c) {
  return a.dtype == DType::int32 && b.dtype == DType::int32 && c.dtype == DType::int32;
}

Status integers(Context* context, const View& out, const View& a, const View& b, BinaryKind kind) {
  const int64_t n = last_dimension(out);
  int64_t bad = -1;
  each_row(context, row_count(out), n, [&](int64_t row, int) {
    auto* y = reinterpret_cast<int32_t*>(row_at(out, row));
    auto* p = reinterpret_cast<const int32_t*>(row_at(a, row));
    auto* q = reinterpret_cast<const int32_t*>(row_at(b, row));
    const int64_t sy = last_stride(out), sp = last_stride(a), sq = last_stride(b);
    for (int64_t i = 0; i < n; ++i) {
      if (!integer(y + i * sy, p[i * sp], q[i * sq], kind)) __atomic_store_n(&bad, row * n + i, __ATOMIC_RELAXED);
    }
  });
  return bad < 0 ? Status() : fail("division by zero at element %lld", static_cast<long long>(bad));
}

// A contiguous view of any shape as rows of `width` elements.
View as_rows(const View& x, int64_t count, int64_t width) {
  View rows = x;
  rows.rank = 2;
  rows.shape[0] = count / width;
  rows.shape[1] = width;
  rows.stride[0] = width;
  rows.stride[1] = 1;
  return rows;
}

}  // namespace

Status binary(Context* context, Out out, In a, In b, BinaryKind kind) {
  const int64_t count = element_count(out);
  if (count == 0) return {};
  if (all_int32(out, a, b)) return integers(context, out, a, b, kind);
  View o = out, p = a, q = b;
  if (is_contiguous(o) && is_contiguous(p) && is_contiguous(q)) {
    int64_t width = 4096;
    while (count % width) width /= 2;
    if (width >= 64 || last_dimension(o) < width) {
      o = as_rows(o, count, width);
      p = as_rows(p, count, width);
      q = as_rows(q, count, width);
    }
  }
  const int64_t n = last_dimension(o);
  if (!reserve_rows(context, 3, n)) return out_of_memory("a row");
  each_row(context, row_count(o), n, [&](int64_t row, int thread) {
    const float* left = read_row(row_at(p, row), p.dtype, last_stride(p), n, row_scratch(context, thread, 3, n, 0));
    const float* right = read_row(row_at(q, row), q.dtype, last_stride(q), n, row_scratch(context, thread, 3, n, 1));
    char* to = row_at(o, row);
    float* result = result_row(to, o.dtype, last_stride(o), row_scratch(context, thread, 3, n, 2));
    float_row(result, left, right, n, kind);
    write_row(to, o.dtype, last_stride(o), n, result);
  });
  return {};
}

Status binary_scalar(Context* context, Out out, In a, double b, BinaryKind kind) {
  if (all_int32(out, a, a)) {
    int32_t value = int32_t(b);
    View repeated = a;
    repeated.data = &value;
    for (int d = 0; d < repeated.rank; ++d) repeated.stride[d] = 0;
    return element_count(out) ? integers(context, out, a, repeated, kind) : Status();
  }
  const float scalar = float(b);
  switch (kind) {
    case BinaryKind::add: return map(context, out, a, [=](vf v) { return v + scalar; });
    case BinaryKind::sub: return map(context, out, a, [=](vf v) { return v - scalar; });
    case BinaryKind::mul: return map(context, out, a, [=](vf v) { return v * scalar; });
    default: return map(context, out, a, [=](vf v) { return v / scalar; });
  }
}

}  // namespace sonde::SONDE_ISA
