// Products on AMX tiles (amx.h), of the hardware or in software.
#include "amx.h"

#if defined(__AVX512F__)
#include "tiles.h"

namespace fastgan::inline FASTGAN_ISA {
namespace {

using Pair = uint32_t;  // two neighbours along the depth, the first one in the low half

// The mask of the lanes i of 16 with from + i < left.
inline __mmask16 lanes(int64_t left, int64_t from = 0) {
  return __mmask16(left - from >= 16 ? 0xffff : left > from ? (1 << (left - from)) - 1 : 0);
}

// Two tiles of A at each block of the depth; rows have 64 bytes. Distances in elements: `next` from tile to tile,
// `block` from block to block, `part` to the second part of bf16x3.
struct FactorA {
  const Bf16* data;
  int64_t next, block, part;
};
// For each block of the depth: 16 rows of pairs of the left 16 columns, then 16 of the right ones.
struct FactorB {
  const Pair* data;
  int64_t part;
};

// Initial values of a tile of C: rows of 16 floats for each half of its columns, or zeros if null.
struct Start {
  const float *left, *right;
  int64_t row;  // bytes from row to row
};

// C over some blocks of the depth: 32 rows (or the first 16) and 32 columns (or 16). c: rows of 32 floats. fetch: B is
// not in the L1 cache yet; hardware prefetchers do not follow tile loads.
template <class Tiles, bool lower, bool right>
void multiply_tile(int parts, int64_t blocks, const FactorA& factor_a, const FactorB& factor_b, const Start& start,
                   float* c, bool fetch) {
  constexpr int64_t row = 64, of_c = kTileEdge * sizeof(float);
  if (start.left) {
    const int64_t half = 16 * start.row / int64_t(sizeof(float));
    Tiles::template load<0>(start.left, start.row);
    if (right) Tiles::template load<1>(start.right, start.row);
    if (lower) Tiles::template load<2>(start.left + half, start.row);
    if (lower && right) Tiles::template load<3>(start.right + half, start.row);
  } else {
    Tiles::template zero<0>();
    if (right) Tiles::template zero<1>();
    if (lower) Tiles::template zero<2>();
    if (lower && right) Tiles::template zero<3>();
  }
  // With two parts, the small products come first: the low part of A, then that of B. The product of both low parts is
  // below the precision.
  for (int product = parts == 2 ? 0 : 2; product < 3; ++product) {
    const Bf16* a = factor_a.data + (product == 0 ? factor_a.part : 0);
    const Pair* b = factor_b.data + (product == 1 ? factor_b.part : 0);
    for (int64_t k = 0; k < blocks; ++k, a += factor_a.block, b += 512) {
      const auto prefetch = [&](int from) {  // some lines of the next block of B
        if (!fetch) return;
#pragma GCC unroll 8
        for (int i = from; i < from + 8; ++i) __builtin_prefetch(b + 512 + 16 * i);
      };
      prefetch(0);
      Tiles::template load<4>(a, row);
      Tiles::template load<6>(b, row);
      prefetch(8);
      Tiles::template dot<0, 4, 6>();
      if (right) {
        Tiles::template load<7>(b + 256, row);
        prefetch(16);
        Tiles::template dot<1, 4, 7>();
      }
      if (lower) {
        Tiles::template load<5>(a + factor_a.next, row);
        if (right) prefetch(24);
        Tiles::template dot<2, 5, 6>();
      }
      if (lower && right) Tiles::template dot<3, 5, 7>();
    }
  }
  Tiles::template store<0>(c, of_c);
  if (right) Tiles::template store<1>(c + 16, of_c);
  if (lower) Tiles::template store<2>(c + 16 * kTileEdge, of_c);
  if (lower && right) Tiles::template store<3>(c + 16 * kTileEdge + 16, of_c);
}

template <class Tiles>
auto tile_of(bool lower, bool right) {
  return lower   ? right ? multiply_tile<Tiles, true, true> : multiply_tile<Tiles, true, false>
         : right ? multiply_tile<Tiles, false, true>
                 : multiply_tile<Tiles, false, false>;
}

// x minus its rounded value; 0 for an infinity or a NaN.
template <class Tiles>
inline __m512 residual(__m512 x, __m512i rounded, int half) {
  typedef uint16_t Rounded __attribute__((vector_size(32)));
  typedef uint32_t Bits __attribute__((vector_size(64)));
  Rounded halves[2];
  std::memcpy(halves, &rounded, sizeof halves);
  const Bits bits = __builtin_convertvector(halves[half], Bits) << 16;
  const Bits left = (Bits)(x - (__m512)bits);
  return (__m512)((bits & 0x7f800000) == 0x7f800000 ? Bits{} : left);
}

// 32 floats, rounded (part 0), or what their rounding left, rounded (part 1).
template <class Tiles>
inline __m512i round_part(int part, __m512 low, __m512 high) {
  const __m512i rounded = Tiles::round(low, high);
  return part == 0 ? rounded : Tiles::round(residual<Tiles>(low, rounded, 0), residual<Tiles>(high, rounded, 1));
}

// Two rows of 16 floats as pairs.
template <class Tiles>
inline __m512i pairs_of_rows(int part, __m512 first, __m512 second) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), round_part<Tiles>(part, first, second));
}

// The columns of B in a range, `depth` features, as blocks of pairs; zeros beyond the depth.
template <class Tiles>
FactorB pair_features(int parts, int64_t depth, const float* b, ColumnRange columns) {
  const int64_t blocks = tile_blocks(depth), origin = columns.first / kTileEdge;
  const int64_t size = (tile_blocks(columns.last) - origin) * blocks * 512;
  Pair* packed = reinterpret_cast<Pair*>(scratch<float, Scratch::packed>(parts * size));
  for (int part = 0; part < parts; ++part)
    each_block<float>(columns, [&](int64_t p, int lane, int count) {
      for (int half = lane & ~15; half < lane + count; half += 16) {
        const float* x = b + p * depth * kTileEdge + half;
        Pair* to = packed + part * size + (p - origin) * blocks * 512 + half * 16;
        for (int64_t k = 0; k < depth; k += 2, x += 2 * kTileEdge)
          _mm512_storeu_si512(to + k / 32 * 512 + k % 32 / 2 * 16,
                              pairs_of_rows<Tiles>(part, _mm512_loadu_ps(x),
                                                   k + 1 < depth ? _mm512_loadu_ps(x + kTileEdge)
                                                                 : _mm512_setzero_ps()));
        for (int64_t k = (depth + 1) / 2 * 2; k < blocks * 32; k += 2)
          _mm512_storeu_si512(to + k / 32 * 512 + k % 32 / 2 * 16, _mm512_setzero_si512());
      }
    });
  return {packed, size};
}

// So much of A stays in the L1 cache while all columns of B pass: strips of 32 rows, and blocks of 32 along the depth.
constexpr int64_t kStrips = 2, kSpanBlocks = 7;

template <class Tiles>
void multiply_on(int parts, int64_t n, int64_t depth, const Bf16* a, const float* bias, const float* b, float* c,
                 ColumnRange range, const Mapped<float>& after) {
  const int64_t blocks = tile_blocks(depth), next = blocks * kTileBlock;  // from 16 rows of A to the next 16
  const int64_t spans = (blocks + kSpanBlocks - 1) / kSpanBlocks;
  alignas(64) float biases[kStrips][kTileEdge * 16], rest[kTileEdge * kTileEdge];
  each_group<float>(blocks * 16 * parts, range, [&](ColumnRange columns) {
    const FactorB pairs = pair_features<Tiles>(parts, depth, b, columns);
    const int64_t origin = columns.first / kTileEdge;
    // A strip of C in one block of columns, over the blocks first .. last of the depth. Until the last ones, C has the
    // sums so far; a strip of fewer rows has no place for them in C.
    const auto strip = [&](int64_t p, int lane, int count, int64_t row, int64_t first, int64_t last, bool fetch) {
      const int rows = int(std::min(kTileEdge, n - row)), skipped = lane < 16 ? 0 : 16;
      float* out = c + (p * n + row) * kTileEdge;
      float* to = rows == kTileEdge ? out : rest;
      const float* bias_of_rows = bias ? biases[row / kTileEdge % kStrips] : nullptr;
      const Start start = first > 0 ? Start{to + skipped, to + 16, kTileEdge * int64_t(sizeof(float))}
                                    : Start{bias_of_rows, bias_of_rows, 16 * sizeof(float)};
      const auto tile = tile_of<Tiles>(rows > 16, lane < 16 && lane + count > 16);
      tile(parts, last - first, {a + row / 16 * next + first * kTileBlock, next, kTileBlock, part_size(n, depth)},
           {pairs.data + ((p - origin) * blocks + first) * 512 + skipped * 16, pairs.part}, start, to + skipped, fetch);
      if (last < blocks) return;
      if (to == rest)
        for (int i = 0; i < rows; ++i) std::copy_n(rest + kTileEdge * i + lane, count, out + kTileEdge * i + lane);
      after(p, row, lane, rows, count);
    };
    for (int64_t row = 0; row < n; row += kStrips * kTileEdge) {
      if (bias)
        for (int64_t i = 0; i < kStrips * kTileEdge; ++i)
          _mm512_store_ps(biases[0] + 16 * i, _mm512_set1_ps(row + i < n ? bias[row + i] : 0.0f));
      const int64_t whole = std::min(kStrips, (n - row) / kTileEdge), end = row + whole * kTileEdge;
      for (int64_t span = 0; span < spans; ++span)
        each_block<float>(columns, [&](int64_t p, int lane, int count) {
          for (int64_t at = row; at < end; at += kTileEdge)
            strip(p, lane, count, at, blocks * span / spans, blocks * (span + 1) / spans, at == row);
        });
      if (whole < kStrips && end < n)
        each_block<float>(columns,
                          [&](int64_t p, int lane, int count) { strip(p, lane, count, end, 0, blocks, true); });
    }
  });
}

// The gradient of n outputs, rounded: [part][rows / 32][outputs][32]; zeros beyond the last row.
template <class Tiles>
const Bf16* round_gradient(int parts, int64_t n, int64_t rows, const float* e) {
  const int64_t panels = tile_blocks(rows), slack = kTileEdge * kTileEdge;  // a tile reads beyond the last output
  Bf16* out = reinterpret_cast<Bf16*>(scratch<float, Scratch::paired>((parts * panels * n * kTileEdge + slack) / 2));
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t left = rows - p * kTileEdge;
    for (int64_t i = p * n; i < (p + 1) * n; ++i) {
      const float* x = e + i * kTileEdge;
      for (int part = 0; part < parts; ++part)
        _mm512_storeu_si512(out + (part * panels * n + i) * kTileEdge,
                            round_part<Tiles>(part, _mm512_maskz_loadu_ps(lanes(left), x),
                                              _mm512_maskz_loadu_ps(lanes(left, 16), x + 16)));
    }
  }
  return out;
}

// 32 inputs of X^T as blocks of pairs of rows; zeros beyond the last row and input.
template <class Tiles>
void pair_inputs(int part, int64_t inputs, int64_t rows, const float* x, int64_t column, int columns, Pair* out) {
  alignas(64) float square[16 * 16];
  for (int64_t p = 0; p < tile_blocks(rows); ++p) {
    const int64_t left = rows - p * kTileEdge;
    for (int half = 0; half < kTileEdge; half += 16) {
      for (int i = 0; i < 16; ++i) {
        const float* at = x + (p * inputs + column + half + i) * kTileEdge;
        const bool there = half + i < columns;
        _mm512_store_si512(square + 16 * i, there ? round_part<Tiles>(part, _mm512_maskz_loadu_ps(lanes(left), at),
                                                                      _mm512_maskz_loadu_ps(lanes(left, 16), at + 16))
                                                  : _mm512_setzero_si512());
      }
      transpose_square(square, 16, reinterpret_cast<float*>(out + p * 512 + half * 16), 16);
    }
  }
}

// One block of the weight after the other, so that weights, moments and rounded copies are read and written in order:
// the processor's own prefetchers follow, and the optimiser prefetches the next tile (update.h).
template <class Tiles, class Apply>
void gradient_on(int parts, int64_t n, int64_t inputs, int64_t rows, const float* e, const float* x, int64_t first,
                 int64_t last, Apply&& apply) {
  const Bf16* rounded = round_gradient<Tiles>(parts, n, rows, e);
  const int64_t panels = tile_blocks(rows), part = panels * 512;
  const int64_t group = kTileEdge * std::max<int64_t>(1, kGroupBytes / (parts * panels * kTileBlock * 4));
  Pair* packed = reinterpret_cast<Pair*>(scratch<float, Scratch::packed>(parts * part));
  alignas(64) float tile[kTileEdge * kTileEdge];
  for (int64_t begin = 0; begin < n; begin += group)  // so many rows of E stay in the L2 cache
    for (int64_t column = first; column < last; column += kTileEdge) {
      const int columns = int(std::min(kTileEdge, last - column));
      for (int i = 0; i < parts; ++i) pair_inputs<Tiles>(i, inputs, rows, x, column, columns, packed + i * part);
      for (int64_t row = begin; row < std::min(n, begin + group); row += kTileEdge) {
        const int height = int(std::min(kTileEdge, n - row));
        const auto multiply = tile_of<Tiles>(height > 16, columns > 16);
        multiply(parts, panels, {rounded + row * kTileEdge, 16 * kTileEdge, n * kTileEdge, panels * n * kTileEdge},
                 {packed, part}, {}, tile, true);
        apply(column, columns, row, height, tile);
      }
    }
}

template <class Tiles>
void round_weight_on(int part, const BlockedWeight<float>& weight, int64_t row, int64_t column, Bf16* rounded,
                     Bf16* transposed) {
  const int64_t width = weight.width(column);
  const int height = int(std::min(kTileEdge, weight.outputs - row));
  const float* w = weight.block(column) + row * width;
  const int64_t next = tile_blocks(weight.inputs) * kTileBlock,
                next_transposed = tile_blocks(weight.outputs) * kTileBlock;
  const int64_t skip = part * part_size(weight.outputs, weight.inputs);
  Bf16* to = rounded + skip + row / 16 * next + column / 32 * kTileBlock;
  Bf16* to_transposed = transposed + skip + column / 16 * next_transposed + row / 32 * kTileBlock;
  alignas(64) float left[256], right[256];
  for (int i = 0; i < kTileEdge; i += 2) {
    __m512 half[2][2];  // of two rows
    for (int r = 0; r < 2; ++r) {
      const int64_t there = i + r < height ? width : 0;
      half[r][0] = _mm512_maskz_loadu_ps(lanes(there), w + (i + r) * width);
      half[r][1] = _mm512_maskz_loadu_ps(lanes(there, 16), w + (i + r) * width + 16);
      _mm512_storeu_si512(to + (i + r) / 16 * next + (i + r) % 16 * 32,
                          round_part<Tiles>(part, half[r][0], half[r][1]));
    }
    _mm512_store_si512(left + 8 * i, pairs_of_rows<Tiles>(part, half[0][0], half[1][0]));
    _mm512_store_si512(right + 8 * i, pairs_of_rows<Tiles>(part, half[0][1], half[1][1]));
  }
  transpose_square(left, 16, reinterpret_cast<float*>(to_transposed), 16);
  transpose_square(right, 16, reinterpret_cast<float*>(to_transposed + next_transposed), 16);
}

template <class Tiles>
void dot_once(float* c, const Bf16* a, const Bf16* b) {
  Tiles::begin();
  Tiles::template load<0>(c, 64);
  Tiles::template load<1>(a, 64);
  Tiles::template load<2>(b, 64);
  Tiles::template dot<0, 1, 2>();
  Tiles::template store<0>(c, 64);
  Tiles::end();
}

}  // namespace

void AmxProducts::begin() const { software ? SoftwareTiles::begin() : HardwareTiles::begin(); }
void AmxProducts::end() const { software ? SoftwareTiles::end() : HardwareTiles::end(); }

void AmxProducts::multiply(int64_t n, int64_t depth, const Bf16* a, const float* bias, const float* b, float* c,
                           ColumnRange range, const Mapped<float>& after) const {
  (software ? multiply_on<SoftwareTiles> : multiply_on<HardwareTiles>)(parts, n, depth, a, bias, b, c, range, after);
}

void AmxProducts::gradient(int64_t n, int64_t inputs, int64_t rows, const float* e, const float* x, int64_t first,
                           int64_t last, FunctionRef<void(int64_t, int, int64_t, int, const float*)> apply) const {
  (software ? gradient_on<SoftwareTiles, decltype(apply)&>
            : gradient_on<HardwareTiles, decltype(apply)&>)(parts, n, inputs, rows, e, x, first, last, apply);
}

void AmxProducts::round_weight(const BlockedWeight<float>& weight, int64_t row, int64_t column, Bf16* rounded,
                               Bf16* transposed) const {
  for (int part = 0; part < parts; ++part)
    (software ? round_weight_on<SoftwareTiles> : round_weight_on<HardwareTiles>)(part, weight, row, column, rounded,
                                                                                 transposed);
}

void tile_dot(bool software, float* c, const Bf16* a, const Bf16* b) {
  (software ? dot_once<SoftwareTiles> : dot_once<HardwareTiles>)(c, a, b);
}

void tile_round(bool software, const float* in, Bf16* out) {
  const __m512 low = _mm512_loadu_ps(in), high = _mm512_loadu_ps(in + 16);
  _mm512_storeu_si512(out, (software ? SoftwareTiles::round(low, high) : HardwareTiles::round(low, high)));
}

}  // namespace fastgan::inline FASTGAN_ISA
#endif
