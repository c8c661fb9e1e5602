// A small MLP as a whole: one launch forward, two backward. This is faster if a layer's product takes less time than
// its launch. Larger networks run layer by layer (mlp.cu), with cuBLAS's products.
//
// A block computes all layers for 16 rows of the batch, a tile of the tensor cores: activations stay in shared memory,
// and each block reads each weight once, from the cache. The gradients of the weights are one more launch, in which
// each block sums some of them over all rows in a fixed order.
#include <algorithm>

#include "launchers.h"
#include "layer.cuh"
#include "mask.cuh"
#include "mma.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kStrip = 16, kTile = 8;  // rows of a left, columns of a right tile
constexpr int kWarps = kThreads / 32;
constexpr int kMostLayers = 12;  // as many as fit into a kernel's arguments

// Factors have the storage type: rounding them again is exact, except for float, which is split instead.
template <class S>
struct ProductOf;
template <>
struct ProductOf<float> {
  using type = Tf32x3;
};
template <>
struct ProductOf<double> {
  using type = Plain<double>;
};
template <>
struct ProductOf<Half> {
  using type = Tf32;
};
template <>
struct ProductOf<BFloat16> {
  using type = Bf16;
};

// An optional mask.
template <class T>
union MaybeMask {
  Mask<T> mask;
  MaybeMask() {}
};

template <class S>
struct LayerArguments {
  const S *weight, *bias;
  S *before, *output, *dropped;
  int32_t* winner;
  S *grad_product, *grad_weight, *grad_bias;
  const S* input;
  int inputs, units, pieces, activation;
  int first_block;  // of the blocks for its weights
  bool drops;
  Compute<S> negative_slope;
  MaybeMask<Compute<S>> random;

  __device__ int columns() const { return units * pieces; }
};

template <class S>
struct NetworkArguments {
  int64_t rows;
  const S *x, *grad_y;
  S *dropped_input, *grad_x;
  int depth, lowest;
  int wide, wider;  // words between rows of the two tiles in shared memory
  bool drops;
  MaybeMask<Compute<S>> random;
  LayerArguments<S> layers[kMostLayers];
};

// ---------------------------------------------------------------- tiles in shared memory

// The stride of rows of `width` elements: rows that a tensor core reads together are in different banks.
int stride_for(int64_t width) { return int((width + 7) / 8 * 8 + 4); }

// to (16, columns) = from (16, depth) times weight(i, column). Warps take tiles of columns in turn.
template <class P, class T, class Weight>
__device__ void multiply(const T* from, int from_stride, int depth, T* to, int to_stride, int columns,
                         const Weight& weight) {
  for (int column0 = int(threadIdx.x) / 32 * kTile; column0 < columns; column0 += kWarps * kTile) {
    typename P::Sum sum{};
    for (int k0 = 0; k0 < depth; k0 += P::depth) {
      const auto left =
          P::left([&](int row, int k) { return k0 + k < depth ? from[row * from_stride + k0 + k] : T(0); });
      const auto right = P::right(
          [&](int k, int c) { return k0 + k < depth && column0 + c < columns ? weight(k0 + k, column0 + c) : T(0); });
      P::multiply(sum, left, right);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (column0 + sum_column(i) < columns) to[sum_row(i) * to_stride + column0 + sum_column(i)] = P::value(sum, i);
  }
}

// Calls f(row, column, factors) for four neighbouring columns at a time, which share a block of the mask's words.
template <class T, class Function>
__device__ void for_quads(int columns, bool drops, const MaybeMask<T>& random, int64_t first, const Function& f) {
  const int quads = (columns + 3) / 4;
  for (int i = int(threadIdx.x); i < kStrip * quads; i += kThreads) {
    const int row = i / quads, column = 4 * (i % quads);
    T factors[4] = {T(1), T(1), T(1), T(1)};
    if (drops) random.mask.factors_in(0, (first + row) * quads + column / 4, factors);
    f(row, column, factors);
  }
}

// ---------------------------------------------------------------- forward

template <class S>
__device__ void read_input(const NetworkArguments<S>& net, int64_t first, Compute<S>* to) {
  using T = Compute<S>;
  const int inputs = net.layers[0].inputs;
  for_quads(inputs, net.drops, net.random, first, [&](int row, int column, const T(&factors)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (column + j >= inputs) continue;
      T x = T(0);
      if (first + row < net.rows) {
        const int64_t at = (first + row) * inputs + column + j;
        S under;
        store(under, load(net.x[at]) * factors[j]);
        x = load(under);
        if (net.dropped_input) net.dropped_input[at] = under;
      }
      to[row * net.wide + column + j] = x;
    }
  });
}

// Applies bias, activation and dropout to the products, and stores what backward needs. Rows beyond the last become 0.
template <class S>
__device__ void through_layer(const NetworkArguments<S>& net, const LayerArguments<S>& layer, int64_t first,
                              const Compute<S>* product, Compute<S>* next) {
  using T = Compute<S>;
  const auto each = [&](auto unit_of) {
    for_quads(layer.units, layer.drops, layer.random, first, [&](int row, int column, const T(&factors)[4]) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j >= layer.units) continue;
        T given = T(0);
        if (first + row < net.rows) {
          const int64_t at = (first + row) * layer.units + column + j;
          const Unit<S> unit = unit_of(row, column + j, at, factors[j]);
          if (layer.before) layer.before[at] = unit.before;
          if (layer.output) layer.output[at] = unit.output;
          if (layer.dropped) layer.dropped[at] = unit.dropped;
          given = load(unit.dropped);
        }
        next[row * net.wide + column + j] = given;
      }
    });
  };
  const auto affine = [&](int row, int column) {
    return product[row * net.wider + column] + (layer.bias ? load(layer.bias[column]) : T(0));
  };
  if (layer.pieces > 1) {
    each([&](int row, int unit, int64_t at, T factor) {
      Largest<T> largest;
      for (int p = 0; p < layer.pieces; ++p) largest.consider(p, affine(row, unit * layer.pieces + p));
      if (layer.winner) layer.winner[at] = largest.winner;
      return activate<Identity, S>(largest.best, layer.negative_slope, factor);
    });
    return;
  }
  with_activation(layer.activation, [&](auto f) {
    each([&](int row, int unit, int64_t, T factor) {
      return activate<decltype(f), S>(affine(row, unit), layer.negative_slope, factor);
    });
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads) forward(const __grid_constant__ NetworkArguments<S> net) {
  using T = Compute<S>;
  FASTGAN_DYNAMIC_SHARED(memory);
  T* const input = reinterpret_cast<T*>(memory);
  T* const product = input + kStrip * net.wide;
  for (int64_t first = int64_t(blockIdx.x) * kStrip; first < net.rows; first += int64_t(gridDim.x) * kStrip) {
    read_input(net, first, input);
    for (int i = 0; i < net.depth; ++i) {
      const LayerArguments<S>& layer = net.layers[i];
      __syncthreads();  // `input` is complete
      multiply<typename ProductOf<S>::type>(input, net.wide, layer.inputs, product, net.wider, layer.columns(),
                                            [&](int k, int column) {
                                              return load(layer.weight[column * layer.inputs + k]);
                                            });
      __syncthreads();  // `input` was read
      through_layer(net, layer, first, product, input);
    }
    __syncthreads();
  }
}

// ---------------------------------------------------------------- backward

template <class S>
__device__ void read_grad(const NetworkArguments<S>& net, int64_t first, Compute<S>* to) {
  const int units = net.layers[net.depth - 1].units;
  for (int i = int(threadIdx.x); i < kStrip * units; i += kThreads) {
    const int row = i / units, column = i % units;
    to[row * net.wide + column] =
        first + row < net.rows ? load(net.grad_y[(first + row) * units + column]) : Compute<S>(0);
  }
}

// Computes the gradient of a layer's product from that of its output, in shared and in global memory.
template <class S>
__device__ void back_through_layer(const NetworkArguments<S>& net, const LayerArguments<S>& layer, int64_t first,
                                   const Compute<S>* grad, Compute<S>* product) {
  using T = Compute<S>;
  const auto put = [&](int row, int column, S value) {
    const bool inside = first + row < net.rows;
    product[row * net.wider + column] = inside ? load(value) : T(0);
    if (inside) layer.grad_product[(first + row) * layer.columns() + column] = value;
  };
  const auto each = [&](auto put_unit) {
    for_quads(layer.units, layer.drops, layer.random, first, [&](int row, int column, const T(&factors)[4]) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j >= layer.units) continue;
        const int64_t at = (std::min(first + row, net.rows - 1)) * layer.units + column + j;
        put_unit(row, column + j, at, grad[row * net.wide + column + j], factors[j]);
      }
    });
  };
  if (layer.pieces > 1) {
    each([&](int row, int unit, int64_t at, T g, T factor) {
      S won, lost;
      store(won, g * factor);
      store(lost, T(0));
      for (int p = 0; p < layer.pieces; ++p) put(row, unit * layer.pieces + p, layer.winner[at] == p ? won : lost);
    });
    return;
  }
  with_activation(layer.activation, [&](auto f) {
    using F = decltype(f);
    const S* saved = F::from_output ? layer.output : layer.before;
    each([&](int row, int unit, int64_t at, T g, T factor) {
      S kept;
      store(kept, T(0));
      if (saved) kept = saved[at];  // the identity keeps nothing
      put(row, unit, through_activation<F>(g, kept, layer.negative_slope, factor));
    });
  });
}

template <class S>
__device__ void write_grad_x(const NetworkArguments<S>& net, int64_t first, const Compute<S>* grad) {
  using T = Compute<S>;
  const int inputs = net.layers[0].inputs;
  for_quads(inputs, net.drops, net.random, first, [&](int row, int column, const T(&factors)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j < inputs && first + row < net.rows)
        store(net.grad_x[(first + row) * inputs + column + j], grad[row * net.wide + column + j] * factors[j]);
  });
}

// The gradients of all products, and of x. The bound leaves registers for three blocks a multiprocessor: without it,
// nvcc takes 64 for sm_75, and spills two.
template <class S>
__global__ void __launch_bounds__(kThreads, 3) backward(const __grid_constant__ NetworkArguments<S> net) {
  using T = Compute<S>;
  FASTGAN_DYNAMIC_SHARED(memory);
  T* const grad = reinterpret_cast<T*>(memory);
  T* const product = grad + kStrip * net.wide;
  for (int64_t first = int64_t(blockIdx.x) * kStrip; first < net.rows; first += int64_t(gridDim.x) * kStrip) {
    read_grad(net, first, grad);
    for (int i = net.depth - 1; i >= net.lowest; --i) {
      const LayerArguments<S>& layer = net.layers[i];
      __syncthreads();  // `grad` is complete
      back_through_layer(net, layer, first, grad, product);
      __syncthreads();  // `grad` was read
      if (i == net.lowest && !net.grad_x) break;
      multiply<typename ProductOf<S>::type>(product, net.wider, layer.columns(), grad, net.wide, layer.inputs,
                                            [&](int column, int k) {
                                              return load(layer.weight[column * layer.inputs + k]);
                                            });
    }
    __syncthreads();
    if (net.grad_x) write_grad_x(net, first, grad);
    __syncthreads();
  }
}

// The gradients of 16 x 8 weights of a layer: products of gradient and input over all rows. The bias is the weight of
// an additional input, 1. Warps take rows in turn; their sums are added in order.
template <class S>
__global__ void __launch_bounds__(kThreads) weights(const __grid_constant__ NetworkArguments<S> net) {
  using T = Compute<S>;
  using P = typename ProductOf<S>::type;
  FASTGAN_SHARED(sums, T[kWarps][kStrip * kTile]);
  int which = net.depth - 1;
  while (int(blockIdx.x) < net.layers[which].first_block) --which;
  const LayerArguments<S>& layer = net.layers[which];
  const int tiles = (layer.columns() + kStrip - 1) / kStrip, tile = int(blockIdx.x) - layer.first_block;
  const int column0 = tile % tiles * kStrip;
  const int input0 = tile / tiles * kTile + (layer.grad_weight ? 0 : layer.inputs / kTile * kTile);
  const int warp = int(threadIdx.x) / 32, columns = layer.columns();

  typename P::Sum sum{};
  for (int64_t row0 = warp * P::depth; row0 < net.rows; row0 += kWarps * P::depth) {
    const auto left = P::left([&](int c, int k) {
      const bool inside = row0 + k < net.rows && column0 + c < columns;
      return inside ? load(layer.grad_product[(row0 + k) * columns + column0 + c]) : T(0);
    });
    const auto right = P::right([&](int k, int c) {
      if (row0 + k >= net.rows || input0 + c > layer.inputs) return T(0);
      return input0 + c == layer.inputs ? T(1) : load(layer.input[(row0 + k) * layer.inputs + input0 + c]);
    });
    P::multiply(sum, left, right);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[warp][sum_row(i) * kTile + sum_column(i)] = P::value(sum, i);
  __syncthreads();
  const int i = int(threadIdx.x), column = column0 + i / kTile, input = input0 + i % kTile;
  if (i >= kStrip * kTile || column >= columns || input > layer.inputs) return;
  T total = T(0);
  for (int w = 0; w < kWarps; ++w) total += sums[w][i];
  if (input == layer.inputs && layer.grad_bias) store(layer.grad_bias[column], total);
  if (input < layer.inputs && layer.grad_weight)
    store(layer.grad_weight[int64_t(column) * layer.inputs + input], total);
}

// ---------------------------------------------------------------- launchers

// Blocks for the gradients of a layer's weights, and of the bias as one more column.
int weight_blocks(const SmallMlpLayer& layer, int64_t inputs) {
  if (!layer.grad_weight && !layer.grad_bias) return 0;
  const int64_t first = layer.grad_weight ? 0 : inputs / kTile * kTile, last = inputs + (layer.grad_bias ? 1 : 0);
  return int((last - first + kTile - 1) / kTile * ((layer.units * layer.pieces + kStrip - 1) / kStrip));
}

template <class S>
LayerArguments<S> describe(const SmallMlpLayer& layer, int64_t inputs, const void* input, uint64_t dropout_seed,
                           int number) {
  using T = Compute<S>;
  LayerArguments<S> out;
  out.weight = static_cast<const S*>(layer.weight), out.bias = static_cast<const S*>(layer.bias);
  out.before = static_cast<S*>(layer.before), out.output = static_cast<S*>(layer.output);
  out.dropped = static_cast<S*>(layer.dropped);
  out.winner = layer.winner;
  out.grad_product = static_cast<S*>(layer.grad_product);
  out.grad_weight = static_cast<S*>(layer.grad_weight), out.grad_bias = static_cast<S*>(layer.grad_bias);
  out.input = static_cast<const S*>(input);
  out.inputs = int(inputs), out.units = int(layer.units);
  out.pieces = layer.pieces, out.activation = layer.activation;
  out.first_block = 0;
  out.drops = layer.dropout > 0;
  out.negative_slope = T(layer.negative_slope);
  if (out.drops) out.random.mask = Mask<T>(layer.dropout, {dropout_seed}, uint32_t(number + 1), layer.units);
  return out;
}

template <class S>
NetworkArguments<S> describe(const SmallMlpCall& call) {
  using T = Compute<S>;
  if (call.layers.size() > kMostLayers) throw std::runtime_error("network: too many layers for a small network");
  NetworkArguments<S> net;
  net.rows = call.rows;
  net.x = static_cast<const S*>(call.x), net.grad_y = static_cast<const S*>(call.grad_y);
  net.dropped_input = static_cast<S*>(call.dropped_input), net.grad_x = static_cast<S*>(call.grad_x);
  net.depth = int(call.layers.size()), net.lowest = call.lowest;
  net.drops = call.input_dropout > 0;
  if (net.drops) net.random.mask = Mask<T>(call.input_dropout, {call.dropout_seed}, 0, call.inputs);
  int64_t inputs = call.inputs, widest = inputs, most_columns = 0;
  const void* input = call.dropped_input ? call.dropped_input : call.x;
  for (int i = 0; i < net.depth; ++i) {
    const SmallMlpLayer& layer = call.layers[size_t(i)];
    net.layers[i] = describe<S>(layer, inputs, input, call.dropout_seed, i);
    input = layer.dropped ? layer.dropped : layer.output;
    inputs = layer.units;
    widest = std::max(widest, inputs), most_columns = std::max(most_columns, inputs * layer.pieces);
  }
  net.wide = stride_for(widest), net.wider = stride_for(most_columns);
  return net;
}

template <class S>
size_t shared_bytes(const NetworkArguments<S>& net) {
  return size_t(kStrip) * size_t(net.wide + net.wider) * sizeof(Compute<S>);
}

int strips(int64_t rows) { return int(std::min(kMaxBlocks, (rows + kStrip - 1) / kStrip)); }

template <class S>
void run_forward(const SmallMlpCall& call, void* stream) {
  NetworkArguments<S> net = describe<S>(call);
  net.layers[net.depth - 1].dropped = static_cast<S*>(call.y);
  launch_sharing("mlp", forward<S>, strips(net.rows), shared_bytes(net), stream, net);
}

template <class S>
void run_backward(const SmallMlpCall& call, void* stream) {
  NetworkArguments<S> net = describe<S>(call);
  if (net.rows > 0) launch_sharing("mlp", backward<S>, strips(net.rows), shared_bytes(net), stream, net);
  int blocks = 0;
  for (int i = 0; i < net.depth; ++i) {
    net.layers[i].first_block = blocks;
    if (i >= net.lowest) blocks += weight_blocks(call.layers[size_t(i)], net.layers[i].inputs);
  }
  if (blocks > 0) launch("mlp", weights<S>, blocks, stream, net);
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_small_mlp_forward(int dtype, const SmallMlpCall& call, void* stream) {
  if (call.rows == 0) return;
  with_dtype(dtype, [&](auto storage) { run_forward<decltype(storage)>(call, stream); });
}

void cuda_small_mlp_backward(int dtype, const SmallMlpCall& call, void* stream) {
  with_dtype(dtype, [&](auto storage) { run_backward<decltype(storage)>(call, stream); });
}

}  // namespace fastgan
