// Chooses between one thread and all of them for calls from a user's code, by measuring both.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
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
  // Calls call(threads), or call(1). Calls of about the same size (rows or elements, at least 1) share measurements.
  template <class Call>
  void run(int threads, int64_t size, Call&& call) {
    if (threads <= 1 || forced_team() > 0) return call(threads);
    of_size_[std::min(size_t(std::bit_width(uint64_t(size))), kSizes - 1)].run(threads, float(size), call);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr uint32_t kWarm = 2, kFirst = 6, kLeastInterval = 64;  // calls
  static constexpr size_t kSizes = 28;                                   // powers of two

  struct OneSize {
    std::atomic<uint32_t> calls{0}, next_trial{kLeastInterval};
    std::atomic<float> alone_time{0}, team_time{0};  // seconds a unit of size, moving averages

    template <class Call>
    void run(int threads, float size, Call& call) {
      const uint32_t number = calls.fetch_add(1);
      const bool learns = number < kFirst, is_trial = !learns && number >= next_trial;
      const bool alone = learns ? number % 2 == 1 : (alone_time < team_time) != is_trial;
      const auto begun = Clock::now();
      call(alone ? 1 : threads);
      const float time = std::chrono::duration<float>(Clock::now() - begun).count() / size;
      std::atomic<float>& mean = alone ? alone_time : team_time;
      if (number >= kWarm) mean = mean == 0 ? time : mean + 0.25f * (time - mean);
      if (is_trial) {  // its cost stays about a hundredth of the time
        const float best = std::min<float>(alone_time, team_time), worst = std::max<float>(alone_time, team_time);
        const auto interval = uint32_t(std::min(1e6f, 100 * worst / std::max(best, 1e-15f)));
        next_trial = number + std::max(kLeastInterval, interval);
      }
    }
  };
  std::array<OneSize, kSizes> of_size_;
};

}  // namespace fastgan
