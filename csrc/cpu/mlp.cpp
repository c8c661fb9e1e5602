// A whole MLP forward and backward on the CPU in one call each. Activations are feature-major, (features, rows padded to 16):
// the batch is the vector dimension, weights are read in place, bias and activation are applied as tiles leave the product.
#include <algorithm>

#include "../dtypes.h"
#include "../philox.h"
#include "gemm.h"
#include "kernels.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr uint32_t kDropout = 5;     // Purpose.DROPOUT of fastgan/random.py
constexpr int64_t kShared = 1 << 15;  // elements from which on sharing a pass out pays

// ---------------------------------------------------------------- the buffers of one call

// Where a layer's activations lie in `work`, in units of one row of the batch.
struct LayerBuffers {
  int64_t before = -1;   // affine result, kept for maxout and for activations whose slope needs their input
  int64_t output = -1;   // after the activation
  int64_t dropped = -1;  // after dropout; equal to output where there is none
};

bool keeps_input(const LayerShape& layer) {
  bool keeps = layer.pieces > 1;
  with_activation(layer.activation, [&](auto f) { keeps = keeps || !decltype(f)::from_output; });
  return keeps;
}

struct Buffers {
  int64_t input = -1;  // x after input dropout
  std::vector<LayerBuffers> layers;
  int64_t size = 0;

  explicit Buffers(const MlpShape& shape) {
    auto take = [&](int64_t features) {
      int64_t at = size;
      size += features;
      return at;
    };
    if (shape.input_dropout > 0) input = take(shape.layers[0].inputs);
    for (const LayerShape& layer : shape.layers) {
      LayerBuffers b;
      if (keeps_input(layer)) b.before = take(layer.outputs * layer.pieces);
      b.output = take(layer.outputs);
      b.dropped = layer.dropout > 0 ? take(layer.outputs) : b.output;
      layers.push_back(b);
    }
  }
};

int64_t widest_layer(const MlpShape& shape) {
  int64_t widest = shape.layers[0].inputs;
  for (const LayerShape& layer : shape.layers) widest = std::max(widest, layer.outputs * layer.pieces);
  return widest;
}

// ---------------------------------------------------------------- passes over feature-major rows

template <class T>
using TileMap = void (*)(const T* in, T* out, int64_t stride, int rows, int columns, T slope);

template <class F, class T>
void activate_tile(const T* in, T* out, int64_t stride, int rows, int columns, T slope) {
  for (int i = 0; i < rows; ++i, in += stride, out += stride)
    for (int j = 0; j < columns; ++j) out[j] = F::value(in[j], slope);
}

template <class F, class T>
void scale_by_slope(const T* saved, T* grad, int64_t stride, int rows, int columns, T slope) {
  for (int i = 0; i < rows; ++i, saved += stride, grad += stride)
    for (int j = 0; j < columns; ++j) grad[j] *= F::slope(saved[j], slope);
}

template <class T>
TileMap<T> find_activation(int number) {
  TileMap<T> found = nullptr;
  with_activation(number, [&](auto f) { found = activate_tile<decltype(f), T>; });
  return found;
}

template <class T>
TileMap<T> find_slope(int number) {
  TileMap<T> found = nullptr;
  with_activation(number, [&](auto f) { found = scale_by_slope<decltype(f), T>; });
  return found;
}

// Applies a tile map to the same place of two feature-major buffers as the tile of C is done.
template <class T>
struct MapTile final : Epilogue<T> {
  TileMap<T> map;
  const T* in;
  T* out;
  int64_t stride;
  T slope;

  MapTile(TileMap<T> f, const T* i, T* o, int64_t s, double a) : map(f), in(i), out(o), stride(s), slope(T(a)) {}
  void operator()(int64_t row, int64_t column, int rows, int columns) const override {
    const int64_t at = row * stride + column;
    map(in + at, out + at, stride, rows, columns, slope);
  }
};

template <class T>
void maxout(const T* pieces_in, T* out, int64_t units, int pieces, int64_t stride, int threads) {
  parallel_for(units * pieces * stride < kShared ? 1 : threads, units, [&](int64_t u) {
    const T* in = pieces_in + u * pieces * stride;
    T* best = out + u * stride;
    std::copy_n(in, stride, best);
    for (int p = 1; p < pieces; ++p)
      for (int64_t j = 0; j < stride; ++j) {
        const T v = in[p * stride + j];
        best[j] = v > best[j] || (v != v && best[j] == best[j]) ? v : best[j];  // NaN wins, the first one stays
      }
  });
}

// The gradient goes to the largest piece, the lowest on a tie, which is the first that equals the maximum (or is NaN with it).
template <class T>
void maxout_backward(const T* pieces_in, const T* best, const T* grad, T* grad_pieces, int64_t units, int pieces,
                     int64_t stride, int threads) {
  parallel_for(units * pieces * stride < kShared ? 1 : threads, units, [&](int64_t u) {
    for (int64_t j = 0; j < stride; ++j) {
      const int64_t at = u * stride + j;
      bool taken = false;
      for (int p = 0; p < pieces; ++p) {
        const int64_t from = (u * pieces + p) * stride + j;
        const bool hit = !taken && (pieces_in[from] == best[at] || pieces_in[from] != pieces_in[from]);
        grad_pieces[from] = hit ? grad[at] : T(0);
        taken = taken || hit;
      }
    }
  });
}

// out = in * mask, both feature-major; four neighbouring features share a random block per row of the batch.
template <class T>
void drop(const T* in, T* out, int64_t features, int64_t rows, int64_t stride, double p, uint64_t key, uint32_t substream,
          int threads) {
  const Stream stream{key, kDropout, substream, 0};
  const uint64_t threshold = dropout_threshold(p);
  const T scale = p < 1.0 ? T(1.0 / (1.0 - p)) : T(0);
  const int64_t quads = (features + 3) / 4;
  parallel_for(features * stride < kShared ? 1 : threads, quads, [&](int64_t q) {
    const int count = int(std::min<int64_t>(4, features - 4 * q));
    for (int64_t j = 0; j < stride; ++j) {
      const Words words = stream.block(uint64_t(j * quads + q));
      for (int i = 0; i < count; ++i) {
        const int64_t at = (4 * q + i) * stride + j;
        out[at] = in[at] * (words.w[i] >= threshold ? scale : T(0));
      }
    }
  });
}

// (rows, features) -> (features, padded rows), the padding zero.
template <class T>
void to_feature_major(const T* in, T* out, int64_t rows, int64_t features, int64_t stride) {
  transpose(in, features, rows, features, out, stride);
  for (int64_t f = 0; f < features; ++f) std::fill(out + f * stride + rows, out + (f + 1) * stride, T(0));
}

template <class T>
void to_batch_major(const T* in, T* out, int64_t rows, int64_t features, int64_t stride) {
  transpose(in, stride, features, rows, out, features);
}

template <class T>
void bias_gradient(const T* grad, T* out, int64_t features, int64_t rows, int64_t stride) {
  for (int64_t f = 0; f < features; ++f) {
    const T* g = grad + f * stride;
    T lanes[kPad] = {};
    int64_t j = 0;
    for (; j + kPad <= rows; j += kPad)
      for (int i = 0; i < kPad; ++i) lanes[i] += g[j + i];
    for (int i = 0; j + i < rows; ++i) lanes[i] += g[j + i];
    for (int width = kPad / 2; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    out[f] = lanes[0];
  }
}

// ---------------------------------------------------------------- forward and backward

template <class T>
void forward(const MlpShape& shape, const MlpForward& call) {
  const int64_t rows = call.rows, stride = padded(rows);
  const Buffers buffers(shape);
  T* work = static_cast<T*>(call.work);
  Matrix<T> input{static_cast<const T*>(call.x), 1, shape.layers[0].inputs, rows};  // x transposed: (inputs, rows)
  if (shape.input_dropout > 0) {
    T* dropped = work + buffers.input * stride;
    to_feature_major(input.data, dropped, rows, shape.layers[0].inputs, stride);
    drop(dropped, dropped, shape.layers[0].inputs, rows, stride, shape.input_dropout, call.key, 0, call.threads);
    input = {dropped, stride, 1};
  }
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerShape& layer = shape.layers[i];
    const LayerBuffers& at = buffers.layers[i];
    T* output = work + at.output * stride;
    T* affine = at.before >= 0 ? work + at.before * stride : output;
    const MapTile<T> activate(find_activation<T>(layer.activation), affine, output, stride, layer.negative_slope);
    const bool plain = layer.activation == 0;
    multiply<T>(layer.outputs * layer.pieces, stride, layer.inputs,
                {static_cast<const T*>(call.weights[i]), layer.inputs, 1}, input, static_cast<const T*>(call.biases[i]),
                affine, stride, plain ? nullptr : &activate, call.threads);
    if (layer.pieces > 1) maxout(affine, output, layer.outputs, layer.pieces, stride, call.threads);
    T* dropped = work + at.dropped * stride;
    if (layer.dropout > 0)
      drop(output, dropped, layer.outputs, rows, stride, layer.dropout, call.key, uint32_t(i + 1), call.threads);
    input = {dropped, stride, 1};
  }
  to_batch_major(input.data, static_cast<T*>(call.y), rows, shape.layers.back().outputs, stride);
}

// The lowest layer whose parameters want a gradient; below it nothing need be computed unless x wants one.
size_t lowest_wanted(const MlpBackward& call, size_t depth) {
  size_t i = 0;
  while (!call.grad_x && i + 1 < depth && !call.grad_weights[i] && !call.grad_biases[i]) ++i;
  return i;
}

template <class T>
void backward(const MlpShape& shape, const MlpBackward& call) {
  const int64_t rows = call.rows, stride = padded(rows), widest = widest_layer(shape) * stride;
  const Buffers buffers(shape);
  const T* work = static_cast<const T*>(call.work);
  T* grad = static_cast<T*>(call.scratch);  // of a layer's output, then of its affine result
  T* next = grad + widest;                  // of the layer below
  T* grad_pieces = next + widest;
  // grad *= the slope of layer i's activation, tile by tile or all at once.
  const auto by_slope = [&](size_t i, T* g) {
    const LayerBuffers& at = buffers.layers[i];
    const int64_t saved = shape.layers[i].pieces == 1 && at.before >= 0 ? at.before : at.output;
    return MapTile<T>(find_slope<T>(shape.layers[i].activation), work + saved * stride, g, stride,
                      shape.layers[i].negative_slope);
  };

  const size_t depth = shape.layers.size(), lowest = lowest_wanted(call, depth);
  to_feature_major(static_cast<const T*>(call.grad_y), grad, rows, shape.layers.back().outputs, stride);
  bool slope_applied = false;  // the product that made `grad` may already have multiplied by the slope
  for (size_t i = depth; i-- > lowest;) {
    const LayerShape& layer = shape.layers[i];
    if (layer.dropout > 0)
      drop(grad, grad, layer.outputs, rows, stride, layer.dropout, call.key, uint32_t(i + 1), call.threads);
    if (!slope_applied && layer.activation != 0)
      for (int64_t f = 0; f < layer.outputs; ++f) by_slope(i, grad)(f, 0, 1, int(stride));
    const T* grad_affine = grad;
    if (layer.pieces > 1) {
      const LayerBuffers& at = buffers.layers[i];
      maxout_backward(work + at.before * stride, work + at.output * stride, grad, grad_pieces, layer.outputs,
                      layer.pieces, stride, call.threads);
      grad_affine = grad_pieces;
    }

    const int64_t outputs = layer.outputs * layer.pieces;
    Matrix<T> input{static_cast<const T*>(call.x), layer.inputs, 1};  // (rows, inputs)
    if (i > 0) input = {work + buffers.layers[i - 1].dropped * stride, 1, stride};
    if (i == 0 && shape.input_dropout > 0) input = {work + buffers.input * stride, 1, stride};
    if (call.grad_weights[i])
      multiply<T>(outputs, layer.inputs, rows, {grad_affine, stride, 1}, input, nullptr,
                  static_cast<T*>(call.grad_weights[i]), layer.inputs, nullptr, call.threads);
    if (call.grad_biases[i]) bias_gradient(grad_affine, static_cast<T*>(call.grad_biases[i]), outputs, rows, stride);
    if (i == lowest && !call.grad_x) return;

    const Matrix<T> transposed{static_cast<const T*>(call.weights[i]), 1, layer.inputs};
    slope_applied = i > 0 && shape.layers[i - 1].dropout == 0;  // dropout comes between the product and the slope
    const MapTile<T> slope = by_slope(i > 0 ? i - 1 : 0, next);
    multiply<T>(layer.inputs, stride, outputs, transposed, {grad_affine, stride, 1}, nullptr, next, stride,
                slope_applied && shape.layers[i - 1].activation != 0 ? &slope : nullptr, call.threads);
    std::swap(grad, next);
  }
  if (shape.input_dropout > 0)
    drop(grad, grad, shape.layers[0].inputs, rows, stride, shape.input_dropout, call.key, 0, call.threads);
  to_batch_major(grad, static_cast<T*>(call.grad_x), rows, shape.layers[0].inputs, stride);
}

}  // namespace

void mlp_forward(int dtype, const MlpShape& shape, const MlpForward& call) {
  if (DType(dtype) == DType::f64)
    forward<double>(shape, call);
  else
    forward<float>(shape, call);
}

void mlp_backward(int dtype, const MlpShape& shape, const MlpBackward& call) {
  if (DType(dtype) == DType::f64)
    backward<double>(shape, call);
  else
    backward<float>(shape, call);
}

int64_t mlp_work_per_row(const MlpShape& shape) { return Buffers(shape).size; }

int64_t mlp_scratch_per_row(const MlpShape& shape) { return 3 * widest_layer(shape); }

}  // namespace FASTGAN_ISA
}  // namespace fastgan
