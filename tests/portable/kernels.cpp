// Runs kernels of csrc/cpu and writes every result to a file: tests/test_portable.py compares the files of two
// processors.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

using namespace fastgan;

namespace {

constexpr int kFloat = 0, kDouble = 1;  // DType
constexpr int kThreads = 2;

std::FILE* out;

template <class T>
void write(const std::vector<T>& values) {
  for (const T value : values) {
    const double wide = value;
    std::fwrite(&wide, sizeof wide, 1, out);
  }
}

// Numbers in (-scale, scale), alike on every machine.
template <class T>
std::vector<T> numbers(size_t n, double scale) {
  static uint64_t state = 1;
  std::vector<T> values(n);
  for (T& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = T(scale * (double(state >> 33) / double(1u << 30) - 1));
  }
  return values;
}

template <class T>
void losses(int dtype, int formulas) {
  const auto real = numbers<T>(1003, 30), fake = numbers<T>(517, 30);
  for (int formula = 0; formula < formulas; ++formula) {
    for (int order = 0; order < 3; ++order) {
      std::vector<T> values(real.size());
      kernels().pointwise(dtype, real.data(), values.data(), int64_t(values.size()), formula, 0.9, order, kThreads);
      write(values);
    }
    std::vector<T> value(1), grad_real(real.size()), grad_fake(fake.size());
    kernels().pair_loss(dtype, {real.data(), int64_t(real.size()), formula, 0.9, 1e-3, grad_real.data()},
                        {fake.data(), int64_t(fake.size()), formula, 0.1, 2e-3, grad_fake.data()}, value.data(), kThreads);
    write(value), write(grad_real), write(grad_fake);
  }
}

template <class T>
void streams(int dtype) {
  for (const bool normal : {false, true}) {
    std::vector<T> values(777);
    kernels().random_fill(dtype, values.data(), 777, normal, 42, 1, 3, 2, 5, kThreads);
    write(values);
  }
  const auto x = numbers<T>(40 * 19, 1);
  std::vector<T> dropped(x.size());
  kernels().dropout(dtype, x.data(), dropped.data(), 40, 19, 0.3, 42, 1, kThreads);
  write(dropped);
}

template <class T>
void network(int dtype, int activation, int pieces) {
  const int64_t rows = 45, padded = 64;
  NetworkPlan plan;
  plan.layers = {{13, 37, pieces, activation, 0.2, 0.25, true}, {37, 21, 1, 1, 0.2, 0.0, false}, {21, 3, 1, 3, 0.2, 0.0, true}};
  const auto x = numbers<T>(size_t(rows * 13), 1), grad_y = numbers<T>(size_t(rows * 3), 1);
  std::vector<std::vector<T>> weights, biases, grad_weights, grad_biases;
  std::vector<const void*> w, b;
  std::vector<void*> gw, gb;
  for (const LayerPlan& layer : plan.layers) {
    const auto units = size_t(layer.outputs * layer.pieces);
    weights.push_back(numbers<T>(units * size_t(layer.inputs), 0.5));
    biases.push_back(numbers<T>(units, 0.5));
    grad_weights.emplace_back(weights.back().size());
    grad_biases.emplace_back(units);
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool bias = plan.layers[i].bias;
    w.push_back(weights[i].data()), b.push_back(bias ? biases[i].data() : nullptr);
    gw.push_back(grad_weights[i].data()), gb.push_back(bias ? grad_biases[i].data() : nullptr);
  }
  const auto aligned = [](int64_t elements) { return static_cast<T*>(::operator new(size_t(elements) * sizeof(T), std::align_val_t(64))); };
  T* work = aligned(kernels().mlp_work_per_row(plan) * padded);
  T* scratch = aligned(kernels().mlp_scratch_per_row(plan) * padded);
  std::vector<T> y(size_t(rows * 3)), grad_x(x.size());
  kernels().mlp_forward(dtype, plan, {x.data(), rows, w.data(), b.data(), y.data(), work, 7, kThreads});
  kernels().mlp_backward(dtype, plan, {x.data(), rows, w.data(), work, grad_y.data(), grad_x.data(), gw.data(), gb.data(),
                                       scratch, 7, kThreads});
  ::operator delete(work, std::align_val_t(64));
  ::operator delete(scratch, std::align_val_t(64));
  write(y), write(grad_x);
  for (size_t i = 0; i < weights.size(); ++i) write(grad_weights[i]), write(grad_biases[i]);
}

template <class T>
void all(int dtype, int formulas, int activations) {
  streams<T>(dtype);
  losses<T>(dtype, formulas);
  for (int activation = 0; activation < activations; ++activation) network<T>(dtype, activation, 1);
  network<T>(dtype, 0, 5);
}

}  // namespace

// Arguments: the type, the file, how many loss formulas and activations there are.
int main(int count, char** arguments) {
  if (count != 5) return 2;
  const auto number = [&](int i) { return int(std::strtol(arguments[i], nullptr, 10)); };
  if ((out = std::fopen(arguments[2], "wb")) == nullptr) return 1;
  number(1) == kDouble ? all<double>(kDouble, number(3), number(4)) : all<float>(kFloat, number(3), number(4));
  return std::fclose(out);
}
