// Names to kernels. A new entry of csrc/cuda/kernels.h gets its lines here.
#include "calls.h"

#include <map>

#include "cuda/kernels.h"
#include "primitives.h"
#include "products.h"

using namespace fastgan;

namespace simt {
namespace {

void pair_loss(Arguments& a) {
  LossTerm real{}, fake{};
  const int dtype = a.number();
  real.logits = a.pointer(), real.n = a.integer();
  fake.logits = a.pointer(), fake.n = a.integer();
  real.formula = a.number(), fake.formula = a.number();
  real.target = a.real(), fake.target = a.real();
  real.scale = a.real(), fake.scale = a.real();
  void* value = a.pointer();
  real.slope = a.pointer(), fake.slope = a.pointer();
  double* partial = a.pointer<double>();
  cuda_pair_loss(dtype, real, fake, value, partial, a.stream());
}

void pointwise(Arguments& a) {
  const int dtype = a.number();
  const void* x = a.pointer();
  void* out = a.pointer();
  const int64_t n = a.integer();
  const int formula = a.number();
  const double target = a.real();
  const int order = a.number();
  cuda_pointwise(dtype, x, out, n, formula, target, order, a.stream());
}

void scale(Arguments& a) {
  const int dtype = a.number();
  void* x = a.pointer();
  const int64_t n = a.integer();
  const void* factor = a.pointer();
  cuda_scale(dtype, x, n, factor, a.stream());
}

void partials(Arguments& a) {
  const int64_t m = a.integer(), n = a.integer();
  a.answer(cuda_partials(m, n));
}

void random_fill(Arguments& a) {
  const int dtype = a.number();
  void* out = a.pointer();
  const int64_t n = a.integer();
  const bool normal = a.integer() != 0;
  const auto seed = uint64_t(a.integer());
  const auto purpose = uint32_t(a.integer());
  const auto step = uint64_t(a.integer());
  const auto substream = uint32_t(a.integer());
  const int64_t offset = a.integer();
  cuda_random_fill(dtype, out, n, normal, seed, purpose, step, substream, offset, a.stream());
}

void dropout(Arguments& a) {
  const int dtype = a.number();
  const void* x = a.pointer();
  void* out = a.pointer();
  const int64_t rows = a.integer(), features = a.integer();
  const double p = a.real();
  const auto key = uint64_t(a.integer());
  const auto substream = uint32_t(a.integer());
  cuda_dropout(dtype, x, out, rows, features, p, key, substream, a.stream());
}

void layer_partials(Arguments& a) {
  const int64_t rows = a.integer(), columns = a.integer();
  a.answer(cuda_layer_partials(rows, columns));
}

LayerPass layer_pass(Arguments& a) {
  LayerPass pass{};
  pass.rows = a.integer(), pass.units = a.integer();
  pass.pieces = a.number(), pass.activation = a.number();
  pass.negative_slope = a.real(), pass.dropout = a.real();
  pass.key = uint64_t(a.integer()), pass.substream = uint32_t(a.integer());
  return pass;
}

void layer_forward(Arguments& a) {
  const int dtype = a.number();
  const LayerPass pass = layer_pass(a);
  LayerForward call{};
  call.product = a.pointer(), call.bias = a.pointer();
  call.before = a.pointer(), call.output = a.pointer();
  call.winner = a.pointer<int32_t>();
  call.dropped = a.pointer();
  cuda_layer_forward(dtype, pass, call, a.stream());
}

void layer_backward(Arguments& a) {
  const int dtype = a.number();
  const LayerPass pass = layer_pass(a);
  LayerBackward call{};
  call.grad = a.pointer(), call.saved = a.pointer();
  call.winner = a.pointer<int32_t>();
  call.grad_product = a.pointer(), call.grad_bias = a.pointer();
  call.partial = a.pointer<double>();
  call.grad_grad = a.pointer(), call.to_grad = a.pointer();
  cuda_layer_backward(dtype, pass, call, a.stream());
}

void network_forward(Arguments& a) {
  const int dtype = a.number();
  const NetworkCall call = read_network_call(a);
  cuda_network_forward(dtype, call, a.stream());
}

void network_backward(Arguments& a) {
  const int dtype = a.number();
  const NetworkCall call = read_network_call(a);
  cuda_network_backward(dtype, call, a.stream());
}

// The parameters, five arguments each, come last.
void update(Arguments& a) {
  const int dtype = a.number();
  const auto rule = Rule(a.number());
  const double beta1 = a.real(), beta2 = a.real(), epsilon = a.real(), rate = a.real(), momentum = a.real();
  const int64_t step = a.integer();
  std::vector<ParameterUpdate> parameters(size_t(a.integer()));
  for (ParameterUpdate& u : parameters) {
    u.value = a.pointer(), u.state0 = a.pointer(), u.state1 = a.pointer();
    u.grad = a.pointer();
    u.n = a.integer();
  }
  cuda_update(dtype, {rule, beta1, beta2, epsilon, 0.0}, rate, momentum, step, parameters, a.stream());
}

void primitives(Arguments& a) {
  const int number = a.number(), blocks = a.number(), n = a.number();
  const int* in = a.pointer<int>();
  int *out = a.pointer<int>(), *more = a.pointer<int>();
  primitive(number, blocks, n, in, out, more, a.stream());
}

void faults(Arguments& a) {
  const int number = a.number();
  int* x = a.pointer<int>();
  const int n = a.number();
  planted_fault(number, x, n, a.stream());
}

void matrix_tiles(Arguments& a) {
  const int kind = a.number();
  const float *left = a.pointer<float>(), *right = a.pointer<float>();
  uint32_t* registers = a.pointer<uint32_t>();
  int* positions = a.pointer<int>();
  tiles(kind, left, right, registers, positions, a.stream());
}

void matrix_instruction(Arguments& a) {
  const int kind = a.number();
  const uint32_t* registers = a.pointer<uint32_t>();
  float* sums = a.pointer<float>();
  instruction(kind, registers, sums, a.stream());
}

void matrix_product(Arguments& a) {
  const int kind = a.number();
  const float *left = a.pointer<float>(), *right = a.pointer<float>();
  float* out = a.pointer<float>();
  const int m = a.number(), n = a.number(), k = a.number();
  product(kind, left, right, out, m, n, k, a.stream());
}

const std::map<std::string, void (*)(Arguments&)> entries = {
    {"primitive", primitives},
    {"fault", faults},
    {"tiles", matrix_tiles},
    {"instruction", matrix_instruction},
    {"product", matrix_product},
    {"partials", partials},
    {"pair_loss", pair_loss},
    {"pointwise", pointwise},
    {"scale", scale},
    {"random_fill", random_fill},
    {"dropout", dropout},
    {"layer_partials", layer_partials},
    {"layer_forward", layer_forward},
    {"layer_backward", layer_backward},
    {"network_forward", network_forward},
    {"network_backward", network_backward},
    {"update", update},
};

}  // namespace

void call(const std::string& name, Arguments& arguments) {
  const auto found = entries.find(name);
  if (found == entries.end()) fail("no entry %s", name.c_str());
  found->second(arguments);
  arguments.end();
  finish();
}

}  // namespace simt
