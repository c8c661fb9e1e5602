// The formulas of gradient penalties, for host and device; cpu/penalty.h explains the second-order pass and its
// letters.
#pragma once
#include <cmath>

#include "plan.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The row where a penalty is evaluated: mix in (0, 1) for WGAN-GP, 1 for R1, 0 for R2.
template <class T>
FASTGAN_HD T interpolated(T mix, T real, T fake) {
  return fused(mix, real, (T(1) - mix) * fake);
}

// P(g) of a row's gradient g, and dP/dg = factor * g.
template <class T>
struct PenaltyOfRow {
  T value, factor;

  // square: |g|^2.
  FASTGAN_HD PenaltyOfRow(Penalty kind, T square, T weight) : value(T(0.5) * weight * square), factor(weight) {
    if (kind != Penalty::wgan_gp) return;
    const T norm = std::sqrt(square);
    value = weight * (norm - T(1)) * (norm - T(1));
    factor = norm == T(0) ? T(0) : T(2) * weight * (norm - T(1)) / norm;  // the norm has no gradient at 0: use 0
  }
};

// The first term of q = dP/da of a unit with activation F. first: F's derivative, by which e was multiplied.
template <class F, class T>
FASTGAN_HD T second_order_term(T saved, T first, T e, T s, T negative_slope) {
  return first == T(0) ? T(0) : F::second_derivative(saved, negative_slope) / first * s * e;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
