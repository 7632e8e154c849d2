// One fault per sanitizer, so that a run can prove that it would be found. PLANT is the fault; it happens when the
// program starts, or, built as a shared library, when Node loads it.
#include <cstdio>
#include <thread>

namespace {

// volatile: the compiler must not see the faults coming
int* volatile block = nullptr;
volatile int largest = 2147483647;
int shared_counter = 0;

void overflow() {
  block = new int[8];
  block[8] = 1;
}

void use_after_free() {
  block = new int[8];
  delete[] block;
  block[3] = 1;
}

void undefined_arithmetic() { std::printf("%d\n", largest + 1); }

void race() {
  std::thread other([] { shared_counter++; });
  shared_counter++;
  other.join();
  std::printf("%d\n", shared_counter);
}

[[maybe_unused]] void (*const faults[])() = {overflow, use_after_free, undefined_arithmetic, race};

const bool planted = (PLANT(), true);

}  // namespace

int main() { std::printf("nothing found: %d\n", planted); }
