// The test framework of the programs in this folder: a condition that ends the program with its location if it fails.
#pragma once
#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (condition) break;                                                              \
    std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                      \
  } while (false)
