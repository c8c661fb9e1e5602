// Random numbers on CUDA: noise, dropout masks and their seeds, the rows of a minibatch. A thread draws a block of four
// words of the stream the CPU draws from; a captured launch reads the step of the stream from the step counter.
#include <algorithm>

#include "../dtypes.h"
#include "device.cuh"
#include "launchers.h"
#include "mask.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// ---------------------------------------------------------------- kernels: noise and masks

template <class T, Distribution distribution>
__global__ void __launch_bounds__(kThreads) fill(T* __restrict__ out, int64_t n, uint64_t seed, uint32_t purpose,
                                                 uint32_t substream, StepIndex step, int64_t offset, bool aligned) {
  const Stream stream{seed, purpose, substream, uint64_t(step.get())};
  const int64_t first = offset / 4, blocks = (offset + n + 3) / 4 - first;
  for (int64_t i = global_thread(); i < blocks; i += grid_threads()) {
    const Words words = stream.block(uint64_t(first + i));
    Pack<T, 4> numbers;
    if constexpr (distribution == Distribution::normal) {
      normal_numbers(words, numbers.at);
    } else {
      uniform_numbers(words, numbers.at);
    }
    if constexpr (distribution == Distribution::centred) {
#pragma unroll
      for (int j = 0; j < 4; ++j) numbers.at[j] = centred(numbers.at[j]);
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

// Scales rows to unit length; one warp for each row.
template <class T>
__global__ void __launch_bounds__(kThreads) to_sphere(T* __restrict__ z, int64_t rows, int64_t features) {
  for (int64_t row = global_thread() / 32; row < rows; row += grid_threads() / 32) {
    T square = T(0);
    for (int64_t f = threadIdx.x % 32; f < features; f += 32) square += z[row * features + f] * z[row * features + f];
    const T length = std::sqrt(warp_sum(square));
    for (int64_t f = threadIdx.x % 32; f < features; f += 32) z[row * features + f] /= length;
  }
}

// Packed: the number of features is a multiple of 4, so no division is needed, and four elements are loaded together.
template <class S, bool packed>
__global__ void __launch_bounds__(kThreads)
    drop(const S* __restrict__ x, S* __restrict__ out, int64_t rows, int64_t features, Mask<Compute<S>> mask) {
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

// ---------------------------------------------------------------- kernels: dropout seeds, rows and labels

// The seeds of the dropout masks of iterations to come; dropout_seeds: (iterations, each).
__global__ void __launch_bounds__(kThreads) draw_dropout_seeds(StepIndex iteration, int64_t iterations, uint64_t seed,
                                                               uint64_t* __restrict__ dropout_seeds, int each) {
  for (int64_t i = global_thread(); i < iterations * each; i += grid_threads())
    dropout_seeds[i] = dropout_seed(seed, iteration.get() + i / each, i % each);
}

// Rows of a draw, as the keyed shuffle of their epoch orders them; a warp copies one.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather(const T* __restrict__ data, int64_t rows, int64_t features, T* __restrict__ out, int64_t wanted,
           uint64_t seed, StepIndex number) {
  const int64_t batches = rows / wanted, draw = number.get();
  const Permutation shuffle(uint64_t(rows), seed, purpose::rows, uint64_t(draw / batches));
  for (int64_t i = global_thread() / 32; i < wanted; i += grid_threads() / 32) {
    const auto row = int64_t(shuffle(uint64_t(draw % batches * wanted + i)));
    for (int64_t f = threadIdx.x % 32; f < features; f += 32) out[i * features + f] = data[row * features + f];
  }
}

// The labels of those rows, one-hot: out (wanted, classes).
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_labels(const int32_t* __restrict__ labels, int64_t rows, int64_t classes, T* __restrict__ out,
                  int64_t wanted, uint64_t seed, StepIndex number) {
  const int64_t batches = rows / wanted, draw = number.get();
  const Permutation shuffle(uint64_t(rows), seed, purpose::rows, uint64_t(draw / batches));
  for (int64_t row = global_thread() / 32; row < wanted; row += grid_threads() / 32) {
    const int64_t label = labels[int64_t(shuffle(uint64_t(draw % batches * wanted + row)))];
    for (int64_t c = threadIdx.x % 32; c < classes; c += 32) out[row * classes + c] = T(c == label);
  }
}

}  // namespace
}  // namespace FASTGAN_ISA

// ---------------------------------------------------------------- launchers

void cuda_random_fill(int dtype, void* out, int64_t n, Distribution distribution, uint64_t seed, uint32_t purpose,
                      StepIndex step, uint32_t substream, int64_t offset, void* stream) {
  if (n == 0) return;
  const int blocks = blocks_for((n + 6) / 4);
  const auto run = [&](auto type) {
    using T = decltype(type);
    const bool aligned = offset % 4 == 0 && is_aligned(out);
    const auto kernel = distribution == Distribution::normal    ? fill<T, Distribution::normal>
                        : distribution == Distribution::centred ? fill<T, Distribution::centred>
                                                                : fill<T, Distribution::uniform>;
    launch("random", kernel, blocks, stream, static_cast<T*>(out), n, seed, purpose, substream, step, offset, aligned);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_to_sphere(int dtype, void* z, int64_t rows, int64_t features, void* stream) {
  if (rows * features == 0) return;
  if (DType(dtype) == DType::f64)
    launch("random", to_sphere<double>, blocks_for(32 * rows), stream, static_cast<double*>(z), rows, features);
  else
    launch("random", to_sphere<float>, blocks_for(32 * rows), stream, static_cast<float*>(z), rows, features);
}

void cuda_dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p,
                  DropoutSeed dropout_seed, uint32_t substream, void* stream) {
  if (rows * features == 0) return;
  with_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    const Mask<Compute<S>> mask(p, dropout_seed, substream, features);
    const bool packed = features % 4 == 0 && is_aligned(x) && is_aligned(out);
    launch("dropout", packed ? drop<S, true> : drop<S, false>, blocks_for(rows * mask.quads), stream,
           static_cast<const S*>(x), static_cast<S*>(out), rows, features, mask);
  });
}

void cuda_draw_dropout_seeds(StepIndex iteration, int iterations, uint64_t seed, uint64_t* dropout_seeds, int each,
                             void* stream) {
  if (iterations == 0 || each == 0) return;
  launch("dropout_seeds", draw_dropout_seeds, blocks_for(int64_t(iterations) * each), stream, iteration,
         int64_t(iterations), seed, dropout_seeds, each);
}

void cuda_gather(int dtype, const void* data, int64_t rows, int64_t features, void* out, int64_t wanted, uint64_t seed,
                 StepIndex draw, void* stream) {
  if (wanted * features == 0) return;
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("rows", gather<T>, blocks_for(32 * wanted), stream, static_cast<const T*>(data), rows, features,
           static_cast<T*>(out), wanted, seed, draw);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_gather_labels(int dtype, const int32_t* labels, int64_t rows, int64_t classes, void* out, int64_t wanted,
                        uint64_t seed, StepIndex draw, void* stream) {
  if (wanted * classes == 0) return;
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("labels", gather_labels<T>, blocks_for(32 * wanted), stream, labels, rows, classes, static_cast<T*>(out),
           wanted, seed, draw);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
