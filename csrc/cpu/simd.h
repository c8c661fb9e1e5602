// Vectors as wide as a register, by the compilers' vector extensions: one source for every instruction set.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../formulas.h"

namespace fastgan::inline FASTGAN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14;  // 14 x 2 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileRows = 6;  // 6 x 2 of 16
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 12;  // 12 x 2 of 32
#else
constexpr int kVectorBytes = 16, kTileRows = 6;
#endif

// What is best where a weight is updated, by measurement. gradient_bytes: of a layer's gradient, so much stays in the
// L2 cache while tiles of one block of the weight follow one another (0: one tile). next_tile: what prefetches the next
// tile of weights and moments: the product, to the L1 cache (3) or L2 (2), or the optimiser at its own rate (0). The
// height of a tile needs no choice: products with 8 to 14 rows differ by at most 2% (Zen 5).
struct Tuning {
  int64_t gradient_bytes;
  int next_tile;
};

inline const Tuning& tuning() {
#if defined(__AVX512F__)
  // Intel's own prefetchers follow a block of the weight; a burst of prefetches stops everything else. Zen 4 has half
  // the multipliers of Zen 5, so the L2 cache is near enough there.
  static const Tuning found = __builtin_cpu_is("intel")       ? Tuning{320 << 10, 0}
                              : __builtin_cpu_is("amdfam19h") ? Tuning{0, 2}
                                                              : Tuning{320 << 10, 3};
#else
  static const Tuning found{320 << 10, 3};
#endif
  return found;
}

// Tiles of nearly equal height for so many rows: 128 rows are 8 x 13 + 2 x 12.
inline int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

template <class T>
struct Simd {
  static constexpr int width = kVectorBytes / int(sizeof(T));
  typedef T Vector __attribute__((vector_size(kVectorBytes)));

  typedef T Half __attribute__((vector_size(kVectorBytes / 2)));

  template <class V = Vector>
  static V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  template <class V>
  static void store(T* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
  }
};

// The lanes of a, then of b, that a list names.
template <class T, int... lanes>
typename Simd<T>::Vector shuffle(typename Simd<T>::Vector a, typename Simd<T>::Vector b,
                                 std::integer_sequence<int, lanes...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, lanes...);
#else  // g++ 11 has only the older builtin, whose indices are a vector of integers as wide as T
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  return __builtin_shuffle(a, b, Indices{lanes...});
#endif
}

// Interleaves the low (first = 0) or high (first = width / 2) halves of a and b.
template <class T, int first, int... i>
typename Simd<T>::Vector interleave(typename Simd<T>::Vector a, typename Simd<T>::Vector b,
                                    std::integer_sequence<int, i...>) {
  return shuffle<T>(a, b, std::integer_sequence<int, (first + i / 2 + (i % 2) * Simd<T>::width)...>{});
}

// The lanes 0, 2, 4, ... of a, then of b.
template <class T, int... i>
typename Simd<T>::Vector even_lanes(typename Simd<T>::Vector a, typename Simd<T>::Vector b,
                                    std::integer_sequence<int, i...>) {
  return shuffle<T>(a, b, std::integer_sequence<int, 2 * i...>{});
}

// out[j][i] = in[i][j] for a square of the vectors' width. Interleaving row i with row i + width / 2 moves the highest
// bit of the row number to the end of the column number. Once for each bit, this exchanges rows and columns.
template <class T>
inline void transpose_square(const T* in, int64_t in_row, T* out, int64_t out_row) {
  using S = Simd<T>;
  constexpr int width = S::width;
  constexpr auto lanes = std::make_integer_sequence<int, width>{};
  typename S::Vector rows[width], next[width];
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) rows[i] = S::load(in + i * in_row);
#pragma GCC unroll 4
  for (int bit = 1; bit < width; bit *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < width / 2; ++i) {
      next[2 * i] = interleave<T, 0>(rows[i], rows[i + width / 2], lanes);
      next[2 * i + 1] = interleave<T, width / 2>(rows[i], rows[i + width / 2], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) rows[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) S::store(out + i * out_row, rows[i]);
}

// out[j][i] = in[i][j] for a rows x columns matrix.
template <class T>
void transpose(const T* in, int64_t in_row, int64_t rows, int64_t columns, T* out, int64_t out_row) {
  constexpr int64_t width = Simd<T>::width;
  const int64_t whole_rows = rows / width * width, whole_columns = columns / width * width;
  for (int64_t i = 0; i < whole_rows; i += width)
    for (int64_t j = 0; j < whole_columns; j += width)
      transpose_square(in + i * in_row + j, in_row, out + j * out_row + i, out_row);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) out[j * out_row + i] = in[i * in_row + j];
}

// Rows of a batch are padded to this many, a multiple of every block's width.
constexpr int64_t kPad = 32;
inline int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
inline int64_t padded(int64_t rows) { return rounded_up(rows, kPad); }

}  // namespace fastgan::inline FASTGAN_ISA
