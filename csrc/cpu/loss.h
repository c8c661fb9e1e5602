// Loops over logits, one of each kind for every loss formula (loss.cpp).
#pragma once
#include <array>

#include "../formulas.h"

namespace fastgan::inline FASTGAN_ISA {

template <class T>
struct ChunkLoops {
  void (*derivative[3])(const T* logits, int n, T target, T* out);  // value, derivative, second derivative
  void (*value_and_grad)(const T* logits, int n, T target, T scale, T* values, T* grad);
};

inline constexpr int kFormulas = int(Formula::probability_fake) + 1;

template <class T>
struct Loops {
  static const std::array<ChunkLoops<T>, kFormulas> by_formula;
};
// Defined in loss.cpp; without these lines other files could instantiate them.
template <>
const std::array<ChunkLoops<float>, kFormulas> Loops<float>::by_formula;
template <>
const std::array<ChunkLoops<double>, kFormulas> Loops<double>::by_formula;

}  // namespace fastgan::inline FASTGAN_ISA
