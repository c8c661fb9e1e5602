// Gradient penalties on CUDA: the kernels between the products of the second-order pass. csrc/cpu/penalty.h explains
// the letters (e, s, t, q).
#include "../dtypes.h"
#include "../penalty.h"
#include "../philox.h"
#include "device.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// ---------------------------------------------------------------- kernels

// The rows where the penalty is evaluated: random interpolates of real and fake rows, or one of the two. One warp for
// each row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    interpolate(const T* __restrict__ real, const T* __restrict__ fake, T* __restrict__ out, int64_t rows,
                int64_t features, Penalty kind, uint64_t seed, StepIndex draw) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    T mix = kind == Penalty::r1 ? T(1) : T(0);
    if (kind == Penalty::wgan_gp)
      mix =
          unit_interval<T>(Stream{seed, purpose::penalty, 0, uint64_t(draw.get())}.block(uint64_t(row / 4)).w[row % 4]);
    for (int64_t i = row * features + threadIdx.x % 32; i < (row + 1) * features; i += 32)
      out[i] = interpolated(mix, real[i], fake[i]);
  }
}

// The penalty P of each row's gradient g, and t_0 = dP/dg. One warp for each row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    penalty_grad(const T* __restrict__ g, T* __restrict__ t, T* __restrict__ values, int64_t rows, int64_t features,
                 Penalty kind, T weight) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    const int64_t first = row * features + threadIdx.x % 32, last = (row + 1) * features;
    T square = T(0);
    for (int64_t i = first; i < last; i += 32) square += g[i] * g[i];
    const PenaltyOfRow<T> penalty(kind, warp_sum(square), weight);
    if (threadIdx.x % 32 == 0) values[row] = penalty.value;
    for (int64_t i = first; i < last; i += 32) t[i] = penalty.factor * g[i];
  }
}

// From s: t before its mask. e is copied to `tangent`; if some activation has a second derivative, q = dP/da replaces
// it.
template <class F, class T>
__global__ void __launch_bounds__(kThreads)
    second_order(const T* __restrict__ saved, const T* __restrict__ s, T* __restrict__ e, T* __restrict__ tangent,
                 T* __restrict__ t, int64_t n, T negative_slope, bool has_second_derivative) {
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    const T first = F::derivative(saved[i], negative_slope), of_s = s[i], kept = e[i];
    t[i] = first * of_s;
    tangent[i] = kept;
    if (has_second_derivative) e[i] = second_order_term<F>(saved[i], first, kept, of_s, negative_slope);
  }
}

// The same through maxout, which is piecewise linear: t is s of the largest piece, and the first term of q is zero.
template <class T>
__global__ void __launch_bounds__(kThreads)
    second_order_maxout(const int32_t* __restrict__ winner, const T* __restrict__ s, T* __restrict__ e,
                        T* __restrict__ tangent, T* __restrict__ t, int64_t n, int pieces, bool has_second_derivative) {
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    t[i] = s[i * pieces + winner[i]];
    for (int64_t p = i * pieces; p < (i + 1) * pieces; ++p) {
      tangent[p] = e[p];
      if (has_second_derivative) e[p] = T(0);
    }
  }
}

template <class Function>
void with_real(int dtype, Function&& f) {
  DType(dtype) == DType::f64 ? f(double{}) : f(float{});
}

}  // namespace
}  // namespace FASTGAN_ISA

// ---------------------------------------------------------------- launchers

void cuda_interpolate(int dtype, const void* real, const void* fake, void* out, int64_t rows, int64_t features,
                      int kind, uint64_t seed, StepIndex draw, void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    launch("penalty", interpolate<T>, blocks_for(32 * rows), stream, static_cast<const T*>(real),
           static_cast<const T*>(fake), static_cast<T*>(out), rows, features, Penalty(kind), seed, draw);
  });
}

void cuda_penalty_grad(int dtype, const void* g, void* t, void* values, int64_t rows, int64_t features, int kind,
                       double weight, void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    launch("penalty", penalty_grad<T>, blocks_for(32 * rows), stream, static_cast<const T*>(g), static_cast<T*>(t),
           static_cast<T*>(values), rows, features, Penalty(kind), T(weight));
  });
}

void cuda_second_order(int dtype, const SecondOrderPass& pass, void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    const auto *saved = static_cast<const T*>(pass.saved), *s = static_cast<const T*>(pass.s);
    auto *e = static_cast<T*>(pass.e), *tangent = static_cast<T*>(pass.tangent), *t = static_cast<T*>(pass.t);
    if (pass.pieces > 1) {
      launch("penalty", second_order_maxout<T>, blocks_for(pass.n), stream, pass.winner, s, e, tangent, t, pass.n,
             pass.pieces, pass.has_second_derivative);
      return;
    }
    with_activation(pass.activation, [&](auto f) {
      launch("penalty", second_order<decltype(f), T>, blocks_for(pass.n), stream, saved, s, e, tangent, t, pass.n,
             T(pass.negative_slope), pass.has_second_derivative);
    });
  });
}

}  // namespace fastgan
