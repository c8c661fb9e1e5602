// Losses on the CPU: one pass over the logits gives value and slope. A chunk that fits in the first cache is evaluated by a
// plain loop the compiler vectorises, then summed in double in a fixed order: any number of threads gives the same bits.
#include <algorithm>
#include <memory>

#include "../dtypes.h"
#include "kernels.h"
#include "parallel.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kChunk = 256;      // elements evaluated at a time
constexpr int64_t kTask = 8192;  // elements summed by one thread: the unit of the fixed order
constexpr int kLanes = 16;

// The logits of a chunk in the type they are computed in: the tensor itself, or a converted copy for halves.
template <class S>
const Compute<S>* widen(const S* x, int n, Compute<S>* buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = load(x[i]);
  return buffer;
}
inline const float* widen(const float* x, int, float*) { return x; }
inline const double* widen(const double* x, int, double*) { return x; }

template <class F, class S>
double sum_task(const S* x, int64_t n, Compute<S> target, Compute<S> scale, Compute<S>* slope) {
  using T = Compute<S>;
  alignas(64) T wide[kChunk], values[kChunk];
  alignas(64) double lanes[kLanes] = {};
  for (int64_t start = 0; start < n; start += kChunk) {
    const int count = int(std::min<int64_t>(kChunk, n - start));
    const T* __restrict l = widen(x + start, count, wide);
    if (slope) {
      T* __restrict g = slope + start;
      for (int i = 0; i < count; ++i) {
        values[i] = F::value(l[i], target);
        g[i] = scale * F::slope(l[i], target);
      }
    } else {
      for (int i = 0; i < count; ++i) values[i] = F::value(l[i], target);
    }
    const int padded = (count + kLanes - 1) / kLanes * kLanes;
    for (int i = count; i < padded; ++i) values[i] = T(0);
    for (int i = 0; i < padded; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += double(values[i + j]);
  }
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

using SumTask = double (*)(const void* x, int64_t first, int64_t n, double target, double scale, void* slope);

template <class F, class S>
double sum_task_erased(const void* x, int64_t first, int64_t n, double target, double scale, void* slope) {
  using T = Compute<S>;
  T* g = slope ? static_cast<T*>(slope) + first : nullptr;
  return sum_task<F, S>(static_cast<const S*>(x) + first, n, T(target), T(scale), g);
}

SumTask find_sum_task(int dtype, int formula) {
  SumTask found = nullptr;
  with_dtype(dtype, [&](auto storage) {
    with_formula(formula, [&](auto f) { found = sum_task_erased<decltype(f), decltype(storage)>; });
  });
  return found;
}

template <class F, class S, int order>
void evaluate(const S* x, S* out, int64_t n, Compute<S> target) {
  using T = Compute<S>;
  alignas(64) T wide[kChunk], values[kChunk];
  for (int64_t start = 0; start < n; start += kChunk) {
    const int count = int(std::min<int64_t>(kChunk, n - start));
    const T* __restrict l = widen(x + start, count, wide);
    for (int i = 0; i < count; ++i) {
      if constexpr (order == 0) values[i] = F::value(l[i], target);
      if constexpr (order == 1) values[i] = F::slope(l[i], target);
      if constexpr (order == 2) values[i] = F::curvature(l[i], target);
    }
    for (int i = 0; i < count; ++i) store(out[start + i], values[i]);
  }
}

}  // namespace

void pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, int threads) {
  const SumTask tasks[2] = {find_sum_task(dtype, real.formula), find_sum_task(dtype, fake.formula)};
  const LossTerm* terms[2] = {&real, &fake};
  const int64_t first_of_fake = (real.n + kTask - 1) / kTask;
  const int64_t count = first_of_fake + (fake.n + kTask - 1) / kTask;
  double few[16];
  std::unique_ptr<double[]> many(count > 16 ? new double[size_t(count)] : nullptr);
  double* partial = many ? many.get() : few;
  parallel_for(threads, count, [&](int64_t i) {
    const int which = i >= first_of_fake;
    const LossTerm& term = *terms[which];
    const int64_t first = (i - (which ? first_of_fake : 0)) * kTask;
    partial[i] =
        tasks[which](term.logits, first, std::min(kTask, term.n - first), term.target, term.scale, term.slope);
  });
  double sums[2] = {0.0, 0.0};
  for (int64_t i = 0; i < count; ++i) sums[i >= first_of_fake] += partial[i];
  const double total = sums[0] * real.scale + (fake.n ? sums[1] * fake.scale : 0.0);
  if (DType(dtype) == DType::f64)
    *static_cast<double*>(value) = total;
  else
    *static_cast<float*>(value) = float(total);
}

void pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, int threads) {
  with_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    with_formula(formula, [&](auto f) {
      using F = decltype(f);
      const auto run = order == 0 ? evaluate<F, S, 0> : order == 1 ? evaluate<F, S, 1> : evaluate<F, S, 2>;
      parallel_for(threads, (n + kTask - 1) / kTask, [&](int64_t i) {
        const int64_t first = i * kTask;
        run(static_cast<const S*>(x) + first, static_cast<S*>(out) + first, std::min(kTask, n - first),
            Compute<S>(target));
      });
    });
  });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
