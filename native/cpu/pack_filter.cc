// Makes the filter of packed weights (see filter.h), and decides where there is one.
#include <stdlib.h>

#include "clock.h"
#include "filter.h"
#include "operations.h"

namespace sonde::SONDE_ISA {

namespace {

// The columns of a panel [k][kColumns] of float32.
void pack_columns(const Filter& filter, int64_t panel, const float* from, int64_t k) {
  float scale[kColumns], inverse[kColumns], most[kColumns] = {};
  double squares[kColumns] = {}, errors[kColumns] = {};
  for (int64_t p = 0; p < k; ++p) {
    const float* w = from + p * kColumns;
    for (int j = 0; j < kColumns; ++j) {
      most[j] = fabsf(w[j]) > most[j] ? fabsf(w[j]) : most[j];
      squares[j] += double(w[j]) * w[j];
    }
  }
  const int64_t column = panel * kColumns;
  for (int j = 0; j < kColumns; ++j) {
    const double norm = sqrt(squares[j]);
    const bool usable = norm <= kLargestNorm;  // not NaN, either
    scale[j] = usable && most[j] > 0x1p-100f ? most[j] / kLargestByte : 0;
    inverse[j] = scale[j] > 0 ? 1 / scale[j] : 0;
    filter.scale[column + j] = scale[j];
    filter.norm[column + j] = usable ? rounded_up(norm * kMargin) : INFINITY;
  }
  uint8_t* to = filter.panel(panel);
  memset(to, kByteOffset, size_t(filter.steps * kDotStep));
  for (int64_t p = 0; p < k; ++p) {
    const float* w = from + p * kColumns;
    uint8_t* bytes = to + p / kDotDepth * kDotStep + p % kDotDepth;
    for (int j = 0; j < kColumns; ++j) {
      if (scale[j] == 0) continue;
      float q = (w[j] * inverse[j] + kRound) - kRound;
      q = q > kLargestByte ? kLargestByte : q < -kLargestByte ? -kLargestByte : q;
      bytes[j * kDotDepth] = uint8_t(int(q) + kByteOffset);
      const double error = double(w[j]) - double(scale[j]) * q;
      errors[j] += error * error;
    }
  }
  for (int j = 0; j < kColumns; ++j) {
    const double left = scale[j] > 0 ? errors[j] : squares[j];
    filter.residual[column + j] = filter.norm[column + j] < INFINITY ? rounded_up(sqrt(left) * kMargin) : 0;
  }
}

// How much faster the processor multiplies bytes than float32, tile by tile; 0 when there is not enough memory. The best of
// several rounds counts, as other processes can only make a round slower.
double measure_gain() {
  constexpr int kRounds = 12, kTiles = 16;
  constexpr int64_t kK = 256, kPanel = kK * kColumns * 4, kLeft = kK * kDotRows * 4;
  const auto byte_tile = dot_tile_of_processor();
  const Microkernel float_tile = microkernel<kVectors>(Layout::float32, kDotRows);
  auto* memory = static_cast<char*>(calloc(size_t(kPanel + kLeft), 1));
  if (!memory) return 0;
  float sums[kDotRows * kColumns];
  int32_t integers[kDotRows * kColumns], start[kDotRows] = {};
  double floats = INFINITY, bytes = INFINITY;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now();
    for (int i = 0; i < kTiles; ++i) {
      float_tile(kK, memory + kPanel, kK * 4, memory, sums, kColumns, nullptr, false);
    }
    const double middle = now();
    for (int i = 0; i < kTiles; ++i) {
      byte_tile(kK / kDotDepth, reinterpret_cast<int8_t*>(memory + kPanel), kK, start,
                reinterpret_cast<uint8_t*>(memory), integers, memory);
    }
    const double end = now();
    floats = middle - begin < floats ? middle - begin : floats;
    bytes = end - middle < bytes ? end - middle : bytes;
  }
  free(memory);
  return bytes > 0 ? floats / bytes : 0;
}

// Whether a filter pays off: below some size what it does besides its product weighs too much.
bool pays_off(Context* context, int64_t k, int64_t n) {
  constexpr double kLeastGain = 2;
  constexpr int64_t kLeastK = 64, kLeastN = 512;
  if (!dots_bytes(context) || k < kLeastK || n < kLeastN) return false;
  return measured_once(context, measure_gain) >= kLeastGain;
}

}  // namespace

int64_t filter_bytes(Context* context, int64_t rows, int64_t k, int64_t n, DType) {
  const FilterUse use = filter_use(context);
  if (use == FilterUse::never || k == 0 || n == 0 || k > kLargestFilterK) return 0;
  if (use == FilterUse::where_faster && (rows < kLeastFilterRows || !pays_off(context, k, n))) return 0;
  return Filter::size(k, n);
}

Status pack_filter(Context* context, Out filter, Packed w) {
  const int64_t k = w.shape[0], n = w.shape[1];
  const Filter to = Filter::in(filter.data, k, n);
  const size_t wide_bytes = size_t(k * kColumns) * 4;
  for (int thread = 0; thread < thread_count(context); ++thread) {
    if (!thread_scratch(context, thread, 0, wide_bytes)) return out_of_memory("a panel of weights");
  }
  parallel(context, panel_count(n), [&](int64_t panel, int thread) {
    auto* wide = static_cast<float*>(thread_scratch(context, thread, 0, wide_bytes));
    const Panels from = panels_from(w, panel);
    for (int64_t p = 0; p < k; ++p) unpack_row(wide + p * kColumns, from, 0, p);
    pack_columns(to, panel, wide, k);
  });
  return {};
}

}  // namespace sonde::SONDE_ISA
