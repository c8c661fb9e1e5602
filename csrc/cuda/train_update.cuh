// Gradients of the parameters, applied at once: the thread that has summed a gradient element updates the weight; no
// weight gradient is stored. The threads of all blocks of a cluster share the work and write each new weight to every
// block.
#pragma once
#include "../optimizer.h"
#include "train_norm.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// An update rule with the constants of one step.
template <class T>
struct AnyRule {
  Rule rule;
  Adam<T> adam;
  T rate, momentum;

  __device__ void operator()(T& p, T& s0, T& s1, T g) const {
    switch (rule) {
      case Rule::adam: return adam(p, s0, s1, g);
      case Rule::momentum_torch: return MomentumTorch<T>{rate, momentum}(p, s0, s1, g);
      case Rule::momentum_pylearn2: return MomentumPylearn2<T>{rate, momentum}(p, s0, s1, g);
    }
  }
};

// The inputs of an update besides the gradient. snapshot, bad: null unless updates can be rolled back.
template <class T>
struct Updating {
  const Block<T>& block;
  const AnyRule<T>& rule;
  T* snapshot;   // scratch memory of the cluster
  int* bad;  // becomes 1 when a number that was finite no longer is
};

// Whether a number was finite and no longer is.
template <class N>
__device__ bool ceased(N before, N after) {
  return before * N(0) == N(0) && after * N(0) != N(0);
}

// Tiles of a weight's gradient. The optimiser's state is loaded before the products are summed, to hide the latency.
template <class T>
struct Updates {
  const Updating<T>& how;
  const ParameterOf<T>& p;
  static constexpr int tiles_down = 1, tiles_across = 2;  // the state of more tiles would need too many registers
  static constexpr bool finishes = false;

  template <int R>
  struct State {
    T s0[R][R], s1[R][R];
  };

  // f(r, c, element of the parameter) for the elements of a tile that there are.
  template <int R, class Function>
  __device__ void each(const int (&row)[R], const int (&column)[R], Function&& f) const {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < R; ++c)
        if (row[r] < p.rows && column[c] < p.columns) f(r, c, int64_t(row[r]) * p.columns + column[c]);
  }

  template <int R>
  __device__ State<R> open(const int (&row)[R], const int (&column)[R], T (&sum)[R][R]) const {
    State<R> state;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < R; ++c) sum[r][c] = state.s0[r][c] = state.s1[r][c] = T(0);
    each<R>(row, column, [&](int r, int c, int64_t i) {
      state.s0[r][c] = p.state0[i];
      if (p.state1) state.s1[r][c] = p.state1[i];
    });
    return state;
  }

  template <int R, bool = false>
  __device__ void close(const int (&row)[R], const int (&column)[R], const T (&sum)[R][R], State<R>& state) const {
    each<R>(row, column, [&](int r, int c, int64_t i) {
      const int64_t here = int64_t(row[r]) * p.stride + column[c];
      T value = how.block.at(p.here)[here];
      T* old = how.snapshot + p.snapshot + 3 * i;
      if (how.snapshot) old[0] = value, old[1] = state.s0[r][c], old[2] = state.s1[r][c];
      how.rule(value, state.s0[r][c], state.s1[r][c], sum[r][c]);
      if (how.snapshot && (ceased(old[0], value) || ceased(old[1], state.s0[r][c]) || ceased(old[2], state.s1[r][c])))
        atomicExch(how.bad, 1);
      p.state0[i] = state.s0[r][c];
      if (p.state1) p.state1[i] = state.s1[r][c];
      for (int b = 0; b < how.block.size; ++b) how.block.at(p.here, b)[here] = value;
    });
  }
};

// The columns of a whole batch, in order: piece by piece, sub-batch after sub-batch, block after block.
template <class T>
struct BatchPieces {
  const Block<T>& block;
  Offset a, b;
  int stride;
  const SubBatches& sub_batches;
  int count;

  __device__ BatchPieces(const Block<T>& where, Offset of_a, Offset of_b, int row, const SubBatches& s)
      : block(where), a(of_a), b(of_b), stride(row), sub_batches(s), count(s.count * where.size) {}
  __device__ Factors<T> operator()(int piece) const {
    const int other = piece % block.size, at = sub_batches.all[piece / block.size].column;
    return {{block.at(a, other) + at, stride},
            {block.at(b, other) + at, stride},
            block.before(sub_batches, other + 1) - block.before(sub_batches, other)};
  }
};

// One thread for each element, whose gradient is gradient(element).
template <class T, class Function>
__device__ void update_vector(const Updating<T>& how, const ParameterOf<T>& p, Function&& gradient) {
  if (!p.state0) return;
  const Updates<T> sink{how, p};
  const Workers who = how.block.together();
  for (int unit = who.rank; unit < p.rows; unit += who.count) {
    const int row[1] = {unit}, column[1] = {0};
    T sum[1][1];
    auto state = sink.template open<1>(row, column, sum);
    sum[0][0] = gradient(unit);
    sink.close(row, column, sum, state);
  }
}

// Updates every parameter of a network from grad_affine and the layers' inputs.
template <class T>
FASTGAN_CALLED void update_parameters(const Updating<T>& how, const Passes<T>& passes, const SubBatches& sub_batches) {
  const Block<T>& block = how.block;
  for (int i = passes.net->count - 1; i >= 0; --i) {
    const LayerOf<T>& l = passes.layers[i];
    const Offset in = i > 0 ? passes.layers[i - 1].dropped : passes.net->dropped_input;
    const BatchPieces<T> pieces(block, l.grad_affine, in, passes.net->stride, sub_batches);
    if (l.weight.state0)
      multiply<true, true, T>(block.precision, l.rows(), l.inputs, pieces, block.together(), Updates<T>{how, l.weight});
    update_vector(how, l.bias, [&](int unit) {
      T sum = T(0), of_sub_batch = T(0);  // then opposite gradients of real and fake rows cancel to the last bit
      for (int p = 0; p < pieces.count; ++p) {
        const Factors<T> f = pieces(p);
        for (int d = 0; d < f.depth; ++d) of_sub_batch += f.a.at[int64_t(unit) * f.a.stride + d];
        if ((p + 1) % block.size == 0) sum += of_sub_batch, of_sub_batch = T(0);
      }
      return sum;
    });
    if (!l.batch_norm) continue;
    const NormOf<T> norm(block, l);
    update_vector(how, l.norm_scale, [&](int unit) { return norm.grad_scale()[unit]; });
    update_vector(how, l.norm_shift, [&](int unit) { return norm.grad_shift()[unit]; });
  }
}

// ---------------------------------------------------------------- all parameters of a network

// f(parameter, element, its index in `here`), partitioned over the workers.
template <class T, class Function>
__device__ void each_parameter(const Passes<T>& passes, Workers who, Function&& f) {
  for (int i = 0; i < passes.net->count; ++i) {
    const LayerOf<T>& l = passes.layers[i];
    for (const ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift}) {
      if (!p->value) continue;
      for (int64_t e = who.rank; e < p->count(); e += who.count)
        f(*p, e, e / p->columns * p->stride + e % p->columns);
    }
  }
}

// Rolls an update back.
template <class T>
FASTGAN_CALLED void restore(const Passes<T>& passes, const T* snapshot) {
  const Block<T>& block = *passes.block;
  each_parameter(passes, block.together(), [&](const ParameterOf<T>& p, int64_t e, int64_t here) {
    if (!p.state0) return;
    const T* old = snapshot + p.snapshot + 3 * e;
    for (int b = 0; b < block.size; ++b) block.at(p.here, b)[here] = old[0];
    p.state0[e] = old[1];
    if (p.state1) p.state1[e] = old[2];
  });
}

// Scales down the incoming weights of units whose norm exceeds the limit: a warp a unit, of all blocks' warps.
template <class T>
FASTGAN_CALLED void bound_norms(const Passes<T>& passes, double limit) {
  const Block<T>& block = *passes.block;
  const int lane = int(threadIdx.x) % 32, warps = block.together().count / 32;
  for (int i = 0; i < passes.net->count; ++i) {
    const ParameterOf<T>& p = passes.layers[i].weight;
    if (!p.state0) continue;  // frozen
    for (int row = block.together().rank / 32; row < p.rows; row += warps) {
      const T* w = block.at(p.here) + int64_t(row) * p.stride;
      double square = 0.0;
      for (int c = lane; c < p.columns; c += 32) square += double(w[c]) * double(w[c]);
      for (int distance = 16; distance > 0; distance /= 2) square += __shfl_xor_sync(0xffffffffu, square, distance);
      const T scale = T(bounding(square, limit));
      if (scale == T(1)) continue;
      for (int c = lane; c < p.columns; c += 32) {
        const T bounded = w[c] * scale;
        for (int b = 0; b < block.size; ++b) block.at(p.here, b)[int64_t(row) * p.stride + c] = bounded;
      }
    }
  }
}

// The moving average of a network.
template <class T>
__device__ void follow_with_ema(const Passes<T>& passes, T keep) {
  each_parameter(passes, passes.block->together(), [&](const ParameterOf<T>& p, int64_t e, int64_t here) {
    if (p.ema) p.ema[e] += keep * (passes.block->at(p.here)[here] - p.ema[e]);
  });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
