// The rates of the parts of an iteration on one core: the register tile, the three products of a layer, Adam, reading.
//
//   g++ -std=c++20 -O3 -march=x86-64-v4 -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math
//       -DFASTGAN_ISA=v4 -I csrc bench/parts.cpp -o /tmp/parts && taskset -c 1 /tmp/parts
//
// (v3: -march=x86-64-v3 -DFASTGAN_ISA=v3.) Each rate is the best of 40 repetitions.
#include <chrono>
#include <cstdio>

#include "../csrc/cpu/blocked.h"
#include "../csrc/cpu/gemm.cpp"
#include "../csrc/cpu/peak.cpp"
#include "../csrc/cpu/update.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// The best time of `f()` in nanoseconds.
template <class Function>
double best_ns(Function&& f) {
  double best = 1e18;
  for (int i = 0; i < 40; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begun).count());
  }
  return best;
}

// Numbers between -0.5 and 0.5: no NaN and no subnormal number, which would cost time.
struct Buffer {
  explicit Buffer(int64_t count) : data(new (std::align_val_t(4096)) float[size_t(count)]) {
    for (int64_t i = 0; i < count; ++i) data[i] = float(i % 997) / 997 - 0.5f;
  }
  ~Buffer() { ::operator delete[](data, std::align_val_t(4096)); }
  Buffer(const Buffer&) = delete;
  float* data;
};

double tile(Layout layout, int64_t depth) {
  constexpr int64_t rows = kTileRows, columns = kBlockRows<float>;
  const Buffer a(rows * depth), b(columns * depth), c(rows * columns);
  const Matrix<float> matrix =
      layout == Layout::blocked ? Matrix<float>{a.data, 0, rows * columns, a.data} : Matrix<float>{a.data, 1, rows};
  Ahead none{{}, 0, 0, 0};
  const auto run = tile_function<float>(layout, int(rows), int(columns));
  const double time = best_ns([&] {
    for (int i = 0; i < 1000; ++i) run(depth, matrix, b.data, nullptr, false, c.data, columns, &none);
  });
  return 2.0 * double(rows * columns * depth) * 1000 / time;
}

struct Shape {
  int64_t outputs, inputs, rows;
};

// With several weights, in turn: as many as no cache holds come from memory.
void products(const Shape& s, int64_t weights = 1) {
  BlockedWeight<float> weight{nullptr, s.outputs, s.inputs};
  const int64_t stride = padded(s.rows), size = (weight.size() + 1023) / 1024 * 1024;
  const Buffer w(weights * size), x(s.inputs * stride), y(s.outputs * stride), e(s.outputs * stride);
  int64_t turn = 0;
  const auto next = [&]() -> const BlockedWeight<float>& {
    weight.data = w.data + turn++ % weights * size;
    return weight;
  };
  const ColumnRange all{0, s.rows};
  const auto nothing = [](auto...) {};
  const double forward = best_ns([&] {
    multiply_weight(next(), {s.inputs, s.inputs, s.outputs, s.outputs}, static_cast<const float*>(nullptr), x.data,
                    y.data, all, Mapped<float>{});
  });
  const double gradient = best_ns([&] {
    multiply_gradient(
        {s.outputs, s.outputs, s.outputs, s.inputs}, all, e.data, x.data, 0, s.inputs, [](auto...) { return Ahead{}; },
        nothing, nothing);
  });
  const double backward = best_ns([&] {
    multiply_transposed_weight(next(), {s.outputs, s.outputs, s.inputs, s.inputs}, e.data, x.data, all,
                               Mapped<float>{});
  });
  const double work = 2.0 * double(s.outputs * s.inputs * s.rows);
  if (weights > 1) std::printf("from memory, ");
  std::printf("%5ld x %4ld, %3ld rows    forward %4.0f   backward %4.0f   weight gradient %4.0f GFLOP/s\n",
              long(s.outputs), long(s.inputs), long(s.rows), work / forward, work / backward, work / gradient);
}

// Nanoseconds a parameter: a weight and two moments are read and written.
double adam(int64_t parameters) {
  OptimizerPlan plan{};
  plan.rule = Rule::adam, plan.beta1 = 0.5, plan.beta2 = 0.999, plan.epsilon = 1e-8;
  const Buffer p(parameters), s0(parameters), s1(parameters), g(kTileRows * kBlockRows<float>);
  for (int64_t i = 0; i < parameters; ++i) s1.data[i] = s1.data[i] * s1.data[i];
  double time = 0;
  with_rule<float>(plan, 1e-4, 0.0, 100, [&](const auto& rule) {
    const int64_t some = kTileRows * kBlockRows<float>;
    time = best_ns([&] {
      for (int64_t i = 0; i + some <= parameters; i += some)
        update_run(rule, p.data + i, s0.data + i, s1.data + i, g.data, some);
    });
  });
  return time / double(parameters);
}

// GB/s.
double reading(int64_t bytes) {
  const int64_t count = bytes / 4;
  const Buffer x(count);
  const double time = best_ns([&] {
    Simd<float>::Vector sum[4]{};
    for (int64_t i = 0; i + 4 * kWidth <= count; i += 4 * kWidth)
      for (int j = 0; j < 4; ++j) sum[j] += Simd<float>::load(x.data + i + j * kWidth);
    kept = (sum[0] + sum[1] + sum[2] + sum[3])[0];
  });
  return double(bytes) / time;
}

void report() {
  std::printf("FMA peak %.0f GFLOP/s\n", fma_peak(0.1, false) / 1e9);
  for (const int64_t depth : {64, 256})
    std::printf("tile in the L1 cache, depth %3ld: %.0f, transposed %.0f GFLOP/s\n", long(depth),
                tile(Layout::blocked, depth), tile(Layout::adjacent, depth));
  for (const Shape& s : {Shape{128, 128, 32},
                         {128, 128, 128},
                         {256, 256, 100},
                         {784, 256, 100},
                         {512, 784, 64},
                         {1024, 512, 64},
                         {1200, 1200, 100},
                         {2048, 2048, 512}})
    products(s);
  products({1200, 1200, 100}, 12);  // 69 MB
  for (const int64_t kilobytes : {384, 6144, 98304})
    std::printf("Adam, %5ld KB of weights and moments: %.2f ns a parameter\n", long(kilobytes),
                adam(kilobytes * 1024 / 12));
  for (const int64_t kilobytes : {512, 8192, 131072})
    std::printf("reading %6ld KB: %.0f GB/s\n", long(kilobytes), reading(kilobytes * 1024));
}

}  // namespace
}  // namespace FASTGAN_ISA
}  // namespace fastgan

int main() { fastgan::report(); }
