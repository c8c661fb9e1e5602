// Training-by-sampling on CUDA (csrc/sampled.h): the conditions of a batch, rows that have them, and the cross-entropy
// of G's outputs. A warp has a row.
#include "../sampled.h"

#include "../dtypes.h"
#include "../philox.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// Element i of a stream of uniform numbers in (0, 1).
__device__ double uniform(uint64_t seed, uint32_t purpose, uint32_t substream, StepIndex step, int64_t i) {
  const Stream stream{seed, purpose, substream, uint64_t(step.get())};
  return unit_interval<double>(stream.block(uint64_t(i / 4)).w[i % 4]);
}

template <class Function>
__device__ void each_row(int64_t rows, Function&& f) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) f(row);
}

template <class Function>
__device__ void each_of_lane(int64_t count, Function&& f) {
#pragma unroll 1  // two exponentials of double at a time would not fit into registers
  for (int64_t i = threadIdx.x % 32; i < count; i += 32) f(i);
}

// The labels of a batch; also one-hot, as condition (wanted, classes).
template <class T>
__global__ void __launch_bounds__(kThreads)
    draw_labels(const __grid_constant__ TablePlan table, int32_t* __restrict__ labels, int64_t classes,
                T* __restrict__ condition, int64_t wanted, uint64_t seed, uint32_t purpose, StepIndex step) {
  each_row(wanted, [&](int64_t row) {
    const int32_t label =
        chosen_label(table, uniform(seed, purpose, 1, step, row), uniform(seed, purpose, 2, step, row));
    if (threadIdx.x % 32 == 0) labels[row] = label;
    each_of_lane(classes, [&](int64_t c) { condition[row * classes + c] = T(c == label); });
  });
}

// Rows that have these labels: out (wanted, features).
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_sampled(const __grid_constant__ TablePlan table, const T* __restrict__ scalars, int64_t rows,
                   int64_t features, const int32_t* __restrict__ labels, T* __restrict__ out, int64_t wanted,
                   uint64_t seed, uint32_t purpose, StepIndex step) {
  each_row(wanted, [&](int64_t i) {
    const int64_t row = chosen_row(table, rows, labels ? labels[i] : 0, uniform(seed, purpose, 3, step, i));
    T* x = out + i * features;
    each_of_lane(features, [&](int64_t f) { x[f] = T(0); });
    __syncwarp();  // a lane may have zeroed what another one writes
    each_of_lane(table.scalars, [&](int64_t s) { x[table.scalar_at[s]] = scalars[row * table.scalars + s]; });
    each_of_lane(table.groups, [&](int64_t g) { x[feature_of(table, row, g)] = T(1); });
  });
}

// -log p(label) of each row's logits; adds its gradient, times scale, to grad.
template <class T>
__global__ void __launch_bounds__(kThreads)
    cross_entropy(const __grid_constant__ TablePlan table, const int32_t* __restrict__ labels,
                  const T* __restrict__ logits, T* __restrict__ grad, T* __restrict__ entropies, int64_t rows,
                  int64_t features, T scale) {
  each_row(rows, [&](int64_t row) {
    const Labelled of(table, labels[row]);
    const T* x = logits + row * features + of.first;
    T* g = grad + row * features + of.first;
    T largest_of_lane = -infinity<T>(), sum = T(0);
    each_of_lane(of.width, [&](int64_t f) { largest_of_lane = larger(x[f], largest_of_lane); });
    const T largest = warp_largest(largest_of_lane);
    each_of_lane(of.width, [&](int64_t f) { sum += softmax_weight(x[f], largest, T(1)); });
    sum = warp_sum(sum);
    each_of_lane(of.width, [&](int64_t f) {
      g[f] += scale * softmax_entropy_derivative(softmax_weight(x[f], largest, T(1)), sum, f == of.code);
    });
    if (threadIdx.x % 32 == 0) entropies[row] = softmax_entropy(x[of.code], largest, sum);
  });
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_draw_labels(int dtype, const TablePlan& table, int32_t* labels, int64_t classes, void* condition,
                      int64_t wanted, uint64_t seed, uint32_t purpose, StepIndex step, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("labels", draw_labels<T>, blocks_for(32 * wanted), stream, table, labels, classes,
           static_cast<T*>(condition), wanted, seed, purpose, step);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_gather_sampled(int dtype, const TablePlan& table, const void* scalars, int64_t rows, int64_t features,
                         const int32_t* labels, void* out, int64_t wanted, uint64_t seed, uint32_t purpose,
                         StepIndex step, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("rows", gather_sampled<T>, blocks_for(32 * wanted), stream, table, static_cast<const T*>(scalars), rows,
           features, labels, static_cast<T*>(out), wanted, seed, purpose, step);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_cross_entropy(int dtype, const TablePlan& table, const int32_t* labels, const void* logits, void* grad,
                        void* entropies, int64_t rows, int64_t features, double scale, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("cross_entropy", cross_entropy<T>, blocks_for(32 * rows), stream, table, labels,
           static_cast<const T*>(logits), static_cast<T*>(grad), static_cast<T*>(entropies), rows, features, T(scale));
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
