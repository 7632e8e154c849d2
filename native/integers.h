// What int32 does not hold, in words: the failures that both backends name alike. static: a copy compiled for one
// instruction set must not be the one that the linker keeps for all
#pragma once
#include "ops.h"

namespace sonde {

static inline Status not_int32(long long element, double value) {
  if (value != value) return fail("element %lld is NaN, which int32 does not hold", element);
  return fail("element %lld is %.9g, which int32 does not hold", element, value);
}

static inline Status sum_not_int32(long long row, long long sum) {
  return fail("the sum of row %lld is %lld, which int32 does not hold", row, sum);
}

static inline Status element_sum_not_int32(long long element, long long sum) {
  return fail("the sum at element %lld is %lld, which int32 does not hold", element, sum);
}

static inline Status partial_sum_not_int32(long long row, long long element, long long sum) {
  return fail("the sum of row %lld up to element %lld is %lld, which int32 does not hold", row, element, sum);
}

// `of` is abs, neg or pow
static inline Status unary_not_int32(long long element, long long value, UnaryKind of, double power) {
  if (of == UnaryKind::pow) return fail("%lld to the power %g at element %lld is outside int32", value, power, element);
  return fail("%s of %lld at element %lld is outside int32", of == UnaryKind::abs ? "abs" : "neg", value, element);
}

static inline Status result_not_int32(long long element, long long a, BinaryKind kind, long long b) {
  if (kind == BinaryKind::div && b == 0) return fail("division by zero at element %lld", element);
  return fail("%lld %c %lld at element %lld is outside int32", a, "+-*/"[int(kind)], b, element);
}

}  // namespace sonde
