// Names to kernels. A new entry of csrc/cuda/kernels.h gets its lines here.
#include "calls.h"

#include <map>

#include "cuda/kernels.h"
#include "primitives.h"

using namespace fastgan;

namespace simt {
namespace {

int stream_object;

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

void partials(Arguments& a) {
  const int64_t m = a.integer(), n = a.integer();
  *a.pointer<int64_t>() = cuda_partials(m, n);
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

const std::map<std::string, void (*)(Arguments&)> entries = {
    {"primitive", primitives},
    {"fault", faults},
    {"partials", partials},
    {"pair_loss", pair_loss},
    {"pointwise", pointwise},
};

}  // namespace

cudaStream_t stream() { return reinterpret_cast<cudaStream_t>(&stream_object); }

void* Arguments::stream() {
  next('s');
  return simt::stream();
}

void call(const std::string& name, Arguments& arguments) {
  const auto found = entries.find(name);
  if (found == entries.end()) fail("no entry %s", name.c_str());
  found->second(arguments);
  arguments.end();
}

}  // namespace simt
