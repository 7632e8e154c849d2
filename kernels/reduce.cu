// Reduces rows to one value each: sums, means, extremes, variances, norms, logarithms of sums of powers. A row is what the last
// dimensions hold, one or several.
#include "rows.cuh"

namespace sonde {

namespace {

// Rows of several dimensions.
struct Spaces {
  Rows rows;  // the stride is of rows of one dimension, joined
  Positions<1> inner;

  static Spaces of(const View& x, int kept) {
    const View* const views[] = {&x};
    View row = x;
    row.rank = kept;
    for (int d = 0; d < kept; ++d) {
      row.shape[d] = x.shape[x.rank - kept + d];
      row.stride[d] = x.stride[x.rank - kept + d];
    }
    const View* const inside[] = {&row};
    const Positions<1> inner = positions(inside);
    return {{positions(views, kept), inner.count, inner.rank ? inner.stride[0][0] : 1}, inner};
  }
  SONDE_DEVICE int64_t at(const Row& row, int64_t i) const {
    if (inner.rank <= 1) return row.offset + i * row.stride;
    int64_t offset[1];
    inner.at(i, offset);
    return row.offset + offset[0];
  }
};

SONDE_DEVICE float finished(double sum, int64_t length, ReduceKind kind) {
  if (kind == ReduceKind::sum) return float(sum);
  return length ? float(sum / double(length)) : NAN;
}

// squares about the mean -> the variance or its root; over 0 where less than 0 would be left, as in PyTorch
SONDE_DEVICE float finished_squares(double squares, int64_t length, ReduceKind kind, double correction) {
  if (kind == ReduceKind::norm) return float(sqrt(squares));
  if (length == 0) return NAN;
  const double left = double(length) - correction, variance = squares / (left > 0 ? left : 0);
  return float(kind == ReduceKind::variance ? variance : sqrt(variance));
}

// The sum of (get(i) - its mean, or 0 for a norm)^2.
template <class G, class Get>
SONDE_DEVICE double sum_squares(Get get, int64_t length, ReduceKind kind) {
  double mean = 0, sum = 0;
  if (kind != ReduceKind::norm) {
    for (int64_t j = G::rank(); j < length; j += G::size) mean += get(j);
    mean = G::sum(mean) / double(length);
  }
  for (int64_t j = G::rank(); j < length; j += G::size) {
    const double distance = get(j) - mean;
    sum += distance * distance;
  }
  return length ? G::sum(sum) : 0;
}

template <class G, class Get>
SONDE_DEVICE float extreme(Get get, int64_t length, bool smallest) {
  float best = -INFINITY;  // of the values with their sign turned for the smallest
  bool nan = false;
  for (int64_t j = G::rank(); j < length; j += G::size) {
    const float x = smallest ? -get(j) : get(j);
    nan = nan || x != x;
    best = x > best ? x : best;
  }
  best = G::max(best);
  const float any = G::max(nan ? 1.0f : 0.0f);
  return any > 0 ? NAN : smallest ? -best : best;
}

template <class G, class Get>
SONDE_DEVICE float log_sum_exp(Get get, int64_t length) {
  float largest = -INFINITY;
  for (int64_t j = G::rank(); j < length; j += G::size) {
    const float x = get(j);
    largest = x > largest ? x : largest;
  }
  largest = G::max(largest);
  const bool finite = largest - largest == 0;
  double sum = 0;
  for (int64_t j = G::rank(); j < length; j += G::size) sum += expf(get(j) - (finite ? largest : 0.0f));
  sum = G::sum(sum);
  if (sum != sum) return NAN;
  return finite ? float(largest + log(sum)) : largest;
}

template <class E, class G>
__global__ void __launch_bounds__(kRowThreads, 4)
    reduce_kernel(E out, E in, Spaces spaces, ReduceKind kind, double correction) {
  const int64_t i = G::row();
  if (i >= spaces.rows.positions.count) return;  // whole groups leave
  const Row row = spaces.rows.row(i);
  const int64_t n = spaces.rows.length;
  const auto get = [&](int64_t j) { return in.get(spaces.at(row, j)); };
  float result;
  switch (kind) {
    case ReduceKind::max:
    case ReduceKind::min: result = extreme<G>(get, n, kind == ReduceKind::min); break;
    case ReduceKind::any:
    case ReduceKind::all: {
      // any: one that is not 0; all: none that is 0
      const bool zero = kind == ReduceKind::all;
      float found = 0;
      for (int64_t j = G::rank(); j < n; j += G::size) found = (get(j) == 0) == zero ? 1.0f : found;
      found = G::max(found);
      result = zero ? 1 - found : found;
      break;
    }
    case ReduceKind::variance:
    case ReduceKind::deviation:
    case ReduceKind::norm: result = finished_squares(sum_squares<G>(get, n, kind), n, kind, correction); break;
    case ReduceKind::log_sum_exp: result = log_sum_exp<G>(get, n); break;
    default: {
      double sum = 0;
      for (int64_t j = G::rank(); j < n; j += G::size) sum += get(j);
      result = finished(G::sum(sum), n, kind);
    }
  }
  if (G::rank() == 0) out.set(i, result);
}

template <class G>
__global__ void __launch_bounds__(kRowThreads, 4)
    reduce_integers_kernel(AnyElements out, const int32_t* in, Spaces spaces, ReduceKind kind, double correction,
                           Failure* failure) {
  const int64_t i = G::row();
  if (i >= spaces.rows.positions.count) return;
  const Row row = spaces.rows.row(i);
  const int64_t n = spaces.rows.length;
  const auto get = [&](int64_t j) { return in[spaces.at(row, j)]; };
  if (kind == ReduceKind::variance || kind == ReduceKind::deviation || kind == ReduceKind::norm) {
    const double squares = sum_squares<G>(get, n, kind);
    if (G::rank() == 0) out.set(i, finished_squares(squares, n, kind, correction));
    return;
  }
  const bool largest = kind == ReduceKind::max, smallest = kind == ReduceKind::min;
  int64_t value = largest ? INT32_MIN : smallest ? INT32_MAX : 0;
  const auto combine = [=](int64_t a, int64_t b) {
    if (!largest && !smallest) return a + b;
    return (a > b) == largest ? a : b;
  };
  for (int64_t j = G::rank(); j < n; j += G::size) value = combine(value, get(j));
  value = G::all(value, combine);
  if (G::rank() != 0) return;
  if (kind == ReduceKind::mean) out.set(i, finished(double(value), n, kind));
  else if (int32_t(value) == value) static_cast<int32_t*>(out.data)[i] = int32_t(value);
  else report(failure, kSumNotInt32, i, value, 0);
}

bool takes_integers(ReduceKind kind) {
  return kind != ReduceKind::any && kind != ReduceKind::all && kind != ReduceKind::log_sum_exp;
}

}  // namespace

Status reduce(Context* context, Out out, In x, ReduceKind kind, double correction) {
  const Spaces spaces = Spaces::of(x, x.rank - out.rank);
  const Rows& rows = spaces.rows;
  if (rows.positions.count == 0) return {};
  if (x.dtype == DType::int32 && takes_integers(kind)) {
    Status status;
    Failure* failure = kind == ReduceKind::sum ? failure_of_operation(context, &status) : nullptr;
    if (status.failed()) return status;
    with_group(rows.length, [&](auto group) {
      using G = decltype(group);
      LAUNCH((reduce_integers_kernel<G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
             AnyElements::of(out), static_cast<const int32_t*>(x.data), spaces, kind, correction, failure);
    });
    return {};
  }
  return with_elements(
      [&](auto elements) {
        using E = decltype(elements);
        with_group(rows.length, [&](auto group) {
          using G = decltype(group);
          LAUNCH((reduce_kernel<E, G>), row_grid<G>(rows.positions.count), dim3(kRowThreads), 0, context->stream,
                 E::of(out), E::of(x), spaces, kind, correction);
        });
        return Status();
      },
      out, x);
}

}  // namespace sonde
