// Batch normalisation over the batch of a whole cluster: a warp computes the statistics of a feature from all blocks'
// columns and writes them to every block; then each block normalises its own columns.
#pragma once
#include <cmath>

#include "train_network.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// Buffers of a layer's normalisation, `outputs` numbers each: for each sub-batch the mean, the inverse deviation and,
// in the backward pass, the means of the gradient and of its product with the normalised input; then the parameters'
// gradients.
template <class T>
struct NormOf {
  T* at;
  int outputs;

  __device__ NormOf(const Block<T>& block, const LayerOf<T>& l) : at(block.at(l.statistics)), outputs(l.outputs) {}
  __device__ NormOf(const Block<T>& block, const LayerOf<T>& l, int other)
      : at(block.at(l.statistics, other)), outputs(l.outputs) {}
  __device__ T* mean(int sub_batch) const { return at + (4 * sub_batch) * outputs; }
  __device__ T* inverse(int sub_batch) const { return at + (4 * sub_batch + 1) * outputs; }
  __device__ T* of_grad(int sub_batch) const { return at + (4 * sub_batch + 2) * outputs; }
  __device__ T* of_product(int sub_batch) const { return at + (4 * sub_batch + 3) * outputs; }
  __device__ T* grad_scale() const { return at + 8 * outputs; }
  __device__ T* grad_shift() const { return at + 9 * outputs; }
};

// Calls f(feature) once for each feature, by all lanes of one warp; the warps of all blocks share the features.
template <class T, class Function>
__device__ void each_feature(const Block<T>& block, int features, Function&& f) {
  for (int i = block.together().rank / 32; i < features; i += block.together().count / 32) f(i);
}

template <class T>
__device__ void update_statistics(const LayerOf<T>& l, int feature, T mean, T variance, T rows) {
  if (!l.running_mean) return;
  l.running_mean[feature] = running(l.running_mean[feature], mean, T(l.norm_momentum));
  l.running_variance[feature] = running(l.running_variance[feature], unbiased(variance, rows), T(l.norm_momentum));
}

template <class T>
FASTGAN_CALLED void normalize(const Block<T>& block, const NetworkOf& net, const LayerOf<T>& l,
                              const SubBatches& sub_batches) {
  block.barrier_of_all();
  const T rows = T(sub_batches.batch * sub_batches.each);
  const bool first_lane = threadIdx.x % 32 == 0;
  each_feature(block, l.outputs, [&](int feature) {
    const int64_t row = int64_t(feature) * net.stride;
    for (int s = 0; s < sub_batches.count; ++s) {
      const T mean = sum_of_batch<T>(block, sub_batches, s,
                                     [&](int other, int column) { return block.at(l.affine, other)[row + column]; }) /
                     rows;
      const T variance = sum_of_batch<T>(block, sub_batches, s,
                                         [&](int other, int column) {
                                           const T x = block.at(l.affine, other)[row + column] - mean;
                                           return x * x;
                                         }) /
                         rows;
      if (!first_lane) continue;
      for (int other = 0; other < block.size; ++other) {
        const NormOf<T> norm(block, l, other);
        norm.mean(s)[feature] = mean;
        norm.inverse(s)[feature] = T(1) / std::sqrt(variance + l.norm_epsilon);
      }
      update_statistics(l, feature, mean, variance, rows);
    }
  });
  if (block.together().rank == 0 && l.batches) *l.batches += sub_batches.count;
  block.barrier_of_all();

  const NormOf<T> norm(block, l);
  const T *scale = block.at(l.norm_scale.here), *shift = block.at(l.norm_shift.here), *in = block.at(l.affine);
  T *normalized = block.at(l.normalized), *out = block.at(l.output);
  for (int s = 0; s < sub_batches.count; ++s)
    each_element(l.outputs, sub_batches.all[s].rows, block.alone(), [&](int feature, int column) {
      const int64_t at = int64_t(feature) * net.stride + sub_batches.all[s].column + column;
      const T a = norm.inverse(s)[feature] * (l.norm_scale.value ? scale[feature] : T(1));
      const T x = (in[at] - norm.mean(s)[feature]) * a + (l.norm_shift.value ? shift[feature] : T(0));
      if (normalized != out) normalized[at] = x;
      if (l.pieces == 1) out[at] = l.activation ? activated(l.activation, Pack<T, 1>{{x}}, l.negative_slope).at[0] : x;
    });
  block.barrier();
}

template <class T>
FASTGAN_CALLED void normalize_backward(const Block<T>& block, const NetworkOf& net, const LayerOf<T>& l,
                                       const SubBatches& sub_batches) {
  block.barrier_of_all();
  const T rows = T(sub_batches.batch * sub_batches.each);
  const bool first_lane = threadIdx.x % 32 == 0;
  each_feature(block, l.outputs, [&](int feature) {
    const int64_t row = int64_t(feature) * net.stride;
    T grad_scale = T(0), grad_shift = T(0);
    for (int s = 0; s < sub_batches.count; ++s) {
      const T mean = NormOf<T>(block, l).mean(s)[feature], inverse = NormOf<T>(block, l).inverse(s)[feature];
      const T sum = sum_of_batch<T>(block, sub_batches, s, [&](int other, int column) {
        return block.at(l.grad_output, other)[row + column];
      });
      const T product = sum_of_batch<T>(block, sub_batches, s, [&](int other, int column) {
        return block.at(l.grad_output, other)[row + column] *
               ((block.at(l.affine, other)[row + column] - mean) * inverse);
      });
      grad_scale += product, grad_shift += sum;
      for (int other = 0; first_lane && other < block.size; ++other) {
        NormOf<T>(block, l, other).of_grad(s)[feature] = sum / rows;
        NormOf<T>(block, l, other).of_product(s)[feature] = product / rows;
      }
    }
    for (int other = 0; first_lane && other < block.size; ++other) {
      NormOf<T>(block, l, other).grad_scale()[feature] = grad_scale;
      NormOf<T>(block, l, other).grad_shift()[feature] = grad_shift;
    }
  });
  block.barrier_of_all();

  const NormOf<T> norm(block, l);
  const T *scale = block.at(l.norm_scale.here), *in = block.at(l.affine);
  T* grad = block.at(l.grad_output);
  for (int s = 0; s < sub_batches.count; ++s)
    each_element(l.outputs, sub_batches.all[s].rows, block.alone(), [&](int feature, int column) {
      const int64_t at = int64_t(feature) * net.stride + sub_batches.all[s].column + column;
      const T inverse = norm.inverse(s)[feature], factor = inverse * (l.norm_scale.value ? scale[feature] : T(1));
      const T x = (in[at] - norm.mean(s)[feature]) * inverse;
      grad[at] = factor * (grad[at] - norm.of_grad(s)[feature] - x * norm.of_product(s)[feature]);
    });
  block.barrier();
}

// f(a running statistic, where it is saved), split over the cluster: before and after an update that may be rolled
// back.
template <class T, class Function>
__device__ void each_statistic(const Passes<T>& passes, T* snapshot, Function&& f) {
  const Workers workers = passes.block->together();
  for (int i = 0; i < passes.net->count; ++i) {
    const LayerOf<T>& l = passes.layers[i];
    if (!l.batch_norm) continue;
    T* saved = snapshot + l.snapshot_statistics;
    for (int feature = workers.rank; l.running_mean && feature < l.outputs; feature += workers.count) {
      f(l.running_mean[feature], saved[4 + 2 * feature]);
      f(l.running_variance[feature], saved[4 + 2 * feature + 1]);
    }
    if (workers.rank == 0 && l.batches) f(*l.batches, *reinterpret_cast<int64_t*>(saved));
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
