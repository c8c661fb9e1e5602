// The entries of kernels.h with their arguments one after another, as Python gives them: the bindings read them from there,
// the emulator of the tests from a pipe. Whoever reads offers integer(), number(), real(), pointer<T>() and stream().
#pragma once
#include <vector>

#include "kernels.h"

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
  real.slope = a.pointer(), fake.slope = a.pointer();
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

// ---------------------------------------------------------------- what is drawn

template <class A>
Clock* clock(A& a) {
  return a.template pointer<Clock>();
}

template <class A>
Count count(A& a) {  // the clock or 0, times, plus
  Count c;
  c.clock = clock(a);
  c.times = a.integer(), c.plus = a.integer();
  return c;
}

template <class A>
Key key(A& a) {  // the number; where it stands or 0; rows and stride of sections
  Key k;
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
  const auto draw = Draw(a.number());
  const auto seed = uint64_t(a.integer());
  const auto purpose = uint32_t(a.integer());
  const Count step = count(a);
  const auto substream = uint32_t(a.integer());
  const int64_t offset = a.integer();
  cuda_random_fill(dtype, out, n, draw, seed, purpose, step, substream, offset, a.stream());
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
  const Key of = key(a);
  const auto substream = uint32_t(a.integer());
  cuda_dropout(dtype, x, out, rows, features, p, of, substream, a.stream());
}

template <class A>
void draw_keys(A& a) {
  const Count iteration = count(a);
  const int iterations = a.number();
  const auto seed = uint64_t(a.integer());
  auto* keys = a.template pointer<uint64_t>();
  const int each = a.number();
  cuda_draw_keys(iteration, iterations, seed, keys, each, a.stream());
}

template <class A>
void gather(A& a) {
  const int dtype = a.number();
  const void* data = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  void* out = a.pointer();
  const int64_t wanted = a.integer();
  const auto seed = uint64_t(a.integer());
  const Count draw = count(a);
  cuda_gather(dtype, data, rows, features, out, wanted, seed, draw, a.stream());
}

// ---------------------------------------------------------------- layers

template <class A>
LayerPass layer_pass(A& a) {
  LayerPass pass{};
  pass.rows = a.integer(), pass.units = a.integer();
  pass.pieces = a.number(), pass.activation = a.number();
  pass.negative_slope = a.real(), pass.dropout = a.real();
  pass.key = key(a), pass.substream = uint32_t(a.integer());
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
NetworkCall network_call(A& a) {
  NetworkCall call{};
  call.rows = a.integer(), call.inputs = a.integer();
  call.input_dropout = a.real();
  call.key = uint64_t(a.integer());
  call.lowest = int(a.integer());
  call.x = a.pointer(), call.dropped_input = a.pointer(), call.y = a.pointer();
  call.grad_y = a.pointer(), call.grad_x = a.pointer();
  call.layers.resize(size_t(a.integer()));
  for (NetworkLayer& layer : call.layers) {
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
void network_forward(A& a) {
  const int dtype = a.number();
  const NetworkCall call = network_call(a);
  cuda_network_forward(dtype, call, a.stream());
}

template <class A>
void network_backward(A& a) {
  const int dtype = a.number();
  const NetworkCall call = network_call(a);
  cuda_network_backward(dtype, call, a.stream());
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
void judge(A& a) {  // the sections, seven arguments each, come last
  const int dtype = a.number();
  const int64_t n = a.integer();
  const double scale = a.real();
  double* sums = a.template pointer<double>();
  std::vector<JudgeSection> sections(size_t(a.integer()));
  for (JudgeSection& s : sections) {
    s.logits = a.pointer(), s.other = a.pointer();
    s.slope = a.pointer(), s.slope_of_other = a.pointer();
    s.formula = a.number();
    s.target = a.real();
    s.real = a.integer() != 0;
  }
  cuda_judge(dtype, sections, n, scale, sums, a.stream());
}

template <class A>
void record(A& a) {
  const int dtype = a.number();
  Clock* of = clock(a);
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
void between(A& a) {
  const int dtype = a.number();
  const void *real = a.pointer(), *fake = a.pointer();
  void* out = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const int kind = a.number();
  const auto seed = uint64_t(a.integer());
  const Count draw = count(a);
  cuda_between(dtype, real, fake, out, rows, features, kind, seed, draw, a.stream());
}

template <class A>
void turn(A& a) {
  const int dtype = a.number();
  const void* g = a.pointer();
  void *t = a.pointer(), *values = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const int kind = a.number();
  const double weight = a.real();
  cuda_turn(dtype, g, t, values, rows, features, kind, weight, a.stream());
}

template <class A>
void bend(A& a) {
  const int dtype = a.number();
  BendPass pass{};
  pass.n = a.integer();
  pass.pieces = a.number(), pass.activation = a.number();
  pass.negative_slope = a.real();
  pass.curved = a.integer() != 0;
  pass.saved = a.pointer(), pass.s = a.pointer();
  pass.winner = a.template pointer<const int32_t>();
  pass.e = a.pointer(), pass.turned = a.pointer(), pass.t = a.pointer();
  cuda_bend(dtype, pass, a.stream());
}

// ---------------------------------------------------------------- updates; the parameters, five arguments each, come last

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
  plan.optimizer.rule = Rule(a.number());
  plan.optimizer.beta1 = a.real(), plan.optimizer.beta2 = a.real(), plan.optimizer.epsilon = a.real();
  plan.course = a.template pointer<const Course>();
  plan.update = count(a), plan.draw = count(a);
  plan.batches = a.integer();
  plan.player = a.number();
  const auto all = parameters(a);
  cuda_update(dtype, plan, all, a.stream());
}

template <class A>
void average(A& a) {
  const int dtype = a.number();
  const double decay = a.real();
  const auto all = parameters(a);
  cuda_average(dtype, decay, all, a.stream());
}

template <class A>
void copy(A& a) {
  const int dtype = a.number();
  const auto gate = Gate(a.number());
  const Clock* of = clock(a);
  const auto all = parameters(a);
  cuda_copy(dtype, gate, of, all, a.stream());
}

template <class A>
void inspect(A& a) {
  const int dtype = a.number();
  Clock* of = clock(a);
  const double* sums = a.template pointer<double>();
  const int64_t count = a.integer(), stride = a.integer();
  const auto all = parameters(a);
  cuda_inspect(dtype, of, sums, count, stride, all, a.stream());
}

template <class A>
void settle(A& a) {
  Clock* of = clock(a);
  const bool generator = a.integer() != 0, discriminator = a.integer() != 0;
  cuda_settle(of, generator, discriminator, a.stream());
}

template <class A>
void bound_norms(A& a) {
  const int dtype = a.number();
  void* weight = a.pointer();
  const int64_t rows = a.integer(), inputs = a.integer();
  const double limit = a.real();
  cuda_bound_norms(dtype, weight, rows, inputs, limit, a.stream());
}

// ---------------------------------------------------------------- floors

template <class A>
void empty(A& a) {
  const int launches = a.number();
  cuda_empty(launches, a.stream());
}

template <class A>
void meet(A& a) {
  const int blocks = a.number();
  const int64_t barriers = a.integer();
  auto* heard = a.template pointer<int32_t>();
  cuda_meet(blocks, barriers, heard, a.stream());
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
  f("draw_keys", draw_keys<A>);
  f("gather", gather<A>);
  f("layer_forward", layer_forward<A>);
  f("layer_backward", layer_backward<A>);
  f("network_forward", network_forward<A>);
  f("network_backward", network_backward<A>);
  f("norm_forward", norm_forward<A>);
  f("norm_backward", norm_backward<A>);
  f("judge", judge<A>);
  f("record", record<A>);
  f("between", between<A>);
  f("turn", turn<A>);
  f("bend", bend<A>);
  f("update", update<A>);
  f("average", average<A>);
  f("copy", copy<A>);
  f("inspect", inspect<A>);
  f("settle", settle<A>);
  f("bound_norms", bound_norms<A>);
  f("empty", empty<A>);
  f("meet", meet<A>);
}

}  // namespace fastgan::entries
