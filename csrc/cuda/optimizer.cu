// One step of an optimiser on CUDA, many parameters a launch: their addresses travel in the kernel's arguments.
#include "../dtypes.h"
#include "../optimizer.h"
#include "device.cuh"
#include "kernels.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int64_t kRun = 4096;  // elements a block updates
constexpr int kMost = 64;       // parameters a launch: 3 KB of the 4 KB that arguments may take

// ---------------------------------------------------------------- kernels

template <class T>
struct Member {
  T *p, *s0, *s1;  // s1: null where the rule keeps one state
  const T* g;
  int64_t n;
  int first_block;
  bool aligned;
};

template <class T>
struct Batch {
  Member<T> members[kMost];
  int count;
};

template <class T, class RuleOf>
__device__ void update_one(const Member<T>& m, int64_t i, const RuleOf& rule) {
  T unused = T(0);
  rule(m.p[i], m.s0[i], m.s1 ? m.s1[i] : unused, m.g[i]);
}

template <class T, class RuleOf>
__device__ void update_pack(const Member<T>& m, int64_t pack, const RuleOf& rule) {
  using P = Pack<T>;
  P p = reinterpret_cast<P*>(m.p)[pack], s0 = reinterpret_cast<P*>(m.s0)[pack], s1{};
  const P g = reinterpret_cast<const P*>(m.g)[pack];
  if (m.s1) s1 = reinterpret_cast<P*>(m.s1)[pack];
#pragma unroll
  for (int j = 0; j < int(16 / sizeof(T)); ++j) rule(p.at[j], s0.at[j], s1.at[j], g.at[j]);
  reinterpret_cast<P*>(m.p)[pack] = p;
  reinterpret_cast<P*>(m.s0)[pack] = s0;
  if (m.s1) reinterpret_cast<P*>(m.s1)[pack] = s1;
}

template <class T, class RuleOf>
__global__ void __launch_bounds__(kThreads) update(const __grid_constant__ Batch<T> batch, RuleOf rule) {
  int which = 0;
  while (which + 1 < batch.count && int(blockIdx.x) >= batch.members[which + 1].first_block) ++which;
  const Member<T>& m = batch.members[which];
  const int64_t first = (int(blockIdx.x) - m.first_block) * kRun, last = first + kRun < m.n ? first + kRun : m.n;
  constexpr int size = 16 / int(sizeof(T));
  int64_t done = first;
  if (m.aligned) {
    for (int64_t pack = first / size + threadIdx.x; (pack + 1) * size <= last; pack += kThreads)
      update_pack(m, pack, rule);
    done = last / size * size;
  }
  for (int64_t i = done + threadIdx.x; i < last; i += kThreads) update_one(m, i, rule);
}

// ---------------------------------------------------------------- launchers

template <class T>
int add(Batch<T>& batch, const ParameterUpdate& u, int first_block) {
  const bool aligned = is_aligned(u.value) && is_aligned(u.state0) && is_aligned(u.state1) && is_aligned(u.grad);
  batch.members[batch.count++] = {static_cast<T*>(u.value),       static_cast<T*>(u.state0), static_cast<T*>(u.state1),
                                  static_cast<const T*>(u.grad), u.n, first_block, aligned};
  return first_block + int((u.n + kRun - 1) / kRun);
}

template <class T>
void update_all(const OptimizerPlan& plan, double rate, double momentum, int64_t step,
                const std::vector<ParameterUpdate>& parameters, void* stream) {
  with_rule<T>(plan, rate, momentum, step, [&](auto rule) {
    Batch<T> batch{};
    int blocks = 0;
    const auto flush = [&] {
      if (blocks > 0) launch("optimizer", update<T, decltype(rule)>, blocks, stream, batch, rule);
      batch.count = blocks = 0;
    };
    for (const ParameterUpdate& u : parameters) {
      if (u.n > 0) blocks = add(batch, u, blocks);
      if (batch.count == kMost) flush();
    }
    flush();
  });
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_update(int dtype, const OptimizerPlan& plan, double rate, double momentum, int64_t step,
                 const std::vector<ParameterUpdate>& parameters, void* stream) {
  const auto run = DType(dtype) == DType::f64 ? update_all<double> : update_all<float>;
  run(plan, rate, momentum, step, parameters, stream);
}

}  // namespace fastgan
