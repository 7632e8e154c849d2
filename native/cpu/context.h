// The pool of compute threads and the scratch memory, which a CPU kernel may use besides its arguments. The kernels are
// compiled once per instruction set and include no C++ library header: an inline function of the library compiled with
// AVX-512 might be the copy that the linker keeps, and an older processor would then stop at it.
#pragma once
#include "../views.h"

namespace sonde {

int thread_count(const Context* context);
// Bytes of second-level cache for each core.
int64_t cache_bytes(Context* context);

// Calls task(arg, i, thread) for every i in [0, count), distributed over the compute threads as they become free;
// thread is in [0, thread_count). It returns when all calls are done, and must not be nested.
void parallel_for(Context* context, int64_t count, void (*task)(void* arg, int64_t i, int thread), void* arg);

// 64-byte aligned memory that stays valid until the same slot is requested again; null when there is not enough. A
// shared slot belongs to the whole operation and must be requested before parallel_for; each thread has slots of its
// own.
void* shared_scratch(Context* context, int slot, size_t bytes);
void* thread_scratch(Context* context, int thread, int slot, size_t bytes);
constexpr int kScratchSlots = 9;

// When sparse_encode uses a filter (filter.h): SONDE_FILTER says never or always.
enum class FilterUse { never, where_faster, always };
FilterUse filter_use(const Context* context);
// Whether the processor has the instruction for products of bytes that this instruction set's kernels know.
bool dots_bytes(const Context* context);
// What `measure` gives, called once in the life of the context.
double measured_once(Context* context, double (*measure)());

// static: see native/views.h
static inline Status out_of_memory(const char* what) { return fail("not enough memory for %s", what); }

}  // namespace sonde
