// Optimisers on the CPU: the gradient of a weight is never stored; each tile of it is applied to the weights from
// registers.
#pragma once
#include <cmath>

#include "../optimizer.h"
#include "network.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class RuleOf, class T>
void update_run(const RuleOf& rule, T* __restrict p, T* __restrict s0, T* __restrict s1, const T* __restrict g, int64_t n) {
  if (rule.active)  // with weight decay
    for (int64_t i = 0; i < n; ++i) rule(p[i], s0[i], s1[i], g[i]);
  else
    for (int64_t i = 0; i < n; ++i) rule.rule(p[i], s0[i], s1[i], g[i]);
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
  int64_t inputs(int layer) const { return player.network.layers[size_t(layer)].inputs; }
  bool wants_weight(int layer) const { return of(layer).weight.state0; }
  bool wants_bias(int layer) const { return of(layer).bias.state0; }

  Ahead needs(const GradientPart& part, int64_t row, int height) const {
    const Pointers<T> at(of(part.layer).weight, row * inputs(part.layer) + part.column);
    const auto bytes = [](const T* p) { return reinterpret_cast<const char*>(p); };
    return {{bytes(at.p), bytes(at.s0), bytes(at.s1)},
            inputs(part.layer) * int64_t(sizeof(T)),
            part.columns * int64_t(sizeof(T)),
            height};
  }

  void weight(const GradientPart& part, int64_t row, int height, const T* tile) const {
    T clipped[kTileRows * kBlockRows<T>];
    if (clip.active) {
      for (int i = 0; i < height; ++i)
        for (int j = 0; j < part.columns; ++j) clipped[i * kBlockRows<T> + j] = clip(tile[i * kBlockRows<T> + j]);
      tile = clipped;
    }
    const int64_t width = inputs(part.layer);
    const Pointers<T> at(of(part.layer).weight, row * width + part.column);
    if (part.columns == width) {  // all inputs of these outputs: contiguous in memory
      T run[kTileRows * kBlockRows<T>];
      for (int i = 0, at = 0; i < height; ++i)
        for (int j = 0; j < part.columns; ++j) run[at++] = tile[i * kBlockRows<T> + j];
      return update_run(rule, at.p, at.s0, at.s1, run, height * width);
    }
    for (int64_t i = 0, from = 0; i < height; ++i, from += width) {
      const T* g = tile + i * kBlockRows<T>;
      if (part.columns == kBlockRows<T>)  // a constant: two vectors, no loop
        update_run(rule, at.p + from, at.s0 + from, at.s1 + from, g, kBlockRows<T>);
      else
        update_run(rule, at.p + from, at.s0 + from, at.s1 + from, g, part.columns);
    }
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

// A sink that adds up the squares of the gradients: a sum a part of the weights, then one a layer's vectors. One thread
// computes each of them, whatever the size of the team.
template <class T>
struct Squares {
  const PlayerPlan& player;
  const Clipping<T>& clip;
  const GradientPart* first;  // of all
  double *of_parts, *of_layers;

  const LayerParameters& of(int layer) const { return player.parameters[size_t(layer)]; }
  bool wants_weight(int layer) const { return of(layer).weight.state0; }
  bool wants_bias(int layer) const { return of(layer).bias.state0; }
  Ahead needs(const GradientPart&, int64_t, int) const { return {}; }

  void weight(const GradientPart& part, int64_t, int height, const T* tile) const {
    double lanes[kBlockRows<T>] = {};  // a loop of vectors
    for (int i = 0; i < height; ++i)
      for (int j = 0; j < part.columns; ++j) lanes[j] += square(tile[i * kBlockRows<T> + j]);
    for (const double lane : lanes) of_parts[&part - first] += lane;
  }

  void vector(int layer, const ParameterPlan& parameter, const T* grad, int64_t n) const {
    if (!parameter.state0) return;
    for (int64_t i = 0; i < n; ++i) of_layers[layer] += square(grad[i]);
  }

 private:
  double square(T g) const {
    const double held = double(clip(g));
    return held * held;
  }
};

// Calls f(parameter, its elements) for each that a player may have.
template <class Function>
void each_parameter(const PlayerPlan& player, Function&& f) {
  for (size_t i = 0; i < player.parameters.size(); ++i) {
    const LayerPlan& l = player.network.layers[i];
    const LayerParameters& p = player.parameters[i];
    const int64_t rows = l.outputs * l.pieces;
    f(p.weight, rows * l.inputs);
    f(p.bias, rows);
    f(p.norm_scale, l.outputs);
    f(p.norm_shift, l.outputs);
  }
}

// Holds this thread's part of each trained parameter within a bound.
template <class T>
void hold(const PlayerPlan& player, const Team& team, T bound) {
  each_parameter(player, [&](const ParameterPlan& parameter, int64_t n) {
    if (!parameter.state0) return;
    T* p = static_cast<T*>(parameter.value);
    for (int64_t i = n * team.rank / team.size; i < n * (team.rank + 1) / team.size; ++i) p[i] = held(p[i], bound);
  });
}

// Scales down the incoming weights of rows first .. last whose norm exceeds the limit.
template <class T>
void bound_norms(T* weight, int64_t inputs, int64_t first, int64_t last, double limit) {
  for (int64_t row = first; row < last; ++row) {
    T* w = weight + row * inputs;
    double square = 0;
    for (int64_t i = 0; i < inputs; ++i) square += double(w[i]) * double(w[i]);
    const T scale = T(bounding(square, limit));
    if (scale == T(1)) continue;
    for (int64_t i = 0; i < inputs; ++i) w[i] *= scale;
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
