// Noise and dropout masks on CUDA: a thread draws a block of four words of the stream the CPU draws from.
#include <algorithm>

#include "../dtypes.h"
#include "device.cuh"
#include "kernels.h"
#include "mask.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// ---------------------------------------------------------------- kernels

template <class T, bool normal>
__global__ void __launch_bounds__(kThreads) fill(T* __restrict__ out, int64_t n, Stream stream, int64_t offset,
                                                 bool aligned) {
  const int64_t first = offset / 4, blocks = (offset + n + 3) / 4 - first;
  for (int64_t i = global_thread(); i < blocks; i += grid_threads()) {
    const Words words = stream.block(uint64_t(first + i));
    Pack<T, 4> numbers;
    if constexpr (normal) {
      normal_pair(words.w[0], words.w[1], numbers.at[0], numbers.at[1]);
      normal_pair(words.w[2], words.w[3], numbers.at[2], numbers.at[3]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) numbers.at[j] = unit_interval<T>(words.w[j]);
    }
    const int64_t at = 4 * (first + i) - offset;
    if (aligned && at + 4 <= n) {  // offset is then a multiple of 4, and at not below 0
      reinterpret_cast<Pack<T, 4>*>(out)[i] = numbers;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (at + j >= 0 && at + j < n) out[at + j] = numbers.at[j];
    }
  }
}

// Packed: the features come in whole blocks, so that nothing need be divided, and four of them move together.
template <class S, bool packed>
__global__ void __launch_bounds__(kThreads) drop(const S* __restrict__ x, S* __restrict__ out, int64_t rows,
                                                 int64_t features, Mask<Compute<S>> mask) {
  for (int64_t i = global_thread(); i < rows * mask.quads; i += grid_threads()) {
    Compute<S> factors[4];
    mask.factors(i, factors);
    if constexpr (packed) {
      Pack<S, 4> four = reinterpret_cast<const Pack<S, 4>*>(x)[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) store(four.at[j], load(four.at[j]) * factors[j]);
      reinterpret_cast<Pack<S, 4>*>(out)[i] = four;
    } else {
      const int64_t row = i / mask.quads, column = 4 * (i - row * mask.quads), at = row * features + column;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (column + j < features) store(out[at + j], load(x[at + j]) * factors[j]);
    }
  }
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_random_fill(int dtype, void* out, int64_t n, bool normal, uint64_t seed, uint32_t purpose, uint64_t step,
                      uint32_t substream, int64_t offset, void* stream) {
  if (n == 0) return;
  const Stream numbers{seed, purpose, substream, step};
  const int blocks = blocks_for((n + 6) / 4);
  const auto run = [&](auto type) {
    using T = decltype(type);
    const bool aligned = offset % 4 == 0 && is_aligned(out);
    launch("random", normal ? fill<T, true> : fill<T, false>, blocks, stream, static_cast<T*>(out), n, numbers, offset,
           aligned);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p, uint64_t key,
                  uint32_t substream, void* stream) {
  if (rows * features == 0) return;
  with_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    const Mask<Compute<S>> mask(p, key, substream, features);
    const bool packed = features % 4 == 0 && is_aligned(x) && is_aligned(out);
    launch("dropout", packed ? drop<S, true> : drop<S, false>, blocks_for(rows * mask.quads), stream,
           static_cast<const S*>(x), static_cast<S*>(out), rows, features, mask);
  });
}

}  // namespace fastgan
