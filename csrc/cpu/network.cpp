// The passes of a network over a batch (network.h).
#include "network.h"

#include <cmath>

#include "../philox.h"
#include "gemm_bf16.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// ---------------------------------------------------------------- maps over tiles of panels

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

// ---------------------------------------------------------------- dropout, maxout

// out = in * mask for the columns of a section that a share holds; four neighbouring features share a random block.
template <class T>
void drop(const T* in, T* out, int64_t features, Share share, const Section& section, double p, uint64_t key,
          uint32_t substream) {
  const Stream stream{key, purpose::dropout, substream, 0};
  const uint64_t threshold = dropout_threshold(p);
  const T scale = p < 1.0 ? T(1.0 / (1.0 - p)) : T(0);
  const int64_t quads = (features + 3) / 4;
  const Share mine{std::max(share.first, section.first), std::min(share.last, section.first + section.rows)};
  each_panel<T>(mine, [&](int64_t panel, int lane, int lanes) {
    const int64_t row = panel * kPanel<T> + lane - section.first;
    for (int64_t q = 0; q < quads; ++q) {
      uint32_t words[4][kPanel<T>];
      stream.blocks<kPanel<T>>(uint64_t(row * quads + q), uint64_t(quads), words);
      const int count = int(std::min<int64_t>(4, features - 4 * q));
      for (int i = 0; i < count; ++i) {
        const int64_t at = (panel * features + 4 * q + i) * kPanel<T> + lane;
        for (int j = 0; j < lanes; ++j) out[at + j] = in[at + j] * (words[i][j] >= threshold ? scale : T(0));
      }
    }
  });
}

template <class T>
void maxout(const T* pieces_in, T* out, int64_t units, int pieces, Share share) {
  each_panel<T>(share, [&](int64_t p, int lane, int lanes) {
    for (int64_t u = 0; u < units; ++u) {
      const T* in = pieces_in + (p * units + u) * pieces * kPanel<T> + lane;
      T* best = out + (p * units + u) * kPanel<T> + lane;
      std::copy_n(in, lanes, best);
      for (int i = 1; i < pieces; ++i)
        for (int j = 0; j < lanes; ++j) {
          const T v = in[i * kPanel<T> + j];
          best[j] = v > best[j] || (v != v && best[j] == best[j]) ? v : best[j];  // NaN wins, the first one stays
        }
    }
  });
}

// The gradient goes to the largest piece, the lowest on a tie, which is the first that equals the maximum (or is NaN with it).
template <class T>
void maxout_backward(const T* pieces_in, const T* out, const T* grad, T* grad_pieces, int64_t units, int pieces,
                     Share share) {
  each_panel<T>(share, [&](int64_t p, int lane, int lanes) {
    for (int64_t u = 0; u < units; ++u) {
      const int64_t from = (p * units + u) * pieces * kPanel<T> + lane, at = (p * units + u) * kPanel<T> + lane;
      T left[kPanel<T>];  // the gradient until a piece has taken it
      std::copy_n(grad + at, lanes, left);
      for (int i = 0; i < pieces; ++i)
        for (int j = 0; j < lanes; ++j) {
          const int64_t piece = from + i * kPanel<T> + j;
          const bool hit = pieces_in[piece] == out[at + j] || pieces_in[piece] != pieces_in[piece];
          grad_pieces[piece] = hit ? left[j] : T(0);
          left[j] = hit ? T(0) : left[j];
        }
    }
  });
}

// ---------------------------------------------------------------- the network

template <class T>
Network<T>::Network(const NetworkPlan& plan, const std::vector<LayerParameters>& parameters) : plan_(plan) {
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    Layer<T> layer{};
    layer.plan = plan.layers[i];
    layer.parameters = parameters[i];
    if (layer.plan.dropout_key < 0) layer.plan.dropout_key = 0, layer.plan.dropout_substream = int(i) + 1;
    layer.activate = layer.plan.activation ? find_activation<T>(layer.plan.activation) : nullptr;
    layer.by_slope = layer.plan.activation ? find_slope<T>(layer.plan.activation) : nullptr;
    layers_.push_back(layer);
  }
}

template <class T>
void Network<T>::place_forward(Arena<T>& arena, int64_t rows, int64_t sections) {
  const int64_t stride = padded(rows);
  input = arena.take(inputs() * stride);
  dropped_input_ = plan_.input_dropout > 0 ? arena.take(inputs() * stride) : input;
  for (Layer<T>& l : layers_) {
    const bool norm = l.plan.batch_norm, before = l.plan.pieces > 1 || slope_needs_input(l.plan.activation);
    T* first = norm || before ? arena.take(l.rows() * stride) : nullptr;
    T* second = norm && before ? arena.take(l.rows() * stride) : nullptr;
    l.output = arena.take(l.plan.outputs * stride);
    l.affine = first ? first : l.output;
    l.normalized = norm ? (second ? second : l.output) : l.affine;
    l.dropped = l.plan.dropout > 0 ? arena.take(l.plan.outputs * stride) : l.output;
    l.mean = norm ? arena.take(sections * l.plan.outputs) : nullptr;
    l.inverse_deviation = norm ? arena.take(sections * l.plan.outputs) : nullptr;
  }
}

template <class T>
void Network<T>::place_backward(Arena<T>& arena, int64_t rows) {
  const int64_t stride = padded(rows);
  grad_input = arena.take(inputs() * stride);
  for (Layer<T>& l : layers_) {
    l.grad_output = arena.take(l.plan.outputs * stride);
    l.grad_affine = l.plan.pieces > 1 ? arena.take(l.rows() * stride) : l.grad_output;
    l.grad_scale = l.plan.batch_norm ? arena.take(l.plan.outputs) : nullptr;
    l.grad_shift = l.plan.batch_norm ? arena.take(l.plan.outputs) : nullptr;
  }
}

template <class T>
void Network<T>::place_second_order(Arena<T>& arena, const Network& done, int64_t rows) {
  const int64_t first = padded(rows), stride = 2 * first;
  grad_input = arena.take(inputs() * stride);
  dropped_input_ = arena.take(inputs() * stride);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer<T>& l = layers_[i];
    const Layer<T>& from = done.layers_[i];
    l.dropped = arena.take(l.plan.outputs * stride);
    l.grad_affine = arena.take(l.rows() * stride);
    if (!arena.base) continue;  // it only counts
    l.affine = from.affine - first * l.rows();
    l.normalized = from.normalized - first * l.rows();
    l.output = from.output - first * l.plan.outputs;
  }
}

template <class T>
void Network<T>::take_passes(const Network& done, int64_t rows, Share share, bool with_outputs) {
  const auto copy = [&](const T* from, T* to, int64_t features) {
    each_panel<T>(share, [&](int64_t p, int lane, int lanes) {
      const int64_t at = p * features * kPanel<T> + lane;
      for (int64_t f = 0; f < features; ++f)
        std::copy_n(from + at + f * kPanel<T>, lanes, to + padded(rows) * features + at + f * kPanel<T>);
    });
  };
  if (with_outputs) copy(done.dropped_input_, dropped_input_, inputs());
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (with_outputs && i + 1 < layers_.size()) copy(done.layers_[i].dropped, layers_[i].dropped, layers_[i].plan.outputs);
    copy(done.layers_[i].grad_affine, layers_[i].grad_affine, layers_[i].rows());
  }
}

template <class T>
void Network<T>::forward(const Team& team, Share share, const Sections& sections) {
  if (plan_.input_dropout > 0)
    for (const Section& s : sections)
      drop(input, dropped_input_, inputs(), share, s, plan_.input_dropout, s.keys[0], 0);
  const T* in = dropped_input_;
  for (Layer<T>& l : layers_) {
    const bool norm = l.plan.batch_norm;
    const Mapped<T> activate{norm ? nullptr : l.activate, l.affine, l.output, l.plan.outputs, T(l.plan.negative_slope)};
    product(l.rows(), l.plan.inputs, {l.weight(), l.plan.inputs, 1}, l.bias(), in, l.affine, share, activate);
    if (norm) {
      team.barrier();
      normalize(l, team, sections);
      team.barrier();
    }
    if (l.plan.pieces > 1) maxout(l.affine, l.output, l.plan.outputs, l.plan.pieces, share);
    if (l.plan.dropout > 0)
      for (const Section& s : sections)
        drop(l.output, l.dropped, l.plan.outputs, share, s, l.plan.dropout, s.keys[l.plan.dropout_key],
             uint32_t(l.plan.dropout_substream));
    in = l.dropped;
  }
}

template <class T>
void Network<T>::backward(const Team& team, Share share, const Sections& sections, size_t lowest, bool to_input) {
  bool slope_applied = false;  // the product that made grad_output may already have multiplied by the slope
  for (size_t i = layers_.size(); i-- > lowest;) {
    Layer<T>& l = layers_[i];
    if (l.plan.dropout > 0)
      for (const Section& s : sections)
        drop(l.grad_output, l.grad_output, l.plan.outputs, share, s, l.plan.dropout, s.keys[l.plan.dropout_key],
             uint32_t(l.plan.dropout_substream));
    if (!slope_applied) slope_of(l).all(share);
    if (l.plan.pieces > 1)
      maxout_backward(l.affine, l.output, l.grad_output, l.grad_affine, l.plan.outputs, l.plan.pieces, share);
    if (l.plan.batch_norm) {
      team.barrier();
      normalize_backward(l, team, sections);
      team.barrier();
    }
    if (i == lowest && !to_input) return;
    Layer<T>* below = i > 0 ? &layers_[i - 1] : nullptr;
    slope_applied = below && below->plan.dropout == 0;  // dropout comes between the product and the slope
    const Mapped<T> slope = slope_applied ? slope_of(*below) : Mapped<T>{};
    product(l.plan.inputs, l.rows(), {l.weight(), 1, l.plan.inputs}, nullptr, l.grad_affine,
            below ? below->grad_output : grad_input, share, slope);
  }
  if (lowest == 0 && plan_.input_dropout > 0)
    for (const Section& s : sections)
      drop(grad_input, grad_input, inputs(), share, s, plan_.input_dropout, s.keys[0], 0);
}

template <class T>
  void Network<T>::product(int64_t n, int64_t depth, const Matrix<T>& a, const T* bias, const T* b, T* c, Share share,
               const Mapped<T>& after) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      if (plan_.precision == Precision::bf16) return multiply_bf16(n, depth, a, bias, b, c, share, after);
#endif
    multiply<T>(n, depth, a, bias, b, c, share, after);
  }

template <class T>
std::vector<GradientPart> Network<T>::gradient_parts() const {
  std::vector<GradientPart> parts;
  for (size_t i = layers_.size(); i-- > 0;) {
    const LayerPlan& plan = layers_[i].plan;
    int64_t column = 0;
    do {  // a layer without inputs has a part too: its vectors
      const int columns = int(std::min<int64_t>(kPanel<T>, plan.inputs - column));
      const double vectors = columns > Simd<T>::width ? 2 : 1;
      parts.push_back({int(i), column, columns, (double(plan.outputs * plan.pieces) + 16) * vectors});
    } while ((column += kPanel<T>) < plan.inputs);
  }
  return parts;
}

template <class T>
const T* Network<T>::bias_gradient(const Layer<T>& l, const Columns& columns) const {
  T* sums = scratch<T, Scratch::packed>(l.rows());
  for (int64_t f = 0; f < l.rows(); ++f)
    for (const Share& some : columns.of_bias)
      sums[f] = (some.first ? sums[f] : T(0)) +
                sum_columns<T>(some.first, some.last, l.rows(), f, [&](int64_t at) { return l.grad_affine[at]; });
  return sums;
}

template <class T>
Mapped<T> Network<T>::slope_of(const Layer<T>& l) const {
  return {l.by_slope, l.saved(), l.grad_output, l.plan.outputs, T(l.plan.negative_slope)};
}

template <class T>
void Network<T>::normalize(Layer<T>& l, const Team& team, const Sections& sections) {
  const int64_t n = l.plan.outputs;
  const T *scale = static_cast<const T*>(l.parameters.norm_scale.value);
  const T *shift = static_cast<const T*>(l.parameters.norm_shift.value);
  for (int64_t f = n * team.rank / team.size; f < n * (team.rank + 1) / team.size; ++f)
    for (int64_t s = 0; s < sections.size(); ++s) {
      const int64_t first = sections[size_t(s)].first, rows = sections[size_t(s)].rows, last = first + rows;
      const T mean = sum_columns<T>(first, last, n, f, [&](int64_t at) { return l.affine[at]; }) / T(rows);
      const T variance = sum_columns<T>(first, last, n, f, [&](int64_t at) {
                           return (l.affine[at] - mean) * (l.affine[at] - mean);
                         }) / T(rows);
      const T inverse = T(1) / std::sqrt(variance + T(l.plan.norm_epsilon));
      l.mean[s * n + f] = mean;
      l.inverse_deviation[s * n + f] = inverse;
      const T a = inverse * (scale ? scale[f] : T(1)), b = shift ? shift[f] : T(0);
      each_panel<T>({first, last}, [&](int64_t p, int lane, int lanes) {
        const int64_t at = (p * n + f) * kPanel<T> + lane;
        for (int j = 0; j < lanes; ++j) l.normalized[at + j] = (l.affine[at + j] - mean) * a + b;
        if (l.activate)
          l.activate(l.normalized + at, l.output + at, kPanel<T>, 1, lanes, T(l.plan.negative_slope));
      });
      update_statistics(l, f, mean, variance, rows);
    }
  if (team.rank == 0 && l.parameters.batches) *l.parameters.batches += sections.size();
}

template <class T>
void Network<T>::update_statistics(Layer<T>& l, int64_t f, T mean, T variance, int64_t rows) {
  if (!l.parameters.running_mean) return;
  T& running_mean = static_cast<T*>(l.parameters.running_mean)[f];
  T& running_variance = static_cast<T*>(l.parameters.running_variance)[f];
  running_mean = running(running_mean, mean, T(l.plan.norm_momentum));
  running_variance = running(running_variance, unbiased(variance, T(rows)), T(l.plan.norm_momentum));
}

template <class T>
void Network<T>::normalize_backward(Layer<T>& l, const Team& team, const Sections& sections) {
  const int64_t n = l.plan.outputs;
  const T* scale = static_cast<const T*>(l.parameters.norm_scale.value);
  for (int64_t f = n * team.rank / team.size; f < n * (team.rank + 1) / team.size; ++f) {
    T grad_scale = 0, grad_shift = 0;
    for (int64_t s = 0; s < sections.size(); ++s) {
      const int64_t first = sections[size_t(s)].first, rows = sections[size_t(s)].rows, last = first + rows;
      const T mean = l.mean[s * n + f], inverse = l.inverse_deviation[s * n + f];
      const T sum = sum_columns<T>(first, last, n, f, [&](int64_t at) { return l.grad_output[at]; });
      const T product = sum_columns<T>(first, last, n, f, [&](int64_t at) {
        return l.grad_output[at] * ((l.affine[at] - mean) * inverse);
      });
      const T factor = inverse * (scale ? scale[f] : T(1)), of_sum = sum / T(rows), of_product = product / T(rows);
      each_panel<T>({first, last}, [&](int64_t p, int lane, int lanes) {
        const int64_t at = (p * n + f) * kPanel<T> + lane;
        for (int j = 0; j < lanes; ++j)
          l.grad_output[at + j] = factor * (l.grad_output[at + j] - of_sum -
                                            (l.affine[at + j] - mean) * inverse * of_product);
      });
      grad_scale += product;
      grad_shift += sum;
    }
    l.grad_scale[f] = grad_scale;
    l.grad_shift[f] = grad_shift;
  }
}

template class Network<float>;
template class Network<double>;
template void drop(const float*, float*, int64_t, Share, const Section&, double, uint64_t, uint32_t);
template void drop(const double*, double*, int64_t, Share, const Section&, double, uint64_t, uint32_t);

}  // namespace FASTGAN_ISA
}  // namespace fastgan
