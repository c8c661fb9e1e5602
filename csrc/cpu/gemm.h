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

enum class Scratch { factor_b, slice_of_a };

// Scratch memory a thread keeps between calls: it grows to the largest product seen and is never cleared.
template <class T, Scratch use>
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

// rows x (vectors * width) of C in registers, over the whole depth. The panel is kTileVectors wide whatever `vectors` is.
template <class T, int rows, int vectors>
void multiply_tile(int64_t depth, const T* __restrict a, int64_t a_row, int64_t a_depth, const T* __restrict panel,
                   const T* bias, T* __restrict c, int64_t c_row) {
  using S = Simd<T>;
  typename S::Vector sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[i][v] = typename S::Vector{} + (bias ? bias[i] : T(0));
  for (int64_t k = 0; k < depth; ++k) {
    typename S::Vector b[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) b[v] = S::load(panel + v * S::width);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[i][v] += a[i * a_row] * b[v];
    panel += kTileColumns<T>;
    a += a_depth;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) S::store(c + i * c_row + v * S::width, sum[i][v]);
}

template <class T>
using TileFunction = void (*)(int64_t, const T*, int64_t, int64_t, const T*, const T*, T*, int64_t);

// The instance for this many rows, and for one vector where the columns left need no more.
template <class T, int... row>
TileFunction<T> tile_function(int rows, int columns, std::integer_sequence<int, row...>) {
  static constexpr TileFunction<T> wide[] = {multiply_tile<T, row + 1, kTileVectors>...};
  static constexpr TileFunction<T> narrow[] = {multiply_tile<T, row + 1, 1>...};
  return columns > Simd<T>::width ? wide[rows - 1] : narrow[rows - 1];
}

// Columns first .. first + count of B at every depth, contiguous, filled up with zeros. Either columns or depths are
// neighbours in memory.
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
  transpose(source, b.column, count, depth, panel, width);
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t j = count; j < width; ++j) panel[k * width + j] = T(0);
}

// Addresses that differ by a multiple of this share a set of the caches: more of them than it has ways evict one another.
constexpr int64_t kAliasBytes = 4096;
constexpr int kSliceTiles = 4;  // of A, prepared together: transposed, each visit to a line then uses most of it

// The rows of a tile at every depth, contiguous. The number of rows is a constant so that copying them is two moves.
template <class T, int rows>
void gather_tile(const T* __restrict a, int64_t a_depth, int64_t depth, T* __restrict out) {
  for (int64_t k = 0; k < depth; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) out[k * kTileRows + i] = a[k * a_depth + i];
}

template <class T, int... row>
auto gather_function(int rows, std::integer_sequence<int, row...>) {
  static constexpr void (*table[])(const T*, int64_t, int64_t, T*) = {gather_tile<T, row + 1>...};
  return table[rows - 1];
}

// Tiles of A: where they lie, or copies with a kinder stride where their rows (or, transposed, columns) fall into one set.
template <class T>
struct Slice {
  Matrix<T> tile[kSliceTiles];

  // Tile i is rows edges[i] .. edges[i + 1] of A.
  Slice(const Matrix<T>& a, const int64_t* edges, int tiles, int64_t depth) {
    const bool aliased = std::max(a.row, a.column) * int64_t(sizeof(T)) % kAliasBytes == 0 && depth >= 64;
    const int64_t size = (depth + kPad) * kTileRows;
    T* own = aliased ? scratch<T, Scratch::slice_of_a>(size * kSliceTiles) : nullptr;
    for (int i = 0; i < tiles; ++i) {
      const T* rows = a.data + edges[i] * a.row;
      if (!aliased) {
        tile[i] = {rows, a.row, a.column};
      } else if (a.column == 1) {
        tile[i] = {own + i * size, depth + kPad, 1};
        for (int64_t r = 0; r < edges[i + 1] - edges[i]; ++r)
          std::copy_n(rows + r * a.row, depth, own + i * size + r * (depth + kPad));
      } else {
        tile[i] = {own + i * size, 1, kTileRows};
      }
    }
    if (!aliased || a.column == 1) return;
    constexpr int64_t some = 64;  // depths whose lines stay in the cache until every tile has taken its part
    for (int64_t k = 0; k < depth; k += some)
      for (int i = 0; i < tiles; ++i) {
        const auto gather = gather_function<T>(int(edges[i + 1] - edges[i]), std::make_integer_sequence<int, kTileRows>{});
        gather(a.data + edges[i] * a.row + k * a.column, a.column, std::min(some, depth - k),
               own + i * size + k * kTileRows);
      }
  }
};

}  // namespace

// C[n, m] = A[n, depth] B[depth, m] + bias; c_row is the distance of C's rows.
template <class T>
void multiply(int64_t n, int64_t m, int64_t depth, Matrix<T> a, Matrix<T> b, const T* bias, T* c, int64_t c_row,
              const Epilogue<T>* epilogue, int threads) {
  constexpr int width = kTileColumns<T>;
  if (n == 0 || m == 0) return;
  if (double(n) * double(m) * double(depth) < 2e6) threads = 1;  // 40 us: sharing it out would hardly pay
  const int64_t panels = (m + width - 1) / width;
  T* packed = scratch<T, Scratch::factor_b>(panels * depth * width);
  parallel_for(panels * depth < 4096 ? 1 : threads, panels, [&](int64_t p) {
    const int64_t there = std::min(m, b.columns) - p * width;  // none where a panel is padding alone
    pack_panel(b, depth, p * width, std::clamp<int64_t>(there, 0, width), packed + p * depth * width);
  });

  const int64_t tiles = (n + kTileRows - 1) / kTileRows;  // of nearly equal height: 128 rows are 8 x 13 + 2 x 12
  // A group of panels that stays in the second cache meets each tile of A while that is in the first.
  const int64_t group = std::max<int64_t>(1, std::min<int64_t>(panels, (5 << 17) / std::max<int64_t>(1, depth * width * int64_t(sizeof(T)))));
  const int64_t groups = (panels + group - 1) / group;
  const int64_t bunch = std::max<int64_t>(1, tiles / 16);  // tiles of one task
  const int64_t bunches = (tiles + bunch - 1) / bunch;
  parallel_for(threads, groups * bunches, [&](int64_t task) {
    const int64_t first_panel = task / bunches * group, last_panel = std::min(first_panel + group, panels);
    const int64_t first_tile = task % bunches * bunch, last_tile = std::min(first_tile + bunch, tiles);
    alignas(64) T edge[kTileRows * width];
    for (int64_t t = first_tile; t < last_tile; t += kSliceTiles) {
      const int count = int(std::min<int64_t>(kSliceTiles, last_tile - t));
      int64_t edges[kSliceTiles + 1];
      for (int i = 0; i <= count; ++i) edges[i] = n * (t + i) / tiles;
      const Slice<T> slice(a, edges, count, depth);
      for (int i = 0; i < count; ++i)
        for (int64_t p = first_panel; p < last_panel; ++p) {
          const Matrix<T>& tile = slice.tile[i];
          const int64_t row = edges[i], column = p * width;
          const int rows = int(edges[i + 1] - row), columns = int(std::min<int64_t>(width, m - column));
          const bool whole = columns % Simd<T>::width == 0;
          T* out = c + row * c_row + column;
          tile_function<T>(rows, columns, std::make_integer_sequence<int, kTileRows>{})(
              depth, tile.data, tile.row, tile.column, packed + p * depth * width, bias ? bias + row : nullptr,
              whole ? out : edge, whole ? c_row : width);
          if (!whole)
            for (int r = 0; r < rows; ++r) std::copy_n(edge + r * width, columns, out + r * c_row);
          if (epilogue) (*epilogue)(row, column, rows, columns);
        }
    }
  });
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
