// Comes before CUDA's own header when the kernels are compiled with g++: the language extensions, the device functions
// and the part of the runtime that csrc/cuda uses, on top of simt.h. What is not here does not compile, which is the
// point.
#pragma once
#include <cstring>
#include <string>
#include <utility>

#include "races.h"
#include "simt.h"

// ---------------------------------------------------------------- the language

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// A lambda's type is another one at each place and in each instantiation: it names the object.
#define FASTGAN_SHARED(name, ...) auto& name = ::simt::shared_object<__VA_ARGS__>([] {})
#define FASTGAN_DYNAMIC_SHARED(name) auto* name = static_cast<unsigned char*>(::simt::dynamic_shared())

using dim3 = simt::Extent;
using simt::blockDim, simt::blockIdx, simt::gridDim, simt::threadIdx;

// ---------------------------------------------------------------- barriers, shuffles, votes

inline void __syncthreads(SIMT_PLACE) { simt::barrier(simt::Scope::block, {file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_PLACE) { simt::exchange(mask, 0, "__syncwarp", {file, line}); }
inline void __threadfence() { simt::give_way(); }

namespace simt {

template <class T>
uint64_t pack(T x) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &x, sizeof x);
  return word;
}

template <class T>
T unpack(uint64_t word) {
  T x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// The value of lane `from`, or the own one where that lies outside the segment of `width` lanes.
template <class T>
T shuffle(unsigned mask, T x, int from, bool inside, const char* operation, Place place) {
  const Lanes& lanes = exchange(mask, pack(x), operation, place);
  if (!inside) return x;
  if (!(lanes.mask >> from & 1u))
    fail("%s at %s:%d reads lane %d, which takes no part", operation, stem(place.file), place.line, from);
  return unpack<T>(lanes.at[from]);
}

inline int segment(int width) { return lane() / width * width; }

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32, SIMT_PLACE) {
  return simt::shuffle(mask, x, simt::segment(width) + (from & (width - 1)), true, "__shfl_sync", {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned distance, int width = 32, SIMT_PLACE) {
  const int from = simt::lane() + int(distance);
  return simt::shuffle(mask, x, from, from < simt::segment(width) + width, "__shfl_down_sync", {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned distance, int width = 32, SIMT_PLACE) {
  const int from = simt::lane() - int(distance);
  return simt::shuffle(mask, x, from, from >= simt::segment(width), "__shfl_up_sync", {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32, SIMT_PLACE) {
  const int from = simt::lane() ^ bits;
  return simt::shuffle(mask, x, from, from < simt::segment(width) + width, "__shfl_xor_sync", {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_PLACE) {
  const simt::Lanes& lanes = simt::exchange(mask, predicate != 0, "__ballot_sync", {file, line});
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (lanes.mask >> i & 1u) && lanes.at[i] ? 1u << i : 0u;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, SIMT_PLACE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_PLACE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

// ---------------------------------------------------------------- atomics: others may come between, never into, them

namespace simt {
template <class T, class Change>
T atomic(T* at, Change change) {
  give_way();
  const Unwatched here;
  const T old = *at;
  *at = change(old);
  return old;
}
}  // namespace simt

template <class T>
T atomicAdd(T* at, T x) {
  return simt::atomic(at, [x](T old) { return T(old + x); });
}
template <class T>
T atomicExch(T* at, T x) {
  return simt::atomic(at, [x](T) { return x; });
}

// ---------------------------------------------------------------- the runtime

#define CUDART_VERSION 13000
using cudaStream_t = struct CUstream_st*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorInvalidConfiguration,
  cudaErrorNoKernelImageForDevice,
  cudaErrorCooperativeLaunchTooLarge
};

namespace simt {
// What the launches of a call did, and which error the next one shall meet.
struct Runtime {
  cudaError_t inject = cudaSuccess, last = cudaSuccess;
  cudaStream_t stream = nullptr;  // the only one a launch may use
  int launches = 0;
  int clusters = 1 << 30;  // that run at once; the caller must query it before it launches clusters, and launch no more
};
extern Runtime runtime;
cudaError_t report(cudaError_t status);
void allow_dynamic_shared(const void* kernel, int bytes);
}  // namespace simt

struct cudaFuncAttributes {
  int maxThreadsPerBlock;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative, cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
namespace simt {
cudaError_t prepare(const cudaLaunchConfig_t& config, const void* kernel, Launch& launch);
cudaError_t clusters_at_once(int* clusters, const cudaLaunchConfig_t& config, const void* kernel);
}  // namespace simt
template <class... P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(P...)) {
  attributes->maxThreadsPerBlock = 1024;
  return simt::report(simt::runtime.inject);
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int value) {
  simt::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}

template <class... P>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*kernel)(P...), const cudaLaunchConfig_t* config) {
  return simt::report(simt::clusters_at_once(clusters, *config, reinterpret_cast<const void*>(kernel)));
}

enum cudaMemcpyKind { cudaMemcpyHostToDevice };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (stream != simt::runtime.stream) simt::fail("a copy on a stream that is not the caller's");
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  simt::Launch launch;
  const cudaError_t status = simt::prepare(*config, reinterpret_cast<const void*>(kernel), launch);
  if (status != cudaSuccess) return simt::report(status);
  [&](P... converted) {
    launch.body = [&] { kernel(converted...); };
    simt::run(launch);
  }(std::forward<A>(arguments)...);
  return cudaSuccess;
}
