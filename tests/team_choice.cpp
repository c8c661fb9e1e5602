// Calls of two sizes in turn; with several threads the large ones are slow, alone the small ones. Then the same with
// the sizes changed over. Prints how often calls of each size were slow.
#include "../csrc/cpu/team_choice.h"

#include <cstdio>
#include <thread>

int main() {
  using namespace fastgan;
  constexpr int kCalls = 200;
  for (const bool small_is_slow_alone : {true, false}) {
    TeamChoice choice;
    int slow[2] = {};
    for (int i = 0; i < 2 * kCalls; ++i) {
      const bool large = i % 2 == 1;
      choice.run(2, large ? 64 : 20, [&](int threads) {
        if ((threads == 1) == (large == small_is_slow_alone)) return;
        ++slow[large];
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      });
    }
    std::printf("%d\n%d\n", slow[0], slow[1]);
  }
}
