// Small kernels that use what the emulator emulates, right and wrong. nvcc compiles them too, so that they also tell
// whether a GPU does the same.
#include <cooperative_groups.h>

#include "cuda/device.cuh"
#include "primitives.h"

namespace cg = cooperative_groups;

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// ---------------------------------------------------------------- right

// Each block turns its 256 numbers round.
__global__ void reverse(const int* in, int* out) {
  FASTGAN_SHARED(tile, int[kThreads]);
  const int at = int(blockIdx.x) * kThreads;
  tile[threadIdx.x] = in[at + int(threadIdx.x)];
  __syncthreads();
  out[at + int(threadIdx.x)] = tile[kThreads - 1 - int(threadIdx.x)];
}

// Through dynamic shared memory, too large for the static kind.
__global__ void rotate(const int* in, int* out, int n) {
  FASTGAN_DYNAMIC_SHARED(memory);
  int* copy = reinterpret_cast<int*>(memory);
  for (int i = int(threadIdx.x); i < n; i += kThreads) copy[i] = in[i];
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += kThreads) out[i] = copy[(i + 1) % n];
}

// Per thread: prefix sum, sum of its group of eight, lane 5's value, the votes for odd numbers, any of them, all of
// them.
__global__ void warp_words(const int* in, int* out) {
  const int i = int(threadIdx.x), lane = i % 32;
  int prefix = in[i], group = in[i];
  for (int d = 1; d < 32; d *= 2) {
    const int below = __shfl_up_sync(kAll, prefix, unsigned(d));
    if (lane >= d) prefix += below;
  }
  for (int d = 4; d > 0; d /= 2) group += __shfl_xor_sync(kAll, group, d, 8);
  out[6 * i + 0] = prefix;
  out[6 * i + 1] = group;
  out[6 * i + 2] = __shfl_sync(kAll, in[i], 5);
  out[6 * i + 3] = int(__ballot_sync(kAll, in[i] % 2));
  out[6 * i + 4] = __any_sync(kAll, in[i] % 2);
  out[6 * i + 5] = __all_sync(kAll, in[i] % 2);
}

// A histogram by atomics; the block that finishes last adds the bins up.
__global__ void count(const int* in, int n, int* bins, int* ticket, int* total) {
  FASTGAN_SHARED(last, int);
  for (int i = int(blockIdx.x) * kThreads + int(threadIdx.x); i < n; i += int(gridDim.x) * kThreads)
    atomicAdd(&bins[in[i]], 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1) == int(gridDim.x) - 1;
  __syncthreads();
  if (last && threadIdx.x == 0)
    for (int b = 0; b < 4; ++b) *total += bins[b];
}

// Every thread adds its right neighbour's number to its own, `rounds` times, the whole grid in step.
__global__ void neighbours(int* a, int* b, int rounds) {
  const int n = int(gridDim.x) * kThreads, i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  for (int r = 0; r < rounds; ++r) {
    b[i] = a[i] + a[(i + 1) % n];
    cg::this_grid().sync();
    a[i] = b[i];
    cg::this_grid().sync();
  }
}

// The blocks of a cluster hand their numbers to the next block through its shared memory.
__global__ void pass_on(const int* in, int* out) {
  FASTGAN_SHARED(mine, int[kThreads]);
  const auto cluster = cg::this_cluster();
  const unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
  cluster.sync();  // the next block has started
  const int i = int(threadIdx.x), at = int(blockIdx.x) * kThreads + i;
  cluster.map_shared_rank(&mine[0], next)[i] = in[at];
  cluster.sync();
  out[at] = mine[i];
}

// ---------------------------------------------------------------- wrong

__global__ void wrong(int fault, int* x, int n) {
  FASTGAN_SHARED(tile, int[kThreads]);
  const int i = int(threadIdx.x);
  tile[i] = i;
  int* const first = tile;  // its bounds are not known to the compiler
  switch (fault) {
    case 0:  // some threads pass a barrier that others never reach
      if (i < 100) __syncthreads();
      break;
    case 1:  // two barriers for one
      if (i < 100)
        __syncthreads();
      else
        __syncthreads();
      break;
    case 2:  // a lane of the mask has ended
      if (i == 3) return;
      x[i] = __shfl_down_sync(kAll, i, 1);
      break;
    case 3:  // a lane that takes no part is read
      if (i % 32 < 16) x[i] = __shfl_down_sync(0x0000ffffu, i, 4);
      break;
    case 4: x[0] = first[kThreads + x[1]]; break;                                 // beyond shared memory
    case 5: first[x[1] - 1] = 7; break;                                           // before it
    case 6: x[n] = 1; break;                                                      // beyond global memory
    case 7: x[0] = x[-1]; break;                                                  // before it
    case 8: x[0] = int(reinterpret_cast<const Pack<int>*>(x + 1)->at[0]); break;  // not aligned
    case 9: x[i] = tile[kThreads - 1 - i]; break;                                 // no barrier
    case 10:
      if (i % 32 == 0) tile[i] = 5;  // no __syncwarp
      x[i] = tile[i / 32 * 32];
      break;
    case 11: cg::this_grid().sync(); break;  // the launch was not cooperative
    case 12: {                               // the other block may have ended
      const auto cluster = cg::this_cluster();
      cluster.sync();
      x[i] = cluster.map_shared_rank(&tile[0], cluster.block_rank() ^ 1u)[i];
      break;
    }
    case 13:  // lanes disagree about which take part
      x[i] = __shfl_sync(i % 32 < 8 ? 0xffu : kAll, i, 0);
      break;
    case 14: x[0] = 2147483647 + x[1] + 1; break;  // an overflow of int
    case 15: x[0] = i; break;                      // which write is last?
  }
}

// `pass_on` without one of its barriers, `neighbours` without its first.
__global__ void wrong_together(int fault, int* x) {
  FASTGAN_SHARED(mine, int[kThreads]);
  const auto cluster = cg::this_cluster();
  const unsigned rank = blockIdx.x, next = rank ^ 1u;  // of two blocks
  const int i = int(threadIdx.x);
  switch (fault) {
    case 16:  // the other block may not have started
      cluster.map_shared_rank(&mine[0], next)[i] = i;
      cluster.sync();
      x[rank * kThreads + i] = mine[i];
      break;
    case 17:  // the other block may not have written yet
      cluster.sync();
      cluster.map_shared_rank(&mine[0], next)[i] = i;
      x[rank * kThreads + i] = mine[i];
      cluster.sync();
      break;
    case 18: {  // the other block may have ended since its address was taken
      int* const other = cluster.map_shared_rank(&mine[0], next);
      mine[i] = i;
      cluster.sync();
      if (rank == 0) x[i] = other[i];
      break;
    }
    case 19:  // the other block may be behind
      x[rank * kThreads + i] = i;
      x[2 * kThreads + rank * kThreads + i] = x[next * kThreads + i];
      cg::this_grid().sync();
      break;
  }
}

__global__ void unwritten(float* x) {
  FASTGAN_SHARED(tile, float[kThreads]);
  x[threadIdx.x] = tile[threadIdx.x];
}

struct Wide {
  int blocks, cluster = 1;
  bool cooperative = false;
  size_t dynamic = 0;
};

template <class... Parameters, class... Arguments>
void launch_wide(const Wide& wide, void (*kernel)(Parameters...), void* stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = wide.cooperative;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = unsigned(wide.cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(wide.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = wide.dynamic;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  if (wide.dynamic)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(wide.dynamic)), "primitives");
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "primitives");
}

}  // namespace
}  // namespace FASTGAN_ISA

void primitive(int number, int blocks, int n, const int* in, int* out, int* more, void* stream) {
  switch (number) {
    case 0: launch("primitives", reverse, blocks, stream, in, out); break;
    case 1: launch_wide({1, 1, false, size_t(n) * sizeof(int)}, rotate, stream, in, out, n); break;
    case 2: launch("primitives", warp_words, 1, stream, in, out); break;
    case 3: launch("primitives", count, blocks, stream, in, n, out, more, more + 1); break;
    case 4: launch_wide({blocks, 1, true}, neighbours, stream, out, more, n); break;
    case 5: launch_wide({blocks, 4}, pass_on, stream, in, out); break;
    case 6: launch("primitives", unwritten, 1, stream, reinterpret_cast<float*>(out)); break;
    case 7: launch("primitives", reverse, 0, stream, in, out); break;  // an empty grid: the launch must be refused
  }
}

void planted_fault(int number, int* x, int n, void* stream) {
  if (number >= 16 && number <= 19) {
    launch_wide({2, number == 19 ? 1 : 2, number == 19}, wrong_together, stream, number, x);
    return;
  }
  launch_wide({number == 12 ? 2 : 1, number == 12 ? 2 : 1}, wrong, stream, number, x, n);
}

}  // namespace fastgan
