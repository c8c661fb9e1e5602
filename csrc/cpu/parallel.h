// A small pool of threads that survives fork. Work is cut into tasks whose results do not depend on the thread that
// runs them, so results do not depend on the number of threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace fastgan {

// Runs task(0) .. task(count - 1) on at most `threads` threads, the caller among them; returns when all are done.
// A call during another thread's call runs serially. The first exception of a task is rethrown. All threads treat
// subnormal numbers as the caller does, so torch.set_flush_denormal() applies to them too.
void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& task);

// A barrier: waiting threads spin briefly, then yield the processor between polls.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

  // Aborts the barrier: current and future waiters throw Abandoned, because a failed thread never arrives.
  struct Abandoned {};
  void abandon() { abandoned_.store(true, std::memory_order_relaxed); }

 private:
  const int size_;
  std::atomic<bool> abandoned_{false};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// A thread's place in a team: all threads of the team run the same function, each on its part of the data.
struct Team {
  int rank = 0, size = 1;
  Barrier* shared = nullptr;
  void barrier() const {
    if (size > 1) shared->wait();
  }
};

// For tests: the team size of training and networks. 0, the default: chosen by cost.
int forced_team();
void force_team(int size);

// Runs body(team) on `threads` threads at once, the caller being rank 0; on the caller alone if the pool is busy.
void with_team(int threads, const std::function<void(const Team&)>& body);

}  // namespace fastgan
