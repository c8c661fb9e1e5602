// A small pool of threads that survives fork. Work is cut into tasks whose results do not depend on who runs them, so
// the number of threads never shows in the figures.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace fastgan {

// Runs task(0) .. task(count - 1) on at most `threads` threads, the caller among them; returns when all are done.
// A call made while another thread's call is under way runs serially. The first exception of a task is thrown on. All threads
// treat subnormal numbers as the caller does, so torch.set_flush_denormal() holds for them too.
void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& task);

// Where threads wait for one another: they spin briefly, then give the processor away between looks.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

  // Whoever waits, or ever will, is thrown out: a thread that failed is not coming.
  struct Abandoned {};
  void abandon() { abandoned_.store(true, std::memory_order_relaxed); }

 private:
  const int size_;
  std::atomic<bool> abandoned_{false};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// One of several threads that run the same function at the same time, each on its share of the data.
struct Team {
  int rank = 0, size = 1;
  Barrier* shared = nullptr;
  void barrier() const {
    if (size > 1) shared->wait();
  }
};

// For tests: training and networks take teams of this size, whatever would pay. 0, as it begins: they decide themselves.
int forced_team();
void force_team(int size);

// Runs body(team) on `threads` threads at once, the caller being rank 0; on the caller alone where the pool is taken.
void with_team(int threads, const std::function<void(const Team&)>& body);

}  // namespace fastgan
