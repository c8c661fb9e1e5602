// The heads of a network on CUDA: a function of each group of its outputs (Xu et al., 2019, section 4.4). A warp
// computes a head of a row. Each lane has the same features in all passes over them, so that it reads only what it
// wrote itself.
#include "../dtypes.h"
#include "../philox.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// Calls f(row, head) for each head of each row.
template <class Function>
__device__ void each_head(const HeadsPass& pass, Function&& f) {
  for (int64_t i = global_thread() / 32; i < pass.rows * pass.count; i += grid_threads() / 32)
    f(i / pass.count, pass.heads[i % pass.count]);
}

// Calls f(feature) for a lane's features of a head.
template <class Function>
__device__ void each_feature(const HeadPlan& head, Function&& f) {
  for (int64_t i = threadIdx.x % 32; i < head.width; i += 32) f(head.first + i);
}

template <class T>
__global__ void __launch_bounds__(kThreads) apply_heads(HeadsPass pass, const T* __restrict__ in, T* __restrict__ out) {
  const Stream stream{pass.seed.get(0), purpose::gumbel, 0, 0};
  const int64_t quads = (pass.features + 3) / 4;
  each_head(pass, [&](int64_t row, const HeadPlan& head) {
    const T* x = in + row * pass.features;
    T* y = out + row * pass.features;
    if (head.kind == Head::none || head.kind == Head::tanh) {
      each_feature(head, [&](int64_t f) { y[f] = head.kind == Head::none ? x[f] : Tanh::value(x[f], T(0)); });
      return;
    }
    const bool noisy = head.kind == Head::gumbel_softmax;
    const T inverse_temperature = noisy ? T(1 / pass.temperature) : T(1);
    T largest_of_lane = -infinity<T>(), sum = T(0);
    each_feature(head, [&](int64_t f) {  // four neighbours share a random block, as in a dropout mask
      y[f] = noisy ? x[f] + gumbel<T>(stream.block(uint64_t(row * quads + f / 4)).w[f % 4]) : x[f];
      largest_of_lane = larger(y[f], largest_of_lane);
    });
    const T largest = warp_largest(largest_of_lane);
    each_feature(head, [&](int64_t f) { sum += y[f] = softmax_weight(y[f], largest, inverse_temperature); });
    sum = warp_sum(sum);
    each_feature(head, [&](int64_t f) { y[f] /= sum; });
  });
}

// In place: from the gradient of the outputs to that of the inputs.
template <class T>
__global__ void __launch_bounds__(kThreads)
    heads_backward(HeadsPass pass, const T* __restrict__ out, T* __restrict__ grad) {
  each_head(pass, [&](int64_t row, const HeadPlan& head) {
    const T* y = out + row * pass.features;
    T* g = grad + row * pass.features;
    if (head.kind == Head::none) return;
    if (head.kind == Head::tanh) {
      each_feature(head, [&](int64_t f) { g[f] *= Tanh::derivative(y[f], T(0)); });
      return;
    }
    const T inverse_temperature = head.kind == Head::softmax ? T(1) : T(1 / pass.temperature);
    T mean = T(0);
    each_feature(head, [&](int64_t f) { mean += y[f] * g[f]; });
    mean = warp_sum(mean);
    each_feature(head, [&](int64_t f) { g[f] = softmax_backward(y[f], g[f], mean, inverse_temperature); });
  });
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_heads_forward(int dtype, const HeadsPass& pass, const void* in, void* out, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("heads", apply_heads<T>, blocks_for(32 * pass.rows * pass.count), stream, pass, static_cast<const T*>(in),
           static_cast<T*>(out));
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_heads_backward(int dtype, const HeadsPass& pass, const void* out, void* grad, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("heads", heads_backward<T>, blocks_for(32 * pass.rows * pass.count), stream, pass,
           static_cast<const T*>(out), static_cast<T*>(grad));
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
