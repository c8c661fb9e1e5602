// One network on a block's part of a batch: forward, and back down to the gradients of all affine maps.
//
// A row of a matrix of activations is a feature, with the batch along it. Each pass ends with a barrier, because the
// next one reads what other threads of the block wrote. Only batch normalisation reads another block.
#pragma once
#include "cluster.cuh"
#include "mask.cuh"
#include "train_tensor_cores.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The columns of one call of the module, with its own dropout masks.
struct SubBatch {
  int column, rows;  // first column; rows of the batch in this block
  int64_t first;     // index of the first one in the whole batch
  const uint64_t* dropout_seeds;
};

struct SubBatches {
  SubBatch all[2];
  int count;
  int batch, each;  // rows of D in the whole batch, over all blocks; columns for each of them here
  FASTGAN_HD int columns() const { return all[count - 1].column + all[count - 1].rows; }
};

// A block of a launch, as part of the cluster that trains one GAN.
template <class T>
struct Block {
  T *shared, *scratch, *scratch_of_first;  // scratch memory: this block's, and that of the cluster's first block
  int64_t scratch_stride;                  // from one block's to the next
  int rank, size;                          // in the cluster
  Precision precision;                     // of products

  __device__ T* at(Offset offset) const { return offset.at >= 0 ? shared + offset.at : scratch + ~offset.at; }
  // The same buffer of another block.
  __device__ T* at(Offset offset, int other) const {
    if (size == 1) return at(offset);
    return offset.at >= 0 ? of_block(shared, other) + offset.at
                          : scratch_of_first + other * scratch_stride + ~offset.at;
  }
  __device__ Workers alone() const { return {int(threadIdx.x), kThreads}; }
  __device__ Workers together() const { return {rank * kThreads + int(threadIdx.x), size * kThreads}; }
  // Columns of a sub-batch in the blocks before `other`.
  __device__ int before(const SubBatches& s, int other) const {
    return int(rows_before(s.batch, precision, other, size)) * s.each;
  }
  __device__ void barrier() const { __syncthreads(); }
  __device__ void barrier_of_all() const { size == 1 ? __syncthreads() : cluster_barrier(); }
};

// A pack of neighbours, so that the activation is chosen once for all of them. Not inlined, because each call has all
// activations.
template <class T, int n>
FASTGAN_CALLED Pack<T, n> activated(int activation, Pack<T, n> x, T negative_slope) {
  with_activation(activation, [&](auto f) {
#pragma unroll
    for (int i = 0; i < n; ++i) x.at[i] = f.value(x.at[i], negative_slope);
  });
  return x;
}

template <class T, int n>
FASTGAN_CALLED Pack<T, n> derivatives_at(int activation, Pack<T, n> saved, T negative_slope) {
  with_activation(activation, [&](auto f) {
#pragma unroll
    for (int i = 0; i < n; ++i) saved.at[i] = f.derivative(saved.at[i], negative_slope);
  });
  return saved;
}

// f(row, column) for every element of a matrix, neighbouring columns by neighbouring threads.
template <class Function>
__device__ void each_element(int rows, int columns, Workers workers, Function&& f) {
  for (int i = workers.rank; i < rows * columns; i += workers.count) f(i / columns, i % columns);
}

// The sum of f(block, column) over a sub-batch of the whole batch. Each lane of a warp adds every 32nd row, in order,
// for any number of blocks. All lanes get the sum.
template <class Sum, class T, class Function>
__device__ Sum sum_of_batch(const Block<T>& block, const SubBatches& sub_batches, int sub_batch, Function&& f) {
  Sum sum = Sum(0);
  for (int other = 0; other < block.size; ++other) {
    const int first = block.before(sub_batches, other), last = block.before(sub_batches, other + 1);
    for (int row = first + (int(threadIdx.x) - first % 32 + 32) % 32; row < last; row += 32)
      sum += f(other, sub_batches.all[sub_batch].column + row - first);
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// ---------------------------------------------------------------- sinks of tiles
//
// close() stores sums, and applies the element-wise tail at once (finish_too) or leaves it to finish(), pair by pair:
// with tensor cores, a warp's tiles have too many sums to stay in registers during a call. tiles_down, tiles_across:
// the tiles of a warp.

// x W^T + b, and its activation.
template <class T>
struct Forwards {
  const T* bias;
  T *affine, *output;  // equal if backward does not need `affine`; output null: maxout or normalisation follows
  int rows, stride, activation;
  T negative_slope;
  static constexpr int tiles_down = 2, tiles_across = 2;
  static constexpr bool finishes = true;

  template <int R>
  __device__ int open(const int (&row)[R], const int (&)[R], T (&sum)[R][R]) const {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < R; ++c) sum[r][c] = bias && row[r] < rows ? bias[row[r]] : T(0);
    return 0;
  }

  template <int R, bool finish_too = false>
  __device__ void close(const int (&row)[R], const int (&column)[R], const T (&sum)[R][R], int) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (row[r] >= rows) continue;
      Pack<T, R> x;
#pragma unroll
      for (int c = 0; c < R; ++c) x.at[c] = sum[r][c];
      const int64_t at = int64_t(row[r]) * stride + column[0];
      if (affine != output) *reinterpret_cast<Pack<T, R>*>(affine + at) = x;
      if (output && activation && finish_too) x = activated(activation, x, negative_slope);
      if (output) *reinterpret_cast<Pack<T, R>*>(output + at) = x;
    }
  }

  __device__ void finish(int row, int column) const {
    if (!output || !activation) return;
    Pack<T, 2>& x = *reinterpret_cast<Pack<T, 2>*>(output + (int64_t(row) * stride + column));
    x = activated(activation, x, negative_slope);
  }
};

template <class T, int R>
__device__ void set_to_zero(T (&sum)[R][R]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < R; ++c) sum[r][c] = T(0);
}

// W^T e: the gradient of the output of the layer below, times that layer's derivative unless dropout is in between.
template <class T>
struct Backwards {
  T* grad;
  const T* saved;  // null: without the derivative
  int rows, stride, activation;
  T negative_slope;
  static constexpr int tiles_down = 2, tiles_across = 2;
  static constexpr bool finishes = true;

  template <int R>
  __device__ int open(const int (&)[R], const int (&)[R], T (&sum)[R][R]) const {
    set_to_zero(sum);
    return 0;
  }

  template <int R, bool finish_too = false>
  __device__ void close(const int (&row)[R], const int (&column)[R], const T (&sum)[R][R], int) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (row[r] >= rows) continue;
      const int64_t at = int64_t(row[r]) * stride + column[0];
      Pack<T, R> out;
#pragma unroll
      for (int c = 0; c < R; ++c) out.at[c] = sum[r][c];
      if (finish_too && saved) {
        const Pack<T, R> factor =
            derivatives_at(activation, *reinterpret_cast<const Pack<T, R>*>(saved + at), negative_slope);
#pragma unroll
        for (int c = 0; c < R; ++c) out.at[c] *= factor.at[c];
      }
      *reinterpret_cast<Pack<T, R>*>(grad + at) = out;
    }
  }

  __device__ void finish(int row, int column) const {
    if (!saved) return;
    const int64_t at = int64_t(row) * stride + column;
    Pack<T, 2>& x = *reinterpret_cast<Pack<T, 2>*>(grad + at);
    const Pack<T, 2> factor =
        derivatives_at(activation, *reinterpret_cast<const Pack<T, 2>*>(saved + at), negative_slope);
    x.at[0] *= factor.at[0], x.at[1] *= factor.at[1];
  }
};

// ---------------------------------------------------------------- passes

// Batch normalisation, of all blocks together: train_norm.cuh.
template <class T>
FASTGAN_CALLED void normalize(const Block<T>& block, const NetworkOf& net, const LayerOf<T>& l,
                              const SubBatches& sub_batches);
template <class T>
FASTGAN_CALLED void normalize_backward(const Block<T>& block, const NetworkOf& net, const LayerOf<T>& l,
                                       const SubBatches& sub_batches);

template <class T>
struct Passes {
  const Block<T>* block;
  const NetworkOf* net;
  const LayerOf<T>* layers;  // of the network

  __device__ const LayerOf<T>& last() const { return layers[net->count - 1]; }
  __device__ T* output() const { return block->at(last().dropped); }
  __device__ T* grad_output() const { return block->at(last().grad_output); }

  FASTGAN_CALLED void forward(const SubBatches& sub_batches) const {
    if (net->input_dropout > 0)
      drop(net->input, net->dropped_input, layers[0].inputs, sub_batches, net->input_dropout, 0, 0);
    Offset in = net->dropped_input;
    for (int i = 0; i < net->count; ++i) {
      const LayerOf<T>& l = layers[i];
      affine(l, in, sub_batches.columns());
      if (l.batch_norm) normalize(*block, *net, l, sub_batches);
      if (l.pieces > 1) maxout(l, sub_batches.columns());
      if (l.dropout > 0)
        drop(l.output, l.dropped, l.outputs, sub_batches, l.dropout, l.dropout_seed_index, l.substream);
      in = l.dropped;
    }
  }

  // From grad_output() down to the lowest layer's affine map, or to the input. Does not touch the parameters.
  FASTGAN_CALLED void backward(const SubBatches& sub_batches, bool to_input) const {
    const int columns = sub_batches.columns();
    bool derivative_applied = false;
    for (int i = net->count - 1; i >= 0; --i) {
      const LayerOf<T>& l = layers[i];
      if (l.dropout > 0)
        drop(l.grad_output, l.grad_output, l.outputs, sub_batches, l.dropout, l.dropout_seed_index, l.substream);
      if (!derivative_applied && l.activation) activation_backward(l, columns);
      if (l.pieces > 1) maxout_backward(l, columns);
      if (l.batch_norm) normalize_backward(*block, *net, l, sub_batches);
      if (i == 0 && !to_input) return;
      const LayerOf<T>* below = i > 0 ? &layers[i - 1] : nullptr;
      derivative_applied = below && below->dropout == 0;  // dropout comes between the product and the derivative
      product_down(l, below, derivative_applied && below->activation, columns);
    }
    if (net->input_dropout > 0)
      drop(net->grad_input, net->grad_input, layers[0].inputs, sub_batches, net->input_dropout, 0, 0);
  }

  FASTGAN_CALLED void affine(const LayerOf<T>& l, Offset in, int columns) const {
    const Factors<T> factors{{block->at(l.weight.here), l.weight.stride}, {block->at(in), net->stride}, l.inputs};
    const Forwards<T> sink{l.bias.value ? block->at(l.bias.here) : nullptr,
                           block->at(l.affine),
                           l.pieces > 1 || l.batch_norm ? nullptr : block->at(l.output),
                           l.rows(),
                           net->stride,
                           l.activation,
                           l.negative_slope};
    multiply<true, false, T>(block->precision, l.rows(), columns, OnePair<T>{factors}, block->alone(), sink);
    block->barrier();
  }

  FASTGAN_CALLED void product_down(const LayerOf<T>& l, const LayerOf<T>* below, bool times_derivative,
                                   int columns) const {
    const Factors<T> factors{{block->at(l.weight.here), l.weight.stride},
                             {block->at(l.grad_affine), net->stride},
                             l.rows()};
    const Backwards<T> sink{block->at(below ? below->grad_output : net->grad_input),
                            times_derivative ? block->at(below->saved()) : nullptr,
                            l.inputs,
                            net->stride,
                            times_derivative ? below->activation : 0,
                            times_derivative ? below->negative_slope : T(0)};
    multiply<false, false, T>(block->precision, l.inputs, columns, OnePair<T>{factors}, block->alone(), sink);
    block->barrier();
  }

  FASTGAN_CALLED void activation_backward(const LayerOf<T>& l, int columns) const {
    const T* saved = block->at(l.saved());
    T* grad = block->at(l.grad_output);
    each_element(l.outputs, columns, block->alone(), [&](int row, int column) {
      const int64_t at = int64_t(row) * net->stride + column;
      grad[at] *= derivatives_at(l.activation, Pack<T, 1>{{saved[at]}}, l.negative_slope).at[0];
    });
    block->barrier();
  }

  // NaN wins. The first of the largest pieces takes the gradient.
  FASTGAN_CALLED void maxout(const LayerOf<T>& l, int columns) const {
    const T* pieces = block->at(l.affine);
    T* out = block->at(l.output);
    each_element(l.outputs, columns, block->alone(), [&](int unit, int column) {
      const T* in = pieces + int64_t(unit) * l.pieces * net->stride + column;
      T best = in[0];
      for (int p = 1; p < l.pieces; ++p) {
        const T x = in[int64_t(p) * net->stride];
        if (x > best || x != x) best = x;
      }
      out[int64_t(unit) * net->stride + column] = best;
    });
    block->barrier();
  }

  FASTGAN_CALLED void maxout_backward(const LayerOf<T>& l, int columns) const {
    const T *pieces = block->at(l.affine), *out = block->at(l.output), *grad = block->at(l.grad_output);
    T* grad_pieces = block->at(l.grad_affine);
    each_element(l.outputs, columns, block->alone(), [&](int unit, int column) {
      const int64_t at = int64_t(unit) * net->stride + column;
      T left = grad[at];  // until a piece takes it
      for (int p = 0; p < l.pieces; ++p) {
        const int64_t piece = int64_t(unit * l.pieces + p) * net->stride + column;
        const bool takes = pieces[piece] == out[at] || pieces[piece] != pieces[piece];
        grad_pieces[piece] = takes ? left : T(0);
        left = takes ? T(0) : left;
      }
    });
    block->barrier();
  }

  // out = in * mask, sub-batch by sub-batch; four neighbouring features of a row share a block of random words.
  FASTGAN_CALLED void drop(Offset from, Offset to, int features, const SubBatches& sub_batches, double p,
                           int dropout_seed, uint32_t substream) const {
    const T* in = block->at(from);
    T* out = block->at(to);
    for (int s = 0; s < sub_batches.count; ++s) {
      const SubBatch& sub_batch = sub_batches.all[s];
      const Mask<T> mask(p, DropoutSeed{sub_batch.dropout_seeds[dropout_seed]}, substream, features);
      each_element(int(mask.quads), sub_batch.rows, block->alone(), [&](int quad, int row) {
        T factors[4];
        mask.factors((sub_batch.first + row) * mask.quads + quad, factors);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t at = int64_t(4 * quad + i) * net->stride + sub_batch.column + row;
          if (4 * quad + i < features) out[at] = in[at] * factors[i];
        }
      });
    }
    block->barrier();
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
