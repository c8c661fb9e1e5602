// The one matrix product behind layers, C[n, m] = A[n, depth] B[depth, m] (+ bias of the row), near the processor's peak.
//
// C is stored feature-major, so that the batch (or, for weight gradients, the inputs) is the vector dimension and A, the
// weights, is read in place by broadcasts. B is packed into panels as wide as a register tile; packing transposes where B
// arrives batch-major, so nothing is ever transposed in memory on its own. Each tile of C is summed over the whole depth by
// one thread in one order: the number of threads does not show in the bits.
#pragma once
#include <algorithm>
#include <memory>
#include <new>

#include "parallel.h"
#include "simd.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
struct Matrix {  // element (i, j) at data[i * row + j * column]
  const T* data;
  int64_t row, column;
  int64_t columns = INT64_MAX;  // as a factor B: columns from here on are zero
};

// What happens to a tile of C while it is in the first cache: `rows` x `columns` at C[row0, column0].
template <class T>
struct Epilogue {
  virtual void operator()(int64_t row0, int64_t column0, int rows, int columns) const = 0;

 protected:
  ~Epilogue() = default;
};

namespace {

constexpr int kTileVectors = 2;
template <class T>
constexpr int kTileColumns = kTileVectors * Simd<T>::width;

// Scratch memory a thread keeps between calls: it grows to the largest product seen and is never cleared.
template <class T>
T* scratch(int64_t count) {
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t bytes = 0;
  const int64_t wanted = count * int64_t(sizeof(T));
  if (wanted > bytes) {
    memory.reset();
    bytes = 0;
    memory.reset(::operator new(size_t(wanted), std::align_val_t(64)));
    bytes = wanted;
  }
  return static_cast<T*>(memory.get());
}

template <class T, int rows>
void multiply_tile(int64_t depth, const T* __restrict a, int64_t a_row, int64_t a_depth, const T* __restrict panel,
                   const T* bias, T* __restrict c, int64_t c_row) {
  using S = Simd<T>;
  typename S::Vector sum[rows][kTileVectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) sum[i][v] = typename S::Vector{} + (bias ? bias[i] : T(0));
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = S::load(panel), b1 = S::load(panel + S::width);
    panel += kTileColumns<T>;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const T w = a[i * a_row];
      sum[i][0] += w * b0;
      sum[i][1] += w * b1;
    }
    a += a_depth;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) S::store(c + i * c_row + v * S::width, sum[i][v]);
}

template <class T>
using TileFunction = void (*)(int64_t, const T*, int64_t, int64_t, const T*, const T*, T*, int64_t);

template <class T, int... row>
TileFunction<T> tile_function(int rows, std::integer_sequence<int, row...>) {
  static constexpr TileFunction<T> table[] = {multiply_tile<T, row + 1>...};
  return table[rows - 1];
}

// Panel p of B: columns p * width .. of every depth, contiguous; columns beyond m are zero.
template <class T>
void pack_panel(const Matrix<T>& b, int64_t depth, int64_t first, int64_t count, T* __restrict panel) {
  constexpr int width = kTileColumns<T>;
  const T* source = b.data + first * b.column;
  if (b.column == 1) {
    for (int64_t k = 0; k < depth; ++k, panel += width) {
      const T* row = source + k * b.row;
      if (count == width)
        for (int j = 0; j < width; ++j) panel[j] = row[j];
      else
        for (int j = 0; j < width; ++j) panel[j] = j < count ? row[j] : T(0);
    }
    return;
  }
  constexpr int block = 16;  // transposed by squares, so that reads and writes both stay in a few cache lines
  int64_t k0 = 0;
  if (b.row == 1 && count == width)
    for (; k0 + block <= depth; k0 += block)
      for (int j0 = 0; j0 < width; j0 += 8) {
        T square[block][8];
        for (int j = 0; j < 8; ++j)
          for (int k = 0; k < block; ++k) square[k][j] = source[(j0 + j) * b.column + k0 + k];
        for (int k = 0; k < block; ++k)
          for (int j = 0; j < 8; ++j) panel[(k0 + k) * width + j0 + j] = square[k][j];
      }
  for (; k0 < depth; ++k0)
    for (int j = 0; j < width; ++j) panel[k0 * width + j] = j < count ? source[j * b.column + k0 * b.row] : T(0);
}

// Rows whose addresses differ by a multiple of this share the sets of the first cache and evict one another.
constexpr int64_t kAliasBytes = 4096;

}  // namespace

// C[n, m] = A[n, depth] B[depth, m] + bias; c_row is the distance of C's rows.
template <class T>
void multiply(int64_t n, int64_t m, int64_t depth, Matrix<T> a, Matrix<T> b, const T* bias, T* c, int64_t c_row,
              const Epilogue<T>* epilogue, int threads) {
  constexpr int width = kTileColumns<T>;
  if (n == 0 || m == 0) return;
  if (double(n) * double(m) * double(depth) < 1e6) threads = 1;  // 20 us: less than it takes to share it out
  const int64_t panels = (m + width - 1) / width;
  T* packed = scratch<T>(panels * depth * width);
  parallel_for(threads, panels, [&](int64_t p) {
    pack_panel(b, depth, p * width, std::min<int64_t>(width, std::min(m, b.columns) - p * width),
               packed + p * depth * width);
  });

  const int64_t tiles = (n + kTileRows - 1) / kTileRows;  // of nearly equal height: 128 rows are 8 x 13 + 2 x 12
  // A group of panels that stays in the second cache meets each tile of A while that is in the first.
  const int64_t group = std::max<int64_t>(1, std::min<int64_t>(panels, (1 << 19) / std::max<int64_t>(1, depth * width * int64_t(sizeof(T)))));
  const int64_t groups = (panels + group - 1) / group;
  const int64_t bunch = std::max<int64_t>(1, tiles / 8);  // tiles of one task
  const int64_t bunches = (tiles + bunch - 1) / bunch;
  const bool repack = (a.row * int64_t(sizeof(T))) % kAliasBytes == 0 && depth > 64;
  parallel_for(threads, groups * bunches, [&](int64_t task) {
    const int64_t first_panel = task / bunches * group, last_panel = std::min(first_panel + group, panels);
    const int64_t first_tile = task % bunches * bunch, last_tile = std::min(first_tile + bunch, tiles);
    alignas(64) T edge[kTileRows * width];
    T* own = nullptr;
    std::unique_ptr<T[]> own_memory;
    if (repack) own = (own_memory = std::unique_ptr<T[]>(new T[size_t(depth * kTileRows)])).get();
    for (int64_t t = first_tile; t < last_tile; ++t) {
      const int64_t row = n * t / tiles;
      const int rows = int(n * (t + 1) / tiles - row);
      Matrix<T> tile{a.data + row * a.row, a.row, a.column};
      if (repack) {
        for (int i = 0; i < rows; ++i)
          for (int64_t k = 0; k < depth; ++k) own[k * kTileRows + i] = tile.data[i * a.row + k * a.column];
        tile = {own, 1, kTileRows};
      }
      const auto run = tile_function<T>(rows, std::make_integer_sequence<int, kTileRows>{});
      for (int64_t p = first_panel; p < last_panel; ++p) {
        const int64_t column = p * width;
        const int columns = int(std::min<int64_t>(width, m - column));
        T* out = c + row * c_row + column;
        const T* row_bias = bias ? bias + row : nullptr;
        if (columns == width) {
          run(depth, tile.data, tile.row, tile.column, packed + p * depth * width, row_bias, out, c_row);
        } else {
          run(depth, tile.data, tile.row, tile.column, packed + p * depth * width, row_bias, edge, width);
          for (int i = 0; i < rows; ++i) std::copy_n(edge + i * width, columns, out + i * c_row);
        }
        if (epilogue) (*epilogue)(row, column, rows, columns);
      }
    }
  });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
