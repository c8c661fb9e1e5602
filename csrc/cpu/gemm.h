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
  const int64_t group = std::max<int64_t>(1, std::min<int64_t>(panels, (5 << 17) / std::max<int64_t>(1, depth * width * int64_t(sizeof(T)))));
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
      for (int64_t p = first_panel; p < last_panel; ++p) {
        const int64_t column = p * width;
        const int columns = int(std::min<int64_t>(width, m - column));
        T* out = c + row * c_row + column;
        const T* row_bias = bias ? bias + row : nullptr;
        const auto run = tile_function<T>(rows, columns, std::make_integer_sequence<int, kTileRows>{});
        if (columns % Simd<T>::width == 0) {
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
