// Algorithm 1 of Goodfellow et al. (2014), whole iterations: noise, G, D, losses, backward, optimisers, nothing in between.
//
// Every thread runs the same function on its share. A step has two halves: forward and backward, where a thread has part of
// the batch and goes through all layers without waiting for anyone; then the parameters' gradients, where it has part of the
// weights and updates each tile as it leaves the registers. Nothing is allocated, and no gradient of a weight is ever stored.
#include "../train.h"

#include "../dtypes.h"
#include "float_mode.h"
#include "train_loss.h"
#include "train_undo.h"
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
        undo_(plan) {
    Arena<T> count;
    place(count);
    Arena<T> memory{static_cast<T*>(call.workspace->reserve(size_t(count.used) * sizeof(T)))};
    place(memory);
    d_on_g_ = d_;
    d_on_g_.read(g_.output(), g_.grad_output());
    const int64_t steps = (plan.simultaneous ? 1 : plan.k) + plan.generator_steps;
    keys_.resize(size_t(steps * (plan.generator.network.keys + 3 * plan.discriminator.network.keys)));
  }

  void run() {
    const ScopedFloatMode mode(FloatMode::flushing());  // of this thread, and so of its team
    draw_keys(call_.first);
    Pace& pace = call_.workspace->pace;
    while (done_ < call_.count)
      with_team(forced_ > 0 ? threads_ : pace.begin(threads_), [&](const Team& team) {
        do {
          iterate(team, call_.first + done_);
          if (team.rank == 0) {
            ++done_;
            draw_keys(call_.first + done_);
            go_on_ = (forced_ > 0 || pace.go_on()) && done_ < call_.count;
          }
          team.barrier();
        } while (go_on_);
      });
    call_.generator_updates += call_.count * plan_.generator_steps - of_g_.skipped;
    call_.discriminator_updates += call_.count * plan_.k - of_d_.skipped;
  }

 private:
  using Losses<T>::plan_, Losses<T>::g_, Losses<T>::d_, Losses<T>::penalized_, Losses<T>::second_, Losses<T>::penalties_;
  using Losses<T>::sections_of_d, Losses<T>::columns_of_d, Losses<T>::shares, Losses<T>::each_logit;
  using Losses<T>::show_real, Losses<T>::show_fakes, Losses<T>::show_between, Losses<T>::return_gradients;
  using Losses<T>::slopes_of_d, Losses<T>::slopes_of_g, Losses<T>::record_d, Losses<T>::record_g;

  // Who is trained, and how far that is: `made` updates before this call.
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
    const uint64_t* keys = keys_.data();
    if (plan_.simultaneous) return simultaneous_step(team, it, keys);
    for (int64_t draw = it * plan_.k; draw < (it + 1) * plan_.k; ++draw) keys = discriminator_step(team, it, draw, keys);
    for (int64_t i = 0; i < plan_.generator_steps; ++i) {
      if (i > 0) team.barrier();  // the update of G before this one
      keys = generator_step(team, it, it * plan_.generator_steps + i, keys);
    }
  }

  // D ascends on m real and m fake rows side by side; the fakes come without a way back into G.
  const uint64_t* discriminator_step(const Team& team, int64_t it, int64_t draw, const uint64_t* keys) {
    undo_.save(team);
    generate(team, purpose::noise_d, draw, keys);
    keys += plan_.generator.network.keys;
    const Sections sections = sections_of_d(keys);
    team.barrier();
    show(team, draw, sections);
    slopes_of_d(team, sections, 1.0);
    way_back(team, sections);
    penalize(team, draw, keys);
    team.barrier();
    apply(team, of_d_, columns_of_d(), draw - call_.first * plan_.k);
    if (team.rank == 0) judge(record_d(metrics(it), sections));
    bound(team, of_d_);
    undo_.settle(team, {&of_d_});
    return keys + (penalized_ ? 3 : 2) * plan_.discriminator.network.keys;
  }

  // G descends through a D that stays as it is: gradients of D's weights are not computed.
  const uint64_t* generator_step(const Team& team, int64_t it, int64_t number, const uint64_t* keys) {
    const int64_t m = plan_.batch, d_keys = plan_.discriminator.network.keys;
    undo_.save(team);
    const Sections of_g = generate(team, purpose::noise_g, number, keys);
    keys += plan_.generator.network.keys;
    Sections sections{{0, m, keys}, {second_, m, keys + d_keys}};  // the second one: D(x) after D's update
    sections.count = plan_.relativistic ? 2 : 1;
    team.barrier();  // also: D's update is done
    const bool in_place = plan_.pack == 1 && !plan_.relativistic;  // D reads G's output, and writes its gradient, where it lies
    Network<T>& d = in_place ? d_on_g_ : d_;
    for (const Share& share : shares(team, sections)) {
      if (!in_place) show_fakes(sections[0], share);
      if (plan_.relativistic) show_real((it + 1) * plan_.k - 1, sections[1], share);
      d.forward(team, share, sections);
    }
    slopes_of_g(team, sections, sections[0]);
    for (const Share& share : shares(team, sections)) d.backward(team, share, sections, 0, true);
    if (!in_place) return_gradients(team, sections, sections[0]);
    g_.backward(team, share_of<T>(m * plan_.pack, team.rank, team.size), of_g, 0, false);
    team.barrier();
    if (team.rank == 0) judge(record_g(metrics(it), sections[0]));
    apply(team, of_g_, Columns(m * plan_.pack), number - call_.first * plan_.generator_steps);
    bound(team, of_g_);
    undo_.settle(team, {&of_g_});
    average(team);
    return keys + d_keys * sections.size();
  }

  // The original code's rule: one real and one fake batch for both losses, both gradients taken before either update.
  void simultaneous_step(const Team& team, int64_t it, const uint64_t* keys) {
    const int64_t m = plan_.batch, update = it - call_.first;
    undo_.save(team);
    const Sections of_g = generate(team, purpose::noise_d, it, keys);
    keys += plan_.generator.network.keys;
    const Sections sections = sections_of_d(keys);
    team.barrier();
    show(team, it, sections);
    slopes_of_g(team, sections, sections[1]);
    for (const Share& share : shares(team, sections)) d_.backward(team, share, sections, 0, true);
    return_gradients(team, sections, sections[1]);
    if (team.rank == 0) judge(record_g(metrics(it), sections[1]));
    g_.backward(team, share_of<T>(m * plan_.pack, team.rank, team.size), of_g, 0, false);
    team.barrier();  // the values of G's loss have been read
    slopes_of_d(team, sections, 0.5);
    way_back(team, sections);
    penalize(team, it, keys);
    team.barrier();
    apply(team, of_g_, Columns(m * plan_.pack), update);
    apply(team, of_d_, columns_of_d(), update);
    if (team.rank == 0) judge(record_d(metrics(it), sections, 0.5));
    bound(team, of_g_);
    bound(team, of_d_);
    undo_.settle(team, {&of_g_, &of_d_});
    average(team);
  }

  // ---------------------------------------------------------------- parts of a step

  // G(z) for this thread's share, in G's output; gives the sections that G's way back needs.
  Sections generate(const Team& team, uint32_t purpose, int64_t step, const uint64_t* keys) {
    const int64_t rows = plan_.batch * plan_.pack;
    const Share share = share_of<T>(rows, team.rank, team.size);
    this->draw_noise({plan_.seed, purpose, 0, uint64_t(step)}, share.first, std::min(share.last, rows));
    const Sections whole{{0, rows, keys}};
    g_.forward(team, share, whole);
    return whole;
  }

  // Real rows and fakes, and D's logits of them.
  void show(const Team& team, int64_t draw, const Sections& sections) {
    for (const Share& share : shares(team, sections)) {
      show_real(draw, sections[0], share);
      show_fakes(sections[1], share);
      d_.forward(team, share, sections);
    }
  }

  void way_back(const Team& team, const Sections& sections) {
    for (const Share& share : shares(team, sections)) d_.backward(team, share, sections, 0, false);
  }

  void penalize(const Team& team, int64_t draw, const uint64_t* keys) {
    if (!penalized_) return;
    const int64_t m = plan_.batch;
    const Section where{3 * second_, m, keys + 2 * plan_.discriminator.network.keys};
    const Share rows = share_of<T>(m, team.rank, team.size);
    const Share columns{where.first + rows.first, where.first + rows.last};
    show_between(draw, where, rows);
    d_.forward(team, columns, {where});
    each_logit(where, columns, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(1)); });
    d_.backward(team, columns, {where}, 0, true);
    T* scratch = PenaltyPass<T>::scratch_of(bent_, d_, rows, team.rank);
    PenaltyPass<T>(d_, where, 2 * second_, scratch)
        .run(rows, plan_.penalty, T(plan_.penalty_weight / double(m)), penalties_);
  }

  // ---------------------------------------------------------------- updates

  double* metrics(int64_t it) const { return call_.metrics + (it - call_.first) * kMetrics; }

  void judge(double loss) {
    if (!std::isfinite(loss)) undo_.doubt();
  }

  // Gradients of this thread's part of the parameters, each spent at once. update: of this call, counted from 0.
  void apply(const Team& team, const Player& player, const Columns& columns, int64_t update) {
    const int64_t step = player.made + update + 1 - player.skipped;
    const auto spend = [&](const auto& rule) {
      const Update<T, std::decay_t<decltype(rule)>> sink{rule, player.plan};
      player.network.parameter_gradients(part_of(player.parts, team), columns, sink);
    };
    const Schedule& schedule = player.schedule;
    with_rule<T>(player.plan.optimizer, schedule.rate_at(update), schedule.momentum_at(update), step, spend);
  }

  // The bound on norms: of whole units, so all of the update comes before.
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
  void average(const Team& team) {
    if (!(plan_.average_decay > 0)) return;
    team.barrier();
    const T keep = T(1.0 - plan_.average_decay);
    each_parameter(plan_.generator, [&](const ParameterPlan& parameter, int64_t n) {
      if (!parameter.average) return;
      const T* p = static_cast<const T*>(parameter.value);
      T* mean = static_cast<T*>(parameter.average);
      for (int64_t i = n * team.rank / team.size; i < n * (team.rank + 1) / team.size; ++i) mean[i] += keep * (p[i] - mean[i]);
    });
  }

  // ---------------------------------------------------------------- memory and keys

  void place(Arena<T>& arena) {
    Losses<T>::place(arena);
    undo_.place(arena);
    if (penalized_) bent_ = arena.take(PenaltyPass<T>::scratch_size(d_, second_, threads_));
  }

  void draw_keys(int64_t it) {
    for (size_t i = 0; i < keys_.size(); ++i) keys_[i] = dropout_seed(plan_.seed, it, int64_t(i));
  }

  TrainCall& call_;
  const int forced_, threads_;
  Network<T> d_on_g_ = d_;
  Player of_g_, of_d_;
  Undo<T> undo_;
  std::vector<uint64_t> keys_;
  T* bent_ = nullptr;  // what the penalty bends back: a region a thread
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
