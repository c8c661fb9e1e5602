// Batch normalisation on CUDA (Ioffe and Szegedy, 2015). A block of threads computes 32 features of the whole batch in
// two or three passes over it: the later passes read from the L2 cache, and all sums stay within the block.
#include <cmath>

#include "../dtypes.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kLanes = 32, kRows = kThreads / kLanes;

// A thread's feature, and every kRows-th row of the batch from `first` on.
struct Place {
  int64_t feature, first;
  bool inside;
  __device__ explicit Place(int64_t features)
      : feature(int64_t(blockIdx.x) * kLanes + threadIdx.x % kLanes),
        first(threadIdx.x / kLanes),
        inside(feature < features) {}
};

// The sum over the batch of f(index of the element), in every thread that has its feature. All threads of the block
// call.
template <class T, class Function>
__device__ T over_rows(const Place& here, int64_t rows, int64_t features, Function&& f) {
  FASTGAN_SHARED(all, T[kThreads]);
  T sum = T(0);
  for (int64_t row = here.first; here.inside && row < rows; row += kRows) sum += f(row * features + here.feature);
  __syncthreads();  // `all` may still be read by a previous call
  all[threadIdx.x] = sum;
  __syncthreads();
  sum = T(0);
  for (int i = 0; i < kRows; ++i) sum += all[i * kLanes + int(threadIdx.x) % kLanes];
  return sum;
}

template <class T>
struct Norm {
  int64_t rows, features;
  T epsilon, momentum;
  const T *bias, *scale, *shift;       // null: none
  T *running_mean, *running_variance;  // null: not kept
  int64_t* batches;
  T *mean, *inverse;  // of this batch: kept for the backward pass
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    normalize(Norm<T> norm, const T* __restrict__ product, T* __restrict__ out) {
  const Place here(norm.features);
  const int64_t f = here.feature;
  const T bias = here.inside && norm.bias ? norm.bias[f] : T(0), rows = T(norm.rows);
  const auto z = [&](int64_t at) { return product[at] + bias; };
  const T mean = over_rows<T>(here, norm.rows, norm.features, z) / rows;
  const T variance =
      over_rows<T>(here, norm.rows, norm.features, [&](int64_t at) { return (z(at) - mean) * (z(at) - mean); }) / rows;
  const T inverse = T(1) / std::sqrt(variance + norm.epsilon);
  if (blockIdx.x == 0 && threadIdx.x == 0 && norm.batches) ++*norm.batches;
  if (!here.inside) return;
  const T a = inverse * (norm.scale ? norm.scale[f] : T(1)), b = norm.shift ? norm.shift[f] : T(0);
  for (int64_t row = here.first; row < norm.rows; row += kRows) {
    const int64_t at = row * norm.features + f;
    out[at] = (z(at) - mean) * a + b;
  }
  if (here.first > 0) return;
  norm.mean[f] = mean;
  norm.inverse[f] = inverse;
  if (!norm.running_mean) return;
  norm.running_mean[f] = running(norm.running_mean[f], mean, norm.momentum);
  norm.running_variance[f] = running(norm.running_variance[f], unbiased(variance, rows), norm.momentum);
}

// In place: from the gradient of normalize()'s result to that of the product. `adds`: to the gradients of another
// sub-batch.
template <class T>
__global__ void __launch_bounds__(kThreads)
    normalize_backward(Norm<T> norm, const T* __restrict__ product, T* __restrict__ grad, T* __restrict__ grad_scale,
                       T* __restrict__ grad_shift, bool adds) {
  const Place here(norm.features);
  const int64_t f = here.feature;
  const T bias = here.inside && norm.bias ? norm.bias[f] : T(0), rows = T(norm.rows);
  const T mean = here.inside ? norm.mean[f] : T(0), inverse = here.inside ? norm.inverse[f] : T(0);
  const auto x = [&](int64_t at) { return (product[at] + bias - mean) * inverse; };
  const T sum = over_rows<T>(here, norm.rows, norm.features, [&](int64_t at) { return grad[at]; });
  const T along = over_rows<T>(here, norm.rows, norm.features, [&](int64_t at) { return grad[at] * x(at); });
  if (!here.inside) return;
  const T factor = inverse * (norm.scale ? norm.scale[f] : T(1));
  for (int64_t row = here.first; row < norm.rows; row += kRows) {
    const int64_t at = row * norm.features + f;
    grad[at] = factor * (grad[at] - sum / rows - x(at) * (along / rows));
  }
  if (here.first > 0) return;
  if (grad_scale) grad_scale[f] = (adds ? grad_scale[f] : T(0)) + along;
  if (grad_shift) grad_shift[f] = (adds ? grad_shift[f] : T(0)) + sum;
}

// ---------------------------------------------------------------- launchers

template <class T>
Norm<T> norm_of(const NormPass& pass) {
  return {pass.rows,
          pass.features,
          T(pass.epsilon),
          T(pass.momentum),
          static_cast<const T*>(pass.bias),
          static_cast<const T*>(pass.scale),
          static_cast<const T*>(pass.shift),
          static_cast<T*>(pass.running_mean),
          static_cast<T*>(pass.running_variance),
          pass.batches,
          static_cast<T*>(pass.mean),
          static_cast<T*>(pass.inverse)};
}

int norm_blocks(const NormPass& pass) { return int((pass.features + kLanes - 1) / kLanes); }

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_norm_forward(int dtype, const NormPass& pass, const void* product, void* out, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("norm", normalize<T>, norm_blocks(pass), stream, norm_of<T>(pass), static_cast<const T*>(product),
           static_cast<T*>(out));
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_norm_backward(int dtype, const NormPass& pass, const void* product, void* grad, void* grad_scale,
                        void* grad_shift, bool adds, void* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("norm", normalize_backward<T>, norm_blocks(pass), stream, norm_of<T>(pass), static_cast<const T*>(product),
           static_cast<T*>(grad), static_cast<T*>(grad_scale), static_cast<T*>(grad_shift), adds);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
