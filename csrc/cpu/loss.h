// Loops over logits, one of each kind for every loss formula (loss.cpp).
#pragma once
#include "../formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
struct ChunkLoops {
  void (*derivative[3])(const T* logits, int n, T target, T* out);  // value, derivative, second derivative
  void (*value_and_grad)(const T* logits, int n, T target, T scale, T* values, T* grad);
};

template <class T>
ChunkLoops<T> find_loops(int formula);

}  // namespace FASTGAN_ISA
}  // namespace fastgan
