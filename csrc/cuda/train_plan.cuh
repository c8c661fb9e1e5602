// The plan for the persistent kernel: plain numbers and addresses, contiguous for each member, copied to shared memory.
//
// Every buffer of a block has an Offset: in its shared memory while that has space, else in its part of the scratch
// memory, which is in the L2 cache. Matrices are row-major; a row's stride is an odd number of 16-byte packs (in single
// precision), so that eight adjacent rows are in different banks.
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
struct Offset {
  int64_t at = 0;
};

FASTGAN_HD int stride_of(int64_t columns) { return int((columns + 3) / 4 | 1) * 4; }
FASTGAN_HD int64_t whole_packs(int64_t columns) { return (columns + 3) / 4 * 4; }

// The depth of one tensor core instruction.
constexpr int kChunk = 8;

// Rows of a batch that always belong to one block, so that the chunks of a sum over the batch are the same for every
// cluster size.
FASTGAN_HD int together(Precision p) { return p == Precision::ieee ? 1 : kChunk; }

// Rows of a batch in the blocks before this one; the most rows of a block.
FASTGAN_HD int64_t rows_before(int64_t batch, Precision p, int block, int blocks) {
  const int64_t rows = (batch + together(p) - 1) / together(p) * block / blocks * together(p);
  return rows < batch ? rows : batch;
}
FASTGAN_HD int64_t most_rows(int64_t batch, Precision p, int blocks) {
  const int64_t rows = ((batch + together(p) - 1) / together(p) + blocks - 1) / blocks * together(p);
  return rows < batch ? rows : batch;
}

// Limit of a matrix: loops count its elements in 32 bits, in steps of the threads of a block.
constexpr int64_t kMostElements = (int64_t(1) << 31) - 4096;

// A weight or a bias, as rows and columns. A launch works on the copy `here`; it reads the caller's at its begin and
// writes it at its end. The optimiser's state and the moving average are used in place.
template <class T>
struct ParameterOf {
  T *value, *state0, *state1, *ema;  // null: absent
  Offset here;
  int64_t snapshot;  // offset in the cluster's scratch, in elements: value and both states before an update
  int64_t gradient;  // likewise: the gradient, if gradients are clipped
  int rows, columns, stride;
  FASTGAN_HD int64_t count() const { return int64_t(rows) * columns; }
};

template <class T>
struct LayerOf {
  int inputs, outputs, pieces, activation;
  T negative_slope;
  double dropout;
  int dropout_seed_index;
  uint32_t substream;
  bool needs_input;                 // backward needs the activation's input
  ParameterOf<T> weight, bias;      // (outputs * pieces, inputs), (outputs * pieces, 1)
  Offset affine, output, dropped;   // (features, columns of the batch); equal if the layer lacks the step
  Offset grad_output, grad_affine;  // likewise
  bool batch_norm;                  // if so:
  T norm_epsilon, norm_momentum;
  ParameterOf<T> norm_scale, norm_shift;  // (outputs, 1)
  T *running_mean, *running_variance;     // the caller's, or null
  int64_t* batches;
  int64_t snapshot_statistics;  // offset in the cluster's scratch, in elements
  Offset normalized;            // input of the activation
  Offset statistics;            // (4 a sub-batch + 2, outputs): see train_norm.cuh
  FASTGAN_HD int rows() const { return outputs * pieces; }
  FASTGAN_HD Offset saved() const { return needs_input ? normalized : output; }
};

struct NetworkOf {
  int first, count;           // of the member's layers
  int dropout_seeds, stride;  // stride: of all its matrices of activations
  double input_dropout;
  Offset input, dropped_input, grad_input;
  int64_t squares;  // offset in the cluster's scratch, in bytes: the sum of squares of each row of a gradient
  int rows;         // how many
};

struct ScheduleOf {
  int64_t rate, momentum;  // offset of the first value, in bytes from the start of the member's plan
  bool rate_changes, momentum_changes;
};

template <class T>
struct MemberOf {
  NetworkOf generator, discriminator;
  OptimizerPlan optimizer_g, optimizer_d;
  ScheduleOf schedule_g, schedule_d;
  Precision precision;  // of products of the type T; always ieee for double
  Prior prior;
  uint64_t seed;
  const T* data;
  const int32_t* labels;  // of the data's rows
  int64_t data_rows;
  int classes;  // 0: no labels
  int latent, features, batch, pack;
  int64_t k, generator_steps;
  bool simultaneous, relativistic, skip_nonfinite;
  LossPlan real, fake, generated;
  double ema_decay, threshold;
  int64_t first, count, updates_g, updates_d;
  double* metrics;  // (count, kMetrics), then the updates that both optimisers have made
  int dropout_seeds_per_iteration;
  // Byte offsets in the cluster's scratch: the dropout seeds of kSeedsAhead iterations; the flag of a number that is
  // not finite.
  int64_t dropout_seeds, bad;
  Offset values, numbers;  // the loss at each logit of D; the index of each real row
  int64_t bytes;           // of all this, the layers and the schedules

  FASTGAN_HD const LayerOf<T>* layers() const { return reinterpret_cast<const LayerOf<T>*>(this + 1); }
};

constexpr int kSeedsAhead = 32;  // iterations whose dropout seeds are drawn at a time

// Memory that a launch needs for a block and for a cluster, in elements of T.
struct MemoryNeeds {
  int64_t shared = 0, block = 0, cluster = 0;
  size_t plan_bytes = 0;
};

// Arena allocator: shared memory first, then global scratch.
class SharedArena {
 public:
  explicit SharedArena(int64_t shared_elements) : limit_(shared_elements) {}
  Offset allocate(int64_t elements) {
    elements = whole_packs(elements);
    if (needs.shared + elements <= limit_) return {std::exchange(needs.shared, needs.shared + elements)};
    return {~std::exchange(needs.block, needs.block + elements)};
  }
  int64_t allocate_common(int64_t elements) {
    return std::exchange(needs.cluster, needs.cluster + whole_packs(elements));
  }
  MemoryNeeds needs;

 private:
  int64_t limit_;
};

// ---------------------------------------------------------------- from the plan to the kernel's

// Builds the kernel's plan of one member. `blocks` blocks share its batch.
template <class T>
class Builder {
 public:
  Builder(const TrainPlan& plan, const TrainCall& call, int blocks, int64_t shared_elements)
      : plan_(plan), call_(call), blocks_(blocks), arena_(shared_elements) {
    static_assert(std::is_trivially_copyable_v<MemberOf<T>> && std::is_trivially_copyable_v<LayerOf<T>>);
    member_.precision = sizeof(T) == 4 ? plan.generator.network.precision : Precision::ieee;
    describe_networks();
    place_weights();
    place_batches();
    place_common();
    write();
  }
  const std::vector<char>& bytes() const { return bytes_; }
  const MemoryNeeds& needs() const { return arena_.needs; }

 private:
  // The most rows of a sub-batch in one block of the cluster.
  int64_t block_rows() const { return most_rows(plan_.batch, member_.precision, blocks_); }

  void describe_networks() {
    member_.generator = describe(plan_.generator, block_rows() * plan_.pack);
    member_.discriminator = describe(plan_.discriminator, 2 * whole_packs(block_rows()));
  }

  // Checks the size of a matrix, whose stride is up to 8 more than its columns.
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
      layer.activation = l.activation, layer.negative_slope = T(l.negative_slope), layer.dropout = l.dropout;
      layer.dropout_seed_index = l.dropout_seed_index < 0 ? 0 : l.dropout_seed_index;
      layer.substream = uint32_t(l.dropout_seed_index < 0 ? int(i) + 1 : l.dropout_substream);
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
    return {first,
            int(network.layers.size()),
            network.dropout_seeds,
            stride_of(columns),
            network.input_dropout,
            {},
            {},
            {},
            0,
            0};
  }

  static ParameterOf<T> parameter(const ParameterPlan& p, int rows, int columns, int stride) {
    return {static_cast<T*>(p.value),
            static_cast<T*>(p.state0),
            static_cast<T*>(p.state1),
            static_cast<T*>(p.ema),
            {},
            0,
            0,
            rows,
            columns,
            stride};
  }

  // Weights come first: every row of the batch reads all of them.
  void place_weights() {
    for (LayerOf<T>& l : layers_)
      for (ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift})
        if (p->value) p->here = arena_.allocate(int64_t(p->rows) * p->stride);
  }

  void place_batches() {
    member_.numbers = arena_.allocate(block_rows() * plan_.pack * int64_t(sizeof(int64_t) / sizeof(float)));
    for (NetworkOf* network : {&member_.discriminator, &member_.generator}) {
      const int64_t stride = network->stride;
      LayerOf<T>* layers = layers_.data() + network->first;
      network->input = arena_.allocate(layers[0].inputs * stride);
      network->dropped_input = network->input_dropout > 0 ? arena_.allocate(layers[0].inputs * stride) : network->input;
      for (int i = 0; i < network->count; ++i) place_layer(layers[i], stride);
      network->grad_input = network == &member_.discriminator ? arena_.allocate(layers[0].inputs * stride) : Offset{};
    }
    const NetworkOf& d = member_.discriminator;
    member_.values = arena_.allocate(int64_t(layers_[size_t(d.first + d.count) - 1].outputs) * d.stride);
  }

  void place_layer(LayerOf<T>& l, int64_t stride) {
    l.output = arena_.allocate(l.outputs * stride);
    const bool before = l.pieces > 1 || l.needs_input;
    l.affine = l.batch_norm || before ? arena_.allocate(l.rows() * stride) : l.output;
    l.normalized = !l.batch_norm ? l.affine : before ? arena_.allocate(l.rows() * stride) : l.output;
    l.statistics = l.batch_norm ? arena_.allocate(10 * l.outputs) : Offset{};
    l.dropped = l.dropout > 0 ? arena_.allocate(l.outputs * stride) : l.output;
    l.grad_output = arena_.allocate(l.outputs * stride);
    l.grad_affine = l.pieces > 1 ? arena_.allocate(l.rows() * stride) : l.grad_output;
  }

  // Buffers that the blocks of a cluster share are in scratch memory.
  void place_common() {
    if (plan_.skip_nonfinite)
      for (LayerOf<T>& l : layers_)
        for (ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift})
          if (p->state0) p->snapshot = arena_.allocate_common(3 * p->count());
    if (plan_.skip_nonfinite)
      for (LayerOf<T>& l : layers_)
        if (l.batch_norm) l.snapshot_statistics = arena_.allocate_common(2 * l.outputs + 4);
    const auto bytes = [&](int64_t n) {
      return arena_.allocate_common((n + 15) / 16 * 16 / int64_t(sizeof(T))) * int64_t(sizeof(T));
    };
    member_.bad = bytes(sizeof(int));
    if (clips(plan_.generator.optimizer)) place_gradients(member_.generator, bytes);
    if (clips(plan_.discriminator.optimizer)) place_gradients(member_.discriminator, bytes);
    member_.dropout_seeds_per_iteration = plan_.dropout_seeds_per_iteration;
    if (member_.dropout_seeds_per_iteration == 0) return;
    member_.dropout_seeds = bytes(kSeedsAhead * member_.dropout_seeds_per_iteration * 8);
  }

  template <class Bytes>
  void place_gradients(NetworkOf& network, Bytes&& bytes) {
    for (int i = network.first; i < network.first + network.count; ++i)
      for (ParameterOf<T>* p : {&layers_[size_t(i)].weight, &layers_[size_t(i)].bias, &layers_[size_t(i)].norm_scale,
                                &layers_[size_t(i)].norm_shift})
        if (p->state0) p->gradient = arena_.allocate_common(p->count()), network.rows += p->rows;
    network.squares = bytes(network.rows * int64_t(sizeof(double)));
  }

  // The member, its layers, its schedules.
  void write() {
    MemberOf<T>& m = member_;
    m.optimizer_g = plan_.generator.optimizer, m.optimizer_d = plan_.discriminator.optimizer;
    m.prior = plan_.prior, m.seed = plan_.seed;
    m.data = static_cast<const T*>(plan_.data), m.data_rows = plan_.rows;
    m.labels = plan_.labels, m.classes = int(plan_.classes);
    m.latent = int(plan_.latent), m.features = int(plan_.features), m.batch = int(plan_.batch),
    m.pack = int(plan_.pack);
    m.k = plan_.k, m.generator_steps = plan_.generator_steps;
    m.simultaneous = plan_.simultaneous, m.relativistic = plan_.relativistic, m.skip_nonfinite = plan_.skip_nonfinite;
    m.real = plan_.real, m.fake = plan_.fake, m.generated = plan_.generated;
    m.ema_decay = plan_.ema_decay, m.threshold = plan_.threshold;
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
    arena_.needs.plan_bytes = size_t(m.bytes + 15) / 16 * 16;
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
  SharedArena arena_;
  MemberOf<T> member_{};
  std::vector<LayerOf<T>> layers_;
  std::vector<char> bytes_;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
