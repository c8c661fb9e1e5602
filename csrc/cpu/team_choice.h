// Chooses between one thread and all of them for calls from a user's code, by measuring both.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "parallel.h"

namespace fastgan {

// Of one kind of call. Between two calls torch's own threads wait for its next operation in a busy loop, for some
// milliseconds. Where it has as many threads as there are processors, fastgan's share these with them, and a team
// waits for its last thread longer than one thread needs for the whole work. Results do not depend on the choice.
// Concurrent calls may lose measurements of one another.
class TeamChoice {
 public:
  // Calls call(threads), or call(1).
  template <class Call>
  void run(int threads, int64_t rows, Call&& call) {
    if (threads <= 1 || forced_team() > 0) return call(threads);
    if (rows_.exchange(rows) != rows) calls_ = 0, trial_ = kLeastInterval, alone_ = team_ = 0;
    const uint32_t number = calls_.fetch_add(1);
    const bool learns = number < kFirst, is_trial = !learns && number >= trial_;
    const bool alone = learns ? number % 2 == 1 : (alone_ < team_) != is_trial;
    const auto begun = Clock::now();
    call(alone ? 1 : threads);
    const float seconds = std::chrono::duration<float>(Clock::now() - begun).count();
    std::atomic<float>& mean = alone ? alone_ : team_;
    if (number >= kWarm) mean = mean == 0 ? seconds : mean + 0.25f * (seconds - mean);
    if (is_trial) {  // its cost stays about a hundredth of the time
      const float best = std::min<float>(alone_, team_), worst = std::max<float>(alone_, team_);
      trial_ = number + std::max(kLeastInterval, uint32_t(std::min(1e6f, 100 * worst / std::max(best, 1e-9f))));
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr uint32_t kWarm = 2, kFirst = 6, kLeastInterval = 64;  // calls
  std::atomic<int64_t> rows_{0};
  std::atomic<uint32_t> calls_{0}, trial_{kLeastInterval};
  std::atomic<float> alone_{0}, team_{0};  // seconds, moving averages
};

}  // namespace fastgan
