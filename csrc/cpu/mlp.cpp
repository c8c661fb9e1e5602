// A whole MLP as an operation on the CPU: forward in one call, backward in another, the batch shared out among threads.
#include "../dtypes.h"
#include "kernels.h"
#include "network.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr double kWorthSharing = 2e6;  // multiplications, about 40 us: below, sharing them out would hardly pay

int team_size(const NetworkPlan& plan, int64_t rows, int threads) {
  if (const int forced = forced_team()) return forced;
  double products = 0;
  for (const LayerPlan& l : plan.layers) products += double(l.inputs) * double(l.outputs * l.pieces) * double(rows);
  return products < kWorthSharing ? 1 : threads;
}

// Takes the gradients where the caller wants them.
template <class T>
struct StoreGradients {
  const NetworkPlan& plan;
  const MlpBackward& call;

  bool wants_weight(int layer) const { return call.grad_weights[layer]; }
  bool wants_bias(int layer) const { return call.grad_biases[layer]; }
  Ahead needs(const GradientPart&, int64_t, int) const { return {{}, 0, 0, 0}; }
  void weight(const GradientPart& part, int64_t row, int height, const T* tile) const {
    const int64_t inputs = plan.layers[size_t(part.layer)].inputs;
    T* out = static_cast<T*>(call.grad_weights[part.layer]) + row * inputs + part.column;
    for (int i = 0; i < height; ++i) std::copy_n(tile + i * kPanel<T>, part.columns, out + i * inputs);
  }
  void vector(int layer, const ParameterPlan&, const T* grad, int64_t n) const {
    std::copy_n(grad, n, static_cast<T*>(call.grad_biases[layer]));
  }
};

template <class T>
Network<T> network(const NetworkPlan& plan, const void* const* weights, const void* const* biases) {
  std::vector<LayerParameters> parameters(plan.layers.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].weight.value = const_cast<void*>(weights[i]);  // neither pass writes to them
    if (biases) parameters[i].bias.value = const_cast<void*>(biases[i]);
  }
  return {plan, parameters};
}

template <class T>
void forward(const NetworkPlan& plan, const MlpForward& call) {
  Network<T> net = network<T>(plan, call.weights, call.biases);
  Arena<T> arena{static_cast<T*>(call.work)};
  net.place_forward(arena, call.rows);
  const Sections sections{{0, call.rows, &call.key}};
  with_team(team_size(plan, call.rows, call.threads), [&](const Team& team) {
    const Share share = share_of<T>(call.rows, team.rank, team.size);
    const int64_t last = std::min(share.last, call.rows);
    to_panels(static_cast<const T*>(call.x), net.inputs(), net.input, 0, share.first, last);
    net.forward(team, share, sections);
    from_panels(net.output(), net.outputs(), static_cast<T*>(call.y), 0, share.first, last);
  });
}

// The lowest layer whose parameters want a gradient; below it nothing need be computed unless x wants one.
size_t lowest_wanted(const MlpBackward& call, size_t depth) {
  size_t i = 0;
  while (!call.grad_x && i + 1 < depth && !call.grad_weights[i] && !call.grad_biases[i]) ++i;
  return i;
}

template <class T>
void backward(const NetworkPlan& plan, const MlpBackward& call) {
  Network<T> net = network<T>(plan, call.weights, nullptr);
  Arena<T> work{const_cast<T*>(static_cast<const T*>(call.work))}, scratch{static_cast<T*>(call.scratch)};
  net.place_forward(work, call.rows);
  net.place_backward(scratch, call.rows);
  const Sections sections{{0, call.rows, &call.key}};
  const size_t lowest = lowest_wanted(call, plan.layers.size());
  std::vector<GradientPart> parts = net.gradient_parts();  // from the top down
  while (!parts.empty() && size_t(parts.back().layer) < lowest) parts.pop_back();
  with_team(team_size(plan, call.rows, call.threads), [&](const Team& team) {
    const Share share = share_of<T>(call.rows, team.rank, team.size);
    const int64_t last = std::min(share.last, call.rows);
    to_panels(static_cast<const T*>(call.grad_y), net.outputs(), net.grad_output(), 0, share.first, last);
    net.backward(team, share, sections, lowest, call.grad_x != nullptr);
    if (call.grad_x) from_panels(net.grad_input, net.inputs(), static_cast<T*>(call.grad_x), 0, share.first, last);
    team.barrier();
    net.parameter_gradients(part_of(parts, team), Columns(call.rows), StoreGradients<T>{plan, call});
  });
}

// What both passes take a row, in elements.
template <class Place>
int64_t per_row(const NetworkPlan& plan, Place&& place) {
  Network<float> net(plan, std::vector<LayerParameters>(plan.layers.size()));
  Arena<float> arena;
  place(net, arena);
  return arena.used / kPad;
}

}  // namespace

void mlp_forward(int dtype, const NetworkPlan& plan, const MlpForward& call) {
  if (DType(dtype) == DType::f64)
    forward<double>(plan, call);
  else
    forward<float>(plan, call);
}

void mlp_backward(int dtype, const NetworkPlan& plan, const MlpBackward& call) {
  if (DType(dtype) == DType::f64)
    backward<double>(plan, call);
  else
    backward<float>(plan, call);
}

int64_t mlp_work_per_row(const NetworkPlan& plan) {
  return per_row(plan, [](auto& net, auto& arena) { net.place_forward(arena, kPad); });
}

int64_t mlp_scratch_per_row(const NetworkPlan& plan) {
  return per_row(plan, [](auto& net, auto& arena) { net.place_backward(arena, kPad); });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
