// Training-by-sampling (../sampled.h) for a batch: its conditions (labels), rows that have them, and the cross-entropy
// of G's outputs.
#pragma once
#include <algorithm>
#include <cmath>

#include "../sampled.h"
#include "blocked.h"
#include "noise.h"
#include "products.h"

namespace fastgan::inline FASTGAN_ISA {

// How many times as fast as float32 whole networks are with these products, by measurement.
inline double gain_of(Products products) {
  return products == Products::fp32 ? 1.0 : products == Products::dot_bf16 ? 1.6 : 3.0;
}

// Whether listing pays for a network that can list: it has float32 products, or loses less by them than listing saves.
// They become float32 products then. left: the share of its multiplications that listing leaves.
inline bool pays_to_list(PlayerPlan& player, double left) {
  Products& products = player.network.products;
  if (!products_are_forced() && left * gain_of(products) < 1.0) products = Products::fp32;
  return products == Products::fp32;
}

// Chooses the products of both networks, and makes the first layers of a table's networks list their inputs
// (entries.h), with transposed weights: G's the labels, D's the labels and the rows of the table. Not if other products
// pay more, inputs are dropped, the second-order pass of a penalty needs the interpolates, or norms of units are
// bounded.
inline void choose_products_and_lists(TrainPlan& plan, bool is_float) {
  for (PlayerPlan* player : {&plan.generator, &plan.discriminator})
    player->network.products = choose_products(player->network, is_float);
  if (!plan.table.sampled) return;
  const auto can = [](const PlayerPlan& player) {
    return player.network.input_dropout == 0 && player.optimizer.max_col_norm == 0;
  };
  const auto multiplications = [](const LayerPlan& l, int64_t inputs) { return double(inputs * l.outputs * l.pieces); };
  std::vector<LayerPlan>&of_g = plan.generator.network.layers, &of_d = plan.discriminator.network.layers;
  if (can(plan.generator) && plan.classes > 0) {
    double all = 0, of_labels = 0;
    bool known = true;
    for (const LayerPlan& l : of_g) {
      all += multiplications(l, l.inputs), of_labels += known ? multiplications(l, plan.classes) : 0;
      known = known && l.concatenates;
    }
    known = pays_to_list(plan.generator, 1 - of_labels / all);
    for (size_t i = 0; i < of_g.size() && known; known = of_g[i++].concatenates)
      of_g[i].transposed = true, of_g[i].labels = plan.classes;
  }
  bool twice = false;
  for (const LayerPlan& l : of_d)
    with_activation(l.activation, [&](auto f) { twice = twice || decltype(f)::has_second_derivative; });
  if (can(plan.discriminator) && !of_d[0].concatenates && (plan.penalties.empty() || !twice)) {
    double others = 0;
    for (size_t i = 1; i < of_d.size(); ++i) others += multiplications(of_d[i], of_d[i].inputs);
    // Real rows are listed, and the interpolates of a penalty follow from the other two: of about 9 products with the
    // data's inputs, 7 are left.
    const int64_t labels = plan.classes * plan.pack;
    const double first = multiplications(of_d[0], of_d[0].inputs),
                 left = multiplications(of_d[0], of_d[0].inputs - labels);
    if (pays_to_list(plan.discriminator, (others + 0.75 * left) / (others + first)))
      of_d[0].transposed = true, of_d[0].labels = labels;
  }
}

template <class T>
class SampledTable {
 public:
  explicit SampledTable(const TrainPlan& plan)
      : table_(plan.table), data_(static_cast<const T*>(plan.data)), rows_(plan.rows), seed_(plan.seed) {}

  // The labels of rows first .. last of a batch.
  void draw_labels(uint32_t purpose, int64_t step, int64_t first, int64_t last, int32_t* labels) const {
    if (table_.columns == 0) return;
    each_chunk(first, last, [&](int64_t at, int64_t n) {
      double which[kChunk], weight[kChunk];
      uniform(which, n, purpose, 1, step, at);
      uniform(weight, n, purpose, 2, step, at);
      for (int64_t i = 0; i < n; ++i) labels[at + i] = chosen_label(table_, which[i], weight[i]);
    });
  }

  // Rows that have these labels, uniformly among them.
  void draw_rows(uint32_t purpose, int64_t step, int64_t first, int64_t last, const int32_t* labels,
                 int64_t* numbers) const {
    each_chunk(first, last, [&](int64_t at, int64_t n) {
      double u[kChunk];
      uniform(u, n, purpose, 3, step, at);
      for (int64_t i = 0; i < n; ++i) numbers[at + i] = chosen_row(table_, rows_, labels[at + i], u[i]);
    });
  }

  // Calls f(feature, value) for the entries of a row of the data, `entries()` of them; the rest is zero.
  template <class Function>
  void each_entry(int64_t number, Function&& f) const {
    const T* scalars = data_ + number * table_.scalars;
    for (int64_t i = 0; i < table_.scalars; ++i) f(table_.scalar_at[i], scalars[i]);
    for (int64_t i = 0; i < table_.groups; ++i) f(feature_of(table_, number, i), T(1));
  }
  int64_t entries() const { return table_.scalars + table_.groups; }

  // -log p(label) of the logits in a lane of a block. Adds its gradient, times scale, to grad.
  T cross_entropy(int32_t label, const T* logits, T* grad, T scale) const {
    const Labelled of(table_, label);
    const T *x = logits + of.first * kBlockRows<T>, wanted = x[of.code * kBlockRows<T>];
    T* g = grad + of.first * kBlockRows<T>;
    T most = x[0], sum = 0;
    for (int64_t f = 1; f < of.width; ++f) most = larger(x[f * kBlockRows<T>], most);
    for (int64_t f = 0; f < of.width; ++f) sum += softmax_weight(x[f * kBlockRows<T>], most, T(1));
    for (int64_t f = 0; f < of.width; ++f)
      g[f * kBlockRows<T>] +=
          scale * softmax_entropy_derivative(softmax_weight(x[f * kBlockRows<T>], most, T(1)), sum, f == of.code);
    return softmax_entropy(wanted, most, sum);
  }

 private:
  static constexpr int64_t kChunk = 64;

  template <class Function>
  static void each_chunk(int64_t first, int64_t last, Function&& f) {
    for (int64_t at = first; at < last; at += kChunk) f(at, std::min(kChunk, last - at));
  }

  void uniform(double* out, int64_t n, uint32_t purpose, uint32_t substream, int64_t step, int64_t offset) const {
    fill_random(out, n, false, {seed_, purpose, substream, uint64_t(step)}, offset);
  }

  const TablePlan& table_;
  const T* data_;
  const int64_t rows_;
  const uint64_t seed_;
};

}  // namespace fastgan::inline FASTGAN_ISA
