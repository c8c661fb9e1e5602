// Weights of both networks in blocks (BlockedWeight) during a run, with the optimisers' state and the moving average.
//
// The first call of a run reads them from the plan's addresses. They are written back before Python reads them: at a
// checkpoint, before a callback, at the end. Nothing is converted between two chunks.
#pragma once
#include <vector>

#include "../train.h"
#include "parallel.h"
#include "rounded.h"
#include "sampled.h"

namespace fastgan::inline FASTGAN_ISA {

// A plan with its weights in a workspace. A weight of at most kBlockRows inputs has the same layout and is not moved.
template <class T>
class BlockedPlan {
 public:
  BlockedPlan(const TrainPlan& plan, Workspace& workspace, int threads)
      : plan_(plan), workspace_(workspace), threads_(threads) {
    int64_t total = 0;
    for (PlayerPlan* player : {&plan_.generator, &plan_.discriminator}) player->network.blocked_weights = true;
    choose_products_and_lists(plan_, sizeof(T) == 4);
    for (PlayerPlan* player : {&plan_.generator, &plan_.discriminator})
      for (size_t i = 0; i < player->parameters.size(); ++i) {
        const LayerPlan& l = player->network.layers[i];
#if defined(__AVX512F__)
        if (keeps_rounded(player->network))
          for (void** copy : {&player->parameters[i].rounded, &player->parameters[i].rounded_transposed}) {
            copies_.push_back({copy, total});
            total += rounded_bytes(player->network, l) / int64_t(sizeof(T)) + kApart;
          }
#endif
        if (l.inputs <= kBlockRows<T> && !l.transposed) continue;
        ParameterPlan& weight = player->parameters[i].weight;
        for (void** address : {&weight.value, &weight.state0, &weight.state1, &weight.ema}) {
          if (!*address) continue;
          moved_.push_back({static_cast<T*>(*address), address, total, l.outputs * l.pieces, l.inputs, l.transposed});
          total += padded(moved_.back().blocked(nullptr).size()) + kApart;
        }
      }
    T* memory = static_cast<T*>(workspace.weights.reserve(size_t(total) * sizeof(T)));
    for (const Moved& m : moved_) *m.address = memory + m.offset;
    for (const auto& [address, offset] : copies_) *address = memory + offset;
  }
  BlockedPlan(const BlockedPlan&) = delete;  // it has addresses of its own members

  const TrainPlan& plan() const { return plan_; }

  // A thread's part of the rounded copies of a player's weights.
  static void round([[maybe_unused]] const PlayerPlan& player, [[maybe_unused]] int rank, [[maybe_unused]] int size) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      for (size_t i = 0; i < player.parameters.size(); ++i)
        round_weight(player.network, player.network.layers[i], player.parameters[i], rank, size);
#endif
  }

  void read() const {
    if (workspace_.holds_weights) return;
    each_row([](T* row, T* block, int64_t count) { std::copy_n(row, count, block); });
    for (const PlayerPlan* player : {&plan_.generator, &plan_.discriminator})
      if (keeps_rounded(player->network))
        parallel_for(threads_, threads_, [&](int64_t rank) { round(*player, int(rank), threads_); });
    workspace_.holds_weights = true;
  }

  void write_back() const {
    each_row([](T* row, T* block, int64_t count) { std::copy_n(block, count, row); });
    workspace_.holds_weights = false;
  }

 private:
  static constexpr int64_t kApart = 1040;  // so that a weight and its state do not map to the same cache sets

  struct Moved {
    T* rows;  // (outputs, inputs), at the plan's address
    void** address;
    int64_t offset, outputs, inputs;
    bool transposed;

    BlockedWeight<T> blocked(const T* data) const { return BlockedWeight<T>::of(data, outputs, inputs, transposed); }
  };

  // Calls copy(inputs of a row, the same in their block, count) for all rows and blocks; with count 1 for a transposed
  // weight.
  template <class Copy>
  void each_row(Copy&& copy) const {
    constexpr int64_t some = 64;  // rows of a task
    std::vector<std::pair<const Moved*, int64_t>> tasks;
    for (const Moved& m : moved_)
      for (int64_t row = 0; row < m.outputs; row += some) tasks.emplace_back(&m, row);
    parallel_for(threads_, int64_t(tasks.size()), [&](int64_t task) {
      const auto& [m, first] = tasks[size_t(task)];
      T* data = static_cast<T*>(*m->address);
      const int64_t last = std::min(first + some, m->outputs);
      const BlockedWeight<T> blocked = m->blocked(data);
      if (m->transposed) {
        for (int64_t block = first; block < last; block += kBlockRows<T>)
          for (int64_t input = 0, units = blocked.width(block); input < m->inputs; ++input)
            for (int64_t i = 0; i < units; ++i)
              copy(m->rows + (block + i) * m->inputs + input, data + blocked.offset(block) + input * units + i, 1);
        return;
      }
      for (int64_t row = first; row < last; ++row)
        for (int64_t column = 0; column < m->inputs; column += kBlockRows<T>) {
          const int64_t width = blocked.width(column);
          copy(m->rows + row * m->inputs + column, data + blocked.offset(column) + row * width, width);
        }
    });
  }

  TrainPlan plan_;
  Workspace& workspace_;
  const int threads_;
  std::vector<Moved> moved_;
  std::vector<std::pair<void**, int64_t>> copies_;  // rounded copies: the address to set, the offset
};

}  // namespace fastgan::inline FASTGAN_ISA
