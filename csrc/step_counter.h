// Device-side step counter: kernel arguments are frozen in a captured graph, so kernels read the iteration from memory.
#pragma once
#include <cstdint>

#include "formulas.h"

namespace fastgan {

// In device memory; the last kernel of an iteration increments it, so a replay computes the next iteration.
struct StepCounter {
  int64_t iteration;   // from 0
  int64_t skipped[2];  // updates of G and of D that were rolled back
  int bad, unused;     // whether the current update has a number that is not finite
};

// times * iteration + plus, the index of a minibatch, an update or a step of a stream. Without a step counter: plus.
struct StepIndex {
  const StepCounter* counter = nullptr;
  int64_t times = 0, plus = 0;
  FASTGAN_HD int64_t get() const { return counter ? times * counter->iteration + plus : plus; }
};

// A dropout seed: a number, or its address on the device. A batch may have sub-batches of `rows` rows each, one for
// each call of the module: each has a seed, `stride` after the one before, and its rows count from 0. rows = 0: one
// sub-batch.
struct DropoutSeed {
  uint64_t number = 0;
  const uint64_t* at = nullptr;
  int64_t rows = 0, stride = 0;
  FASTGAN_HD uint64_t get(int64_t sub_batch) const { return at ? at[sub_batch * stride] : number; }
};

}  // namespace fastgan
