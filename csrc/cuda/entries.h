// The functions of launchers.h with their arguments as one sequence. The bindings read it from Python, the tests'
// emulator from a pipe; a reader A has integer(), number(), real(), pointer<T>() and stream().
#pragma once
#include <vector>

#include "launchers.h"

namespace fastgan::entries {

template <class A>
LossTerm loss_term(A& a) {
  LossTerm term{};
  term.logits = a.pointer(), term.n = a.integer();
  return term;
}

template <class A>
void pair_loss(A& a) {
  const int dtype = a.number();
  LossTerm real = loss_term(a), fake = loss_term(a);
  real.formula = a.number(), fake.formula = a.number();
  real.target = a.real(), fake.target = a.real();
  real.scale = a.real(), fake.scale = a.real();
  void* value = a.pointer();
  real.grad = a.pointer(), fake.grad = a.pointer();
  double* partial = a.template pointer<double>();
  cuda_pair_loss(dtype, real, fake, value, partial, a.stream());
}

template <class A>
void pointwise(A& a) {
  const int dtype = a.number();
  const void* x = a.pointer();
  void* out = a.pointer();
  const int64_t n = a.integer();
  const int formula = a.number();
  const double target = a.real();
  const int order = a.number();
  cuda_pointwise(dtype, x, out, n, formula, target, order, a.stream());
}

template <class A>
void scale(A& a) {
  const int dtype = a.number();
  void* x = a.pointer();
  const int64_t n = a.integer();
  const void* factor = a.pointer();
  cuda_scale(dtype, x, n, factor, a.stream());
}

// ---------------------------------------------------------------- random numbers

template <class A>
StepCounter* counter(A& a) {
  return a.template pointer<StepCounter>();
}

template <class A>
StepIndex step_index(A& a) {  // the step counter or 0, times, plus
  StepIndex c;
  c.counter = counter(a);
  c.times = a.integer(), c.plus = a.integer();
  return c;
}

template <class A>
DropoutSeed dropout_seed(A& a) {  // the number; its address or 0; rows and stride of sub-batches
  DropoutSeed k;
  k.number = uint64_t(a.integer());
  k.at = a.template pointer<const uint64_t>();
  k.rows = a.integer(), k.stride = a.integer();
  return k;
}

template <class A>
void random_fill(A& a) {
  const int dtype = a.number();
  void* out = a.pointer();
  const int64_t n = a.integer();
  const auto distribution = Distribution(a.number());
  const auto seed = uint64_t(a.integer());
  const auto purpose = uint32_t(a.integer());
  const StepIndex step = step_index(a);
  const auto substream = uint32_t(a.integer());
  const int64_t offset = a.integer();
  cuda_random_fill(dtype, out, n, distribution, seed, purpose, step, substream, offset, a.stream());
}

template <class A>
void to_sphere(A& a) {
  const int dtype = a.number();
  void* z = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  cuda_to_sphere(dtype, z, rows, features, a.stream());
}

template <class A>
void dropout(A& a) {
  const int dtype = a.number();
  const void* x = a.pointer();
  void* out = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const double p = a.real();
  const DropoutSeed of = dropout_seed(a);
  const auto substream = uint32_t(a.integer());
  cuda_dropout(dtype, x, out, rows, features, p, of, substream, a.stream());
}

template <class A>
void draw_dropout_seeds(A& a) {
  const StepIndex iteration = step_index(a);
  const int iterations = a.number();
  const auto seed = uint64_t(a.integer());
  auto* dropout_seeds = a.template pointer<uint64_t>();
  const int each = a.number();
  cuda_draw_dropout_seeds(iteration, iterations, seed, dropout_seeds, each, a.stream());
}

template <class A>
void gather(A& a) {
  const int dtype = a.number();
  const void* data = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  void* out = a.pointer();
  const int64_t wanted = a.integer();
  const auto seed = uint64_t(a.integer());
  const StepIndex draw = step_index(a);
  cuda_gather(dtype, data, rows, features, out, wanted, seed, draw, a.stream());
}

template <class A>
void gather_labels(A& a) {
  const int dtype = a.number();
  const auto* labels = a.template pointer<const int32_t>();
  const int64_t rows = a.integer(), classes = a.integer();
  void* out = a.pointer();
  const int64_t wanted = a.integer();
  const auto seed = uint64_t(a.integer());
  const StepIndex draw = step_index(a);
  cuda_gather_labels(dtype, labels, rows, classes, out, wanted, seed, draw, a.stream());
}

// ---------------------------------------------------------------- layers

template <class A>
LayerPass layer_pass(A& a) {
  LayerPass pass{};
  pass.rows = a.integer(), pass.units = a.integer();
  pass.pieces = a.number(), pass.activation = a.number();
  pass.negative_slope = a.real(), pass.dropout = a.real();
  pass.dropout_seed = dropout_seed(a), pass.substream = uint32_t(a.integer());
  return pass;
}

template <class A>
void layer_forward(A& a) {
  const int dtype = a.number();
  const LayerPass pass = layer_pass(a);
  LayerForward call{};
  call.product = a.pointer(), call.bias = a.pointer();
  call.before = a.pointer(), call.output = a.pointer();
  call.winner = a.template pointer<int32_t>();
  call.dropped = a.pointer();
  cuda_layer_forward(dtype, pass, call, a.stream());
}

template <class A>
void layer_backward(A& a) {
  const int dtype = a.number();
  const LayerPass pass = layer_pass(a);
  LayerBackward call{};
  call.grad = a.pointer(), call.saved = a.pointer();
  call.winner = a.template pointer<int32_t>();
  call.grad_product = a.pointer(), call.grad_bias = a.pointer();
  call.partial = a.template pointer<double>();
  call.grad_grad = a.pointer(), call.to_grad = a.pointer();
  cuda_layer_backward(dtype, pass, call, a.stream());
}

template <class A>
SmallMlpCall small_mlp_call(A& a) {
  SmallMlpCall call{};
  call.rows = a.integer(), call.inputs = a.integer();
  call.input_dropout = a.real();
  call.dropout_seed = uint64_t(a.integer());
  call.lowest = int(a.integer());
  call.x = a.pointer(), call.dropped_input = a.pointer(), call.y = a.pointer();
  call.grad_y = a.pointer(), call.grad_x = a.pointer();
  call.layers.resize(size_t(a.integer()));
  for (SmallMlpLayer& layer : call.layers) {
    layer.units = a.integer(), layer.pieces = int(a.integer()), layer.activation = int(a.integer());
    layer.negative_slope = a.real(), layer.dropout = a.real();
    layer.weight = a.pointer(), layer.bias = a.pointer();
    layer.before = a.pointer(), layer.output = a.pointer();
    layer.winner = a.template pointer<int32_t>();
    layer.dropped = a.pointer();
    layer.grad_product = a.pointer(), layer.grad_weight = a.pointer(), layer.grad_bias = a.pointer();
  }
  return call;
}

template <class A>
void small_mlp_forward(A& a) {
  const int dtype = a.number();
  const SmallMlpCall call = small_mlp_call(a);
  cuda_small_mlp_forward(dtype, call, a.stream());
}

template <class A>
void small_mlp_backward(A& a) {
  const int dtype = a.number();
  const SmallMlpCall call = small_mlp_call(a);
  cuda_small_mlp_backward(dtype, call, a.stream());
}

template <class A>
NormPass norm_pass(A& a) {
  NormPass pass{};
  pass.rows = a.integer(), pass.features = a.integer();
  pass.epsilon = a.real(), pass.momentum = a.real();
  pass.bias = a.pointer(), pass.scale = a.pointer(), pass.shift = a.pointer();
  pass.running_mean = a.pointer(), pass.running_variance = a.pointer();
  pass.batches = a.template pointer<int64_t>();
  pass.mean = a.pointer(), pass.inverse = a.pointer();
  return pass;
}

template <class A>
void norm_forward(A& a) {
  const int dtype = a.number();
  const NormPass pass = norm_pass(a);
  const void* product = a.pointer();
  void* out = a.pointer();
  cuda_norm_forward(dtype, pass, product, out, a.stream());
}

template <class A>
void norm_backward(A& a) {
  const int dtype = a.number();
  const NormPass pass = norm_pass(a);
  const void* product = a.pointer();
  void *grad = a.pointer(), *grad_scale = a.pointer(), *grad_shift = a.pointer();
  const bool adds = a.integer() != 0;
  cuda_norm_backward(dtype, pass, product, grad, grad_scale, grad_shift, adds, a.stream());
}

// ---------------------------------------------------------------- losses and penalties of an iteration

template <class A>
void loss_metrics(A& a) {  // the sub-batches, eight arguments each, come last
  const int dtype = a.number();
  const int64_t n = a.integer();
  const double scale = a.real();
  double* sums = a.template pointer<double>();
  std::vector<LossInput> sub_batches(size_t(a.integer()));
  for (LossInput& s : sub_batches) {
    s.logits = a.pointer(), s.other = a.pointer();
    s.grad = a.pointer(), s.grad_of_other = a.pointer();
    s.formula = a.number();
    s.target = a.real();
    s.real = a.integer() != 0;
    s.threshold = a.real();
  }
  cuda_loss_metrics(dtype, sub_batches, n, scale, sums, a.stream());
}

template <class A>
void record(A& a) {
  const int dtype = a.number();
  StepCounter* of = counter(a);
  double* metrics = a.template pointer<double>();
  const int64_t capacity = a.integer();
  const double *d = a.template pointer<double>(), *g = a.template pointer<double>();
  const int64_t n = a.integer();
  const double weight = a.real();
  const void* penalties = a.pointer();
  const int64_t penalized = a.integer();
  cuda_record(dtype, of, metrics, capacity, d, g, n, weight, penalties, penalized, a.stream());
}

template <class A>
void interpolate(A& a) {
  const int dtype = a.number();
  const void *real = a.pointer(), *fake = a.pointer();
  void* out = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const int kind = a.number();
  const auto seed = uint64_t(a.integer());
  const StepIndex draw = step_index(a);
  cuda_interpolate(dtype, real, fake, out, rows, features, kind, seed, draw, a.stream());
}

template <class A>
void penalty_grad(A& a) {
  const int dtype = a.number();
  const void* g = a.pointer();
  void *t = a.pointer(), *values = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const int kind = a.number();
  const double weight = a.real();
  cuda_penalty_grad(dtype, g, t, values, rows, features, kind, weight, a.stream());
}

template <class A>
void second_order(A& a) {
  const int dtype = a.number();
  SecondOrderPass pass{};
  pass.n = a.integer();
  pass.pieces = a.number(), pass.activation = a.number();
  pass.negative_slope = a.real();
  pass.has_second_derivative = a.integer() != 0;
  pass.saved = a.pointer(), pass.s = a.pointer();
  pass.winner = a.template pointer<const int32_t>();
  pass.e = a.pointer(), pass.tangent = a.pointer(), pass.t = a.pointer();
  cuda_second_order(dtype, pass, a.stream());
}

// ---------------------------------------------------------------- updates; the parameters, five arguments each, come
// last

template <class A>
std::vector<ParameterUpdate> parameters(A& a) {
  std::vector<ParameterUpdate> all(size_t(a.integer()));
  for (ParameterUpdate& u : all) {
    u.value = a.pointer(), u.state0 = a.pointer(), u.state1 = a.pointer();
    u.grad = a.pointer();
    u.n = a.integer();
  }
  return all;
}

template <class A>
void update(A& a) {
  const int dtype = a.number();
  UpdatePlan plan{};
  plan.optimizer.fields(InOrder<A>{a});
  plan.rates = a.template pointer<const double>(), plan.rate_count = a.integer();
  plan.momenta = a.template pointer<const double>(), plan.momentum_count = a.integer();
  plan.update = step_index(a);
  plan.player = a.number();
  const auto all = parameters(a);
  cuda_update(dtype, plan, all, a.stream());
}

template <class A>
void ema(A& a) {
  const int dtype = a.number();
  const double decay = a.real();
  const auto all = parameters(a);
  cuda_ema(dtype, decay, all, a.stream());
}

template <class A>
void copy(A& a) {
  const int dtype = a.number();
  const auto predicate = Predicate(a.number());
  const StepCounter* of = counter(a);
  const auto all = parameters(a);
  cuda_copy(dtype, predicate, of, all, a.stream());
}

template <class A>
void inspect(A& a) {
  const int dtype = a.number();
  StepCounter* of = counter(a);
  const double* sums = a.template pointer<double>();
  const int64_t count = a.integer(), stride = a.integer();
  const auto all = parameters(a);
  cuda_inspect(dtype, of, sums, count, stride, all, a.stream());
}

template <class A>
void count_skipped(A& a) {
  StepCounter* of = counter(a);
  const bool generator = a.integer() != 0, discriminator = a.integer() != 0;
  cuda_count_skipped(of, generator, discriminator, a.stream());
}

template <class A>
void bound_norms(A& a) {
  const int dtype = a.number();
  void* weight = a.pointer();
  const int64_t rows = a.integer(), inputs = a.integer();
  const double limit = a.real();
  cuda_bound_norms(dtype, weight, rows, inputs, limit, a.stream());
}

// ---------------------------------------------------------------- lower bounds

template <class A>
void empty(A& a) {
  const int launches = a.number();
  cuda_empty(launches, a.stream());
}

template <class A>
void barrier_loop(A& a) {
  const int blocks = a.number();
  const int64_t barriers = a.integer();
  auto* received = a.template pointer<int32_t>();
  cuda_barrier_loop(blocks, barriers, received, a.stream());
}

// Calls f(name, entry) for each.
template <class A, class Function>
void each(Function&& f) {
  f("pair_loss", pair_loss<A>);
  f("pointwise", pointwise<A>);
  f("scale", scale<A>);
  f("random_fill", random_fill<A>);
  f("to_sphere", to_sphere<A>);
  f("dropout", dropout<A>);
  f("draw_dropout_seeds", draw_dropout_seeds<A>);
  f("gather", gather<A>);
  f("gather_labels", gather_labels<A>);
  f("layer_forward", layer_forward<A>);
  f("layer_backward", layer_backward<A>);
  f("small_mlp_forward", small_mlp_forward<A>);
  f("small_mlp_backward", small_mlp_backward<A>);
  f("norm_forward", norm_forward<A>);
  f("norm_backward", norm_backward<A>);
  f("loss_metrics", loss_metrics<A>);
  f("record", record<A>);
  f("interpolate", interpolate<A>);
  f("penalty_grad", penalty_grad<A>);
  f("second_order", second_order<A>);
  f("update", update<A>);
  f("ema", ema<A>);
  f("copy", copy<A>);
  f("inspect", inspect<A>);
  f("count_skipped", count_skipped<A>);
  f("bound_norms", bound_norms<A>);
  f("empty", empty<A>);
  f("barrier_loop", barrier_loop<A>);
}

}  // namespace fastgan::entries
