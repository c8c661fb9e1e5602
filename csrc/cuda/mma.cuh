// Products by tensor cores. A warp multiplies a left tile of 16 rows with a right tile of 8 columns and adds to 16 x 8
// sums in float (mma.sync, sm_80 and later). A kernel takes one of three types, with the same interface, as template
// argument:
//
//   Tf32    factors rounded to tf32 (11 bits)                16 x 8 x 8
//   Tf32x3  each factor as a sum of two tf32: as float does it, for three instructions instead of one
//   Bf16    factors rounded to bfloat16 (8 bits)             16 x 8 x 16
//
// (or Plain<T>, which does it without tensor cores; ShortBf16 is Bf16 with the depth of the others)
//
//   typename P::Sum sum{};
//   for (int k = 0; k < depth; k += P::depth)
//     P::multiply(sum, P::left([&](int row, int i) { return x[row * stride + k + i]; }),
//                 P::right([&](int i, int column) { return w[column * stride + k + i]; }));
//   for (int i = 0; i < 4; ++i) y[sum_row(i) * n + sum_column(i)] = P::value(sum, i);
//
// All 32 lanes must take part. From shared memory, rows 4 mod 32 words apart are read without bank conflicts (8 where
// columns are neighbours). Before sm_80, and under the emulator, shuffles exchange the same factors.
#pragma once
#include "../dtypes.h"
#include "device.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define FASTGAN_TENSOR_CORES 1
#endif

namespace fastgan {
inline namespace FASTGAN_ISA {

// ---------------------------------------------------------------- the layout of fragments

// A warp is eight groups of four lanes. Of the sums group g holds rows g and g + 8, its member m columns 2m and 2m + 1.
__device__ inline int lane_group() { return int(threadIdx.x) % 32 / 4; }
__device__ inline int lane_member() { return int(threadIdx.x) % 4; }
__device__ inline int sum_row(int i) { return lane_group() + i / 2 * 8; }
__device__ inline int sum_column(int i) { return 2 * lane_member() + i % 2; }

// Registers of 32 bits: one tf32, or two bfloat16 whose depths are neighbours (the lower one below).
struct LeftTile {  // rows g and g + 8 at the member's depth, then both at the depth half a tile further
  uint32_t at[4];
};
struct RightTile {  // column g at the member's depth, and half a tile further
  uint32_t at[2];
};

// ---------------------------------------------------------------- rounding

// To nearest, ties away from 0. The lowest 13 bits of a tf32 are ignored.
__device__ inline uint32_t round_to_tf32(float x) {
#ifdef FASTGAN_TENSOR_CORES
  uint32_t u;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));
  return u;
#else
  const uint32_t u = bits_of(x);
  if (x != x) return u | 0x00400000u;  // truncation may clear the bits that make it a NaN
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#endif
}

__device__ inline float of_tf32(uint32_t u) { return float_of(u & 0xffffe000u); }

// To nearest, ties to even.
__device__ inline uint32_t round_to_bf16_pair(float low, float high) {
#ifdef FASTGAN_TENSOR_CORES
  uint32_t u;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
  return u;
#else
  BFloat16 l, h;
  store(l, low);
  store(h, high);
  return uint32_t(l.bits) | uint32_t(h.bits) << 16;
#endif
}

// ---------------------------------------------------------------- one instruction

struct Tf32Word {
  static __device__ float dot(uint32_t a, uint32_t b, float sum) { return sum + of_tf32(a) * of_tf32(b); }
};
struct Bf16Word {
  static __device__ float dot(uint32_t a, uint32_t b, float sum) {
    sum += float_of(a << 16) * float_of(b << 16);
    return sum + float_of(a & 0xffff0000u) * float_of(b & 0xffff0000u);
  }
};

// sum += left * right from the same registers, without tensor cores.
template <class Word>
__device__ inline void multiply_by_shuffles(float (&sum)[4], const LeftTile& a, const RightTile& b) {
  const unsigned all = 0xffffffffu;
  const uint64_t column = uint64_t(b.at[1]) << 32 | b.at[0];
  const uint64_t rows[2] = {uint64_t(a.at[1]) << 32 | a.at[0], uint64_t(a.at[3]) << 32 | a.at[2]};
#pragma unroll
  for (int member = 0; member < 4; ++member) {
    const uint64_t even = __shfl_sync(all, column, 8 * lane_member() + member);
    const uint64_t odd = __shfl_sync(all, column, 8 * lane_member() + 4 + member);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t both = __shfl_sync(all, rows[half], 4 * lane_group() + member);
      sum[0] = Word::dot(uint32_t(both), uint32_t(even >> 32 * half), sum[0]);
      sum[1] = Word::dot(uint32_t(both), uint32_t(odd >> 32 * half), sum[1]);
      sum[2] = Word::dot(uint32_t(both >> 32), uint32_t(even >> 32 * half), sum[2]);
      sum[3] = Word::dot(uint32_t(both >> 32), uint32_t(odd >> 32 * half), sum[3]);
    }
  }
}

__device__ inline void multiply_tf32(float (&sum)[4], const LeftTile& a, const RightTile& b) {
#ifdef FASTGAN_TENSOR_CORES
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b.at[0]), "r"(b.at[1]));
#else
  multiply_by_shuffles<Tf32Word>(sum, a, b);
#endif
}

__device__ inline void multiply_bf16(float (&sum)[4], const LeftTile& a, const RightTile& b) {
#ifdef FASTGAN_TENSOR_CORES
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b.at[0]), "r"(b.at[1]));
#else
  multiply_by_shuffles<Bf16Word>(sum, a, b);
#endif
}

// Half as deep: the second halves of both tiles are ignored.
__device__ inline void multiply_short_bf16(float (&sum)[4], const LeftTile& a, const RightTile& b) {
#ifdef FASTGAN_TENSOR_CORES
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a.at[0]), "r"(a.at[1]), "r"(b.at[0]));
#else
  multiply_by_shuffles<Bf16Word>(sum, {{a.at[0], a.at[1], 0, 0}}, {{b.at[0], 0}});
#endif
}

// ---------------------------------------------------------------- the types

// left(at): at(row, depth) is a float, row below 16; right(at): at(depth, column), column below 8; depth below
// P::depth.

// For a tile of depth 8, a lane supplies two depths of rows g and g + 8, and the same two of column g. P::left_of and
// P::right_of take elements that have been read. Any two depths are right, if the lanes of a group supply all eight and
// both factors use the same ones. A product is P::instructions calls of P::multiply(sum, a, b, i), which need not be
// adjacent.
template <class P>
struct EightDeep {
  static constexpr int depth = 8;

  template <class At>
  static __device__ auto left(const At& at) {
    const int row = lane_group(), k = lane_member();
    return P::left_of({{at(row, k), at(row, k + 4)}, {at(row + 8, k), at(row + 8, k + 4)}});
  }
  template <class At>
  static __device__ auto right(const At& at) {
    const int column = lane_group(), k = lane_member();
    return P::right_of({at(k, column), at(k + 4, column)});
  }
};

struct Tf32 : EightDeep<Tf32> {
  static constexpr int instructions = 1;
  using Left = LeftTile;
  using Right = RightTile;
  struct Sum {
    float at[4];
  };

  static __device__ Left left_of(const float (&x)[2][2]) {
    return {{round_to_tf32(x[0][0]), round_to_tf32(x[1][0]), round_to_tf32(x[0][1]), round_to_tf32(x[1][1])}};
  }
  static __device__ Right right_of(const float (&x)[2]) { return {{round_to_tf32(x[0]), round_to_tf32(x[1])}}; }
  static __device__ Sum from(const float (&x)[2][2]) { return {{x[0][0], x[0][1], x[1][0], x[1][1]}}; }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b, int = 0) { multiply_tf32(sum.at, a, b); }
  static __device__ float value(const Sum& sum, int i) { return sum.at[i]; }
};

struct Bf16 {
  static constexpr int depth = 16;
  using Left = LeftTile;
  using Right = RightTile;
  using Sum = Tf32::Sum;

  template <class At>
  static __device__ Left left(const At& at) {
    const int row = lane_group(), k = 2 * lane_member();
    const auto pair = [&](int r, int i) { return round_to_bf16_pair(at(r, i), at(r, i + 1)); };
    return {{pair(row, k), pair(row + 8, k), pair(row, k + 8), pair(row + 8, k + 8)}};
  }
  template <class At>
  static __device__ Right right(const At& at) {
    const int column = lane_group(), k = 2 * lane_member();
    const auto pair = [&](int i) { return round_to_bf16_pair(at(i, column), at(i + 1, column)); };
    return {{pair(k), pair(k + 8)}};
  }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b) { multiply_bf16(sum.at, a, b); }
  static __device__ float value(const Sum& sum, int i) { return sum.at[i]; }
};

struct ShortBf16 : EightDeep<ShortBf16> {
  static constexpr int instructions = 1;
  using Left = LeftTile;
  using Right = RightTile;
  using Sum = Tf32::Sum;

  static __device__ Left left_of(const float (&x)[2][2]) {
    return {{round_to_bf16_pair(x[0][0], x[0][1]), round_to_bf16_pair(x[1][0], x[1][1])}};
  }
  static __device__ Right right_of(const float (&x)[2]) { return {{round_to_bf16_pair(x[0], x[1])}}; }
  static __device__ Sum from(const float (&x)[2][2]) { return Tf32::from(x); }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b, int = 0) {
    multiply_short_bf16(sum.at, a, b);
  }
  static __device__ float value(const Sum& sum, int i) { return sum.at[i]; }
};

// x = high + low to 22 bits; of the four products low * low is left out. The sums of high * high are kept apart, for
// two reasons: with an infinite factor they alone have the right limit (low is NaN), and small terms are not lost in
// large sums. Factors above 3.4011e38 round to infinity.
struct Tf32x3 : EightDeep<Tf32x3> {
  static constexpr int instructions = 3;
  struct Left {
    LeftTile high, low;
  };
  struct Right {
    RightTile high, low;
  };
  struct Sum {
    float high[4], rest[4];
  };

  static __device__ void split(float x, uint32_t& high, uint32_t& low) {
    high = round_to_tf32(x);
    low = round_to_tf32(x - of_tf32(high));
  }
  static __device__ Left left_of(const float (&x)[2][2]) {
    Left tile;
#pragma unroll
    for (int i = 0; i < 4; ++i) split(x[i % 2][i / 2], tile.high.at[i], tile.low.at[i]);
    return tile;
  }
  static __device__ Right right_of(const float (&x)[2]) {
    Right tile;
#pragma unroll
    for (int i = 0; i < 2; ++i) split(x[i], tile.high.at[i], tile.low.at[i]);
    return tile;
  }
  static __device__ Sum from(const float (&x)[2][2]) { return {{x[0][0], x[0][1], x[1][0], x[1][1]}, {}}; }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b, int i) {
    if (i == 0) multiply_tf32(sum.rest, a.low, b.high);
    if (i == 1) multiply_tf32(sum.rest, a.high, b.low);
    if (i == 2) multiply_tf32(sum.high, a.high, b.high);
  }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b) {
#pragma unroll
    for (int i = 0; i < instructions; ++i) multiply(sum, a, b, i);
  }
  static __device__ float value(const Sum& sum, int i) {
    const float high = sum.high[i];
    return magnitude(high) < infinity<float>() ? high + sum.rest[i] : high;
  }
};

// Factors and sums without rounding, by plain multiplications, which every device has: 16 x 8 x 1.
template <class T>
struct Plain {
  static constexpr int depth = 1;
  struct Left {
    T at[2];
  };
  struct Right {
    T at[2];
  };
  struct Sum {
    T at[4];
  };

  template <class At>
  static __device__ Left left(const At& at) {
    return {{at(lane_group(), 0), at(lane_group() + 8, 0)}};
  }
  template <class At>
  static __device__ Right right(const At& at) {
    return {{at(0, 2 * lane_member()), at(0, 2 * lane_member() + 1)}};
  }
  static __device__ void multiply(Sum& sum, const Left& a, const Right& b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.at[i] += a.at[i / 2] * b.at[i % 2];
  }
  static __device__ T value(const Sum& sum, int i) { return sum.at[i]; }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
