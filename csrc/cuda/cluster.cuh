// Thread block clusters: blocks that access each other's shared memory (from Hopper on; before, a cluster is one
// block).
#pragma once
#include <cooperative_groups.h>

#include "device.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

#ifdef _CG_HAS_CLUSTER_GROUP
__device__ inline int cluster_rank() { return int(cooperative_groups::this_cluster().block_rank()); }
__device__ inline int cluster_size() { return int(cooperative_groups::this_cluster().num_blocks()); }
__device__ inline void cluster_barrier() { cooperative_groups::this_cluster().sync(); }
template <class T>
__device__ T* of_block(T* object, int rank) {  // the same object of shared memory, in another block
  return cooperative_groups::this_cluster().map_shared_rank(object, rank);
}
#else
__device__ inline int cluster_rank() { return 0; }
__device__ inline int cluster_size() { return 1; }
__device__ inline void cluster_barrier() { __syncthreads(); }
template <class T>
__device__ T* of_block(T* object, int) {
  return object;
}
#endif

}  // namespace FASTGAN_ISA
}  // namespace fastgan
