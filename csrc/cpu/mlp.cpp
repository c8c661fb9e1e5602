// A whole MLP as an operation on the CPU: forward, backward, the derivatives of backward, and a gradient penalty, each
// in one call. Threads share the batch.
#include "../dtypes.h"
#include "dispatch.h"
#include "penalty.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

constexpr double kParallelThreshold = 2e6;  // multiplications, about 40 us; below, one thread is as fast

int team_size(const NetworkPlan& plan, int64_t rows, int threads) {
  if (const int forced = forced_team()) return forced;
  double products = 0;
  for (const LayerPlan& l : plan.layers) products += double(l.inputs) * double(l.outputs * l.pieces) * double(rows);
  return products < kParallelThreshold ? 1 : threads;
}

// A sink that writes gradients to the caller's buffers.
template <class T>
struct StoreGradients {
  const NetworkPlan& plan;
  void *const *weights, *const *biases;

  bool wants_weight(int layer) const { return weights[layer]; }
  bool wants_bias(int layer) const { return biases[layer]; }
  Ahead needs(const GradientPart&, int64_t, int) const { return {{}, 0, 0, 0}; }
  void weight(const GradientPart& part, int64_t row, int height, const T* tile) const {
    const int64_t inputs = plan.layers[size_t(part.layer)].inputs;
    T* out = static_cast<T*>(weights[part.layer]) + row * inputs + part.column;
    for (int i = 0; i < height; ++i) std::copy_n(tile + i * kBlockRows<T>, part.columns, out + i * inputs);
  }
  void vector(int, const ParameterPlan& of, const T* grad, int64_t n) const {
    if (of.state0) std::copy_n(grad, n, static_cast<T*>(of.state0));
  }
};

// state0 of a vector is the address of its gradient.
template <class T>
Network<T> network(const NetworkPlan& plan, const void* const* weights, const void* const* biases,
                   void* const* grad_biases, const MlpNorm* norms = nullptr) {
  std::vector<LayerParameters> parameters(plan.layers.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    LayerParameters& of = parameters[i];
    of.weight.value = const_cast<void*>(weights[i]);  // neither pass writes to them
    if (biases) of.bias.value = const_cast<void*>(biases[i]);
    if (grad_biases) of.bias.state0 = grad_biases[i];
    if (!norms) continue;
    of.norm_scale.value = const_cast<void*>(norms[i].scale), of.norm_scale.state0 = norms[i].grad_scale;
    of.norm_shift.value = const_cast<void*>(norms[i].shift), of.norm_shift.state0 = norms[i].grad_shift;
    of.running_mean = norms[i].running_mean, of.running_variance = norms[i].running_variance;
    of.batches = norms[i].batches;
  }
  Network<T> result(plan, parameters);
  if (norms)
    for (size_t i = 0; i < parameters.size(); ++i) result.layers()[i].plan.norm_momentum = norms[i].momentum;
  return result;
}

// Zeros the columns behind the last row, before anything is written. Products read whole vectors of them, and memory
// that was never written may hold subnormal numbers: a batch of 20 rows then took 3 times as long.
template <class T>
void zero_last_columns(const Team& team, const Network<T>& net, int64_t rows, ColumnRange range) {
  if (team.rank != team.size - 1 || rows % Simd<T>::width == 0) return;
  const int64_t end = rounded_up(range.last, kBlockRows<T>);
  net.zero({std::max(range.first, end - kBlockRows<T>), end});  // other threads may own the block's first columns
}

template <class T>
void forward(const NetworkPlan& plan, const MlpForward& call) {
  Network<T> net = network<T>(plan, call.weights, call.biases, nullptr, call.norms);
  Arena<T> arena{static_cast<T*>(call.work)};
  net.place_forward(arena, call.rows);
  const SubBatches sub_batches{{0, call.rows, &call.dropout_seed}};
  with_team(team_size(plan, call.rows, call.threads), [&](const Team& team) {
    const ColumnRange range = partition<T>(call.rows, team.rank, team.size);
    const int64_t last = std::min(range.last, call.rows);
    zero_last_columns(team, net, call.rows, range);
    to_blocked(static_cast<const T*>(call.x), net.inputs(), net.input, 0, range.first, last);
    net.forward(team, range, sub_batches);
    from_blocked(net.output(), net.outputs(), static_cast<T*>(call.y), 0, range.first, last);
  });
}

// The lowest layer with a parameter that needs a gradient. The layers below are skipped unless x needs one.
size_t lowest_wanted(const MlpBackward& call, size_t depth) {
  size_t i = 0;
  const auto wants_norm = [&](size_t at) {
    return call.norms && (call.norms[at].grad_scale || call.norms[at].grad_shift);
  };
  while (!call.grad_x && i + 1 < depth && !call.grad_weights[i] && !call.grad_biases[i] && !wants_norm(i)) ++i;
  return i;
}

template <class T>
void backward(const NetworkPlan& plan, const MlpBackward& call) {
  Network<T> net = network<T>(plan, call.weights, nullptr, call.grad_biases, call.norms);
  Arena<T> work{const_cast<T*>(static_cast<const T*>(call.work))}, scratch{static_cast<T*>(call.scratch)};
  net.place_forward(work, call.rows);
  net.keep_buffers();
  net.place_backward(scratch, call.rows);
  const SubBatches sub_batches{{0, call.rows, &call.dropout_seed}};
  const size_t lowest = lowest_wanted(call, plan.layers.size());
  std::vector<GradientPart> parts = net.gradient_parts();  // from the top down
  while (!parts.empty() && size_t(parts.back().layer) < lowest) parts.pop_back();
  with_team(team_size(plan, call.rows, call.threads), [&](const Team& team) {
    const ColumnRange range = partition<T>(call.rows, team.rank, team.size);
    const int64_t last = std::min(range.last, call.rows);
    zero_last_columns(team, net, call.rows, range);
    to_blocked(static_cast<const T*>(call.grad_y), net.outputs(), net.grad_output(), 0, range.first, last);
    net.backward(team, range, sub_batches, lowest, call.grad_x != nullptr);
    if (call.grad_x) from_blocked(net.grad_input, net.inputs(), static_cast<T*>(call.grad_x), 0, range.first, last);
    team.barrier();
    net.parameter_gradients(part_of(parts, team), Columns(call.rows),
                            StoreGradients<T>{plan, call.grad_weights, call.grad_biases});
  });
}

bool wants_any(void* const* gradients, size_t count) {
  return std::any_of(gradients, gradients + count, [](void* p) { return p != nullptr; });
}

// Columns 0 .. rows are for tangents, the columns after them for the results of the two passes
// (Network::place_second_order).
template <class T>
struct SecondOrder {
  Network<T> net;
  T* second_order_scratch;

  SecondOrder(const Network<T>& done, Arena<T>& arena, int64_t rows, int threads) : net(done) {
    net.keep_buffers();
    net.place_second_order(arena, done, rows);
    second_order_scratch = arena.allocate(PenaltyPass<T>::scratch_size(net, padded(rows), threads));
  }
};

// The columns over which gradients sum: only the tangents, if all activations are piecewise linear.
inline Columns columns_of_second_order(bool has_second_derivative, int64_t rows) {
  const int64_t where = padded(rows);
  if (!has_second_derivative) return {rows, {0, 0}, {0, 0}};
  return {where + rows, {0, 0}, {where, where + rows}};
}

// Zeros between the last row of tangents and the padded number of rows, so that they add nothing to a product.
template <class T>
void clear_padding(const Team& team, Network<T>& net, int64_t rows) {
  if (team.rank != team.size - 1) return;  // the last thread computed the last rows
  const auto clear = [&](T* buffer, int64_t features) {
    each_block<T>({rows, padded(rows)}, [&](int64_t p, int lane, int lanes) {
      for (int64_t f = 0; f < features; ++f)
        std::fill_n(buffer + (p * features + f) * kBlockRows<T> + lane, lanes, T(0));
    });
  };
  clear(net.dropped_input(), net.inputs());
  for (Layer<T>& l : net.layers()) {
    clear(l.dropped, l.plan.outputs);
    clear(l.grad_affine, l.rows());
  }
}

template <class T>
void second_order(const NetworkPlan& plan, const MlpSecondOrder& call) {
  Network<T> done = network<T>(plan, call.weights, nullptr, call.grad_biases);
  Arena<T> work{const_cast<T*>(static_cast<const T*>(call.work))},
      kept{const_cast<T*>(static_cast<const T*>(call.kept))};
  done.place_forward(work, call.rows);
  done.place_backward(kept, call.rows);
  Arena<T> scratch{static_cast<T*>(call.scratch)};
  const int threads = team_size(plan, call.rows, call.threads);
  SecondOrder<T> second(done, scratch, call.rows, threads);
  Network<T>& net = second.net;
  const bool needs_second_order = has_second_derivative(net);
  const SubBatch where{padded(call.rows), call.rows, &call.dropout_seed};
  const size_t depth = plan.layers.size();
  const bool products = wants_any(call.grad_weights, depth) || wants_any(call.grad_biases, depth);
  const std::vector<GradientPart> parts = net.gradient_parts();
  with_team(threads, [&](const Team& team) {
    const ColumnRange range = partition<T>(call.rows, team.rank, team.size);
    const ColumnRange there{where.first + range.first, where.first + range.last};
    const int64_t last = std::min(range.last, call.rows);
    zero_last_columns(team, net, call.rows, range);
    zero_last_columns(team, net, call.rows, there);
    net.take_passes(done, call.rows, range, needs_second_order && products);
    to_blocked(static_cast<const T*>(call.tangent), net.inputs(), net.dropped_input(), 0, range.first, last);
    PenaltyPass<T>(net, where, 0, PenaltyPass<T>::scratch_of(second.second_order_scratch, net, range, team.rank))
        .follow(range);
    if (call.grad_grad_y)
      from_blocked(net.output(), net.outputs(), static_cast<T*>(call.grad_grad_y), 0, range.first, last);
    if (call.grad_x && !needs_second_order)
      std::fill_n(static_cast<T*>(call.grad_x) + range.first * net.inputs(), (last - range.first) * net.inputs(), T(0));
    if (call.grad_x && needs_second_order) {
      const Layer<T>& l = net.layers().front();
      net.multiply_by_transposed(l, l.plan.inputs, l.grad_affine, net.grad_input, there, Mapped<T>{});
      if (plan.input_dropout > 0)
        drop(net.grad_input, net.grad_input, net.inputs(), there, where, plan.input_dropout, call.dropout_seed, 0);
      from_blocked(net.grad_input, net.inputs(), static_cast<T*>(call.grad_x), where.first, range.first, last);
    }
    if (!products) return;
    if (needs_second_order) clear_padding(team, net, call.rows);
    team.barrier();
    net.parameter_gradients(part_of(parts, team), columns_of_second_order(needs_second_order, call.rows),
                            StoreGradients<T>{plan, call.grad_weights, call.grad_biases});
  });
}

template <class T>
struct PenaltyBuffers {
  PenaltyBuffers(Network<T>& net, Arena<T>& arena, int64_t rows, int threads) {
    net.place_forward(arena, 2 * padded(rows));
    net.place_backward(arena, 2 * padded(rows));
    second_order_scratch = arena.allocate(PenaltyPass<T>::scratch_size(net, padded(rows), threads));
  }
  T* second_order_scratch;
};

template <class T>
void penalty(const NetworkPlan& plan, const MlpPenalty& call) {
  Network<T> net = network<T>(plan, call.weights, call.biases, call.grad_biases);
  Arena<T> scratch{static_cast<T*>(call.scratch)};
  const int threads = team_size(plan, call.rows, call.threads);
  const PenaltyBuffers<T> buffers(net, scratch, call.rows, threads);
  const bool needs_second_order = has_second_derivative(net);
  const SubBatch where{padded(call.rows), call.rows, &call.dropout_seed};
  const std::vector<GradientPart> parts = net.gradient_parts();
  with_team(threads, [&](const Team& team) {
    const ColumnRange range = partition<T>(call.rows, team.rank, team.size);
    const ColumnRange there{where.first + range.first, where.first + range.last};
    zero_last_columns(team, net, call.rows, range);
    zero_last_columns(team, net, call.rows, there);
    to_blocked(static_cast<const T*>(call.x), net.inputs(), net.input, where.first, range.first,
               std::min(range.last, call.rows));
    net.forward(team, there, {where});
    each_block<T>(there, [&](int64_t p, int lane, int lanes) {
      for (int64_t u = 0; u < net.outputs(); ++u)
        std::fill_n(net.grad_output() + (p * net.outputs() + u) * kBlockRows<T> + lane, lanes, T(1));
    });
    net.backward(team, there, {where}, 0, true);
    PenaltyPass<T>(net, where, 0, PenaltyPass<T>::scratch_of(buffers.second_order_scratch, net, range, team.rank))
        .run(range, call.kind, T(call.weight), net.inputs(), static_cast<T*>(call.values));
    if (!call.grad_weights) return;
    if (needs_second_order) clear_padding(team, net, call.rows);
    team.barrier();
    net.parameter_gradients(part_of(parts, team), columns_of_second_order(needs_second_order, call.rows),
                            StoreGradients<T>{plan, call.grad_weights, call.grad_biases});
  });
}

// Elements of the buffers for each row.
template <class Place>
int64_t per_row(const NetworkPlan& plan, Place&& place) {
  Network<float> net(plan, std::vector<LayerParameters>(plan.layers.size()));
  Arena<float> arena;
  place(net, arena);
  return arena.used / kPad;
}

}  // namespace

void mlp_forward(int dtype, const NetworkPlan& plan, const MlpForward& call) {
  DType(dtype) == DType::f64 ? forward<double>(plan, call) : forward<float>(plan, call);
}

void mlp_backward(int dtype, const NetworkPlan& plan, const MlpBackward& call) {
  DType(dtype) == DType::f64 ? backward<double>(plan, call) : backward<float>(plan, call);
}

void mlp_second_order(int dtype, const NetworkPlan& plan, const MlpSecondOrder& call) {
  DType(dtype) == DType::f64 ? second_order<double>(plan, call) : second_order<float>(plan, call);
}

void mlp_penalty(int dtype, const NetworkPlan& plan, const MlpPenalty& call) {
  DType(dtype) == DType::f64 ? penalty<double>(plan, call) : penalty<float>(plan, call);
}

MlpSizes mlp_sizes(const NetworkPlan& plan) {
  return {per_row(plan, [](auto& net, auto& arena) { net.place_forward(arena, kPad); }),
          per_row(plan, [](auto& net, auto& arena) { net.place_backward(arena, kPad); }),
          per_row(plan, [](auto& net, auto& arena) { SecondOrder<float>(net, arena, kPad, 0); }),
          per_row(plan, [](auto& net, auto& arena) { PenaltyBuffers<float>(net, arena, kPad, 0); })};
}

}  // namespace fastgan::inline FASTGAN_ISA
