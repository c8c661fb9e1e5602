// The AMX-BF16 instructions that amx.cpp uses, and a software version for processors without them.
//
// Eight tiles of 16 rows by 64 bytes. Inline assembly needs no compiler flags; the code runs only after bf16_products()
// has found the instructions.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "float_mode.h"

namespace fastgan::inline FASTGAN_ISA {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct HardwareTiles {
  static void begin() {
    static const TileConfig config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  static void end() { asm volatile("tilerelease"); }
  template <int tile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile>
  static void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
  }
  template <int c, int a, int b>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(b), "i"(a), "i"(c));
  }
  static __m512i round(__m512 low, __m512 high) {  // 32 bfloat16, those of `low` first
    __m512i rounded;
    asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(rounded) : "v"(high), "v"(low));
    return rounded;
  }
};

// TDPBF16PS as documented: for each row of A and column of B, two sums of fused multiply-adds over the pairs, one of
// their first elements and one of their second; then these two are added, and their sum to C. Every step rounds to
// nearest even, treats subnormal operands as zero and flushes subnormal results, in any mode of the thread.
struct SoftwareTiles {
  static void begin() {}
  static void end() {}
  template <int tile>
  static void zero() {
    std::memset(at(tile), 0, 1024);
  }
  template <int tile>
  static void load(const void* from, int64_t stride) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(at(tile) + 64 * row, static_cast<const char*>(from) + row * stride, 64);
  }
  template <int tile>
  static void store(void* to, int64_t stride) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * stride, at(tile) + 64 * row, 64);
  }
  template <int c, int a, int b>
  static void dot() {
    const ScopedFloatMode mode(FloatMode::flushing());
    for (int row = 0; row < 16; ++row) {
      __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
      for (int k = 0; k < 16; ++k) {
        uint32_t pair;
        std::memcpy(&pair, at(a) + 64 * row + 4 * k, 4);
        Bits pairs;
        std::memcpy(&pairs, at(b) + 64 * k, sizeof pairs);
        even = _mm512_fmadd_ps(first(Bits{} + pair), first(pairs), even);
        odd = _mm512_fmadd_ps(second(Bits{} + pair), second(pairs), odd);
      }
      char* sum = at(c) + 64 * row;
      _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_add_ps(even, odd)));
    }
  }
  // As VCVTNE2PS2BF16: to nearest even; a subnormal number becomes zero, a NaN a quiet NaN.
  static __m512i round(__m512 low, __m512 high) {
    typedef uint16_t Rounded __attribute__((vector_size(32)));
    const Rounded halves[2] = {__builtin_convertvector(round(low) >> 16, Rounded),
                               __builtin_convertvector(round(high) >> 16, Rounded)};
    __m512i both;
    std::memcpy(&both, halves, sizeof both);
    return both;
  }

 private:
  typedef uint32_t Bits __attribute__((vector_size(64)));
  static Bits round(__m512 x) {
    const Bits bits = (Bits)x, size = bits & 0x7fffffff;
    const Bits rounded = bits + 0x7fff + (bits >> 16 & 1);
    return size < 0x00800000 ? bits & 0x80000000 : size > 0x7f800000 ? bits | 0x00400000 : rounded;
  }
  static __m512 first(Bits pairs) { return (__m512)(pairs << 16); }
  static __m512 second(Bits pairs) { return (__m512)(pairs & 0xffff0000); }
  static char* at(int tile) {
    alignas(64) static thread_local char tiles[8][1024];
    return tiles[tile];
  }
};

}  // namespace fastgan::inline FASTGAN_ISA
