// The plan as the persistent kernel reads it: plain numbers and addresses, one block of bytes a member, copied to shared memory.
//
// Everything a block works on has a Spot: in its shared memory while there is room, else in its part of the scratch memory,
// which the second-level cache holds. Matrices lie row by row; a row's stride is an odd number of 16-byte packs (in single
// precision), so that eight neighbouring rows fall into different banks.
#pragma once
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../philox.h"
#include "../plan.h"
#include "../train.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// Elements from the start of the block's shared memory; below 0, ~at elements into the block's scratch memory.
struct Spot {
  int64_t at = 0;
};

FASTGAN_HD int stride_of(int64_t columns) { return int((columns + 3) / 4 | 1) * 4; }
FASTGAN_HD int64_t whole_packs(int64_t columns) { return (columns + 3) / 4 * 4; }

// What matrix units sum at once, of the depth of a product.
constexpr int kChunk = 8;

// How many rows of a batch are never parted by the end of a block's share: where a gradient sums over the batch, its chunks
// are then the same for every size of a cluster.
FASTGAN_HD int together(Precision p) { return p == Precision::ieee ? 1 : kChunk; }

// Rows of a batch that blocks before that one have, and those of the fullest.
FASTGAN_HD int64_t rows_before(int64_t batch, Precision p, int block, int blocks) {
  const int64_t rows = (batch + together(p) - 1) / together(p) * block / blocks * together(p);
  return rows < batch ? rows : batch;
}
FASTGAN_HD int64_t most_rows(int64_t batch, Precision p, int blocks) {
  const int64_t rows = ((batch + together(p) - 1) / together(p) + blocks - 1) / blocks * together(p);
  return rows < batch ? rows : batch;
}

// Of a matrix: loops count its elements in 32 bits, and go on by the threads of a block.
constexpr int64_t kMostElements = (int64_t(1) << 31) - 4096;

// A weight or a bias, as rows and columns. `here` is the copy that a launch works on; the caller's is read when the launch
// begins and written when it ends. The optimiser's state and the moving average stay where they are.
template <class T>
struct ParameterOf {
  T *value, *state0, *state1, *average;  // null: there is none
  Spot here;
  int64_t undo;  // elements into the cluster's scratch: value and both states before an update
  int rows, columns, stride;
  FASTGAN_HD int64_t count() const { return int64_t(rows) * columns; }
};

template <class T>
struct LayerOf {
  int inputs, outputs, pieces, activation;
  T slope;
  double dropout;
  int dropout_key;
  uint32_t substream;
  bool needs_input;                     // the slope is had from the activation's input
  ParameterOf<T> weight, bias;          // (outputs * pieces, inputs), (outputs * pieces, 1)
  Spot affine, output, dropped;         // (features, columns of the batch); equal where a step is left out
  Spot grad_output, grad_affine;        // likewise
  bool batch_norm;                      // if so:
  T norm_epsilon, norm_momentum;
  ParameterOf<T> norm_scale, norm_shift;  // (outputs, 1)
  T *running_mean, *running_variance;     // the caller's, or null
  int64_t* batches;
  int64_t undo_statistics;                // elements into the cluster's scratch
  Spot normalized;                        // input of the activation
  Spot statistics;                        // (4 a section + 2, outputs): see train_norm.cuh
  FASTGAN_HD int rows() const { return outputs * pieces; }
  FASTGAN_HD Spot saved() const { return needs_input ? normalized : output; }
};

struct NetworkOf {
  int first, count;  // of the member's layers
  int keys, stride;  // stride: of all its matrices of activations
  double input_dropout;
  Spot input, dropped_input, grad_input;
};

struct ScheduleOf {
  int64_t rate, momentum;  // where the first one stands, in bytes from the member's beginning
  bool rate_changes, momentum_changes;
};

template <class T>
struct MemberOf {
  NetworkOf generator, discriminator;
  OptimizerPlan optimizer_g, optimizer_d;
  ScheduleOf schedule_g, schedule_d;
  Precision precision;  // of products of the type T: that of double is always ieee
  Prior prior;
  uint64_t seed;
  const T* data;
  int64_t data_rows;
  int latent, features, batch, pack;
  int64_t k, generator_steps;
  bool simultaneous, relativistic, skip_nonfinite;
  LossPlan real, fake, generated;
  double average_decay;
  int64_t first, count, updates_g, updates_d;
  double* metrics;  // (count, kMetrics), then the updates that both optimisers have made
  int keys_an_iteration;
  // In bytes of the cluster's scratch: keys of kKeysAhead iterations, where they are drawn, whether something was not finite.
  int64_t keys, bad;
  Spot values, numbers;   // a loss an element of D's logits; the number of each real row
  int64_t bytes;          // of all this, the layers and the schedules

  FASTGAN_HD const LayerOf<T>* layers() const { return reinterpret_cast<const LayerOf<T>*>(this + 1); }
};

constexpr int kKeysAhead = 32;   // iterations whose keys are drawn at a time

// What one launch needs of a block and of a cluster. Elements of T.
struct Room {
  int64_t shared = 0, block = 0, cluster = 0;
  size_t plan_bytes = 0;
};

// Hands out spots: in shared memory what comes first, as far as it goes.
class Floor {
 public:
  explicit Floor(int64_t shared_elements) : limit_(shared_elements) {}
  Spot take(int64_t elements) {
    elements = whole_packs(elements);
    if (room.shared + elements <= limit_) return {std::exchange(room.shared, room.shared + elements)};
    return {~std::exchange(room.block, room.block + elements)};
  }
  int64_t take_common(int64_t elements) { return std::exchange(room.cluster, room.cluster + whole_packs(elements)); }
  Room room;

 private:
  int64_t limit_;
};

// ---------------------------------------------------------------- from the plan to the kernel's

// Builds what the kernel reads of one member. `blocks` share its batch.
template <class T>
class Builder {
 public:
  Builder(const TrainPlan& plan, const TrainCall& call, int blocks, int64_t shared_elements)
      : plan_(plan), call_(call), blocks_(blocks), floor_(shared_elements) {
    static_assert(std::is_trivially_copyable_v<MemberOf<T>> && std::is_trivially_copyable_v<LayerOf<T>>);
    member_.precision = sizeof(T) == 4 ? plan.generator.network.precision : Precision::ieee;
    describe_networks();
    place_weights();
    place_batches();
    place_common();
    write();
  }
  const std::vector<char>& bytes() const { return bytes_; }
  const Room& room() const { return floor_.room; }

 private:
  // The rows of a section that the fullest block of a cluster has.
  int64_t share() const { return most_rows(plan_.batch, member_.precision, blocks_); }

  void describe_networks() {
    member_.generator = describe(plan_.generator, share() * plan_.pack);
    member_.discriminator = describe(plan_.discriminator, 2 * whole_packs(share()));
  }

  // Rows of so many columns, which lie whole packs and one more apart.
  static void check_size(int64_t rows, int64_t columns) {
    if (rows > 0 && columns + 8 > kMostElements / rows)
      throw std::runtime_error("train: a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
                               " is too large for the persistent kernel, which counts elements in 32 bits");
  }

  NetworkOf describe(const PlayerPlan& player, int64_t columns) {
    const NetworkPlan& network = player.network;
    const int first = int(layers_.size());
    for (size_t i = 0; i < network.layers.size(); ++i) {
      const LayerPlan& l = network.layers[i];
      for (const int64_t rows : {l.inputs, l.outputs * l.pieces}) check_size(rows, columns);
      check_size(l.outputs * l.pieces, l.inputs);
      LayerOf<T> layer{};
      layer.inputs = int(l.inputs), layer.outputs = int(l.outputs), layer.pieces = l.pieces;
      layer.activation = l.activation, layer.slope = T(l.negative_slope), layer.dropout = l.dropout;
      layer.dropout_key = l.dropout_key < 0 ? 0 : l.dropout_key;
      layer.substream = uint32_t(l.dropout_key < 0 ? int(i) + 1 : l.dropout_substream);
      with_activation(l.activation, [&](auto f) { layer.needs_input = !decltype(f)::from_output; });
      layer.weight = parameter(player.parameters[i].weight, layer.rows(), layer.inputs, stride_of(layer.inputs));
      layer.bias = parameter(player.parameters[i].bias, layer.rows(), 1, 1);
      layer.batch_norm = l.batch_norm, layer.norm_epsilon = T(l.norm_epsilon), layer.norm_momentum = T(l.norm_momentum);
      layer.norm_scale = parameter(player.parameters[i].norm_scale, layer.outputs, 1, 1);
      layer.norm_shift = parameter(player.parameters[i].norm_shift, layer.outputs, 1, 1);
      layer.running_mean = static_cast<T*>(player.parameters[i].running_mean);
      layer.running_variance = static_cast<T*>(player.parameters[i].running_variance);
      layer.batches = player.parameters[i].batches;
      layers_.push_back(layer);
    }
    return {first, int(network.layers.size()), network.keys, stride_of(columns), network.input_dropout, {}, {}, {}};
  }

  static ParameterOf<T> parameter(const ParameterPlan& p, int rows, int columns, int stride) {
    return {static_cast<T*>(p.value), static_cast<T*>(p.state0), static_cast<T*>(p.state1), static_cast<T*>(p.average),
            {}, 0, rows, columns, stride};
  }

  // Weights come first: every row of the batch reads all of them.
  void place_weights() {
    for (LayerOf<T>& l : layers_)
      for (ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift})
        if (p->value) p->here = floor_.take(int64_t(p->rows) * p->stride);
  }

  void place_batches() {
    member_.numbers = floor_.take(share() * plan_.pack * int64_t(sizeof(int64_t) / sizeof(float)));
    for (NetworkOf* network : {&member_.discriminator, &member_.generator}) {
      const int64_t stride = network->stride;
      LayerOf<T>* layers = layers_.data() + network->first;
      network->input = floor_.take(layers[0].inputs * stride);
      network->dropped_input = network->input_dropout > 0 ? floor_.take(layers[0].inputs * stride) : network->input;
      for (int i = 0; i < network->count; ++i) place_layer(layers[i], stride);
      network->grad_input = network == &member_.discriminator ? floor_.take(layers[0].inputs * stride) : Spot{};
    }
    const NetworkOf& d = member_.discriminator;
    member_.values = floor_.take(int64_t(layers_[size_t(d.first + d.count) - 1].outputs) * d.stride);
  }

  void place_layer(LayerOf<T>& l, int64_t stride) {
    l.output = floor_.take(l.outputs * stride);
    const bool before = l.pieces > 1 || l.needs_input;
    l.affine = l.batch_norm || before ? floor_.take(l.rows() * stride) : l.output;
    l.normalized = !l.batch_norm ? l.affine : before ? floor_.take(l.rows() * stride) : l.output;
    l.statistics = l.batch_norm ? floor_.take(10 * l.outputs) : Spot{};
    l.dropped = l.dropout > 0 ? floor_.take(l.outputs * stride) : l.output;
    l.grad_output = floor_.take(l.outputs * stride);
    l.grad_affine = l.pieces > 1 ? floor_.take(l.rows() * stride) : l.grad_output;
  }

  // What the blocks of a cluster share lies in scratch memory.
  void place_common() {
    if (plan_.skip_nonfinite)
      for (LayerOf<T>& l : layers_)
        for (ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift})
          if (p->state0) p->undo = floor_.take_common(3 * p->count());
    if (plan_.skip_nonfinite)
      for (LayerOf<T>& l : layers_)
        if (l.batch_norm) l.undo_statistics = floor_.take_common(2 * l.outputs + 4);
    const auto bytes = [&](int64_t n) {
      return floor_.take_common((n + 15) / 16 * 16 / int64_t(sizeof(T))) * int64_t(sizeof(T));
    };
    member_.bad = bytes(sizeof(int));
    const int64_t steps = (plan_.simultaneous ? 1 : plan_.k) + plan_.generator_steps;
    member_.keys_an_iteration = int(steps * (plan_.generator.network.keys + 2 * plan_.discriminator.network.keys));
    if (member_.keys_an_iteration == 0) return;
    member_.keys = bytes(kKeysAhead * member_.keys_an_iteration * 8);
  }

  // The member, its layers, its schedules.
  void write() {
    MemberOf<T>& m = member_;
    m.optimizer_g = plan_.generator.optimizer, m.optimizer_d = plan_.discriminator.optimizer;
    m.prior = plan_.prior, m.seed = plan_.seed;
    m.data = static_cast<const T*>(plan_.data), m.data_rows = plan_.rows;
    m.latent = int(plan_.latent), m.features = int(plan_.features), m.batch = int(plan_.batch), m.pack = int(plan_.pack);
    m.k = plan_.k, m.generator_steps = plan_.generator_steps;
    m.simultaneous = plan_.simultaneous, m.relativistic = plan_.relativistic, m.skip_nonfinite = plan_.skip_nonfinite;
    m.real = plan_.real, m.fake = plan_.fake, m.generated = plan_.generated;
    m.average_decay = plan_.average_decay;
    m.first = call_.first, m.count = call_.count;
    m.updates_g = call_.generator_updates, m.updates_d = call_.discriminator_updates;
    m.metrics = call_.metrics;
    m.bytes = int64_t(sizeof m + layers_.size() * sizeof layers_[0]);
    std::vector<double> numbers;
    m.schedule_g = schedule(call_.generator_schedule, numbers);
    m.schedule_d = schedule(call_.discriminator_schedule, numbers);
    append(&m, sizeof m);
    append(layers_.data(), layers_.size() * sizeof layers_[0]);
    append(numbers.data(), numbers.size() * sizeof numbers[0]);
    bytes_.resize((bytes_.size() + 15) / 16 * 16);
    floor_.room.plan_bytes = size_t(m.bytes + 15) / 16 * 16;
  }

  ScheduleOf schedule(const Schedule& s, std::vector<double>& numbers) {
    const auto place = [&](const std::vector<double>& values) {
      numbers.insert(numbers.end(), values.begin(), values.end());
      return member_.bytes + int64_t((numbers.size() - values.size()) * sizeof(double));
    };
    return {place(s.rate), place(s.momentum), s.rate.size() > 1, s.momentum.size() > 1};
  }

  void append(const void* from, size_t size) {
    const char* begin = static_cast<const char*>(from);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }

  const TrainPlan& plan_;
  const TrainCall& call_;
  const int blocks_;
  Floor floor_;
  MemberOf<T> member_{};
  std::vector<LayerOf<T>> layers_;
  std::vector<char> bytes_;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
