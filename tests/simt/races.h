// What the detector of races wants to know of the machine, and what memory it watches.
#pragma once
#include <unistd.h>

#include <string>

#include "simt.h"

namespace simt {

// The running thread, and how many barriers each of its groups has passed.
struct Moment {
  int launch = -1, thread = -1, warp = -1, block = -1, cluster = -1;
  int warp_step = 0, block_step = 0, cluster_step = 0, grid_step = 0;
};

bool running();  // whether a kernel runs
Moment moment();
inline int process() { return int(getpid()); }

#ifdef SIMT_RACES
void watch(const void* at, size_t size, bool shared);  // anew
void forget(const void* at);

struct Unwatched {
  Unwatched();
  ~Unwatched();
};
#else
inline void watch(const void*, size_t, bool) {}
inline void forget(const void*) {}

struct Unwatched {
  ~Unwatched() {}
};
#endif

}  // namespace simt
