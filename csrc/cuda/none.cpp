// Stands in for the CUDA half where nvcc was not found; fastgan/backend.py never lets a call come this far.
#include <stdexcept>

#include "kernels.h"

namespace fastgan {

std::string cuda_version() { return ""; }
std::string cuda_problem() { return "fastgan was built without CUDA"; }

namespace {
[[noreturn]] void refuse() { throw std::runtime_error(cuda_problem()); }
}  // namespace

int64_t cuda_partials(int64_t, int64_t) { return 0; }
int64_t cuda_layer_partials(int64_t, int64_t) { return 0; }
void cuda_pair_loss(int, const LossTerm&, const LossTerm&, void*, double*, void*) { refuse(); }
void cuda_pointwise(int, const void*, void*, int64_t, int, double, int, void*) { refuse(); }
void cuda_scale(int, void*, int64_t, const void*, void*) { refuse(); }
void cuda_random_fill(int, void*, int64_t, bool, uint64_t, uint32_t, uint64_t, uint32_t, int64_t, void*) { refuse(); }
void cuda_dropout(int, const void*, void*, int64_t, int64_t, double, uint64_t, uint32_t, void*) { refuse(); }
void cuda_layer_forward(int, const LayerPass&, const LayerForward&, void*) { refuse(); }
void cuda_layer_backward(int, const LayerPass&, const LayerBackward&, void*) { refuse(); }
void cuda_network_forward(int, const NetworkCall&, void*) { refuse(); }
void cuda_network_backward(int, const NetworkCall&, void*) { refuse(); }
void cuda_update(int, const OptimizerPlan&, double, double, int64_t, const std::vector<ParameterUpdate>&, void*) {
  refuse();
}

}  // namespace fastgan
