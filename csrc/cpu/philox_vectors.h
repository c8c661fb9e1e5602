// Random blocks side by side in vectors.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../philox.h"
#include "simd.h"

namespace fastgan::inline FASTGAN_ISA {

// Blocks b, b + stride, ... of a stream: words[i][j] is word i of the j-th.
template <int count>
void blocks(const Stream& stream, uint64_t b, uint64_t stride, uint32_t (&words)[4][count]) {
#if defined(__AVX2__)
  // A block in each lane of 64 bits, in its low half: a product reads only that, so that the high one needs no
  // clearing. Compilers multiply all 64 bits instead, or move halves between registers in every round: twice as slow.
  constexpr int width = Simd<uint64_t>::width;
  using Vector = Simd<uint64_t>::Vector;
  const auto product = [](Vector x, uint32_t y) {
    const Vector factor = Vector{} + y;
#if defined(__AVX512F__)
    // With a mask of all lanes: g++ 12 warns of the operand that the plain one leaves undefined.
    return Vector(_mm512_maskz_mul_epu32(0xFF, __m512i(x), __m512i(factor)));
#else
    return Vector(_mm256_mul_epu32(__m256i(x), __m256i(factor)));
#endif
  };
  constexpr int together = 2;  // vectors, which have the keys of a round in common
  static_assert(count % (together * width) == 0);
  for (int first = 0; first < count; first += together * width) {
    Vector c[4][together];
    for (int v = 0; v < together; ++v) {
      Vector index{};
      for (int j = 0; j < width; ++j) index[j] = b + uint64_t(first + v * width + j) * stride;
      c[0][v] = index;
      c[1][v] = (index >> 32) | (stream.substream << 16);
      c[2][v] = Vector{} + stream.step;
      c[3][v] = Vector{} + (uint32_t(stream.step >> 32) | (stream.purpose << 24));
    }
    uint32_t k0 = uint32_t(stream.seed), k1 = uint32_t(stream.seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < Stream::kRounds; ++round, k0 += Stream::kStep0, k1 += Stream::kStep1)
#pragma GCC unroll 2
      for (int v = 0; v < together; ++v) {
        const Vector p0 = product(c[0][v], Stream::kFactor0), p1 = product(c[2][v], Stream::kFactor1);
        c[0][v] = (p1 >> 32) ^ c[1][v] ^ k0;
        c[1][v] = p1;
        c[2][v] = (p0 >> 32) ^ c[3][v] ^ k1;
        c[3][v] = p0;
      }
    for (int i = 0; i < 4; ++i) {
      using Narrow = Simd<uint32_t>;
      Narrow::store(&words[i][first], even_lanes<uint32_t>(Narrow::Vector(c[i][0]), Narrow::Vector(c[i][1]),
                                                           std::make_integer_sequence<int, 2 * width>{}));
    }
  }
#else
  uint32_t (&c0)[count] = words[0], (&c1)[count] = words[1], (&c2)[count] = words[2], (&c3)[count] = words[3];
  for (int j = 0; j < count; ++j) {
    const uint64_t index = b + uint64_t(j) * stride;
    c0[j] = uint32_t(index), c1[j] = uint32_t(index >> 32) | (stream.substream << 16);
    c2[j] = uint32_t(stream.step), c3[j] = uint32_t(stream.step >> 32) | (stream.purpose << 24);
  }
  uint32_t k0 = uint32_t(stream.seed), k1 = uint32_t(stream.seed >> 32);
  for (int round = 0; round < Stream::kRounds; ++round, k0 += Stream::kStep0, k1 += Stream::kStep1)
    for (int j = 0; j < count; ++j) {
      const uint64_t p0 = uint64_t(Stream::kFactor0) * c0[j], p1 = uint64_t(Stream::kFactor1) * c2[j];
      c0[j] = uint32_t(p1 >> 32) ^ c1[j] ^ k0, c1[j] = uint32_t(p1);
      c2[j] = uint32_t(p0 >> 32) ^ c3[j] ^ k1, c3[j] = uint32_t(p0);
    }
#endif
}

// The factors of a dropout mask: 1 / (1 - p) for the words that reach the threshold.
template <class T>
struct MaskFactors {
  using S = Simd<T>;
  using Bits = typename Simd<std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>::Vector;
  Bits threshold, scale;

  explicit MaskFactors(double p) {
    const bool none = dropout_threshold(p) >> 32;  // is kept
    threshold = Bits{} + uint32_t(dropout_threshold(p));
    scale = Bits(typename S::Vector{} + (none ? T(0) : T(1.0 / (1.0 - p))));
  }

  // Of as many words as a vector has lanes.
  typename S::Vector operator()(const uint32_t* words) const {
    typedef uint32_t Narrow __attribute__((vector_size(4 * S::width)));
    Narrow narrow;
    __builtin_memcpy(&narrow, words, sizeof narrow);
    return typename S::Vector(Bits(__builtin_convertvector(narrow, Bits) >= threshold) & scale);
  }
};

}  // namespace fastgan::inline FASTGAN_ISA
