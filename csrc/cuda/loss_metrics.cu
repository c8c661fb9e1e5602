// Losses and metrics of D's logits on CUDA: the gradients at which the backward pass starts, and the sums for the
// history, in double, in two stages of fixed order. The second stage runs at the end of the iteration and increments
// the step counter: no kernel before it needs a loss.
#include <algorithm>

#include "../dtypes.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kSumsPerBlock = 3;  // sums of a block: loss values, probabilities D(x), correct decisions

int64_t blocks_of(int64_t n) { return std::min(kMaxBlocks, (n + 4 * kThreads - 1) / (4 * kThreads)); }

// ---------------------------------------------------------------- kernels

template <class T>
struct LossInputOf {
  const T *logits, *other;  // the loss is one of logits - other, or of logits alone
  T *grad, *grad_of_other;
  int formula;  // below 0: no loss, only the metrics
  T target;
  bool real;
  T threshold;
};

template <class T>
struct LossInputsOf {
  LossInputOf<T> at[2];
};

// Calls f(value, derivative) of a formula's number, the same in all threads.
template <class T>
__device__ void evaluate(int formula, T l, T target, T& value, T& grad) {
  with_formula(formula, [&](auto f) {
    value = decltype(f)::value(l, target);
    grad = decltype(f)::derivative(l, target);
  });
}

// Blocks of the first sub-batch, then as many of the second.
template <class T>
__global__ void __launch_bounds__(kThreads) loss_metrics(const __grid_constant__ LossInputsOf<T> inputs, int64_t n,
                                                         T scale, int blocks, double* __restrict__ partial) {
  const LossInputOf<T>& s = inputs.at[blockIdx.x / unsigned(blocks)];
  const int64_t first = int64_t(blockIdx.x % unsigned(blocks)) * kThreads + threadIdx.x;
  double sums[kSumsPerBlock] = {};
  for (int64_t i = first; i < n; i += int64_t(blocks) * kThreads) {
    const T l = s.logits[i];
    sums[1] += double(sigmoid(l));
    sums[2] += double(s.real ? l > s.threshold : l < s.threshold);  // a NaN is neither
    if (s.formula < 0) continue;
    T value = T(0), grad = T(0);
    evaluate(s.formula, s.other ? l - s.other[i] : l, s.target, value, grad);
    sums[0] += double(value);
    s.grad[i] = scale * grad;
    if (s.grad_of_other) s.grad_of_other[i] = -(scale * grad);
  }
  for (int j = 0; j < kSumsPerBlock; ++j) {
    const double sum = block_sum(sums[j]);
    if (threadIdx.x == 0) partial[int64_t(blockIdx.x) * kSumsPerBlock + j] = sum;
  }
}

// Number `which` of the sums of blocks first .. last.
__device__ double total(const double* partial, int first, int last, int which) {
  double sum = 0.0;
  for (int64_t i = first + int(threadIdx.x); i < last; i += kThreads) sum += partial[i * kSumsPerBlock + which];
  return block_sum(sum);
}

template <class T>
__device__ double sum_of(const T* numbers, int64_t count) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += double(numbers[i]);
  return block_sum(sum);
}

// Writes the metrics of this iteration and increments the step counter.
template <class T>
__global__ void __launch_bounds__(kThreads)
    record(StepCounter* counter, double* __restrict__ metrics, int64_t capacity, const double* d, const double* g,
           int blocks, double n, double weight, const T* __restrict__ penalties, int64_t penalized,
           const T* __restrict__ entropies, int64_t conditions) {
  double row[kMetrics];
  row[0] = weight * total(d, 0, 2 * blocks, 0) / n + sum_of(penalties, penalized);
  row[1] = total(g, 0, blocks, 0) / n;
  if (conditions > 0) row[1] += sum_of(entropies, conditions) / double(conditions);
  for (int i = 0; i < 4; ++i) row[2 + i] = total(d, i % 2 * blocks, (i % 2 + 1) * blocks, 1 + i / 2) / n;
  if (threadIdx.x > 0) return;
  for (int i = 0; i < kMetrics; ++i) metrics[counter->iteration % capacity * kMetrics + i] = row[i];
  ++counter->iteration;
}

// ---------------------------------------------------------------- launchers

template <class T>
LossInputOf<T> typed(const LossInput& s) {
  return {static_cast<const T*>(s.logits),
          static_cast<const T*>(s.other),
          static_cast<T*>(s.grad),
          static_cast<T*>(s.grad_of_other),
          s.formula,
          T(s.target),
          s.real,
          T(s.threshold)};
}

}  // namespace
}  // namespace FASTGAN_ISA

int64_t cuda_loss_metrics_sums(int64_t n) { return blocks_of(n) * kSumsPerBlock; }

void cuda_loss_metrics(int dtype, const std::vector<LossInput>& inputs, int64_t n, double scale, double* sums,
                       void* stream) {
  const int blocks = int(blocks_of(n));
  const auto run = [&](auto type) {
    using T = decltype(type);
    LossInputsOf<T> of{};
    for (size_t i = 0; i < inputs.size(); ++i) of.at[i] = typed<T>(inputs[i]);
    launch("loss_metrics", loss_metrics<T>, blocks * int(inputs.size()), stream, of, n, T(scale), blocks, sums);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_record(int dtype, StepCounter* counter, double* metrics, int64_t capacity, const double* d, const double* g,
                 int64_t n, double weight, const void* penalties, int64_t penalized, const void* entropies,
                 int64_t conditions, void* stream) {
  const int blocks = int(blocks_of(n));
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("record", record<T>, 1, stream, counter, metrics, capacity, d, g, blocks, double(n), weight,
           static_cast<const T*>(penalties), penalized, static_cast<const T*>(entropies), conditions);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
