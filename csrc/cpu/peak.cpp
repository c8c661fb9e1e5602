// Measures the FMA peak of one core: independent chains of multiply-adds in registers.
#include <algorithm>
#include <chrono>
#include <cmath>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "dispatch.h"
#include "gemm_bf16.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

using Vector = Simd<float>::Vector;
constexpr int kWidth = Simd<float>::width;
constexpr int kSteps =
    2000;  // of a round, about 20 us: shorter than a time slice, much longer than a call of the clock

volatile float factors[2] = {0.5f, 0.25f};  // unknown to the compiler, so that nothing is folded
volatile float kept;

// As many independent chains as a tile of gemm.h has, so that their latency is hidden.
double fp32_round() {
  const Vector x = Vector{} + factors[0], y = Vector{} + factors[1];
  Vector sum[kTileRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) sum[i][0] = y + float(i), sum[i][1] = y - float(i);
  for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      sum[i][0] = sum[i][0] * x + y;
      sum[i][1] = sum[i][1] * x + y;
    }
  Vector total{};
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) total += sum[i][0] + sum[i][1];
  kept = total[0];
  return 2.0 * kWidth * 2 * kTileRows * kSteps;
}

#if defined(__AVX512F__)
// Two products of bfloat16 and their sum go into each float at once.
__attribute__((target("avx512bf16"))) double bf16_round() {
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factors[0]), _mm512_set1_ps(factors[0]));
  const __m512bh y = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factors[1]), _mm512_set1_ps(factors[1]));
  __m512 sum[2 * kTileRows];
#pragma GCC unroll 32
  for (int i = 0; i < 2 * kTileRows; ++i) sum[i] = _mm512_set1_ps(factors[0] + float(i));
  for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 32
    for (int i = 0; i < 2 * kTileRows; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], x, y);
  __m512 total = sum[0];
#pragma GCC unroll 32
  for (int i = 1; i < 2 * kTileRows; ++i) total = _mm512_add_ps(total, sum[i]);
  kept = _mm512_cvtss_f32(total);
  return 4.0 * kWidth * 2 * kTileRows * kSteps;
}
#else
double bf16_round() { return 0; }
#endif

}  // namespace

double fma_peak(double seconds, bool bf16) {
  if (bf16 && !has_bf16()) return 0;
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  double best = 0;
  for (const auto start = Clock::now(); since(start) < seconds;) {
    const auto begun = Clock::now();
    const double operations = bf16 ? bf16_round() : fp32_round();
    best = std::max(best, operations / since(begun));  // the best round; the others were interrupted
  }
  return best;
}

}  // namespace fastgan::inline FASTGAN_ISA
