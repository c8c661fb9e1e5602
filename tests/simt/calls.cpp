// Names to kernels: the entries of csrc/cuda/entries.h, and what only tests call.
#include "calls.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/entries.h"
#include "plan.h"
#include "primitives.h"
#include "products.h"

using namespace fastgan;

namespace simt {
namespace {

void partials(Arguments& a) {
  const int64_t m = a.integer(), n = a.integer();
  a.answer(cuda_partials(m, n));
}

void layer_partials(Arguments& a) {
  const int64_t rows = a.integer(), columns = a.integer();
  a.answer(cuda_layer_partials(rows, columns));
}

void loss_metrics_sums(Arguments& a) {
  const int64_t n = a.integer();
  a.answer(cuda_loss_metrics_sums(n));
}

CudaLimits limits(Arguments& a) {
  CudaLimits device{};
  device.multiprocessors = a.number(), device.cluster = a.number(), device.shared_bytes = size_t(a.integer());
  return device;
}

// Answers with the bytes of shared memory, and in the upper half those of scratch memory.
void train_needs(Arguments& a) {
  const int dtype = a.number();
  const CudaLimits device = limits(a);
  Training training;
  read(a, training.plan);
  const CudaLimits needs = cuda_train_needs(dtype, training.plan, device);
  a.answer(int64_t(needs.scratch_bytes << 32 | needs.shared_bytes));
}

// How many clusters run at once, from here on.
void clusters(Arguments& a) { allow_clusters(a.number()); }

// The members, as plan.h reads them, come last.
void train(Arguments& a) {
  const int dtype = a.number();
  const CudaLimits device = limits(a);
  std::vector<Training> training(size_t(a.integer()));
  std::vector<CudaMember> members;
  for (Training& t : training) {
    read(a, t);
    members.push_back({&t.plan, &t.call});
  }
  std::vector<std::unique_ptr<Memory>> memory;
  const auto allocate = [&](size_t bytes) {  // full of NaN
    memory.push_back(std::make_unique<Memory>(std::string(bytes, '\xff').data(), bytes, 0, false));
    return memory.back()->at();
  };
  cuda_train(dtype, members, device, allocate, a.stream());
  finish();
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

std::map<std::string, void (*)(Arguments&)> all_entries() {
  std::map<std::string, void (*)(Arguments&)> all = {
      {"primitive", primitives},
      {"fault", faults},
      {"partials", partials},
      {"layer_partials", layer_partials},
      {"loss_metrics_sums", loss_metrics_sums},
      {"tiles", matrix_tiles},
      {"instruction", matrix_instruction},
      {"product", matrix_product},
      {"train", train},
      {"train_needs", train_needs},
      {"clusters", clusters},
  };
  entries::each<Arguments>([&](const char* name, void (*entry)(Arguments&)) { all[name] = entry; });
  return all;
}

}  // namespace

void call(const std::string& name, Arguments& arguments) {
  static const auto all = all_entries();
  const auto found = all.find(name);
  if (found == all.end()) fail("no entry %s", name.c_str());
  found->second(arguments);
  arguments.end();
  finish();
}

}  // namespace simt
