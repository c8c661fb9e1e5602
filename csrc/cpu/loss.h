// Loops over logits, compiled once per loss formula.
#pragma once
#include "../formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
struct ChunkLoops {
  void (*derivative[3])(const T* logits, int n, T target, T* out);  // value, slope, curvature
  void (*value_and_slope)(const T* logits, int n, T target, T scale, T* values, T* slope);
};

template <class F, class T, int order>
void derivative(const T* __restrict logits, int n, T target, T* __restrict out) {
  for (int i = 0; i < n; ++i) {
    if constexpr (order == 0) out[i] = F::value(logits[i], target);
    if constexpr (order == 1) out[i] = F::slope(logits[i], target);
    if constexpr (order == 2) out[i] = F::curvature(logits[i], target);
  }
}

template <class F, class T>
void value_and_slope(const T* __restrict logits, int n, T target, T scale, T* __restrict values, T* __restrict slope) {
  for (int i = 0; i < n; ++i) {
    values[i] = F::value(logits[i], target);
    slope[i] = scale * F::slope(logits[i], target);
  }
}

template <class T>
ChunkLoops<T> find_loops(int formula) {
  ChunkLoops<T> found{};
  with_formula(formula, [&](auto f) {
    using F = decltype(f);
    found = {{derivative<F, T, 0>, derivative<F, T, 1>, derivative<F, T, 2>}, value_and_slope<F, T>};
  });
  return found;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
