// A unit between two matrix products: activation or maxout, then dropout; and its backward pass. Each step is rounded
// to its storage type, because backward reads the stored value.
#pragma once
#include "../dtypes.h"
#include "device.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class S>
struct Unit {
  S before, output, dropped;  // the activation's input, its output, the output after dropout
};

template <class F, class S>
__device__ Unit<S> activate(Compute<S> z, Compute<S> negative_slope, Compute<S> factor) {
  Unit<S> unit;
  store(unit.before, z);
  store(unit.output, F::value(F::from_output ? z : load(unit.before), negative_slope));
  store(unit.dropped, load(unit.output) * factor);
  return unit;
}

// The gradient of z from the gradient of the unit's result.
template <class F, class S>
__device__ S through_activation(Compute<S> grad, S saved, Compute<S> negative_slope, Compute<S> factor) {
  S out;
  store(out, grad * factor * F::derivative(load(saved), negative_slope));
  return out;
}

// Double backward: the gradients of `grad` and of z. If the derivative is constant, that of z is zero, even if a factor
// is infinite.
template <class S>
struct SecondOrder {
  S grad, z;
};

template <class F, class S>
__device__ SecondOrder<S> through_activation_twice(Compute<S> grad_grad, Compute<S> grad, S saved,
                                                   Compute<S> negative_slope, Compute<S> factor) {
  SecondOrder<S> out;
  const Compute<S> kept = load(saved);
  grad_grad *= factor;
  store(out.grad, grad_grad * F::derivative(kept, negative_slope));
  const Compute<S> second_derivative = F::second_derivative(kept, negative_slope);
  store(out.z, F::has_second_derivative ? grad_grad * grad * second_derivative : second_derivative);
  return out;
}

// The largest piece so far: NaN wins, and on a tie the first one.
template <class T>
struct Largest {
  T best = T(0);
  int32_t winner = 0;

  __device__ void consider(int piece, T z) {
    if (piece > 0 && !(z > best || (z != z && best == best))) return;
    best = z;
    winner = piece;
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
