// Gradient penalties on the CPU: P(g) with g the gradient of D's logit with respect to its input, and the gradient of
// that with respect to D's parameters, by an explicit second-order pass.
//
// With y_i = mask_i phi(a_i), a_i = W_i y_{i-1} + b_i, the backward pass gives e_i = phi'(a_i) mask_i (W_{i+1}^T
// e_{i+1}) and g = mask_0 W_1^T e_1. Second-order pass: t is the tangent of g (forward mode over the backward pass),
// t_0 = mask_0 dP/dg, s_i = W_i t_{i-1}, t_i = mask_i phi'(a_i) s_i, and dP/dW_i = e_i t_{i-1}^T + q_i y_{i-1}^T, where
// q_i = dP/da_i: q_i = phi''(a_i) mask_i (W_{i+1}^T e_{i+1}) s_i + phi'(a_i) mask_i (W_{i+1}^T q_{i+1}), which is zero
// if all activations are piecewise linear. Both products have the form E X^T, so e_i and t_i are extra columns of the
// batch ("tangent"), and q_i replaces e_i at the rows where the penalty is evaluated ("where").
#pragma once
#include "../penalty.h"
#include "network.h"

namespace fastgan::inline FASTGAN_ISA {

template <class F, class T>
void second_order_tile(const T* saved, const T* e, const T* s, T* q, int n, T negative_slope) {
  for (int j = 0; j < n; ++j)
    q[j] = second_order_term<F>(saved[j], F::derivative(saved[j], negative_slope), e[j], s[j], negative_slope);
}

template <class T>
using SecondOrderTile = void (*)(const T* saved, const T* e, const T* s, T* q, int n, T negative_slope);

template <class T>
SecondOrderTile<T> find_second_order(int activation) {  // null where the activation has no second derivative
  SecondOrderTile<T> found = nullptr;
  with_activation(activation, [&](auto f) {
    if constexpr (decltype(f)::has_second_derivative) found = second_order_tile<decltype(f), T>;
  });
  return found;
}

// Whether some activation of the network has a nonzero second derivative.
template <class T>
bool has_second_derivative(const Network<T>& network) {
  for (const Layer<T>& l : network.layers())
    if (find_second_order<T>(l.plan.activation)) return true;
  return false;
}

template <class T>
class PenaltyPass {
 public:
  // The sub-batches start at multiples of kBlockRows. `scratch`: this thread's own, for the blocks of its rows, with
  // widest() features.
  PenaltyPass(Network<T>& network, SubBatch where, int64_t tangent, T* scratch)
      : network_(network),
        where_(where),
        tangent_(tangent),
        scratch_(scratch),
        second_derivative_(has_second_derivative(network)) {}

  // Features of the widest buffer a pass needs.
  static int64_t widest(const Network<T>& network) {
    int64_t features = 0;
    for (const Layer<T>& l : network.layers()) features = std::max({features, l.rows(), l.plan.buffered()});
    return features;
  }

  // The size of a team's scratch, and the region of a thread with these rows. Each thread has a region, because threads
  // at different layers use different strides. A block that two threads share is in both regions.
  static int64_t scratch_size(const Network<T>& network, int64_t rows, int threads) {
    return widest(network) * (rows + threads * kBlockRows<T>);
  }
  static T* scratch_of(T* team, const Network<T>& network, ColumnRange rows, int rank) {
    return team + (rows.first / kBlockRows<T> + rank) * kBlockRows<T> * widest(network);
  }

  // Rows first .. last (multiples of kPartitionRows), after forward() and backward() over them down to the input, with
  // a gradient of 1 at the logits. The penalty concerns the first `features` inputs, which labels follow. Its values,
  // scaled by `weight` as t_0 is, go to values[row].
  void run(ColumnRange rows, Penalty kind, T weight, int64_t features, T* values) {
    penalty_grad(rows, kind, weight, features, values);
    follow(rows);
  }

  // The same for any t_0 without its mask: dropped_input() has it at the columns of the sub-batch `tangent`. Afterwards
  // these columns of output() are t of the last layer.
  void follow(ColumnRange rows) {
    const ColumnRange where{where_.first + rows.first, where_.first + rows.last};
    const ColumnRange tangent{tangent_ + rows.first, tangent_ + rows.last};
    if (network_.input_dropout() > 0)
      drop_tangent(network_.dropped_input(), network_.inputs(), tangent, network_.input_dropout(), 0, 0);
    const T* t = network_.dropped_input();
    for (Layer<T>& l : network_.layers()) {
      network_.multiply_by_weight(l, nullptr, t, scratch_at(tangent, l.rows()), tangent, Mapped<T>{});
      keep(l, where);
      // The activation's derivative was evaluated after the mask.
      if (l.plan.drops_before_activation() && find_second_order<T>(l.plan.activation))
        drop(l.grad_affine, l.grad_affine, l.plan.outputs, where, where_, l.plan.dropout,
             where_.dropout_seeds[l.plan.dropout_seed_index], uint32_t(l.plan.dropout_substream));
      if (l.plan.dropout > 0)
        drop_tangent(l.dropped, l.plan.outputs, tangent, l.plan.dropout, l.plan.dropout_seed_index,
                     l.plan.dropout_substream);
      t = l.dropped;
    }
    if (second_derivative_) second_order_backward(where);
  }

 private:
  // The scratch as a buffer of `features` features, offset so that the columns of this range can be indexed.
  T* scratch_at(ColumnRange range, int64_t features) const {
    return scratch_ - range.first / kBlockRows<T> * kBlockRows<T> * features;
  }
  // Offset from the columns of the sub-batch `where` to those of `tangent`, in a buffer of `features` features.
  int64_t shift(int64_t features) const { return (tangent_ - where_.first) * features; }

  // t_0 = dP/dg, column by column.
  void penalty_grad(ColumnRange rows, Penalty kind, T weight, int64_t features, T* values) {
    const int64_t n = network_.inputs();
    const T* g = network_.grad_input;
    T* t = network_.dropped_input() + shift(n);
    each_block<T>({where_.first + rows.first, where_.first + rows.last}, [&](int64_t p, int lane, int lanes) {
      T square[kBlockRows<T>] = {}, factor[kBlockRows<T>];
      const int64_t at = p * n * kBlockRows<T> + lane;
      for (int64_t f = 0; f < features; ++f)
        for (int j = 0; j < lanes; ++j) square[j] += g[at + f * kBlockRows<T> + j] * g[at + f * kBlockRows<T> + j];
      T* value = values + (p * kBlockRows<T> + lane - where_.first);
      for (int j = 0; j < lanes; ++j) {
        const PenaltyOfRow<T> penalty(kind, square[j], weight);
        value[j] = penalty.value, factor[j] = penalty.factor;
      }
      for (int64_t f = 0; f < n; ++f)
        for (int j = 0; j < lanes; ++j)
          t[at + f * kBlockRows<T> + j] = f < features ? factor[j] * g[at + f * kBlockRows<T> + j] : T(0);
    });
  }

  // From s_i in the scratch: writes t_i and e_i to the columns of `tangent`, and the first term of q_i to those of
  // `where`.
  void keep(Layer<T>& l, ColumnRange where) {
    const int64_t n = l.plan.outputs;
    const int pieces = l.plan.pieces;
    const SecondOrderTile<T> second_order = find_second_order<T>(l.plan.activation);
    const T* scratch = scratch_at(where, l.rows());
    each_block<T>(where, [&](int64_t p, int lane, int lanes) {
      for (int64_t row = 0; row < l.rows(); ++row) {
        const int64_t piece = (p * l.rows() + row) * kBlockRows<T> + lane;
        const T* s = scratch + piece;
        T* e = l.grad_affine + piece;
        std::copy_n(e, lanes, e + shift(l.rows()));
        if (pieces > 1 || !second_derivative_) continue;
        const T negative_slope = T(l.plan.negative_slope);
        if (second_order)
          second_order(l.saved() + piece, e, s, e, lanes, negative_slope);
        else
          std::fill_n(e, lanes, T(0));
      }
      for (int64_t u = 0; u < n; ++u) {
        const int64_t at = (p * n + u) * kBlockRows<T> + lane;
        const T* s = scratch + (p * n + u) * pieces * kBlockRows<T> + lane;
        T* t = l.dropped + at + shift(n);
        if (pieces > 1) {
          const int64_t piece = (p * n + u) * pieces * kBlockRows<T> + lane;
          for (int j = 0; j < lanes; ++j) t[j] = s[taken_piece(l, piece + j, at + j) * kBlockRows<T> + j];
        } else {
          std::copy_n(s, lanes, t);
          if (l.activate_backward)
            l.activate_backward(l.saved() + at, t, kBlockRows<T>, 1, lanes, T(l.plan.negative_slope));
        }
      }
      if (pieces > 1 && second_derivative_)
        for (int64_t row = 0; row < l.rows(); ++row)
          std::fill_n(l.grad_affine + (p * l.rows() + row) * kBlockRows<T> + lane, lanes, T(0));
    });
  }

  // Adds the second term of q_i, from the layer above.
  void second_order_backward(ColumnRange where) {
    std::vector<Layer<T>>& layers = network_.layers();
    for (size_t i = layers.size(); i-- > 1;) {
      Layer<T>&l = layers[i], &below = layers[i - 1];
      const int64_t n = below.plan.outputs;
      T* add = scratch_at(where, n);
      network_.multiply_by_transposed(l, n, l.grad_affine, add, where, Mapped<T>{});
      if (below.plan.dropout > 0)
        drop(add, add, n, where, where_, below.plan.dropout, where_.dropout_seeds[below.plan.dropout_seed_index],
             uint32_t(below.plan.dropout_substream));
      if (below.activate_backward)
        Mapped<T>{below.activate_backward, below.saved(), add, n, T(below.plan.negative_slope)}.all(where);
      each_block<T>(where, [&](int64_t p, int lane, int lanes) {
        for (int64_t u = 0; u < n; ++u) {
          const int64_t at = (p * n + u) * kBlockRows<T> + lane;
          if (below.plan.pieces == 1) {
            for (int j = 0; j < lanes; ++j) below.grad_affine[at + j] += add[at + j];
            continue;
          }
          const int64_t piece = (p * n + u) * below.plan.pieces * kBlockRows<T> + lane;
          for (int j = 0; j < lanes; ++j)
            below.grad_affine[piece + taken_piece(below, piece + j, at + j) * kBlockRows<T> + j] += add[at + j];
        }
      });
    }
  }

  void drop_tangent(T* buffer, int64_t features, ColumnRange tangent, double p, int dropout_seed, int substream) {
    drop(buffer, buffer, features, tangent, SubBatch{tangent_, where_.rows, where_.dropout_seeds}, p,
         where_.dropout_seeds[dropout_seed], uint32_t(substream));
  }

  Network<T>& network_;
  const SubBatch where_;
  const int64_t tangent_;
  T* const scratch_;
  const bool second_derivative_;
};

}  // namespace fastgan::inline FASTGAN_ISA
