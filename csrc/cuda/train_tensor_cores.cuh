// Matrix products of the persistent kernel by tensor cores: a warp computes `down` x `across` tiles of 16 x 8 sums.
//
// A sum goes through the depth in chunks of 8, which begin at multiples of 8. The order inside a chunk is the
// hardware's, but the same chunk gives the same bits: they do not depend on which tiles a warp computes or which block
// has which rows. Therefore a block's rows of a batch start at a multiple of 8 (rows_before).
//
// A chunk costs a lane 4 words of shared memory for each tile down and 2 for each across: 6 a tile for one alone, 3
// where there are 2 x 2 of them. Rows are an odd number of packs of four words apart, so that none of the reads meets a
// bank twice:
//   depth across   word 4 m (2s) + g, s odd: members are 8 banks apart, groups neighbours
//   depth along    two words at once, half a warp at a time, whose four groups take every other row: 8 banks apart
// where member m of group g brings the depths 2m and 2m + 1.
#pragma once
#include "mma.cuh"
#include "train_product.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

// n rows of a factor, as the lane's group sees them.
template <int n, bool along>
struct Strips {
  int row[n];

  // x[r] = elements (row r, depths d and d + 1), or zeros beyond the depth.
  __device__ void read(const Matrix<const float>& from, int d, int depth, float (&x)[n][2]) const {
    const bool first = d < depth, second = d + 1 < depth;
    const int d0 = first ? d : 0, d1 = second ? d + 1 : 0;  // a depth that exists
#pragma unroll
    for (int r = 0; r < n; ++r) {
      if constexpr (along) {
        const auto pair = *reinterpret_cast<const Pack<float, 2>*>(from.at + row[r] * from.stride + d0);
        x[r][0] = pair.at[0], x[r][1] = pair.at[1];
      } else {
        x[r][0] = from.at[d0 * from.stride + row[r]], x[r][1] = from.at[d1 * from.stride + row[r]];
      }
      if (!first) x[r][0] = 0.f;
      if (!second) x[r][1] = 0.f;
    }
  }
};

// Where the chunks of a product's pieces begin, one after another.
template <class Pairs>
struct Chunks {
  const Pairs& pairs;
  Factors<float> factors{};
  int piece = -1, d = 0;

  __device__ bool next() {
    d += kChunk;
    while (d >= factors.depth) {
      if (++piece == pairs.count) return false;
      factors = pairs(piece), d = 0;
    }
    return true;
  }
};

// Which of eight neighbours is at position i of a tile: positions 0 to 3 are every other one.
__device__ inline int every_other(int i) { return i % 4 * 2 + i / 4; }

// A chunk of all tiles. Instructions on the same sums are interleaved with others, because each depends on the one
// before.
template <class P, int down, int across>
__device__ void add_chunk(const float (&a)[2 * down][2], const float (&b)[across][2],
                          typename P::Sum (&sum)[down][across]) {
  typename P::Left left[down];
  typename P::Right right[across];
#pragma unroll
  for (int i = 0; i < down; ++i) left[i] = P::left_of({{a[2 * i][0], a[2 * i][1]}, {a[2 * i + 1][0], a[2 * i + 1][1]}});
#pragma unroll
  for (int i = 0; i < across; ++i) right[i] = P::right_of(b[i]);
#pragma unroll
  for (int i = 0; i < P::instructions; ++i)
#pragma unroll
    for (int t = 0; t < down * across; ++t)
      P::multiply(sum[t / across][t % across], left[t / across], right[t % across], i);
}

template <class P, int down, int across, bool a_along, bool b_along, class Pairs, class Sink>
FASTGAN_CALLED void multiply_strips(int rows, int columns, const Pairs& pairs, Workers workers, const Sink& sink) {
  const int tiles_across = (columns + 8 * across - 1) / (8 * across);
  const int tiles = (rows + 16 * down - 1) / (16 * down) * tiles_across;
  for (int tile = workers.rank / 32; tile < tiles; tile += workers.count / 32) {
    __syncwarp();  // reconverge: divergent tail code precedes a warp-wide mma.sync
    const int row0 = tile / tiles_across * 16 * down, column0 = tile % tiles_across * 8 * across;
    int row[down][2], column[across][2];  // of the lane's sums
    Strips<2 * down, a_along> left;
    Strips<across, b_along> right;
    const auto within = [](int at, int count) { return at < count ? at : count - 1; };  // the result is not stored
#pragma unroll
    for (int r = 0; r < 2 * down; ++r) {
      const int at = row0 + 8 * r + every_other(lane_group());
      row[r / 2][r % 2] = at, left.row[r] = within(at, rows);
    }
#pragma unroll
    for (int c = 0; c < across; ++c) {
      const auto at = [&](int i) { return column0 + 8 * c + (b_along ? every_other(i) : i); };
      column[c][0] = at(2 * lane_member()), column[c][1] = at(2 * lane_member() + 1);
      right.row[c] = within(at(lane_group()), columns);
    }

    float x[2][2];
    typename P::Sum sum[down][across];
    decltype(sink.template open<2>(row[0], column[0], x)) open[down][across];
#pragma unroll
    for (int r = 0; r < down; ++r)
#pragma unroll
      for (int c = 0; c < across; ++c) {
        open[r][c] = sink.template open<2>(row[r], column[c], x);
        sum[r][c] = P::from(x);
      }

    Chunks<Pairs> chunks{pairs};
    while (chunks.next()) {
      const int d = chunks.d + 2 * lane_member();
      float a[2 * down][2], b[across][2];
      left.read(chunks.factors.a, d, chunks.factors.depth, a);
      right.read(chunks.factors.b, d, chunks.factors.depth, b);
      add_chunk<P, down, across>(a, b, sum);
    }

    float total[down][across][2][2];
#pragma unroll
    for (int t = 0; t < down * across; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        total[t / across][t % across][i / 2][i % 2] = P::value(sum[t / across][t % across], i);
#pragma unroll
    for (int r = 0; r < down; ++r)
#pragma unroll
      for (int c = 0; c < across; ++c)
        if (column[c][0] < columns) sink.close(row[r], column[c], total[r][c], open[r][c]);
    if constexpr (Sink::finishes) {
#pragma unroll 1
      for (int t = 0; t < 2 * down * across; ++t) {
        const int r = row0 + t / across * 8 + every_other(lane_group()),
                  c = column0 + t % across * 8 + 2 * lane_member();
        if (r < rows && c < columns) sink.finish(r, c);
      }
    }
  }
}

// A warp computes as many tiles as the sink allows, if every warp then has work: more tiles read less for each product.
// Else one tile.
template <class P, bool a_along, bool b_along, class Pairs, class Sink>
__device__ void multiply_on_tensor_cores(int rows, int columns, const Pairs& pairs, Workers workers, const Sink& sink) {
  constexpr int down = Sink::tiles_down, across = Sink::tiles_across;
  const int warp_tiles = (rows + 16 * down - 1) / (16 * down) * ((columns + 8 * across - 1) / (8 * across));
  if (warp_tiles >= workers.count / 32 && rows > 16 * (down - 1) && columns > 8 * (across - 1))
    multiply_strips<P, down, across, a_along, b_along>(rows, columns, pairs, workers, sink);
  else
    multiply_strips<P, 1, 1, a_along, b_along>(rows, columns, pairs, workers, sink);
}

// The product in the plan's precision: plain in double precision and before Ampere.
template <bool a_along, bool b_along, class T, class Pairs, class Sink>
__device__ void multiply(Precision precision, int rows, int columns, const Pairs& pairs, Workers workers,
                         const Sink& sink) {
#if !defined(__CUDA_ARCH__) || defined(FASTGAN_TENSOR_CORES)
  if constexpr (sizeof(T) == 4) switch (precision) {
      case Precision::fp32:
        return multiply_on_tensor_cores<Tf32x3, a_along, b_along>(rows, columns, pairs, workers, sink);
      case Precision::tf32:
        return multiply_on_tensor_cores<Tf32, a_along, b_along>(rows, columns, pairs, workers, sink);
      case Precision::bf16:
        return multiply_on_tensor_cores<ShortBf16, a_along, b_along>(rows, columns, pairs, workers, sink);
      case Precision::ieee: break;
    }
#endif
  multiply_plainly<a_along, b_along, T>(rows, columns, pairs, workers, sink);
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
