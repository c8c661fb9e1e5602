// Losses of D's logits, their derivatives, and the metrics of an iteration. Unlike the rest of training, they compute
// with subnormal numbers, so that a loss of 1e-40 is reported.
#pragma once
#include "float_mode.h"
#include "loss.h"
#include "train_batch.h"

namespace fastgan::inline FASTGAN_ISA {

template <class T>
class Losses : protected Batches<T> {
 protected:
  using Batches<T>::plan_, Batches<T>::g_, Batches<T>::d_, Batches<T>::table_, Batches<T>::label_of,
      Batches<T>::penalized_, Batches<T>::second_, Batches<T>::ranges;

  explicit Losses(const TrainPlan& plan) : Batches<T>(plan) {}

  void place(Arena<T>& arena) {
    Batches<T>::place(arena);
    values_ = arena.allocate(padded(2 * second_) * d_.outputs());
    if (has_conditions()) entropies_ = arena.allocate(plan_.batch * plan_.pack);
    if (penalized_ > 0) penalties_ = arena.allocate(penalized_ * second_);
  }

  // Values and gradients of a mean loss over a sub-batch of D's logits; the gradients are scaled by the mean's factor.
  void loss_and_grad(const LossPlan& loss, const SubBatch& sub_batch, ColumnRange range, double weight) {
    const ChunkLoops<T>& loops = Loops<T>::by_formula[loss.formula];
    const T scale = T(weight / double(sub_batch.rows * d_.outputs()));
    each_logit(sub_batch, range, [&](int64_t at, int lanes) {
      loops.value_and_grad(d_.output() + at, lanes, T(loss.target), scale, values_ + at, d_.grad_output() + at);
    });
  }

  template <class Function>
  void each_logit(const SubBatch& sub_batch, ColumnRange range, Function&& f) {
    each_block<T>(sub_batch.columns(range), [&](int64_t p, int lane, int lanes) {
      for (int64_t q = 0; q < d_.outputs(); ++q) f((p * d_.outputs() + q) * kBlockRows<T> + lane, lanes);
    });
  }

  // The loss of the differences a - b of two sub-batches. b gets the negative gradient, or zero.
  void paired_loss_and_grad(const LossPlan& loss, const SubBatch& a, const SubBatch& b, ColumnRange range,
                            double weight, bool b_has_grad) {
    const ChunkLoops<T>& loops = Loops<T>::by_formula[loss.formula];
    const T scale = T(weight / double(a.rows * d_.outputs()));
    for (const SubBatch* sub_batch : {&a, &b})
      each_logit(*sub_batch, range, [&](int64_t at, int lanes) {
        for (int j = 0; j < lanes; ++j) {
          const int64_t other = column_of(at + j) + (sub_batch == &a ? b.first - a.first : a.first - b.first);
          const T mine = d_.output()[at + j], theirs = d_.output()[place_of(other, at + j)];
          const T difference = sub_batch == &a ? mine - theirs : theirs - mine;
          T value, grad;
          loops.value_and_grad(&difference, 1, T(loss.target), scale, &value, &grad);
          values_[at + j] = sub_batch == &a ? value : T(0);
          d_.grad_output()[at + j] = sub_batch == &a ? grad : b_has_grad ? -grad : T(0);
        }
      });
  }

  int64_t column_of(int64_t at) const { return at / (d_.outputs() * kBlockRows<T>)*kBlockRows<T> + at % kBlockRows<T>; }
  int64_t place_of(int64_t column, int64_t like) const {  // of the same feature
    const int64_t q = like / kBlockRows<T> % d_.outputs();
    return (column / kBlockRows<T> * d_.outputs() + q) * kBlockRows<T> + column % kBlockRows<T>;
  }

  void loss_and_grad_of_d(const Team& team, const SubBatches& sub_batches, double weight) {
    const ScopedFloatMode mode(FloatMode::exact());
    for (const ColumnRange& range : ranges(team, sub_batches)) {
      if (plan_.relativistic) {
        paired_loss_and_grad(plan_.real, sub_batches[0], sub_batches[1], range, weight, true);
      } else {
        loss_and_grad(plan_.real, sub_batches[0], range, weight);
        loss_and_grad(plan_.fake, sub_batches[1], range, weight);
      }
    }
  }

  // The batch may also have real rows; the gradient of G's loss there is zero.
  void loss_and_grad_of_g(const Team& team, const SubBatches& sub_batches, const SubBatch& fake) {
    const ScopedFloatMode mode(FloatMode::exact());
    const SubBatch& real = &fake == &sub_batches[0] ? sub_batches[1] : sub_batches[0];
    for (const ColumnRange& range : ranges(team, sub_batches)) {
      if (plan_.relativistic) {
        paired_loss_and_grad(plan_.generated, fake, real, range, 1.0, false);
        continue;
      }
      loss_and_grad(plan_.generated, fake, range, 1.0);
      if (sub_batches.size() > 1)
        each_logit(real, range, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(0)); });
    }
  }

  // Whether G's loss includes the cross-entropy of the conditions.
  bool has_conditions() const { return plan_.table.columns > 0; }

  // The cross-entropy of some rows of G's batch, after backward_heads().
  void cross_entropy(ColumnRange range) {
    const int64_t n = g_.outputs(), rows = plan_.batch * plan_.pack;
    const T scale = T(1.0 / double(rows));
    for (int64_t row = range.first; row < std::min(range.last, rows); ++row) {
      const int64_t at = row / kBlockRows<T> * n * kBlockRows<T> + row % kBlockRows<T>;
      entropies_[row] = table_.cross_entropy(label_of(row), g_.heads_input() + at, g_.grad_output() + at, scale);
    }
  }

  double mean_value(const SubBatch& sub_batch) {
    double sum = 0;
    each_logit(sub_batch, {0, INT64_MAX}, [&](int64_t at, int lanes) {
      for (int j = 0; j < lanes; ++j) sum += double(values_[at + j]);
    });
    return sum / double(sub_batch.rows * d_.outputs());
  }

  // Writes all metrics of D's step except G's loss; returns D's loss.
  double record_d(double* metrics, const SubBatches& sub_batches, double weight = 1.0) {
    const ScopedFloatMode mode(FloatMode::exact());
    const T threshold = T(plan_.threshold);
    double loss = 0;
    for (int i = 0; i < 2; ++i) {
      const SubBatch& sub_batch = sub_batches[size_t(i)];
      double value = 0, probability = 0;
      int64_t right = 0;
      each_logit(sub_batch, {0, INT64_MAX}, [&](int64_t at, int lanes) {
        const T* logits = d_.output() + at;
        T sigmoids[kBlockRows<T>];  // a loop of vectors
        for (int j = 0; j < lanes; ++j) sigmoids[j] = sigmoid(logits[j]);
        for (int j = 0; j < lanes; ++j)
          right += i == 0 ? logits[j] > threshold : logits[j] < threshold;  // a NaN: never
        for (int j = 0; j < lanes; ++j)                                     // neither sum waits for the other
          value += double(values_[at + j]), probability += double(sigmoids[j]);
      });
      const double logits = double(sub_batch.rows * d_.outputs());
      loss += value / logits;
      metrics[2 + i] = probability / logits;
      metrics[4 + i] = double(right) / logits;
    }
    metrics[0] = weight * loss;
    for (int64_t p = 0; p < penalized_; ++p)
      for (int64_t i = 0; i < plan_.batch; ++i) metrics[0] += double(penalties_[p * second_ + i]);
    return metrics[0];
  }

  double record_g(double* metrics, const SubBatch& fake) {
    const ScopedFloatMode mode(FloatMode::exact());
    double entropy = 0;
    const int64_t rows = plan_.batch * plan_.pack;
    if (has_conditions())
      for (int64_t row = 0; row < rows; ++row) entropy += double(entropies_[row]);
    return metrics[1] = mean_value(fake) + entropy / double(rows);
  }

  T *values_ = nullptr, *penalties_ = nullptr, *entropies_ = nullptr;
};

}  // namespace fastgan::inline FASTGAN_ISA
