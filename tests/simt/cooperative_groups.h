// The groups of threads beyond a block: the whole grid of a cooperative launch, and clusters of blocks.
#pragma once
#include "cuda_runtime.h"

#define _CG_HAS_CLUSTER_GROUP  // as CUDA's own header says on Hopper

namespace cooperative_groups {

struct grid_group {
  void sync(SIMT_PLACE) const { simt::barrier(simt::Scope::grid, {file, line}); }
};

struct cluster_group {
  void sync(SIMT_PLACE) const { simt::barrier(simt::Scope::cluster, {file, line}); }
  unsigned block_rank() const { return unsigned(simt::cluster_rank()); }
  unsigned num_blocks() const { return unsigned(simt::cluster_size()); }
  template <class T>
  T* map_shared_rank(T* object, int rank) const {
    return static_cast<T*>(simt::map_shared_rank(object, rank));
  }
};

inline grid_group this_grid() { return {}; }
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
