// A CUDA device's state, and the host functions that every operation of this folder uses: its stream, scratch memory, the errors of
// launches.
#pragma once
#include <stdint.h>

#include "ops.h"
#include "primitives.cuh"
#include "views.h"

namespace sonde {

enum FailureKind {
  kNoFailure = 0,
  kBadIndex,
  kBadPointer,
  kBadEntry,
  kBadTarget,
  // integers.h has the words
  kNotInt32,            // an element, and the bits of its value as a double
  kSumNotInt32,         // a row and its sum
  kPartialSumNotInt32,  // a row, the element that it is added up to, and the sum
  kResultNotInt32,      // an element, its operands and the BinaryKind
  kUnaryNotInt32,       // an element, its value, the UnaryKind and the bits of the power
  kElementNotInt32,     // an element and its sum
};

// A failure that depends on the data: an operation's kernels write it into host memory that the device sees. Each operation that can
// fail so has one of its own, which the host reads when its kernels are done.
struct Failure {
  unsigned taken;  // 1 once a thread has found something wrong: only the first one writes
  FailureKind kind;
  long long values[4];
};

SONDE_DEVICE void report(Failure* failure, FailureKind kind, long long a, long long b, long long c, long long d = 0) {
  if (atomicCAS(&failure->taken, 0u, 1u) != 0) return;
  failure->kind = kind;
  failure->values[0] = a;
  failure->values[1] = b;
  failure->values[2] = c;
  failure->values[3] = d;
}

// whether an index from the user's data lies in [0, limit); reports one that does not
SONDE_DEVICE bool is_index(Failure* failure, int32_t index, int64_t position, int64_t limit) {
  if (index >= 0 && index < limit) return true;
  report(failure, kBadIndex, index, position, limit);
  return false;
}

struct Host;  // the state that only backend.cu uses

struct Context {
  int index = 0;
  int capability = 0;  // 80, 86, 90
  int multiprocessors = 0;
  cudaStream_t stream = nullptr;
  int32_t list_capacity = 1024;  // of sparse_encode: entries of a row's list, grown as rows need it
  Host* host = nullptr;
};

// Device memory until the same slot is asked for again; null when there is no more. Operations run one after the other on one
// stream, so the next one may be given memory that this one still uses.
enum ScratchSlot { kLeftOperand, kRightOperand, kLists, kDense, kWideResult, kSmall, kScratchSlots };
void* scratch(Context* context, ScratchSlot slot, size_t bytes);
// The reason why scratch() or allocate_on_stream() gave null: no memory, unless an earlier failure is known.
Status no_scratch(Context* context, size_t bytes);

// The entry in which kernels of the operation under way report a failure; null, with a Status, when there is no host memory for it.
Failure* failure_of_operation(Context* context, Status* status);

// why the last launch failed, if it did
Status launched();
Status from_cuda(cudaError_t error, const char* what);

// Some rows of a result of sparse_encode, in device memory of their own until Backend::finish has copied them to the host.
struct CsrPart {
  int64_t rows = 0, entries = 0;
  int32_t* indices = nullptr;  // device, `entries` of each
  float* values = nullptr;
};
// Device memory in the stream's order; null when there is no more. leave_csr_pending() takes it over, or release() frees it.
void* allocate_on_stream(Context* context, size_t bytes);
void release_on_stream(Context* context, void* data);
// row_ptr of csr is there already; its entries come from `parts`, in order, whose memory is taken over.
Status leave_csr_pending(Context* context, Csr* csr, const CsrPart* parts, int count);
// Copies device -> host and waits for all work before it: for the few bytes that decide what is launched next.
Status fetch(Context* context, void* host, const void* device, size_t bytes);

// the operations, one file each
#define OP(name, ...) Status name(Context*, __VA_ARGS__);
SONDE_OPS(OP)
#undef OP

}  // namespace sonde
