// One network on one batch: where its activations and gradients lie, and the passes over a thread's share of the batch.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "../plan.h"
#include "gemm_bf16.h"
#include "panels.h"
#include "parallel.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

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

// out = in * mask for the columns of a section that a share holds; four neighbouring features share a random block.
template <class T>
void drop(const T* in, T* out, int64_t features, Share share, const Section& section, double p, uint64_t key,
          uint32_t substream);

inline bool slope_needs_input(int activation) {
  bool needs = false;
  with_activation(activation, [&](auto f) { needs = !decltype(f)::from_output; });
  return needs;
}

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

  Network(const NetworkPlan& plan, const std::vector<LayerParameters>& parameters);

  // Where activations lie, for a batch of up to `rows`; what a forward pass writes and a backward pass reads.
  void place_forward(Arena<T>& arena, int64_t rows, int64_t sections = 1);
  void place_backward(Arena<T>& arena, int64_t rows);

  // Buffers for a second-order pass (penalty.h) of a network whose two passes over `rows` are done: columns 0 .. rows,
  // padded, are for tangents, and those behind them see what the passes left, which the pass may overwrite.
  void place_second_order(Arena<T>& arena, const Network& done, int64_t rows);
  // Copies there what the gradients' products read: for the rows of a share.
  void take_passes(const Network& done, int64_t rows, Share share, bool with_outputs);

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
  const std::vector<Layer<T>>& layers() const { return layers_; }

  // Each thread calls this with its share of the batch; with batch normalisation in the network, all must.
  void forward(const Team& team, Share share, const Sections& sections);

  // From grad_output() down to layer `lowest`, or to the input; parameters are left alone.
  void backward(const Team& team, Share share, const Sections& sections, size_t lowest, bool to_input);

  // multiply(), at the plan's precision.
  void product(int64_t n, int64_t depth, const Matrix<T>& a, const T* bias, const T* b, T* c, Share share,
               const Mapped<T>& after) const;

  // How the parameters' gradients are shared out: parts in a fixed order.
  std::vector<GradientPart> gradient_parts() const;

  // The gradients of some parts: tiles of weights' to sink.weight, whole vectors to sink.vector.
  template <class Sink>
  void parameter_gradients(PartRange parts, const Columns& columns, Sink&& sink) {
    for (const GradientPart *part = parts.first, *next; part < parts.last; part = next) {
      for (next = part; next < parts.last && next->layer == part->layer;) ++next;
      if (part->columns > 0 && sink.wants_weight(part->layer)) weight_gradients({part, next}, columns.last, sink);
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
      if (plan_.precision == Precision::bf16) {
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
    if (sink.wants_bias(layer)) sink.vector(layer, l.parameters.bias, bias_gradient(l, columns), l.rows());
    if (l.plan.batch_norm) {
      sink.vector(layer, l.parameters.norm_scale, l.grad_scale, l.plan.outputs);
      sink.vector(layer, l.parameters.norm_shift, l.grad_shift, l.plan.outputs);
    }
  }

  const T* bias_gradient(const Layer<T>& l, const Columns& columns) const;
  Mapped<T> slope_of(const Layer<T>& l) const;

  // Batch normalisation and activation. A thread takes some features of the whole batch: their statistics are its own.
  void normalize(Layer<T>& l, const Team& team, const Sections& sections);
  void normalize_backward(Layer<T>& l, const Team& team, const Sections& sections);
  void update_statistics(Layer<T>& l, int64_t f, T mean, T variance, int64_t rows);

  NetworkPlan plan_;
  std::vector<Layer<T>> layers_;
  T* dropped_input_ = nullptr;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
