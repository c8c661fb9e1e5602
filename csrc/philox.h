// Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011), normals (Box and Muller), keyed permutations.
// fastgan/reference.py holds the same streams in plain PyTorch; the layout of counter and key must be the same in both.
#pragma once
#include <cstdint>

#include "formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

struct Words {
  uint32_t w[4];
};

// What a stream is for: equal seeds never share numbers across purposes. fastgan/random.py documents them.
namespace purpose {
FASTGAN_ENUM(enum, Purpose, rows, noise_d, noise_g, sample, dropout_seed, dropout, data, penalty, gumbel,
             instance_noise)
}

// A stream is named by (seed, purpose, substream, step); block b holds its elements 4b .. 4b+3.
struct Stream {
  uint64_t seed;
  uint32_t purpose, substream;
  uint64_t step;

  static constexpr int kRounds = 10;
  static constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;

  FASTGAN_HD Words block(uint64_t b) const {
    Words c{
        {uint32_t(b), uint32_t(b >> 32) | (substream << 16), uint32_t(step), uint32_t(step >> 32) | (purpose << 24)}};
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < kRounds; ++round, k0 += kStep0, k1 += kStep1) {
      const uint64_t p0 = uint64_t(kFactor0) * c.w[0], p1 = uint64_t(kFactor1) * c.w[2];
      c = {{uint32_t(p1 >> 32) ^ c.w[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.w[3] ^ k1, uint32_t(p0)}};
    }
    return c;
  }
};

// (0, 1): 23 random bits and a half, exact in float.
template <class T>
FASTGAN_HD T unit_interval(uint32_t word) {
  return (T(int(word >> 9)) + T(0.5)) * T(1.1920928955078125e-07);
}

// From (0, 1) to (-sqrt 3, sqrt 3), whose variance is 1.
template <class T>
FASTGAN_HD T centred(T u) {
  return (T(2) * u - T(1)) * T(1.7320508075688772935);
}

template <class T>
FASTGAN_HD void normal_pair(uint32_t u, uint32_t v, T& first, T& second) {
  T cosine, sine, radius = std::sqrt(T(-2) * log(unit_interval<T>(u)));
  cos_sin_turns(unit_interval<T>(v), cosine, sine);
  first = radius * cosine;
  second = radius * sine;
}

// The four numbers of a block.
template <class T>
FASTGAN_HD void uniform_numbers(const Words& words, T (&numbers)[4]) {
  for (int i = 0; i < 4; ++i) numbers[i] = unit_interval<T>(words.w[i]);
}
template <class T>
FASTGAN_HD void normal_numbers(const Words& words, T (&numbers)[4]) {
  normal_pair(words.w[0], words.w[1], numbers[0], numbers[1]);
  normal_pair(words.w[2], words.w[3], numbers[2], numbers[3]);
}

// Of the Gumbel distribution, whose distribution function is exp(-exp(-x)).
template <class T>
FASTGAN_HD T gumbel(uint32_t word) {
  return -log(-log(unit_interval<T>(word)));
}

// The seed of the i-th dropout mask that an iteration draws; 63 bits, as fastgan/random.py gives it to the eager
// engine.
FASTGAN_HD uint64_t dropout_seed(uint64_t seed, int64_t iteration, int64_t i) {
  const Words words = Stream{seed, purpose::dropout_seed, 0, uint64_t(iteration)}.block(uint64_t(i + 1));
  return (words.w[0] | (uint64_t(words.w[1]) << 32)) & ~(uint64_t(1) << 63);
}

// Dropout keeps an element when its word reaches this threshold. 64 bits: p = 1 drops every word.
FASTGAN_HD uint64_t dropout_threshold(double p) { return uint64_t(p * 4294967296.0 + 0.5); }

// A permutation of 0 .. n-1 by an 8-round Feistel network over the next even number of bits, walked until it lands
// inside.
struct Permutation {
  uint64_t n;
  int half;
  uint32_t keys[8];

  FASTGAN_HD Permutation(uint64_t size, uint64_t seed, uint32_t purpose, uint64_t epoch) : n(size), half(1) {
    while (half < 32 && (uint64_t(1) << (2 * half)) < n) ++half;
    for (int b = 0; b < 2; ++b) {
      Words words = Stream{seed, purpose, 0, epoch}.block(uint64_t(b));
      for (int i = 0; i < 4; ++i) keys[4 * b + i] = words.w[i];
    }
  }

  FASTGAN_HD uint64_t operator()(uint64_t x) const {
    do {
      uint32_t left = uint32_t(x >> half), right = uint32_t(x) & mask();
      encrypt(left, right);
      x = (uint64_t(left) << half) | right;
    } while (x >= n);
    return x;
  }

#if !defined(__CUDACC__)  // which has no vectors
  // Positions x, x + 1, ... side by side, in a vector; beyond the last one, that again.
  static constexpr int count = 16;
  void several(uint64_t x, uint64_t (&rows)[count]) const {
    typedef uint32_t Vector __attribute__((vector_size(4 * count)));
    bool inside = false;
    for (int j = 0; j < count; ++j) rows[j] = x + uint64_t(j) < n ? x + uint64_t(j) : n - 1;
    for (bool first = true; !inside; first = false) {
      uint32_t halves[2][count];
      for (int j = 0; j < count; ++j)
        halves[0][j] = uint32_t(rows[j] >> half), halves[1][j] = uint32_t(rows[j]) & mask();
      Vector left, right;
      __builtin_memcpy(&left, halves[0], sizeof left), __builtin_memcpy(&right, halves[1], sizeof right);
      encrypt(left, right);
      __builtin_memcpy(halves[0], &left, sizeof left), __builtin_memcpy(halves[1], &right, sizeof right);
      inside = true;
      for (int j = 0; j < count; ++j) {
        const uint64_t next = (uint64_t(halves[0][j]) << half) | halves[1][j];
        rows[j] = first || rows[j] >= n ? next : rows[j];  // positions already below n keep their value
        inside = inside && rows[j] < n;
      }
    }
  }
#endif

 private:
  FASTGAN_HD uint32_t mask() const { return uint32_t((uint64_t(1) << half) - 1); }

  // Word: uint32_t, or a vector of it.
  template <class Word>
  FASTGAN_HD void encrypt(Word& left, Word& right) const {
    for (int i = 0; i < 8; ++i) {
      Word f = right ^ keys[i];  // the finaliser of MurmurHash3
      f = (f ^ (f >> 16)) * 0x85EBCA6Bu;
      f = (f ^ (f >> 13)) * 0xC2B2AE35u;
      f = (f ^ (f >> 16)) & mask();
      const Word next = left ^ f;
      left = right;
      right = next;
    }
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
