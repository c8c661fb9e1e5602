// The functions of one build of the CPU kernels. The sources of this folder are compiled once per instruction set, and
// `kernels()` picks the best build this processor can run; FASTGAN_ISA=v2|v3|v4 (x86) selects another.
#pragma once
#include <cstdint>
#include <vector>

#include "../train.h"

namespace fastgan {

struct LossTerm {
  const void* logits;
  int64_t n;
  int formula;
  double target, scale;  // scale multiplies the derivative and the sum of the values
  void* grad;            // float, double for double logits; null: not computed
};

struct MlpSizes {                                 // in elements for each row
  int64_t work, backward, second_order, penalty;  // the last three are sizes of `scratch`
};

// Batch normalisation of a layer. Null: the layer has no such vector, or its gradient is not computed.
struct MlpNorm {
  const void *scale, *shift;
  void *running_mean, *running_variance;  // forward updates them, unless it normalises by them
  int64_t* batches;                       // and increments this
  double momentum;
  void *grad_scale, *grad_shift;
};

struct MlpForward {
  const void* x;  // (rows, inputs)
  int64_t rows;
  const void* const* weights;  // (outputs * pieces, inputs) each
  const void* const* biases;   // null for a layer without bias
  void* y;                     // (rows, outputs)
  void* work;                  // MlpSizes::work elements for every row, rows padded to a multiple of 32
  uint64_t dropout_seed;
  int threads;
  const MlpNorm* norms = nullptr;  // one for each layer; null if no layer has batch normalisation
};

struct MlpBackward {
  int64_t rows;
  const void* const* weights;
  const void* work;
  const void* grad_y;
  void* grad_x;  // null: not computed; likewise below
  void* const* grad_weights;
  void* const* grad_biases;
  void* scratch;
  uint64_t dropout_seed;
  int threads;
  const MlpNorm* norms = nullptr;  // it reads the scales
};

// The gradients of <tangent, grad_x> with respect to all inputs of the backward pass.
struct MlpSecondOrder {
  int64_t rows;
  const void* const* weights;
  const void *work, *kept;  // `work` of the forward pass; `scratch` of a backward pass down to the input
  const void* tangent;      // of grad_x
  void* grad_grad_y;        // null: not computed; likewise below
  void* grad_x;
  void* const* grad_weights;
  void* const* grad_biases;
  void* scratch;
  uint64_t dropout_seed;
  int threads;
};

// A gradient penalty at x and its gradients with respect to the parameters.
struct MlpPenalty {
  const void* x;
  int64_t rows;
  const void* const* weights;
  const void* const* biases;
  Penalty kind;
  double weight;
  void* values;               // one for each row, padded as scratch is; the caller adds them up
  void* const* grad_weights;  // null: none is computed
  void* const* grad_biases;
  void* scratch;
  uint64_t dropout_seed;
  int threads;
};

struct Kernels {
  const char* name;
  bool has_bf16_kernels;  // whether this build has products of bfloat16
  void (*pair_loss)(int dtype, const LossTerm& real, const LossTerm& fake, void* value, int threads);
  void (*pointwise)(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, int threads);
  void (*dropout)(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p, uint64_t dropout_seed,
                  uint32_t substream, int threads);
  void (*random_fill)(int dtype, void* out, int64_t n, bool normal, uint64_t seed, uint32_t purpose, uint64_t step,
                      uint32_t substream, int64_t offset, int threads);
  void (*mlp_forward)(int dtype, const NetworkPlan& plan, const MlpForward& call);
  void (*mlp_backward)(int dtype, const NetworkPlan& plan, const MlpBackward& call);
  void (*mlp_second_order)(int dtype, const NetworkPlan& plan, const MlpSecondOrder& call);
  void (*mlp_penalty)(int dtype, const NetworkPlan& plan, const MlpPenalty& call);
  MlpSizes (*mlp_sizes)(const NetworkPlan& plan);
  bool (*multiplies_bf16)();  // whether this processor has AVX512-BF16 too
  void (*train)(int dtype, const TrainPlan& plan, TrainCall& call);
  // Writes the weights to the plan's addresses; the next call reads them from there.
  void (*write_back)(int dtype, const TrainPlan& plan, Workspace& workspace, int threads);
  void (*products_of)(int dtype, TrainPlan& plan);  // chooses those of both networks
  double (*fma_peak)(double seconds, bool bf16);    // operations per second of one core; 0: no such instruction
  // For tests, as in amx.h: c (16, 16) += a b for pairs a (16, 16) and b (16, 16); 32 floats rounded.
  void (*tile_dot)(bool software, float* c, const uint16_t* a, const uint16_t* b);
  void (*tile_round)(bool software, const float* in, uint16_t* out);
};

const Kernels& kernels();

}  // namespace fastgan
