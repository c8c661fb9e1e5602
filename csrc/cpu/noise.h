// Numbers of a stream in bulk: blocks of them side by side, so that the compiler draws in vectors.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../philox.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// Elements offset .. offset + n of a stream: uniform in (0, 1), or standard normal.
template <class T>
void fill_random(T* out, int64_t n, bool normal, const Stream& stream, int64_t offset) {
  constexpr int lanes = 16;
  T values[4][lanes], numbers[lanes][4];
  uint32_t words[4][lanes];
  for (int64_t block = offset / 4; 4 * block < offset + n; block += lanes) {
    stream.blocks<lanes>(uint64_t(block), 1, words);
    if (normal)
      for (int pair = 0; pair < 4; pair += 2)
        for (int j = 0; j < lanes; ++j)
          normal_pair(words[pair][j], words[pair + 1][j], values[pair][j], values[pair + 1][j]);
    else
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < lanes; ++j) values[i][j] = unit_interval<T>(words[i][j]);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < lanes; ++j) numbers[j][i] = values[i][j];
    const int64_t first = std::max(offset, 4 * block), last = std::min(offset + n, 4 * (block + lanes));
    std::copy_n(&numbers[0][0] + (first - 4 * block), last - first, out + (first - offset));
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
