// Calls of two kinds: one slow with several threads, one slow alone. Prints how often each was slow.
#include "../csrc/cpu/team_choice.h"

#include <cstdio>
#include <thread>

int main() {
  using namespace fastgan;
  constexpr int kCalls = 200;
  for (const bool alone_is_slow : {false, true}) {
    TeamChoice choice;
    int slow = 0;
    for (int i = 0; i < kCalls; ++i)
      choice.run(2, 64, [&](int threads) {
        if ((threads == 1) != alone_is_slow) return;
        ++slow;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      });
    std::printf("%d\n", slow);
  }
}
