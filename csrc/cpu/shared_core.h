// Measures whether other work runs on the second hardware thread of this core. A benchmark records it beside each
// window: such work slows a matrix product by a third, and a virtual machine does not report it.
#pragma once

#include <algorithm>
#include <chrono>

namespace fastgan {

// Integer additions per nanosecond, in `chains` independent chains; the best round, as interruptions only slow one. The
// summand is in a register: newer processors of Intel add constants while they rename registers, without an adder.
template <int chains>
double addition_rate() {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 3, kSteps = 4000, kRepeats = 6;  // a round takes about 7 us
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    long sum[chains] = {}, one = 1;
    asm volatile("" : "+r"(one));  // the compiler does not know it
    const auto begun = Clock::now();
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 6
      for (int repeat = 0; repeat < kRepeats; ++repeat)
#pragma GCC unroll 6
        for (int i = 0; i < chains; ++i) {
          sum[i] += one;
          asm volatile("" : "+r"(sum[i]));  // each addition is made, in its own register
        }
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - begun).count();
    best = std::max(best, double(kSteps) * kRepeats * chains / ns);
  }
  return best;
}

// Additions per clock cycle of this core now. One chain measures the clock rate, which does not depend on the second
// thread; six measure the rate of the adders, which both threads share. On x86 processors with 4 to 6 adders: at least
// 4 alone, at most 3 beside a busy thread. 0 on other architectures.
inline double additions_per_cycle() {
#if defined(__x86_64__)
  const double clock = addition_rate<1>();
  return addition_rate<6>() / clock;
#else
  return 0;
#endif
}

}  // namespace fastgan
