// The CUDA functions that the bindings call. Without nvcc, none.cpp defines them to throw.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../step_counter.h"
#include "../cpu/dispatch.h"
#include "../train.h"

namespace fastgan {

std::string cuda_version();  // of the toolkit it was built with; empty: built without CUDA
std::string cuda_problem();  // why kernels cannot run on the current device; empty: they can

int64_t cuda_partials(int64_t m, int64_t n);  // doubles of scratch a pair_loss needs
void cuda_pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, double* partial, void* stream);
void cuda_pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order,
                    void* stream);
void cuda_scale(int dtype, void* x, int64_t n, const void* factor, void* stream);  // x *= a scalar of the device

// On (0, 1); N(0, 1); uniform with mean 0 and variance 1.
FASTGAN_ENUM(enum class, Distribution, uniform, normal, centred)
void cuda_random_fill(int dtype, void* out, int64_t n, Distribution distribution, uint64_t seed, uint32_t purpose,
                      StepIndex step, uint32_t substream, int64_t offset, void* stream);
void cuda_to_sphere(int dtype, void* z, int64_t rows, int64_t features, void* stream);  // scales rows to unit length
void cuda_dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p,
                  DropoutSeed dropout_seed, uint32_t substream, void* stream);
// Draws dropout seeds, `each` for every iteration. Gathers the rows of a shuffled minibatch from `data` (rows,
// features), and their one-hot labels.
void cuda_draw_dropout_seeds(StepIndex iteration, int iterations, uint64_t seed, uint64_t* dropout_seeds, int each,
                             void* stream);
void cuda_gather(int dtype, const void* data, int64_t rows, int64_t features, void* out, int64_t wanted, uint64_t seed,
                 StepIndex draw, void* stream);
void cuda_gather_labels(int dtype, const int32_t* labels, int64_t rows, int64_t classes, void* out, int64_t wanted,
                        uint64_t seed, StepIndex draw, void* stream);

// Training-by-sampling. `scalars` are those of all rows of the table; purpose and step name the stream of a draw.
void cuda_draw_labels(int dtype, const TablePlan& table, int32_t* labels, int64_t classes, void* condition,
                      int64_t wanted, uint64_t seed, uint32_t purpose, StepIndex step, void* stream);
void cuda_gather_sampled(int dtype, const TablePlan& table, const void* scalars, int64_t rows, int64_t features,
                         const int32_t* labels, void* out, int64_t wanted, uint64_t seed, uint32_t purpose,
                         StepIndex step, void* stream);
void cuda_cross_entropy(int dtype, const TablePlan& table, const int32_t* labels, const void* logits, void* grad,
                        void* entropies, int64_t rows, int64_t features, double scale, void* stream);

// The operations between the matrix products of an MLP. Matrices are row-major. Null addresses: not computed, or
// absent.
struct LayerPass {
  int64_t rows, units;
  int pieces, activation;
  double negative_slope, dropout;
  DropoutSeed dropout_seed;
  uint32_t substream;
};
struct LayerForward {
  const void *product, *bias;  // (rows, units * pieces), (units * pieces,)
  void* before;                // product + bias, if the derivative needs it; may be `product`
  void* output;                // (rows, units); may be `product` if there is one piece
  int32_t* winner;             // (rows, units): the largest piece of maxout
  void* dropped;               // output times the mask; maxout has none
};
struct LayerBackward {
  // (rows, units): the gradient of the layer's result; its output, or the activation's input (`before`).
  const void *grad, *saved;
  const int32_t* winner;
  void *grad_product, *grad_bias;
  double* partial;  // cuda_layer_partials of them, if grad_bias is computed
  // For double backward: the gradient of grad_product, and the resulting gradient of `grad`. grad_product and grad_bias
  // are then the gradients through the activation's derivative.
  const void* grad_grad;
  void* to_grad;
};
int64_t cuda_layer_partials(int64_t rows, int64_t columns);
void cuda_layer_forward(int dtype, const LayerPass& pass, const LayerForward& call, void* stream);
void cuda_layer_backward(int dtype, const LayerPass& pass, const LayerBackward& call, void* stream);

// A small MLP as a whole, in one launch forward and two backward. Null addresses: not computed, or absent. Backward
// reads what forward stored.
struct SmallMlpLayer {
  int64_t units;
  int pieces, activation;
  double negative_slope, dropout;
  const void *weight, *bias;  // (units * pieces, inputs), (units * pieces,)
  void *before, *output;
  int32_t* winner;
  void* dropped;
  void *grad_product, *grad_weight, *grad_bias;  // the first is scratch, of (rows, units * pieces)
};
struct SmallMlpCall {
  int64_t rows, inputs;
  double input_dropout;
  uint64_t dropout_seed;
  int lowest;  // the last layer that the backward pass reaches
  const void* x;
  void* dropped_input;  // x times the mask
  void* y;
  const void* grad_y;
  void* grad_x;
  std::vector<SmallMlpLayer> layers;
};
void cuda_small_mlp_forward(int dtype, const SmallMlpCall& call, void* stream);
void cuda_small_mlp_backward(int dtype, const SmallMlpCall& call, void* stream);

// Batch normalisation of (rows, features). Null addresses: absent.
struct NormPass {
  int64_t rows, features;
  double epsilon, momentum;
  const void *bias, *scale, *shift;
  void *running_mean, *running_variance;
  int64_t* batches;
  void *mean, *inverse;  // (features,) of this batch: forward writes them, backward reads them
};
void cuda_norm_forward(int dtype, const NormPass& pass, const void* product, void* out, void* stream);
void cuda_norm_backward(int dtype, const NormPass& pass, const void* product, void* grad, void* grad_scale,
                        void* grad_shift, bool adds, void* stream);

// The heads of a network, one behind the other, of (rows, features). The seed is of the Gumbel noise.
struct HeadsPass {
  int64_t rows, features;
  const HeadPlan* heads;  // on the device
  int64_t count;
  double temperature;
  DropoutSeed seed;
};
static_assert(sizeof(HeadPlan) == 3 * sizeof(int64_t));  // as Python writes them
void cuda_heads_forward(int dtype, const HeadsPass& pass, const void* in, void* out, void* stream);
void cuda_heads_backward(int dtype, const HeadsPass& pass, const void* out, void* grad, void* stream);

// n logits of D, of real rows or of fakes. With `other`, the loss is a function of logits - other.
struct LossInput {
  const void *logits, *other;
  void *grad, *grad_of_other;
  int formula;  // below 0: no loss, only the metrics of D
  double target;
  bool real;
  double threshold;  // logit above which D takes a row for real
};
int64_t cuda_loss_metrics_sums(int64_t n);  // doubles of `sums` for each sub-batch
void cuda_loss_metrics(int dtype, const std::vector<LossInput>& sub_batches, int64_t n, double scale, double* sums,
                       void* stream);
// Writes an iteration's metrics from the sums of D's step (real, fake) and of G's step, and increments the step
// counter. Penalties are added to D's loss, the mean of `conditions` entropies to G's.
void cuda_record(int dtype, StepCounter* counter, double* metrics, int64_t capacity, const double* d, const double* g,
                 int64_t n, double weight, const void* penalties, int64_t penalized, const void* entropies,
                 int64_t conditions, void* stream);

// Gradient penalties, of the kinds of Penalty in csrc/plan.h; letters as in csrc/cpu/penalty.h.
void cuda_interpolate(int dtype, const void* real, const void* fake, void* out, int64_t rows, int64_t features,
                      int kind, uint64_t seed, StepIndex draw, void* stream);
void cuda_penalty_grad(int dtype, const void* g, void* t, void* values, int64_t rows, int64_t features, int kind,
                       double weight, void* stream);
struct SecondOrderPass {
  int64_t n;  // rows times units
  int pieces, activation;
  double negative_slope;
  bool has_second_derivative;  // some activation of the network has one
  const void *saved, *s;
  const int32_t* winner;
  void *e, *tangent, *t;
};
void cuda_second_order(int dtype, const SecondOrderPass& pass, void* stream);

struct ParameterUpdate {
  void *value, *state0, *state1;
  const void* grad;
  int64_t n;
};
// When a launch has an effect: always, or if the current update is rolled back.
FASTGAN_ENUM(enum class, Predicate, always, bad)
struct UpdatePlan {
  OptimizerPlan optimizer;
  const double *rates, *momenta;  // on the device: those of update u are at u % count
  int64_t rate_count, momentum_count;
  StepIndex update;  // from 0, of a step counter
  int player;        // 0: G, 1: D; Adam does not count its skipped updates
};
void cuda_update(int dtype, const UpdatePlan& plan, const std::vector<ParameterUpdate>& parameters, void* stream);
// ema: value += (1 - decay) (grad - value). copy: value = grad. inspect: sets the step counter's flag if a sum is not
// finite, or if a number of `grad` is not finite but that of `value` (null: ignored) is.
void cuda_ema(int dtype, double decay, const std::vector<ParameterUpdate>& parameters, void* stream);
void cuda_copy(int dtype, Predicate predicate, const StepCounter* counter,
               const std::vector<ParameterUpdate>& parameters, void* stream);
void cuda_inspect(int dtype, StepCounter* counter, const double* sums, int64_t count, int64_t stride,
                  const std::vector<ParameterUpdate>& parameters, void* stream);
// Counts a skipped update and clears the flag.
void cuda_count_skipped(StepCounter* counter, bool generator, bool discriminator, void* stream);
void cuda_bound_norms(int dtype, void* weight, int64_t rows, int64_t inputs, double limit, void* stream);

// For the benchmark: a sequence of empty kernels; barriers, at least one, of a cluster of blocks (of one block if
// blocks is 0), after which `received` has a number from each thread's neighbour.
void cuda_empty(int launches, void* stream);
void cuda_barrier_loop(int blocks, int64_t barriers, int32_t* received, void* stream);

// The persistent training engine. All addresses in plans and calls are device addresses. After the last iteration, a
// call's metrics have two more numbers: the updates of both optimisers. No function synchronises with the device.
struct CudaMember {
  const TrainPlan* plan;
  const TrainCall* call;
};
struct CudaLimits {
  int multiprocessors, cluster;  // cluster: blocks that train one GAN
  size_t shared_bytes;           // of a block
  size_t scratch_bytes = 0;      // of a block: buffers that do not fit in shared memory
};
using Allocate = std::function<void*(size_t bytes)>;  // device memory that is valid until the launch has finished
void cuda_train(int dtype, const std::vector<CudaMember>& members, const CudaLimits& device, const Allocate& allocate,
                void* stream);
CudaLimits cuda_train_needs(int dtype, const TrainPlan& plan, const CudaLimits& device);

}  // namespace fastgan
