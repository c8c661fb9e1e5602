// What the CUDA half offers to the bindings. Built without nvcc, none.cpp stands in and says so.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../cpu/kernels.h"

namespace fastgan {

std::string cuda_version();  // of the toolkit it was built with; empty: built without CUDA
std::string cuda_problem();  // why kernels cannot run on the current device; empty: they can

int64_t cuda_partials(int64_t m, int64_t n);  // doubles of scratch a pair_loss needs
void cuda_pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, double* partial, void* stream);
void cuda_pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, void* stream);
void cuda_scale(int dtype, void* x, int64_t n, const void* factor, void* stream);  // x *= a scalar of the device

void cuda_random_fill(int dtype, void* out, int64_t n, bool normal, uint64_t seed, uint32_t purpose, uint64_t step,
                      uint32_t substream, int64_t offset, void* stream);
void cuda_dropout(int dtype, const void* x, void* out, int64_t rows, int64_t features, double p, uint64_t key,
                  uint32_t substream, void* stream);

// What stands between the matrix products of an MLP; all matrices row by row. Addresses: null where not wanted or not there.
struct LayerPass {
  int64_t rows, units;
  int pieces, activation;
  double negative_slope, dropout;
  uint64_t key;
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

// The arguments of both calls in order; `a` hands them out.
template <class Arguments>
NetworkCall read_network_call(Arguments& a) {
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
    layer.winner = static_cast<int32_t*>(a.pointer());
    layer.dropped = a.pointer();
    layer.grad_product = a.pointer(), layer.grad_weight = a.pointer(), layer.grad_bias = a.pointer();
  }
  return call;
}

struct ParameterUpdate {
  void *value, *state0, *state1;
  const void* grad;
  int64_t n;
};
void cuda_update(int dtype, const OptimizerPlan& plan, double rate, double momentum, int64_t step,
                 const std::vector<ParameterUpdate>& parameters, void* stream);

}  // namespace fastgan
