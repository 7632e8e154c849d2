// The CPU backend's table: the choice of an instruction set, memory, uploads and downloads.
#include "backend.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "../views.h"
#include "threads.h"

namespace sonde {

namespace portable {
extern const Operations operations;
}
#if defined(__x86_64__)
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

// The version of the CPU's arithmetic, in its names. Raise it whenever the result of any kernel changes in any bit for any
// input, whatever its dtype. It is one for all instruction sets, which give the same bits in float32 and float16, and
// one for all dtypes: float32 is computed beside bfloat16, so a change in float32 is one in bfloat16 as well.
constexpr int kArithmetic = 1;

struct InstructionSet {
  const char* name;              // as SONDE_ISA names it
  const char* title;             // for people to read
  const char* bfloat16;          // what the arithmetic of bfloat16 is named after
  const Operations* operations;  // null where the build left it out
  bool (*supported)();
  bool (*dots_bytes)();  // whether there is the instruction that int8_dot.h has for it
};

bool never() { return false; }

#if defined(__x86_64__)
// Every table beyond the portable one uses F16C, and not every compiler's __builtin_cpu_supports knows the name.
bool converts_halves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves(); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// The dot product of pairs of bfloat16 is CPUID 7.1, EAX bit 5. Not every compiler's __builtin_cpu_supports knows the
// name.
bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)) != 0;
}

// Products of bytes: CPUID 7.0, ECX bit 11 with AVX-512, and 7.1, EAX bit 4 with AVX2.
bool has_avx512_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 11)) != 0;
}
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4)) != 0;
}
#endif

// The table of an instruction set if it was built: SONDE_ISAS of binding.gyp has the names, each between commas. A set
// that was not built is referred to nowhere, so that it need not be linked.
constexpr const Operations* table(std::string_view between_commas, const Operations* operations) {
  return std::string_view(SONDE_ISAS).find(between_commas) == std::string_view::npos ? nullptr : operations;
}

// What decides the bits: products of bfloat16 with bfloat16 are the processor's dot products of pairs, where it has them
// (kPairs of microkernel.h), and products in float32 everywhere else.
constexpr const char* kFloat32 = "float32";
constexpr const char* kBfloat16Dot = "bfloat16-dot";

// best first
constexpr InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {"avx512_bf16", "AVX-512 with bfloat16", kBfloat16Dot, table(",avx512_bf16,", &avx512_bf16::operations),
     has_avx512_bf16, has_avx512_vnni},
    {"avx512", "AVX-512", kFloat32, table(",avx512,", &avx512::operations), has_avx512, has_avx512_vnni},
    {"avx2", "AVX2", kFloat32, table(",avx2,", &avx2::operations), has_avx2, has_avx_vnni},
    {"portable", "SSE2", kFloat32, table(",portable,", &portable::operations), [] { return true; }, never},
#else
    {"portable", "NEON", kFloat32, table(",portable,", &portable::operations), [] { return true; }, never},
#endif
};

const InstructionSet* choose(Status* status) {
  const char* wanted = getenv("SONDE_ISA");
  if (wanted && !*wanted) wanted = nullptr;
  std::string known, built;
  const auto add = [](std::string& names, const char* name) {
    names += (names.empty() ? "" : ", ") + std::string(name);
  };
  for (const InstructionSet& set : kInstructionSets) {
    add(known, set.name);
    if (set.operations) add(built, set.name);
    if (wanted && strcmp(wanted, set.name) != 0) continue;
    if (set.operations && set.supported()) return &set;
    if (!wanted) continue;
    *status = set.operations ? fail("SONDE_ISA is %s, which this processor does not have", wanted)
                             : fail("SONDE_ISA is %s, which is not built; node native/build.mjs builds it", wanted);
    return nullptr;
  }
  if (wanted) {
    *status = fail("SONDE_ISA must be one of %s, but is '%.40s'", known.c_str(), wanted);
  } else {
    *status = fail("this processor has no instruction set that is built (%s); node native/build.mjs builds all",
                   built.c_str());
  }
  return nullptr;
}

int32_t count(Status*) { return 1; }

void identify(int32_t, char* text, size_t size) { snprintf(text, size, "CPU"); }

void arithmetic(int32_t, DType dtype, char* text, size_t size) {
  Status status;
  const InstructionSet* set = choose(&status);
  if (!set) return;
  snprintf(text, size, "cpu-%s-%d", dtype == DType::bfloat16 ? set->bfloat16 : kFloat32, kArithmetic);
}

Context* open(int32_t index, int32_t threads, Status* status) {
  if (index != 0) {
    *status = fail("there is one CPU device, cpu");
    return nullptr;
  }
  const InstructionSet* set = choose(status);
  if (!set) return nullptr;
  const char* filter = getenv("SONDE_FILTER");
  const std::string_view wish = filter ? filter : "";
  if (!wish.empty() && wish != "0" && wish != "1") {
    *status = fail("SONDE_FILTER must be 0 or 1, but is '%.40s'", filter);
    return nullptr;
  }
  const FilterUse use = wish == "0" ? FilterUse::never : wish == "1" ? FilterUse::always : FilterUse::where_faster;
  try {
    const int count = threads > 0 ? threads : physical_cores();
    return new Context(count, set->operations, set->title, use, set->dots_bytes());
  } catch (const std::exception& error) {
    *status = fail("the compute threads could not be started: %s", error.what());
    return nullptr;
  }
}

void close(Context* context) { delete context; }

void describe(const Context* context, char* text, size_t size) {
  snprintf(text, size, "%s, %d thread%s", context->instruction_set, context->threads, context->threads == 1 ? "" : "s");
}

void* allocate(Context*, size_t bytes) { return allocate_pages(bytes); }

void release(Context*, void* data) { free(data); }

void set_bytes(Context*, void* data, unsigned char value, size_t bytes) { memset(data, value, bytes); }

void get_bytes(Context*, void* host, const void* data, size_t bytes) { memcpy(host, data, bytes); }

Status upload(Context* context, Out dst, const void* host) {
  return context->operations->copy(context, dst, contiguous_view<In>(dst, const_cast<void*>(host), dst.dtype));
}

Status download(Context* context, void* host, DType host_dtype, In src, Pending**) {
  return context->operations->copy(context, contiguous_view<Out>(src, host, host_dtype), src);
}

// nothing is ever pending: operations are done when they return
Pending* mark(Context*) { return nullptr; }
Status finish(Context*, Pending*) { return {}; }

Status synchronize(Context*) { return {}; }

const Operations* operations(const Context* context) { return context->operations; }

}  // namespace

const Backend cpu_backend = {
    kBackendAbi, count,  identify, arithmetic, open,   close,       describe, allocate, release,    set_bytes,
    get_bytes,   upload, download, mark,       finish, synchronize, nullptr,  nullptr,  operations,
};

}  // namespace sonde
