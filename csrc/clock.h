// What a launch must not be told by its arguments, since a captured graph repeats them: how far the run is.
#pragma once
#include <cstdint>

#include "formulas.h"

namespace fastgan {

// Lies on the device; whoever replays an iteration finds it one further.
struct Clock {
  int64_t iteration;   // from 0
  int64_t skipped[2];  // updates of G and of D that were not made
  int bad, unused;     // whether something of the present update is not finite
};

// times * iteration + plus: the number of a draw, an update or a stream's step in whatever iteration it is. Without a clock:
// plus.
struct Count {
  const Clock* clock = nullptr;
  int64_t times = 0, plus = 0;
  FASTGAN_HD int64_t get() const { return clock ? times * clock->iteration + plus : plus; }
};

// A key of dropout masks: a number, or where on the device it stands. A batch may hold sections of `rows` rows each, which
// the module saw in calls of their own: the key of each stands `stride` further on, and its rows count from 0. rows = 0: one.
struct Key {
  uint64_t number = 0;
  const uint64_t* at = nullptr;
  int64_t rows = 0, stride = 0;
  FASTGAN_HD uint64_t get(int64_t section) const { return at ? at[section * stride] : number; }
};

}  // namespace fastgan
