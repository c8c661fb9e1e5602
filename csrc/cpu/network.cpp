// The passes of a network over a batch (network.h).
#include "network.h"

#include <cmath>

#include "../philox.h"
#include "gemm_bf16.h"
#include "heads.h"
#include "philox_vectors.h"
#include "some_features.h"

namespace fastgan::inline FASTGAN_ISA {

// ---------------------------------------------------------------- maps over tiles of blocks

template <class F, class T>
void activate_tile(const T* in, T* out, int64_t stride, int rows, int columns, T negative_slope) {
  columns = whole_vectors<T>(columns);
  for (int i = 0; i < rows; ++i, in += stride, out += stride)
    for (int j = 0; j < columns; ++j) out[j] = F::value(in[j], negative_slope);
}

template <class F, class T>
void activate_backward_tile(const T* saved, T* grad, int64_t stride, int rows, int columns, T negative_slope) {
  columns = whole_vectors<T>(columns);
  for (int i = 0; i < rows; ++i, saved += stride, grad += stride)
    for (int j = 0; j < columns; ++j) grad[j] *= F::derivative(saved[j], negative_slope);
}

template <class T>
TileMap<T> find_activation(int number) {
  TileMap<T> found = nullptr;
  with_activation(number, [&](auto f) { found = activate_tile<decltype(f), T>; });
  return found;
}

template <class T>
TileMap<T> find_activation_backward(int number) {
  TileMap<T> found = nullptr;
  with_activation(number, [&](auto f) { found = activate_backward_tile<decltype(f), T>; });
  return found;
}

// ---------------------------------------------------------------- dropout, maxout

template <class T>
void drop(const T* in, T* out, int64_t features, ColumnRange range, const SubBatch& sub_batch, double p,
          uint64_t dropout_seed, uint32_t substream) {
  const Stream stream{dropout_seed, purpose::dropout, substream, 0};
  const MaskFactors<T> factors(p);
  const int64_t quads = (features + 3) / 4;
  using S = Simd<T>;
  constexpr int width = kBlockRows<T>;
  each_block<T>(sub_batch.columns(range), [&](int64_t block, int lane, int lanes) {
    const int64_t row = block * width - sub_batch.first;  // of the block's first lane
    for (int64_t q = 0; q < quads; ++q) {
      uint32_t words[4][width];
      blocks<width>(stream, uint64_t(row * quads + q), uint64_t(quads), words);
      const int count = int(std::min<int64_t>(4, features - 4 * q));
      for (int i = 0; i < count; ++i) {
        const int64_t at = (block * features + 4 * q + i) * width;
        alignas(64) T mask[width];
        for (int j = 0; j < width; j += S::width) S::store(mask + j, factors(&words[i][j]));
        if (lanes == width)
          for (int j = 0; j < width; j += S::width) S::store(out + at + j, S::load(in + at + j) * S::load(mask + j));
        else
          for (int j = lane; j < lane + lanes; ++j) out[at + j] = in[at + j] * mask[j];
      }
    }
  });
}

template <class T>
void maxout(const T* pieces_in, T* out, int64_t units, int pieces, ColumnRange range) {
  each_block<T>(range, [&](int64_t p, int lane, int columns) {
    const int lanes = whole_vectors<T>(columns);
    for (int64_t u = 0; u < units; ++u) {
      const T* in = pieces_in + (p * units + u) * pieces * kBlockRows<T> + lane;
      T* best = out + (p * units + u) * kBlockRows<T> + lane;
      std::copy_n(in, lanes, best);
      for (int i = 1; i < pieces; ++i)
        for (int j = 0; j < lanes; ++j) {
          const T v = in[i * kBlockRows<T> + j];
          best[j] = v > best[j] || (v != v && best[j] == best[j]) ? v : best[j];  // NaN wins, the first one stays
        }
    }
  });
}

// The gradient goes to the largest piece, or to the first of equal ones: the first that equals the maximum, or is NaN.
template <class T>
void maxout_backward(const T* pieces_in, const T* out, const T* grad, T* grad_pieces, int64_t units, int pieces,
                     ColumnRange range) {
  each_block<T>(range, [&](int64_t p, int lane, int columns) {
    const int lanes = whole_vectors<T>(columns);
    for (int64_t u = 0; u < units; ++u) {
      const int64_t from = (p * units + u) * pieces * kBlockRows<T> + lane, at = (p * units + u) * kBlockRows<T> + lane;
      T left[kBlockRows<T>];  // the gradient, until a piece has taken it
      std::copy_n(grad + at, lanes, left);
      for (int i = 0; i < pieces; ++i)
        for (int j = 0; j < lanes; ++j) {
          const int64_t piece = from + i * kBlockRows<T> + j;
          const bool hit = pieces_in[piece] == out[at + j] || pieces_in[piece] != pieces_in[piece];
          grad_pieces[piece] = hit ? left[j] : T(0);
          left[j] = hit ? T(0) : left[j];
        }
    }
  });
}

// The mask of a layer.
template <class T>
void drop_layer(const Layer<T>& l, const T* in, T* out, ColumnRange range, const SubBatches& sub_batches) {
  for (const SubBatch& s : sub_batches)
    drop(in, out, l.plan.outputs, range, s, l.plan.dropout, s.dropout_seeds[l.plan.dropout_seed_index],
         uint32_t(l.plan.dropout_substream));
}

// ---------------------------------------------------------------- the network

template <class T>
Network<T>::Network(const NetworkPlan& plan, const std::vector<LayerParameters>& parameters) : plan_(plan) {
  placed_.reserve(4 * plan.layers.size() + 4);
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    Layer<T> layer{};
    layer.plan = plan.layers[i];
    layer.parameters = parameters[i];
    if (layer.plan.dropout_seed_index < 0) layer.plan.dropout_seed_index = 0, layer.plan.dropout_substream = int(i) + 1;
    layer.activate = layer.plan.activation ? find_activation<T>(layer.plan.activation) : nullptr;
    layer.activate_backward = layer.plan.activation ? find_activation_backward<T>(layer.plan.activation) : nullptr;
    layers_.push_back(layer);
  }
}

template <class T>
void Network<T>::place_forward(Arena<T>& arena, int64_t rows, int64_t sub_batches) {
  const int64_t stride = padded(rows);
  input = place(arena, inputs(), stride);
  dropped_input_ = plan_.input_dropout > 0 ? place(arena, inputs(), stride) : input;
  for (Layer<T>& l : layers_) {
    const bool heads = &l == &layers_.back() && !plan_.heads.empty();
    const bool products = &l == &layers_.front() && l.plan.transposed;  // interpolated for a penalty (Given::product)
    const bool norm = l.plan.batch_norm,
               before = l.plan.pieces > 1 || backward_needs_input(l.plan.activation) || heads || products;
    T* first = norm || before ? place(arena, l.rows(), stride) : nullptr;
    T* second = norm && before ? place(arena, l.rows(), stride) : nullptr;
    l.output = place(arena, l.plan.outputs, stride);
    l.affine = first ? first : l.output;
    l.normalized = norm ? (second ? second : l.output) : l.affine;
    l.dropped =
        l.plan.drops_after_activation() || l.plan.concatenates ? place(arena, l.plan.width(), stride) : l.output;
    l.mean = norm ? arena.allocate(sub_batches * l.plan.outputs) : nullptr;
    l.inverse_deviation = norm ? arena.allocate(sub_batches * l.plan.outputs) : nullptr;
  }
}

template <class T>
void Network<T>::place_backward(Arena<T>& arena, int64_t rows) {
  const int64_t stride = padded(rows);
  grad_input = place(arena, inputs(), stride);
  for (Layer<T>& l : layers_) {
    l.grad_output = place(arena, l.plan.outputs, stride);
    l.grad_dropped = l.plan.concatenates ? place(arena, l.plan.width(), stride) : l.grad_output;
    l.grad_affine = l.plan.pieces > 1 ? place(arena, l.rows(), stride) : l.grad_output;
    l.grad_scale = l.plan.batch_norm ? arena.allocate(l.plan.outputs) : nullptr;
    l.grad_shift = l.plan.batch_norm ? arena.allocate(l.plan.outputs) : nullptr;
  }
}

template <class T>
void Network<T>::place_second_order(Arena<T>& arena, const Network& done, int64_t rows) {
  const int64_t first = padded(rows), stride = 2 * first;
  grad_input = place(arena, inputs(), stride);
  dropped_input_ = place(arena, inputs(), stride);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer<T>& l = layers_[i];
    const Layer<T>& from = done.layers_[i];
    l.dropped = place(arena, l.plan.outputs, stride);
    l.grad_affine = place(arena, l.rows(), stride);
    if (!arena.base) continue;  // the arena only counts
    l.affine = from.affine - first * l.rows();
    l.normalized = from.normalized - first * l.rows();
    l.output = from.output - first * l.plan.outputs;
  }
}

template <class T>
void Network<T>::zero(ColumnRange columns) const {
  const int64_t block = columns.first / kBlockRows<T>, lane = columns.first % kBlockRows<T>;
  for (const Placed& placed : placed_)
    for (int64_t f = 0; f < placed.features; ++f)
      std::fill_n(placed.buffer + (block * placed.features + f) * kBlockRows<T> + lane, columns.last - columns.first,
                  T(0));
}

template <class T>
void Network<T>::take_passes(const Network& done, int64_t rows, ColumnRange range, bool with_outputs) {
  const auto copy = [&](const T* from, T* to, int64_t features) {
    each_block<T>(range, [&](int64_t p, int lane, int lanes) {
      const int64_t at = p * features * kBlockRows<T> + lane;
      for (int64_t f = 0; f < features; ++f)
        std::copy_n(from + at + f * kBlockRows<T>, lanes, to + padded(rows) * features + at + f * kBlockRows<T>);
    });
  };
  if (with_outputs) copy(done.dropped_input_, dropped_input_, inputs());
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (with_outputs && i + 1 < layers_.size())
      copy(done.layers_[i].dropped, layers_[i].dropped, layers_[i].plan.outputs);
    copy(done.layers_[i].grad_affine, layers_[i].grad_affine, layers_[i].rows());
  }
}

template <class T>
void Network<T>::forward(const Team& team, ColumnRange range, const SubBatches& sub_batches) {
  if (plan_.input_dropout > 0)
    for (const SubBatch& s : sub_batches)
      drop(input, dropped_input_, inputs(), range, s, plan_.input_dropout, s.dropout_seeds[0], 0);
  const T* in = dropped_input_;
  for (Layer<T>& l : layers_) {
    const bool norm = l.plan.batch_norm, drops_before = l.plan.drops_before_activation();
    const Mapped<T> activate{l.activate, l.affine, l.output, l.plan.outputs, T(l.plan.negative_slope)};
    start(l, in, range, sub_batches, norm || drops_before ? Mapped<T>{} : activate);
    if (drops_before) {
      drop_layer(l, l.affine, l.affine, range, sub_batches);
      activate.all(range);
    }
    if (norm) {
      team.barrier();
      normalize(l, team, sub_batches);
      team.barrier();
    }
    if (l.plan.pieces > 1) maxout(l.affine, l.output, l.plan.outputs, l.plan.pieces, range);
    if (l.plan.drops_after_activation()) drop_layer(l, l.output, l.dropped, range, sub_batches);
    if (l.plan.concatenates) {
      copy_features(l.output, l.plan.outputs, 0, l.dropped, l.plan.width(), 0, l.plan.outputs, range);
      copy_features(in, l.plan.buffered(), 0, l.dropped, l.plan.width(), l.plan.outputs, l.plan.dense(), range);
    }
    in = l.dropped;
  }
  if (!plan_.heads.empty())
    for (const SubBatch& s : sub_batches) apply_heads(plan_, layers_.back().normalized, output(), range, s);
}

template <class T>
void Network<T>::start(const Layer<T>& l, const T* in, ColumnRange range, const SubBatches& sub_batches,
                       const Mapped<T>& activate) const {
  if (!l.plan.transposed) return multiply_by_weight(l, l.bias(), in, l.affine, range, activate);
  const SubBatch* s = sub_batches.begin();
  while (s + 1 < sub_batches.end() && range.first >= s[1].first) ++s;
  if (s->given != Given::product)
    entries.start(l.blocked_weight(), l.bias(), {s->first, s->rows, s->entries}, range, l.affine);
  if (s->given == Given::input)
    multiply_by_weight(l, nullptr, in, l.affine, range, activate, true);
  else
    activate.all(range);
}

template <class T>
void Network<T>::backward_heads(ColumnRange range) {
  if (!plan_.heads.empty()) heads_backward(plan_, output(), grad_output(), range);
}

template <class T>
void Network<T>::backward(const Team& team, ColumnRange range, const SubBatches& sub_batches, size_t lowest,
                          bool to_input) {
  bool derivative_applied = false;  // whether the product that computed grad_output has multiplied by the derivative
  // The last inputs of a layer that are inputs of the lowest one: their gradient may not be needed.
  const auto of_lowest = [&](size_t i) {
    while (i > lowest && layers_[i - 1].plan.concatenates) --i;
    return i == lowest ? layers_[lowest].plan.dense() : 0;
  };
  for (size_t i = layers_.size(); i-- > lowest;) {
    Layer<T>& l = layers_[i];
    if (l.plan.concatenates)
      copy_features(l.grad_dropped, l.plan.width(), 0, l.grad_output, l.plan.outputs, 0, l.plan.outputs, range);
    if (l.plan.drops_after_activation()) drop_layer(l, l.grad_output, l.grad_output, range, sub_batches);
    if (!derivative_applied) activation_backward(l).all(range);
    if (l.plan.drops_before_activation()) drop_layer(l, l.grad_output, l.grad_output, range, sub_batches);
    if (l.plan.pieces > 1)
      maxout_backward(l.affine, l.output, l.grad_output, l.grad_affine, l.plan.outputs, l.plan.pieces, range);
    if (l.plan.batch_norm) {
      team.barrier();
      normalize_backward(l, team, sub_batches);
      team.barrier();
    }
    if (i == lowest && !to_input) return;
    Layer<T>* below = i > 0 ? &layers_[i - 1] : nullptr;
    // False if another step comes between the product and the derivative.
    derivative_applied =
        below && !below->plan.drops_after_activation() && !below->plan.concatenates && !l.plan.concatenates;
    const Mapped<T> after = derivative_applied ? activation_backward(*below) : Mapped<T>{};
    T* grad = below ? below->grad_dropped : grad_input;
    const int64_t needed = l.plan.dense() - (to_input ? 0 : of_lowest(i));
    multiply_by_transposed(l, needed, l.grad_affine, grad, range, after);
    if (l.plan.concatenates)
      copy_features<true>(l.grad_dropped, l.plan.width(), l.plan.outputs, grad, l.plan.buffered(), 0, needed, range);
  }
  if (lowest == 0 && plan_.input_dropout > 0)
    for (const SubBatch& s : sub_batches)
      drop(grad_input, grad_input, inputs(), range, s, plan_.input_dropout, s.dropout_seeds[0], 0);
}

template <class T>
void Network<T>::multiply_by_weight(const Layer<T>& l, const T* bias, const T* in, T* out, ColumnRange range,
                                    const Mapped<T>& after, bool add) const {
  if (l.plan.transposed) {
    const Extent extent{l.plan.dense(), l.plan.buffered(), l.rows(), l.rows(), add};
    return multiply_transposed_weight(l.blocked_weight(), extent, in, out, range, after);
  }
  if (!plan_.blocked_weights)
    return multiply<T>(l.rows(), l.plan.inputs, {l.weight(), l.plan.inputs, 1}, bias, in, out, range, after);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) switch (plan_.products) {
      case Products::fp32: break;
      case Products::dot_bf16:
        return multiply_weight_bf16({l.rows(), l.plan.inputs}, static_cast<const Pair*>(l.parameters.rounded), bias, in,
                                    out, range, after);
      default:
        return amx_of(plan_).multiply(l.rows(), l.plan.inputs, static_cast<const Bf16*>(l.parameters.rounded), bias, in,
                                      out, range, after);
    }
#endif
  multiply_weight(l.blocked_weight(), {l.plan.inputs, l.plan.inputs, l.rows(), l.rows()}, bias, in, out, range, after);
}

template <class T>
void Network<T>::multiply_by_transposed(const Layer<T>& l, int64_t inputs, const T* in, T* out, ColumnRange range,
                                        const Mapped<T>& after) const {
  if (l.plan.transposed)
    return multiply_weight(l.blocked_weight(), {l.rows(), l.rows(), inputs, l.plan.buffered()},
                           static_cast<const T*>(nullptr), in, out, range, after);
  if (!plan_.blocked_weights)
    return multiply<T>(l.plan.inputs, l.rows(), {l.weight(), 1, l.plan.inputs}, nullptr, in, out, range, after);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) switch (plan_.products) {
      case Products::fp32: break;
      case Products::dot_bf16:
        return multiply_transposed_weight_bf16({l.rows(), l.plan.inputs},
                                               static_cast<const Pair*>(l.parameters.rounded_transposed), in, out,
                                               range, after);
      default:
        return amx_of(plan_).multiply(l.plan.inputs, l.rows(),
                                      static_cast<const Bf16*>(l.parameters.rounded_transposed), nullptr, in, out,
                                      range, after);
    }
#endif
  multiply_transposed_weight(l.blocked_weight(), {l.rows(), l.rows(), inputs, l.plan.inputs}, in, out, range, after);
}

template <class T>
std::vector<GradientPart> Network<T>::gradient_parts() const {
  std::vector<GradientPart> parts;
  for (size_t i = layers_.size(); i-- > 0;) {
    const BlockedWeight<T> weight = layers_[i].blocked_weight();
    int64_t column = 0;
    do {  // a layer without inputs has a part too: its vectors
      const int columns = int(weight.width(column));
      const double vectors = columns > Simd<T>::width ? 2 : 1;
      parts.push_back({int(i), column, columns, (double(weight.outputs) + 16) * vectors});
    } while ((column += kBlockRows<T>) < weight.inputs);
  }
  return parts;
}

template <class T>
const T* Network<T>::bias_gradient(const Layer<T>& l, const Columns& columns) const {
  constexpr int64_t some = Simd<T>::width;
  T *sums = scratch<T, Scratch::packed>(l.rows() + some), *more = sums + l.rows();
  for (const ColumnRange& range : columns.of_bias) {
    const bool adds = &range != &columns.of_bias[0];
    if (adds && range.first == range.last) continue;
    int64_t f = 0;
    for (; f + some <= l.rows(); f += some) {
      sum_columns_of_some<T>(range.first, range.last, l.rows(), f, l.grad_affine, adds ? more : sums + f);
      for (int64_t i = 0; adds && i < some; ++i) sums[f + i] += more[i];
    }
    for (; f < l.rows(); ++f)
      sums[f] = (adds ? sums[f] : T(0)) + sum_columns(range.first, range.last, l.rows(), f, l.grad_affine);
  }
  return sums;
}

template <class T>
Mapped<T> Network<T>::activation_backward(const Layer<T>& l) const {
  return {l.activate_backward, l.saved(), l.grad_output, l.plan.outputs, T(l.plan.negative_slope)};
}

template <class T>
void Network<T>::normalize(Layer<T>& l, const Team& team, const SubBatches& sub_batches) {
  constexpr int64_t most = SomeFeatures<T>::most;
  const int64_t n = l.plan.outputs, end = n * (team.rank + 1) / team.size;
  const T* scale = static_cast<const T*>(l.parameters.norm_scale.value);
  const T* shift = static_cast<const T*>(l.parameters.norm_shift.value);
  for (int64_t s = 0; s < sub_batches.size(); ++s) {
    const int64_t first = sub_batches[size_t(s)].first, rows = sub_batches[size_t(s)].rows;
    SomeFeatures<T> x(n, first, first + rows), result = x;
    for (int64_t f = n * team.rank / team.size; f < end; f += most) {
      const int64_t count = std::min(most, end - f);
      alignas(64) T mean[most] = {}, variance[most] = {}, a[most] = {}, b[most] = {};
      x.read(l.affine, f, count);
      if (l.plan.running_norm) {
        std::copy_n(static_cast<const T*>(l.parameters.running_mean) + f, count, mean);
        std::copy_n(static_cast<const T*>(l.parameters.running_variance) + f, count, variance);
      } else {
        x.sums(mean, [&](size_t at) { return x[at]; });
        for (T& m : mean) m /= T(rows);
      }
      x.center(mean);
      if (!l.plan.running_norm) {
        x.sums(variance, [&](size_t at) { return x[at] * x[at]; });
        for (T& v : variance) v /= T(rows);
      }
      for (int64_t i = 0; i < count; ++i) {
        const T inverse = T(1) / std::sqrt(variance[i] + T(l.plan.norm_epsilon));
        l.mean[s * n + f + i] = mean[i];
        l.inverse_deviation[s * n + f + i] = inverse;
        a[i] = inverse * (scale ? scale[f + i] : T(1)), b[i] = shift ? shift[f + i] : T(0);
        if (!l.plan.running_norm) update_statistics(l, f + i, mean[i], variance[i], rows);
      }
      result.set([&](int64_t i, size_t at) { return x[at] * a[i] + b[i]; });
      if (l.normalized != l.output) result.write(l.normalized, f, count);
      if (l.activate) result.activate(l.activate, T(l.plan.negative_slope));
      if (l.activate || l.normalized == l.output) result.write(l.output, f, count);
    }
  }
  if (team.rank == 0 && l.parameters.batches) *l.parameters.batches += sub_batches.size();
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
void Network<T>::normalize_backward(Layer<T>& l, const Team& team, const SubBatches& sub_batches) {
  constexpr int64_t most = SomeFeatures<T>::most;
  const int64_t n = l.plan.outputs, begin = n * team.rank / team.size, end = n * (team.rank + 1) / team.size;
  const T* scale = static_cast<const T*>(l.parameters.norm_scale.value);
  std::fill(l.grad_scale + begin, l.grad_scale + end, T(0));
  std::fill(l.grad_shift + begin, l.grad_shift + end, T(0));
  for (int64_t s = 0; s < sub_batches.size(); ++s) {
    const int64_t first = sub_batches[size_t(s)].first, rows = sub_batches[size_t(s)].rows;
    SomeFeatures<T> x(n, first, first + rows), grad = x, result = x;
    for (int64_t f = begin; f < end; f += most) {
      const int64_t count = std::min(most, end - f);
      alignas(64) T mean[most] = {}, inverse[most] = {}, factor[most] = {}, sum[most], product[most];
      std::copy_n(l.mean + s * n + f, count, mean);
      std::copy_n(l.inverse_deviation + s * n + f, count, inverse);
      for (int64_t i = 0; i < count; ++i) factor[i] = inverse[i] * (scale ? scale[f + i] : T(1));
      x.read(l.affine, f, count), grad.read(l.grad_output, f, count);
      x.center(mean);
      x.set([&](int64_t i, size_t at) { return x[at] * inverse[i]; });
      grad.sums(sum, [&](size_t at) { return grad[at]; });
      x.sums(product, [&](size_t at) { return grad[at] * x[at]; });
      for (int64_t i = 0; i < count; ++i) l.grad_scale[f + i] += product[i], l.grad_shift[f + i] += sum[i];
      for (int64_t i = 0; i < most; ++i) sum[i] /= T(rows), product[i] /= T(rows);
      if (l.plan.running_norm)  // statistics do not depend on the batch
        result.set([&](int64_t i, size_t at) { return factor[i] * grad[at]; });
      else
        result.set([&](int64_t i, size_t at) { return factor[i] * (grad[at] - sum[i] - x[at] * product[i]); });
      result.write(l.grad_output, f, count);
    }
  }
}

template class Network<float>;
template class Network<double>;
template void drop(const float*, float*, int64_t, ColumnRange, const SubBatch&, double, uint64_t, uint32_t);
template void drop(const double*, double*, int64_t, ColumnRange, const SubBatch&, double, uint64_t, uint32_t);

}  // namespace fastgan::inline FASTGAN_ISA
