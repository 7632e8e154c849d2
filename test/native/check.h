// What the programs of this folder need of a test framework: a condition that ends the program and says where.
#pragma once
#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (condition) break;                                                              \
    std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                      \
  } while (false)
