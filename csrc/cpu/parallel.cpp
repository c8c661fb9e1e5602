#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "float_mode.h"

namespace fastgan {
namespace {

constexpr int kSpins = 3000;  // about 50 us: the calls of one training step follow one another faster than that

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  // Returns false, with nothing done, if the pool is busy or the system has no more threads.
  bool run(int threads, int64_t count, const std::function<void(int64_t)>& task) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    try {
      for (; workers_ < threads - 1; ++workers_) std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    task_ = &task;
    count_ = count;
    mode_ = FloatMode::of_this_thread();
    next_.store(0);
    places_.store(threads - 1);  // publishes the assignments above
    if (sleepers_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);  // a thread that is about to sleep checks places_ under this lock
      wake_.notify_all();
    }
    take_tasks();
    places_.store(0);  // a late thread finds no task
    for (int spins = 0; active_.load() > 0; ++spins) spins < kSpins ? pause() : std::this_thread::yield();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return true;
  }

 private:
  // An exception that leaves a worker's thread ends the process; the caller rethrows the first one instead.
  void take_tasks() {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i);
    } catch (...) {
      next_.store(count_);  // the remaining tasks are skipped
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // A worker counts itself active before it claims a place, so the caller either waits for it or has left none to
  // claim.
  void join() {
    active_.fetch_add(1);
    int places = places_.load();
    while (places > 0 && !places_.compare_exchange_weak(places, places - 1)) {
    }
    if (places > 0) {
      mode_.apply();
      take_tasks();
    }
    active_.fetch_sub(1);
  }

  void work() {
    for (;;) {
      for (int spins = 0; places_.load() <= 0 && spins < kSpins; ++spins) pause();
      if (places_.load() <= 0) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [this] { return places_.load() > 0; });
        sleepers_.fetch_sub(1);
      }
      join();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_;
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t count_ = 0;
  FloatMode mode_;  // the caller's
  std::atomic<int64_t> next_{0};
  std::atomic<int> places_{0}, active_{0}, sleepers_{0};
  std::exception_ptr failure_;
  int workers_ = 0;
};

// Never destroyed: its threads may outlive the statics. A forked child has no threads, so it starts a pool of its own.
std::atomic<Pool*> pool{nullptr};

Pool* current_pool() {
  if (Pool* p = pool.load(std::memory_order_acquire)) return p;
  static std::once_flag registered;
  std::call_once(registered, [] { pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); }); });
  Pool *fresh = new Pool, *expected = nullptr;
  if (pool.compare_exchange_strong(expected, fresh)) return fresh;
  delete fresh;
  return expected;
}

}  // namespace

void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& task) {
  if (threads > count) threads = int(count);
  if (threads > 1 && current_pool()->run(threads, count, task)) return;
  for (int64_t i = 0; i < count; ++i) task(i);
}

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
    if (abandoned_.load(std::memory_order_relaxed))
      throw Abandoned{};  // NOLINT(bugprone-std-exception-baseclass): only with_team sees it
    spins < kSpins ? pause() : std::this_thread::yield();
  }
}

namespace {
std::atomic<int> forced_size{0};
}

int forced_team() { return forced_size.load(std::memory_order_relaxed); }
void force_team(int size) { forced_size.store(size, std::memory_order_relaxed); }

void with_team(int threads, const std::function<void(const Team&)>& body) {
  if (threads > 1) {
    Barrier barrier(threads);
    // A rank is a task. The barriers keep a thread in its rank until all ranks are taken, so no thread takes two and
    // deadlocks; a body without barriers may run two ranks on one thread.
    const auto take_rank = [&](int64_t rank) {
      try {
        body({int(rank), threads, &barrier});
      } catch (const Barrier::Abandoned&) {  // NOLINT(bugprone-empty-catch): another rank throws the original exception
      } catch (...) {
        barrier.abandon();
        throw;
      }
    };
    if (current_pool()->run(threads, threads, take_rank)) return;
  }
  body({});
}

}  // namespace fastgan
