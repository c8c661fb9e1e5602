// The CUDA functions in a build without nvcc: they throw. fastgan/_backend.py never calls them.
#include <stdexcept>

#include "launchers.h"

namespace fastgan {

std::string cuda_version() { return ""; }
std::string cuda_problem() { return "fastgan was built without CUDA"; }

namespace {
[[noreturn]] void refuse() { throw std::runtime_error(cuda_problem()); }
}  // namespace

int64_t cuda_partials(int64_t, int64_t) { return 0; }
int64_t cuda_layer_partials(int64_t, int64_t) { return 0; }
int64_t cuda_loss_metrics_sums(int64_t) { return 0; }
void cuda_pair_loss(int, const LossTerm&, const LossTerm&, void*, double*, void*) { refuse(); }
void cuda_pointwise(int, const void*, void*, int64_t, int, double, int, void*) { refuse(); }
void cuda_scale(int, void*, int64_t, const void*, void*) { refuse(); }
void cuda_random_fill(int, void*, int64_t, Distribution, uint64_t, uint32_t, StepIndex, uint32_t, int64_t, void*) {
  refuse();
}
void cuda_to_sphere(int, void*, int64_t, int64_t, void*) { refuse(); }
void cuda_dropout(int, const void*, void*, int64_t, int64_t, double, DropoutSeed, uint32_t, void*) { refuse(); }
void cuda_draw_dropout_seeds(StepIndex, int, uint64_t, uint64_t*, int, void*) { refuse(); }
void cuda_gather(int, const void*, int64_t, int64_t, void*, int64_t, uint64_t, StepIndex, void*) { refuse(); }
void cuda_gather_labels(int, const int32_t*, int64_t, int64_t, void*, int64_t, uint64_t, StepIndex, void*) { refuse(); }
void cuda_draw_labels(int, const TablePlan&, int32_t*, int64_t, void*, int64_t, uint64_t, uint32_t, StepIndex, void*) {
  refuse();
}
void cuda_gather_sampled(int, const TablePlan&, const void*, int64_t, int64_t, const int32_t*, void*, int64_t, uint64_t,
                         uint32_t, StepIndex, void*) {
  refuse();
}
void cuda_cross_entropy(int, const TablePlan&, const int32_t*, const void*, void*, void*, int64_t, int64_t, double,
                        void*) {
  refuse();
}
void cuda_layer_forward(int, const LayerPass&, const LayerForward&, void*) { refuse(); }
void cuda_layer_backward(int, const LayerPass&, const LayerBackward&, void*) { refuse(); }
void cuda_small_mlp_forward(int, const SmallMlpCall&, void*) { refuse(); }
void cuda_small_mlp_backward(int, const SmallMlpCall&, void*) { refuse(); }
void cuda_norm_forward(int, const NormPass&, const void*, void*, void*) { refuse(); }
void cuda_norm_backward(int, const NormPass&, const void*, void*, void*, void*, bool, void*) { refuse(); }
void cuda_heads_forward(int, const HeadsPass&, const void*, void*, void*) { refuse(); }
void cuda_heads_backward(int, const HeadsPass&, const void*, void*, void*) { refuse(); }
void cuda_loss_metrics(int, const std::vector<LossInput>&, int64_t, double, double*, void*) { refuse(); }
void cuda_record(int, StepCounter*, double*, int64_t, const double*, const double*, int64_t, double, const void*,
                 int64_t, const void*, int64_t, void*) {
  refuse();
}
void cuda_interpolate(int, const void*, const void*, void*, int64_t, int64_t, int, uint64_t, StepIndex, void*) {
  refuse();
}
void cuda_penalty_grad(int, const void*, void*, void*, int64_t, int64_t, int, double, void*) { refuse(); }
void cuda_second_order(int, const SecondOrderPass&, void*) { refuse(); }
void cuda_update(int, const UpdatePlan&, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_ema(int, double, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_copy(int, Predicate, const StepCounter*, const std::vector<ParameterUpdate>&, void*) { refuse(); }
void cuda_inspect(int, StepCounter*, const double*, int64_t, int64_t, const std::vector<ParameterUpdate>&, void*) {
  refuse();
}
void cuda_count_skipped(StepCounter*, bool, bool, void*) { refuse(); }
void cuda_bound_norms(int, void*, int64_t, int64_t, double, void*) { refuse(); }
void cuda_empty(int, void*) { refuse(); }
void cuda_barrier_loop(int, int64_t, int32_t*, void*) { refuse(); }
void cuda_train(int, const std::vector<CudaMember>&, const CudaLimits&, const Allocate&, void*) { refuse(); }
CudaLimits cuda_train_needs(int, const TrainPlan&, const CudaLimits&) { refuse(); }

}  // namespace fastgan
