// One network on one batch: where its activations and gradients lie, and the passes over a thread's share of the batch.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "../philox.h"
#include "../plan.h"
#include "gemm_bf16.h"
#include "parallel.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

constexpr uint32_t kDropout = 5;  // Purpose.DROPOUT of fastgan/random.py

// Hands out memory of one block, or counts how much there will be to hand out.
template <class T>
struct Arena {
  T* base = nullptr;
  int64_t used = 0;
  T* take(int64_t count) {
    T* at = base ? base + used : nullptr;
    used += padded(count);
    return at;
  }
};

// What one call of the module sees of a batch: masks and statistics are its own.
struct Section {
  int64_t first, rows;
  const uint64_t* keys;  // of its dropout masks
};

// The sections of a batch, side by side.
struct Sections {
  Section all[2];
  int count = 0;
  Sections(std::initializer_list<Section> list) {
    for (const Section& section : list) all[count++] = section;
  }
  const Section* begin() const { return all; }
  const Section* end() const { return all + count; }
  const Section& operator[](size_t i) const { return all[i]; }
  int64_t size() const { return count; }
};

// ---------------------------------------------------------------- maps over tiles of panels

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

inline bool slope_needs_input(int activation) {
  bool needs = false;
  with_activation(activation, [&](auto f) { needs = !decltype(f)::from_output; });
  return needs;
}

// Applies a map to the same place of two buffers of panels with `features` features; does nothing without a map.
template <class T>
struct Mapped {
  TileMap<T> map;
  const T* in;
  T* out;
  int64_t features;
  T slope;

  void operator()(int64_t p, int64_t row, int lane, int rows, int columns) const {
    const int64_t at = (p * features + row) * kPanel<T> + lane;
    if (map) map(in + at, out + at, kPanel<T>, rows, columns, slope);
  }
  void all(Share share) const {
    each_panel<T>(share, [&](int64_t p, int lane, int lanes) { (*this)(p, 0, lane, int(features), lanes); });
  }
};

// ---------------------------------------------------------------- moving batches in and out of panels

// Rows first .. last of a (rows, features) matrix into the columns of panels from `column` on.
template <class T>
void to_panels(const T* rows, int64_t features, T* panels, int64_t column, int64_t first, int64_t last) {
  for (int64_t row = first; row < last;) {
    const int64_t at = column + row, p = at / kPanel<T>, lane = at % kPanel<T>;
    const int64_t count = std::min(last - row, kPanel<T> - lane);
    transpose(rows + row * features, features, count, features, panels + p * features * kPanel<T> + lane, kPanel<T>);
    row += count;
  }
}

template <class T>
void from_panels(const T* panels, int64_t features, T* rows, int64_t column, int64_t first, int64_t last) {
  for (int64_t row = first; row < last;) {
    const int64_t at = column + row, p = at / kPanel<T>, lane = at % kPanel<T>;
    const int64_t count = std::min(last - row, kPanel<T> - lane);
    transpose(panels + p * features * kPanel<T> + lane, kPanel<T>, features, count, rows + row * features, features);
    row += count;
  }
}

// A sum in the order of a tree, whose branches are vectors as long as they can be.
template <int count, class T>
T sum_lanes(T* x) {
  if constexpr (count > 1) {
    for (int j = 0; j < count / 2; ++j) x[j] += x[j + count / 2];
    return sum_lanes<count / 2>(x);
  }
  return x[0];
}

// The sum of a feature over columns first .. last, in one fixed order.
template <class T, class Value>
T sum_columns(int64_t first, int64_t last, int64_t features, int64_t feature, Value&& value) {
  constexpr int lanes = kPanel<T>;
  alignas(64) T sum[lanes] = {};
  const auto add = [&](int64_t column, int64_t count) {  // inside a panel
    const int64_t at = (column / lanes * features + feature) * lanes + column % lanes;
    for (int64_t j = 0; j < count; ++j) sum[j] += value(at + j);
  };
  for (; first < last && first % lanes; first = std::min(last, (first / lanes + 1) * lanes))
    add(first, std::min(last, (first / lanes + 1) * lanes) - first);
  for (; first + lanes <= last; first += lanes) add(first, lanes);  // a constant: whole vectors
  if (first < last) add(first, last - first);
  return sum_lanes<lanes>(sum);
}

// ---------------------------------------------------------------- dropout, maxout

// out = in * mask for the columns of a section that a share holds; four neighbouring features share a random block.
template <class T>
void drop(const T* in, T* out, int64_t features, Share share, const Section& section, double p, uint64_t key,
          uint32_t substream) {
  const Stream stream{key, kDropout, substream, 0};
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
struct Layer {
  LayerPlan plan;
  LayerParameters parameters;
  T *affine, *normalized, *output, *dropped;            // forward; equal where a step is left out
  T *grad_output, *grad_affine;                         // backward, likewise
  T *mean, *inverse_deviation;                          // of batch normalisation, section by section
  T *grad_scale, *grad_shift;
  TileMap<T> activate, by_slope;

  int64_t rows() const { return plan.outputs * plan.pieces; }  // of the weight
  const T* weight() const { return static_cast<const T*>(parameters.weight.value); }
  const T* bias() const { return static_cast<const T*>(parameters.bias.value); }
  const T* saved() const { return slope_needs_input(plan.activation) ? normalized : output; }
};

// Which piece maxout took: the first that equals the maximum, or is NaN with it. piece, out: where the unit's first piece and
// its maximum lie.
template <class T>
int taken_piece(const Layer<T>& l, int64_t piece, int64_t out) {
  int taken = 0;
  for (const T* x = l.affine + piece; taken + 1 < l.plan.pieces && *x != l.output[out] && *x == *x; x += kPanel<T>) ++taken;
  return taken;
}

// A part of a layer's weight gradient: some of the inputs, for all outputs. The first part has the vectors with it.
struct GradientPart {
  int layer;
  int64_t column;
  int columns;
  double cost;
};

// Which columns of a batch count in gradients: all up to `last` in those of weights, two ranges in those of biases.
struct Columns {
  int64_t last;
  Share of_bias[2];
  explicit Columns(int64_t rows) : last(rows), of_bias{{0, rows}, {rows, rows}} {}
  Columns(int64_t all, Share first, Share second) : last(all), of_bias{first, second} {}
};

// A thread's parts: neighbours, so that what it updates stays in its cache, of about equal cost.
struct PartRange {
  const GradientPart *first, *last;
  const GradientPart* begin() const { return first; }
  const GradientPart* end() const { return last; }
};

inline PartRange part_of(const std::vector<GradientPart>& parts, const Team& team) {
  double total = 0, before = 0;
  for (const GradientPart& part : parts) total += part.cost;
  const GradientPart *first = parts.data() + parts.size(), *last = first;
  for (const GradientPart& part : parts) {
    const int owner = std::min(int((before + part.cost / 2) / total * team.size), team.size - 1);
    if (owner == team.rank && &part < first) first = &part;
    if (owner > team.rank && &part < last) last = &part;
    before += part.cost;
  }
  return {std::min(first, last), last};
}

template <class T>
class Network {
 public:
  T *input = nullptr, *grad_input = nullptr;

  Network(const NetworkPlan& plan, const std::vector<LayerParameters>& parameters) : plan_(plan) {
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

  // Where activations lie, for a batch of up to `rows`; what a forward pass writes and a backward pass reads.
  void place_forward(Arena<T>& arena, int64_t rows, int64_t sections = 1) {
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

  void place_backward(Arena<T>& arena, int64_t rows) {
    const int64_t stride = padded(rows);
    grad_input = arena.take(inputs() * stride);
    for (Layer<T>& l : layers_) {
      l.grad_output = arena.take(l.plan.outputs * stride);
      l.grad_affine = l.plan.pieces > 1 ? arena.take(l.rows() * stride) : l.grad_output;
      l.grad_scale = l.plan.batch_norm ? arena.take(l.plan.outputs) : nullptr;
      l.grad_shift = l.plan.batch_norm ? arena.take(l.plan.outputs) : nullptr;
    }
  }

  // Takes its input from, and gives its input's gradient to, another network's buffers.
  void read(T* from, T* grad) {
    if (dropped_input_ == input) dropped_input_ = from;
    input = from;
    grad_input = grad;
  }

  int64_t inputs() const { return plan_.layers.front().inputs; }
  int64_t outputs() const { return plan_.layers.back().outputs; }
  T* dropped_input() const { return dropped_input_; }
  double input_dropout() const { return plan_.input_dropout; }
  T* output() const { return layers_.back().dropped; }
  T* grad_output() const { return layers_.back().grad_output; }
  std::vector<Layer<T>>& layers() { return layers_; }

  // Each thread calls this with its share of the batch; with batch normalisation in the network, all must.
  void forward(const Team& team, Share share, const Sections& sections) {
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

  // From grad_output() down to layer `lowest`, or to the input; parameters are left alone.
  void backward(const Team& team, Share share, const Sections& sections, size_t lowest, bool to_input) {
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

  // multiply(), at the plan's precision.
  void product(int64_t n, int64_t depth, const Matrix<T>& a, const T* bias, const T* b, T* c, Share share,
               const Mapped<T>& after) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      if (plan_.bf16) return multiply_bf16(n, depth, a, bias, b, c, share, after);
#endif
    multiply<T>(n, depth, a, bias, b, c, share, after);
  }

  // How the parameters' gradients are shared out: parts in a fixed order.
  std::vector<GradientPart> gradient_parts() const {
    std::vector<GradientPart> parts;
    for (size_t i = layers_.size(); i-- > 0;) {
      const LayerPlan& plan = layers_[i].plan;
      for (int64_t column = 0; column < plan.inputs; column += kPanel<T>) {
        const int columns = int(std::min<int64_t>(kPanel<T>, plan.inputs - column));
        const double vectors = columns > Simd<T>::width ? 2 : 1;
        parts.push_back({int(i), column, columns, (double(plan.outputs * plan.pieces) + 16) * vectors});
      }
    }
    return parts;
  }

  // The gradients of some parts: tiles of weights' to sink.weight, whole vectors to sink.vector.
  template <class Sink>
  void parameter_gradients(PartRange parts, const Columns& columns, Sink&& sink) {
    for (const GradientPart *part = parts.first, *next; part < parts.last; part = next) {
      for (next = part; next < parts.last && next->layer == part->layer;) ++next;
      if (sink.wants_weight(part->layer)) weight_gradients({part, next}, columns.last, sink);
      if (part->column == 0) vector_gradients(part->layer, columns, sink);
    }
  }

 private:
  // Of neighbouring parts of one layer.
  template <class Sink>
  void weight_gradients(PartRange parts, int64_t rows, Sink&& sink) {
    Layer<T>& l = layers_[size_t(parts.first->layer)];
    const T* x = parts.first->layer ? layers_[size_t(parts.first->layer) - 1].dropped : dropped_input_;
    const auto each = [&](auto&& multiply_part) {
      for (const GradientPart& part : parts)
        multiply_part(
            part, [&](int64_t row, int height) { return sink.needs(part, row, height); },
            [&](int64_t row, int height, const T* tile) { sink.weight(part, row, height, tile); });
    };
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      if (plan_.bf16) {
        const Pair* e = pair_gradient(l.rows(), rows, l.grad_affine);
        return each([&](const GradientPart& part, auto&& needs, auto&& take) {
          multiply_gradient_bf16(l.rows(), l.plan.inputs, rows, e, x, part.column, part.columns, needs, take);
        });
      }
#endif
    each([&](const GradientPart& part, auto&& needs, auto&& take) {
      multiply_gradient<T>(l.rows(), l.plan.inputs, rows, l.grad_affine, x, part.column, part.columns, needs, take);
    });
  }

  template <class Sink>
  void vector_gradients(int layer, const Columns& columns, Sink&& sink) {
    Layer<T>& l = layers_[size_t(layer)];
    if (sink.wants_bias(layer)) {
      T* sums = scratch<T, Scratch::packed>(l.rows());
      for (int64_t f = 0; f < l.rows(); ++f)
        for (const Share& some : columns.of_bias)
          sums[f] = (some.first ? sums[f] : T(0)) +
                    sum_columns<T>(some.first, some.last, l.rows(), f, [&](int64_t at) { return l.grad_affine[at]; });
      sink.vector(layer, l.parameters.bias, sums, l.rows());
    }
    if (l.plan.batch_norm) {
      sink.vector(layer, l.parameters.norm_scale, l.grad_scale, l.plan.outputs);
      sink.vector(layer, l.parameters.norm_shift, l.grad_shift, l.plan.outputs);
    }
  }

  Mapped<T> slope_of(const Layer<T>& l) const {
    return {l.by_slope, l.saved(), l.grad_output, l.plan.outputs, T(l.plan.negative_slope)};
  }

  // Batch normalisation and activation. A thread takes some features of the whole batch: their statistics are its own.
  void normalize(Layer<T>& l, const Team& team, const Sections& sections) {
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

  void update_statistics(Layer<T>& l, int64_t f, T mean, T variance, int64_t rows) {
    if (!l.parameters.running_mean) return;
    T& running_mean = static_cast<T*>(l.parameters.running_mean)[f];
    T& running_variance = static_cast<T*>(l.parameters.running_variance)[f];
    const T m = T(l.plan.norm_momentum), unbiased = variance * T(rows) / T(rows - 1);
    running_mean = (T(1) - m) * running_mean + m * mean;
    running_variance = (T(1) - m) * running_variance + m * unbiased;
  }

  void normalize_backward(Layer<T>& l, const Team& team, const Sections& sections) {
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

  NetworkPlan plan_;
  std::vector<Layer<T>> layers_;
  T* dropped_input_ = nullptr;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
