// A snapshot of everything that an update may change, to roll back an update that is not finite.
#pragma once
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "network.h"
#include "update.h"

namespace fastgan::inline FASTGAN_ISA {

// With skip_nonfinite, all threads call save() before a step and commit_or_roll_back() after its updates; otherwise
// nothing is copied. Gradients are not checked: a gradient that is not finite makes the optimiser's state not finite.
template <class T>
class Snapshot {
 public:
  explicit Snapshot(const TrainPlan& plan) {
    if (!plan.skip_nonfinite) return;
    for (const PlayerPlan* player : {&plan.generator, &plan.discriminator}) add(*player);
  }

  void place(Arena<T>& arena) {
    size_t bytes = 0;
    for (const Span& span : spans_) bytes += span.bytes;
    saved_ = arena.allocate(int64_t((bytes + sizeof(T) - 1) / sizeof(T)));
  }

  void save(const Team& team) {
    if (spans_.empty()) return;
    copy(team, true);
    team.barrier();
  }

  // Called by any thread before commit_or_roll_back(): a loss of this update is not finite.
  void flag_nonfinite() { finite_ = false; }

  // Rolls back the updates of these players and counts them as skipped, if one is flagged, or if a number of a
  // parameter, an optimiser's state or a running statistic was finite and is not any more.
  template <class Player>
  void commit_or_roll_back(const Team& team, std::initializer_list<Player*> players) {
    if (spans_.empty()) return;
    team.barrier();
    inspect(team);
    team.barrier();
    if (!finite_) copy(team, false);
    team.barrier();
    if (team.rank == 0 && !finite_) {
      for (Player* player : players) ++player->skipped;
      finite_ = true;
    }
    team.barrier();
  }

 private:
  struct Span {
    void* data;
    size_t bytes;
    bool numbers;  // of type T
  };

  void add(const PlayerPlan& player) {
    each_parameter<T>(player, [&](const ParameterPlan& p, int64_t n) {
      for (void* data : {p.value, p.state0, p.state1}) add({data, size_t(n) * sizeof(T), true});
    });
    for (size_t i = 0; i < player.parameters.size(); ++i) {
      const LayerParameters& p = player.parameters[i];
      const size_t n = size_t(player.network.layers[i].outputs);
      add({p.running_mean, n * sizeof(T), true});
      add({p.running_variance, n * sizeof(T), true});
      add({p.batches, sizeof(int64_t), false});
#if defined(__AVX512F__)
      const LayerPlan& l = player.network.layers[i];
      for (void* copy : {p.rounded, p.rounded_transposed}) add({copy, size_t(rounded_bytes(player.network, l)), false});
#endif
    }
  }

  void add(const Span& span) {
    if (span.data) spans_.push_back(span);
  }

  // Calls f(span, its copy) for this thread's spans.
  template <class Function>
  void each_span(const Team& team, Function&& f) {
    char* saved = reinterpret_cast<char*>(saved_);
    for (size_t i = 0; i < spans_.size(); saved += spans_[i++].bytes)
      if (int(i) % team.size == team.rank) f(spans_[i], saved);
  }

  void copy(const Team& team, bool save) {
    each_span(team, [&](const Span& span, char* saved) {
      save ? std::memcpy(saved, span.data, span.bytes) : std::memcpy(span.data, saved, span.bytes);
    });
  }

  void inspect(const Team& team) {
    each_span(team, [&](const Span& span, const char* saved) {
      if (!span.numbers) return;
      const T *after = static_cast<const T*>(span.data), *before = reinterpret_cast<const T*>(saved);
      int lost = 0;  // an integer, so that the compiler vectorises the loop
      for (size_t i = 0; i < span.bytes / sizeof(T); ++i) lost |= is_finite(before[i]) & !is_finite(after[i]);
      if (lost) flag_nonfinite();
    });
  }

  static int is_finite(T x) { return std::abs(x) <= std::numeric_limits<T>::max(); }

  std::vector<Span> spans_;
  T* saved_ = nullptr;
  std::atomic<bool> finite_{true};
};

}  // namespace fastgan::inline FASTGAN_ISA
