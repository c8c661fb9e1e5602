// The one matrix product behind layers, near the processor's peak. Activations lie in panels: as many rows of the batch as a
// register tile is wide, feature after feature, so that the batch is the vector dimension, weights are read in place by
// broadcasts, and what one layer writes the next one reads, without packing. Every element of a product is summed over the
// whole depth by one thread in one order: how the work is shared out does not show in the bits.
#pragma once
#include <algorithm>
#include <memory>
#include <new>

#include "simd.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

constexpr int kTileVectors = 2;
template <class T>
constexpr int kPanel = kTileVectors * Simd<T>::width;  // rows of the batch in a panel

// The smallest part of a batch a thread takes: a cache line, so that no two threads write to one.
template <class T>
constexpr int kShareRows = std::max<int>(64 / int(sizeof(T)), Simd<T>::width);

// Columns first .. last of panels: multiples of kShareRows, the last one of half a vector (it may reach into the padding).
struct Share {
  int64_t first, last;
};

template <class T>
Share share_of(int64_t rows, int rank, int size) {
  const int64_t parts = (rows + kShareRows<T> - 1) / kShareRows<T>;
  const int64_t end = rounded_up(rows, Simd<T>::width / 2);
  return {std::min(end, parts * rank / size * kShareRows<T>), std::min(end, parts * (rank + 1) / size * kShareRows<T>)};
}

// Calls f(offset of the first column in panels of one feature, columns) for each piece of a share that lies in one panel.
template <class T, class Function>
void each_panel(Share share, Function&& f) {
  for (int64_t column = share.first; column < share.last;) {
    const int64_t end = std::min(share.last, (column / kPanel<T> + 1) * kPanel<T>);
    f(column / kPanel<T>, int(column % kPanel<T>), int(end - column));
    column = end;
  }
}

template <class T>
struct Matrix {  // element (i, k) at data[i * row + k * column], one of which is 1; in panels see Rows
  const T* data;
  int64_t row, column;
};

// How the rows of a tile of A lie: each contiguous, side by side (a transposed matrix), or in panels, of which the next one
// lies `column` further on. What is asked of memory meanwhile is, in the first two, lines of the tile itself: a processor
// follows fewer streams than a tile has rows, and none from page to page.
enum class Rows { contiguous, adjacent, panels };

enum class Scratch { slice_of_a, packed, paired };

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

// Memory that will soon be needed: the same rows of three arrays. It is asked for row by row while something else is computed,
// because a processor waits for about 20 lines at a time, and whatever is asked for beyond them holds up its other loads.
struct Ahead {
  const char* arrays[3];
  int64_t stride, bytes;  // from row to row, of a row
  int rows;
  void some(int count) {
    for (; count > 0 && rows > 0; --count, --rows)
      for (const char*& array : arrays) {
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(array + at, 0, 2);
        array += stride;
      }
  }
};

// The part of `rows` to ask for before each block of the depth.
inline int rows_a_block(int rows, int64_t depth, int64_t block) {
  const int blocks = int((depth + block - 1) / block);
  return blocks > 0 ? (rows + blocks - 1) / blocks : rows;
}

// C = A B + bias for a few rows of A and one panel of B, in registers over the whole depth. `ahead`: where rows lie in panels.
template <class T>
using TileFunction = void (*)(int64_t depth, const Matrix<T>& a, const T* panel, const T* bias, T* c, int64_t c_row,
                              Ahead* ahead);

// The instance for this many rows, and for one vector or half of one where the columns left need no more.
template <class T>
TileFunction<T> tile_function(Rows how, int rows, int columns);

// Copies the rows of a tile at every depth, contiguous. The number of rows is a constant so that copying them is two moves.
template <class T>
using GatherFunction = void (*)(const T* a, int64_t a_depth, int64_t depth, T* out);
template <class T>
GatherFunction<T> gather_function(int rows);

// Addresses that differ by a multiple of this share a set of the caches: more of them than it has ways evict one another.
constexpr int64_t kAliasBytes = 4096;
constexpr int kSliceTiles = 4;  // of A, prepared together: transposed, each visit to a line then uses most of it

// Tiles of A: where they lie, or copies with a kinder stride where their rows (or, transposed, columns) fall into one set.
template <class T>
struct Slice {
  Matrix<T> tile[kSliceTiles];
  Rows how;

  // Tile i is rows edges[i] .. edges[i + 1] of A.
  Slice(const Matrix<T>& a, const int64_t* edges, int tiles, int64_t depth)
      : how(a.column == 1 ? Rows::contiguous : Rows::adjacent) {
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
        const auto gather = gather_function<T>(int(edges[i + 1] - edges[i]));
        gather(a.data + edges[i] * a.row + k * a.column, a.column, std::min(some, depth - k),
               own + i * size + k * kTileRows);
      }
  }
};

constexpr int64_t kGroupBytes = 640 << 10;  // panels of B that stay in the second cache while tiles of A pass by

// C = A B + bias for the columns of a share; A has n rows, B `depth` features, C n features. `after(p, row, lane, rows,
// columns)` is told about each tile while it is in the first cache: it starts at row `row` and column `lane` of panel p of C.
template <class T, class After>
void multiply(int64_t n, int64_t depth, const Matrix<T>& a, const T* bias, const T* b, T* c, Share share, After&& after) {
  constexpr int width = kPanel<T>;
  const int64_t tiles = (n + kTileRows - 1) / kTileRows;  // of nearly equal height: 128 rows are 8 x 13 + 2 x 12
  const int64_t group =
      width * std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, depth * width * int64_t(sizeof(T))));
  for (int64_t first = share.first; first < share.last;) {
    const Share columns{first, std::min(share.last, (first / width * width) + group)};
    for (int64_t t = 0; t < tiles; t += kSliceTiles) {
      const int count = int(std::min<int64_t>(kSliceTiles, tiles - t));
      int64_t edges[kSliceTiles + 1];
      for (int i = 0; i <= count; ++i) edges[i] = n * (t + i) / tiles;
      const Slice<T> slice(a, edges, count, depth);
      for (int i = 0; i < count; ++i) {
        const int64_t row = edges[i];
        const int rows = int(edges[i + 1] - row);
        each_panel<T>(columns, [&](int64_t p, int lane, int lanes) {
          tile_function<T>(slice.how, rows, lanes)(depth, slice.tile[i], b + p * depth * width + lane,
                                                   bias ? bias + row : nullptr, c + (p * n + row) * width + lane, width,
                                                   nullptr);
          after(p, row, lane, rows, lanes);
        });
      }
    }
    first = columns.last;
  }
}

// Some columns of X^T, (rows, kPanel) contiguous: the inputs become the vector dimension.
template <class T>
void pack_inputs(int64_t inputs, int64_t rows, const T* x, int64_t column, int columns, T* packed);

// The gradient of a weight matrix, G = E X^T summed over the rows of a batch, for `columns` inputs from `column` on: E, the
// gradient of n outputs, and X, `inputs` features, lie in panels. Tile after tile goes to `take(row, rows, tile)`, whose rows
// are kPanel apart; `needs(row, rows)` tells what memory it will need then, which is asked for one tile ahead.
template <class T, class Needs, class Take>
void multiply_gradient(int64_t n, int64_t inputs, int64_t rows, const T* e, const T* x, int64_t column, int columns,
                       Needs&& needs, Take&& take) {
  constexpr int width = kPanel<T>;
  T* packed = scratch<T, Scratch::packed>(padded(rows) * width);
  pack_inputs(inputs, rows, x, column, columns, packed);
  alignas(64) T tile[kTileRows * width];
  const int64_t tiles = (n + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t row = n * t / tiles, next = n * (t + 1) / tiles, after = n * std::min(t + 2, tiles) / tiles;
    Ahead ahead = needs(next, int(after - next));
    tile_function<T>(Rows::panels, int(next - row), columns)(rows, {e + row * width, width, n * width}, packed, nullptr, tile,
                                                             width, &ahead);
    take(row, int(next - row), tile);
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
