// Algorithm 1 of Goodfellow et al. (2014), whole iterations: noise, G, D, losses, backward, optimisers, nothing in
// between.
//
// All threads run the same function. A step has two phases: in the forward and backward passes, each thread has a part
// of the batch and passes all layers without a barrier; for the parameters' gradients, it has a part of the weights and
// applies each gradient tile from registers. An iteration allocates nothing and stores no weight gradient.
#include "../train.h"

#include "../dtypes.h"
#include "float_mode.h"
#include "train_loss.h"
#include "train_snapshot.h"
#include "update.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

template <class T>
class Trainer : Losses<T> {
 public:
  Trainer(const TrainPlan& plan, TrainCall& call)
      : Losses<T>(plan),
        call_(call),
        forced_(forced_team()),
        threads_(forced_ > 0 ? forced_ : call.threads),
        of_g_{plan.generator, g_, g_.gradient_parts(), call.generator_schedule, call.generator_updates},
        of_d_{plan.discriminator, d_, d_.gradient_parts(), call.discriminator_schedule, call.discriminator_updates},
        snapshot_(plan) {
    Arena<T> count;
    place(count);
    Arena<T> memory{static_cast<T*>(call.workspace->reserve(size_t(count.used) * sizeof(T)))};
    place(memory);
    d_on_g_ = d_;
    d_on_g_.read(g_.output(), g_.grad_output());
    const int64_t steps = (plan.simultaneous ? 1 : plan.k) + plan.generator_steps;
    dropout_seeds_.resize(size_t(steps * (plan.generator.network.dropout_seeds + 3 * plan.discriminator.network.dropout_seeds)));
  }

  void run() {
    const ScopedFloatMode mode(FloatMode::flushing());  // of this thread, and so of its team
    draw_dropout_seeds(call_.first);
    AdaptiveThreads& adaptive_threads = call_.workspace->adaptive_threads;
    while (done_ < call_.count)
      with_team(forced_ > 0 ? threads_ : adaptive_threads.begin(threads_), [&](const Team& team) {
        do {
          iterate(team, call_.first + done_);
          if (team.rank == 0) {
            ++done_;
            draw_dropout_seeds(call_.first + done_);
            go_on_ = (forced_ > 0 || adaptive_threads.go_on()) && done_ < call_.count;
          }
          team.barrier();
        } while (go_on_);
      });
    call_.generator_updates += call_.count * plan_.generator_steps - of_g_.skipped;
    call_.discriminator_updates += call_.count * plan_.k - of_d_.skipped;
  }

 private:
  using Losses<T>::plan_, Losses<T>::g_, Losses<T>::d_, Losses<T>::penalized_, Losses<T>::second_, Losses<T>::penalties_;
  using Losses<T>::sub_batches_of_d, Losses<T>::columns_of_d, Losses<T>::ranges, Losses<T>::each_logit;
  using Losses<T>::show_real, Losses<T>::show_fakes, Losses<T>::show_interpolates, Losses<T>::return_gradients;
  using Losses<T>::loss_and_grad_of_d, Losses<T>::loss_and_grad_of_g, Losses<T>::record_d, Losses<T>::record_g;

  // A network with its optimiser; `made`: updates before this call.
  struct Player {
    const PlayerPlan& plan;
    Network<T>& network;
    const std::vector<GradientPart> parts;
    const Schedule& schedule;
    const int64_t made;
    int64_t skipped = 0;
  };

  // ---------------------------------------------------------------- one iteration, by all threads of a team

  void iterate(const Team& team, int64_t it) {
    const uint64_t* dropout_seeds = dropout_seeds_.data();
    if (plan_.simultaneous) return simultaneous_step(team, it, dropout_seeds);
    for (int64_t draw = it * plan_.k; draw < (it + 1) * plan_.k; ++draw) dropout_seeds = discriminator_step(team, it, draw, dropout_seeds);
    for (int64_t i = 0; i < plan_.generator_steps; ++i) {
      if (i > 0) team.barrier();  // the update of G before this one
      dropout_seeds = generator_step(team, it, it * plan_.generator_steps + i, dropout_seeds);
    }
  }

  // D ascends on m real and m fake rows side by side; no gradient flows into G.
  const uint64_t* discriminator_step(const Team& team, int64_t it, int64_t draw, const uint64_t* dropout_seeds) {
    snapshot_.save(team);
    generate(team, purpose::noise_d, draw, dropout_seeds);
    dropout_seeds += plan_.generator.network.dropout_seeds;
    const SubBatches sub_batches = sub_batches_of_d(dropout_seeds);
    team.barrier();
    show(team, draw, sub_batches);
    loss_and_grad_of_d(team, sub_batches, 1.0);
    backward_of_d(team, sub_batches);
    penalize(team, draw, dropout_seeds);
    team.barrier();
    apply(team, of_d_, columns_of_d(), draw - call_.first * plan_.k);
    if (team.rank == 0) check_finite(record_d(metrics(it), sub_batches));
    bound(team, of_d_);
    snapshot_.commit_or_roll_back(team, {&of_d_});
    return dropout_seeds + (penalized_ ? 3 : 2) * plan_.discriminator.network.dropout_seeds;
  }

  // G descends through a fixed D: gradients of D's weights are not computed.
  const uint64_t* generator_step(const Team& team, int64_t it, int64_t number, const uint64_t* dropout_seeds) {
    const int64_t m = plan_.batch, d_seeds = plan_.discriminator.network.dropout_seeds;
    snapshot_.save(team);
    const SubBatches of_g = generate(team, purpose::noise_g, number, dropout_seeds);
    dropout_seeds += plan_.generator.network.dropout_seeds;
    SubBatches sub_batches{{0, m, dropout_seeds}, {second_, m, dropout_seeds + d_seeds}};  // the second one: D(x) after D's update
    sub_batches.count = plan_.relativistic ? 2 : 1;
    team.barrier();  // also: D's update is done
    const bool in_place = plan_.pack == 1 && !plan_.relativistic;  // D reads G's output, and writes its gradient, in place
    Network<T>& d = in_place ? d_on_g_ : d_;
    for (const ColumnRange& range : ranges(team, sub_batches)) {
      if (!in_place) show_fakes(sub_batches[0], range);
      if (plan_.relativistic) show_real((it + 1) * plan_.k - 1, sub_batches[1], range);
      d.forward(team, range, sub_batches);
    }
    loss_and_grad_of_g(team, sub_batches, sub_batches[0]);
    for (const ColumnRange& range : ranges(team, sub_batches)) d.backward(team, range, sub_batches, 0, true);
    if (!in_place) return_gradients(team, sub_batches, sub_batches[0]);
    g_.backward(team, partition<T>(m * plan_.pack, team.rank, team.size), of_g, 0, false);
    team.barrier();
    if (team.rank == 0) check_finite(record_g(metrics(it), sub_batches[0]));
    apply(team, of_g_, Columns(m * plan_.pack), number - call_.first * plan_.generator_steps);
    bound(team, of_g_);
    snapshot_.commit_or_roll_back(team, {&of_g_});
    update_ema(team);
    return dropout_seeds + d_seeds * sub_batches.size();
  }

  // The original code's rule: one real and one fake batch for both losses, both gradients taken before either update.
  void simultaneous_step(const Team& team, int64_t it, const uint64_t* dropout_seeds) {
    const int64_t m = plan_.batch, update = it - call_.first;
    snapshot_.save(team);
    const SubBatches of_g = generate(team, purpose::noise_d, it, dropout_seeds);
    dropout_seeds += plan_.generator.network.dropout_seeds;
    const SubBatches sub_batches = sub_batches_of_d(dropout_seeds);
    team.barrier();
    show(team, it, sub_batches);
    loss_and_grad_of_g(team, sub_batches, sub_batches[1]);
    for (const ColumnRange& range : ranges(team, sub_batches)) d_.backward(team, range, sub_batches, 0, true);
    return_gradients(team, sub_batches, sub_batches[1]);
    if (team.rank == 0) check_finite(record_g(metrics(it), sub_batches[1]));
    g_.backward(team, partition<T>(m * plan_.pack, team.rank, team.size), of_g, 0, false);
    team.barrier();  // the values of G's loss have been read
    loss_and_grad_of_d(team, sub_batches, 0.5);
    backward_of_d(team, sub_batches);
    penalize(team, it, dropout_seeds);
    team.barrier();
    apply(team, of_g_, Columns(m * plan_.pack), update);
    apply(team, of_d_, columns_of_d(), update);
    if (team.rank == 0) check_finite(record_d(metrics(it), sub_batches, 0.5));
    bound(team, of_g_);
    bound(team, of_d_);
    snapshot_.commit_or_roll_back(team, {&of_g_, &of_d_});
    update_ema(team);
  }

  // ---------------------------------------------------------------- parts of a step

  // G(z) for this thread's part, in G's output; gives the sub-batches that G's backward pass needs.
  SubBatches generate(const Team& team, uint32_t purpose, int64_t step, const uint64_t* dropout_seeds) {
    const int64_t rows = plan_.batch * plan_.pack;
    const ColumnRange range = partition<T>(rows, team.rank, team.size);
    this->draw_noise({plan_.seed, purpose, 0, uint64_t(step)}, range.first, std::min(range.last, rows));
    const SubBatches whole{{0, rows, dropout_seeds}};
    g_.forward(team, range, whole);
    return whole;
  }

  // Real rows and fakes, and D's logits of them.
  void show(const Team& team, int64_t draw, const SubBatches& sub_batches) {
    for (const ColumnRange& range : ranges(team, sub_batches)) {
      show_real(draw, sub_batches[0], range);
      show_fakes(sub_batches[1], range);
      d_.forward(team, range, sub_batches);
    }
  }

  void backward_of_d(const Team& team, const SubBatches& sub_batches) {
    for (const ColumnRange& range : ranges(team, sub_batches)) d_.backward(team, range, sub_batches, 0, false);
  }

  void penalize(const Team& team, int64_t draw, const uint64_t* dropout_seeds) {
    if (!penalized_) return;
    const int64_t m = plan_.batch;
    const SubBatch where{3 * second_, m, dropout_seeds + 2 * plan_.discriminator.network.dropout_seeds};
    const ColumnRange rows = partition<T>(m, team.rank, team.size);
    const ColumnRange columns{where.first + rows.first, where.first + rows.last};
    show_interpolates(draw, where, rows);
    d_.forward(team, columns, {where});
    each_logit(where, columns, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(1)); });
    d_.backward(team, columns, {where}, 0, true);
    T* scratch = PenaltyPass<T>::scratch_of(second_order_scratch_, d_, rows, team.rank);
    PenaltyPass<T>(d_, where, 2 * second_, scratch)
        .run(rows, plan_.penalty, T(plan_.penalty_weight / double(m)), penalties_);
  }

  // ---------------------------------------------------------------- updates

  double* metrics(int64_t it) const { return call_.metrics + (it - call_.first) * kMetrics; }

  void check_finite(double loss) {
    if (!std::isfinite(loss)) snapshot_.flag_nonfinite();
  }

  // Computes and applies the gradients of this thread's part of the parameters. update: of this call, from 0.
  void apply(const Team& team, const Player& player, const Columns& columns, int64_t update) {
    const int64_t step = player.made + update + 1 - player.skipped;
    const auto apply_rule = [&](const auto& rule) {
      const Update<T, std::decay_t<decltype(rule)>> sink{rule, player.plan};
      player.network.parameter_gradients(part_of(player.parts, team), columns, sink);
    };
    const Schedule& schedule = player.schedule;
    with_rule<T>(player.plan.optimizer, schedule.rate_at(update), schedule.momentum_at(update), step, apply_rule);
  }

  // Bounds the norms of whole units, so the update must be complete.
  void bound(const Team& team, const Player& player) {
    const double limit = player.plan.optimizer.max_norm;
    if (!(limit > 0)) return;
    team.barrier();
    for (size_t i = 0; i < player.plan.parameters.size(); ++i) {
      const LayerPlan& l = player.plan.network.layers[i];
      const int64_t rows = l.outputs * l.pieces;
      const ParameterPlan& weight = player.plan.parameters[i].weight;
      if (!weight.state0) continue;  // frozen
      bound_norms(static_cast<T*>(weight.value), l.inputs, rows * team.rank / team.size,
                  rows * (team.rank + 1) / team.size, limit);
    }
  }

  // The moving average of G, parameter by parameter.
  void update_ema(const Team& team) {
    if (!(plan_.ema_decay > 0)) return;
    team.barrier();
    const T keep = T(1.0 - plan_.ema_decay);
    each_parameter(plan_.generator, [&](const ParameterPlan& parameter, int64_t n) {
      if (!parameter.ema) return;
      const T* p = static_cast<const T*>(parameter.value);
      T* mean = static_cast<T*>(parameter.ema);
      for (int64_t i = n * team.rank / team.size; i < n * (team.rank + 1) / team.size; ++i) mean[i] += keep * (p[i] - mean[i]);
    });
  }

  // ---------------------------------------------------------------- memory and keys

  void place(Arena<T>& arena) {
    Losses<T>::place(arena);
    snapshot_.place(arena);
    if (penalized_) second_order_scratch_ = arena.allocate(PenaltyPass<T>::scratch_size(d_, second_, threads_));
  }

  void draw_dropout_seeds(int64_t it) {
    for (size_t i = 0; i < dropout_seeds_.size(); ++i) dropout_seeds_[i] = dropout_seed(plan_.seed, it, int64_t(i));
  }

  TrainCall& call_;
  const int forced_, threads_;
  Network<T> d_on_g_ = d_;
  Player of_g_, of_d_;
  Snapshot<T> snapshot_;
  std::vector<uint64_t> dropout_seeds_;
  T* second_order_scratch_ = nullptr;  // scratch of the second-order pass: a region a thread
  int64_t done_ = 0;
  bool go_on_ = true;
};

}  // namespace

bool multiplies_bf16() { return has_bf16(); }

void train(int dtype, const TrainPlan& plan, TrainCall& call) {
  if (DType(dtype) == DType::f64)
    Trainer<double>(plan, call).run();
  else
    Trainer<float>(plan, call).run();
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
