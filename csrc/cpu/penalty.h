// Gradient penalties on the CPU: P(g) with g the slope of D's logit with respect to its input, and the gradient of that with
// respect to D's parameters, by an explicit second-order pass.
//
// With y_i = mask_i phi(a_i), a_i = W_i y_{i-1} + b_i, the way back gives e_i = phi'(a_i) mask_i (W_{i+1}^T e_{i+1}) and
// g = mask_0 W_1^T e_1. Turned around, the gradient t_0 = mask_0 dP/dg runs up again, s_i = W_i t_{i-1},
// t_i = mask_i phi'(a_i) s_i, and dP/dW_i = e_i t_{i-1}^T + q_i y_{i-1}^T, where q_i is what a_i itself feels:
// q_i = phi''(a_i) mask_i (W_{i+1}^T e_{i+1}) s_i + phi'(a_i) mask_i (W_{i+1}^T q_{i+1}), and nothing at all where no
// activation is curved. Both products are of the kind E X^T, so e_i and t_i stand in the batch beside everything else, as
// columns of their own ("turned"), and q_i takes the place of e_i at the rows the penalty looks at ("where").
#pragma once
#include "network.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class F, class T>
void bend_tile(const T* saved, const T* e, const T* s, T* q, int n, T slope) {
  for (int j = 0; j < n; ++j) {
    const T first = F::slope(saved[j], slope);  // e was multiplied by it
    q[j] = first == T(0) ? T(0) : s[j] * e[j] * (F::curvature(saved[j], slope) / first);
  }
}

template <class T>
using Bend = void (*)(const T* saved, const T* e, const T* s, T* q, int n, T slope);

template <class T>
Bend<T> find_bend(int activation) {  // null where the activation has no curvature
  Bend<T> found = nullptr;
  with_activation(activation, [&](auto f) {
    if constexpr (decltype(f)::curved) found = bend_tile<decltype(f), T>;
  });
  return found;
}

// Whether the penalty has a second derivative to follow in some layer.
template <class T>
bool curved(const Network<T>& network) {
  for (const Layer<T>& l : network.layers())
    if (find_bend<T>(l.plan.activation)) return true;
  return false;
}

template <class T>
class PenaltyPass {
 public:
  // The sections start at multiples of kPanel. `scratch`: this thread's own, for the panels that its rows lie in, at the
  // width of widest().
  PenaltyPass(Network<T>& network, Section where, int64_t turned, T* scratch)
      : network_(network), where_(where), turned_(turned), scratch_(scratch), curved_(curved(network)) {}

  // Features of the widest buffer a pass needs.
  static int64_t widest(const Network<T>& network) {
    int64_t features = 0;
    for (const Layer<T>& l : network.layers()) features = std::max({features, l.rows(), l.plan.inputs});
    return features;
  }

  // Elements of the scratch of a whole team, and the part of a thread that has these rows. A region a thread, for threads at
  // different layers use different strides. A panel that two threads share is in both.
  static int64_t scratch_size(const Network<T>& network, int64_t rows, int threads) {
    return widest(network) * (rows + threads * kPanel<T>);
  }
  static T* scratch_of(T* team, const Network<T>& network, Share rows, int rank) {
    return team + (rows.first / kPanel<T> + rank) * kPanel<T> * widest(network);
  }

  // Rows first .. last (multiples of kShareRows), after forward() and backward() over them down to the input, the slope of
  // the logits being 1. Values go to values[row], scaled by `weight` as t_0 is.
  void run(Share rows, Penalty kind, T weight, T* values) {
    turn(rows, kind, weight, values);
    follow(rows);
  }

  // The same for any t_0 without its mask, which is in dropped_input() at the columns of the section `turned`. Afterwards
  // output() holds t of the last layer there.
  void follow(Share rows) {
    const Share where{where_.first + rows.first, where_.first + rows.last};
    const Share turned{turned_ + rows.first, turned_ + rows.last};
    if (network_.input_dropout() > 0)
      drop_turned(network_.dropped_input(), network_.inputs(), turned, network_.input_dropout(), 0, 0);
    const T* t = network_.dropped_input();
    for (Layer<T>& l : network_.layers()) {
      network_.product(l.rows(), l.plan.inputs, {l.weight(), l.plan.inputs, 1}, nullptr, t, scratch_at(turned, l.rows()),
                       turned, Mapped<T>{});
      keep(l, where);
      if (l.plan.dropout > 0)
        drop_turned(l.dropped, l.plan.outputs, turned, l.plan.dropout, l.plan.dropout_key, l.plan.dropout_substream);
      t = l.dropped;
    }
    if (curved_) bend_back(where);
  }

 private:
  // The scratch as a buffer of `features` features whose columns of this share are meant.
  T* scratch_at(Share share, int64_t features) const { return scratch_ - share.first / kPanel<T> * kPanel<T> * features; }
  // From the columns of the section `where` to those of `turned`, in a buffer of `features` features.
  int64_t shift(int64_t features) const { return (turned_ - where_.first) * features; }

  // t_0 = dP/dg, column by column.
  void turn(Share rows, Penalty kind, T weight, T* values) {
    const int64_t n = network_.inputs();
    const T* g = network_.grad_input;
    T* t = network_.dropped_input() + shift(n);
    each_panel<T>({where_.first + rows.first, where_.first + rows.last}, [&](int64_t p, int lane, int lanes) {
      T square[kPanel<T>] = {}, factor[kPanel<T>];
      const int64_t at = p * n * kPanel<T> + lane;
      for (int64_t f = 0; f < n; ++f)
        for (int j = 0; j < lanes; ++j) square[j] += g[at + f * kPanel<T> + j] * g[at + f * kPanel<T> + j];
      T* value = values + (p * kPanel<T> + lane - where_.first);
      for (int j = 0; j < lanes; ++j) {
        if (kind == Penalty::wgan_gp) {
          const T norm = std::sqrt(square[j]);
          value[j] = weight * (norm - T(1)) * (norm - T(1));
          factor[j] = norm == T(0) ? T(0) : T(2) * weight * (norm - T(1)) / norm;  // no slope at a slope of zero
        } else {
          value[j] = T(0.5) * weight * square[j];
          factor[j] = weight;
        }
      }
      for (int64_t f = 0; f < n; ++f)
        for (int j = 0; j < lanes; ++j) t[at + f * kPanel<T> + j] = factor[j] * g[at + f * kPanel<T> + j];
    });
  }

  // From s_i in the scratch: t_i and e_i into the columns of `turned`, q_i's own part into those of `where`.
  void keep(Layer<T>& l, Share where) {
    const int64_t n = l.plan.outputs;
    const int pieces = l.plan.pieces;
    const Bend<T> bend = find_bend<T>(l.plan.activation);
    const T* scratch = scratch_at(where, l.rows());
    each_panel<T>(where, [&](int64_t p, int lane, int lanes) {
      for (int64_t row = 0; row < l.rows(); ++row) {
        const int64_t piece = (p * l.rows() + row) * kPanel<T> + lane;
        const T* s = scratch + piece;
        T* e = l.grad_affine + piece;
        std::copy_n(e, lanes, e + shift(l.rows()));
        if (pieces > 1 || !curved_) continue;
        const T slope = T(l.plan.negative_slope);
        if (bend)
          bend(l.saved() + piece, e, s, e, lanes, slope);
        else
          std::fill_n(e, lanes, T(0));
      }
      for (int64_t u = 0; u < n; ++u) {
        const int64_t at = (p * n + u) * kPanel<T> + lane;
        const T* s = scratch + (p * n + u) * pieces * kPanel<T> + lane;
        T* t = l.dropped + at + shift(n);
        if (pieces > 1) {
          const int64_t piece = (p * n + u) * pieces * kPanel<T> + lane;
          for (int j = 0; j < lanes; ++j) t[j] = s[taken_piece(l, piece + j, at + j) * kPanel<T> + j];
        } else {
          std::copy_n(s, lanes, t);
          if (l.by_slope) l.by_slope(l.saved() + at, t, kPanel<T>, 1, lanes, T(l.plan.negative_slope));
        }
      }
      if (pieces > 1 && curved_)
        for (int64_t row = 0; row < l.rows(); ++row)
          std::fill_n(l.grad_affine + (p * l.rows() + row) * kPanel<T> + lane, lanes, T(0));
    });
  }

  // What the q of higher layers adds to those of lower ones.
  void bend_back(Share where) {
    std::vector<Layer<T>>& layers = network_.layers();
    for (size_t i = layers.size(); i-- > 1;) {
      Layer<T>&l = layers[i], &below = layers[i - 1];
      const int64_t n = below.plan.outputs;
      T* add = scratch_at(where, n);
      network_.product(n, l.rows(), {l.weight(), 1, n}, nullptr, l.grad_affine, add, where, Mapped<T>{});
      if (below.plan.dropout > 0)
        drop(add, add, n, where, where_, below.plan.dropout, where_.keys[below.plan.dropout_key],
             uint32_t(below.plan.dropout_substream));
      if (below.by_slope)
        Mapped<T>{below.by_slope, below.saved(), add, n, T(below.plan.negative_slope)}.all(where);
      each_panel<T>(where, [&](int64_t p, int lane, int lanes) {
        for (int64_t u = 0; u < n; ++u) {
          const int64_t at = (p * n + u) * kPanel<T> + lane;
          if (below.plan.pieces == 1) {
            for (int j = 0; j < lanes; ++j) below.grad_affine[at + j] += add[at + j];
            continue;
          }
          const int64_t piece = (p * n + u) * below.plan.pieces * kPanel<T> + lane;
          for (int j = 0; j < lanes; ++j)
            below.grad_affine[piece + taken_piece(below, piece + j, at + j) * kPanel<T> + j] += add[at + j];
        }
      });
    }
  }

  void drop_turned(T* buffer, int64_t features, Share turned, double p, int key, int substream) {
    drop(buffer, buffer, features, turned, Section{turned_, where_.rows, where_.keys}, p, where_.keys[key], uint32_t(substream));
  }

  Network<T>& network_;
  const Section where_;
  const int64_t turned_;
  T* const scratch_;
  const bool curved_;
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
