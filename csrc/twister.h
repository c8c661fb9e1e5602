// The Mersenne twister (Matsumoto and Nishimura, 1998) in memory of the caller's, for devices that have no std::mt19937: torch
// draws the keys of dropout masks from it.
#pragma once
#include <cstdint>

#include "formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

struct Twister {
  static constexpr int kWords = 624;
  uint32_t* state;  // kWords of them, `stride` apart
  int stride, next = 0;

  FASTGAN_HD Twister(uint32_t seed, uint32_t* words, int apart) : state(words), stride(apart) {
    for (int i = 0; i < kWords; ++i) {
      state[i * stride] = seed;
      seed = 1812433253u * (seed ^ (seed >> 30)) + uint32_t(i + 1);
    }
  }

  // Each word is renewed when its turn comes.
  FASTGAN_HD uint32_t operator()() {
    const int after = (next + 1) % kWords, far = (next + 397) % kWords;
    const uint32_t mixed = (state[next * stride] & 0x80000000u) | (state[after * stride] & 0x7fffffffu);
    uint32_t x = state[far * stride] ^ (mixed >> 1) ^ ((mixed & 1u) ? 0x9908b0dfu : 0u);
    state[next * stride] = x;
    next = after;
    x ^= x >> 11;
    x ^= (x << 7) & 0x9d2c5680u;
    x ^= (x << 15) & 0xefc60000u;
    return x ^ (x >> 18);
  }

  // 64 bits as torch's generator gives them to random_(): below 2^63 - 1.
  FASTGAN_HD uint64_t key() {
    const uint64_t high = (*this)(), low = (*this)();
    return ((high << 32) | low) % ((uint64_t(1) << 63) - 1);
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
