// Losses of D's logits, their derivatives, and the metrics of an iteration.
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
    T value, derivative;
  };
  FASTGAN_CALLED static Point loss_at(const LossPlan& loss, T logit) {
    Point p{};
    with_formula(loss.formula,
                 [&](auto f) { p = {f.value(logit, T(loss.target)), f.derivative(logit, T(loss.target))}; });
    return p;
  }

  // Values and gradients of a mean loss over a sub-batch of D's logits; the gradients are scaled by the mean's factor.
  FASTGAN_CALLED void loss_and_grad(const LossPlan& loss, const SubBatch& sub_batch, double weight) const {
    const T scale = T(weight / double(int64_t(plan_.batch) * outputs()));
    const T* logits = d_.output();
    T *values = block_.at(plan_.values), *grad = d_.grad_output();
    each_element(outputs(), sub_batch.rows, block_.alone(), [&](int q, int row) {
      const int64_t at = int64_t(q) * d_.net->stride + sub_batch.column + row;
      const Point p = loss_at(loss, logits[at]);
      values[at] = p.value;
      grad[at] = p.derivative * scale;
    });
  }

  // The loss of the difference (a - b) of two sub-batches, row by row; b gets the negative gradient, or none.
  FASTGAN_CALLED void paired_loss_and_grad(const LossPlan& loss, const SubBatch& a, const SubBatch& b, double weight,
                                           bool b_has_grad) const {
    const T scale = T(weight / double(int64_t(plan_.batch) * outputs()));
    const T* logits = d_.output();
    T *values = block_.at(plan_.values), *grad = d_.grad_output();
    each_element(outputs(), a.rows, block_.alone(), [&](int q, int row) {
      const int64_t at = int64_t(q) * d_.net->stride + row, of_a = at + a.column, of_b = at + b.column;
      const Point p = loss_at(loss, logits[of_a] - logits[of_b]);
      values[of_a] = p.value, values[of_b] = T(0);
      grad[of_a] = p.derivative * scale, grad[of_b] = b_has_grad ? -(p.derivative * scale) : T(0);
    });
  }

  __device__ void loss_and_grad_of_d(const SubBatches& sub_batches, double weight) const {
    if (plan_.relativistic) {
      paired_loss_and_grad(plan_.real, sub_batches.all[0], sub_batches.all[1], weight, true);
    } else {
      loss_and_grad(plan_.real, sub_batches.all[0], weight);
      loss_and_grad(plan_.fake, sub_batches.all[1], weight);
    }
    block_.barrier();
  }

  // The batch may also have real rows; the gradient of G's loss there is zero.
  __device__ void loss_and_grad_of_g(const SubBatches& sub_batches, int fake) const {
    const SubBatch& real = sub_batches.all[1 - fake];
    if (plan_.relativistic) {
      paired_loss_and_grad(plan_.generated, sub_batches.all[fake], real, 1.0, false);
    } else {
      loss_and_grad(plan_.generated, sub_batches.all[fake], 1.0);
      if (sub_batches.count > 1)
        each_element(outputs(), real.rows, block_.alone(),
                     [&](int q, int row) { d_.grad_output()[int64_t(q) * d_.net->stride + real.column + row] = T(0); });
    }
    block_.barrier();
  }

  __device__ int outputs() const { return d_.last().outputs; }

  // ---------------------------------------------------------------- metrics: the first block's last warp computes them

  __device__ bool keeps_records() const { return block_.rank == 0 && int(threadIdx.x) >= kThreads - 32; }

  // The mean over a sub-batch of the whole batch of f(logit, value of the loss).
  template <class Function>
  __device__ double mean(const SubBatches& sub_batches, int sub_batch, Function&& f) const {
    const double sum = sum_of_batch<double>(block_, sub_batches, sub_batch, [&](int other, int column) {
      const T *logits = block_.at(d_.last().dropped, other) + column, *values = block_.at(plan_.values, other) + column;
      double of_row = 0.0;
      for (int q = 0; q < outputs(); ++q) of_row += f(logits[q * d_.net->stride], values[q * d_.net->stride]);
      return of_row;
    });
    return sum / double(int64_t(plan_.batch) * outputs());
  }

  FASTGAN_CALLED void record_d(int64_t it, const SubBatches& sub_batches, double weight) const {
    if (!keeps_records()) return;
    double* metrics = plan_.metrics + (it - plan_.first) * kMetrics;
    const T threshold = T(plan_.threshold);
    double loss = 0.0;
    for (int i = 0; i < 2; ++i) {
      loss += mean(sub_batches, i, [](T, T value) { return double(value); });
      const double probability = mean(sub_batches, i, [](T l, T) { return double(sigmoid(l)); });
      const double right = mean(sub_batches, i, [&](T l, T) {
        return double(i == 0 ? l > threshold : l < threshold);  // a NaN is neither
      });
      if (threadIdx.x % 32 == 0) metrics[2 + i] = probability, metrics[4 + i] = right;
    }
    if (threadIdx.x % 32 == 0) check_finite(metrics[0] = weight * loss);
  }

  FASTGAN_CALLED void record_g(int64_t it, const SubBatches& sub_batches, int fake) const {
    if (!keeps_records()) return;
    const double loss = mean(sub_batches, fake, [](T, T value) { return double(value); });
    if (threadIdx.x % 32 == 0) check_finite(plan_.metrics[(it - plan_.first) * kMetrics + 1] = loss);
  }

  __device__ void check_finite(double loss) const {
    if (plan_.skip_nonfinite && loss * 0.0 != 0.0) atomicExch(bad_, 1);
  }

  int* bad_;  // set if a number is not finite
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
