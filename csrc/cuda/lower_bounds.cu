// Kernels for fastgan/apps/bench/lower_bounds.py: launches of an empty kernel, and barriers.
#include "cluster.cuh"
#include "launchers.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

__global__ void empty() {}

// After all barriers, each thread stores the number that the next thread of the next block wrote before them.
template <bool cluster>
__global__ void __launch_bounds__(kThreads) barrier_loop(int64_t barriers, int32_t* __restrict__ received) {
  FASTGAN_SHARED(sent, int32_t[kThreads]);
  sent[threadIdx.x] = int32_t(global_thread());
  for (int64_t i = 0; i < barriers; ++i) cluster ? cluster_barrier() : __syncthreads();
  const int next = int(threadIdx.x + 1) % kThreads;
  received[global_thread()] = cluster ? of_block(&sent[next], (cluster_rank() + 1) % cluster_size())[0] : sent[next];
  if (cluster) cluster_barrier();  // no block exits while another reads its shared memory
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_empty(int launches, void* stream) {
  for (int i = 0; i < launches; ++i) launch("empty", empty, 1, stream);
}

void cuda_barrier_loop(int blocks, int64_t barriers, int32_t* received, void* stream) {
  if (blocks == 0) return launch("barrier_loop", barrier_loop<false>, 1, stream, barriers, received);
  cudaLaunchAttribute size;
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = unsigned(blocks), size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &size, config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, barrier_loop<true>, barriers, received), "barrier_loop");
}

}  // namespace fastgan
