// The functions of launchers.h with their arguments as one sequence: those of a struct, or of each item of a vector
// (its size first), field by field. The bindings read the sequence from Python, the tests' emulator from a pipe; a
// reader A has integer(), real(), pointer<T>() and stream().
#pragma once
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "launchers.h"

namespace fastgan::entries {

template <class A, class T>
void read(A& a, T& x) {
  if constexpr (std::is_pointer_v<T>)
    x = a.template pointer<std::remove_pointer_t<T>>();
  else if constexpr (std::is_floating_point_v<T>)
    x = a.real();
  else
    x = T(a.integer());
}

template <class A, class... Fields>
void read_all(A& a, Fields&... fields);

// ---------------------------------------------------------------- structs

template <class A>
void read(A& a, StepIndex& x) {
  read_all(a, x.counter, x.times, x.plus);
}

template <class A>
void read(A& a, DropoutSeed& x) {
  read_all(a, x.number, x.at, x.rows, x.stride);
}

template <class A>
void read(A& a, LayerPass& x) {
  read_all(a, x.rows, x.units, x.pieces, x.activation, x.negative_slope, x.dropout, x.dropout_seed, x.substream);
}

template <class A>
void read(A& a, LayerForward& x) {
  read_all(a, x.product, x.bias, x.before, x.output, x.winner, x.dropped);
}

template <class A>
void read(A& a, LayerBackward& x) {
  read_all(a, x.grad, x.saved, x.winner, x.grad_product, x.grad_bias, x.partial, x.grad_grad, x.to_grad);
}

template <class A>
void read(A& a, SmallMlpLayer& x) {
  read_all(a, x.units, x.pieces, x.activation, x.negative_slope, x.dropout, x.weight, x.bias, x.before, x.output,
           x.winner, x.dropped, x.grad_product, x.grad_weight, x.grad_bias);
}

template <class A>
void read(A& a, SmallMlpCall& x) {
  read_all(a, x.rows, x.inputs, x.input_dropout, x.dropout_seed, x.lowest, x.x, x.dropped_input, x.y, x.grad_y,
           x.grad_x, x.layers);
}

template <class A>
void read(A& a, NormPass& x) {
  read_all(a, x.rows, x.features, x.epsilon, x.momentum, x.bias, x.scale, x.shift, x.running_mean, x.running_variance,
           x.batches, x.mean, x.inverse);
}

template <class A>
void read(A& a, HeadsPass& x) {
  read_all(a, x.rows, x.features, x.heads, x.count, x.temperature, x.seed);
}

template <class A>
void read(A& a, TablePlan& x) {
  x.fields(InOrder<A>{a});
}

template <class A>
void read(A& a, LossInput& x) {
  read_all(a, x.logits, x.other, x.grad, x.grad_of_other, x.formula, x.target, x.real, x.threshold);
}

template <class A>
void read(A& a, SecondOrderPass& x) {
  read_all(a, x.n, x.pieces, x.activation, x.negative_slope, x.has_second_derivative, x.saved, x.s, x.winner, x.e,
           x.tangent, x.t);
}

template <class A>
void read(A& a, ParameterUpdate& x) {
  read_all(a, x.value, x.state0, x.state1, x.grad, x.n);
}

template <class A>
void read(A& a, UpdatePlan& x) {
  x.optimizer.fields(InOrder<A>{a});
  read_all(a, x.rates, x.rate_count, x.momenta, x.momentum_count, x.update, x.player);
}

template <class A, class T>
void read(A& a, std::vector<T>& list) {
  list.resize(size_t(a.integer()));
  for (T& item : list) read(a, item);
}

template <class A, class... Fields>
void read_all(A& a, Fields&... fields) {
  (read(a, fields), ...);
}

// ---------------------------------------------------------------- functions

template <class A, class... Parameters, size_t... i>
void call(A& a, void (*function)(Parameters...), std::index_sequence<i...>) {
  std::tuple<std::decay_t<Parameters>...> arguments{};
  read_all(a, std::get<i>(arguments)...);
  function(std::get<i>(arguments)..., a.stream());
}

// Calls a function with the arguments that it takes, in their order; the last one is the stream.
template <class A, class... Parameters>
void call(A& a, void (*function)(Parameters...)) {
  call(a, function, std::make_index_sequence<sizeof...(Parameters) - 1>());
}

template <class A, auto function>
void entry(A& a) {
  call(a, function);
}

template <class A>
void pair_loss(A& a) {
  int dtype;
  LossTerm real, fake;
  void* value;
  double* partial;
  read_all(a, dtype, real.logits, real.n, fake.logits, fake.n, real.formula, fake.formula, real.target, fake.target,
           real.scale, fake.scale, value, real.grad, fake.grad, partial);
  cuda_pair_loss(dtype, real, fake, value, partial, a.stream());
}

template <class A>
void loss_metrics(A& a) {
  int dtype;
  int64_t n;
  double scale, *sums;
  std::vector<LossInput> sub_batches;
  read_all(a, dtype, n, scale, sums, sub_batches);
  cuda_loss_metrics(dtype, sub_batches, n, scale, sums, a.stream());
}

// Calls f(name, entry) for each.
template <class A, class Function>
void each(Function&& f) {
  f("pair_loss", pair_loss<A>);
  f("pointwise", entry<A, cuda_pointwise>);
  f("scale", entry<A, cuda_scale>);
  f("random_fill", entry<A, cuda_random_fill>);
  f("to_sphere", entry<A, cuda_to_sphere>);
  f("dropout", entry<A, cuda_dropout>);
  f("draw_dropout_seeds", entry<A, cuda_draw_dropout_seeds>);
  f("gather", entry<A, cuda_gather>);
  f("gather_labels", entry<A, cuda_gather_labels>);
  f("draw_labels", entry<A, cuda_draw_labels>);
  f("gather_sampled", entry<A, cuda_gather_sampled>);
  f("cross_entropy", entry<A, cuda_cross_entropy>);
  f("layer_forward", entry<A, cuda_layer_forward>);
  f("layer_backward", entry<A, cuda_layer_backward>);
  f("small_mlp_forward", entry<A, cuda_small_mlp_forward>);
  f("small_mlp_backward", entry<A, cuda_small_mlp_backward>);
  f("norm_forward", entry<A, cuda_norm_forward>);
  f("norm_backward", entry<A, cuda_norm_backward>);
  f("heads_forward", entry<A, cuda_heads_forward>);
  f("heads_backward", entry<A, cuda_heads_backward>);
  f("loss_metrics", loss_metrics<A>);
  f("record", entry<A, cuda_record>);
  f("interpolate", entry<A, cuda_interpolate>);
  f("penalty_grad", entry<A, cuda_penalty_grad>);
  f("second_order", entry<A, cuda_second_order>);
  f("update", entry<A, cuda_update>);
  f("ema", entry<A, cuda_ema>);
  f("copy", entry<A, cuda_copy>);
  f("inspect", entry<A, cuda_inspect>);
  f("count_skipped", entry<A, cuda_count_skipped>);
  f("bound_norms", entry<A, cuda_bound_norms>);
  f("empty", entry<A, cuda_empty>);
  f("barrier_loop", entry<A, cuda_barrier_loop>);
}

}  // namespace fastgan::entries
