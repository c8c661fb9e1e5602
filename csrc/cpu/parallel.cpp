#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace fastgan {
namespace {

class Pool {
 public:
  void run(int threads, int64_t count, const std::function<void(int64_t)>& task) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) {
      for (int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; workers_ < threads - 1; ++workers_) std::thread([this] { work(); }).detach();
      task_ = &task;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      places_ = threads - 1;
    }
    wake_.notify_all();
    take_tasks();
    std::unique_lock<std::mutex> lock(mutex_);
    places_ = 0;  // whoever wakes late finds nothing to join
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  void take_tasks() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i);
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return places_ > 0; });
      --places_;
      ++active_;
      lock.unlock();
      take_tasks();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  int workers_ = 0, places_ = 0, active_ = 0;
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
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  current_pool()->run(threads, count, task);
}

}  // namespace fastgan
