// Vectors of one register's width by the compilers' vector extensions: the same source for every instruction set.
#pragma once
#include <cstdint>

#include "../formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14;  // 14 x 2 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileRows = 6;  // 6 x 2 of 16
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 12;  // 12 x 2 of 32
#else
constexpr int kVectorBytes = 16, kTileRows = 6;
#endif

template <class T>
struct Simd {
  static constexpr int width = kVectorBytes / int(sizeof(T));
  typedef T Vector __attribute__((vector_size(kVectorBytes)));

  static Vector load(const T* p) {
    Vector v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(T* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }
};

// Rows of a batch are padded to this many, a multiple of every vector width.
constexpr int64_t kPad = 16;
inline int64_t padded(int64_t rows) { return (rows + kPad - 1) / kPad * kPad; }

}  // namespace FASTGAN_ISA
}  // namespace fastgan
