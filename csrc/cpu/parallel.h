// A small pool of threads that survives fork. Work is cut into tasks whose results do not depend on who runs them, so
// the number of threads never shows in the figures.
#pragma once
#include <cstdint>
#include <functional>

namespace fastgan {

// Runs task(0) .. task(count - 1) on at most `threads` threads, the caller among them; returns when all are done.
// A call made while another thread's call is under way runs serially.
void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& task);

}  // namespace fastgan
