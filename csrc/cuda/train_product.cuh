// Matrix products of the persistent kernel by plain multiplications: a thread computes tiles of R x R elements and
// reads factors in packs. train_tensor_cores.cuh has the products by tensor cores, and the choice.
//
// One thread sums each element over the whole depth in order. So the bits do not depend on the tiles or on their
// partition over a block or a cluster.
#pragma once
#include "train_plan.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
struct Matrix {  // row by row
  T* at;
  int stride;
};

// The threads that share a piece of work: of the block, or of all blocks of a cluster.
struct Workers {
  int rank, count;
};

// R rows of a factor, as a tile sees them. Depth along the rows: the tile takes every tiles-th row, so that
// neighbouring threads read neighbouring rows, which are in different banks. Depth across: R neighbouring rows, one
// pack a depth.
template <class T, int R, bool along>
struct TileRows {
  int row[R];

  __device__ TileRows(int tile, int tiles) {
#pragma unroll
    for (int r = 0; r < R; ++r) row[r] = along ? tile + r * tiles : tile * R + r;
  }

  // x[r][i] = element (row r, depth d + i). Rows beyond the last are read as the last; their results are not stored.
  template <int deep>
  __device__ void read(const Matrix<const T>& from, int rows, int d, T (&x)[R][deep]) const {
    if constexpr (along) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const T* at = from.at + int64_t(row[r] < rows ? row[r] : rows - 1) * from.stride + d;
        const Pack<T, deep> pack = *reinterpret_cast<const Pack<T, deep>*>(at);
#pragma unroll
        for (int i = 0; i < deep; ++i) x[r][i] = pack.at[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < deep; ++i) {
        const Pack<T, R> pack = *reinterpret_cast<const Pack<T, R>*>(from.at + int64_t(d + i) * from.stride + row[0]);
#pragma unroll
        for (int r = 0; r < R; ++r) x[r][i] = pack.at[r];
      }
    }
  }
};

template <class T, int R, int deep>
__device__ void add_products(const T (&a)[R][deep], const T (&b)[R][deep], T (&sum)[R][R]) {
#pragma unroll
  for (int i = 0; i < deep; ++i)
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < R; ++c) sum[r][c] += a[r][i] * b[c][i];
}

// One pair of factors, and how deep they are.
template <class T>
struct Factors {
  Matrix<const T> a, b;
  int depth;
};

template <class T>
struct OnePair {  // the whole product at once
  Factors<T> factors;
  static constexpr int count = 1;
  __device__ Factors<T> operator()(int) const { return factors; }
};

// The tiles of a product of `rows` x `columns`. pairs(0), pairs(1), ...: pieces of the depth, in order. sink.open(...)
// gives a tile's beginning, sink.close(...) takes its sum.
template <class T, int R, bool a_along, bool b_along, class Pairs, class Sink>
__device__ void multiply_tiles(int rows, int columns, const Pairs& pairs, Workers workers, const Sink& sink) {
  const int down = (rows + R - 1) / R, across = (columns + R - 1) / R;
  for (int tile = workers.rank; tile < down * across; tile += workers.count) {
    const TileRows<T, R, a_along> i(tile / across, down);
    const TileRows<T, R, b_along> j(tile % across, across);
    T sum[R][R];
    auto open = sink.template open<R>(i.row, j.row, sum);
    for (int p = 0; p < pairs.count; ++p) {
      const Factors<T> f = pairs(p);
      int d = 0;
      for (; d + 4 <= f.depth; d += 4) {
        T a[R][4], b[R][4];
        i.read(f.a, rows, d, a);
        j.read(f.b, columns, d, b);
        add_products(a, b, sum);
      }
      for (; d < f.depth; ++d) {
        T a[R][1], b[R][1];
        i.read(f.a, rows, d, a);
        j.read(f.b, columns, d, b);
        add_products(a, b, sum);
      }
    }
    sink.template close<R, true>(i.row, j.row, sum, open);
  }
}

// The largest tiles that leave work for every thread: a larger tile reads less for each product. In double precision
// the largest tile would need too many registers.
template <bool a_along, bool b_along, class T, class Pairs, class Sink>
__device__ void multiply_plainly(int rows, int columns, const Pairs& pairs, Workers workers, const Sink& sink) {
  const auto tiles = [&](int r) { return ((rows + r - 1) / r) * ((columns + r - 1) / r); };
  if constexpr (sizeof(T) == 4)
    if (tiles(4) >= workers.count) return multiply_tiles<T, 4, a_along, b_along>(rows, columns, pairs, workers, sink);
  if (tiles(2) >= workers.count) return multiply_tiles<T, 2, a_along, b_along>(rows, columns, pairs, workers, sink);
  multiply_tiles<T, 1, a_along, b_along>(rows, columns, pairs, workers, sink);
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
