// Counter-based noise and dropout masks on the CPU.
#include <algorithm>

#include "../dtypes.h"
#include "dispatch.h"
#include "noise.h"
#include "parallel.h"
#include "philox_vectors.h"
#include "team_choice.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

constexpr int kLanes = 16;                           // Philox blocks computed at once, in vectors
constexpr int64_t kBlocks = 1024;                    // of one task
constexpr int64_t kParallelThreshold = 4 * kBlocks;  // blocks from which on threads are faster

template <class T>
void fill(T* out, int64_t n, bool normal, const Stream& stream, int64_t offset, int threads) {
  static constinit TeamChoice choices[2];
  const int64_t numbers = 4 * kBlocks;
  choices[normal].run(n < 4 * kParallelThreshold ? 1 : threads, n, [&](int chosen) {
    parallel_for(chosen, (n + numbers - 1) / numbers, [&](int64_t task) {
      const int64_t first = task * numbers;
      fill_random(out + first, std::min(numbers, n - first), normal, stream, offset + first);
    });
  });
}

template <class T>
void drop(const T* x, T* out, int64_t rows, int64_t features, double p, const Stream& stream, int threads) {
  const int64_t quads = (features + 3) / 4;
  const MaskFactors<T> factors(p);
  const int64_t rows_a_task = std::max<int64_t>(1, kBlocks / std::max<int64_t>(1, quads));
  const auto drop_rows = [&](int64_t task) {
    using S = Simd<T>;
    uint32_t words[4][kLanes];
    T values[4][kLanes], mask[kLanes][4];
    const int64_t end = std::min((task + 1) * rows_a_task, rows);
    for (int64_t row = task * rows_a_task; row < end; ++row)
      for (int64_t q = 0; q < quads; q += kLanes) {
        blocks<kLanes>(stream, uint64_t(row * quads + q), 1, words);
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < kLanes; j += S::width) S::store(&values[i][j], factors(&words[i][j]));
        transpose(&values[0][0], kLanes, 4, kLanes, &mask[0][0], 4);
        const int64_t at = row * features + 4 * q, count = std::min<int64_t>(4 * kLanes, features - 4 * q);
        for (int64_t i = 0; i < count; ++i) out[at + i] = x[at + i] * (&mask[0][0])[i];
      }
  };
  static constinit TeamChoice choice;
  choice.run(rows * quads < kParallelThreshold ? 1 : threads, rows * quads,
             [&](int chosen) { parallel_for(chosen, (rows + rows_a_task - 1) / rows_a_task, drop_rows); });
}

}  // namespace

template <class T>
void fill_random(T* out, int64_t n, bool normal, const Stream& stream, int64_t offset) {
  constexpr int lanes = kLanes;
  T values[4][lanes], numbers[lanes][4];
  uint32_t words[4][lanes];
  for (int64_t block = offset / 4; 4 * block < offset + n; block += lanes) {
    blocks<lanes>(stream, uint64_t(block), 1, words);
    if (normal)
      for (int pair = 0; pair < 4; pair += 2)
        for (int j = 0; j < lanes; ++j)
          normal_pair(words[pair][j], words[pair + 1][j], values[pair][j], values[pair + 1][j]);
    else
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < lanes; ++j) values[i][j] = unit_interval<T>(words[i][j]);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < lanes; ++j) numbers[j][i] = values[i][j];
    const int64_t first = std::max(offset, 4 * block), last = std::min(offset + n, 4 * (block + lanes));
    std::copy_n(&numbers[0][0] + (first - 4 * block), last - first, out + (first - offset));
  }
}

template void fill_random(float*, int64_t, bool, const Stream&, int64_t);
template void fill_random(double*, int64_t, bool, const Stream&, int64_t);

void random_fill(int dtype, void* out, int64_t n, bool normal, uint64_t seed, uint32_t purpose, uint64_t step,
                 uint32_t substream, int64_t offset, int threads) {
  const Stream stream{seed, purpose, substream, step};
  if (DType(dtype) == DType::f64)
    fill(static_cast<double*>(out), n, normal, stream, offset, threads);
  else
    fill(static_cast<float*>(out), n, normal, stream, offset, threads);
}

void dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p, uint64_t dropout_seed,
             uint32_t substream, int threads) {
  const Stream stream{dropout_seed, purpose::dropout, substream, 0};
  if (DType(dtype) == DType::f64)
    drop(static_cast<const double*>(x), static_cast<double*>(out), rows, features, p, stream, threads);
  else
    drop(static_cast<const float*>(x), static_cast<float*>(out), rows, features, p, stream, threads);
}

}  // namespace fastgan::inline FASTGAN_ISA
