// Losses of D's logits, their slopes, and the metrics of an iteration.
#pragma once
#include "train_batch.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
class Losses : protected Batches<T> {
 protected:
  using Batches<T>::plan_, Batches<T>::block_, Batches<T>::d_;

  // `common`: the cluster's scratch memory.
  __device__ Losses(unsigned char* memory, T* common)
      : Batches<T>(memory), bad_(reinterpret_cast<int*>(reinterpret_cast<char*>(common) + plan_.bad)) {}

  struct Point {
    T value, slope;
  };
  FASTGAN_CALLED static Point loss_at(const LossPlan& loss, T logit) {
    Point p{};
    with_formula(loss.formula, [&](auto f) {
      p = {f.value(logit, T(loss.target)), f.slope(logit, T(loss.target))};
    });
    return p;
  }

  // Values and slopes of a loss over a section of D's logits; a slope is scaled like the mean that the loss is.
  FASTGAN_CALLED void slopes(const LossPlan& loss, const Section& section, double weight) const {
    const T scale = T(weight / double(int64_t(plan_.batch) * outputs()));
    const T* logits = d_.output();
    T *values = block_.at(plan_.values), *grad = d_.grad_output();
    each_element(outputs(), section.rows, block_.alone(), [&](int q, int row) {
      const int64_t at = int64_t(q) * d_.net->stride + section.column + row;
      const Point p = loss_at(loss, logits[at]);
      values[at] = p.value;
      grad[at] = p.slope * scale;
    });
  }

  // The loss of the difference (a - b) of two sections, row by row; b gets the opposite slope, or none.
  FASTGAN_CALLED void paired_slopes(const LossPlan& loss, const Section& a, const Section& b, double weight,
                                bool slope_of_b) const {
    const T scale = T(weight / double(int64_t(plan_.batch) * outputs()));
    const T* logits = d_.output();
    T *values = block_.at(plan_.values), *grad = d_.grad_output();
    each_element(outputs(), a.rows, block_.alone(), [&](int q, int row) {
      const int64_t at = int64_t(q) * d_.net->stride + row, of_a = at + a.column, of_b = at + b.column;
      const Point p = loss_at(loss, logits[of_a] - logits[of_b]);
      values[of_a] = p.value, values[of_b] = T(0);
      grad[of_a] = p.slope * scale, grad[of_b] = slope_of_b ? -(p.slope * scale) : T(0);
    });
  }

  __device__ void slopes_of_d(const Sections& sections, double weight) const {
    if (plan_.relativistic) {
      paired_slopes(plan_.real, sections.all[0], sections.all[1], weight, true);
    } else {
      slopes(plan_.real, sections.all[0], weight);
      slopes(plan_.fake, sections.all[1], weight);
    }
    block_.barrier();
  }

  // Beside the fakes there may be real rows: there G's loss has no slope.
  __device__ void slopes_of_g(const Sections& sections, int fake) const {
    const Section& real = sections.all[1 - fake];
    if (plan_.relativistic) {
      paired_slopes(plan_.generated, sections.all[fake], real, 1.0, false);
    } else {
      slopes(plan_.generated, sections.all[fake], 1.0);
      if (sections.count > 1)
        each_element(outputs(), real.rows, block_.alone(), [&](int q, int row) {
          d_.grad_output()[int64_t(q) * d_.net->stride + real.column + row] = T(0);
        });
    }
    block_.barrier();
  }

  __device__ int outputs() const { return d_.last().outputs; }

  // ---------------------------------------------------------------- metrics: the first block's last warp has them

  __device__ bool keeps_records() const { return block_.rank == 0 && int(threadIdx.x) >= kThreads - 32; }

  // The mean over a section of the whole batch of f(logit, value of the loss).
  template <class Function>
  __device__ double mean(const Sections& sections, int section, Function&& f) const {
    const double sum = sum_of_batch<double>(block_, sections, section, [&](int other, int column) {
      const T *logits = block_.at(d_.last().dropped, other) + column, *values = block_.at(plan_.values, other) + column;
      double of_row = 0.0;
      for (int q = 0; q < outputs(); ++q) of_row += f(logits[q * d_.net->stride], values[q * d_.net->stride]);
      return of_row;
    });
    return sum / double(int64_t(plan_.batch) * outputs());
  }

  FASTGAN_CALLED void record_d(int64_t it, const Sections& sections, double weight) const {
    if (!keeps_records()) return;
    double* metrics = plan_.metrics + (it - plan_.first) * kMetrics;
    double loss = 0.0;
    for (int i = 0; i < 2; ++i) {
      loss += mean(sections, i, [](T, T value) { return double(value); });
      const double probability = mean(sections, i, [](T l, T) { return double(sigmoid(l)); });
      const double right = mean(sections, i, [&](T l, T) { return double(i == 0 ? l > T(0) : l < T(0)); });  // a NaN is neither
      if (threadIdx.x % 32 == 0) metrics[2 + i] = probability, metrics[4 + i] = right;
    }
    if (threadIdx.x % 32 == 0) note_loss(metrics[0] = weight * loss);
  }

  FASTGAN_CALLED void record_g(int64_t it, const Sections& sections, int fake) const {
    if (!keeps_records()) return;
    const double loss = mean(sections, fake, [](T, T value) { return double(value); });
    if (threadIdx.x % 32 == 0) note_loss(plan_.metrics[(it - plan_.first) * kMetrics + 1] = loss);
  }

  __device__ void note_loss(double loss) const {
    if (plan_.skip_nonfinite && loss * 0.0 != 0.0) atomicExch(bad_, 1);
  }

  int* bad_;  // a number that is not finite was met
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
