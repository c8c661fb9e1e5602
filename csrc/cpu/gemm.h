// The matrix products of all layers. Activations have a blocked layout [rows / kBlockRows][features][kBlockRows]: the
// batch is the vector dimension, weights are broadcast in place, and the output of a layer is the input of the next one
// without packing. One thread sums each element over the whole depth in one order, so the bits do not depend on the
// work partition.
#pragma once
#include <algorithm>
#include <memory>
#include <new>

#include "simd.h"

namespace fastgan::inline FASTGAN_ISA {

constexpr int kTileVectors = 2;
template <class T>
constexpr int kBlockRows = kTileVectors * Simd<T>::width;  // rows of the batch in a block

// The smallest part of a batch for a thread: a cache line, so that no two threads write to the same one.
template <class T>
constexpr int kPartitionRows = std::max<int>(64 / int(sizeof(T)), Simd<T>::width);

// Columns first .. last of a blocked buffer. Both are multiples of kPartitionRows, except that `last` may be a multiple
// of kLastRows, in the padding.
template <class T>
constexpr int kLastRows = std::min(4, Simd<T>::width / 2);

struct ColumnRange {
  int64_t first, last;
};

template <class T>
ColumnRange partition(int64_t rows, int rank, int size) {
  const int64_t parts = (rows + kPartitionRows<T> - 1) / kPartitionRows<T>;
  const int64_t end = rounded_up(rows, kLastRows<T>);
  return {std::min(end, parts * rank / size * kPartitionRows<T>),
          std::min(end, parts * (rank + 1) / size * kPartitionRows<T>)};
}

// Calls f(offset of the first column in blocks of one feature, columns) for the part of a column range in each
// block.
template <class T, class Function>
void each_block(ColumnRange range, Function&& f) {
  for (int64_t column = range.first; column < range.last;) {
    const int64_t end = std::min(range.last, (column / kBlockRows<T> + 1) * kBlockRows<T>);
    f(column / kBlockRows<T>, int(column % kBlockRows<T>), int(end - column));
    column = end;
  }
}

// Whole vectors for a map: a loop that stops at the last column takes the rest one by one, at the cost of some vectors.
// A range of columns ends in the padding, so the other lanes may have any value but NaN.
template <class T>
int whole_vectors(int columns) {
  return int(rounded_up(columns, Simd<T>::width));
}

// Layout of the rows of a tile of A: contiguous; adjacent (a transposed matrix); or blocked, kBlockRows of the depth in
// a row. Software prefetch: hardware prefetchers track fewer streams than a tile has rows, and stop at page ends, so
// the first two layouts prefetch the tile's own lines.
enum class Layout { contiguous, adjacent, blocked };

// Element (i, k) at data[i * row + k * column], one of which is 1. Layout::blocked: rows of kBlockRows elements, the
// next block `column` elements further on; then `rest`, the last block, whose rows are `row` elements apart.
template <class T>
struct Matrix {
  const T* data;
  int64_t row, column;
  const T* rest = nullptr;
};

// A weight in blocks of its inputs, [inputs / kBlockRows][outputs][kBlockRows]. Blocks are an odd number of cache lines
// apart: at a distance of a power of two, the same rows of all blocks would map to the same cache sets. The last block
// has the width of the remaining inputs. A weight of at most kBlockRows inputs is a plain (outputs, inputs) matrix.
template <class T>
struct BlockedWeight {
  const T* data;
  int64_t outputs, inputs;

  // A matrix (rows, inputs), or its transpose.
  static BlockedWeight of(const T* data, int64_t rows, int64_t inputs, bool transposed) {
    return transposed ? BlockedWeight{data, inputs, rows} : BlockedWeight{data, rows, inputs};
  }

  // The distance of two blocks, and the size of the whole weight with the gaps between blocks, in elements.
  int64_t stride() const {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    return ((outputs * kBlockRows<T> + line - 1) / line | 1) * line;
  }
  int64_t size() const {
    const int64_t last = inputs > 0 ? (inputs - 1) / kBlockRows<T> * kBlockRows<T> : 0;
    return offset(last) + outputs * width(last);
  }

  // The number of inputs and the offset of the block that begins at input `column`.
  int64_t width(int64_t column) const { return std::min<int64_t>(kBlockRows<T>, inputs - column); }
  int64_t offset(int64_t column) const { return column / kBlockRows<T> * stride(); }
  const T* block(int64_t column) const { return data + offset(column); }

  // Rows from `row` on.
  Matrix<T> rows(int64_t row) const {
    const int64_t whole = inputs / kBlockRows<T> * kBlockRows<T>, left = inputs - whole;
    return {data + row * kBlockRows<T>, left, stride(), block(whole) + row * left};
  }
};

enum class Scratch { slice_of_a, packed, paired };

// Scratch memory that a thread keeps between calls. It grows to the size of the largest product and is not cleared.
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

// Prefetches the same rows of up to three arrays, a few rows at a time during a computation: a processor has about 20
// line fills, and more requests would stall its other loads.
struct Ahead {
  const char* arrays[3];
  int64_t stride, bytes;  // from row to row, of a row
  int rows, arrays_used = 3;
  bool to_l1 = tuning().next_tile == 3;
  void some(int count) {
    for (; count > 0 && rows > 0; --count, --rows)
      for (int i = 0; i < arrays_used; ++i) {
        for (int64_t at = 0; at < bytes; at += 64)
          if (to_l1)
            __builtin_prefetch(arrays[i] + at, 0, 3);
          else
            __builtin_prefetch(arrays[i] + at, 0, 2);
        arrays[i] += stride;
      }
  }
};

// The number of rows to prefetch before each block of the depth.
inline int rows_a_block(int rows, int64_t depth, int64_t block) {
  const int blocks = int((depth + block - 1) / block);
  return blocks > 0 ? (rows + blocks - 1) / blocks : rows;
}

// C = A B + bias, or C += A B, for a few rows of A and one block of B, in registers over the whole depth. `ahead`: for
// Layout::blocked.
template <class T>
using TileFunction = void (*)(int64_t depth, const Matrix<T>& a, const T* b_block, const T* bias, bool add, T* c,
                              int64_t c_row, Ahead* ahead);

// The instance for this number of rows; for two vectors of columns, one, or half of one.
template <class T>
TileFunction<T> tile_function(Layout layout, int rows, int columns);

// Copies the rows of a tile at every depth to contiguous memory. The number of rows is a constant, so that the copy of
// a depth is two moves.
template <class T>
using GatherFunction = void (*)(const T* a, int64_t a_depth, int64_t depth, T* out);
template <class T>
GatherFunction<T> gather_function(int rows);

// Addresses that differ by a multiple of this map to the same cache set.
constexpr int64_t kAliasBytes = 4096;
// A tile of few rows uses less than half of each line of a transposed A, and reads all lines for each block of B. From
// this many columns of B on, a copy is faster.
constexpr bool kNarrowTiles = kTileRows < 8;
constexpr int64_t kManyColumns = 48;
// Tiles of A that are gathered together, so that almost the whole of each line of a transposed A is used.
constexpr int kSliceTiles = kNarrowTiles ? 8 : 4;

// Tiles of A in place; or copies with another stride, if their rows (columns, if transposed) map to one cache set.
template <class T>
struct Slice {
  Matrix<T> tile[kSliceTiles];
  Layout layout;

  // Tile i is rows edges[i] .. edges[i + 1] of A; `columns` of B are multiplied with the slice.
  Slice(const Matrix<T>& a, const int64_t* edges, int tiles, int64_t depth, int64_t columns)
      : layout(a.column == 1 ? Layout::contiguous : Layout::adjacent) {
    const bool copies = depth >= 64 && ((std::max(a.row, a.column) * int64_t(sizeof(T))) % kAliasBytes == 0 ||
                                        (kNarrowTiles && layout == Layout::adjacent && columns >= kManyColumns));
    const int64_t size = (depth + kPad) * kTileRows;
    T* own = copies ? scratch<T, Scratch::slice_of_a>(size * kSliceTiles) : nullptr;
    for (int i = 0; i < tiles; ++i) {
      const T* rows = a.data + edges[i] * a.row;
      if (!copies) {
        tile[i] = {rows, a.row, a.column};
      } else if (a.column == 1) {
        tile[i] = {own + i * size, depth + kPad, 1};
        for (int64_t r = 0; r < edges[i + 1] - edges[i]; ++r)
          std::copy_n(rows + r * a.row, depth, own + i * size + r * (depth + kPad));
      } else {
        tile[i] = {own + i * size, 1, kTileRows};
      }
    }
    if (!copies || a.column == 1) return;
    // So many depths that their lines stay in the L1 cache until all tiles are gathered; for narrow tiles, even if they
    // map to one set.
    constexpr int64_t some = kNarrowTiles ? 4 : 64;
    for (int64_t k = 0; k < depth; k += some)
      for (int i = 0; i < tiles; ++i) {
        const auto gather = gather_function<T>(int(edges[i + 1] - edges[i]));
        gather(a.data + edges[i] * a.row + k * a.column, a.column, std::min(some, depth - k),
               own + i * size + k * kTileRows);
      }
  }
};

// The last columns of a batch may fill half a vector or less, at the cost of a full vector. For them, two products have
// other vectors: one of some depths by 4 columns, and one of inputs.
#if defined(__AVX512F__)
constexpr int kShortColumns = 8;  // at most
#elif defined(__AVX2__)
constexpr int kShortColumns = 4;
#else
constexpr int kShortColumns = 0;
#endif

// The columns of a range after the last whole vector, if they are few. Independent of the partition of the batch.
template <class T>
int short_columns(ColumnRange range) {
  const int64_t left = range.last % Simd<T>::width;
  return sizeof(T) == 4 && left <= kShortColumns ? int(std::min(left, range.last - range.first)) : 0;
}

// The product of a matrix and the last 4 or 8 columns of a range, with sums in vectors of kShortDepths depths by 4
// columns.
constexpr int kShortDepths = Simd<float>::width / 4;
// `columns` columns of a block of B, packed as [depth / kShortDepths][columns / 4][4 * kShortDepths].
const float* pack_short(int64_t depth, const float* b, int columns);
// As TileFunction for Layout::blocked, with B from pack_short().
using ShortTile = void (*)(int64_t depth, const Matrix<float>& a, const float* packed, const float* bias, float* c,
                           int64_t c_row);
ShortTile short_tile(int rows, int columns);
// C = A^T B at 4 or 8 columns, for `inputs` columns of A (one or two vectors), whose rows are a_row apart.
void multiply_short_transposed(int64_t outputs, int64_t inputs, const float* a, int64_t a_row, const float* b, float* c,
                               int columns);

constexpr int64_t kGroupBytes = 640 << 10;  // blocks of B that stay in the L2 cache during a loop over tiles of A

// Calls f(columns) for parts of a column range whose blocks of B, `depth` features, stay in the L2 cache.
template <class T, class Function>
void each_group(int64_t depth, ColumnRange range, Function&& f) {
  constexpr int width = kBlockRows<T>;
  const int64_t group =
      width * std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, depth * width * int64_t(sizeof(T))));
  for (int64_t first = range.first; first < range.last;) {
    const ColumnRange columns{first, std::min(range.last, (first / width * width) + group)};
    f(columns);
    first = columns.last;
  }
}

// The products below compute C = A B + bias for the columns of a column range; A has n rows, B `depth` features, C n
// features. `after` (Mapped in blocked.h): `after.claim()` is called before each tile, and `after(p, row, lane, rows,
// columns)` after it, while it is in the L1 cache; the tile starts at row `row` and column `lane` of block p of C.

// The product uses the first `inputs` of the `of_b` features of B, and the first `outputs` of the `of_c` features of C.
// add: C += A B.
struct Extent {
  int64_t inputs, of_b, outputs, of_c;
  bool add = false;
};

// The last columns of a product, if they are few.
template <class T>
class ShortColumns {
 public:
  // Removes them from the range, if the shape of A is `allowed`.
  ShortColumns(bool allowed, const Extent& extent, const T* b, T* c, ColumnRange& range) {
    if (kShortColumns == 0 || !allowed || extent.add || !(few_ = short_columns<T>(range))) return;
    depth_ = extent.inputs, block_ = range.last / kBlockRows<T>, lane_ = int(range.last % kBlockRows<T>) - few_;
    b_ = b + block_ * extent.of_b * kBlockRows<T> + lane_, c_ = c + block_ * extent.of_c * kBlockRows<T> + lane_;
    range.last -= few_;
  }

  // Calls f(columns) as each_group(), once even if no columns are left. The last call ends at range.last.
  template <class Function>
  void each_range(int64_t depth, ColumnRange range, Function&& f) const {
    if (few_ && range.first == range.last) return f(range);
    each_group<T>(depth, range, f);
  }

  void pack() {
    if constexpr (kPossible)
      if (few_) packed_ = pack_short(depth_, b_, few_);
  }

  // Rows row .. row + rows of C, after pack(): A has Layout::blocked.
  template <class After>
  void multiply_rows([[maybe_unused]] const Matrix<T>& a, int64_t row, int rows, [[maybe_unused]] const T* bias,
                     After&& after) const {
    if (!few_) return;
    if constexpr (kPossible)
      short_tile(rows, few_)(depth_, a, packed_, bias ? bias + row : nullptr, c_ + row * kBlockRows<T>, kBlockRows<T>);
    after(block_, row, lane_, rows, few_);
  }

  // The same for a transposed A, whose rows are a_row apart.
  template <class After>
  void multiply_transposed([[maybe_unused]] const T* a, [[maybe_unused]] int64_t a_row, int64_t row, int64_t rows,
                           After&& after) const {
    if (!few_) return;
    if constexpr (kPossible) multiply_short_transposed(depth_, rows, a, a_row, b_, c_ + row * kBlockRows<T>, few_);
    after(block_, row, lane_, int(rows), few_);
  }

 private:
  static constexpr bool kPossible = sizeof(T) == 4 && kShortColumns > 0;
  int few_ = 0;
  int64_t depth_ = 0, block_ = 0;
  int lane_ = 0;
  const T *b_ = nullptr, *packed_ = nullptr;
  T* c_ = nullptr;
};

// Rows row .. row + rows of C.
template <class T, class After>
void multiply_rows(const Extent& extent, Layout layout, const Matrix<T>& a, int64_t row, int rows, const T* bias,
                   const T* b, T* c, ColumnRange columns, Ahead* ahead, After&& after) {
  constexpr int width = kBlockRows<T>;
  each_block<T>(columns, [&](int64_t p, int lane, int lanes) {
    after.claim(c, extent.of_c, p, row, lane, rows, lanes);
    tile_function<T>(layout, rows, lanes)(extent.inputs, a, b + p * extent.of_b * width + lane,
                                          bias ? bias + row : nullptr, extent.add,
                                          c + (p * extent.of_c + row) * width + lane, width, ahead);
    after(p, row, lane, rows, lanes);
  });
}

// A in place, by rows or transposed.
template <class T, class After>
void multiply(int64_t n, int64_t depth, const Matrix<T>& a, const T* bias, const T* b, T* c, ColumnRange range,
              After&& after) {
  const int64_t tiles = tiles_of(n);
  const Extent extent{depth, depth, n, n};
  // Only the product with the same order of sums as a tile, so that the bits of a row do not depend on its place.
  const ShortColumns<T> last(a.column != 1 && n % Simd<T>::width == 0, extent, b, c, range);
  last.each_range(depth, range, [&](ColumnRange columns) {
    for (int64_t t = 0; t < tiles; t += kSliceTiles) {
      const int count = int(std::min<int64_t>(kSliceTiles, tiles - t));
      int64_t edges[kSliceTiles + 1];
      for (int i = 0; i <= count; ++i) edges[i] = n * (t + i) / tiles;
      const Slice<T> slice(a, edges, count, depth, columns.last - columns.first);
      for (int i = 0; i < count; ++i) {
        const int rows = int(edges[i + 1] - edges[i]);
        multiply_rows(extent, slice.layout, slice.tile[i], edges[i], rows, bias, b, c, columns, nullptr, after);
      }
    }
    if (columns.last == range.last)
      for (int64_t row = 0; row < n; row += kBlockRows<T>)
        last.multiply_transposed(a.data + row, a.column, row, std::min<int64_t>(kBlockRows<T>, n - row), after);
  });
}

// A is a blocked weight.
template <class T, class After>
void multiply_weight(const BlockedWeight<T>& a, const Extent& extent, const T* bias, const T* b, T* c,
                     ColumnRange range, After&& after) {
  const int64_t n = extent.outputs, tiles = tiles_of(n);
  const int64_t blocks = (a.inputs + kBlockRows<T> - 1) / kBlockRows<T>;
  ShortColumns<T> last(a.inputs % 4 == 0 && n >= kTileRows, extent, b, c, range);
  last.pack();
  last.each_range(a.inputs, range, [&](ColumnRange columns) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = n * t / tiles, next = n * (t + 1) / tiles, end = n * std::min(t + 2, tiles) / tiles;
      constexpr int64_t bytes = kBlockRows<T> * int64_t(sizeof(T));
      Ahead ahead{{reinterpret_cast<const char*>(a.rows(next).data)},
                  a.stride() * int64_t(sizeof(T)),
                  (end - next) * bytes,  // the next tile
                  int(end > next ? blocks : 0),
                  1};
      multiply_rows(extent, Layout::blocked, a.rows(row), row, int(next - row), bias, b, c, columns, &ahead, after);
      if (columns.last == range.last)  // while the rows are in the L1 cache
        last.multiply_rows(a.rows(row), row, int(next - row), bias, after);
    }
  });
}

// A is a blocked weight, transposed. extent: of its outputs, which are the depth, and of its inputs.
template <class T, class After>
void multiply_transposed_weight(const BlockedWeight<T>& a, const Extent& extent, const T* b, T* c, ColumnRange range,
                                After&& after) {
  const bool whole = extent.outputs == a.inputs && a.inputs % Simd<T>::width == 0;
  const ShortColumns<T> last(whole, extent, b, c, range);
  last.each_range(extent.inputs, range, [&](ColumnRange columns) {
    for (int64_t column = 0; column < extent.outputs; column += kBlockRows<T>) {
      const int64_t width = a.width(column), some = std::min(width, extent.outputs - column);
      const int64_t tiles = tiles_of(some);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = some * t / tiles, next = some * (t + 1) / tiles;
        multiply_rows<T>(extent, Layout::adjacent, {a.block(column) + row, 1, width}, column + row, int(next - row),
                         nullptr, b, c, columns, nullptr, after);
      }
      if (columns.last == range.last) last.multiply_transposed(a.block(column), width, column, width, after);
    }
  });
}

// Some columns of X^T as a contiguous (rows, kBlockRows) matrix: the inputs become the vector dimension.
template <class T>
void pack_inputs(int64_t inputs, int64_t rows, const T* x, int64_t column, int columns, T* packed);

// The gradient of a weight matrix, G = E X^T summed over the rows of a batch, for the inputs first .. last; `first`
// begins a block. E (gradient of n outputs) and X (`inputs` features) are blocked. `apply(column, columns, row, rows,
// tile)` is called for each tile, whose rows are kBlockRows apart; `needs(column, columns, row, rows)` returns the
// memory that this call will read, which is prefetched one tile ahead. Loops are blocked so that the parts of the
// packed X and of E stay in the L2 cache; `some` tiles of E follow one another in one block of the weight.
//
// The product covers the first `dense` outputs, and the rows of a range, which begins with a block. `complete(row,
// rows, packed, tile)` adds the rest of the gradient; packed: the block of X, row by row from row 0 on.
struct GradientShape {
  int64_t n, dense, of_e, inputs;  // of_e: features of E
};
template <class T, class Needs, class Complete, class Apply>
void multiply_gradient(const GradientShape& shape, ColumnRange range, const T* e, const T* x, int64_t first,
                       int64_t last, Needs&& needs, Complete&& complete, Apply&& apply) {
  const int64_t n = shape.n, dense = shape.dense, of_e = shape.of_e, inputs = shape.inputs;
  constexpr int width = kBlockRows<T>;
  const int64_t rows = range.last - range.first, packed_block = padded(range.last) * width;
  const int64_t dense_tiles = tiles_of(dense);
  const int64_t other_tiles = tiles_of(n - dense), tiles = dense_tiles + other_tiles;
  const int64_t group =
      width * std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, packed_block * int64_t(sizeof(T))));
  e += range.first * of_e;
  const int64_t tile_bytes = kTileRows * padded(rows) * int64_t(sizeof(T)),
                some = std::max<int64_t>(1, tuning().gradient_bytes / std::max<int64_t>(1, tile_bytes));
  alignas(64) T tile[kTileRows * width];
  const auto columns_at = [&](int64_t column) { return int(std::min<int64_t>(width, last - column)); };
  for (int64_t begin = first; begin < last; begin += group) {
    const int64_t end = std::min(last, begin + group);
    T* packed = scratch<T, Scratch::packed>((end - begin + width - 1) / width * packed_block);
    for (int64_t column = begin; column < end; column += width)
      pack_inputs(inputs, range.last, x, column, columns_at(column), packed + (column - begin) / width * packed_block);
    const auto edge = [&](int64_t t) {
      return t < dense_tiles
                 ? dense * t / dense_tiles
                 : dense + (n - dense) * std::min(t - dense_tiles, other_tiles) / std::max<int64_t>(1, other_tiles);
    };
    for (int64_t first_tile = 0; first_tile < tiles; first_tile += some) {
      const int64_t last_tile = std::min(tiles, first_tile + some);
      for (int64_t column = begin; column < end; column += width)
        for (int64_t t = first_tile; t < last_tile; ++t) {
          const int64_t row = edge(t), next = edge(t + 1);
          const bool below = t + 1 < last_tile, beside = !below && column + width < end;
          const int64_t soon = below ? t + 1 : beside ? first_tile : last_tile;  // the tile after this one
          const int64_t where = below ? column : beside ? column + width : begin;
          const T* block = packed + (column - begin) / width * packed_block;
          if (t < dense_tiles) {
            const Matrix<T> left{e + row * width, width, of_e * width, e + (rows / width * of_e + row) * width};
            Ahead ahead = needs(where, columns_at(where), edge(soon), int(edge(soon + 1) - edge(soon)));
            tile_function<T>(Layout::blocked, int(next - row), columns_at(column))(rows, left,
                                                                                   block + range.first * width, nullptr,
                                                                                   false, tile, width, &ahead);
          } else {
            std::fill_n(tile, (next - row) * width, T(0));
          }
          complete(row, int(next - row), block, tile);
          apply(column, columns_at(column), row, int(next - row), tile);
        }
    }
  }
}

}  // namespace fastgan::inline FASTGAN_ISA
