// Dropout masks, recomputed from (dropout seed, substream): four adjacent features of a row share a block of random
// words.
#pragma once
#include "../step_counter.h"
#include "../philox.h"
#include "device.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The factors of dropout: 0 with probability p, else 1 / (1 - p).
template <class T>
struct Mask {
  DropoutSeed dropout_seed;
  uint32_t substream;
  uint64_t threshold;
  T scale;
  int64_t quads;  // blocks a row

  FASTGAN_HD Mask(double p, DropoutSeed dropout_seed_, uint32_t substream_, int64_t features)
      : dropout_seed(dropout_seed_),
        substream(substream_),
        threshold(dropout_threshold(p)),
        scale(p < 1.0 ? T(1.0 / (1.0 - p)) : T(0)),
        quads((features + 3) / 4) {}

  __device__ void factors(int64_t block, T (&out)[4]) const {
    const int64_t each = dropout_seed.rows * quads, sub_batch = each ? block / each : 0;
    factors_in(sub_batch, block - sub_batch * each, out);
  }

  // The same within a given sub-batch, without a division.
  __device__ void factors_in(int64_t sub_batch, int64_t block, T (&out)[4]) const {
    const Words words = Stream{dropout_seed.get(sub_batch), purpose::dropout, substream, 0}.block(uint64_t(block));
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = words.w[i] >= threshold ? scale : T(0);
  }

  // Those of V neighbours in a row, V dividing 4 or a multiple of it, and column a multiple of V.
  template <int V>
  __device__ void factors_at(int64_t row, int64_t column, T (&out)[V]) const {
    T four[4];
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      factors(row * quads + (column + i) / 4, four);
      const int first = V < 4 ? int(column % 4) : 0;
#pragma unroll
      for (int j = 0; j < 4; ++j)  // by comparison, so that `four` stays in registers
#pragma unroll
        for (int k = 0; k < (V < 4 ? V : 4); ++k)
          if (first + k == j) out[i + k] = four[j];
    }
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
