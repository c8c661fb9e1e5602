// The heads of a network: a function of each group of its outputs (Xu et al., 2019, section 4.4). Blocked layout.
#pragma once
#include "network.h"
#include "philox_vectors.h"

namespace fastgan::inline FASTGAN_ISA {

// x += Gumbel noise, for the outputs of a head, in some lanes of a block. Four neighbouring outputs share a random
// block, as in a dropout mask.
template <class T>
void add_gumbel(T* x, const HeadPlan& head, int64_t features, int64_t row, int lanes, uint64_t seed) {
  const Stream stream{seed, purpose::gumbel, 0, 0};
  const int64_t quads = (features + 3) / 4, last = head.first + head.width;
  for (int64_t q = head.first / 4; 4 * q < last; ++q) {
    uint32_t words[4][kBlockRows<T>];
    blocks<kBlockRows<T>>(stream, uint64_t(row * quads + q), uint64_t(quads), words);
    for (int64_t f = std::max(4 * q, head.first); f < std::min(4 * q + 4, last); ++f)
      for (int j = 0; j < lanes; ++j) x[f * kBlockRows<T> + j] += gumbel<T>(words[f % 4][j]);
  }
}

// Softmax in place. Infinite values have equal probabilities; a NaN makes its group NaN.
template <class T>
void softmax(T* x, int64_t width, int lanes, T inverse_temperature) {
  T most[kBlockRows<T>], sum[kBlockRows<T>] = {};
  std::copy_n(x, lanes, most);
  for (int64_t f = 1; f < width; ++f)
    for (int j = 0; j < lanes; ++j) most[j] = larger(x[f * kBlockRows<T> + j], most[j]);
  for (int64_t f = 0; f < width; ++f)
    for (int j = 0; j < lanes; ++j) {
      T& v = x[f * kBlockRows<T> + j];
      v = softmax_weight(v, most[j], inverse_temperature);
      sum[j] += v;
    }
  for (int64_t f = 0; f < width; ++f)
    for (int j = 0; j < lanes; ++j) x[f * kBlockRows<T> + j] /= sum[j];
}

// out = heads(in), for the columns of a sub-batch in a column range.
template <class T>
void apply_heads(const NetworkPlan& plan, const T* in, T* out, ColumnRange range, const SubBatch& sub_batch) {
  const int64_t features = plan.layers.back().outputs;
  each_block<T>(sub_batch.columns(range), [&](int64_t p, int lane, int lanes) {
    const int64_t at = p * features * kBlockRows<T> + lane, row = p * kBlockRows<T> + lane - sub_batch.first;
    for (const HeadPlan& head : plan.heads) {
      T* x = out + at + head.first * kBlockRows<T>;
      for (int64_t f = head.first; f < head.first + head.width; ++f)
        std::copy_n(in + at + f * kBlockRows<T>, lanes, out + at + f * kBlockRows<T>);
      if (head.kind == Head::tanh)
        for (int64_t f = 0; f < head.width; ++f)
          for (int j = 0; j < lanes; ++j) x[f * kBlockRows<T> + j] = Tanh::value(x[f * kBlockRows<T> + j], T(0));
      if (head.kind == Head::gumbel_softmax)
        add_gumbel(out + at, head, features, row, lanes, sub_batch.dropout_seeds[plan.heads_seed_index]);
      if (head.kind == Head::softmax) softmax(x, head.width, lanes, T(1));
      if (head.kind == Head::gumbel_softmax) softmax(x, head.width, lanes, T(1 / plan.temperature));
    }
  });
}

// The gradient of the heads' inputs from that of the outputs, in place.
template <class T>
void heads_backward(const NetworkPlan& plan, const T* out, T* grad, ColumnRange range) {
  const int64_t features = plan.layers.back().outputs;
  each_block<T>(range, [&](int64_t p, int lane, int lanes) {
    for (const HeadPlan& head : plan.heads) {
      const int64_t at = (p * features + head.first) * kBlockRows<T> + lane, end = at + head.width * kBlockRows<T>;
      if (head.kind == Head::none) continue;
      if (head.kind == Head::tanh) {
        for (int64_t f = at; f < end; f += kBlockRows<T>)
          for (int j = 0; j < lanes; ++j) grad[f + j] *= Tanh::derivative(out[f + j], T(0));
        continue;
      }
      const T scale = head.kind == Head::softmax ? T(1) : T(1 / plan.temperature);
      T mean[kBlockRows<T>] = {};  // of the gradient, weighted by the probabilities
      for (int64_t f = at; f < end; f += kBlockRows<T>)
        for (int j = 0; j < lanes; ++j) mean[j] += out[f + j] * grad[f + j];
      for (int64_t f = at; f < end; f += kBlockRows<T>)
        for (int j = 0; j < lanes; ++j) grad[f + j] = softmax_backward(out[f + j], grad[f + j], mean[j], scale);
    }
  });
}

}  // namespace fastgan::inline FASTGAN_ISA
