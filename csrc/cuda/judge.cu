// What an iteration makes of D's logits on CUDA: the slopes that the way back begins with, and the numbers of the history,
// summed in double in two stages of fixed order. The second stage waits until the iteration ends, when it also moves the
// clock: nothing in between needs to know a loss.
#include <algorithm>

#include "../dtypes.h"
#include "device.cuh"
#include "kernels.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kSums = 3;  // a block's: of values, of D's opinion, of right answers

int64_t judge_blocks(int64_t n) { return std::min(kMaxBlocks, (n + 4 * kThreads - 1) / (4 * kThreads)); }

// ---------------------------------------------------------------- kernels

template <class T>
struct Section {
  const T *logits, *other;  // the loss is one of logits - other, or of logits alone
  T *slope, *slope_of_other;
  int formula;  // below 0: none, the sums of opinions alone
  T target;
  bool real;
};

template <class T>
struct Sections {
  Section<T> at[2];
};

// Calls f(value, slope) of a formula's number, the same in all threads.
template <class T>
__device__ void evaluate(int formula, T l, T target, T& value, T& slope) {
  with_formula(formula, [&](auto f) {
    value = decltype(f)::value(l, target);
    slope = decltype(f)::slope(l, target);
  });
}

// Blocks of the first section, then as many of the second.
template <class T>
__global__ void __launch_bounds__(kThreads) judge(const __grid_constant__ Sections<T> sections, int64_t n, T scale,
                                                  int blocks, double* __restrict__ partial) {
  const Section<T>& s = sections.at[blockIdx.x / unsigned(blocks)];
  const int64_t first = int64_t(blockIdx.x % unsigned(blocks)) * kThreads + threadIdx.x;
  double sums[kSums] = {};
  for (int64_t i = first; i < n; i += int64_t(blocks) * kThreads) {
    const T l = s.logits[i];
    sums[1] += double(sigmoid(l));
    sums[2] += double(s.real ? l > T(0) : l < T(0));  // a NaN is neither
    if (s.formula < 0) continue;
    T value = T(0), slope = T(0);
    evaluate(s.formula, s.other ? l - s.other[i] : l, s.target, value, slope);
    sums[0] += double(value);
    s.slope[i] = scale * slope;
    if (s.slope_of_other) s.slope_of_other[i] = -(scale * slope);
  }
  for (int j = 0; j < kSums; ++j) {
    const double sum = block_sum(sums[j]);
    if (threadIdx.x == 0) partial[int64_t(blockIdx.x) * kSums + j] = sum;
  }
}

// Number `which` of the sums of blocks first .. last.
__device__ double total(const double* partial, int first, int last, int which) {
  double sum = 0.0;
  for (int64_t i = first + int(threadIdx.x); i < last; i += kThreads) sum += partial[i * kSums + which];
  return block_sum(sum);
}

// Writes the row of this iteration, and begins the next one.
template <class T>
__global__ void __launch_bounds__(kThreads) record(Clock* clock, double* __restrict__ metrics, int64_t capacity,
                                                   const double* d, const double* g, int blocks, double n, double weight,
                                                   const T* __restrict__ penalties, int64_t penalized) {
  double penalty = 0.0;
  for (int64_t i = threadIdx.x; i < penalized; i += kThreads) penalty += double(penalties[i]);
  penalty = block_sum(penalty);
  double row[kMetrics];
  row[0] = weight * total(d, 0, 2 * blocks, 0) / n + penalty;
  row[1] = total(g, 0, blocks, 0) / n;
  for (int i = 0; i < 4; ++i) row[2 + i] = total(d, i % 2 * blocks, (i % 2 + 1) * blocks, 1 + i / 2) / n;
  if (threadIdx.x > 0) return;
  for (int i = 0; i < kMetrics; ++i) metrics[clock->iteration % capacity * kMetrics + i] = row[i];
  ++clock->iteration;
}

// ---------------------------------------------------------------- launchers

template <class T>
Section<T> section_of(const JudgeSection& s) {
  return {static_cast<const T*>(s.logits),  static_cast<const T*>(s.other), static_cast<T*>(s.slope),
          static_cast<T*>(s.slope_of_other), s.formula,                     T(s.target),
          s.real};
}

}  // namespace
}  // namespace FASTGAN_ISA

int64_t cuda_judge_sums(int64_t n) { return judge_blocks(n) * kSums; }

void cuda_judge(int dtype, const std::vector<JudgeSection>& sections, int64_t n, double scale, double* sums, void* stream) {
  const int blocks = int(judge_blocks(n));
  const auto run = [&](auto type) {
    using T = decltype(type);
    Sections<T> of{};
    for (size_t i = 0; i < sections.size(); ++i) of.at[i] = section_of<T>(sections[i]);
    launch("judge", judge<T>, blocks * int(sections.size()), stream, of, n, T(scale), blocks, sums);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

void cuda_record(int dtype, Clock* clock, double* metrics, int64_t capacity, const double* d, const double* g, int64_t n,
                 double weight, const void* penalties, int64_t penalized, void* stream) {
  const int blocks = int(judge_blocks(n));
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch("record", record<T>, 1, stream, clock, metrics, capacity, d, g, blocks, double(n), weight,
           static_cast<const T*>(penalties), penalized);
  };
  DType(dtype) == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace fastgan
