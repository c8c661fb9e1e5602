// Helpers of all kernels: checked launches, warp and block sums in a fixed order, 16-byte packs.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../formulas.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

constexpr int kThreads = 256;

inline void check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear the error, so that the next call does not report it again
  throw std::runtime_error(std::string(operation) + ": CUDA says: " + cudaGetErrorString(status));
}

// Launches on the caller's stream and checks the launch. `shared`: bytes of dynamic shared memory.
template <class... Parameters, class... Arguments>
void launch_sharing(const char* operation, void (*kernel)(Parameters...), int blocks, size_t shared, void* stream,
                    Arguments... arguments) {
  constexpr size_t kUnasked = 48 << 10;
  if (shared > kUnasked)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), operation);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), operation);
}

template <class... Parameters, class... Arguments>
void launch(const char* operation, void (*kernel)(Parameters...), int blocks, void* stream, Arguments... arguments) {
  launch_sharing(operation, kernel, blocks, 0, stream, arguments...);
}

// `name` refers to an object of this type in the shared memory of the block. Tests emulate kernels on a processor,
// where the emulator (tests/simt) brings a definition of its own.
#ifndef FASTGAN_SHARED
template <class T>
struct Itself {
  using type = T;
};
#define FASTGAN_SHARED(name, ...) __shared__ typename Itself<__VA_ARGS__>::type name
#define FASTGAN_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// Adjacent elements that one instruction loads or stores: up to 16 bytes.
template <class S, int count = 16 / int(sizeof(S))>
struct alignas(sizeof(S) * count < 16 ? sizeof(S) * count : 16) Pack {
  S at[count];
};

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// ---------------------------------------------------------------- indices of threads

constexpr int64_t kMaxBlocks = 1024;  // several blocks for each multiprocessor; threads loop over the rest

// Blocks for n independent work items in a grid-stride loop.
inline int blocks_for(int64_t n) { return int(n < kMaxBlocks * kThreads ? (n + kThreads - 1) / kThreads : kMaxBlocks); }

__device__ inline int64_t global_thread() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }
__device__ inline int64_t grid_threads() { return int64_t(gridDim.x) * kThreads; }

// The sum over a warp, valid in every lane, all of which must take part.
template <class T>
__device__ T warp_sum(T x) {
  for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
  return x;
}

// The largest number of a warp likewise; NaN if one is.
template <class T>
__device__ T warp_largest(T x) {
  for (int bits = 16; bits > 0; bits /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, bits));
  return x;
}

// The sum over a block, valid in thread 0. Every step's order is fixed; no atomics.
__device__ inline double block_sum(double x) {
  FASTGAN_SHARED(warps, double[kThreads / 32]);
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_down_sync(0xffffffffu, x, distance);
  __syncthreads();  // `warps` may still be read by a previous call
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int w = 0; w < kThreads / 32; ++w) total += warps[w];
  return total;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
