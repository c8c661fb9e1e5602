// The operations between the matrix products of an MLP, fused into one kernel each. Forward: bias, activation, dropout.
// Backward: mask, derivative, and the sum over the batch (the bias gradient); double backward also needs the second
// derivative. The products are cuBLAS's. Fusing saves the memory traffic of the two to four kernels of plain PyTorch.
#include <type_traits>

#include "../dtypes.h"
#include "device.cuh"
#include "launchers.h"
#include "layer.cuh"
#include "mask.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// A block of threads computes 32 adjacent packs of columns for a chunk of the rows, eight rows at a time.
constexpr int kLanes = 32, kRows = kThreads / kLanes;

struct Tiling {
  int64_t rows, columns, chunk;  // chunk: rows a block
  int64_t tiles, chunks;

  // Enough blocks to fill a device, if there are enough rows; at most 256 rows a block. The chunks depend on the shape
  // alone: the order of the sums must not depend on an address.
  Tiling(int64_t r, int64_t c, int pack) : rows(r), columns(c), tiles((c + kLanes * pack - 1) / (kLanes * pack)) {
    const int64_t wanted = rows * ((columns + 127) / 128) / kMaxBlocks;
    chunk = wanted < kRows ? kRows : wanted > 256 ? 256 : (wanted + kRows - 1) / kRows * kRows;
    chunks = (rows + chunk - 1) / chunk;
  }
};

// ---------------------------------------------------------------- a thread's position

struct Place {
  int64_t column, first, last, part;  // rows first, first + kRows, ... below last
};

template <int V>
__device__ Place place_of(const Tiling& t) {
  const int64_t tile = blockIdx.x % t.tiles, part = blockIdx.x / t.tiles;
  const int64_t end = (part + 1) * t.chunk;
  return {(tile * kLanes + threadIdx.x % kLanes) * V, part * t.chunk + threadIdx.x / kLanes,
          end < t.rows ? end : t.rows, part};
}

template <class S, int V>
__device__ Pack<S, V> read(const S* from, int64_t at) {
  return *reinterpret_cast<const Pack<S, V>*>(from + at);
}

template <class S, int V>
__device__ void write(S* to, int64_t at, const Pack<S, V>& x) {
  *reinterpret_cast<Pack<S, V>*>(to + at) = x;
}

// Adds up what the kRows threads of a column have, in a fixed order; valid in the first of them.
template <class T, int V>
__device__ void add_rows(T (&sum)[V]) {
  FASTGAN_SHARED(all, T[V][kThreads]);
#pragma unroll
  for (int j = 0; j < V; ++j) all[j][threadIdx.x] = sum[j];
  __syncthreads();
  if (threadIdx.x >= kLanes) return;
#pragma unroll
  for (int j = 0; j < V; ++j)
    for (int row = 1; row < kRows; ++row) sum[j] += all[j][row * kLanes + threadIdx.x];
}

// ---------------------------------------------------------------- kernels: bias, activation, dropout

template <class S>
struct Forward {
  const S *product, *bias;
  S *before, *output, *dropped;
  bool drops;  // else `dropped` is as `output`
  Compute<S> negative_slope;
  Mask<Compute<S>> mask;
};

template <class F, class S, int V>
__global__ void __launch_bounds__(kThreads) forward(Forward<S> x, Tiling tiling) {
  using T = Compute<S>;
  const Place here = place_of<V>(tiling);
  if (here.column >= tiling.columns) return;
  T bias[V] = {};
  if (x.bias) {
    const Pack<S, V> b = read<S, V>(x.bias, here.column);
#pragma unroll
    for (int j = 0; j < V; ++j) bias[j] = load(b.at[j]);
  }
  for (int64_t row = here.first; row < here.last; row += kRows) {
    const int64_t at = row * tiling.columns + here.column;
    const Pack<S, V> in = read<S, V>(x.product, at);
    Pack<S, V> before, output, dropped;
    T factors[V];
#pragma unroll
    for (int j = 0; j < V; ++j) factors[j] = T(1);
    if (x.drops) x.mask.template factors_at<V>(row, here.column, factors);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Unit<S> unit = activate<F, S>(load(in.at[j]) + bias[j], x.negative_slope, factors[j]);
      before.at[j] = unit.before, output.at[j] = unit.output, dropped.at[j] = unit.dropped;
    }
    if (!F::from_output && x.before) write(x.before, at, before);
    if (x.output) write(x.output, at, output);
    if (x.dropped) write(x.dropped, at, dropped);
  }
}

template <class S>
struct Backward {
  const S *grad, *saved, *grad_grad;
  S *grad_product, *to_grad;  // the first null: the sums alone
  double* partial;            // (chunks, columns); null: no sums
  bool drops;
  Compute<S> negative_slope;
  Mask<Compute<S>> mask;
};

// Order 1: grad_product from grad. Order 2: from grad_grad, the gradient of order 1's result, the gradients of its
// input and of the product.
template <class F, class S, int V, int order>
__global__ void __launch_bounds__(kThreads) backward(Backward<S> x, Tiling tiling) {
  using T = Compute<S>;
  const Place here = place_of<V>(tiling);
  double sum[V] = {};  // double: where gradients cancel, Adam would scale a rounding error up to a whole step
  for (int64_t row = here.first; here.column < tiling.columns && row < here.last; row += kRows) {
    const int64_t at = row * tiling.columns + here.column;
    const Pack<S, V> grad = read<S, V>(x.grad, at);
    Pack<S, V> saved = grad, out, again, to_grad;
    if constexpr (order == 2) again = read<S, V>(x.grad_grad, at);
    if constexpr (!std::is_same_v<F, Identity>) saved = read<S, V>(x.saved, at);
    T factors[V];
#pragma unroll
    for (int j = 0; j < V; ++j) factors[j] = T(1);
    if (x.drops) x.mask.template factors_at<V>(row, here.column, factors);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if constexpr (order == 1) {
        out.at[j] = through_activation<F>(load(grad.at[j]), saved.at[j], x.negative_slope, factors[j]);
      } else {
        const auto second =
            through_activation_twice<F>(load(again.at[j]), load(grad.at[j]), saved.at[j], x.negative_slope, factors[j]);
        out.at[j] = second.z, to_grad.at[j] = second.grad;
      }
      sum[j] += double(load(out.at[j]));
    }
    if (x.grad_product) write(x.grad_product, at, out);
    if constexpr (order == 2) write(x.to_grad, at, to_grad);
  }
  if (!x.partial) return;
  add_rows(sum);
  if (threadIdx.x < kLanes && here.column < tiling.columns)
#pragma unroll
    for (int j = 0; j < V; ++j) x.partial[here.part * tiling.columns + here.column + j] = sum[j];
}

// ---------------------------------------------------------------- kernels: maxout

template <class S>
__global__ void __launch_bounds__(kThreads)
    maxout_forward(const S* __restrict__ product, const S* __restrict__ bias, S* __restrict__ output,
                   int32_t* __restrict__ winner, int64_t rows, int64_t units, int pieces) {
  using T = Compute<S>;
  for (int64_t i = global_thread(); i < rows * units; i += grid_threads()) {
    const int64_t at = i * pieces, unit = (i % units) * pieces;
    Largest<T> largest;
    for (int p = 0; p < pieces; ++p) largest.consider(p, load(product[at + p]) + (bias ? load(bias[unit + p]) : T(0)));
    store(output[i], largest.best);
    winner[i] = largest.winner;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    maxout_backward(const S* __restrict__ grad, const int32_t* __restrict__ winner, int pieces, Backward<S> x,
                    Tiling tiling) {
  const Place here = place_of<1>(tiling);
  const int64_t unit = here.column / pieces, units = tiling.columns / pieces;
  const int piece = int(here.column % pieces);
  double sum[1] = {};
  for (int64_t row = here.first; here.column < tiling.columns && row < here.last; row += kRows) {
    const int64_t from = row * units + unit;
    S out;
    store(out, winner[from] == piece ? load(grad[from]) : Compute<S>(0));
    sum[0] += double(load(out));
    if (x.grad_product) x.grad_product[row * tiling.columns + here.column] = out;
  }
  if (!x.partial) return;
  add_rows(sum);
  if (threadIdx.x < kLanes && here.column < tiling.columns)
    x.partial[here.part * tiling.columns + here.column] = sum[0];
}

// The sums of the chunks' sums.
template <class S>
__global__ void __launch_bounds__(kThreads)
    finish(const double* __restrict__ partial, S* __restrict__ out, int64_t columns, int64_t chunks) {
  const int64_t column = int64_t(blockIdx.x) * kLanes + threadIdx.x % kLanes;
  double sum[1] = {};
  for (int64_t part = threadIdx.x / kLanes; column < columns && part < chunks; part += kRows)
    sum[0] += partial[part * columns + column];
  add_rows(sum);
  if (threadIdx.x < kLanes && column < columns) store(out[column], Compute<S>(sum[0]));
}

// ---------------------------------------------------------------- launchers

// Calls f(constant) with the elements of a pack: 16 bytes, or one element if the shape or an address is not aligned.
// Two doubles at a time would not fit into registers (erfc).
template <class S, class Function, class... Pointers>
void with_pack(int64_t columns, Function&& f, Pointers... pointers) {
  constexpr int V = sizeof(S) == 8 ? 1 : 16 / int(sizeof(S));
  if (columns % V == 0 && (is_aligned(pointers) && ...))
    f(std::integral_constant<int, V>{});
  else
    f(std::integral_constant<int, 1>{});
}

template <class S>
void run_forward(const LayerPass& pass, const LayerForward& call, void* stream) {
  using T = Compute<S>;
  const auto* product = static_cast<const S*>(call.product);
  const auto* bias = static_cast<const S*>(call.bias);
  if (pass.pieces > 1) {
    launch("mlp", maxout_forward<S>, blocks_for(pass.rows * pass.units), stream, product, bias,
           static_cast<S*>(call.output), call.winner, pass.rows, pass.units, pass.pieces);
    return;
  }
  const Forward<S> x{product,
                     bias,
                     static_cast<S*>(call.before),
                     static_cast<S*>(call.output),
                     static_cast<S*>(call.dropped),
                     pass.dropout > 0,
                     T(pass.negative_slope),
                     Mask<T>(pass.dropout, pass.dropout_seed, pass.substream, pass.units)};
  with_activation(pass.activation, [&](auto f) {
    with_pack<S>(
        pass.units,
        [&](auto pack) {
          const Tiling tiling(pass.rows, pass.units, pack());
          launch("mlp", forward<decltype(f), S, pack()>, int(tiling.tiles * tiling.chunks), stream, x, tiling);
        },
        x.product, x.bias, x.before, x.output, x.dropped);
  });
}

template <class S>
void run_backward(const LayerPass& pass, const LayerBackward& call, void* stream) {
  using T = Compute<S>;
  const int64_t columns = pass.units * pass.pieces;
  const Backward<S> x{static_cast<const S*>(call.grad),
                      static_cast<const S*>(call.saved),
                      static_cast<const S*>(call.grad_grad),
                      static_cast<S*>(call.grad_product),
                      static_cast<S*>(call.to_grad),
                      call.grad_bias ? call.partial : nullptr,
                      pass.dropout > 0,
                      T(pass.negative_slope),
                      Mask<T>(pass.dropout, pass.dropout_seed, pass.substream, pass.units)};
  if (pass.rows == 0) {
    // an empty batch: only its sums, which are 0, are written
  } else if (pass.pieces > 1) {
    const Tiling tiling(pass.rows, columns, 1);
    launch("mlp", maxout_backward<S>, int(tiling.tiles * tiling.chunks), stream, x.grad, call.winner, pass.pieces, x,
           tiling);
  } else if (x.grad_grad) {  // rare enough to go without packs
    with_activation(pass.activation, [&](auto f) {
      const Tiling tiling(pass.rows, columns, 1);
      launch("mlp", backward<decltype(f), S, 1, 2>, int(tiling.tiles * tiling.chunks), stream, x, tiling);
    });
  } else {
    with_activation(pass.activation, [&](auto f) {
      with_pack<S>(
          columns,
          [&](auto pack) {
            const Tiling tiling(pass.rows, columns, pack());
            launch("mlp", backward<decltype(f), S, pack(), 1>, int(tiling.tiles * tiling.chunks), stream, x, tiling);
          },
          x.grad, x.saved, x.grad_product);
    });
  }
  if (!call.grad_bias) return;
  const Tiling tiling(pass.rows, columns, 1);
  launch("mlp", finish<S>, int(tiling.tiles), stream, static_cast<const double*>(call.partial),
         static_cast<S*>(call.grad_bias), columns, tiling.chunks);
}

}  // namespace
}  // namespace FASTGAN_ISA

int64_t cuda_layer_partials(int64_t rows, int64_t columns) { return Tiling(rows, columns, 1).chunks * columns; }

void cuda_layer_forward(int dtype, const LayerPass& pass, const LayerForward& call, void* stream) {
  if (pass.rows * pass.units == 0) return;
  with_dtype(dtype, [&](auto storage) { run_forward<decltype(storage)>(pass, call, stream); });
}

void cuda_layer_backward(int dtype, const LayerPass& pass, const LayerBackward& call, void* stream) {
  if (pass.units == 0) return;
  if (pass.rows == 0 && !call.grad_bias) return;
  if (call.grad_grad && pass.pieces > 1) throw std::runtime_error("mlp: maxout has no second derivative");
  with_dtype(dtype, [&](auto storage) { run_backward<decltype(storage)>(pass, call, stream); });
}

}  // namespace fastgan
