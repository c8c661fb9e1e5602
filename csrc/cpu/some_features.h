// Some features of a blocked buffer, for batch normalisation.
#pragma once
#include <algorithm>
#include <vector>

#include "blocked.h"

namespace fastgan::inline FASTGAN_ISA {

// Neighbouring features of a range of columns, as many as a vector has lanes, in a blocked buffer of their own, with
// zeros beside them. Three passes over one feature alone would miss the L1 cache: its blocks fall into a few sets.
template <class T>
class SomeFeatures {
 public:
  using S = Simd<T>;
  static constexpr int64_t width = kBlockRows<T>, most = S::width;

  // Of `features` in the whole buffer.
  SomeFeatures(int64_t features, int64_t first, int64_t last)
      : features_(features),
        range_{first, last},
        blocks_((last - 1) / width - first / width + 1),
        values_(size_t(blocks_ * most * width)) {}

  void read(const T* buffer, int64_t feature, int64_t count) {
    copy(feature, count,
         [&](int64_t from, int64_t to, int64_t n) { std::copy_n(buffer + from, n, &values_[size_t(to)]); });
  }
  void write(T* buffer, int64_t feature, int64_t count) const {
    copy(feature, count,
         [&](int64_t to, int64_t from, int64_t n) { std::copy_n(&values_[size_t(from)], n, buffer + to); });
  }

  // Every value = f(feature, where), by vectors.
  template <class Function>
  void set(Function&& f) {
    T* at = values_.data();
    for (int64_t p = 0; p < blocks_; ++p)
      for (int64_t i = 0; i < most; ++i)
        for (int j = 0; j < kTileVectors; ++j, at += S::width) S::store(at, f(i, size_t(at - values_.data())));
  }
  void center(const T* mean) {
    set([&](int64_t i, size_t at) { return (*this)[at] - mean[i]; });
    const int64_t before = range_.first % width, behind = blocks_ * width - before - (range_.last - range_.first);
    for (int64_t i = 0; i < most; ++i) {
      std::fill_n(&values_[size_t(i * width)], before, T(0));
      std::fill_n(&values_[size_t(((blocks_ - 1) * most + i + 1) * width - behind)], behind, T(0));
    }
  }
  void activate(TileMap<T> map, T negative_slope) {
    map(values_.data(), values_.data(), width, int(blocks_ * most), width, negative_slope);
  }

  typename S::Vector operator[](size_t at) const { return S::load(&values_[at]); }

  // out[i] = the sum of value(where), of vectors, over feature i, in the order of sum_columns().
  template <class Value>
  void sums(T* out, Value&& value) const {
    alignas(64) T of_lanes[most * most];
    for (int64_t i = 0; i < most; ++i) {
      typename S::Vector left{}, right{};
      for (int64_t p = 0; p < blocks_; ++p) {
        const auto at = size_t((p * most + i) * width);
        left += value(at), right += value(at + size_t(S::width));
      }
      S::store(of_lanes + i * most, left + right);
    }
    sum_rows(of_lanes, out);
  }

 private:
  // Calls f(place in the whole buffer, place here, values), for what is side by side in both.
  template <class Function>
  void copy(int64_t feature, int64_t count, Function&& f) const {
    each_block<T>(range_, [&](int64_t p, int lane, int lanes) {
      const int64_t there = (p * features_ + feature) * width + lane;
      const int64_t here = (p - range_.first / width) * most * width + lane;
      if (lanes == width) return f(there, here, count * width);
      for (int64_t i = 0; i < count; ++i) f(there + i * width, here + i * width, int64_t(lanes));
    });
  }

  int64_t features_;
  ColumnRange range_;
  int64_t blocks_;
  std::vector<T> values_;
};

}  // namespace fastgan::inline FASTGAN_ISA
