// A training plan in numbers and addresses: networks, losses, optimisers, iterations. All compiled engines read it.
// Fields are read by their names in FASTGAN_FIELDS, from the dictionary of fastgan/training/engines/plan.py. A field
// with the name of one of TrainConfig has its value, 0 for None.
#pragma once
#include <cstdint>
#include <vector>

#include "formulas.h"

namespace fastgan {

// dropout(activation(batch_norm(x W^T + b))), or for each unit the largest of `pieces` rows (maxout).
struct LayerPlan {
  int64_t inputs, outputs;
  int pieces;
  int activation;
  double negative_slope, dropout;
  bool bias;
  // The mask's index among the dropout seeds that one forward pass draws, and the substream of that seed. Below 0: the
  // seed of the call, and the layer's number as substream.
  int dropout_seed_index = -1, dropout_substream = 0;
  bool batch_norm = false;
  double norm_epsilon = 1e-5, norm_momentum = 0.1;
  bool concatenates = false;  // its result is its outputs, then its input; if so, there is no dropout
  // Of the operation alone (cpu/mlp.cpp). Dropout comes between the affine map and the activation; then there is no
  // batch normalisation. Batch normalisation is by the running statistics, as in evaluation.
  bool dropout_first = false, running_norm = false;
  // Of the CPU engine alone, which sets them itself (cpu/entries.h): the weight is transposed, for inputs that are
  // listed row by row. The last ones, `labels` of them, always are, and are in no buffer but for a few features, so
  // that a block of a buffer is seldom a multiple of a page long, whose lines would share cache sets.
  bool transposed = false;
  int64_t labels = 0;
  FASTGAN_FIELDS(inputs, outputs, pieces, activation, negative_slope, dropout, dropout_seed_index, dropout_substream,
                 batch_norm, norm_epsilon, norm_momentum, concatenates)
  int64_t dense() const { return inputs - labels; }
  int64_t buffered() const { return dense() + (labels < 8 ? labels : 8); }
  int64_t width() const { return concatenates ? outputs + buffered() : outputs; }  // of what it gives
  bool drops_before_activation() const { return dropout > 0 && dropout_first; }
  bool drops_after_activation() const { return dropout > 0 && !dropout_first; }
};

// Precision of float matrix products. fp32: the accuracy of float, by any instructions; ieee: plain float
// multiplications; tf32, bf16: factors are rounded first, sums are in float.
FASTGAN_ENUM(enum class, Precision, fp32, ieee, tf32, bf16)

// The head of some outputs of a network: the identity, tanh, softmax(x), or softmax((x + Gumbel noise) /
// temperature).
FASTGAN_ENUM(enum class, Head, none, tanh, softmax, gumbel_softmax)

struct HeadPlan {
  Head kind;
  int64_t first, width;
  FASTGAN_FIELDS(kind, first, width)
};

// The products of float matrices on a CPU: fp32 by FMA; bf16 by AVX512-BF16, by AMX tiles, or by AMX in software for
// tests.
enum class Products { fp32, dot_bf16, amx, amx_software };

struct NetworkPlan {
  std::vector<LayerPlan> layers;
  double input_dropout = 0;
  int dropout_seeds = 0;  // of dropout masks and of Gumbel noise, drawn by one forward pass
  Precision precision = Precision::fp32;
  std::vector<HeadPlan> heads;  // of the last layer, which then has no activation and no dropout; none, or all outputs
  double temperature = 1;
  int heads_seed_index = 0;  // of the noise, among the dropout seeds
  // Of the CPU engine alone, which sets them itself:
  bool blocked_weights = false;        // cpu/blocked_weights.h
  Products products = Products::fp32;  // cpu/products.h
  FASTGAN_FIELDS(input_dropout, dropout_seeds, precision, heads, temperature, heads_seed_index)
};

// A parameter in place, with its optimiser's state: both moments, or only the velocity. Null: absent.
struct ParameterPlan {
  void *value = nullptr, *state0 = nullptr, *state1 = nullptr;
  void* ema = nullptr;  // the moving average of the value
  FASTGAN_FIELDS(value, state0, state1, ema)
};

struct LayerParameters {
  ParameterPlan weight, bias, norm_scale, norm_shift;
  void *running_mean = nullptr, *running_variance = nullptr;
  int64_t* batches = nullptr;                              // the number of batches in the running statistics
  void *rounded = nullptr, *rounded_transposed = nullptr;  // the CPU engine's copies of the weight (cpu/rounded.h)
  FASTGAN_FIELDS(weight, bias, norm_scale, norm_shift, running_mean, running_variance, batches)
};

FASTGAN_ENUM(enum class, Rule, adam, momentum_torch, momentum_pylearn2, rmsprop)

struct OptimizerPlan {
  Rule rule;
  double beta1, beta2, epsilon;  // Adam's; beta2 and epsilon are RMSprop's too
  double weight_decay;           // times the weight: added to the gradient, or (decoupled) a separate step
  bool decoupled, nesterov;
  // Bounds, 0 for none: of each number of a gradient, then of the norm of all gradients of the network; of each weight
  // and of the norm of a unit's incoming weights after the update.
  double max_grad_value, max_grad_norm, clip_weights, max_col_norm;
  FASTGAN_FIELDS(rule, beta1, beta2, epsilon, weight_decay, decoupled, nesterov, max_grad_value, max_grad_norm,
                 clip_weights, max_col_norm)
};

FASTGAN_HD bool clips(const OptimizerPlan& plan) { return plan.max_grad_value > 0 || plan.max_grad_norm > 0; }

// The rate and the momentum of each update of a call, or one value for all.
struct Schedule {
  std::vector<double> rate, momentum;
  FASTGAN_FIELDS(rate, momentum)
  double rate_at(int64_t i) const { return rate[rate.size() == 1 ? 0 : size_t(i)]; }
  double momentum_at(int64_t i) const { return momentum[momentum.size() == 1 ? 0 : size_t(i)]; }
};

FASTGAN_ENUM(enum class, Prior, normal, uniform, spherical)
FASTGAN_ENUM(enum class, Penalty, none, wgan_gp, r1, r2)

struct LossPlan {
  int formula = 0;
  double target = 0;
  FASTGAN_FIELDS(formula, target)
};

struct PlayerPlan {
  NetworkPlan network;
  std::vector<LayerParameters> parameters;
  OptimizerPlan optimizer;

  template <class Function>
  void fields(Function&& f) {  // layers apart
    network.fields(f), optimizer.fields(f);
  }

  // Appends the layer that these functions read.
  template <class Function>
  void read_layer(Function&& f) {
    LayerPlan layer{};
    LayerParameters of_layer;
    layer.fields(f), of_layer.fields(f);
    layer.bias = of_layer.bias.value != nullptr;
    network.layers.push_back(layer), parameters.push_back(of_layer);
  }
};

// The fields on which the order of an iteration's steps depends (iteration.h).
struct IterationPlan {
  int64_t k, generator_steps;
  bool simultaneous;
  bool relativistic;    // losses of the difference between a real and a fake logit
  bool skip_nonfinite;  // roll an update back if its loss or result is not finite
  double ema_decay;     // of the moving average of G
  FASTGAN_FIELDS(k, generator_steps, simultaneous, relativistic, skip_nonfinite, ema_decay)
};

// A table whose rows are drawn by their labels (training-by-sampling: Xu et al., 2019, section 4.3), for a conditional
// GAN that has a class for each label of each column. TrainPlan::data are then the scalars of all rows.
struct TablePlan {
  bool sampled = false;  // false: no such table
  // A row: scalars, and a one-hot code in each group of features.
  int64_t scalars = 0, groups = 0;
  const int64_t *scalar_at = nullptr, *group_at = nullptr;  // the feature of each scalar, the first one of each group
  const void* codes = nullptr;                              // (rows, groups) where the ones are, of 16 bits or ...
  bool wide = false;                                        // ... of 32
  // Draws: a column, uniformly; then a label of it, by weight; then one of the rows with this label.
  int64_t columns = 0;
  const int64_t *starts = nullptr, *places = nullptr;  // (columns + 1,) the first label, (columns,) the group
  const double* cumulative = nullptr;  // (labels,) weights of a column's labels up to each, plus the column's number
  const int64_t *first = nullptr, *counts = nullptr;  // (labels,) where its rows begin in `order`, and how many
  const int32_t* order = nullptr;                     // (columns, rows) numbers of rows, sorted by label
  FASTGAN_FIELDS(sampled, scalars, groups, scalar_at, group_at, codes, wide, columns, starts, places, cumulative, first,
                 counts, order)
};

struct TrainPlan : IterationPlan {
  PlayerPlan generator, discriminator;
  int64_t latent;
  Prior prior;
  uint64_t seed;
  const void* data;  // (rows, features) of the networks' type
  int64_t rows, features;
  int64_t batch;
  int64_t pack;  // samples in one input of D (PacGAN)
  LossPlan real, fake, generated;
  std::vector<Penalty> penalties;  // each with this weight
  double penalty_weight;
  double threshold;  // for the metrics: the logit above which D classifies a row as real
  // A conditional GAN: each row of the data has a label, from 0 to classes - 1. Both networks also see it, one-hot,
  // behind the noise or the samples. 0: there is none.
  int64_t classes = 0;
  const int32_t* labels = nullptr;  // (rows,)
  TablePlan table;
  int dropout_seeds_per_iteration;  // as counted from the verbs of recorder.h
  FASTGAN_FIELDS(generator, discriminator, latent, prior, seed, data, rows, features, batch, k, generator_steps, pack,
                 simultaneous, real, fake, generated, relativistic, penalties, penalty_weight, ema_decay,
                 skip_nonfinite, threshold, classes, labels, table, dropout_seeds_per_iteration)
};

}  // namespace fastgan
