// Gradient penalties on CUDA: the passes between the products of the explicit second-order pass, whose formulas and letters
// (e, s, t, q) are told in csrc/cpu/penalty.h.
#include "../dtypes.h"
#include "../philox.h"
#include "../plan.h"
#include "device.cuh"
#include "kernels.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {


// ---------------------------------------------------------------- kernels

// Where the penalty looks: at random points between real and fake rows, or at one of them. A warp has a row.
template <class T>
__global__ void __launch_bounds__(kThreads) between(const T* __restrict__ real, const T* __restrict__ fake,
                                                    T* __restrict__ out, int64_t rows, int64_t features, Penalty kind,
                                                    uint64_t seed, Count draw) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    T mix = kind == Penalty::r1 ? T(1) : T(0);
    if (kind == Penalty::wgan_gp)
      mix = unit_interval<T>(Stream{seed, purpose::penalty, 0, uint64_t(draw.get())}.block(uint64_t(row / 4)).w[row % 4]);
    for (int64_t i = row * features + threadIdx.x % 32; i < (row + 1) * features; i += 32)
      out[i] = mix * real[i] + (T(1) - mix) * fake[i];
  }
}

// The penalty of each row's slope g, and t_0 = dP/dg. A warp has a row.
template <class T>
__global__ void __launch_bounds__(kThreads) turn(const T* __restrict__ g, T* __restrict__ t, T* __restrict__ values,
                                                 int64_t rows, int64_t features, Penalty kind, T weight) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    const int64_t first = row * features + threadIdx.x % 32, last = (row + 1) * features;
    T square = T(0);
    for (int64_t i = first; i < last; i += 32) square += g[i] * g[i];
    square = warp_sum(square);
    T value = T(0.5) * weight * square, factor = weight;
    if (kind == Penalty::wgan_gp) {
      const T norm = std::sqrt(square);
      value = weight * (norm - T(1)) * (norm - T(1));
      factor = norm == T(0) ? T(0) : T(2) * weight * (norm - T(1)) / norm;  // no slope at a slope of zero
    }
    if (threadIdx.x % 32 == 0) values[row] = value;
    for (int64_t i = first; i < last; i += 32) t[i] = factor * g[i];
  }
}

// From s on the way up again: t, short of its mask. e moves to `turned`; in a curved network q, what a itself feels, takes
// its place.
template <class F, class T>
__global__ void __launch_bounds__(kThreads) bend(const T* __restrict__ saved, const T* __restrict__ s, T* __restrict__ e,
                                                 T* __restrict__ turned, T* __restrict__ t, int64_t n, T slope,
                                                 bool curved) {
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    const T first = F::slope(saved[i], slope), kept = e[i];  // e was multiplied by the slope
    t[i] = first * s[i];
    turned[i] = kept;
    if (curved) e[i] = first == T(0) ? T(0) : F::curvature(saved[i], slope) / first * s[i] * kept;
  }
}

// The same through maxout, which is not curved itself: t follows the piece that won, and q begins as nothing.
template <class T>
__global__ void __launch_bounds__(kThreads) bend_maxout(const int32_t* __restrict__ winner, const T* __restrict__ s,
                                                        T* __restrict__ e, T* __restrict__ turned, T* __restrict__ t,
                                                        int64_t n, int pieces, bool curved) {
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    t[i] = s[i * pieces + winner[i]];
    for (int64_t p = i * pieces; p < (i + 1) * pieces; ++p) {
      turned[p] = e[p];
      if (curved) e[p] = T(0);
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

void cuda_between(int dtype, const void* real, const void* fake, void* out, int64_t rows, int64_t features, int kind,
                  uint64_t seed, Count draw, void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    launch("penalty", between<T>, blocks_for(32 * rows), stream, static_cast<const T*>(real), static_cast<const T*>(fake),
           static_cast<T*>(out), rows, features, Penalty(kind), seed, draw);
  });
}

void cuda_turn(int dtype, const void* g, void* t, void* values, int64_t rows, int64_t features, int kind, double weight,
               void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    launch("penalty", turn<T>, blocks_for(32 * rows), stream, static_cast<const T*>(g), static_cast<T*>(t),
           static_cast<T*>(values), rows, features, Penalty(kind), T(weight));
  });
}

void cuda_bend(int dtype, const BendPass& pass, void* stream) {
  with_real(dtype, [&](auto type) {
    using T = decltype(type);
    const auto *saved = static_cast<const T*>(pass.saved), *s = static_cast<const T*>(pass.s);
    auto *e = static_cast<T*>(pass.e), *turned = static_cast<T*>(pass.turned), *t = static_cast<T*>(pass.t);
    if (pass.pieces > 1) {
      launch("penalty", bend_maxout<T>, blocks_for(pass.n), stream, pass.winner, s, e, turned, t, pass.n, pass.pieces,
             pass.curved);
      return;
    }
    with_activation(pass.activation, [&](auto f) {
      launch("penalty", bend<decltype(f), T>, blocks_for(pass.n), stream, saved, s, e, turned, t, pass.n,
             T(pass.negative_slope), pass.curved);
    });
  });
}

}  // namespace fastgan
