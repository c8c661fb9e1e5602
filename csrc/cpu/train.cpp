// Algorithm 1 of Goodfellow et al. (2014), whole iterations: noise, G, D, losses, backward, optimisers, nothing in between.
//
// Every thread runs the same function on its share. A step has two halves: forward and backward, where a thread has part of
// the batch and goes through all layers without waiting for anyone; then the parameters' gradients, where it has part of the
// weights and updates each tile as it leaves the registers. Nothing is allocated, and no gradient of a weight is ever stored.
#include "../train.h"

#include <atomic>
#include <cstring>
#include <random>

#include "../dtypes.h"
#include "loss.h"
#include "network.h"
#include "noise.h"
#include "penalty.h"
#include "update.h"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

// A memory range that an update may change.
struct Span {
  void* data;
  size_t bytes;
};

template <class T>
class Trainer {
 public:
  Trainer(const TrainPlan& plan, TrainCall& call)
      : plan_(plan),
        call_(call),
        g_(plan.generator.network, plan.generator.parameters),
        d_(plan.discriminator.network, plan.discriminator.parameters),
        g_parts_(g_.gradient_parts()),
        d_parts_(d_.gradient_parts()),
        penalized_(plan.penalty != Penalty::none),
        second_(penalized_ ? padded(plan.batch) : plan.batch),
        spans_(plan.skip_nonfinite ? spans() : std::vector<Span>()) {
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
    draw_keys(call_.first);
    Pace& pace = call_.workspace->pace;
    while (done_ < call_.count)
      with_team(pace.begin(call_.threads), [&](const Team& team) {
        do {
          iterate(team, call_.first + done_);
          if (team.rank == 0) {
            ++done_;
            draw_keys(call_.first + done_);
            go_on_ = pace.go_on() && done_ < call_.count;
          }
          team.barrier();
        } while (go_on_);
      });
    call_.generator_updates += call_.count * plan_.generator_steps - g_skipped_;
    call_.discriminator_updates += call_.count * plan_.k - d_skipped_;
  }

 private:
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
    save(team);
    generate(team, purpose::noise_d, draw, keys);
    keys += plan_.generator.network.keys;
    const Sections sections = sections_of_d(keys);
    team.barrier();
    show(team, draw, sections);
    slopes_of_d(team, sections, 1.0);
    way_back(team, sections);
    penalize(team, draw, keys);
    team.barrier();
    const int64_t update = draw - call_.first * plan_.k;
    apply(team, plan_.discriminator, d_, d_parts_, columns_of_d(), call_.discriminator_schedule, update,
          call_.discriminator_updates + update + 1 - d_skipped_);
    if (team.rank == 0) record_d(it, sections);
    settle(team, plan_.discriminator, d_skipped_);
    return keys + (penalized_ ? 3 : 2) * plan_.discriminator.network.keys;
  }

  // G descends through a D that stays as it is: gradients of D's weights are not computed.
  const uint64_t* generator_step(const Team& team, int64_t it, int64_t number, const uint64_t* keys) {
    const int64_t m = plan_.batch, d_keys = plan_.discriminator.network.keys;
    save(team);
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
    if (team.rank == 0) record_g(it, sections[0]);
    const int64_t update = number - call_.first * plan_.generator_steps;
    apply(team, plan_.generator, g_, g_parts_, Columns(m * plan_.pack), call_.generator_schedule, update,
          call_.generator_updates + update + 1 - g_skipped_);
    settle(team, plan_.generator, g_skipped_);
    average(team);
    return keys + d_keys * sections.size();
  }

  // The original code's rule: one real and one fake batch for both losses, both gradients taken before either update.
  void simultaneous_step(const Team& team, int64_t it, const uint64_t* keys) {
    const int64_t m = plan_.batch, update = it - call_.first;
    save(team);
    const Sections of_g = generate(team, purpose::noise_d, it, keys);
    keys += plan_.generator.network.keys;
    const Sections sections = sections_of_d(keys);
    team.barrier();
    show(team, it, sections);
    slopes_of_g(team, sections, sections[1]);
    for (const Share& share : shares(team, sections)) d_.backward(team, share, sections, 0, true);
    return_gradients(team, sections, sections[1]);
    if (team.rank == 0) record_g(it, sections[1]);
    g_.backward(team, share_of<T>(m * plan_.pack, team.rank, team.size), of_g, 0, false);
    team.barrier();  // the values of G's loss have been read
    slopes_of_d(team, sections, 0.5);
    way_back(team, sections);
    penalize(team, it, keys);
    team.barrier();
    apply(team, plan_.generator, g_, g_parts_, Columns(m * plan_.pack), call_.generator_schedule, update,
          call_.generator_updates + update + 1 - g_skipped_);
    apply(team, plan_.discriminator, d_, d_parts_, columns_of_d(), call_.discriminator_schedule, update,
          call_.discriminator_updates + update + 1 - d_skipped_);
    if (team.rank == 0) record_d(it, sections, 0.5);
    settle(team, plan_.generator, g_skipped_, &plan_.discriminator, &d_skipped_);
    average(team);
  }

  // ---------------------------------------------------------------- the parts of D's batch

  // Real and fake side by side. With a penalty each begins a panel, and two more follow: see penalty.h.
  Sections sections_of_d(const uint64_t* keys) const {
    return {{0, plan_.batch, keys}, {second_, plan_.batch, keys + plan_.discriminator.network.keys}};
  }

  Columns columns_of_d() const {
    const int64_t m = plan_.batch;
    if (!penalized_) return Columns(2 * m);
    if (!curved_) return {3 * second_, {0, second_ + m}, {3 * second_, 3 * second_}};
    return {3 * second_ + m, {0, second_ + m}, {3 * second_, 3 * second_ + m}};
  }

  // This thread's columns: of all sections together, or, where they stand apart, of each.
  struct Shares {
    Share all[2];
    int count;
    const Share* begin() const { return all; }
    const Share* end() const { return all + count; }
  };
  Shares shares(const Team& team, const Sections& sections) const {
    if (!penalized_) return {{share_of<T>(plan_.batch * sections.size(), team.rank, team.size), {}}, 1};
    const Share rows = share_of<T>(plan_.batch, team.rank, team.size);
    return {{rows, {second_ + rows.first, second_ + rows.last}}, int(sections.size())};
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
    PenaltyPass<T>(d_, where, 2 * second_, bent_)
        .run(rows, plan_.penalty, T(plan_.penalty_weight / double(m)), penalties_);
  }

  // Where the penalty looks: at random points between real and fake rows, or at one of them.
  void show_between(int64_t draw, const Section& where, Share rows) {
    const int64_t n = d_.inputs(), last = std::min(rows.last, where.rows);
    T mix[kPanel<T>];
    each_panel<T>({rows.first, last}, [&](int64_t p, int lane, int lanes) {
      if (plan_.penalty == Penalty::wgan_gp)
        fill_random(mix, lanes, false, {plan_.seed, purpose::penalty, 0, uint64_t(draw)}, p * kPanel<T> + lane);
      else
        std::fill_n(mix, lanes, plan_.penalty == Penalty::r1 ? T(1) : T(0));
      const T* real = d_.input + p * n * kPanel<T> + lane;
      const T* fake = real + second_ * n;
      T* out = d_.input + p * n * kPanel<T> + lane + where.first * n;
      for (int64_t f = 0; f < n; ++f, real += kPanel<T>, fake += kPanel<T>, out += kPanel<T>)
        for (int j = 0; j < lanes; ++j) out[j] = mix[j] * real[j] + (T(1) - mix[j]) * fake[j];
    });
  }

  // ---------------------------------------------------------------- what D is shown

  // G(z) for this thread's share, in G's output; gives the sections that G's way back needs.
  Sections generate(const Team& team, uint32_t purpose, int64_t step, const uint64_t* keys) {
    const int64_t rows = plan_.batch * plan_.pack;
    const Share share = share_of<T>(rows, team.rank, team.size);
    draw_noise({plan_.seed, purpose, 0, uint64_t(step)}, share.first, std::min(share.last, rows));
    const Sections whole{{0, rows, keys}};
    g_.forward(team, share, whole);
    return whole;
  }

  void draw_noise(const Stream& stream, int64_t first, int64_t last) {
    const int64_t n = plan_.latent;
    T* z = noise_ + first * n;
    fill_random(z, (last - first) * n, plan_.prior != Prior::uniform, stream, first * n);
    if (plan_.prior == Prior::uniform) {
      for (int64_t i = 0; i < (last - first) * n; ++i) z[i] = centred(z[i]);
    } else if (plan_.prior == Prior::spherical) {
      for (int64_t row = 0; row < last - first; ++row) {
        T square = 0;
        for (int64_t i = 0; i < n; ++i) square += z[row * n + i] * z[row * n + i];
        for (int64_t i = 0; i < n; ++i) z[row * n + i] /= std::sqrt(square);
      }
    }
    to_panels(noise_, n, g_.input, 0, first, last);
  }

  // The rows of a section that a share of D's columns holds.
  static Share rows_in(const Section& section, Share share) {
    return {std::clamp<int64_t>(share.first - section.first, 0, section.rows),
            std::clamp<int64_t>(share.last - section.first, 0, section.rows)};
  }

  // Real rows of a draw: each of D's is `pack` of the data, as the keyed shuffle of their epoch orders them.
  void show_real(int64_t draw, const Section& section, Share share) {
    const Share rows = rows_in(section, share);
    const int64_t each = plan_.features, batches = plan_.rows / (plan_.batch * plan_.pack);
    const Permutation shuffle(uint64_t(plan_.rows), plan_.seed, purpose::rows, uint64_t(draw / batches));
    const int64_t position = draw % batches * plan_.batch * plan_.pack;
    constexpr int lanes = 16;
    uint64_t row[lanes];
    for (int64_t i = rows.first * plan_.pack, last = rows.last * plan_.pack; i < last; i += lanes) {
      shuffle.several<lanes>(uint64_t(position + i), row);
      for (int64_t j = 0; j < std::min<int64_t>(lanes, last - i); ++j)
        for (int64_t f = 0; f < each; ++f)
          staging_[(i + j) * each + f] = static_cast<const T*>(plan_.data)[int64_t(row[j]) * each + f];
    }
    to_panels(staging_, d_.inputs(), d_.input, section.first, rows.first, rows.last);
  }

  void show_fakes(const Section& section, Share share) {
    const Share rows = rows_in(section, share);
    T* fakes = staging_ + plan_.batch * d_.inputs();
    from_panels(g_.output(), g_.outputs(), fakes, 0, rows.first * plan_.pack, rows.last * plan_.pack);
    to_panels(fakes, d_.inputs(), d_.input, section.first, rows.first, rows.last);
  }

  // The gradient that D's input has from its fakes becomes that of G's output.
  void return_gradients(const Team& team, const Sections& sections, const Section& section) {
    T* fakes = staging_ + plan_.batch * d_.inputs();
    for (const Share& share : shares(team, sections)) {
      const Share rows = rows_in(section, share);
      from_panels(d_.grad_input, d_.inputs(), fakes, section.first, rows.first, rows.last);
    }
    team.barrier();
    const int64_t m = plan_.batch * plan_.pack;
    const Share of_g = share_of<T>(m, team.rank, team.size);
    to_panels(fakes, g_.outputs(), g_.grad_output(), 0, of_g.first, std::min(of_g.last, m));
  }

  // ---------------------------------------------------------------- losses

  // Values and slopes of a loss over a section of D's logits; both are scaled like the mean they are part of.
  void slopes(const LossPlan& loss, const Section& section, Share share, double weight) {
    const ChunkLoops<T> loops = find_loops<T>(loss.formula);
    const T scale = T(weight / double(section.rows * d_.outputs()));
    each_logit(section, share, [&](int64_t at, int lanes) {
      loops.value_and_slope(d_.output() + at, lanes, T(loss.target), scale, values_ + at, d_.grad_output() + at);
    });
  }

  template <class Function>
  void each_logit(const Section& section, Share share, Function&& f) {
    const Share mine{std::max(share.first, section.first), std::min(share.last, section.first + section.rows)};
    each_panel<T>(mine, [&](int64_t p, int lane, int lanes) {
      for (int64_t q = 0; q < d_.outputs(); ++q) f((p * d_.outputs() + q) * kPanel<T> + lane, lanes);
    });
  }

  // The loss of the difference (a - b) of two sections, row by row; b gets the opposite slope, or none.
  void paired_slopes(const LossPlan& loss, const Section& a, const Section& b, Share share,
                     double weight, bool slope_of_b) {
    const ChunkLoops<T> loops = find_loops<T>(loss.formula);
    const T scale = T(weight / double(a.rows * d_.outputs()));
    for (const Section* section : {&a, &b})
      each_logit(*section, share, [&](int64_t at, int lanes) {
        for (int j = 0; j < lanes; ++j) {
          const int64_t other = column_of(at + j) + (section == &a ? b.first - a.first : a.first - b.first);
          const T mine = d_.output()[at + j], theirs = d_.output()[place_of(other, at + j)];
          const T difference = section == &a ? mine - theirs : theirs - mine;
          T value, slope;
          loops.value_and_slope(&difference, 1, T(loss.target), scale, &value, &slope);
          values_[at + j] = section == &a ? value : T(0);
          d_.grad_output()[at + j] = section == &a ? slope : slope_of_b ? -slope : T(0);
        }
      });
  }

  int64_t column_of(int64_t at) const { return at / (d_.outputs() * kPanel<T>) * kPanel<T> + at % kPanel<T>; }
  int64_t place_of(int64_t column, int64_t like) const {  // of the same feature
    const int64_t q = like / kPanel<T> % d_.outputs();
    return (column / kPanel<T> * d_.outputs() + q) * kPanel<T> + column % kPanel<T>;
  }

  void slopes_of_d(const Team& team, const Sections& sections, double weight) {
    if (plan_.relativistic) team.barrier();  // logits of one pair may belong to two threads
    for (const Share& share : shares(team, sections)) {
      if (plan_.relativistic) {
        paired_slopes(plan_.real, sections[0], sections[1], share, weight, true);
      } else {
        slopes(plan_.real, sections[0], share, weight);
        slopes(plan_.fake, sections[1], share, weight);
      }
    }
  }

  // Beside the fakes there may be real rows: there G's loss has no slope.
  void slopes_of_g(const Team& team, const Sections& sections, const Section& fake) {
    if (plan_.relativistic) team.barrier();
    const Section& real = &fake == &sections[0] ? sections[1] : sections[0];
    for (const Share& share : shares(team, sections)) {
      if (plan_.relativistic) {
        paired_slopes(plan_.generated, fake, real, share, 1.0, false);
        continue;
      }
      slopes(plan_.generated, fake, share, 1.0);
      if (sections.size() > 1)
        each_logit(real, share, [&](int64_t at, int lanes) { std::fill_n(d_.grad_output() + at, lanes, T(0)); });
    }
  }

  double mean_value(const Section& section) {
    double sum = 0;
    each_logit(section, {0, INT64_MAX}, [&](int64_t at, int lanes) {
      for (int j = 0; j < lanes; ++j) sum += double(values_[at + j]);
    });
    return sum / double(section.rows * d_.outputs());
  }

  void record_d(int64_t it, const Sections& sections, double weight = 1.0) {
    double* metrics = call_.metrics + (it - call_.first) * kMetrics;
    double loss = 0;
    for (int i = 0; i < 2; ++i) {
      const Section& section = sections[size_t(i)];
      loss += mean_value(section);
      double probability = 0, right = 0;
      each_logit(section, {0, INT64_MAX}, [&](int64_t at, int lanes) {
        for (int j = 0; j < lanes; ++j) {
          const T l = d_.output()[at + j];
          probability += double(sigmoid(l));
          right += double(i == 0 ? l > T(0) : l < T(0));  // a NaN is neither
        }
      });
      metrics[2 + i] = probability / double(section.rows * d_.outputs());
      metrics[4 + i] = right / double(section.rows * d_.outputs());
    }
    metrics[0] = weight * loss;
    if (penalized_)
      for (int64_t i = 0; i < plan_.batch; ++i) metrics[0] += double(penalties_[i]);
    if (!std::isfinite(metrics[0])) finite_ = false;
  }

  void record_g(int64_t it, const Section& fake) {
    const double loss = mean_value(fake);
    call_.metrics[(it - call_.first) * kMetrics + 1] = loss;
    if (!std::isfinite(loss)) finite_ = false;
  }

  // ---------------------------------------------------------------- updates

  // Gradients of this thread's part of the parameters, each spent at once. step: of the optimiser, counted from 1.
  void apply(const Team& team, const PlayerPlan& player, Network<T>& network, const std::vector<GradientPart>& parts,
             const Columns& columns, const Schedule& schedule, int64_t update, int64_t step) {
    bool finite = true;
    with_rule<T>(player.optimizer, schedule.rate_at(update), schedule.momentum_at(update), step, [&](const auto& rule) {
      const Update<T, std::decay_t<decltype(rule)>> sink{rule, player, plan_.skip_nonfinite ? &finite : nullptr};
      network.parameter_gradients(part_of(parts, team), columns, sink);
    });
    if (!finite) finite_ = false;
  }

  // What must wait for the whole update: the bound on norms, and taking back what is not finite.
  void settle(const Team& team, const PlayerPlan& player, int64_t& skipped, const PlayerPlan* other = nullptr,
              int64_t* other_skipped = nullptr) {
    for (const PlayerPlan* p : {&player, other})
      if (p && p->optimizer.max_norm > 0) {
        team.barrier();
        for (size_t i = 0; i < p->parameters.size(); ++i) {
          const LayerPlan& l = p->network.layers[i];
          const int64_t rows = l.outputs * l.pieces;
          bound_norms(static_cast<T*>(p->parameters[i].weight.value), l.inputs, rows * team.rank / team.size,
                      rows * (team.rank + 1) / team.size, p->optimizer.max_norm);
        }
      }
    if (spans_.empty()) return;
    team.barrier();
    if (!finite_) copy_spans(team, false);
    team.barrier();
    if (team.rank == 0 && !finite_) {
      ++skipped;
      if (other_skipped) ++*other_skipped;
      finite_ = true;
    }
    team.barrier();
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

  template <class Function>
  static void each_parameter(const PlayerPlan& player, Function&& f) {
    for (size_t i = 0; i < player.parameters.size(); ++i) {
      const LayerPlan& l = player.network.layers[i];
      const LayerParameters& p = player.parameters[i];
      const int64_t rows = l.outputs * l.pieces;
      f(p.weight, rows * l.inputs);
      f(p.bias, rows);
      f(p.norm_scale, l.outputs);
      f(p.norm_shift, l.outputs);
    }
  }

  // ---------------------------------------------------------------- taking an update back

  std::vector<Span> spans() const {
    std::vector<Span> found;
    const auto add = [&](void* data, size_t bytes) {
      if (data) found.push_back({data, bytes});
    };
    for (const PlayerPlan* player : {&plan_.generator, &plan_.discriminator}) {
      each_parameter(*player, [&](const ParameterPlan& p, int64_t n) {
        for (void* data : {p.value, p.state0, p.state1}) add(data, size_t(n) * sizeof(T));
      });
      for (size_t i = 0; i < player->parameters.size(); ++i) {
        const LayerParameters& p = player->parameters[i];
        const size_t n = size_t(player->network.layers[i].outputs);
        add(p.running_mean, n * sizeof(T));
        add(p.running_variance, n * sizeof(T));
        add(p.batches, sizeof(int64_t));
      }
    }
    return found;
  }

  void save(const Team& team) {
    if (spans_.empty()) return;
    copy_spans(team, true);
    team.barrier();
  }

  void copy_spans(const Team& team, bool save) {
    char* saved = reinterpret_cast<char*>(undo_);
    for (size_t i = 0; i < spans_.size(); saved += spans_[i++].bytes)
      if (int(i) % team.size == team.rank)
        save ? std::memcpy(saved, spans_[i].data, spans_[i].bytes) : std::memcpy(spans_[i].data, saved, spans_[i].bytes);
  }

  // ---------------------------------------------------------------- memory and keys

  void place(Arena<T>& arena) {
    const int64_t m = plan_.batch;
    g_.place_forward(arena, m * plan_.pack);
    g_.place_backward(arena, m * plan_.pack);
    const int64_t rows_of_d = penalized_ ? 4 * second_ : 2 * m;
    d_.place_forward(arena, rows_of_d, 2);
    d_.place_backward(arena, rows_of_d);
    noise_ = arena.take(m * plan_.pack * plan_.latent);
    staging_ = arena.take(2 * m * d_.inputs());
    values_ = arena.take(padded(2 * second_) * d_.outputs());
    if (penalized_) {
      int64_t widest = 0;
      for (const Layer<T>& l : d_.layers()) {
        widest = std::max({widest, l.rows(), l.plan.inputs});
        curved_ = curved_ || find_bend<T>(l.plan.activation);
      }
      bent_ = arena.take(widest * second_);
      penalties_ = arena.take(second_);
    }
    size_t bytes = 0;
    for (const Span& span : spans_) bytes += span.bytes;
    undo_ = arena.take(int64_t((bytes + sizeof(T) - 1) / sizeof(T)));
  }

  // The keys of an iteration's dropout masks, as the modules would draw them: torch's generator (a Mersenne twister), seeded
  // for the iteration, gives 64 bits a key.
  void draw_keys(int64_t it) {
    if (keys_.empty()) return;
    const Words words = Stream{plan_.seed, purpose::key, 0, uint64_t(it)}.block(0);
    std::mt19937 twister(words.w[0]);
    for (uint64_t& key : keys_) {
      const uint64_t high = twister(), low = twister();
      key = ((high << 32) | low) % ((uint64_t(1) << 63) - 1);
    }
  }

  const TrainPlan& plan_;
  TrainCall& call_;
  Network<T> g_, d_, d_on_g_ = d_;
  const std::vector<GradientPart> g_parts_, d_parts_;
  const bool penalized_;
  const int64_t second_;  // the column at which the second section of D's batch begins
  const std::vector<Span> spans_;
  std::vector<uint64_t> keys_;
  T *noise_ = nullptr, *staging_ = nullptr, *values_ = nullptr, *undo_ = nullptr;
  T *bent_ = nullptr, *penalties_ = nullptr;
  bool curved_ = false;
  int64_t done_ = 0, g_skipped_ = 0, d_skipped_ = 0;
  bool go_on_ = true;
  std::atomic<bool> finite_{true};
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
