// Taking an update back: what it may change, and a copy of that from before.
#pragma once
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "network.h"
#include "update.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// Where a plan skips what is not finite, all threads call save() before a step and settle() after its updates. Elsewhere
// nothing is copied.
template <class T>
class Undo {
 public:
  explicit Undo(const TrainPlan& plan) {
    if (!plan.skip_nonfinite) return;
    for (const PlayerPlan* player : {&plan.generator, &plan.discriminator}) add(*player);
  }

  void place(Arena<T>& arena) {
    size_t bytes = 0;
    for (const Span& span : spans_) bytes += span.bytes;
    saved_ = arena.take(int64_t((bytes + sizeof(T) - 1) / sizeof(T)));
  }

  void save(const Team& team) {
    if (spans_.empty()) return;
    copy(team, true);
    team.barrier();
  }

  // Any thread, before it settles: something of this update is not finite.
  void doubt() { finite_ = false; }

  // Takes the updates back where somebody doubted them, and counts each as skipped.
  void settle(const Team& team, std::initializer_list<int64_t*> skipped) {
    if (spans_.empty()) return;
    team.barrier();
    if (!finite_) copy(team, false);
    team.barrier();
    if (team.rank == 0 && !finite_) {
      for (int64_t* count : skipped) ++*count;
      finite_ = true;
    }
    team.barrier();
  }

 private:
  struct Span {
    void* data;
    size_t bytes;
  };

  void add(const PlayerPlan& player) {
    each_parameter(player, [&](const ParameterPlan& p, int64_t n) {
      for (void* data : {p.value, p.state0, p.state1}) add(data, size_t(n) * sizeof(T));
    });
    for (size_t i = 0; i < player.parameters.size(); ++i) {
      const LayerParameters& p = player.parameters[i];
      const size_t n = size_t(player.network.layers[i].outputs);
      add(p.running_mean, n * sizeof(T));
      add(p.running_variance, n * sizeof(T));
      add(p.batches, sizeof(int64_t));
    }
  }

  void add(void* data, size_t bytes) {
    if (data) spans_.push_back({data, bytes});
  }

  void copy(const Team& team, bool save) {
    char* saved = reinterpret_cast<char*>(saved_);
    for (size_t i = 0; i < spans_.size(); saved += spans_[i++].bytes)
      if (int(i) % team.size == team.rank)
        save ? std::memcpy(saved, spans_[i].data, spans_[i].bytes) : std::memcpy(spans_[i].data, saved, spans_[i].bytes);
  }

  std::vector<Span> spans_;
  T* saved_ = nullptr;
  std::atomic<bool> finite_{true};
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
