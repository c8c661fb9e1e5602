// Inputs of a network that are mostly zeros: one-hot labels, and rows of a table with one-hot labels and modes. Each
// row lists its nonzero entries. The first layer adds a row of its transposed weight for each entry, instead of
// multiplying zeros.
#pragma once
#include "blocked.h"

namespace fastgan::inline FASTGAN_ISA {

// The input and the value of each entry of each row (column of the batch), and the same sorted by input.
template <class T>
class Entries {
 public:
  struct ListedRows {
    int64_t first, rows, count;  // columns of the batch, entries of each
  };

  // For at most `most` entries in each of `columns` rows, of `inputs` inputs.
  template <class Arena>
  void place(Arena& arena, int64_t inputs, int64_t columns, int64_t most) {
    const auto integers = [&](int64_t count) { return reinterpret_cast<int32_t*>(arena.allocate(count)); };
    inputs_ = inputs, most_ = most;
    places_ = integers(columns * most), values_ = arena.allocate(columns * most);
    begin_ = integers(inputs + 1), sorted_ = integers(columns * most), sorted_values_ = arena.allocate(columns * most);
  }

  void set(int64_t column, int64_t entry, int64_t input, T value) {
    places_[column * most_ + entry] = int32_t(input), values_[column * most_ + entry] = value;
  }

  // Sorts the entries of some rows by input, and those of an input by row.
  template <class List>
  void sort(const List& list) {
    std::fill_n(begin_, inputs_ + 1, 0);
    const auto each = [&](auto&& f) {
      for (const ListedRows& some : list)
        for (int64_t column = some.first; column < some.first + some.rows; ++column)
          for (int64_t at = column * most_; at < column * most_ + some.count; ++at) f(column, at);
    };
    each([&](int64_t, int64_t at) { ++begin_[places_[at]]; });
    int32_t end = 0;  // of an input's entries, which are filled in from the last one on
    for (int64_t i = 0; i <= inputs_; ++i) end = begin_[i] += end;
    for (int64_t l = int64_t(list.size()); l-- > 0;)
      for (int64_t column = list.begin()[l].first + list.begin()[l].rows; column-- > list.begin()[l].first;)
        for (int64_t at = column * most_ + list.begin()[l].count; at-- > column * most_;) {
          const int32_t to = --begin_[places_[at]];
          sorted_[to] = int32_t(column), sorted_values_[to] = values_[at];
        }
  }

  // C = bias + W x of the listed entries, for a column range of the batch. W: transposed, blocked. Its last rows
  // belong to the inputs that may be listed.
  void start(const BlockedWeight<T>& weight, const T* bias, const ListedRows& some, ColumnRange range, T* c) const {
    constexpr int width = kBlockRows<T>;
    const int64_t n = weight.inputs, shift = weight.outputs - inputs_;
    each_block<T>(range, [&](int64_t p, int lane, int lanes) {
      alignas(64) T sums[width * width], zeros[width] = {};
      for (int64_t unit = 0; unit < n; unit += width) {
        const int units = int(weight.width(unit));
        const T *block = weight.block(unit) + shift * units, *first = bias ? bias + unit : zeros;
        for (int j = 0; j < lanes; ++j) {
          const int64_t row = p * width + lane + j - some.first, at = (some.first + row) * most_;
          const int64_t count = row < some.rows ? some.count : 0;
          T* sum = sums + j * width;
          if (units == width) {
            add(places_ + at, values_ + at, count, block, first, sum);
            continue;
          }
          for (int i = 0; i < units; ++i) sum[i] = first[i];
          for (int64_t k = at; k < at + count; ++k)
            for (int i = 0; i < units; ++i) sum[i] += values_[k] * block[places_[k] * units + i];
        }
        transpose(sums, width, lanes, units, c + (p * n + unit) * width + lane, width);
      }
    });
  }

  // Adds the part of the sorted entries to rows row .. row + rows of the gradient of a transposed weight with `inputs`
  // inputs. packed: the gradient of a block of units, (columns of the batch, kBlockRows).
  void add_gradient(int64_t inputs, int64_t row, int rows, const T* packed, T* tile) const {
    constexpr int width = kBlockRows<T>;
    for (int64_t i = std::max<int64_t>(0, row - (inputs - inputs_)); i < row + rows - (inputs - inputs_); ++i)
      if (const int32_t at = begin_[i], count = begin_[i + 1] - at; count > 0) {
        T* sum = tile + (i + inputs - inputs_ - row) * width;
        add(sorted_ + at, sorted_values_ + at, count, packed, sum, sum);
      }
  }

 private:
  // sum = first + the rows of `from` with these numbers, times their values; kBlockRows elements each.
  static void add(const int32_t* numbers, const T* values, int64_t count, const T* from, const T* first, T* sum) {
    using S = Simd<T>;
    typename S::Vector v[kTileVectors];
    for (int i = 0; i < kTileVectors; ++i) v[i] = S::load(first + i * S::width);
    for (int64_t k = 0; k < count; ++k)
      for (int i = 0; i < kTileVectors; ++i)
        v[i] += values[k] * S::load(from + int64_t(numbers[k]) * kBlockRows<T> + i * S::width);
    for (int i = 0; i < kTileVectors; ++i) S::store(sum + i * S::width, v[i]);
  }

  int64_t inputs_ = 0, most_ = 0;
  int32_t *places_ = nullptr, *begin_ = nullptr, *sorted_ = nullptr;
  T *values_ = nullptr, *sorted_values_ = nullptr;
};

}  // namespace fastgan::inline FASTGAN_ISA
