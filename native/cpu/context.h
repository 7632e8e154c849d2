// What a CPU kernel may use besides its arguments: the pool of compute threads and scratch memory.
// The kernels are compiled once per instruction set and include no C++ library header: an inline function of the library
// compiled with AVX-512 might be the copy that the linker keeps, and an older processor would then stop at it.
#pragma once
#include "../ops.h"

namespace sonde {

int thread_count(const Context* context);

// Calls task(arg, i, thread) for every i in [0, count), distributed over the compute threads as they become free;
// thread is in [0, thread_count). Returns when all are done. Not to be nested.
void parallel_for(Context* context, int64_t count, void (*task)(void* arg, int64_t i, int thread), void* arg);

// 64-byte aligned memory that stays valid until the same slot is asked for again; null when there is none.
// Slots 0..3 are shared by the whole operation (ask before going parallel), the others belong to one thread each.
void* shared_scratch(Context* context, int slot, size_t bytes);
void* thread_scratch(Context* context, int thread, int slot, size_t bytes);
constexpr int kScratchSlots = 4;

}  // namespace sonde
