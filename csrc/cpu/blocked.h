// The blocked layout of batches (gemm.h): conversion, element-wise maps, sums over columns.
#pragma once
#include "gemm.h"

namespace fastgan::inline FASTGAN_ISA {

// Copies rows first .. last of a (rows, features) matrix to the columns from `column` on, as the first of the `of`
// features of a blocked buffer.
template <class T>
void to_blocked(const T* rows, int64_t features, T* blocked, int64_t of, int64_t column, int64_t first, int64_t last) {
  for (int64_t row = first; row < last;) {
    const int64_t at = column + row, p = at / kBlockRows<T>, lane = at % kBlockRows<T>;
    const int64_t count = std::min(last - row, kBlockRows<T> - lane);
    transpose(rows + row * features, features, count, features, blocked + p * of * kBlockRows<T> + lane, kBlockRows<T>);
    row += count;
  }
}
template <class T>
void to_blocked(const T* rows, int64_t features, T* blocked, int64_t column, int64_t first, int64_t last) {
  to_blocked(rows, features, blocked, features, column, first, last);
}

template <class T>
void from_blocked(const T* blocked, int64_t of, T* rows, int64_t features, int64_t column, int64_t first,
                  int64_t last) {
  for (int64_t row = first; row < last;) {
    const int64_t at = column + row, p = at / kBlockRows<T>, lane = at % kBlockRows<T>;
    const int64_t count = std::min(last - row, kBlockRows<T> - lane);
    transpose(blocked + p * of * kBlockRows<T> + lane, kBlockRows<T>, features, count, rows + row * features, features);
    row += count;
  }
}
template <class T>
void from_blocked(const T* blocked, int64_t features, T* rows, int64_t column, int64_t first, int64_t last) {
  from_blocked(blocked, features, rows, features, column, first, last);
}

// Copies, or adds, `count` features of a blocked buffer with `of` features, from `from` on, to a buffer with `out_of`
// features, from `to` on.
template <bool add = false, class T>
void copy_features(const T* in, int64_t of, int64_t from, T* out, int64_t out_of, int64_t to, int64_t count,
                   ColumnRange range) {
  each_block<T>(range, [&](int64_t p, int lane, int lanes) {
    const T* x = in + (p * of + from) * kBlockRows<T> + lane;
    T* y = out + (p * out_of + to) * kBlockRows<T> + lane;
    for (int64_t f = 0; f < count; ++f, x += kBlockRows<T>, y += kBlockRows<T>)
      for (int j = 0; j < lanes; ++j) y[j] = add ? y[j] + x[j] : x[j];
  });
}

// A tree sum: adds halves as vectors until one element is left.
template <int count, class T>
T sum_lanes(const T* x) {
  if constexpr (count == 1) {
    return x[0];
  } else {
    typedef T Half __attribute__((vector_size(count / 2 * sizeof(T))));
    const Half half = Simd<T>::template load<Half>(x) + Simd<T>::template load<Half>(x + count / 2);
    T sums[count / 2];
    Simd<T>::store(sums, half);
    return sum_lanes<count / 2>(sums);
  }
}

// The sum of a feature over columns first .. last, in one fixed order.
template <class T>
T sum_columns(int64_t first, int64_t last, int64_t features, int64_t feature, const T* in) {
  constexpr int lanes = kBlockRows<T>;
  alignas(64) T sum[lanes] = {};
  const auto add = [&](int64_t column, int64_t count) {  // inside a block
    const int64_t at = (column / lanes * features + feature) * lanes + column % lanes;
    for (int64_t j = 0; j < count; ++j) sum[j] += in[at + j];
  };
  for (; first < last && first % lanes; first = std::min(last, (first / lanes + 1) * lanes))
    add(first, std::min(last, (first / lanes + 1) * lanes) - first);
  for (; first + lanes <= last; first += lanes) add(first, lanes);  // a constant count gives whole vectors
  if (first < last) add(first, last - first);
  return sum_lanes<lanes>(sum);
}

// out[i] = the sum of row i of a square of the vectors' width, in the order of sum_lanes().
template <class T>
void sum_rows(const T* square, T* out) {
  using S = Simd<T>;
  alignas(64) T by_lane[S::width * S::width];
  transpose_square(square, S::width, by_lane, S::width);
  for (int half = S::width / 2; half > 0; half /= 2)
    for (int i = 0; i < half * S::width; i += S::width)
      S::store(by_lane + i, S::load(by_lane + i) + S::load(by_lane + i + half * S::width));
  S::store(out, S::load(by_lane));
}

// The same sums, of S::width neighbouring features at once.
template <class T>
void sum_columns_of_some(int64_t first, int64_t last, int64_t features, int64_t feature, const T* in, T* out) {
  using S = Simd<T>;
  constexpr int64_t lanes = kBlockRows<T>, width = S::width;
  static_assert(lanes == 2 * width);
  const int64_t whole = std::min(last, rounded_up(first, lanes)), end = std::max(whole, last / lanes * lanes);
  alignas(64) T sums[width * width];
  for (int64_t f = 0; f < width; ++f) {
    const T* x = in + (feature + f) * lanes;
    alignas(64) T sum[lanes] = {};
    const auto add = [&](int64_t column, int64_t to) {  // inside a block
      for (; column < to; ++column) sum[column % lanes] += x[column / lanes * features * lanes + column % lanes];
    };
    if (first < whole) add(first, whole);
    auto left = S::load(sum), right = S::load(sum + width);
    for (int64_t p = whole / lanes; p < end / lanes; ++p)
      left += S::load(x + p * features * lanes), right += S::load(x + p * features * lanes + width);
    if (end < last) {
      S::store(sum, left), S::store(sum + width, right);
      add(end, last);
      left = S::load(sum), right = S::load(sum + width);
    }
    S::store(sums + f * width, left + right);
  }
  sum_rows(sums, out);
}

inline void prefetch_to_write(const void* at) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" ::"m"(*static_cast<const char*>(at)));  // the builtin emits it for a few targets only
#else
  __builtin_prefetch(at, 1);
#endif
}

template <class T>
using TileMap = void (*)(const T* in, T* out, int64_t stride, int rows, int columns, T negative_slope);

// Applies a map to the same elements of two blocked buffers with `features` features; does nothing without a map.
template <class T>
struct Mapped {
  TileMap<T> map;
  const T* in;
  T* out;
  int64_t features;
  T negative_slope;

  void operator()(int64_t p, int64_t row, int lane, int rows, int columns) const {
    const int64_t at = (p * features + row) * kBlockRows<T> + lane;
    if (map) map(in + at, out + at, kBlockRows<T>, rows, columns, negative_slope);
  }
  // Requests the cache lines that a tile will write: the map's results, or those of the product if there is no map.
  // Other threads have read them since, for a weight's gradient: a core that shares no cache with them waits for each.
  void claim(T* product, int64_t of_product, int64_t p, int64_t row, int lane, int rows, int columns) const {
    T* at = (map ? out : product) + (p * of_product + row) * kBlockRows<T> + lane;
    for (int i = 0; i < rows; ++i, at += kBlockRows<T>)
      for (int j = 0; j < columns; j += 64 / int(sizeof(T))) prefetch_to_write(at + j);
  }
  void all(ColumnRange range) const {
    each_block<T>(range, [&](int64_t p, int lane, int lanes) { (*this)(p, 0, lane, int(features), lanes); });
  }
};

}  // namespace fastgan::inline FASTGAN_ISA
