// Measures where a host runs the processors of a virtual machine, which does not report it. A benchmark records it
// beside each window: other work on the second hardware thread of a core slows a matrix product by a third, and threads
// whose cores share no cache exchange their results four times as slowly.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

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

// Nanoseconds in which a cache line passes from one thread to another, where two run now. 0 if that takes too long to
// tell, as on a busy machine, whose threads wait for a processor.
inline double line_transfer_ns() {
  using Clock = std::chrono::steady_clock;
  constexpr int kWarm = 200, kPasses = 2200;
  constexpr auto kLongest = std::chrono::milliseconds(5);
  alignas(64) std::atomic<int> passes{0};
  std::atomic<bool> late{false};
  const auto started = Clock::now();
  Clock::time_point begun, ended;
  const auto pass = [&](int parity) {
    for (int i = parity; i < kPasses; i += 2) {
      for (int spins = 1; passes.load(std::memory_order_acquire) != i; ++spins) {
        if (spins % 1024 == 0 && Clock::now() - started > kLongest) late.store(true);
        if (late.load(std::memory_order_relaxed)) return;
      }
      if (i == kWarm) begun = Clock::now();
      passes.store(i + 1, std::memory_order_release);
    }
    if (parity == 0) ended = Clock::now();
  };
  std::thread other(pass, 1);
  pass(0);
  other.join();
  return late.load() ? 0 : std::chrono::duration<double, std::nano>(ended - begun).count() / (kPasses - kWarm);
}

}  // namespace fastgan
