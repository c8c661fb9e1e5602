// What nothing can be faster than, for fastgan/benchmark/floors.py to time: launches of an empty kernel, and barriers.
#include "cluster.cuh"
#include "kernels.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

__global__ void empty() {}

// Each thread tells, after all barriers, what the next thread of the next block had to say before them.
template <bool cluster>
__global__ void __launch_bounds__(kThreads) meet(int64_t barriers, int32_t* __restrict__ heard) {
  FASTGAN_SHARED(said, int32_t[kThreads]);
  said[threadIdx.x] = int32_t(global_thread());
  for (int64_t i = 0; i < barriers; ++i) cluster ? cluster_barrier() : __syncthreads();
  const int next = int(threadIdx.x + 1) % kThreads;
  heard[global_thread()] = cluster ? of_block(&said[next], (cluster_rank() + 1) % cluster_size())[0] : said[next];
  if (cluster) cluster_barrier();  // nobody leaves while others look
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_empty(int launches, void* stream) {
  for (int i = 0; i < launches; ++i) launch("empty", empty, 1, stream);
}

void cuda_meet(int blocks, int64_t barriers, int32_t* heard, void* stream) {
  if (blocks == 0) return launch("meet", meet<false>, 1, stream, barriers, heard);
  cudaLaunchAttribute size;
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = unsigned(blocks), size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &size, config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, meet<true>, barriers, heard), "meet");
}

}  // namespace fastgan
