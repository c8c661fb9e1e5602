// One network on one batch: buffers of activations and gradients, and the passes over a thread's part of the batch.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "../plan.h"
#include "amx.h"
#include "gemm_bf16.h"
#include "blocked.h"
#include "entries.h"
#include "parallel.h"

namespace fastgan::inline FASTGAN_ISA {

// Arena allocator in one block of memory; only counts if `base` is null.
template <class T>
struct Arena {
  T* base = nullptr;
  int64_t used = 0;
  T* allocate(int64_t count) {
    T* at = base ? base + used : nullptr;
    used += padded(count);
    return at;
  }
};

// Where a first layer with a transposed weight finds a row: in the input buffer, except for its last inputs, which are
// listed; only in the list; or its product with the weight is already computed.
enum class Given { input, listed, product };

// The rows of one call of the module; each sub-batch has its own dropout masks and batch statistics.
struct SubBatch {
  int64_t first, rows;
  const uint64_t* dropout_seeds;
  Given given = Given::input;
  int64_t entries = 0;  // listed ones of each row

  // Its columns in a range.
  ColumnRange columns(ColumnRange range) const {
    return {std::max(range.first, first), std::min(range.last, first + rows)};
  }
};

// The sub-batches of a batch (real half and fake half), one after another.
struct SubBatches {
  SubBatch all[2];
  int count = 0;
  SubBatches(std::initializer_list<SubBatch> list) {
    for (const SubBatch& sub_batch : list) all[count++] = sub_batch;
  }
  const SubBatch* begin() const { return all; }
  const SubBatch* end() const { return all + count; }
  const SubBatch& operator[](size_t i) const { return all[i]; }
  int64_t size() const { return count; }
};

// out = in * mask, for the columns of a sub-batch in a column range. Four neighbouring features share a random block.
template <class T>
void drop(const T* in, T* out, int64_t features, ColumnRange range, const SubBatch& sub_batch, double p,
          uint64_t dropout_seed, uint32_t substream);

inline bool backward_needs_input(int activation) {
  bool needs = false;
  with_activation(activation, [&](auto f) { needs = !decltype(f)::from_output; });
  return needs;
}

template <class T>
struct Layer {
  LayerPlan plan;
  LayerParameters parameters;
  // Forward: the results of the steps; a step that the layer lacks has the buffer of the one before. `dropped` is the
  // layer's result, and ends with its input if the layer concatenates.
  T *affine, *normalized, *output, *dropped;
  T *grad_dropped, *grad_output, *grad_affine;  // backward: the gradients of these
  T *mean, *inverse_deviation;                  // of batch normalisation, sub-batch by sub-batch
  T *grad_scale, *grad_shift;
  TileMap<T> activate, activate_backward;

  int64_t rows() const { return plan.outputs * plan.pieces; }  // of the weight
  const T* weight() const { return static_cast<const T*>(parameters.weight.value); }
  BlockedWeight<T> blocked_weight() const {
    return BlockedWeight<T>::of(weight(), rows(), plan.inputs, plan.transposed);
  }
  const T* bias() const { return static_cast<const T*>(parameters.bias.value); }
  const T* saved() const { return backward_needs_input(plan.activation) ? normalized : output; }
};

// The piece that maxout took: the first that equals the maximum, or is NaN. piece, out: offsets of the unit's first
// piece and of its maximum.
template <class T>
int taken_piece(const Layer<T>& l, int64_t piece, int64_t out) {
  int taken = 0;
  for (const T* x = l.affine + piece; taken + 1 < l.plan.pieces && *x != l.output[out] && *x == *x; x += kBlockRows<T>)
    ++taken;
  return taken;
}

// A part of a layer's weight gradient: some inputs and all outputs; some outputs and all inputs of a transposed weight.
// The first part includes the bias and normalisation vectors.
struct GradientPart {
  int layer;
  int64_t column;
  int columns;
  double cost;
};

// The columns of a batch over which gradients sum: all up to `last` for weights, two ranges for biases. The product of
// a transposed weight begins at `first_given`; the columns before it are listed.
struct Columns {
  int64_t last, first_given = 0;
  ColumnRange of_bias[2];
  explicit Columns(int64_t rows) : last(rows), of_bias{{0, rows}, {rows, rows}} {}
  Columns(int64_t all, ColumnRange first, ColumnRange second) : last(all), of_bias{first, second} {}
};

// A thread's parts: adjacent ones, so that the weights stay in its cache; about the same cost for each thread.
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
  Entries<T> entries;  // the listed inputs

  Network(const NetworkPlan& plan, const std::vector<LayerParameters>& parameters);

  // Allocates the activations of up to `rows` rows: the forward pass writes them, the backward pass reads them.
  void place_forward(Arena<T>& arena, int64_t rows, int64_t sub_batches = 1);
  void place_backward(Arena<T>& arena, int64_t rows);

  // Buffers for a second-order pass (penalty.h) after both passes of `done` over `rows`. Columns 0 .. rows, padded, are
  // for tangents. The columns after them alias the results of the two passes, which may be overwritten.
  void place_second_order(Arena<T>& arena, const Network& done, int64_t rows);
  // Zeros some columns of one block, in all buffers placed since keep_buffers().
  void zero(ColumnRange columns) const;
  void keep_buffers() { placed_.clear(); }
  // Copies there what the products of the gradients read, for the rows of a column range.
  void take_passes(const Network& done, int64_t rows, ColumnRange range, bool with_outputs);

  // Makes the network read its input from, and write its gradient to, buffers of another network.
  void read(T* from, T* grad) {
    if (dropped_input_ == input) dropped_input_ = from;
    input = from;
    grad_input = grad;
  }

  int64_t inputs() const { return plan_.layers.front().buffered(); }
  int64_t outputs() const { return plan_.layers.back().width(); }
  T* dropped_input() const { return dropped_input_; }
  double input_dropout() const { return plan_.input_dropout; }
  T* output() const { return layers_.back().dropped; }
  // Whether rows, or their last inputs, may be listed.
  bool lists() const { return plan_.layers.front().transposed; }
  const T* heads_input() const { return layers_.back().normalized; }
  T* grad_output() const { return layers_.back().grad_dropped; }
  std::vector<Layer<T>>& layers() { return layers_; }
  const std::vector<Layer<T>>& layers() const { return layers_; }

  // Each thread calls this with its part of the batch. If there is batch normalisation, all threads must call it.
  void forward(const Team& team, ColumnRange range, const SubBatches& sub_batches);

  // The gradient of the heads' inputs from that of their outputs, in place; does nothing without heads.
  void backward_heads(ColumnRange range);

  // From grad_output() (with heads: the gradient of their inputs) down to layer `lowest`, or to the input. Computes no
  // gradients of parameters.
  void backward(const Team& team, ColumnRange range, const SubBatches& sub_batches, size_t lowest, bool to_input);

  // out = W in + bias, and out = W^T in, at the plan's precision. A transposed weight is multiplied only by the inputs
  // that are not listed. `add`: out += W in.
  void multiply_by_weight(const Layer<T>& l, const T* bias, const T* in, T* out, ColumnRange range,
                          const Mapped<T>& after, bool add = false) const;
  // Computes at least the first `inputs` features of out.
  void multiply_by_transposed(const Layer<T>& l, int64_t inputs, const T* in, T* out, ColumnRange range,
                              const Mapped<T>& after) const;

  // The parts of the parameters' gradients, in a fixed order.
  std::vector<GradientPart> gradient_parts() const;

  // Computes the gradients of some parts: sink.weight gets tiles of weights, sink.vector whole vectors.
  template <class Sink>
  void parameter_gradients(PartRange parts, const Columns& columns, Sink&& sink) {
    for (const GradientPart *part = parts.first, *next; part < parts.last; part = next) {
      for (next = part; next < parts.last && next->layer == part->layer;) ++next;
      if (part->columns > 0 && sink.wants_weight(part->layer)) weight_gradients({part, next}, columns, sink);
      if (part->column == 0) vector_gradients(part->layer, columns, sink);
    }
  }

 private:
  // For neighbouring parts of one layer.
  template <class Sink>
  void weight_gradients(PartRange parts, const Columns& columns_of_batch, Sink&& sink) {
    const int64_t rows = columns_of_batch.last;
    Layer<T>& l = layers_[size_t(parts.first->layer)];
    const T* x = parts.first->layer ? layers_[size_t(parts.first->layer) - 1].dropped : dropped_input_;
    const GradientPart &first = *parts.first, &last = *(parts.last - 1);
    const auto part = [&](int64_t column, int columns) { return GradientPart{first.layer, column, columns, 0}; };
    const auto needs = [&](int64_t column, int columns, int64_t row, int height) {
      return sink.needs(part(column, columns), row, height);
    };
    const auto apply = [&](int64_t column, int columns, int64_t row, int height, const T* tile) {
      sink.weight(part(column, columns), row, height, tile);
    };
    const int64_t end = last.column + last.columns;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      if (plan_.products == Products::dot_bf16) {
        const Pair* e = pair_gradient(l.rows(), rows, l.grad_affine);
        return multiply_gradient_bf16(l.rows(), l.plan.inputs, rows, e, x, first.column, end, needs, apply);
      }
      if (uses_amx(plan_))
        return amx_of(plan_).gradient(l.rows(), l.plan.inputs, rows, l.grad_affine, x, first.column, end, apply);
    }
#endif
    if (!l.plan.transposed)
      return multiply_gradient<T>(
          {l.rows(), l.rows(), l.rows(), l.plan.inputs}, {0, rows}, l.grad_affine, x, first.column, end, needs,
          [](int64_t, int, const T*, T*) {}, apply);
    const auto listed = [&](int64_t row, int height, const T* packed, T* tile) {
      entries.add_gradient(l.plan.inputs, row, height, packed, tile);
    };
    multiply_gradient<T>({l.plan.inputs, l.plan.dense(), l.plan.buffered(), l.rows()},
                         {columns_of_batch.first_given, rows}, x, l.grad_affine, first.column, end, needs, listed,
                         apply);
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

  // affine = W in + bias, then the activation, for a column range of one sub-batch.
  void start(const Layer<T>& l, const T* in, ColumnRange range, const SubBatches& sub_batches,
             const Mapped<T>& activate) const;

  const T* bias_gradient(const Layer<T>& l, const Columns& columns) const;
  Mapped<T> activation_backward(const Layer<T>& l) const;

  // Batch normalisation and activation. A thread computes some features of the whole batch, with their statistics.
  void normalize(Layer<T>& l, const Team& team, const SubBatches& sub_batches);
  void normalize_backward(Layer<T>& l, const Team& team, const SubBatches& sub_batches);
  void update_statistics(Layer<T>& l, int64_t f, T mean, T variance, int64_t rows);

  struct Placed {
    T* buffer;
    int64_t features;
  };
  // A buffer of `features` features for `stride` rows.
  T* place(Arena<T>& arena, int64_t features, int64_t stride) {
    placed_.push_back({arena.allocate(features * stride), features});
    return placed_.back().buffer;
  }

  NetworkPlan plan_;
  std::vector<Layer<T>> layers_;
  std::vector<Placed> placed_;
  T* dropped_input_ = nullptr;
};

}  // namespace fastgan::inline FASTGAN_ISA
