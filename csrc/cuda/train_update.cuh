// Gradients of the parameters, applied at once: the thread that sums an element of a gradient updates the weight, and
// no weight gradient is stored. The threads of all blocks of a cluster share the work, and write each new weight to
// every block.
#pragma once
#include "../optimizer.h"
#include "train_norm.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The inputs of an update besides the gradient. snapshot, bad: null unless updates can be rolled back.
template <class T>
struct Updating {
  const Block<T>& block;
  const DeviceRule<T>& rule;
  T* snapshot;  // scratch memory of the cluster
  int* bad;     // set to 1 if a number was finite and is not any more
  const OptimizerPlan& plan;
  T* gradients;  // scratch memory of the cluster
};

// Whether a number was finite and is not any more.
template <class N>
__device__ bool ceased(N before, N after) {
  return before * N(0) == N(0) && after * N(0) != N(0);
}

// Applies tiles of a weight's gradient. Loads the optimiser's state before the products are summed, to hide the
// latency.
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

  // Calls f(r, c, element of the parameter) for the elements of a tile that are inside the parameter.
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

// The columns of a whole batch in order, as pieces: for each sub-batch, those of each block.
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

// Stores the same tiles in the cluster's scratch.
template <class T>
struct Gradients {
  T* common;
  const ParameterOf<T>& p;
  static constexpr int tiles_down = 1, tiles_across = 2;
  static constexpr bool finishes = false;

  template <int R>
  __device__ int open(const int (&)[R], const int (&)[R], T (&sum)[R][R]) const {
    set_to_zero(sum);
    return 0;
  }

  template <int R, bool = false>
  __device__ void close(const int (&row)[R], const int (&column)[R], const T (&sum)[R][R], int) const {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < R; ++c)
        if (row[r] < p.rows && column[c] < p.columns)
          common[p.gradient + int64_t(row[r]) * p.columns + column[c]] = sum[r][c];
  }
};

// Passes gradient(element) of each element of a vector to the sink, one thread for each.
template <class T, class Sink, class Function>
__device__ void each_element(Workers workers, const ParameterOf<T>& p, const Sink& sink, Function&& gradient) {
  if (!p.state0) return;
  for (int64_t e = workers.rank; e < p.count(); e += workers.count) {
    const int row[1] = {int(e / p.columns)}, column[1] = {int(e % p.columns)};
    T sum[1][1];
    auto state = sink.template open<1>(row, column, sum);
    sum[0][0] = gradient(e);
    sink.close(row, column, sum, state);
  }
}

// Computes the gradients of every parameter of a network, from grad_affine and the layers' inputs, for
// sink_of(parameter).
template <class T, class SinkOf>
FASTGAN_CALLED void each_gradient(const Passes<T>& passes, const SubBatches& sub_batches, const SinkOf& sink_of) {
  const Block<T>& block = *passes.block;
  for (int i = passes.net->count - 1; i >= 0; --i) {
    const LayerOf<T>& l = passes.layers[i];
    const Offset in = i > 0 ? passes.layers[i - 1].dropped : passes.net->dropped_input;
    const BatchPieces<T> pieces(block, l.grad_affine, in, passes.net->stride, sub_batches);
    if (l.weight.state0)
      multiply<true, true, T>(block.precision, l.rows(), l.inputs, pieces, block.together(), sink_of(l.weight));
    each_element(block.together(), l.bias, sink_of(l.bias), [&](int64_t unit) {
      T sum = T(0), of_sub_batch = T(0);  // so opposite gradients of real and fake rows cancel exactly
      for (int p = 0; p < pieces.count; ++p) {
        const Factors<T> f = pieces(p);
        for (int d = 0; d < f.depth; ++d) of_sub_batch += f.a.at[unit * f.a.stride + d];
        if ((p + 1) % block.size == 0) sum += of_sub_batch, of_sub_batch = T(0);
      }
      return sum;
    });
    if (!l.batch_norm) continue;
    const NormOf<T> norm(block, l);
    each_element(block.together(), l.norm_scale, sink_of(l.norm_scale),
                 [&](int64_t unit) { return norm.grad_scale()[unit]; });
    each_element(block.together(), l.norm_shift, sink_of(l.norm_shift),
                 [&](int64_t unit) { return norm.grad_shift()[unit]; });
  }
}

template <class T>
struct UpdatesOf {
  const Updating<T>& how;
  __device__ Updates<T> operator()(const ParameterOf<T>& p) const { return {how, p}; }
};
template <class T>
struct GradientsOf {
  T* common;
  __device__ Gradients<T> operator()(const ParameterOf<T>& p) const { return {common, p}; }
};

// f(parameter) for each parameter of a network that is trained.
template <class T, class Function>
__device__ void each_trained(const Passes<T>& passes, Function&& f) {
  for (int i = 0; i < passes.net->count; ++i) {
    const LayerOf<T>& l = passes.layers[i];
    for (const ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift})
      if (p->state0) f(*p);
  }
}

// The sum of the squares of all gradients in `common`. A warp sums each row, then the sums of all rows, so the bits do
// not depend on the partition.
template <class T>
FASTGAN_CALLED double sum_of_squares(const Passes<T>& passes, const Clipping<T>& clip, T* common) {
  const Block<T>& block = *passes.block;
  const int lane = int(threadIdx.x) % 32, warps = block.together().count / 32, rank = block.together().rank / 32;
  double* of_rows = reinterpret_cast<double*>(reinterpret_cast<char*>(common) + passes.net->squares);
  const auto add_lanes = [](double sum) {
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    return sum;
  };
  int before = 0;
  each_trained(passes, [&](const ParameterOf<T>& p) {
    for (int row = rank; row < p.rows; row += warps) {
      double sum = 0.0;
      for (int c = lane; c < p.columns; c += 32) {
        const double g = double(clip(common[p.gradient + int64_t(row) * p.columns + c]));
        sum += g * g;
      }
      sum = add_lanes(sum);
      if (lane == 0) of_rows[before + row] = sum;
    }
    before += p.rows;
  });
  block.barrier_of_all();
  double sum = 0.0;
  for (int row = lane; row < before; row += 32) sum += of_rows[row];
  return add_lanes(sum);
}

// An update with stored, clipped gradients.
template <class T>
FASTGAN_CALLED void update_clipped(const Updating<T>& how, const Passes<T>& passes) {
  const OptimizerPlan& plan = how.plan;
  T* common = how.gradients;
  const Block<T>& block = how.block;
  Clipping<T> clip(plan);
  if (plan.max_grad_norm > 0) clip.scale = T(clipping(sum_of_squares(passes, clip, common), plan.max_grad_norm));
  each_trained(passes, [&](const ParameterOf<T>& p) {
    each_element(block.together(), p, Updates<T>{how, p}, [&](int64_t e) { return clip(common[p.gradient + e]); });
  });
}

// Updates every parameter of a network.
template <class T>
__device__ void update_parameters(const Updating<T>& how, const Passes<T>& passes, const SubBatches& sub_batches) {
  // Two calls in sequence: nested ones made the kernel spill registers.
  if (!clips(how.plan)) return each_gradient(passes, sub_batches, UpdatesOf<T>{how});
  each_gradient(passes, sub_batches, GradientsOf<T>{how.gradients});
  how.block.barrier_of_all();
  update_clipped(how, passes);
}

// ---------------------------------------------------------------- all parameters of a network

// Calls f(parameter, element, its index in `here`), partitioned over the workers.
template <class T, class Function>
__device__ void each_parameter(const Passes<T>& passes, Workers workers, Function&& f) {
  for (int i = 0; i < passes.net->count; ++i) {
    const LayerOf<T>& l = passes.layers[i];
    for (const ParameterOf<T>* p : {&l.weight, &l.bias, &l.norm_scale, &l.norm_shift}) {
      if (!p->value) continue;
      for (int64_t e = workers.rank; e < p->count(); e += workers.count)
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

// Scales down the incoming weights of units whose norm exceeds the limit; a warp of any block for each unit.
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

// Clips each trained parameter to [-bound, bound].
template <class T>
FASTGAN_CALLED void hold_parameters(const Passes<T>& passes, T bound) {
  const Block<T>& block = *passes.block;
  each_parameter(passes, block.together(), [&](const ParameterOf<T>& p, int64_t, int64_t here) {
    if (!p.state0) return;
    const T value = held(block.at(p.here)[here], bound);
    for (int b = 0; b < block.size; ++b) block.at(p.here, b)[here] = value;
  });
}

// The moving average of a network.
template <class T>
__device__ void follow_with_ema(const Passes<T>& passes, Ema<T> follow) {
  each_parameter(passes, passes.block->together(), [&](const ParameterOf<T>& p, int64_t e, int64_t here) {
    if (p.ema) follow(p.ema[e], passes.block->at(p.here)[here]);
  });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
