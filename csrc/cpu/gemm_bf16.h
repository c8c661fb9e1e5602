// The products of gemm.h for AVX512-BF16: both factors rounded to bfloat16, sums in float, two multiplications per lane
// and instruction. Weights have rounded copies (rounded.h); packing rounds the other factors, in pairs of neighbours
// along the depth.
#pragma once
#include "gemm.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace fastgan {
inline namespace FASTGAN_ISA {

#define FASTGAN_BF16 __attribute__((target("avx512bf16")))

using Pair = uint32_t;  // two neighbours along the depth, the first one in the low half
typedef uint32_t Pairs __attribute__((vector_size(64)));
typedef uint16_t Rounded __attribute__((vector_size(32)));

inline bool has_bf16() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}

// Rounds `count` neighbouring floats to pairs; an odd last one is paired with zero.
FASTGAN_BF16 inline void pair_neighbours(const float* in, int64_t count, Pair* out) {
  for (int64_t i = 0; i < count; i += 32) {
    const int64_t left = count - i;
    const auto mask = [](int64_t n) { return __mmask16(n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0); };
    const __m512 low = _mm512_maskz_loadu_ps(mask(left), in + i),
                 high = _mm512_maskz_loadu_ps(mask(left - 16), in + i + 16);
    _mm512_mask_storeu_epi32(out + i / 2, mask((left + 1) / 2), (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

// `count` pairs of an element of one row and of the next row; zeros if there is no next row.
FASTGAN_BF16 inline void pair_rows(const float* first, const float* second, int count, Pair* out) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = __mmask16(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    const __m512 above = _mm512_maskz_loadu_ps(mask, first + i);
    const __m512 below = second ? _mm512_maskz_loadu_ps(mask, second + i) : _mm512_setzero_ps();
    const Pairs low = __builtin_convertvector((Rounded)_mm512_cvtneps_pbh(above), Pairs);
    const Pairs high = __builtin_convertvector((Rounded)_mm512_cvtneps_pbh(below), Pairs);
    _mm512_mask_storeu_epi32(out + i, mask, (__m512i)(low | high << 16));
  }
}

constexpr int64_t kBlockPairs = 16;  // of a row of A, a cache line

// As TileFunction, with pairs. a_row: from row to row of A; a_pair: from pair to pair of a row; a_block: from a block
// of kBlockPairs pairs to the next one.
using TileFunctionBf16 = void (*)(int64_t pairs, const Pair* a, int64_t a_row, int64_t a_pair, int64_t a_block,
                                  const Pair* b_block, const float* bias, float* c, int64_t c_row, Ahead* ahead);
TileFunctionBf16 tile_function_bf16(int rows, int columns);

inline int64_t pairs_of(int64_t depth) { return (depth + 1) / 2; }
inline int64_t pair_stride(int64_t depth) { return pairs_of(depth) + 16; }  // of rows that must not share a cache set

// The blocks of B in a column range, in pairs of features.
inline const Pair* pair_features(int64_t depth, const float* b, ColumnRange columns) {
  constexpr int width = kBlockRows<float>;
  const int64_t pairs = pairs_of(depth), origin = columns.first / width;
  Pair* packed = reinterpret_cast<Pair*>(
      scratch<float, Scratch::packed>(((columns.last + width - 1) / width - origin) * pairs * width));
  each_block<float>(columns, [&](int64_t p, int lane, int lanes) {
    // Whole vectors, because a tile writes whole ones: a gradient's sum may include the padding between two
    // sub-batches, where the gradients of B are zero.
    const int vectors = int(rounded_up(lanes, Simd<float>::width));
    for (int64_t k = 0; k < pairs; ++k) {
      const float* row = b + (p * depth + 2 * k) * width + lane;
      pair_rows(row, 2 * k + 1 < depth ? row + width : nullptr, vectors,
                packed + ((p - origin) * pairs + k) * width + lane);
    }
  });
  return packed;
}

// As multiply_rows(), of A and B in pairs.
struct PairedRows {
  const Pair* data;
  int64_t row, pair, block;  // distances, as in TileFunctionBf16
};
template <class After>
void multiply_rows_bf16(int64_t n, int64_t pairs, const PairedRows& a, int64_t row, int rows, const float* bias,
                        const Pair* b, float* c, ColumnRange columns, Ahead* ahead, After&& after) {
  constexpr int width = kBlockRows<float>;
  each_block<float>(columns, [&](int64_t p, int lane, int lanes) {
    after.claim(c, n, p, row, lane, rows, lanes);
    tile_function_bf16(rows, lanes)(pairs, a.data, a.row, a.pair, a.block,
                                    b + (p - columns.first / width) * pairs * width + lane, bias ? bias + row : nullptr,
                                    c + (p * n + row) * width + lane, width, ahead);
    after(p, row, lane, rows, lanes);
  });
}

// The rounded copies of a weight: pairs of inputs in blocks [inputs / 32][outputs][16], an odd number of cache lines
// apart; and pairs of outputs in blocks [inputs / 32][outputs / 2][32].
struct PairedWeight {
  int64_t outputs, inputs;

  int64_t blocks() const { return (inputs + kBlockRows<float> - 1) / kBlockRows<float>; }
  int64_t block() const { return (outputs | 1) * kBlockPairs; }
  int64_t transposed_block() const { return pairs_of(outputs) * kBlockRows<float>; }
  int64_t size() const { return blocks() * std::max(block(), transposed_block()); }  // of either copy, in pairs

  // Rounds the rows of one block. A pair of outputs may have one row in these and one in the next rows: it is rounded
  // with both.
  void round(const BlockedWeight<float>& weight, int64_t row, int64_t rows, int64_t column, Pair* copy,
             Pair* transposed) const {
    constexpr int width = kBlockRows<float>;
    const int64_t columns = weight.width(column), last = row + rows;
    const float* w = weight.block(column);
    copy += column / width * block();
    for (int64_t i = row; i < last; ++i) pair_neighbours(w + i * columns, columns, copy + i * kBlockPairs);
    transposed += column / width * transposed_block();
    for (int64_t k = row / 2; 2 * k < last; ++k)
      pair_rows(w + 2 * k * columns, 2 * k + 1 < outputs ? w + (2 * k + 1) * columns : nullptr, int(columns),
                transposed + k * width);
  }
};

// As multiply_weight(), by the first copy of the weight.
template <class After>
void multiply_weight_bf16(const PairedWeight& a, const Pair* copy, const float* bias, const float* b, float* c,
                          ColumnRange range, After&& after) {
  const int64_t n = a.outputs, pairs = pairs_of(a.inputs), tiles = tiles_of(n);
  each_group<float>(pairs, range, [&](ColumnRange columns) {
    const Pair* right = pair_features(a.inputs, b, columns);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = n * t / tiles, next = n * (t + 1) / tiles, end = n * std::min(t + 2, tiles) / tiles;
      constexpr int64_t line = kBlockPairs * int64_t(sizeof(Pair));
      Ahead ahead{{reinterpret_cast<const char*>(copy + next * kBlockPairs)},
                  a.block() * int64_t(sizeof(Pair)),
                  (end - next) * line,  // the next tile
                  int(end > next ? a.blocks() : 0),
                  1};
      multiply_rows_bf16(n, pairs, {copy + row * kBlockPairs, kBlockPairs, 1, a.block()}, row, int(next - row), bias,
                         right, c, columns, &ahead, after);
    }
  });
}

// As multiply_transposed_weight(), by the second copy.
template <class After>
void multiply_transposed_weight_bf16(const PairedWeight& a, const Pair* copy, const float* b, float* c,
                                     ColumnRange range, After&& after) {
  constexpr int width = kBlockRows<float>;
  const int64_t pairs = pairs_of(a.outputs);
  each_group<float>(pairs, range, [&](ColumnRange columns) {
    const Pair* right = pair_features(a.outputs, b, columns);
    for (int64_t column = 0; column < a.inputs; column += width) {
      const int64_t inputs = std::min<int64_t>(width, a.inputs - column), tiles = tiles_of(inputs);
      const Pair* block = copy + column / width * a.transposed_block();
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = inputs * t / tiles, next = inputs * (t + 1) / tiles;
        multiply_rows_bf16(a.inputs, pairs, {block + row, 1, width, width * kBlockPairs}, column + row, int(next - row),
                           nullptr, right, c, columns, nullptr, after);
      }
    }
  });
}

// The gradient of n outputs over a batch, rounded once for all parts of a weight's gradient: (n, pairs of rows).
const Pair* pair_gradient(int64_t n, int64_t rows, const float* e);

// Some columns of X^T, in pairs of rows.
const Pair* pair_inputs(int64_t inputs, int64_t rows, const float* x, int64_t column, int columns);

// As multiply_gradient(), with E from pair_gradient().
template <class Needs, class Apply>
void multiply_gradient_bf16(int64_t n, int64_t inputs, int64_t rows, const Pair* e, const float* x, int64_t first,
                            int64_t last, Needs&& needs, Apply&& apply) {
  constexpr int width = kBlockRows<float>;
  const int64_t pairs = pairs_of(rows), stride = pair_stride(rows);
  alignas(64) float tile[kTileRows * width];
  const int64_t tiles = tiles_of(n);
  for (int64_t column = first; column < last; column += width) {
    const int columns = int(std::min<int64_t>(width, last - column));
    const Pair* right = pair_inputs(inputs, rows, x, column, columns);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = n * t / tiles, next = n * (t + 1) / tiles, after = n * std::min(t + 2, tiles) / tiles;
      Ahead ahead = needs(column, columns, next, int(after - next));
      tile_function_bf16(int(next - row), columns)(pairs, e + row * stride, stride, 1, kBlockPairs, right, nullptr,
                                                   tile, width, &ahead);
      apply(column, columns, row, int(next - row), tile);
    }
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan

#else

namespace fastgan {
inline namespace FASTGAN_ISA {
inline bool has_bf16() { return false; }
}  // namespace FASTGAN_ISA
}  // namespace fastgan

#endif
