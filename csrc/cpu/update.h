// Optimisers on the CPU. The gradient of a weight is not stored: each tile of it is applied to the weight at once.
#pragma once
#include <cmath>
#include <vector>

#include "../optimizer.h"
#include "network.h"
#include "rounded.h"

namespace fastgan::inline FASTGAN_ISA {

constexpr int kMostTileRows = 32;  // of a gradient's tile: 32 on AMX, else kTileRows

template <class RuleOf, class T>
void update_run(const RuleOf& rule, T* __restrict p, T* __restrict s0, T* __restrict s1, const T* __restrict g,
                int64_t n) {
  if (rule.active)  // with weight decay
    for (int64_t i = 0; i < n; ++i) rule(p[i], s0[i], s1[i], g[i]);
  else
    for (int64_t i = 0; i < n; ++i) rule.rule(p[i], s0[i], s1[i], g[i]);
}

// The same; the next run of n follows in memory, and is prefetched at the rate of this one.
template <class RuleOf, class T>
void update_next(const RuleOf& rule, T* p, T* s0, T* s1, const T* g, int64_t n) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  for (int64_t i = 0; i < n; i += line) {
    for (const T* x : {p, s0, s1}) __builtin_prefetch(x + i + n, 1);
    update_run(rule, p + i, s0 + i, s1 + i, g + i, line);
  }
}

template <class T>
struct Pointers {
  T *p, *s0, *s1;
  explicit Pointers(const ParameterPlan& plan, int64_t offset = 0)
      : p(static_cast<T*>(plan.value) + offset),
        s0(static_cast<T*>(plan.state0) + offset),
        s1(static_cast<T*>(plan.state1 ? plan.state1 : plan.state0) + offset) {}
};

// A sink that applies each gradient at once. A parameter without state is not trained.
template <class T, class RuleOf>
struct Update {
  const RuleOf& rule;
  const PlayerPlan& player;
  const Clipping<T>& clip;

  const LayerParameters& of(int layer) const { return player.parameters[size_t(layer)]; }
  bool wants_weight(int layer) const { return of(layer).weight.state0; }
  bool wants_bias(int layer) const { return of(layer).bias.state0; }

  // The rows of a blocked weight that a tile covers, which are contiguous.
  Pointers<T> place(const GradientPart& part, int64_t row) const {
    const LayerPlan& l = player.network.layers[size_t(part.layer)];
    const auto blocked = BlockedWeight<T>::of(nullptr, l.outputs * l.pieces, l.inputs, l.transposed);
    return Pointers<T>(of(part.layer).weight, blocked.offset(part.column) + row * part.columns);
  }

  // Whether the optimiser prefetches the next tile: tiles of one block follow one another, and the product does not.
  bool prefetches() const { return uses_amx(player.network) || tuning().next_tile == 0; }

  Ahead needs(const GradientPart& part, int64_t row, int height) const {
    if (prefetches()) return {};
    const Pointers<T> at = place(part, row);
    const auto bytes = [](const T* p) { return reinterpret_cast<const char*>(p); };
    const int64_t row_bytes = part.columns * int64_t(sizeof(T));
    return {{bytes(at.p), bytes(at.s0), bytes(at.s1)}, row_bytes, row_bytes, height};
  }

  void weight(const GradientPart& part, int64_t row, int height, const T* tile) const {
    T clipped[kMostTileRows * kBlockRows<T>];
    if (clip.active) {
      for (int i = 0; i < height; ++i)
        for (int j = 0; j < part.columns; ++j) clipped[i * kBlockRows<T> + j] = clip(tile[i * kBlockRows<T> + j]);
      tile = clipped;
    }
    const Pointers<T> at = place(part, row);
    if (part.columns == kBlockRows<T>) {
      (prefetches() ? update_next<RuleOf, T> : update_run<RuleOf, T>)(rule, at.p, at.s0, at.s1, tile,
                                                                      height * kBlockRows<T>);
    } else {
      T run[kMostTileRows * kBlockRows<T>];
      for (int i = 0, to = 0; i < height; ++i)
        for (int j = 0; j < part.columns; ++j) run[to++] = tile[i * kBlockRows<T> + j];
      update_run(rule, at.p, at.s0, at.s1, run, height * part.columns);
    }
    if (keeps_rounded(player.network)) round(part, row, height);
  }

  // Updates the rounded copies of the rows of a tile.
  void round([[maybe_unused]] const GradientPart& part, [[maybe_unused]] int64_t row,
             [[maybe_unused]] int height) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      round_weight(player.network, player.network.layers[size_t(part.layer)], of(part.layer), row, height, part.column);
#endif
  }

  void vector(int, const ParameterPlan& parameter, const T* grad, int64_t n) const {
    if (!parameter.state0) return;
    const Pointers<T> at(parameter);
    if (!clip.active) return update_run(rule, at.p, at.s0, at.s1, grad, n);
    for (int64_t i = 0; i < n; ++i) {
      const T clipped = clip(grad[i]);
      update_run(rule, at.p + i, at.s0 + i, at.s1 + i, &clipped, 1);
    }
  }
};

// A sink that adds up the squares of the gradients: in each layer a sum for each part of the weight, then one for the
// vectors. One thread computes each sum, so the bits do not depend on the size of the team.
template <class T>
struct Squares {
  const PlayerPlan& player;
  const Clipping<T>& clip;
  std::vector<std::vector<double>>& sums;

  const LayerParameters& of(int layer) const { return player.parameters[size_t(layer)]; }
  bool wants_weight(int layer) const { return of(layer).weight.state0; }
  bool wants_bias(int layer) const { return of(layer).bias.state0; }
  Ahead needs(const GradientPart&, int64_t, int) const { return {}; }

  void weight(const GradientPart& part, int64_t, int height, const T* tile) const {
    double lanes[kBlockRows<T>] = {};  // a loop of vectors
    for (int i = 0; i < height; ++i)
      for (int j = 0; j < part.columns; ++j) lanes[j] += square(tile[i * kBlockRows<T> + j]);
    for (const double lane : lanes) sums[size_t(part.layer)][size_t(part.column / kBlockRows<T>)] += lane;
  }

  void vector(int layer, const ParameterPlan& parameter, const T* grad, int64_t n) const {
    if (!parameter.state0) return;
    for (int64_t i = 0; i < n; ++i) sums[size_t(layer)].back() += square(grad[i]);
  }

 private:
  double square(T g) const {
    const double held = double(clip(g));
    return held * held;
  }
};

// Calls f(parameter, its size in memory, with blocked weights) for each possible parameter of a player.
template <class T, class Function>
void each_parameter(const PlayerPlan& player, Function&& f) {
  for (size_t i = 0; i < player.parameters.size(); ++i) {
    const LayerPlan& l = player.network.layers[i];
    const LayerParameters& p = player.parameters[i];
    const int64_t rows = l.outputs * l.pieces;
    f(p.weight, BlockedWeight<T>::of(nullptr, rows, l.inputs, l.transposed).size());
    f(p.bias, rows);
    f(p.norm_scale, l.outputs);
    f(p.norm_shift, l.outputs);
  }
}

// Clips this thread's part of each trained parameter to [-bound, bound].
template <class T>
void hold(const PlayerPlan& player, const Team& team, T bound) {
  each_parameter<T>(player, [&](const ParameterPlan& parameter, int64_t n) {
    if (!parameter.state0) return;
    T* p = static_cast<T*>(parameter.value);
    for (int64_t i = n * team.rank / team.size; i < n * (team.rank + 1) / team.size; ++i) p[i] = held(p[i], bound);
  });
}

// Scales down each of the rows first .. last of a blocked weight whose norm exceeds the limit.
template <class T>
void bound_norms(T* weight, int64_t rows, int64_t inputs, int64_t first, int64_t last, double limit) {
  const BlockedWeight<T> blocked{weight, rows, inputs};
  for (int64_t row = first; row < last; ++row) {
    const auto each = [&](auto&& f) {
      for (int64_t column = 0; column < inputs; column += kBlockRows<T>) {
        const int64_t width = blocked.width(column);
        T* w = weight + blocked.offset(column) + row * width;
        for (int64_t i = 0; i < width; ++i) f(w[i]);
      }
    };
    double square = 0;
    each([&](T w) { square += double(w) * double(w); });
    const T scale = T(bounding(square, limit));
    if (scale != T(1)) each([&](T& w) { w *= scale; });
  }
}

}  // namespace fastgan::inline FASTGAN_ISA
