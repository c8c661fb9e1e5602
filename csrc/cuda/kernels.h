// What the CUDA half offers to the bindings. Built without nvcc, none.cpp stands in and says so.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../clock.h"
#include "../cpu/kernels.h"
#include "../train.h"

namespace fastgan {

std::string cuda_version();  // of the toolkit it was built with; empty: built without CUDA
std::string cuda_problem();  // why kernels cannot run on the current device; empty: they can

int64_t cuda_partials(int64_t m, int64_t n);  // doubles of scratch a pair_loss needs
void cuda_pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, double* partial, void* stream);
void cuda_pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, void* stream);
void cuda_scale(int dtype, void* x, int64_t n, const void* factor, void* stream);  // x *= a scalar of the device

enum class Draw : int { uniform, normal, centred };  // on (0, 1); N(0, 1); uniform with mean 0 and variance 1
void cuda_random_fill(int dtype, void* out, int64_t n, Draw draw, uint64_t seed, uint32_t purpose, Count step,
                      uint32_t substream, int64_t offset, void* stream);
void cuda_to_sphere(int dtype, void* z, int64_t rows, int64_t features, void* stream);  // scales rows to unit length
void cuda_dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p, Key key,
                  uint32_t substream, void* stream);
// The masks' keys, `each` an iteration; the rows of a draw, those that `data` (rows, features) holds being shuffled.
void cuda_draw_keys(Count iteration, int iterations, uint64_t seed, uint64_t* keys, int each, void* stream);
void cuda_gather(int dtype, const void* data, int64_t rows, int64_t features, void* out, int64_t wanted, uint64_t seed,
                 Count draw, void* stream);

// What stands between the matrix products of an MLP; all matrices row by row. Addresses: null where not wanted or not there.
struct LayerPass {
  int64_t rows, units;
  int pieces, activation;
  double negative_slope, dropout;
  Key key;
  uint32_t substream;
};
struct LayerForward {
  const void *product, *bias;  // (rows, units * pieces), (units * pieces,)
  void* before;                // product + bias, where the slope needs it; may be `product`
  void* output;                // (rows, units); may be `product` where there is one piece
  int32_t* winner;             // (rows, units), of maxout: which piece was the largest
  void* dropped;               // output under the mask; maxout has none
};
struct LayerBackward {
  const void *grad, *saved;  // (rows, units): of what the layer gave; its output, or what was `before` the activation
  const int32_t* winner;
  void *grad_product, *grad_bias;
  double* partial;  // cuda_layer_partials of them, where grad_bias is wanted
  // Of the second order: the gradient of grad_product, and what of it belongs to `grad`. grad_product and grad_bias then are
  // those of the activation's input through its slope.
  const void* grad_grad;
  void* to_grad;
};
int64_t cuda_layer_partials(int64_t rows, int64_t columns);
void cuda_layer_forward(int dtype, const LayerPass& pass, const LayerForward& call, void* stream);
void cuda_layer_backward(int dtype, const LayerPass& pass, const LayerBackward& call, void* stream);

// A small MLP as a whole, in one launch forward and two backward. Addresses: null where not wanted or not there; matrices
// as above. Backward reads what forward was asked to keep.
struct NetworkLayer {
  int64_t units;
  int pieces, activation;
  double negative_slope, dropout;
  const void *weight, *bias;  // (units * pieces, inputs), (units * pieces,)
  void *before, *output;
  int32_t* winner;
  void *dropped;
  void *grad_product, *grad_weight, *grad_bias;  // the first is scratch, of (rows, units * pieces)
};
struct NetworkCall {
  int64_t rows, inputs;
  double input_dropout;
  uint64_t key;
  int lowest;  // layer that backward ends with
  const void* x;
  void* dropped_input;  // x under the mask
  void* y;
  const void* grad_y;
  void* grad_x;
  std::vector<NetworkLayer> layers;
};
void cuda_network_forward(int dtype, const NetworkCall& call, void* stream);
void cuda_network_backward(int dtype, const NetworkCall& call, void* stream);

// Batch normalisation of (rows, features). Addresses: null where there is none.
struct NormPass {
  int64_t rows, features;
  double epsilon, momentum;
  const void *bias, *scale, *shift;
  void *running_mean, *running_variance;
  int64_t* batches;
  void *mean, *inverse;  // (features,) of this batch: forward writes, backward reads
};
void cuda_norm_forward(int dtype, const NormPass& pass, const void* product, void* out, void* stream);
void cuda_norm_backward(int dtype, const NormPass& pass, const void* product, void* grad, void* grad_scale,
                        void* grad_shift, bool adds, void* stream);

// D's logits of real rows or of fakes, n of each. The loss is one of logits - other, where there is an other.
struct JudgeSection {
  const void *logits, *other;
  void *slope, *slope_of_other;
  int formula;  // below 0: no loss, D's opinion alone
  double target;
  bool real;
};
int64_t cuda_judge_sums(int64_t n);  // doubles of `sums` a section
void cuda_judge(int dtype, const std::vector<JudgeSection>& sections, int64_t n, double scale, double* sums, void* stream);
// The row of metrics that the sums of D's step (real, fake) and of G's step make; then the next iteration begins.
void cuda_record(int dtype, Clock* clock, double* metrics, int64_t capacity, const double* d, const double* g, int64_t n,
                 double weight, const void* penalties, int64_t penalized, void* stream);

// Gradient penalties, of the kinds of Penalty in csrc/plan.h; letters as in csrc/cpu/penalty.h.
void cuda_between(int dtype, const void* real, const void* fake, void* out, int64_t rows, int64_t features, int kind,
                  uint64_t seed, Count draw, void* stream);
void cuda_turn(int dtype, const void* g, void* t, void* values, int64_t rows, int64_t features, int kind, double weight,
               void* stream);
struct BendPass {
  int64_t n;  // rows times units
  int pieces, activation;
  double negative_slope;
  bool curved;  // some activation of the network is
  const void *saved, *s;
  const int32_t* winner;
  void *e, *turned, *t;
};
void cuda_bend(int dtype, const BendPass& pass, void* stream);

struct ParameterUpdate {
  void *value, *state0, *state1;
  const void* grad;
  int64_t n;
};
enum class Gate : int { always, bad };  // when a launch does anything: always, or where the present update is to be rolled back
struct UpdatePlan {
  OptimizerPlan optimizer;
  const Course* course;  // on the device
  Count update, draw;  // from 0, both of one clock: this update, and the minibatch whose epoch it belongs to
  int64_t batches;     // an epoch
  int player;          // 0: G, 1: D; whose skipped updates Adam must not count
};
void cuda_update(int dtype, const UpdatePlan& plan, const std::vector<ParameterUpdate>& parameters, void* stream);
// value += (1 - decay) (grad - value); value = grad; and, noted on the clock, whether a sum is not finite, or a grad whose
// value (null: no matter) is.
void cuda_average(int dtype, double decay, const std::vector<ParameterUpdate>& parameters, void* stream);
void cuda_copy(int dtype, Gate gate, const Clock* clock, const std::vector<ParameterUpdate>& parameters, void* stream);
void cuda_inspect(int dtype, Clock* clock, const double* sums, int64_t count, int64_t stride,
                  const std::vector<ParameterUpdate>& parameters, void* stream);
void cuda_settle(Clock* clock, bool generator, bool discriminator, void* stream);  // an update is over
void cuda_bound_norms(int dtype, void* weight, int64_t rows, int64_t inputs, double limit, void* stream);

// For the benchmark: empty kernels one after another; barriers of a cluster of blocks, or of one block where there are none,
// at least one, after which `heard` has a number for each thread.
void cuda_empty(int launches, void* stream);
void cuda_meet(int blocks, int64_t barriers, int32_t* heard, void* stream);

// The persistent training engine. All addresses of plans and calls are of the device; a call's metrics have two more numbers
// behind the last iteration: the updates that both optimisers have made. Nothing waits for the device.
struct CudaMember {
  const TrainPlan* plan;
  const TrainCall* call;
};
struct CudaRoom {
  int multiprocessors, cluster;  // cluster: blocks that train one GAN
  size_t shared_bytes;           // of a block
  size_t scratch_bytes = 0;      // of a block: what did not find room in shared memory
};
using Allocate = std::function<void*(size_t bytes)>;  // device memory that lasts until the launch is through
void cuda_train(int dtype, const std::vector<CudaMember>& members, const CudaRoom& device, const Allocate& allocate,
                void* stream);
CudaRoom cuda_train_needs(int dtype, const TrainPlan& plan, const CudaRoom& device);

}  // namespace fastgan
