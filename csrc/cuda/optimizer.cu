// Optimiser steps on CUDA, for many parameters in one launch: the kernel's arguments hold their addresses. Each block
// computes the rule's constants of the step from the step counter, so that a captured launch is right at every replay.
#include <new>

#include "../dtypes.h"
#include "../optimizer.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int64_t kBlockElements = 4096;  // elements a block updates
constexpr int kMost = 64;                 // parameters a launch: 3 KB of the 4 KB that arguments may take

// ---------------------------------------------------------------- rules: optimizer.h has the optimisers'

template <class T>
struct Copy {
  FASTGAN_HD void operator()(T& to, T&, T&, T from) const { to = from; }
};

// A recipe computes a rule on the device.
template <class RuleOf>
struct Constant {
  RuleOf rule;
  __device__ RuleOf get() const { return rule; }
};

template <class T>
struct Scheduled {
  UpdatePlan plan;
  __device__ DeviceRule<T> get() const {
    const int64_t update = plan.update.get();
    return DeviceRule<T>(plan.optimizer, plan.rates[update % plan.rate_count],
                         plan.momenta[update % plan.momentum_count],
                         update + 1 - plan.update.counter->skipped[plan.player]);
  }
};

// Storage for a rule in shared memory, where constructors do not run.
template <class RuleOf>
struct RuleStorage {
  alignas(RuleOf) unsigned char bytes[sizeof(RuleOf)];
};

// Whether a launch has an effect: always, or if the current update is not finite.
__device__ bool is_active(Predicate predicate, const StepCounter* counter) {
  return predicate == Predicate::always || counter->bad != 0;
}

// ---------------------------------------------------------------- kernels

template <class T>
struct Parameter {
  T *p, *s0, *s1;  // states: null where the rule keeps none
  const T* g;
  int64_t n;
  int first_block;
  bool aligned;
};

template <class T>
struct Batch {
  Parameter<T> parameters[kMost];
  int count;
};

template <class T>
__device__ const Parameter<T>& mine(const Batch<T>& batch) {
  int which = 0;
  while (which + 1 < batch.count && int(blockIdx.x) >= batch.parameters[which + 1].first_block) ++which;
  return batch.parameters[which];
}

// The elements of a parameter that this block has, from `first` on.
template <class T>
__device__ int64_t first_of(const Parameter<T>& m) {
  return (int(blockIdx.x) - m.first_block) * kBlockElements;
}
template <class T>
__device__ int64_t end_of(const Parameter<T>& m, int64_t first) {
  return first + kBlockElements < m.n ? first + kBlockElements : m.n;
}

template <class T, class RuleOf>
__device__ void update_one(const Parameter<T>& m, int64_t i, const RuleOf& rule) {
  T unused[2] = {};
  rule(m.p[i], m.s0 ? m.s0[i] : unused[0], m.s1 ? m.s1[i] : unused[1], m.g[i]);
}

template <class T, class RuleOf>
__device__ void update_pack(const Parameter<T>& m, int64_t pack, const RuleOf& rule) {
  using P = Pack<T>;
  P p = reinterpret_cast<P*>(m.p)[pack], s0{}, s1{};
  const P g = reinterpret_cast<const P*>(m.g)[pack];
  if (m.s0) s0 = reinterpret_cast<P*>(m.s0)[pack];
  if (m.s1) s1 = reinterpret_cast<P*>(m.s1)[pack];
#pragma unroll
  for (int j = 0; j < int(16 / sizeof(T)); ++j) rule(p.at[j], s0.at[j], s1.at[j], g.at[j]);
  reinterpret_cast<P*>(m.p)[pack] = p;
  if (m.s0) reinterpret_cast<P*>(m.s0)[pack] = s0;
  if (m.s1) reinterpret_cast<P*>(m.s1)[pack] = s1;
}

template <class T, class Recipe>
__global__ void __launch_bounds__(kThreads)
    update(const __grid_constant__ Batch<T> batch, const __grid_constant__ Recipe recipe, Predicate predicate,
           const StepCounter* counter) {
  using RuleOf = decltype(recipe.get());
  FASTGAN_SHARED(shared, RuleStorage<RuleOf>);
  if (!is_active(predicate, counter)) return;
  if (threadIdx.x == 0) new (shared.bytes) RuleOf(recipe.get());  // powers in double: once a block
  __syncthreads();
  const RuleOf rule = *reinterpret_cast<const RuleOf*>(shared.bytes);
  const Parameter<T>& m = mine(batch);
  const int64_t first = first_of(m), last = end_of(m, first);
  constexpr int size = 16 / int(sizeof(T));
  int64_t done = first;
  if (m.aligned) {
    for (int64_t pack = first / size + threadIdx.x; (pack + 1) * size <= last; pack += kThreads)
      update_pack(m, pack, rule);
    done = last / size * size;
  }
  for (int64_t i = done + threadIdx.x; i < last; i += kThreads) update_one(m, i, rule);
}

// Sets the step counter's flag if a sum of losses is not finite, or if g is not finite although p (or no p) was.
template <class T>
__global__ void __launch_bounds__(kThreads) inspect(const __grid_constant__ Batch<T> batch, const double* sums,
                                                    int64_t count, int64_t stride, StepCounter* counter) {
  bool bad = false;
  if (batch.count > 0) {
    const Parameter<T>& m = mine(batch);
    const int64_t first = first_of(m), last = end_of(m, first);
    for (int64_t i = first + threadIdx.x; i < last; i += kThreads)
      bad |= m.g[i] * T(0) != T(0) && (!m.p || m.p[i] * T(0) == T(0));
  }
  if (blockIdx.x == 0)
    for (int64_t i = threadIdx.x; i < count; i += kThreads) bad |= sums[i * stride] * 0.0 != 0.0;
  if (bad) atomicExch(&counter->bad, 1);
}

// After the updates of one player, or of both.
__global__ void __launch_bounds__(kThreads) count_skipped(StepCounter* counter, bool generator, bool discriminator) {
  if (threadIdx.x > 0 || !counter->bad) return;
  counter->skipped[0] += generator;
  counter->skipped[1] += discriminator;
  counter->bad = 0;
}

// Scales down rows whose norm exceeds the limit; one warp for each row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    bound_norms(T* __restrict__ weight, int64_t rows, int64_t inputs, double limit) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    T* w = weight + row * inputs;
    double square = 0.0;
    for (int64_t i = threadIdx.x % 32; i < inputs; i += 32) square += double(w[i]) * double(w[i]);
    square = warp_sum(square);
    const T scale = T(bounding(square, limit));
    if (scale == T(1)) continue;
    for (int64_t i = threadIdx.x % 32; i < inputs; i += 32) w[i] *= scale;
  }
}

// ---------------------------------------------------------------- launchers

template <class T>
int add(Batch<T>& batch, const ParameterUpdate& u, int first_block) {
  const bool aligned = is_aligned(u.value) && is_aligned(u.state0) && is_aligned(u.state1) && is_aligned(u.grad);
  batch.parameters[batch.count++] = {static_cast<T*>(u.value),
                                     static_cast<T*>(u.state0),
                                     static_cast<T*>(u.state1),
                                     static_cast<const T*>(u.grad),
                                     u.n,
                                     first_block,
                                     aligned};
  return first_block + int((u.n + kBlockElements - 1) / kBlockElements);
}

// Calls f(batch, blocks) for as many parameters at a time as a launch takes.
template <class T, class Function>
void each_batch(const std::vector<ParameterUpdate>& parameters, Function&& f) {
  Batch<T> batch{};
  int blocks = 0;
  const auto flush = [&] {
    if (blocks > 0) f(batch, blocks);
    batch.count = blocks = 0;
  };
  for (const ParameterUpdate& u : parameters) {
    if (u.n > 0) blocks = add(batch, u, blocks);
    if (batch.count == kMost) flush();
  }
  flush();
}

template <class T, class Recipe>
void update_all(const Recipe& recipe, Predicate predicate, const StepCounter* counter,
                const std::vector<ParameterUpdate>& parameters, void* stream) {
  each_batch<T>(parameters, [&](const Batch<T>& batch, int blocks) {
    launch("optimizer", update<T, Recipe>, blocks, stream, batch, recipe, predicate, counter);
  });
}

template <class T>
void scheduled_update(const UpdatePlan& plan, const std::vector<ParameterUpdate>& parameters, void* stream) {
  update_all<T>(Scheduled<T>{plan}, Predicate::always, nullptr, parameters, stream);
}

template <class T>
void inspect_all(StepCounter* counter, const double* sums, int64_t count, int64_t stride,
                 const std::vector<ParameterUpdate>& parameters, void* stream) {
  each_batch<T>(parameters, [&](const Batch<T>& batch, int blocks) {
    launch("inspect", inspect<T>, blocks, stream, batch, sums, count, stride, counter);
    count = 0;
  });
  if (count > 0) launch("inspect", inspect<T>, 1, stream, Batch<T>{}, sums, count, stride, counter);
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_update(int dtype, const UpdatePlan& plan, const std::vector<ParameterUpdate>& parameters, void* stream) {
  const auto run = DType(dtype) == DType::f64 ? scheduled_update<double> : scheduled_update<float>;
  run(plan, parameters, stream);
}

void cuda_ema(int dtype, double decay, const std::vector<ParameterUpdate>& parameters, void* stream) {
  if (DType(dtype) == DType::f64)
    update_all<double>(Constant<Ema<double>>{Ema<double>(decay)}, Predicate::always, nullptr, parameters, stream);
  else
    update_all<float>(Constant<Ema<float>>{Ema<float>(decay)}, Predicate::always, nullptr, parameters, stream);
}

void cuda_copy(int dtype, Predicate predicate, const StepCounter* counter,
               const std::vector<ParameterUpdate>& parameters, void* stream) {
  if (DType(dtype) == DType::f64)
    update_all<double>(Constant<Copy<double>>{}, predicate, counter, parameters, stream);
  else
    update_all<float>(Constant<Copy<float>>{}, predicate, counter, parameters, stream);
}

void cuda_inspect(int dtype, StepCounter* counter, const double* sums, int64_t count, int64_t stride,
                  const std::vector<ParameterUpdate>& parameters, void* stream) {
  const auto run = DType(dtype) == DType::f64 ? inspect_all<double> : inspect_all<float>;
  run(counter, sums, count, stride, parameters, stream);
}

void cuda_count_skipped(StepCounter* counter, bool generator, bool discriminator, void* stream) {
  launch("count_skipped", count_skipped, 1, stream, counter, generator, discriminator);
}

void cuda_bound_norms(int dtype, void* weight, int64_t rows, int64_t inputs, double limit, void* stream) {
  if (rows * inputs == 0) return;
  if (DType(dtype) == DType::f64)
    launch("bound_norms", bound_norms<double>, blocks_for(32 * rows), stream, static_cast<double*>(weight), rows,
           inputs, limit);
  else
    launch("bound_norms", bound_norms<float>, blocks_for(32 * rows), stream, static_cast<float*>(weight), rows, inputs,
           limit);
}

}  // namespace fastgan
