// Random numbers of a stream.
#pragma once
#include <cstdint>

#include "../philox.h"

namespace fastgan::inline FASTGAN_ISA {

// Elements offset .. offset + n of a stream: uniform in (0, 1), or standard normal.
template <class T>
void fill_random(T* out, int64_t n, bool normal, const Stream& stream, int64_t offset);

}  // namespace fastgan::inline FASTGAN_ISA
