// The register tiles of the products in gemm.h and gemm_bf16.h.
#include "gemm_bf16.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

// Adds `count` depths to rows x `vectors` vectors V of C in registers; `each` runs before each depth.
template <class T, class V, int rows, int vectors, class Each>
[[gnu::always_inline]] inline void accumulate(V (&sum)[rows][vectors], const T* __restrict x, int64_t a_row,
                                              int64_t a_column, const T* __restrict b_block, int64_t count,
                                              Each&& each) {
  constexpr int width = int(sizeof(V) / sizeof(T));
  for (; count > 0; --count, x += a_column, b_block += kBlockRows<T>) {
    each();
    V b[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) b[v] = Simd<T>::template load<V>(b_block + v * width);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[i][v] += x[i * a_row] * b[v];
  }
}

// rows x `vectors` vectors V of C in registers, over the whole depth. The block of B is kBlockRows wide whatever
// `vectors` is.
template <class T, Layout layout, class V, int rows, int vectors>
void multiply_tile(int64_t depth, const Matrix<T>& a, const T* __restrict b_block, const T* bias, bool add,
                   T* __restrict c, int64_t c_row, Ahead* ahead) {
  constexpr int width = int(sizeof(V) / sizeof(T)), line = 64 / int(sizeof(T));
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      sum[i][v] = add ? Simd<T>::template load<V>(c + i * c_row + v * width) : V{} + (bias ? bias[i] : T(0));
  const T* x = a.data;
  const auto prefetch = [](uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address)); };
  if constexpr (layout == Layout::blocked) {
    constexpr int64_t block = kBlockRows<T>;
    const int rows_ahead = rows_a_block(ahead->rows, depth, block);
    int64_t left = depth;
    for (; left >= block; left -= block, x += a.column, b_block += block * block) {
      ahead->some(rows_ahead);
      accumulate(sum, x, block, 1, b_block, block, [] {});
    }
    ahead->some(rows_ahead);
    accumulate(sum, a.rest, a.row, 1, b_block, left, [] {});
  } else if constexpr (layout == Layout::contiguous) {
    // A block of the depth is one cache line of a row. During a block, the lines of all rows two blocks ahead are
    // prefetched, one or two per depth. The addresses may be beyond A.
    constexpr int lines = (rows + line - 1) / line;
    for (int64_t left = depth; left > 0; left -= line, x += line, b_block += line * kBlockRows<T>) {
      uintptr_t soon = uintptr_t(x) + 2 * 64;
      accumulate(sum, x, a.row, 1, b_block, std::min<int64_t>(left, line), [&] {
#pragma GCC unroll 2
        for (int i = 0; i < lines; ++i, soon += uintptr_t(a.row) * sizeof(T)) prefetch(soon);
      });
    }
  } else {
    uintptr_t soon =
        uintptr_t(x) + uintptr_t(16 * a.column + rows - 1) * sizeof(T);  // the line in which a later depth ends
    accumulate(sum, x, 1, a.column, b_block, depth, [&] { prefetch(soon), soon += uintptr_t(a.column) * sizeof(T); });
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) Simd<T>::store(c + i * c_row + v * width, sum[i][v]);
}

template <class T, Layout layout, int... row>
TileFunction<T> tile_function(int rows, int columns, std::integer_sequence<int, row...>) {
  using S = Simd<T>;
  static constexpr TileFunction<T> wide[] = {multiply_tile<T, layout, typename S::Vector, row + 1, kTileVectors>...};
  static constexpr TileFunction<T> narrow[] = {multiply_tile<T, layout, typename S::Vector, row + 1, 1>...};
  static constexpr TileFunction<T> half[] = {multiply_tile<T, layout, typename S::Half, row + 1, 1>...};
  return (columns > S::width ? wide : columns > S::width / 2 ? narrow : half)[rows - 1];
}

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

#if defined(__AVX2__)

// kShortDepths floats, repeated four times.
inline Simd<float>::Vector four_times(const float* x) {
  Simd<float>::Vector four;
#if defined(__AVX512F__)
  asm("vbroadcastf32x4 %1, %0" : "=v"(four) : "m"(*reinterpret_cast<const float (*)[4]>(x)));
#else
  asm("vbroadcastsd %1, %0" : "=x"(four) : "m"(*reinterpret_cast<const float (*)[2]>(x)));
#endif
  return four;
}

// rows x 4 * groups columns. Each accumulator has 4 columns by kShortDepths partial sums over the depth. With narrow
// vectors there are two accumulators for each: fewer would wait for one another.
template <int rows, int groups>
void multiply_short(int64_t depth, const Matrix<float>& a, const float* packed, const float* bias, float* c,
                    int64_t c_row) {
  using S = Simd<float>;
  constexpr int chains = 4 / kShortDepths, step = kShortDepths * chains;
  S::Vector sum[rows][groups][chains];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g)
#pragma GCC unroll 2
      for (int s = 0; s < chains; ++s) sum[i][g][s] = S::Vector{};
  const auto some = [&](const float* x, int64_t a_row, int64_t count) __attribute__((always_inline)) {
    for (; count > 0; count -= step, x += step, packed += 4 * step * groups)
#pragma GCC unroll 2
      for (int s = 0; s < chains; ++s)
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
          const S::Vector four = four_times(x + i * a_row + s * kShortDepths);
#pragma GCC unroll 2
          for (int g = 0; g < groups; ++g) sum[i][g][s] += four * S::load(packed + S::width * (s * groups + g));
        }
  };
  const float* x = a.data;
  int64_t left = depth;
  for (; left >= kBlockRows<float>; left -= kBlockRows<float>, x += a.column)
    some(x, kBlockRows<float>, kBlockRows<float>);
  some(a.rest, a.row, left);
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) {
      float parts[S::width];
      S::store(parts, chains == 2 ? sum[i][g][0] + sum[i][g][chains - 1] : sum[i][g][0]);
      for (int j = 0; j < 4; ++j) {
        const float* p = parts + j * kShortDepths;
        c[i * c_row + 4 * g + j] =
            (bias ? bias[i] : 0.0f) + (kShortDepths == 4 ? (p[0] + p[1]) + (p[2] + p[3]) : p[0] + p[1]);
      }
    }
}

template <int... row>
ShortTile short_tile(int rows, [[maybe_unused]] int columns, std::integer_sequence<int, row...>) {
  static constexpr ShortTile four[] = {multiply_short<row + 1, 1>...};
#if defined(__AVX512F__)
  static constexpr ShortTile eight[] = {multiply_short<row + 1, 2>...};
  if (columns > 4) return eight[rows - 1];
#endif
  return four[rows - 1];
}

// Vectors of inputs times broadcast numbers of B, summed in the order of a tile.
template <int columns, int vectors>
void multiply_short_transposed(int64_t outputs, const float* a, int64_t a_row, const float* b, float* c) {
  using S = Simd<float>;
  S::Vector sum[columns][vectors];
#pragma GCC unroll 8
  for (int j = 0; j < columns; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[j][v] = S::Vector{};
  for (int64_t k = 0; k < outputs; ++k, a += a_row, b += kBlockRows<float>)
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[j][v] += b[j] * S::load(a + S::width * v);
  float parts[columns][S::width * vectors];
#pragma GCC unroll 8
  for (int j = 0; j < columns; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) S::store(parts[j] + S::width * v, sum[j][v]);
  for (int i = 0; i < S::width * vectors; ++i)
    for (int j = 0; j < columns; ++j) c[i * kBlockRows<float> + j] = parts[j][i];
}

#endif

#if defined(__AVX512F__)

template <int rows, int vectors>
FASTGAN_BF16 void multiply_tile_bf16(int64_t pairs, const Pair* a, int64_t a_row, int64_t a_pair, int64_t a_block,
                                     const Pair* b_block, const float* bias, float* c, int64_t c_row, Ahead* ahead) {
  __m512 sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_set1_ps(bias ? bias[i] : 0.0f);
  const int rows_ahead = ahead ? rows_a_block(ahead->rows, pairs, kBlockPairs) : 0;
  for (; pairs > 0; pairs -= kBlockPairs, a += a_block) {
    if (ahead) ahead->some(rows_ahead);
    const Pair* x = a;
    for (int64_t k = std::min(pairs, kBlockPairs); k > 0; --k, b_block += kBlockRows<float>, x += a_pair) {
      __m512i b[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) b[v] = _mm512_loadu_si512(b_block + 16 * v);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const __m512i broadcast = _mm512_set1_epi32(int(x[i * a_row]));
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)broadcast, (__m512bh)b[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(c + i * c_row + 16 * v, sum[i][v]);
}

template <int... row>
TileFunctionBf16 tile_function_bf16(int rows, int columns, std::integer_sequence<int, row...>) {
  static constexpr TileFunctionBf16 wide[] = {multiply_tile_bf16<row + 1, kTileVectors>...};
  static constexpr TileFunctionBf16 narrow[] = {multiply_tile_bf16<row + 1, 1>...};
  return columns > 16 ? wide[rows - 1] : narrow[rows - 1];
}
#endif

}  // namespace

template <class T>
TileFunction<T> tile_function(Layout layout, int rows, int columns) {
  constexpr auto all = std::make_integer_sequence<int, kTileRows>{};
  switch (layout) {
    case Layout::contiguous: return tile_function<T, Layout::contiguous>(rows, columns, all);
    case Layout::adjacent: return tile_function<T, Layout::adjacent>(rows, columns, all);
    default: return tile_function<T, Layout::blocked>(rows, columns, all);
  }
}

template <class T>
GatherFunction<T> gather_function(int rows) {
  return gather_function<T>(rows, std::make_integer_sequence<int, kTileRows>{});
}

template <class T>
void pack_inputs(int64_t inputs, int64_t rows, const T* x, int64_t column, int columns, T* packed) {
  constexpr int width = kBlockRows<T>;
  for (int64_t p = 0; p * width < rows; ++p)
    transpose(x + (p * inputs + column) * width, width, columns,
              std::min<int64_t>(width, rounded_up(rows - p * width, Simd<T>::width)), packed + p * width * width,
              width);
  if (columns % Simd<T>::width)  // lanes beyond the last input: zeros, as a NaN or a subnormal number would cost time
    for (int64_t m = 0; m < rows; ++m) std::fill(packed + m * width + columns, packed + (m + 1) * width, T(0));
}

template TileFunction<float> tile_function(Layout, int, int);
template TileFunction<double> tile_function(Layout, int, int);
template GatherFunction<float> gather_function(int);
template GatherFunction<double> gather_function(int);
template void pack_inputs(int64_t, int64_t, const float*, int64_t, int, float*);
template void pack_inputs(int64_t, int64_t, const double*, int64_t, int, double*);

#if defined(__AVX2__)
const float* pack_short(int64_t depth, const float* b, int columns) {
  float *packed = scratch<float, Scratch::packed>(depth * columns), *to = packed;
  for (int64_t k = 0; k < depth; k += kShortDepths, b += kShortDepths * kBlockRows<float>)
    for (int first = 0; first < columns; first += 4)
#pragma GCC unroll 4
      for (int j = first; j < first + 4; ++j)
#pragma GCC unroll 4
        for (int d = 0; d < kShortDepths; ++d) *to++ = b[d * kBlockRows<float> + j];
  return packed;
}

ShortTile short_tile(int rows, int columns) {
  return short_tile(rows, columns, std::make_integer_sequence<int, kTileRows>{});
}

void multiply_short_transposed(int64_t outputs, int64_t inputs, const float* a, int64_t a_row, const float* b, float* c,
                               int columns) {
  const bool two = inputs > Simd<float>::width;
  if (columns <= 4)
    return (two ? multiply_short_transposed<4, 2> : multiply_short_transposed<4, 1>)(outputs, a, a_row, b, c);
#if defined(__AVX512F__)
  (two ? multiply_short_transposed<8, 2> : multiply_short_transposed<8, 1>)(outputs, a, a_row, b, c);
#endif
}
#endif

#if defined(__AVX512F__)
TileFunctionBf16 tile_function_bf16(int rows, int columns) {
  return tile_function_bf16(rows, columns, std::make_integer_sequence<int, kTileRows>{});
}

const Pair* pair_gradient(int64_t n, int64_t rows, const float* e) {
  constexpr int width = kBlockRows<float>;
  const int64_t stride = pair_stride(rows);
  Pair* out = reinterpret_cast<Pair*>(scratch<float, Scratch::paired>(n * stride));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t p = 0; p * width < rows; ++p)
      pair_neighbours(e + (p * n + i) * width, std::min<int64_t>(width, rows - p * width),
                      out + i * stride + p * width / 2);
  return out;
}

const Pair* pair_inputs(int64_t inputs, int64_t rows, const float* x, int64_t column, int columns) {
  constexpr int width = kBlockRows<float>;
  const int64_t pairs = pairs_of(rows);
  float* packed = scratch<float, Scratch::packed>((padded(rows) + pairs) * width);
  pack_inputs(inputs, rows, x, column, columns, packed);
  Pair* right = reinterpret_cast<Pair*>(packed + padded(rows) * width);
  for (int64_t k = 0; k < pairs; ++k)
    pair_rows(packed + 2 * k * width, 2 * k + 1 < rows ? packed + (2 * k + 1) * width : nullptr, width,
              right + k * width);
  return right;
}

#endif

}  // namespace fastgan::inline FASTGAN_ISA
