// What happens to one unit between two matrix products: activation or maxout, then dropout; and back. Every step is
// rounded to the type it is stored in, for that is what backward will see.
#pragma once
#include "../dtypes.h"
#include "device.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class S>
struct Unit {
  S before, output, dropped;  // the activation's input, its output, that under the mask
};

template <class F, class S>
__device__ Unit<S> activate(Compute<S> z, Compute<S> slope, Compute<S> factor) {
  Unit<S> unit;
  store(unit.before, z);
  store(unit.output, F::value(F::from_output ? z : load(unit.before), slope));
  store(unit.dropped, load(unit.output) * factor);
  return unit;
}

// The gradient of z from that of what the unit gave.
template <class F, class S>
__device__ S through_activation(Compute<S> grad, S saved, Compute<S> slope, Compute<S> factor) {
  S out;
  store(out, grad * factor * F::slope(load(saved), slope));
  return out;
}

// And from a gradient of that gradient: what belongs to `grad`, and what belongs to z. Where the slope is a constant, z has
// no share in it, even if a factor is infinite.
template <class S>
struct SecondOrder {
  S grad, z;
};

template <class F, class S>
__device__ SecondOrder<S> through_slope(Compute<S> grad_grad, Compute<S> grad, S saved, Compute<S> slope,
                                        Compute<S> factor) {
  SecondOrder<S> out;
  const Compute<S> kept = load(saved);
  grad_grad *= factor;
  store(out.grad, grad_grad * F::slope(kept, slope));
  const Compute<S> curvature = F::curvature(kept, slope);
  store(out.z, F::curved ? grad_grad * grad * curvature : curvature);
  return out;
}

// The largest piece so far: NaN wins, and the first that is largest stays.
template <class T>
struct Largest {
  T best = T(0);
  int32_t winner = 0;

  __device__ void meet(int piece, T z) {
    if (piece > 0 && !(z > best || (z != z && best == best))) return;
    best = z;
    winner = piece;
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
