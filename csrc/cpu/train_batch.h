// What the two networks are shown, and where it lies: noise for G; real rows and fakes side by side for D and, under a
// penalty, the points between them.
#pragma once
#include "../train.h"
#include "network.h"
#include "noise.h"
#include "penalty.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
class Batches {
 protected:
  explicit Batches(const TrainPlan& plan)
      : plan_(plan),
        g_(plan.generator.network, plan.generator.parameters),
        d_(plan.discriminator.network, plan.discriminator.parameters),
        penalized_(plan.penalty != Penalty::none),
        curved_(penalized_ && curved(d_)),
        second_(penalized_ ? padded(plan.batch) : plan.batch) {}

  void place(Arena<T>& arena) {
    const int64_t m = plan_.batch, rows_of_d = penalized_ ? 4 * second_ : 2 * m;
    g_.place_forward(arena, m * plan_.pack);
    g_.place_backward(arena, m * plan_.pack);
    d_.place_forward(arena, rows_of_d, 2);
    d_.place_backward(arena, rows_of_d);
    noise_ = arena.take(m * plan_.pack * plan_.latent);
    staging_ = arena.take(2 * m * d_.inputs());
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

  // ---------------------------------------------------------------- what is shown

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

  const TrainPlan& plan_;
  Network<T> g_, d_;
  const bool penalized_, curved_;  // curved: an activation of D has a second derivative, and a penalty asks for it
  const int64_t second_;           // the column at which the second section of D's batch begins

 private:
  T *noise_ = nullptr, *staging_ = nullptr;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
