// The CPU engine: whole iterations of Algorithm 1 (../iteration.h).
//
// All threads run the same function. A step has two phases. In the forward and backward passes, each thread has a part
// of the batch and needs no barrier between layers. For the parameters' gradients, it has a part of the weights and
// applies each tile of a gradient at once. An iteration allocates nothing and stores no weight gradient.
#include "../train.h"

#include "../dtypes.h"
#include "../iteration.h"
#include "blocked_weights.h"
#include "float_mode.h"
#include "train_loss.h"
#include "train_snapshot.h"
#include "update.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

// The shapes of AMX tiles, as thread state while the object lives.
class TileState {
 public:
#if defined(__AVX512F__)
  explicit TileState(const TrainPlan& plan)
      : network_(uses_amx(plan.generator.network)       ? &plan.generator.network
                 : uses_amx(plan.discriminator.network) ? &plan.discriminator.network
                                                        : nullptr) {
    if (network_) amx_of(*network_).begin();
  }
  ~TileState() {
    if (network_) amx_of(*network_).end();
  }
  TileState(const TileState&) = delete;

 private:
  const NetworkPlan* network_;
#else
  explicit TileState(const TrainPlan&) {}
#endif
};

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
    Arena<T> memory{static_cast<T*>(call.workspace->buffers.reserve(size_t(count.used) * sizeof(T)))};
    place(memory);
    d_on_g_ = d_;
    d_on_g_.read(g_.output(), g_.grad_output());
    for (Player* player : {&of_g_, &of_d_})
      if (player->plan.optimizer.max_grad_norm > 0) {
        player->squares.resize(player->plan.parameters.size(), {0.0});
        for (const GradientPart& part : player->parts) player->squares[size_t(part.layer)].push_back(0.0);
      }
    dropout_seeds_.resize(size_t(plan.dropout_seeds_per_iteration));
  }

  void run() {
    const ScopedFloatMode mode(FloatMode::flushing());  // of this thread, and so of its team
    draw_dropout_seeds(call_.first);
    AdaptiveThreads& adaptive_threads = call_.workspace->adaptive_threads;
    while (done_ < call_.count)
      with_team(forced_ > 0 ? threads_ : adaptive_threads.begin(threads_), [&](const Team& team) {
        const TileState tiles(plan_);
        Executor executor(*this, team);
        do {
          iterate(executor, call_.first + done_);
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
  using Losses<T>::plan_, Losses<T>::g_, Losses<T>::d_;
  class Executor;

  // A network with its optimiser; `made`: updates before this call.
  struct Player {
    const PlayerPlan& plan;
    Network<T>& network;
    const std::vector<GradientPart> parts;
    const Schedule& schedule;
    const int64_t made;
    int64_t skipped = 0;
    std::vector<std::vector<double>> squares{};  // of the gradients (Squares)
  };

  void place(Arena<T>& arena) {
    Losses<T>::place(arena);
    snapshot_.place(arena);
    if (this->penalized_ > 0)
      second_order_scratch_ = arena.allocate(PenaltyPass<T>::scratch_size(d_, this->second_, threads_));
  }

  void draw_dropout_seeds(int64_t it) {
    for (size_t i = 0; i < dropout_seeds_.size(); ++i) dropout_seeds_[i] = dropout_seed(plan_.seed, it, int64_t(i));
  }

  TrainCall& call_;
  const int forced_, threads_;
  Network<T> d_on_g_ = d_;  // reads G's output, and writes its gradient, in place
  Player of_g_, of_d_;
  Snapshot<T> snapshot_;
  std::vector<uint64_t> dropout_seeds_;  // of an iteration
  T* second_order_scratch_ = nullptr;    // a region for each thread
  int64_t done_ = 0;
  bool go_on_ = true;
};

// The verbs of an iteration, for one thread.
template <class T>
class Trainer<T>::Executor {
 public:
  Executor(Trainer& all, const Team& team) : all_(all), plan_(all.plan_), team_(team), g_(all.g_), d_(all.d_) {}

  const TrainPlan& plan() const { return plan_; }

  void begin(int64_t) { dropout_seeds_ = all_.dropout_seeds_.data(); }

  // ---------------------------------------------------------------- the batch and its logits

  void prepare_d(int64_t draw) { update_of_d_ = draw - all_.call_.first * plan_.k; }

  void prepare_g(int64_t number) {
    update_of_g_ = number - all_.call_.first * plan_.generator_steps;
    if (number % plan_.generator_steps > 0) team_.barrier();  // the update of G before this one
  }

  void save() { all_.snapshot_.save(team_); }

  void sample_data(int64_t draw) {
    const ColumnRange range = part_of_g();
    all_.choose_rows(draw, range.first, std::min(range.last, rows_of_g()));
  }

  void sample_noise(uint32_t purpose, int64_t step) {
    const ColumnRange range = part_of_g();
    all_.draw_noise({plan_.seed, purpose, 0, uint64_t(step)}, range.first, std::min(range.last, rows_of_g()));
  }

  void forward_g() {
    of_g_ = {{0, rows_of_g(), take_dropout_seeds(plan_.generator), Given::input, 1}};
    g_.forward(team_, part_of_g(), of_g_);
    team_.barrier();  // also: D's update before this step is done
  }

  void show(BatchOfD batch) {
    of_d_ = all_.sub_batches_of_d(take_dropout_seeds(plan_.discriminator));
    of_d_.count = batch == BatchOfD::fake ? 1 : 2;
    if (of_d_.count == 2) take_dropout_seeds(plan_.discriminator);
    fake_ = batch == BatchOfD::real_fake ? 1 : 0;
    of_d_.all[fake_].entries = all_.entries_of_fake();
    if (all_.d_.lists() && of_d_.count == 2)
      of_d_.all[1 - fake_].given = Given::listed, of_d_.all[1 - fake_].entries = all_.entries_of_real();
    if (team_.rank == 0) all_.sort_entries(of_d_.count == 2);
    in_place_ = batch == BatchOfD::fake && plan_.pack == 1 && plan_.classes == 0;
    for (const ColumnRange& range : ranges()) {
      if (of_d_.count == 2) all_.show_real(of_d_[1 - fake_], range);
      if (!in_place_) all_.show_fakes(of_d_[fake_], range);
    }
  }

  void forward_d() {
    for (const ColumnRange& range : ranges()) d().forward(team_, range, of_d_);
    if (plan_.relativistic) team_.barrier();  // the two logits of a pair may be computed by different threads
  }

  // ---------------------------------------------------------------- losses and gradients

  void loss_of_d(double weight) { all_.loss_and_grad_of_d(team_, of_d_, weight); }
  void loss_of_g() { all_.loss_and_grad_of_g(team_, of_d_, of_d_[fake_]); }

  void backward_d() {
    for (const ColumnRange& range : ranges()) d_.backward(team_, range, of_d_, 0, false);
  }

  void backward_through_d() {
    for (const ColumnRange& range : ranges()) d().backward(team_, range, of_d_, 0, true);
    if (!in_place_) all_.return_gradients(team_, of_d_, of_d_[fake_]);
  }

  void backward_g() {
    g_.backward_heads(part_of_g());
    if (all_.has_conditions()) all_.cross_entropy(part_of_g());
    g_.backward(team_, part_of_g(), of_g_, 0, false);
    team_.barrier();
  }

  // Also ends D's gradients where there is no penalty.
  void penalty(int64_t draw) {
    for (int64_t i = 0; i < all_.penalized_; ++i) penalize(i, draw);
    team_.barrier();
  }

  // ---------------------------------------------------------------- metrics and updates

  void record_d(int64_t it, double weight) {
    if (team_.rank == 0) check_finite(all_.record_d(metrics(it), of_d_, weight));
  }

  void record_g(int64_t it) {
    if (team_.rank == 0) check_finite(all_.record_g(metrics(it), of_d_[fake_]));
    if (plan_.simultaneous) team_.barrier();  // D's loss overwrites the values of G's
  }

  void update_d() { apply(all_.of_d_, all_.columns_of_d(), update_of_d_); }
  void update_g() { apply(all_.of_g_, Columns(rows_of_g()), update_of_g_); }

  // Bounds the norms first, so that a roll-back includes that.
  void commit_or_roll_back(Updated updated) {
    if (updated.g) bound(all_.of_g_);
    if (updated.d) bound(all_.of_d_);
    if (!updated.d)
      all_.snapshot_.commit_or_roll_back(team_, {&all_.of_g_});
    else if (!updated.g)
      all_.snapshot_.commit_or_roll_back(team_, {&all_.of_d_});
    else
      all_.snapshot_.commit_or_roll_back(team_, {&all_.of_g_, &all_.of_d_});
    if (updated.g && plan_.ema_decay > 0) team_.barrier();
  }

  // The moving average of G's parameters.
  void update_ema() {
    const Ema<T> follow(plan_.ema_decay);
    each_parameter<T>(plan_.generator, [&](const ParameterPlan& parameter, int64_t n) {
      if (!parameter.ema) return;
      const T* p = static_cast<const T*>(parameter.value);
      T* mean = static_cast<T*>(parameter.ema);
      const int64_t first = n * team_.rank / team_.size, last = n * (team_.rank + 1) / team_.size;
      for (int64_t i = first; i < last; ++i) follow(mean[i], p[i]);
    });
  }

 private:
  int64_t rows_of_g() const { return plan_.batch * plan_.pack; }
  ColumnRange part_of_g() const { return partition<T>(rows_of_g(), team_.rank, team_.size); }
  typename Trainer::ColumnRanges ranges() const { return all_.ranges(team_, of_d_); }
  Network<T>& d() { return in_place_ ? all_.d_on_g_ : d_; }

  const uint64_t* take_dropout_seeds(const PlayerPlan& player) {
    const uint64_t* taken = dropout_seeds_;
    dropout_seeds_ += player.network.dropout_seeds;
    return taken;
  }

  void penalize(int64_t number, int64_t draw) {
    const int64_t m = plan_.batch;
    const Penalty kind = plan_.penalties[size_t(number)];
    const SubBatch where{all_.where(number), m, take_dropout_seeds(plan_.discriminator), Given::product};
    const ColumnRange rows = partition<T>(m, team_.rank, team_.size);
    const ColumnRange columns{where.first + rows.first, where.first + rows.last};
    all_.show_interpolates(kind, draw, where, rows);
    d_.forward(team_, columns, {where});
    all_.each_logit(where, columns, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(1)); });
    d_.backward(team_, columns, {where}, 0, true);
    T* scratch = PenaltyPass<T>::scratch_of(all_.second_order_scratch_, d_, rows, team_.rank);
    PenaltyPass<T>(d_, where, all_.tangent(number), scratch)
        .run(rows, kind, T(plan_.penalty_weight / double(m)), all_.sample_width(),
             all_.penalties_ + number * all_.second_);
  }

  double* metrics(int64_t it) const { return all_.call_.metrics + (it - all_.call_.first) * kMetrics; }

  void check_finite(double loss) {
    if (!std::isfinite(loss)) all_.snapshot_.flag_nonfinite();
  }

  // For the gradients that apply() computes. Their norm needs a pass of its own, because gradients are not stored.
  Clipping<T> clipping(Player& player, const Columns& columns) {
    Clipping<T> clip(player.plan.optimizer);
    const double limit = player.plan.optimizer.max_grad_norm;
    if (!(limit > 0)) return clip;
    const PartRange mine = part_of(player.parts, team_);
    for (const GradientPart& part : mine) {
      std::vector<double>& sums = player.squares[size_t(part.layer)];
      sums[size_t(part.column / kBlockRows<T>)] = 0;
      if (part.column == 0) sums.back() = 0;
    }
    const Squares<T> sink{player.plan, clip, player.squares};
    player.network.parameter_gradients(mine, columns, sink);
    team_.barrier();
    double square = 0;
    for (const std::vector<double>& sums : player.squares)
      for (const double sum : sums) square += sum;
    clip.scale = T(fastgan::clipping(square, limit));
    return clip;
  }

  // Computes and applies the gradients of this thread's part of the parameters. update: counted from 0 in this call.
  void apply(Player& player, const Columns& columns, int64_t update) {
    const Clipping<T> clip = clipping(player, columns);
    const int64_t step = player.made + update + 1 - player.skipped;
    const auto apply_rule = [&](const auto& rule) {
      const Update<T, std::decay_t<decltype(rule)>> sink{rule, player.plan, clip};
      player.network.parameter_gradients(part_of(player.parts, team_), columns, sink);
    };
    const Schedule& schedule = player.schedule;
    with_rule<T>(player.plan.optimizer, schedule.rate_at(update), schedule.momentum_at(update), step, apply_rule);
  }

  // Bounds the norms of whole units, after all threads have updated their parts.
  void bound(const Player& player) {
    const double limit = player.plan.optimizer.max_col_norm, size = player.plan.optimizer.clip_weights;
    if (size > 0) {
      team_.barrier();
      hold(player.plan, team_, T(size));
    }
    if (limit > 0) {
      team_.barrier();
      bound_columns(player.plan, limit);
    }
    if ((size > 0 || limit > 0) && keeps_rounded(player.plan.network)) {
      team_.barrier();
      BlockedPlan<T>::round(player.plan, team_.rank, team_.size);
    }
  }

  void bound_columns(const PlayerPlan& plan, double limit) {
    for (size_t i = 0; i < plan.parameters.size(); ++i) {
      const LayerPlan& l = plan.network.layers[i];
      const int64_t rows = l.outputs * l.pieces;
      const ParameterPlan& weight = plan.parameters[i].weight;
      if (!weight.state0) continue;  // frozen
      bound_norms(static_cast<T*>(weight.value), rows, l.inputs, rows * team_.rank / team_.size,
                  rows * (team_.rank + 1) / team_.size, limit);
    }
  }

  Trainer& all_;
  const TrainPlan& plan_;
  const Team& team_;
  Network<T>&g_, &d_;
  SubBatches of_g_{}, of_d_{};  // of the batch of each network
  size_t fake_ = 0;             // the fakes' sub-batch of D's
  bool in_place_ = false;       // D reads the fakes where G writes them
  int64_t update_of_g_ = 0, update_of_d_ = 0;
  const uint64_t* dropout_seeds_ = nullptr;  // the next ones
};

}  // namespace

bool multiplies_bf16() { return has_bf16(); }

void train(int dtype, const TrainPlan& plan, TrainCall& call) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const BlockedPlan<T> blocked(plan, *call.workspace, call.threads);
    blocked.read();
    Trainer<T>(blocked.plan(), call).run();
  };
  DType(dtype) == DType::f64 ? run(0.0) : run(0.0f);
}

void products_of(int dtype, TrainPlan& plan) { choose_products_and_lists(plan, DType(dtype) == DType::f32); }

void write_back(int dtype, const TrainPlan& plan, Workspace& workspace, int threads) {
  if (!workspace.holds_weights) return;
  DType(dtype) == DType::f64 ? BlockedPlan<double>(plan, workspace, threads).write_back()
                             : BlockedPlan<float>(plan, workspace, threads).write_back();
}

}  // namespace fastgan::inline FASTGAN_ISA
