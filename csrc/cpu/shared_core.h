// Tells whether something else runs on the other hardware thread of this core. A benchmark records the answer beside
// each window: such a neighbour takes a third of the rate of a matrix product and is invisible in a virtual machine.
#pragma once

#include <algorithm>
#include <chrono>

namespace fastgan {

// Integer additions a nanosecond in so many independent chains; the best round, since an interruption only slows one.
template <int chains>
double addition_rate() {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 3, kSteps = 4000, kRepeats = 6;  // a round takes about 7 us
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    long sum[chains] = {};
    const auto begun = Clock::now();
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 6
      for (int repeat = 0; repeat < kRepeats; ++repeat)
#pragma GCC unroll 6
        for (int i = 0; i < chains; ++i) {
          sum[i] += 1;
          asm volatile("" : "+r"(sum[i]));  // each addition is made, in its own register
        }
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - begun).count();
    best = std::max(best, double(kSteps) * kRepeats * chains / ns);
  }
  return best;
}

// Additions a clock cycle of this core now: one chain gives the clock rate, which a neighbour does not change, and six
// the rate of the adders, which the two hardware threads share. At least 4 alone, at most 3 beside a busy thread, on
// the x86 processors with 4 to 6 adders; 0: another architecture, not known.
inline double additions_per_cycle() {
#if defined(__x86_64__)
  const double clock = addition_rate<1>();
  return addition_rate<6>() / clock;
#else
  return 0;
#endif
}

}  // namespace fastgan
