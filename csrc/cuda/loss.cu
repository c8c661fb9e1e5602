// Losses on CUDA: one pass over the logits gives value and derivative, and the values are summed in double in two
// stages of fixed order. The assignment of elements to threads depends on n alone, so the same logits give the same
// bits, aligned or not.
#include <algorithm>

#include "../dtypes.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

template <class S>
constexpr int kPackSize = 16 / int(sizeof(S));

// Every storage type is cut into the same number of blocks, so that the host needs only n to size the scratch.
int64_t sum_blocks(int64_t n) { return std::min(kMaxBlocks, (n + 8 * kThreads - 1) / (8 * kThreads)); }

// ---------------------------------------------------------------- kernels

template <class F, class S, bool aligned>
__global__ void __launch_bounds__(kThreads)
    sum_terms(const S* __restrict__ logits, int64_t n, Compute<S> target, Compute<S> scale,
              Compute<S>* __restrict__ grad, double* __restrict__ partial) {
  using T = Compute<S>;
  constexpr int size = kPackSize<S>;
  double sum = 0.0;
  const int64_t packs = (n + size - 1) / size;
  for (int64_t p = global_thread(); p < packs; p += grid_threads()) {
    const int64_t first = p * size;
    if (aligned && first + size <= n) {
      const Pack<S> in = reinterpret_cast<const Pack<S>*>(logits)[p];
      Pack<T, size> out;
#pragma unroll
      for (int i = 0; i < size; ++i) {
        const T l = load(in.at[i]);
        sum += double(F::value(l, target));
        out.at[i] = scale * F::derivative(l, target);
      }
      if (grad) reinterpret_cast<Pack<T, size>*>(grad)[p] = out;
    } else {
      for (int i = 0; i < size && first + i < n; ++i) {
        const T l = load(logits[first + i]);
        sum += double(F::value(l, target));
        if (grad) grad[first + i] = scale * F::derivative(l, target);
      }
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) finish(const double* __restrict__ partial, int real_blocks, int fake_blocks,
                                                   double scale_real, double scale_fake, T* __restrict__ value) {
  double real = 0.0, fake = 0.0;
  for (int i = threadIdx.x; i < real_blocks; i += kThreads) real += partial[i];
  for (int i = threadIdx.x; i < fake_blocks; i += kThreads) fake += partial[real_blocks + i];
  real = block_sum(real);
  fake = block_sum(fake);
  if (threadIdx.x == 0) *value = T(real * scale_real + fake * scale_fake);
}

template <class F, class S, int order>
__global__ void __launch_bounds__(kThreads)
    evaluate(const S* __restrict__ x, S* __restrict__ out, int64_t n, Compute<S> target) {
#pragma unroll(sizeof(S) == 8 ? 1 : 4)  // two of double's exp at a time would not fit into registers
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    const auto l = load(x[i]);
    if constexpr (order == 0) store(out[i], F::value(l, target));
    if constexpr (order == 1) store(out[i], F::derivative(l, target));
    if constexpr (order == 2) store(out[i], F::second_derivative(l, target));
  }
}

// x *= *factor, which is in device memory. If it is 1, as in loss.backward(), the kernel returns at once.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scale(T* __restrict__ x, int64_t n, const T* __restrict__ factor, bool aligned) {
  const T f = *factor;
  if (f == T(1)) return;
  constexpr int size = kPackSize<T>;
  const int64_t packs = aligned ? n / size : 0;
  for (int64_t p = global_thread(); p < packs; p += grid_threads()) {
    Pack<T> pack = reinterpret_cast<Pack<T>*>(x)[p];
#pragma unroll
    for (int i = 0; i < size; ++i) pack.at[i] *= f;
    reinterpret_cast<Pack<T>*>(x)[p] = pack;
  }
  for (int64_t i = packs * size + global_thread(); i < n; i += grid_threads()) x[i] *= f;
}

__global__ void nothing() {}

// ---------------------------------------------------------------- launchers

void launch_terms(int dtype, const LossTerm& term, double* partial, void* stream) {
  if (term.n == 0) return;
  with_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    with_formula(term.formula, [&](auto f) {
      using F = decltype(f);
      const bool aligned = is_aligned(term.logits) && is_aligned(term.grad);
      launch("pair_loss", aligned ? sum_terms<F, S, true> : sum_terms<F, S, false>, int(sum_blocks(term.n)), stream,
             static_cast<const S*>(term.logits), term.n, Compute<S>(term.target), Compute<S>(term.scale),
             static_cast<Compute<S>*>(term.grad), partial);
    });
  });
}

}  // namespace
}  // namespace FASTGAN_ISA

std::string cuda_version() {
  return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
}

std::string cuda_problem() {
  int device = 0;
  cudaFuncAttributes attributes;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaFuncGetAttributes(&attributes, nothing);  // fails without code for this device
  if (status == cudaSuccess) return "";
  cudaGetLastError();
  return cudaGetErrorString(status);
}

int64_t cuda_partials(int64_t m, int64_t n) { return sum_blocks(m) + sum_blocks(n); }

void cuda_pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, double* partial, void* stream) {
  const int real_blocks = int(sum_blocks(real.n)), fake_blocks = int(sum_blocks(fake.n));
  launch_terms(dtype, real, partial, stream);
  launch_terms(dtype, fake, partial + real_blocks, stream);
  if (DType(dtype) == DType::f64)
    launch("pair_loss", finish<double>, 1, stream, partial, real_blocks, fake_blocks, real.scale, fake.scale,
           static_cast<double*>(value));
  else
    launch("pair_loss", finish<float>, 1, stream, partial, real_blocks, fake_blocks, real.scale, fake.scale,
           static_cast<float*>(value));
}

void cuda_pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order,
                    void* stream) {
  if (n == 0) return;
  with_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    with_formula(formula, [&](auto f) {
      using F = decltype(f);
      const auto kernel = order == 0 ? evaluate<F, S, 0> : order == 1 ? evaluate<F, S, 1> : evaluate<F, S, 2>;
      launch("pointwise", kernel, blocks_for(n), stream, static_cast<const S*>(x), static_cast<S*>(out), n,
             Compute<S>(target));
    });
  });
}

void cuda_scale(int dtype, void* x, int64_t n, const void* factor, void* stream) {
  if (n == 0) return;
  const int blocks = blocks_for((n + 3) / 4);
  if (DType(dtype) == DType::f64)
    launch("scale", scale<double>, blocks, stream, static_cast<double*>(x), n, static_cast<const double*>(factor),
           is_aligned(x));
  else
    launch("scale", scale<float>, blocks, stream, static_cast<float*>(x), n, static_cast<const float*>(factor),
           is_aligned(x));
}

}  // namespace fastgan
