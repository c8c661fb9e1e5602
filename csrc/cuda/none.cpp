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
int64_t cuda_judge_sums(int64_t) { return 0; }
void cuda_pair_loss(int, const LossTerm&, const LossTerm&, void*, double*, void*) { refuse(); }
void cuda_pointwise(int, const void*, void*, int64_t, int, double, int, void*) { refuse(); }
void cuda_scale(int, void*, int64_t, const void*, void*) { refuse(); }
void cuda_random_fill(int, void*, int64_t, Draw, uint64_t, uint32_t, Count, uint32_t, int64_t, void*) { refuse(); }
void cuda_to_sphere(int, void*, int64_t, int64_t, void*) { refuse(); }
void cuda_dropout(int, const void*, void*, int64_t, int64_t, double, Key, uint32_t, void*) { refuse(); }
void cuda_draw_keys(Count, int, uint64_t, uint64_t*, int, void*) { refuse(); }
void cuda_gather(int, const void*, int64_t, int64_t, void*, int64_t, uint64_t, Count, void*) { refuse(); }
void cuda_layer_forward(int, const LayerPass&, const LayerForward&, void*) { refuse(); }
void cuda_layer_backward(int, const LayerPass&, const LayerBackward&, void*) { refuse(); }
void cuda_network_forward(int, const NetworkCall&, void*) { refuse(); }
void cuda_network_backward(int, const NetworkCall&, void*) { refuse(); }
void cuda_norm_forward(int, const NormPass&, const void*, void*, void*) { refuse(); }
void cuda_norm_backward(int, const NormPass&, const void*, void*, void*, void*, bool, void*) { refuse(); }
void cuda_judge(int, const std::vector<JudgeSection>&, int64_t, double, double*, void*) { refuse(); }
void cuda_record(int, Clock*, double*, int64_t, const double*, const double*, int64_t, double, const void*, int64_t, void*) {
  refuse();
}
void cuda_between(int, const void*, const void*, void*, int64_t, int64_t, int, uint64_t, Count, void*) { refuse(); }
void cuda_turn(int, const void*, void*, void*, int64_t, int64_t, int, double, void*) { refuse(); }
void cuda_bend(int, const BendPass&, void*) { refuse(); }
void cuda_update(int, const UpdatePlan&, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_average(int, double, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_copy(int, Gate, const Clock*, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_inspect(int, Clock*, const double*, int64_t, int64_t, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_settle(Clock*, bool, bool, void*) { refuse(); }
void cuda_bound_norms(int, void*, int64_t, int64_t, double, void*) { refuse(); }
void cuda_empty(int, void*) { refuse(); }
void cuda_meet(int, int64_t, int32_t*, void*) { refuse(); }
void cuda_train(int, const std::vector<CudaMember>&, const CudaRoom&, const Allocate&, void*) { refuse(); }
CudaRoom cuda_train_needs(int, const TrainPlan&, const CudaRoom&) { refuse(); }

}  // namespace fastgan
