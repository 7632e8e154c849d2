// The one list of a backend's operations, in two parts. The addon's methods, their names in errors and each backend's
// table are generated from it: a backend that lacks an operation of the first part does not build. Those of the second
// part compute gradients, which a backend may leave out as a whole.
//
// Letters: B batch, S sequence, T keys (earlier tokens and new ones), H heads, D dimensions of a head, K inner width, M
// rows, N columns. A view is `data` plus `shape` and `stride` (both in elements, any strides, a stride of 0 repeats).
// `contiguous` below means row-major without gaps. Shapes, dtypes and overlap are checked in TypeScript before a call
// is queued; an error that depends on the data (an index out of range) is a failed Status. No operation throws, aborts
// or calls back.
//
// `planes` and `x_planes` are memory of Operations::planes_bytes() bytes, contiguous bool [bytes]: what the device's
// products read instead of a left operand [M, K]. The operation whose result that is writes planes as well, and linear
// reads them. They change no bit of a result. Where planes_bytes() is 0 they must be left out.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

namespace sonde {

constexpr uint32_t kBackendAbi = 12;
constexpr int kMaxRank = 8;

enum class DType : int32_t { float32 = 0, bfloat16 = 1, float16 = 2, int32 = 3, boolean = 4 };
constexpr int64_t dtype_size(DType t) {
  return t == DType::float32 || t == DType::int32 ? 4 : t == DType::boolean ? 1 : 2;
}

enum class UnaryKind : int32_t {
  relu = 0,
  gelu = 1,
  exp = 2,
  log = 3,
  sqrt = 4,
  abs = 5,
  neg = 6,
  sign = 7,
  tanh = 8,
  sigmoid = 9,
  pow = 10,
  clamp = 11,
};
enum class BinaryKind : int32_t { add = 0, sub = 1, mul = 2, div = 3, maximum = 4, minimum = 5 };
enum class CompareKind : int32_t { eq = 0, ne = 1, lt = 2, le = 3, gt = 4, ge = 5, logical_and = 6, logical_or = 7 };
enum class ReduceKind : int32_t {
  sum = 0,
  mean = 1,
  max = 2,
  min = 3,
  any = 4,
  all = 5,
  variance = 6,
  deviation = 7,
  norm = 8,
  log_sum_exp = 9,
};
enum class SoftmaxKind : int32_t { softmax = 0, numerator = 1, log_softmax = 2 };
enum class Activation : int32_t { none = 0, relu = 1, gelu = 2 };
// How products of float32 are computed. The CPU computes all of them in float32, in a fixed order (bfloat16 with
// bfloat16 in pairs where the processor has an instruction for it: their products are exact in float32). A GPU computes
// float32 to the accuracy of float32 on its tensor cores where that is faster; strict asks for plain float32
// arithmetic, tf32 (11-bit significands, as TF32 has) and bf16 for less accuracy.
enum class Precision : int32_t { float32 = 0, strict = 1, tf32 = 2, bf16 = 3 };
// The highest rates of a device: float32 multiply-adds and products of bfloat16 in FLOP/s (a multiply-add counts two),
// bytes that are read from memory per second.
enum class Ceiling : int32_t { float32 = 0, bfloat16 = 1, bandwidth = 2 };
enum class RandomKind : int32_t { normal = 0, integer = 1 };

struct View {
  void* data = nullptr;  // the first element; null for an argument that was left out, where its operation allows that
  DType dtype = DType::float32;
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};
};
struct In : View {};   // read only
struct Out : View {};  // written whole, unless the comment says otherwise

// A weight matrix [K, N] in the order the backend's matmul reads it; the layout is the backend's own choice.
// `shape` is {K, N}, `dtype` the type the values are stored in.
struct Packed : View {};
struct PackedOut : View {};

struct Pending;  // work that a backend has begun, and that Backend::finish completes

// What the filter of a sparse_encode did: how many groups of columns there were, in how many of them all sums were computed
// for some rows, and how many sums were computed singly. There are no groups where there was no filter.
struct FilterCounts {
  int64_t groups = 0, fell_back = 0, candidates = 0;
};

// Sparse rows in CSR format, in host memory. row_ptr has rows + 1 entries; reserve allocates memory for count indices
// and values (false: out of memory). Owned by the caller. Filled when the operation returns, unless that leaves
// something pending.
struct Csr {
  int64_t rows = 0;
  int64_t* row_ptr = nullptr;
  int32_t* indices = nullptr;
  float* values = nullptr;
  bool (*reserve)(Csr* self, int64_t count) = nullptr;
  Pending* pending = nullptr;
  FilterCounts filter = {};
};
struct CsrOut {
  Csr* csr = nullptr;
};

// The result of an operation. An empty text means success. The text of a failure that an asynchronous device only
// notices later names the operation itself.
struct Status {
  char text[232] = {};
  bool names_operation = false;
  bool failed() const { return text[0] != 0; }
};
// static: a copy compiled for one instruction set must not be the one that the linker keeps for all
__attribute__((format(printf, 1, 2))) static inline Status fail(const char* format, ...) {
  Status status;
  va_list args;
  va_start(args, format);
  vsnprintf(status.text, sizeof status.text, format, args);
  va_end(args);
  return status;
}

struct Context;  // a backend's state for one device

// clang-format off
#define SONDE_OPS(OP)                                                                                                  \
  /* out = x, converted to out's dtype. Same shapes, any strides on both. Floats to int32 truncate: a NaN or a value   \
     outside int32 is an error that gives the element. To bool: != 0. */                                               \
  OP(copy, Out out, In x)                                                                                              \
  /* out[...] = value. Any strides, any dtype. */                                                                      \
  OP(fill, Out out, double value)                                                                                      \
  /* out = kind(x), element by element. Same shapes, any strides. Floats: any mix of float dtypes, computed in         \
     float32. relu: max(x, 0), clamp: the nearest value in [a, b], b where a > b; pow: x to the power a; sign: -1, 0   \
     or 1, and 0 of NaN. NaN stays NaN in all the others, but 1 = x^0. gelu: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715  \
     x^3))), GPT-2's formula (arXiv 1606.08415, section 2). out and x of int32: abs, neg, sign, clamp, and pow with an \
     integer a >= 0, exact; a result outside int32 is an error that gives the element and its value. out may be x. */  \
  OP(unary, Out out, In x, UnaryKind kind, double a, double b)                                                         \
  /* out = a kind b, element by element. Same shapes (broadcasting is strides of 0), any strides, any mix of dtypes;   \
     computed in float32, or in int32 when all three are int32: a result outside int32, and a division by zero, is     \
     then an error that gives the element and its operands. maximum, minimum: NaN where a or b is. out may be a. */    \
  OP(binary, Out out, In a, In b, BinaryKind kind)                                                                     \
  OP(binary_scalar, Out out, In a, double b, BinaryKind kind)                                                          \
  /* out bool = a kind b, element by element: shapes and strides as binary. Compared in int32 when both are int32,     \
     else in float32; NaN is unequal to all. logical_and, logical_or: what is not 0 is true, NaN as well. out may be   \
     a if that is bool. With a number: b is rounded to a's dtype where that is one of floats, else the comparison is   \
     exact. */                                                                                                         \
  OP(compare, Out out, In a, In b, CompareKind kind)                                                                   \
  OP(compare_scalar, Out out, In a, double b, CompareKind kind)                                                        \
  /* out = condition ? a : b, element by element: condition bool; out, a and b of one dtype, any. Same shapes, any     \
     strides. out may be a or b. */                                                                                    \
  OP(where, Out out, In condition, In a, In b)                                                                         \
  /* over the last x.rank - out.rank dimensions, of N elements together: x [..., N...], any strides -> out [...],      \
     contiguous, same dtype; float32 for all but sum, max and min of int32; bool for any and all. Sums are in double   \
     precision (exact for int32, but not those of squares on a GPU), in an order that depends on N alone, and rounded  \
     once; one of int32 that int32 does not hold is an error that gives it. max, min: a NaN wins, N >= 1; the sum of   \
     nothing is 0, its mean NaN, any false, all true, log_sum_exp -inf. any, all: what is not 0 is true, NaN as well.  \
     variance, deviation (its square root): of distances from the mean, or from a value that is close to it, over N -  \
     correction, or over 0 where that is negative. norm: the root of the sum of squares. log_sum_exp: max + log(sum    \
     of exp(x - max)), added up as in cross_entropy. */                                                                \
  OP(reduce, Out out, In x, ReduceKind kind, double correction)                                                        \
  /* x [..., N >= 1], any strides -> out int32 [...], contiguous: the lowest index of the largest value, or of the     \
     smallest; a NaN wins. */                                                                                          \
  OP(argmax, Out out, In x, bool smallest)                                                                             \
  /* out[..., i] = the sum of x[..., 0] to x[..., i]: any strides on both, same dtype. Floats are added up in double   \
     precision, in an order that depends on i alone (on the CPU: from the first on), and each sum is rounded once; one \
     of int32 that int32 does not hold is an error that gives it. */                                                   \
  OP(cumsum, Out out, In x)                                                                                            \
  /* each row in order, equal values in the order of their indices, NaN the largest: x [..., N], any strides ->        \
     values [..., N] of x's dtype, indices int32 [..., N], contiguous. */                                              \
  OP(sort, Out values, Out indices, In x, bool descending)                                                             \
  /* the k largest of each row, largest first, equal values lowest index first, NaN largest: x [..., N], any strides ->\
     values [..., k] of x's dtype, indices int32 [..., k], contiguous, k <= N. */                                      \
  OP(top_k, Out values, Out indices, In x)                                                                             \
  /* out = x at each row's k largest (ties as in top_k), 0 elsewhere; with relu, negative survivors become 0.          \
     x [..., N], any strides, out contiguous. */                                                                       \
  OP(top_k_mask, Out out, In x, int64_t k, bool relu)                                                                  \
  /* over the last dimension, any strides on both; in float32, the sum as reduce's. softmax: exp(x - max) / its sum;   \
     numerator: exp(x - max) alone; log_softmax: x - max - log(the sum). A row of -inf alone gives NaN, as in          \
     PyTorch. */                                                                                                       \
  OP(softmax, Out out, In x, SoftmaxKind kind)                                                                         \
  /* losses float32 [...], contiguous: log_sum_exp(row) - row[target] of each row of logits [..., N], floats; targets  \
     int32 [...], pad bool [...]; any strides on these. Powers are float32, added up in fours, and these sums in       \
     double precision, in an order that depends on N alone. 0 where pad is true, whatever the target is there. A       \
     target outside [0, N) is an error that gives it. pad may be left out. */                                          \
  OP(cross_entropy, Out losses, In logits, In targets, In pad)                                                         \
  /* out = (x - mean) / sqrt(variance + eps) * gain + bias over the last dimension: x [..., K] any strides, out        \
     contiguous, gain and bias [K] contiguous; statistics in two passes (arXiv 1607.06450), their sums as reduce's.    \
     planes, of out as [M, K]: planes may be left out. */                                                              \
  OP(layer_norm, Out out, Out planes, In x, In gain, In bias, double eps)                                              \
  /* sum = a + b, then out = layer_norm(sum): as binary and layer_norm one after the other, bit for bit. a and b of one\
     shape, any strides; sum and out contiguous; one dtype for all four. sum may be a. planes, of out as [M, K]: planes\
     may be left out. */                                                                                               \
  OP(add_layer_norm, Out sum, Out out, Out planes, In a, In b, In gain, In bias, double eps)                           \
  /* out[..., 0] = sqrt(mean of x^2 over the last dimension + eps): x [..., K] any strides -> out [..., 1]. The mean   \
     as reduce's. */                                                                                                   \
  OP(root_mean_square, Out out, In x, double eps)                                                                      \
  /* out [..., K] = table[indices]; accumulate: out += table[indices]. indices int32 [...] any strides, table [rows, K]\
     contiguous, out contiguous, of table's dtype. An index outside [0, rows) is an error that gives it. */            \
  OP(embedding, Out out, In indices, In table, bool accumulate)                                                        \
  /* out = x with the index of dimension dim taken from index, as in out[i, j, k] = x[i, index[i, j, k], k] where dim  \
     is 1: out and index of one shape, x of the same rank and, but in dim, at least of their sizes; any strides, out   \
     and x of one dtype, any. An index outside [0, x.shape[dim]) is an error that gives it. */                         \
  OP(gather, Out out, In x, In index, int64_t dim)                                                                     \
  /* out[j, ...] = x[indices[j], ...]: x [N, ...], out [K, ...], any strides, of one dtype, any; indices int32 [K].    \
     An index outside [0, N) is an error that gives it. */                                                             \
  OP(index_select, Out out, In x, In indices)                                                                          \
  /* out[indices[j], ...] = source[j, ...], in place: out [N, ...], source [K, ...], any strides, of one dtype, any;   \
     indices int32 [K]. Of equal indices the last one is written. An index outside [0, N) is an error that gives it,   \
     and nothing is written. */                                                                                        \
  OP(index_copy, Out out, In indices, In source)                                                                       \
  /* in place, out[i, index[i, j, k], k] += source[i, j, k] where dim is 1: index of out's rank and, but in dim, at    \
     most of its sizes, and in all dimensions at most of those of source; any strides. out and source floats in any    \
     mix, or both int32. Added up in double precision, first what out holds, then the terms in the order of dim, and   \
     rounded once; a sum outside int32 is an error that gives it. An index outside [0, out.shape[dim]) is an error     \
     that gives it, and nothing is written. */                                                                         \
  OP(scatter_add, Out out, In index, In source, int64_t dim)                                                           \
  /* out[..., i, j] = x[..., i, j] where j - i <= diagonal (upper: >=), else 0. Same shapes of rank >= 2, any          \
     strides, one dtype, any. out may be x. */                                                                         \
  OP(triangle, Out out, In x, int64_t diagonal, bool upper)                                                            \
  /* softmax(q k^T scale + mask) v, the scores never stored. q [B, S, H, D], k [B, T, H, D], v [B, T, H, Dv],          \
     last stride 1, others any; out [B, S, H, Dv] contiguous; all one dtype. The queries are the last S of the T       \
     positions. causal: query i sees keys up to its own position. pad bool [B, T] contiguous: a pair of which exactly  \
     one is padding is masked. A row with all keys masked gives NaN. probs [B, S, T, H], any strides, of the same      \
     dtype: the probabilities, written as well, 0 where masked. (On the CPU: if a row's padding lies on one side alone,\
     the other positions have the bits that they have without it.) planes: of out as [B S, H Dv]. planes, pad and probs\
     may be left out. */                                                                                               \
  OP(attention, Out out, Out planes, Out probs, In q, In k, In v, In pad, bool causal, double scale)                   \
  /* the mask of attention on stored logits: logits [B, H, S, T], any strides, in place: masked entries := -inf. pad   \
     may be left out. */                                                                                               \
  OP(mask_logits, Out logits, In pad, bool causal)                                                                     \
  /* packed = b [K, N], any strides, of the packed dtype; and back. */                                                 \
  OP(pack_weights, PackedOut packed, In b)                                                                             \
  OP(unpack_weights, Out b, Packed packed)                                                                             \
  /* out [M, N] = activation(x [M, K] w + bias [N]) + residual [M, N]; bias and residual may be left out. x, residual  \
     and out have stride 1 in the last dimension and any row stride, and may be of other dtypes than w. The            \
     activated product is rounded to out's dtype before residual is added; residual has out's dtype, and may be out.   \
     float32 accumulation in an order that is fixed: a row's result does not depend on M, on the other rows or on the  \
     number of threads. (On the CPU: k in ascending order, starting from the bias.) planes are those of out, x_planes  \
     those of x: planes and x_planes may be left out. */                                                               \
  OP(linear, Out out, Out planes, In x, In x_planes, Packed w, In bias, In residual, Activation activation,            \
     Precision precision)                                                                                              \
  /* out [..., M, N] = a [..., M, K] b [..., K, N] + bias [N]: as linear, with equal leading dimensions and any strides\
     on a and b (strides express a transpose or a broadcast); out contiguous. bias may be left out. */                 \
  OP(matmul, Out out, In a, In b, In bias, Precision precision)                                                        \
  /* counter-based (Philox 4x32-10, SC'11): element i depends on seed and i alone. normal: mean a, standard deviation  \
     b; integer: uniform in [a, b), int32. out contiguous. */                                                          \
  OP(random, Out out, RandomKind kind, int64_t seed, double a, double b)                                               \
  /* filter = what sparse_encode reads to leave out sums of w that cannot pass: contiguous bool [bytes], of             \
     Operations::filter_bytes() bytes. */                                                                              \
  OP(pack_filter, Out filter, Packed w)                                                                                \
  /* x [M, K] w + bias [N], activated, straight to CSR with ascending indices; the dense latents are never stored.     \
     k > 0: only each row's k largest before activation (ranked as in top_k: NaN is the largest) are considered.       \
     relu: keep values > max(threshold, 0); else those whose magnitude is > threshold. NaN is kept in either case:     \
     the entries are those of the dense latents. out has M rows. Same arithmetic as linear, bit for bit. thresholds    \
     float32 [N], contiguous, given only with relu and k = 0: a column's values must also be above its own threshold;  \
     one that is NaN counts as none. filter is that of w, and changes no bit. filter, bias and thresholds may be left  \
     out. */                                                                                                           \
  OP(sparse_encode, CsrOut out, In x, Packed w, In filter, In bias, In thresholds, double threshold, int64_t k,        \
     bool relu, Precision precision)                                                                                   \
  /* out [M, N] = sum over row m's entries of value * w[index] + bias: row_ptr int32 [M + 1], indices int32 [nnz],     \
     values float32 [nnz]; w [K, N]; bias may be left out. An index outside [0, K) or a row_ptr that falls or overruns \
     is an error. */                                                                                                   \
  OP(sparse_decode, Out out, In row_ptr, In indices, In values, Packed w, In bias)                                     \
  /* stats int32 [N], in place: 0 where a row of latents [M, N] is not zero in that column, then + 1 everywhere. */    \
  OP(update_last_nonzero, Out stats, In latents)                                                                       \
  /* out int32 [2, rows], contiguous: the index that is chosen from each row of x float32 [rows, N >= 1], of last      \
     stride 1, and 1; or 0 and 0 where there is none to choose. random int32 [rows, 2], contiguous: x holds            \
     probabilities, and u = (random[r, 0] 2^26 + random[r, 1]) / 2^53. They are subtracted from u one by one, in double\
     precision; the first index after which less than 0 is left is chosen, else the last whose probability is not 0,   \
     else 0. There is none to choose where the first probability is NaN. random may be left out: x then holds logits,  \
     and the lowest index of the largest is chosen. There is none where a logit is NaN or +inf, or all are -inf. */    \
  OP(choose_index, Out out, In x, In random)

// The gradients of an operation's inputs, g being that of its result. Gradients are float32; other inputs are those that
// the operation had, of any float dtype.
#define SONDE_BACKWARD_OPS(OP)                                                                                         \
  /* out = g * kind'(x), element by element: the gradient of x in unary, of relu (0 at 0) or gelu. Same shapes, any    \
     strides. out may be g. */                                                                                         \
  OP(unary_backward, Out out, In g, In x, UnaryKind kind)                                                              \
  /* out [..., N] contiguous = (softmax(row) - [target]) g of each row of logits [..., N] with g [...]: the gradient of\
     logits in cross_entropy, 0 where pad is true. Any strides on all others. out may be logits. A target outside      \
     [0, N) is an error that gives it. pad may be left out. */                                                         \
  OP(cross_entropy_backward, Out out, In g, In logits, In targets, In pad)                                             \
  /* out [..., K] = the gradient of x in layer_norm, plus added. products [..., K] = g (x - mean) / sqrt(variance +    \
     eps), whose sums over rows are the gradient of gain. out and products contiguous, gain [K] contiguous, any strides\
     on all others; statistics as in layer_norm. out, products and added may be left out. */                           \
  OP(layer_norm_backward, Out out, Out products, In g, In x, In gain, In added, double eps)                            \
  /* dq, dk, dv = the gradients of q, k and v in attention, whose probabilities are computed again, for a few queries at\
     a time. g [B, S, H, Dv]. dq, dk, dv and g have last stride 1, others any; all else as in attention. A row's       \
     gradients do not depend on the other rows or on the number of threads. dq, dk, dv and pad may be left out. */     \
  OP(attention_backward, Out dq, Out dk, Out dv, In g, In q, In k, In v, In pad, bool causal, double scale)            \
  /* out [M, K] = g [M, N] w^T, w [K, N]: the gradient of x in linear. Last stride 1 on both, any row stride. As linear\
     in the order of sums. */                                                                                          \
  OP(linear_backward, Out out, In g, Packed w)
// clang-format on

// A table of operations. The CPU backend has one per instruction set, a GPU backend has one.
struct Operations {
#define OP(name, ...) Status (*name)(Context*, __VA_ARGS__);
  SONDE_OPS(OP)
  SONDE_BACKWARD_OPS(OP)  // null where a backend computes no gradients
#undef OP
  // bytes that a packed [k, n] matrix of this dtype takes
  int64_t (*packed_bytes)(int64_t k, int64_t n, DType dtype);
  // bytes of planes of a result [rows, k] of this dtype; 0 where products of this device read none
  int64_t (*planes_bytes)(Context*, int64_t rows, int64_t k, DType dtype);
  // bytes of a filter of a packed [k, n] matrix of this dtype; 0 where sparse_encode of so many rows uses none
  int64_t (*filter_bytes)(Context*, int64_t rows, int64_t k, int64_t n, DType dtype);
  // measures for some tenths of a second; null where a backend cannot measure
  Status (*ceiling)(Context*, Ceiling kind, double* per_second);
};

struct Backend {
  uint32_t abi;  // kBackendAbi, checked before anything else is used
  // the number of devices that can be opened; if it is 0, a Status that says why
  int32_t (*count)(Status* status);
  // a short description of device `index`, opened or not: "NVIDIA H200, 139 GiB"
  void (*identify)(int32_t index, char* text, size_t size);
  // The name of the arithmetic of device `index`, opened or not, where tensors of the float type `dtype` are computed
  // with, beside float32 or not: "cpu-float32-1", "cuda-9.0-2". Devices of one name give the same bits from the same
  // data. So it has whatever the order of sums or a rounding depends on, but never the number of threads, and ends with
  // a version, kArithmetic of the backend.
  void (*arithmetic)(int32_t index, DType dtype, char* text, size_t size);
  // the state of device `index` with `threads` compute threads (0: one per physical core); null and a Status if it
  // fails
  Context* (*open)(int32_t index, int32_t threads, Status* status);
  void (*close)(Context*);
  // a short description of what computes: "AVX-512, 2 threads"
  void (*describe)(const Context*, char* text, size_t size);
  // Memory of the device, 64-byte aligned; null when there is not enough. Work that uses it begins after it was
  // allocated and before it is released.
  void* (*allocate)(Context*, size_t bytes);
  void (*release)(Context*, void*);
  // sets or fetches bytes of the device's memory, at once: for SONDE_POISON
  void (*set_bytes)(Context*, void* data, unsigned char value, size_t bytes);
  void (*get_bytes)(Context*, void* host, const void* data, size_t bytes);
  // host memory, contiguous, of `dst`'s dtype -> device. The host memory is free when it returns.
  Status (*upload)(Context*, Out dst, const void* host);
  // device -> host memory of `host_dtype`, contiguous. Either done when it returns, or *pending is set.
  Status (*download)(Context*, void* host, DType host_dtype, In src, Pending** pending);
  // A mark in the device's order of work, pending until all work before it is done. It is null where operations are
  // done when they return.
  Pending* (*mark)(Context*);
  // Waits for pending work and completes it. Returns the first failure that was noticed late, of the operations between
  // the previous pending work and this. It may be called from any thread, concurrently and in any order, once for each.
  Status (*finish)(Context*, Pending*);
  // Waits for all work, on the thread that runs operations. Returns a failure of the operations since the last pending
  // work.
  Status (*synchronize)(Context*);
  // Sets the function that an operation without enough memory calls, on the thread that runs it, before it tries once
  // more: reclaim(owner) releases cached memory of this device that no operation up to this one uses. null where memory
  // is the system's.
  void (*on_shortage)(Context*, void (*reclaim)(void* owner), void* owner);
  // Releases memory that the backend keeps for later operations, on the thread that runs them and between two. May be
  // null.
  void (*trim)(Context*);
  const Operations* (*operations)(const Context*);
};

}  // namespace sonde
