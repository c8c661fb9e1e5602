// CUDA's runtime, as far as the kernels' launches use it: which launch a Hopper would refuse, and with what error.
#include <algorithm>
#include <map>

#include "cuda_runtime.h"

namespace simt {

Runtime runtime;

cudaError_t report(cudaError_t status) {
  if (status != cudaSuccess) runtime.last = status;
  return status;
}

static std::map<const void*, int> allowed_dynamic;
void allow_dynamic_shared(const void* kernel, int bytes) { allowed_dynamic[kernel] = bytes; }

static cudaError_t examine(const cudaLaunchConfig_t& config, const void* kernel, Launch& launch) {
  if (runtime.inject != cudaSuccess) return runtime.inject;
  if (config.stream != runtime.stream) fail("a launch on a stream that is not the caller's");
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.dynamic_shared = config.dynamicSmemBytes;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& a = config.attrs[i];
    if (a.id == cudaLaunchAttributeCooperative) launch.cooperative = a.val.cooperative != 0;
    if (a.id == cudaLaunchAttributeClusterDimension)
      launch.cluster = {a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z};
  }
  const Extent &g = launch.grid, &b = launch.block, &c = launch.cluster;
  const bool grid = g.x >= 1 && g.y >= 1 && g.z >= 1 && g.x <= 2147483647u && g.y <= 65535 && g.z <= 65535;
  const bool block = b.count() >= 1 && b.count() <= 1024 && b.z <= 64;
  const bool cluster = c.count() >= 1 && c.count() <= 8 && c.y == 1 && c.z == 1 && g.x % std::max(1u, c.x) == 0;
  // All blocks of a cooperative launch must be on the device at once: of Hopper's 132 multiprocessors.
  const int64_t resident = std::min(int64_t(2048) / std::max<int64_t>(b.count(), 1),
                                    int64_t(kShared + 1024) / int64_t(launch.dynamic_shared + 1024));
  const auto found = allowed_dynamic.find(kernel);
  const size_t most = found == allowed_dynamic.end() ? kStaticShared : size_t(found->second);
  if (!grid || !block || !cluster || launch.dynamic_shared > most || most > kShared)
    return cudaErrorInvalidConfiguration;
  if (launch.cooperative && g.count() > 132 * resident) return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

cudaError_t prepare(const cudaLaunchConfig_t& config, const void* kernel, Launch& launch) {
  const cudaError_t status = examine(config, kernel, launch);
  if (status != cudaSuccess) return status;
  const int64_t size = launch.cluster.count(), clusters = launch.grid.count() / size;
  if (size > 1 && clusters > runtime.clusters)
    fail("a launch of %d clusters, of which %d can run at once", int(clusters), runtime.clusters);
  ++runtime.launches;
  return cudaSuccess;
}

// As CUDA does, only for a launch that could be made, and of clusters.
cudaError_t clusters_at_once(int* clusters, const cudaLaunchConfig_t& config, const void* kernel) {
  Launch launch;
  const cudaError_t status = examine(config, kernel, launch);
  if (status != cudaSuccess) return status;
  *clusters = runtime.clusters;
  return launch.cluster.count() > 1 ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace simt

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorCooperativeLaunchTooLarge: return "too many blocks in cooperative launch";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() {
  const cudaError_t last = simt::runtime.last;
  simt::runtime.last = cudaSuccess;
  return last;
}
