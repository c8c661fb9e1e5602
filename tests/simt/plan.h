// Reads a training plan and a call from arguments, in the order in which tests/simt_train.py writes them.
#pragma once
#include "calls.h"
#include "train.h"

namespace simt {

struct Training {
  fastgan::TrainPlan plan;
  fastgan::TrainCall call;
};

inline fastgan::ParameterPlan read_parameter(Arguments& a) {
  fastgan::ParameterPlan p;
  p.value = a.pointer(), p.state0 = a.pointer(), p.state1 = a.pointer(), p.ema = a.pointer();
  return p;
}

inline void read(Arguments& a, fastgan::LayerPlan& l, fastgan::LayerParameters& p) {
  l.inputs = a.integer(), l.outputs = a.integer();
  l.pieces = a.number(), l.activation = a.number();
  l.negative_slope = a.real(), l.dropout = a.real();
  l.dropout_seed_index = a.number(), l.dropout_substream = a.number();
  l.batch_norm = a.integer() != 0;
  l.norm_epsilon = a.real(), l.norm_momentum = a.real();
  p.weight = read_parameter(a), p.bias = read_parameter(a);
  p.norm_scale = read_parameter(a), p.norm_shift = read_parameter(a);
  p.running_mean = a.pointer(), p.running_variance = a.pointer();
  p.batches = a.pointer<int64_t>();
  l.bias = p.bias.value != nullptr;
}

inline void read(Arguments& a, fastgan::PlayerPlan& player) {
  player.network.layers.resize(size_t(a.integer()));
  player.parameters.resize(player.network.layers.size());
  for (size_t i = 0; i < player.parameters.size(); ++i) read(a, player.network.layers[i], player.parameters[i]);
  player.network.input_dropout = a.real();
  player.network.dropout_seeds = a.number();
  player.network.precision = fastgan::Precision(a.integer());
  player.optimizer.rule = fastgan::Rule(a.number());
  player.optimizer.beta1 = a.real(), player.optimizer.beta2 = a.real();
  player.optimizer.epsilon = a.real(), player.optimizer.max_norm = a.real();
}

inline void read(Arguments& a, fastgan::LossPlan& loss) { loss.formula = a.number(), loss.target = a.real(); }

inline void read(Arguments& a, fastgan::TrainPlan& plan) {
  read(a, plan.generator), read(a, plan.discriminator);
  plan.latent = a.integer();
  plan.prior = fastgan::Prior(a.number());
  plan.seed = uint64_t(a.integer());
  plan.data = a.pointer();
  plan.rows = a.integer(), plan.features = a.integer();
  plan.batch = a.integer(), plan.k = a.integer(), plan.generator_steps = a.integer(), plan.pack = a.integer();
  plan.simultaneous = a.integer() != 0;
  read(a, plan.real), read(a, plan.fake), read(a, plan.generated);
  plan.relativistic = a.integer() != 0;
  plan.penalty = fastgan::Penalty(a.number());
  plan.penalty_weight = a.real(), plan.ema_decay = a.real();
  plan.skip_nonfinite = a.integer() != 0;
  plan.threshold = a.real();
}

inline void read(Arguments& a, std::vector<double>& numbers) {
  numbers.resize(size_t(a.integer()));
  for (double& x : numbers) x = a.real();
}

inline void read(Arguments& a, Training& t) {
  read(a, t.plan);
  fastgan::TrainCall& call = t.call;
  call.first = a.integer(), call.count = a.integer();
  read(a, call.generator_schedule.rate), read(a, call.generator_schedule.momentum);
  read(a, call.discriminator_schedule.rate), read(a, call.discriminator_schedule.momentum);
  call.generator_updates = a.integer(), call.discriminator_updates = a.integer();
  call.metrics = a.pointer<double>();
}

}  // namespace simt
