// Losses on the CPU: one pass over the logits computes values and derivatives. A plain loop, vectorised by the
// compiler, evaluates a chunk in the L1 cache. Values are summed in double in a fixed order, so the bits do not depend
// on the number of threads.
#include <algorithm>
#include <array>
#include <memory>

#include "../dtypes.h"
#include "dispatch.h"
#include "loss.h"
#include "parallel.h"
#include "team_choice.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

template <class F, class T, int order>
void derivative(const T* __restrict logits, int n, T target, T* __restrict out) {
  for (int i = 0; i < n; ++i) {
    if constexpr (order == 0) out[i] = F::value(logits[i], target);
    if constexpr (order == 1) out[i] = F::derivative(logits[i], target);
    if constexpr (order == 2) out[i] = F::second_derivative(logits[i], target);
  }
}

template <class F, class T>
void value_and_grad(const T* __restrict logits, int n, T target, T scale, T* __restrict values, T* __restrict grad) {
  for (int i = 0; i < n; ++i) {
    values[i] = F::value(logits[i], target);
    grad[i] = scale * F::derivative(logits[i], target);
  }
}

constexpr int kChunk = 256;      // elements evaluated at a time
constexpr int64_t kTask = 8192;  // elements summed by one task, which the order of sums depends on
constexpr int kLanes = 16;
constexpr int64_t kParallelThreshold = 4 * kTask;  // elements from which on threads are faster

// What the time of an element depends on has a choice of its own. `what`: the order of a derivative; kSum, or kSum + 1
// with gradients, for a sum.
constexpr int kSum = 3;
TeamChoice& choice_of(int dtype, int formula, int what) {
  static constinit TeamChoice choices[4][kFormulas][kSum + 2];
  return choices[dtype][formula][what];
}

// The logits of a chunk in the type of the computation: the tensor itself, or a converted copy for half precision.
template <class S>
const Compute<S>* widen(const S* x, int n, Compute<S>* buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = load(x[i]);
  return buffer;
}
inline const float* widen(const float* x, int, float*) { return x; }
inline const double* widen(const double* x, int, double*) { return x; }

// The sum of the values of a task, in a fixed order: 16 lanes in double, then a tree.
template <class S>
double sum_task(const LossTerm& term, int64_t first, int64_t n) {
  using T = Compute<S>;
  const ChunkLoops<T>& loops = Loops<T>::by_formula[term.formula];
  const S* x = static_cast<const S*>(term.logits) + first;
  T* grad = term.grad ? static_cast<T*>(term.grad) + first : nullptr;
  alignas(64) T wide[kChunk], values[kChunk];
  alignas(64) double lanes[kLanes] = {};
  for (int64_t start = 0; start < n; start += kChunk) {
    const int count = int(std::min<int64_t>(kChunk, n - start));
    const T* logits = widen(x + start, count, wide);
    if (grad)
      loops.value_and_grad(logits, count, T(term.target), T(term.scale), values, grad + start);
    else
      loops.derivative[0](logits, count, T(term.target), values);
    const int padded = (count + kLanes - 1) / kLanes * kLanes;
    std::fill(values + count, values + padded, T(0));
    for (int i = 0; i < padded; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += double(values[i + j]);
  }
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

template <class S>
void pointwise_of(const S* x, S* out, int64_t n, int formula, double target, int order, int threads) {
  using T = Compute<S>;
  const auto loop = Loops<T>::by_formula[formula].derivative[order];
  parallel_for(threads, (n + kTask - 1) / kTask, [&](int64_t task) {
    alignas(64) T wide[kChunk], values[kChunk];
    const int64_t end = std::min((task + 1) * kTask, n);
    for (int64_t start = task * kTask; start < end; start += kChunk) {
      const int count = int(std::min<int64_t>(kChunk, end - start));
      loop(widen(x + start, count, wide), count, T(target), values);
      for (int i = 0; i < count; ++i) store(out[start + i], values[i]);
    }
  });
}

template <class T>
constexpr auto all_loops() {
  std::array<ChunkLoops<T>, kFormulas> found{};
  for (int formula = 0; formula < kFormulas; ++formula)
    with_formula(formula, [&](auto f) {
      using F = decltype(f);
      found[size_t(formula)] = {{derivative<F, T, 0>, derivative<F, T, 1>, derivative<F, T, 2>}, value_and_grad<F, T>};
    });
  return found;
}

}  // namespace

template <>
constinit const std::array<ChunkLoops<float>, kFormulas> Loops<float>::by_formula = all_loops<float>();
template <>
constinit const std::array<ChunkLoops<double>, kFormulas> Loops<double>::by_formula = all_loops<double>();

void pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, int threads) {
  constexpr decltype(&sum_task<float>) of_dtype[] = {sum_task<float>, sum_task<double>, sum_task<Half>,
                                                     sum_task<BFloat16>};
  const int64_t first_of_fake = (real.n + kTask - 1) / kTask;
  const int64_t count = first_of_fake + (fake.n + kTask - 1) / kTask;
  double few[16];
  std::unique_ptr<double[]> many(count > 16 ? new double[size_t(count)] : nullptr);
  double* partial = many ? many.get() : few;
  const auto sum_one = [&](int64_t i) {
    const LossTerm& term = i < first_of_fake ? real : fake;
    const int64_t first = (i < first_of_fake ? i : i - first_of_fake) * kTask;
    partial[i] = of_dtype[dtype](term, first, std::min(kTask, term.n - first));
  };
  const int64_t n = real.n + fake.n;
  choice_of(dtype, real.formula, kSum + (real.grad || fake.grad))
      .run(n < kParallelThreshold ? 1 : threads, n, [&](int chosen) { parallel_for(chosen, count, sum_one); });
  double sum_real = 0.0, sum_fake = 0.0;
  for (int64_t i = 0; i < count; ++i) (i < first_of_fake ? sum_real : sum_fake) += partial[i];
  const double sum = sum_real * real.scale + (fake.n ? sum_fake * fake.scale : 0.0);
  if (DType(dtype) == DType::f64)
    *static_cast<double*>(value) = sum;
  else
    *static_cast<float*>(value) = float(sum);
}

void pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, int threads) {
  choice_of(dtype, formula, order).run(n < kParallelThreshold ? 1 : threads, n, [&](int chosen) {
    with_dtype(dtype, [&](auto storage) {
      using S = decltype(storage);
      pointwise_of(static_cast<const S*>(x), static_cast<S*>(out), n, formula, target, order, chosen);
    });
  });
}

}  // namespace fastgan::inline FASTGAN_ISA
