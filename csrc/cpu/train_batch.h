// Inputs of both networks: noise for G; the real half and the fake half for D and, with a penalty, the rows where it is
// evaluated. In a conditional GAN, one-hot labels of the minibatch's rows are the last inputs of both networks; fakes
// have the labels of the real rows.
#pragma once
#include "../train.h"
#include "network.h"
#include "noise.h"
#include "penalty.h"
#include "sampled.h"

namespace fastgan::inline FASTGAN_ISA {

template <class T>
class Batches {
 protected:
  explicit Batches(const TrainPlan& plan)
      : plan_(plan),
        table_(plan),
        g_(plan.generator.network, plan.generator.parameters),
        d_(plan.discriminator.network, plan.discriminator.parameters),
        penalized_(int64_t(plan.penalties.size())),
        second_derivative_(penalized_ > 0 && has_second_derivative(d_)),
        apart_(penalized_ > 0 || d_.lists()),
        second_(apart_ ? padded(plan.batch) : plan.batch) {}

  void place(Arena<T>& arena) {
    const int64_t m = plan_.batch, rows_of_d = apart_ ? where(penalized_) : 2 * m;
    g_.place_forward(arena, m * plan_.pack);
    g_.place_backward(arena, m * plan_.pack);
    d_.place_forward(arena, rows_of_d, 2);
    d_.place_backward(arena, rows_of_d);
    noise_ = arena.allocate(m * plan_.pack * plan_.latent);
    staging_ = arena.allocate(2 * m * sample_width());
    if (plan_.table.sampled) labels_ = reinterpret_cast<int32_t*>(arena.allocate(m * plan_.pack));
    if (g_.lists()) g_.entries.place(arena, plan_.latent + plan_.classes, m * plan_.pack, 1);
    if (d_.lists())
      d_.entries.place(arena, sample_width() + plan_.classes * plan_.pack, second_ + m, entries_of_real());
    numbers_ = reinterpret_cast<int64_t*>(arena.allocate(m * plan_.pack * int64_t(sizeof(int64_t) / sizeof(float))));
  }

  // The inputs of D before the labels.
  int64_t sample_width() const { return plan_.features * plan_.pack; }

  // ---------------------------------------------------------------- the parts of D's batch

  // Real and fake rows are adjacent. With penalties, or if real rows are listed, each starts at a multiple of
  // kBlockRows. Two more sub-batches follow for each penalty (penalty.h): first all tangents, then the rows where each
  // is evaluated. These functions return their first columns.
  int64_t tangent(int64_t penalty) const { return (2 + penalty) * second_; }
  int64_t where(int64_t penalty) const { return (2 + penalized_ + penalty) * second_; }

  SubBatches sub_batches_of_d(const uint64_t* dropout_seeds) const {
    return {{0, plan_.batch, dropout_seeds},
            {second_, plan_.batch, dropout_seeds + plan_.discriminator.network.dropout_seeds}};
  }

  Columns columns_of_d() const {
    const int64_t m = plan_.batch;
    if (!apart_) return Columns(2 * m);
    if (!second_derivative_) {
      Columns columns{where(0), {0, second_ + m}, {where(0), where(0)}};
      columns.first_given = d_.lists() ? second_ : 0;
      return columns;
    }
    const int64_t last = where(penalized_ - 1) + m;
    return {last, {0, second_ + m}, {where(0), last}};
  }

  // This thread's columns: of all sub-batches together if they are adjacent, else of each one.
  struct ColumnRanges {
    ColumnRange all[2];
    int count;
    const ColumnRange* begin() const { return all; }
    const ColumnRange* end() const { return all + count; }
  };
  ColumnRanges ranges(const Team& team, const SubBatches& sub_batches) const {
    if (!apart_) return {{partition<T>(plan_.batch * sub_batches.size(), team.rank, team.size), {}}, 1};
    const ColumnRange rows = partition<T>(plan_.batch, team.rank, team.size);
    return {{rows, {second_ + rows.first, second_ + rows.last}}, int(sub_batches.size())};
  }

  // ---------------------------------------------------------------- what is shown

  // If rows are drawn by their labels, this draws the labels of G's step, and choose_rows() those of D's.
  void draw_noise(const Stream& stream, int64_t first, int64_t last) {
    const bool of_g = stream.purpose == purpose::noise_g;
    if (plan_.table.sampled && of_g) table_.draw_labels(stream.purpose, int64_t(stream.step), first, last, labels_);
    list_labels(of_g ? 0 : second_, first, last);
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
    to_blocked(noise_, n, g_.input, g_.inputs(), 0, first, last);
    if (plan_.classes > 0 && !g_.lists()) show_labels(g_, n, 1, 0, {first, last});
  }

  // Draws the indices of a minibatch's rows first .. last: from the epoch's shuffle, or by their labels.
  void choose_rows(int64_t draw, int64_t first, int64_t last) {
    if (plan_.table.sampled) {
      table_.draw_labels(purpose::noise_d, draw, first, last, labels_);
      table_.draw_rows(purpose::noise_d, draw, first, last, labels_, numbers_);
      if (d_.lists()) list_real(first, last);
      return;
    }
    const int64_t each = plan_.batch * plan_.pack, batches = plan_.rows / each, position = draw % batches * each;
    const Permutation shuffle(uint64_t(plan_.rows), plan_.seed, purpose::rows, uint64_t(draw / batches));
    constexpr int lanes = Permutation::count;
    uint64_t row[lanes];
    for (int64_t i = first; i < last; i += lanes) {
      shuffle.several(uint64_t(position + i), row);
      for (int64_t j = 0; j < std::min<int64_t>(lanes, last - i); ++j) numbers_[i + j] = int64_t(row[j]);
    }
  }

  // ---------------------------------------------------------------- what is listed (entries.h)

  // Entries of a row of D: those of `pack` rows of the data, each with its label last.
  int64_t entries_of_real() const { return plan_.pack * (table_.entries() + (plan_.classes > 0 ? 1 : 0)); }
  int64_t entries_of_fake() const { return plan_.classes > 0 ? plan_.pack : 0; }
  int64_t label_input(int64_t row) const {  // of D
    return sample_width() + row % plan_.pack * plan_.classes + label_of(row);
  }

  void list_real(int64_t first, int64_t last) {
    const int64_t each = entries_of_real() / plan_.pack;
    for (int64_t row = first; row < last; ++row) {
      int64_t entry = row % plan_.pack * each;
      table_.each_entry(numbers_[row], [&](int64_t feature, T value) {
        d_.entries.set(row / plan_.pack, entry++, row % plan_.pack * plan_.features + feature, value);
      });
      if (plan_.classes > 0) d_.entries.set(row / plan_.pack, entry, label_input(row), T(1));
    }
  }

  // The labels of G's batch, and of its fakes in D's batch, from column `fakes` on.
  void list_labels(int64_t fakes, int64_t first, int64_t last) {
    if (plan_.classes == 0) return;
    for (int64_t row = first; row < last; ++row) {
      if (g_.lists()) g_.entries.set(row, 0, plan_.latent + label_of(row), T(1));
      if (d_.lists()) d_.entries.set(fakes + row / plan_.pack, row % plan_.pack, label_input(row), T(1));
    }
  }

  // For the gradients. One thread calls it, after all rows are listed. of_d: whether D's batch is listed.
  void sort_entries(bool of_d) {
    using List = std::initializer_list<typename Entries<T>::ListedRows>;
    const int64_t m = plan_.batch;
    if (g_.lists()) g_.entries.sort(List{{0, m * plan_.pack, 1}});
    if (of_d && d_.lists()) d_.entries.sort(List{{0, m, entries_of_real()}, {second_, m, entries_of_fake()}});
  }

  // Writes labels of the chosen minibatch, `each` for a row of the network, as its inputs from `from` on.
  void show_labels(Network<T>& network, int64_t from, int64_t each, int64_t column, ColumnRange rows) {
    const int64_t n = network.inputs();
    each_block<T>({column + rows.first, column + rows.last}, [&](int64_t p, int lane, int lanes) {
      T* input = network.input + (p * n + from) * kBlockRows<T> + lane;
      for (int64_t f = 0; f < n - from; ++f) std::fill_n(input + f * kBlockRows<T>, lanes, T(0));
      const int64_t first = (p * kBlockRows<T> + lane - column) * each;
      for (int64_t i = 0; i < lanes * each; ++i) {
        const int64_t label = label_of(first + i);
        input[(i % each * plan_.classes + label) * kBlockRows<T> + i / each] = T(1);
      }
    });
  }

  // The rows of a sub-batch within a range of D's columns.
  static ColumnRange rows_in(const SubBatch& sub_batch, ColumnRange range) {
    return {std::clamp<int64_t>(range.first - sub_batch.first, 0, sub_batch.rows),
            std::clamp<int64_t>(range.last - sub_batch.first, 0, sub_batch.rows)};
  }

  // Copies the real rows of the chosen minibatch. A row of D is `pack` rows of the data.
  void show_real(const SubBatch& sub_batch, ColumnRange range) {
    const ColumnRange rows = rows_in(sub_batch, range);
    if (sub_batch.given == Given::listed) return;
    if (plan_.table.sampled) return show_encoded(sub_batch, rows);
    const int64_t each = plan_.features;
    for (int64_t i = rows.first * plan_.pack; i < rows.last * plan_.pack; ++i)
      std::copy_n(static_cast<const T*>(plan_.data) + numbers_[i] * each, each, staging_ + i * each);
    show(staging_, sub_batch, rows);
  }

  void show_encoded(const SubBatch& sub_batch, ColumnRange rows) {
    const int64_t n = d_.inputs(), width = sample_width();
    each_block<T>({sub_batch.first + rows.first, sub_batch.first + rows.last}, [&](int64_t p, int lane, int lanes) {
      T* input = d_.input + p * n * kBlockRows<T> + lane;
      for (int64_t f = 0; f < width; ++f) std::fill_n(input + f * kBlockRows<T>, lanes, T(0));
      const int64_t first = (p * kBlockRows<T> + lane - sub_batch.first) * plan_.pack;
      for (int64_t i = 0; i < lanes * plan_.pack; ++i)
        table_.each_entry(numbers_[first + i], [&](int64_t feature, T value) {
          input[(i % plan_.pack * plan_.features + feature) * kBlockRows<T> + i / plan_.pack] = value;
        });
    });
    if (plan_.classes > 0) show_labels(d_, width, plan_.pack, sub_batch.first, rows);
  }

  void show_fakes(const SubBatch& sub_batch, ColumnRange range) {
    const ColumnRange rows = rows_in(sub_batch, range);
    from_blocked(g_.output(), g_.outputs(), fakes(), 0, rows.first * plan_.pack, rows.last * plan_.pack);
    show(fakes(), sub_batch, rows);
  }

  void show(const T* samples, const SubBatch& sub_batch, ColumnRange rows) {
    const int64_t width = sample_width();
    to_blocked(samples, width, d_.input, d_.inputs(), sub_batch.first, rows.first, rows.last);
    if (plan_.classes > 0 && !d_.lists()) show_labels(d_, width, plan_.pack, sub_batch.first, rows);
  }

  // Copies the gradient at D's fake inputs to the gradient of G's output.
  void return_gradients(const Team& team, const SubBatches& sub_batches, const SubBatch& sub_batch) {
    for (const ColumnRange& range : ranges(team, sub_batches)) {
      const ColumnRange rows = rows_in(sub_batch, range);
      from_blocked(d_.grad_input, d_.inputs(), fakes(), sample_width(), sub_batch.first, rows.first, rows.last);
    }
    team.barrier();
    const int64_t m = plan_.batch * plan_.pack;
    const ColumnRange of_g = partition<T>(m, team.rank, team.size);
    to_blocked(fakes(), g_.outputs(), g_.grad_output(), 0, of_g.first, std::min(of_g.last, m));
  }

  // The rows where a penalty is evaluated: random interpolates of real and fake rows (WGAN-GP), or real (R1) or fake
  // (R2) rows. If real rows are listed, their products in the first layer are interpolated instead.
  void show_interpolates(Penalty kind, int64_t draw, const SubBatch& where, ColumnRange rows) {
    const bool products = d_.lists();
    T* const data = products ? d_.layers().front().affine : d_.input;
    const int64_t n = products ? d_.layers().front().rows() : d_.inputs(), last = std::min(rows.last, where.rows);
    const int64_t mixed = products ? n : sample_width();
    T mix[kBlockRows<T>];
    each_block<T>({rows.first, last}, [&](int64_t p, int lane, int lanes) {
      if (kind == Penalty::wgan_gp)
        fill_random(mix, lanes, false, {plan_.seed, purpose::penalty, 0, uint64_t(draw)}, p * kBlockRows<T> + lane);
      else
        std::fill_n(mix, lanes, kind == Penalty::r1 ? T(1) : T(0));
      const T* real = data + p * n * kBlockRows<T> + lane;
      const T* fake = real + second_ * n;
      T* out = data + p * n * kBlockRows<T> + lane + where.first * n;
      for (int64_t f = 0; f < n; ++f, real += kBlockRows<T>, fake += kBlockRows<T>, out += kBlockRows<T>)
        for (int j = 0; j < lanes; ++j)  // both have the same label
          out[j] = f < mixed ? interpolated(mix[j], real[j], fake[j]) : real[j];
    });
  }

  // The label of a row of the batch.
  int32_t label_of(int64_t row) const { return plan_.table.sampled ? labels_[row] : plan_.labels[numbers_[row]]; }

  const TrainPlan& plan_;
  const SampledTable<T> table_;
  Network<T> g_, d_;
  const int64_t penalized_;       // number of penalties
  const bool second_derivative_;  // there is a penalty, and an activation of D has a nonzero second derivative
  const bool apart_;              // each part of D's batch begins a block
  const int64_t second_;          // the first column of the second sub-batch of D

 private:
  T* fakes() const { return staging_ + plan_.batch * sample_width(); }

  T *noise_ = nullptr, *staging_ = nullptr;  // staging_: D's real and fake rows, row by row
  int64_t* numbers_ = nullptr;               // indices of the minibatch's rows
  int32_t* labels_ = nullptr;                // of the rows, if rows are drawn by labels
};

}  // namespace fastgan::inline FASTGAN_ISA
