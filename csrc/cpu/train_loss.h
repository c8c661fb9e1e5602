// Losses of D's logits, their slopes, and the metrics of an iteration. They compute with subnormal numbers, which training
// flushes elsewhere: a loss of 1e-40 is told as that.
#pragma once
#include "float_mode.h"
#include "loss.h"
#include "train_batch.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
class Losses : protected Batches<T> {
 protected:
  using Batches<T>::plan_, Batches<T>::d_, Batches<T>::penalized_, Batches<T>::second_, Batches<T>::shares;

  explicit Losses(const TrainPlan& plan) : Batches<T>(plan) {}

  void place(Arena<T>& arena) {
    Batches<T>::place(arena);
    values_ = arena.take(padded(2 * second_) * d_.outputs());
    if (penalized_) penalties_ = arena.take(second_);
  }

  // Values and slopes of a loss over a section of D's logits; both are scaled like the mean they are part of.
  void slopes(const LossPlan& loss, const Section& section, Share share, double weight) {
    const ChunkLoops<T> loops = find_loops<T>(loss.formula);
    const T scale = T(weight / double(section.rows * d_.outputs()));
    each_logit(section, share, [&](int64_t at, int lanes) {
      loops.value_and_slope(d_.output() + at, lanes, T(loss.target), scale, values_ + at, d_.grad_output() + at);
    });
  }

  template <class Function>
  void each_logit(const Section& section, Share share, Function&& f) {
    const Share mine{std::max(share.first, section.first), std::min(share.last, section.first + section.rows)};
    each_panel<T>(mine, [&](int64_t p, int lane, int lanes) {
      for (int64_t q = 0; q < d_.outputs(); ++q) f((p * d_.outputs() + q) * kPanel<T> + lane, lanes);
    });
  }

  // The loss of the difference (a - b) of two sections, row by row; b gets the opposite slope, or none.
  void paired_slopes(const LossPlan& loss, const Section& a, const Section& b, Share share,
                     double weight, bool slope_of_b) {
    const ChunkLoops<T> loops = find_loops<T>(loss.formula);
    const T scale = T(weight / double(a.rows * d_.outputs()));
    for (const Section* section : {&a, &b})
      each_logit(*section, share, [&](int64_t at, int lanes) {
        for (int j = 0; j < lanes; ++j) {
          const int64_t other = column_of(at + j) + (section == &a ? b.first - a.first : a.first - b.first);
          const T mine = d_.output()[at + j], theirs = d_.output()[place_of(other, at + j)];
          const T difference = section == &a ? mine - theirs : theirs - mine;
          T value, slope;
          loops.value_and_slope(&difference, 1, T(loss.target), scale, &value, &slope);
          values_[at + j] = section == &a ? value : T(0);
          d_.grad_output()[at + j] = section == &a ? slope : slope_of_b ? -slope : T(0);
        }
      });
  }

  int64_t column_of(int64_t at) const { return at / (d_.outputs() * kPanel<T>) * kPanel<T> + at % kPanel<T>; }
  int64_t place_of(int64_t column, int64_t like) const {  // of the same feature
    const int64_t q = like / kPanel<T> % d_.outputs();
    return (column / kPanel<T> * d_.outputs() + q) * kPanel<T> + column % kPanel<T>;
  }

  void slopes_of_d(const Team& team, const Sections& sections, double weight) {
    const ScopedFloatMode mode(FloatMode::exact());
    if (plan_.relativistic) team.barrier();  // logits of one pair may belong to two threads
    for (const Share& share : shares(team, sections)) {
      if (plan_.relativistic) {
        paired_slopes(plan_.real, sections[0], sections[1], share, weight, true);
      } else {
        slopes(plan_.real, sections[0], share, weight);
        slopes(plan_.fake, sections[1], share, weight);
      }
    }
  }

  // Beside the fakes there may be real rows: there G's loss has no slope.
  void slopes_of_g(const Team& team, const Sections& sections, const Section& fake) {
    const ScopedFloatMode mode(FloatMode::exact());
    if (plan_.relativistic) team.barrier();
    const Section& real = &fake == &sections[0] ? sections[1] : sections[0];
    for (const Share& share : shares(team, sections)) {
      if (plan_.relativistic) {
        paired_slopes(plan_.generated, fake, real, share, 1.0, false);
        continue;
      }
      slopes(plan_.generated, fake, share, 1.0);
      if (sections.size() > 1)
        each_logit(real, share, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(0)); });
    }
  }

  double mean_value(const Section& section) {
    double sum = 0;
    each_logit(section, {0, INT64_MAX}, [&](int64_t at, int lanes) {
      for (int j = 0; j < lanes; ++j) sum += double(values_[at + j]);
    });
    return sum / double(section.rows * d_.outputs());
  }

  // Of D's step: all metrics but G's loss. Gives the loss.
  double record_d(double* metrics, const Sections& sections, double weight = 1.0) {
    const ScopedFloatMode mode(FloatMode::exact());
    double loss = 0;
    for (int i = 0; i < 2; ++i) {
      const Section& section = sections[size_t(i)];
      loss += mean_value(section);
      double probability = 0, right = 0;
      each_logit(section, {0, INT64_MAX}, [&](int64_t at, int lanes) {
        for (int j = 0; j < lanes; ++j) {
          const T l = d_.output()[at + j];
          probability += double(sigmoid(l));
          right += double(i == 0 ? l > T(0) : l < T(0));  // a NaN is neither
        }
      });
      metrics[2 + i] = probability / double(section.rows * d_.outputs());
      metrics[4 + i] = right / double(section.rows * d_.outputs());
    }
    metrics[0] = weight * loss;
    if (penalized_)
      for (int64_t i = 0; i < plan_.batch; ++i) metrics[0] += double(penalties_[i]);
    return metrics[0];
  }

  double record_g(double* metrics, const Section& fake) {
    const ScopedFloatMode mode(FloatMode::exact());
    return metrics[1] = mean_value(fake);
  }

  T *values_ = nullptr, *penalties_ = nullptr;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
