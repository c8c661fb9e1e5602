// A call of the training engine: the iterations, and their results.
#pragma once
#include <chrono>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "plan.h"

namespace fastgan {

// Chooses between one thread and all threads during training, by measuring both. A team is as fast as its slowest
// thread: on a busy machine it may wait for the scheduler longer than one thread needs for the whole work, and tiny
// networks gain nothing. Results do not depend on the choice.
class AdaptiveThreads {
 public:
  // The size of the next team.
  int begin(int threads) {
    alone_ = threads == 1 || solo_ == 0 || now() < alone_until_;
    last_ = started_ = now();
    iterations_ = 0;
    return alone_ ? 1 : threads;
  }

  // After an iteration: whether this team goes on.
  bool go_on() {
    const double time = now(), spent = time - last_, mean = (time - started_) / double(++iterations_);
    last_ = time;
    if (alone_) {
      if (iterations_ > 1) solo_ = solo_ == 0 ? spent : solo_ + 0.1 * (spent - solo_);  // the first iteration warms up
      return solo_ == 0 || time < alone_until_ || time - started_ < kTrial;
    }
    const bool stalled = spent > 4 * solo_ + kTrial;
    if (!stalled && (iterations_ < 3 || time - started_ < kTrial || mean < solo_)) {
      if (time - started_ > 16 * kTrial) rest_ = kTrial, started_ = time, iterations_ = 0;
      return true;
    }
    rest_ = rest_ < kLongestRest ? 2 * rest_ : kLongestRest;
    alone_until_ = time + rest_;
    return false;
  }

 private:
  static constexpr double kTrial = 0.005, kLongestRest = 0.5;  // seconds
  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  bool alone_ = true;
  double solo_ = 0, alone_until_ = 0, rest_ = kTrial, last_ = 0, started_ = 0;
  int64_t iterations_ = 0;
};

// Memory that grows, and is freed at the end only. Large amounts request huge pages: each row of a tile of a blocked
// weight is on another page, and these are more pages than a TLB has entries.
class Memory {
 public:
  void* reserve(size_t bytes) {  // new memory is zero
    if (bytes > bytes_) {
      memory_.reset(::operator new(bytes, std::align_val_t(kPage)));
#if defined(__linux__)
      if (bytes >= kHugePage) madvise(memory_.get(), bytes, MADV_HUGEPAGE);  // may fail: small pages work too
#endif
      std::memset(memory_.get(), 0, bytes);
      bytes_ = bytes;
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t(kPage)); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_ = 0;
};

// What a run keeps from one call to the next.
struct Workspace {
  Memory buffers, weights;
  bool holds_weights = false;  // whether `weights` is newer than the memory at the plan's addresses
  AdaptiveThreads adaptive_threads;
};

constexpr int kMetrics = 6;  // loss_d, loss_g, D(x), D(G(z)), accuracy on real, on fake

struct TrainCall {
  int64_t first, count;  // iterations, from 0
  Schedule generator_schedule, discriminator_schedule;
  int64_t generator_updates, discriminator_updates;  // updates of the optimisers: in: before the call, out: after it
  double* metrics;                                   // (count, kMetrics)
  Workspace* workspace;
  int threads;
  FASTGAN_FIELDS(first, count, generator_schedule, discriminator_schedule, generator_updates, discriminator_updates,
                 metrics)
};

}  // namespace fastgan
