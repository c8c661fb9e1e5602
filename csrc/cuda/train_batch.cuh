// A block's part of a batch: noise for G, rows of the data for D, and the copies between the two networks.
#pragma once
#include "train_update.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// State that all threads of a block share, at the start of its shared memory; the member's plan follows.
template <class T>
struct alignas(16) BlockState {
  Block<T> block;
  Passes<T> g, d;
  DeviceRule<T> rule_g, rule_d;
};

template <class T>
class Batches {
 protected:
  __device__ explicit Batches(unsigned char* memory)
      : state_(*reinterpret_cast<BlockState<T>*>(memory)),
        plan_(*reinterpret_cast<const MemberOf<T>*>(memory + sizeof(BlockState<T>))),
        block_(state_.block),
        g_(state_.g),
        d_(state_.d) {}

  __device__ int before(int rank) const { return int(rows_before(plan_.batch, plan_.precision, rank, block_.size)); }
  __device__ int rows() const { return before(block_.rank + 1) - before(block_.rank); }
  // The first column of D's second sub-batch: the same in every block, and a multiple of 4.
  __device__ int second() const { return int(whole_packs(most_rows(plan_.batch, plan_.precision, block_.size))); }

  // This block's columns of a network that takes `each` columns for one row of the batch.
  __device__ SubBatch sub_batch(int column, int each, const uint64_t* dropout_seeds) const {
    return {column, rows() * each, int64_t(before(block_.rank)) * each, dropout_seeds};
  }
  __device__ SubBatches sub_batches_of_d(const uint64_t* dropout_seeds) const {
    return {{sub_batch(0, 1, dropout_seeds), sub_batch(second(), 1, dropout_seeds + plan_.discriminator.dropout_seeds)},
            2,
            plan_.batch,
            1};
  }

  // A thread draws four numbers of the stream, which is laid out over the batch row by row.
  __device__ void draw_noise(const Stream& stream) const {
    const SubBatch& sub_batch = sub_batches_of_g_.all[0];
    const int64_t n = plan_.latent, first = sub_batch.first * n, last = first + sub_batch.rows * n;
    T* z = block_.at(plan_.generator.input);
    for (int64_t four = first / 4 + threadIdx.x; 4 * four < last; four += kThreads) {
      const Words words = stream.block(uint64_t(four));
      T numbers[4];
      if (plan_.prior == Prior::uniform) {
        uniform_numbers(words, numbers);
#pragma unroll
        for (int i = 0; i < 4; ++i) numbers[i] = centred(numbers[i]);
      } else {
        normal_numbers(words, numbers);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t e = 4 * four + i;
        if (e >= first && e < last) z[e % n * plan_.generator.stride + (e / n - sub_batch.first)] = numbers[i];
      }
    }
  }

  __device__ void to_sphere() const {
    T* z = block_.at(plan_.generator.input);
    const int stride = plan_.generator.stride;
    for (int column = int(threadIdx.x); column < sub_batches_of_g_.all[0].rows; column += kThreads) {
      T square = 0;
      for (int i = 0; i < plan_.latent; ++i) square += z[i * stride + column] * z[i * stride + column];
      for (int i = 0; i < plan_.latent; ++i) z[i * stride + column] /= std::sqrt(square);
    }
    block_.barrier();
  }

  // One row of D is `pack` rows of the data, in the order of the epoch's shuffle.
  __device__ void choose_rows(int64_t draw) const {
    const int64_t each = int64_t(plan_.batch) * plan_.pack, batches = plan_.data_rows / each;
    const int64_t position = draw % batches * each + int64_t(before(block_.rank)) * plan_.pack;
    const int count = rows() * plan_.pack;
    int64_t* numbers = reinterpret_cast<int64_t*>(block_.at(plan_.numbers));
    if (int(threadIdx.x) >= count) return;
    const Permutation shuffle(uint64_t(plan_.data_rows), plan_.seed, purpose::rows, uint64_t(draw / batches));
    for (int i = int(threadIdx.x); i < count; i += kThreads) numbers[i] = int64_t(shuffle(uint64_t(position + i)));
  }

  // Neighbouring threads read neighbouring features.
  FASTGAN_CALLED void show_real(const SubBatch& sub_batch) const {
    const int64_t* numbers = reinterpret_cast<const int64_t*>(block_.at(plan_.numbers));
    T* input = block_.at(plan_.discriminator.input);
    each_element(sub_batch.rows, plan_.features * plan_.pack, block_.alone(), [&](int row, int i) {
      const int64_t from = numbers[row * plan_.pack + i / plan_.features] * plan_.features + i % plan_.features;
      input[int64_t(i) * plan_.discriminator.stride + sub_batch.column + row] = plan_.data[from];
    });
  }

  // The labels of the chosen rows, one-hot, as the inputs `from` on of a network, `each` of them a row of it.
  FASTGAN_CALLED void show_labels(const NetworkOf& network, int from, int each, const SubBatch& sub_batch) const {
    const int64_t* numbers = reinterpret_cast<const int64_t*>(block_.at(plan_.numbers));
    T* input = block_.at(network.input);
    each_element(each * plan_.classes, sub_batch.rows, block_.alone(), [&](int i, int row) {
      const int label = plan_.labels[numbers[row * each + i / plan_.classes]];
      input[int64_t(from + i) * network.stride + sub_batch.column + row] = T(label == i % plan_.classes);
    });
  }

  FASTGAN_CALLED void show_fakes(const SubBatch& sub_batch) const {
    const T* fakes = g_.output();
    T* input = block_.at(plan_.discriminator.input);
    each_element(plan_.features * plan_.pack, sub_batch.rows, block_.alone(), [&](int i, int row) {
      const int column = row * plan_.pack + i / plan_.features;
      input[int64_t(i) * plan_.discriminator.stride + sub_batch.column + row] =
          fakes[int64_t(i % plan_.features) * plan_.generator.stride + column];
    });
  }

  // Copies the gradient at D's fake inputs to the gradient of G's output.
  __device__ void return_gradients(const SubBatch& sub_batch) const {
    const T* grad = block_.at(plan_.discriminator.grad_input);
    T* fakes = g_.grad_output();
    each_element(plan_.features * plan_.pack, sub_batch.rows, block_.alone(), [&](int i, int row) {
      const int column = row * plan_.pack + i / plan_.features;
      fakes[int64_t(i % plan_.features) * plan_.generator.stride + column] =
          grad[int64_t(i) * plan_.discriminator.stride + sub_batch.column + row];
    });
    block_.barrier();
  }

  BlockState<T>& state_;
  const MemberOf<T>& plan_;
  const Block<T>& block_;
  const Passes<T>&g_, &d_;
  SubBatches sub_batches_of_g_{};
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
