// The element types tensors arrive in: float and double compute as they are, halves in float, rounded once on the way
// out.
#pragma once
#include <cstdint>

#include "formulas.h"

namespace fastgan {

FASTGAN_ENUM(enum class, DType, f32, f64, f16, bf16)

inline namespace FASTGAN_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class S>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class S>
using Compute = typename ComputeType<S>::type;

FASTGAN_HD float load(float x) { return x; }
FASTGAN_HD double load(double x) { return x; }
FASTGAN_HD float load(BFloat16 x) { return float_of(unsigned(x.bits) << 16); }
FASTGAN_HD float load(Half x) {  // exact for every pattern
  unsigned sign = unsigned(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  unsigned normal = (rest << 13) + 0x38000000u, special = (rest << 13) | 0x7f800000u;
  float subnormal = float(int(rest)) * 0x1p-24f;  // not by scaling bits: a subnormal operand may be flushed to 0
  unsigned u = rest >= 0x7c00u ? special : rest >= 0x0400u ? normal : bits_of(subnormal);
  return float_of(u | sign);
}

FASTGAN_HD void store(float& out, float x) { out = x; }
FASTGAN_HD void store(double& out, double x) { out = x; }
FASTGAN_HD void store(BFloat16& out, float x) {  // to nearest, ties to even
  unsigned u = bits_of(x);
  unsigned rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out.bits = uint16_t(x == x ? rounded : 0x7fc0u | (u >> 31 << 15));
}
FASTGAN_HD void store(Half& out, float x) {  // to nearest, ties to even, subnormals and overflow included
  unsigned u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  unsigned normal = (a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13;
  // Adding 0.5 aligns a subnormal half's last bit with the float's, so the addition itself rounds.
  unsigned subnormal = bits_of(float_of(a) + 0.5f) - 0x3f000000u;
  unsigned h = a < 0x38800000u ? subnormal : normal;
  h = h > 0x7c00u || a >= 0x47800000u ? 0x7c00u : h;
  out.bits = uint16_t((a > 0x7f800000u ? 0x7e00u : h) | sign);
}

// Calls f(S{}) with the storage type of this number.
template <class Function>
inline bool with_dtype(int number, Function&& f) {
  switch (DType(number)) {
    case DType::f32: f(float{}); return true;
    case DType::f64: f(double{}); return true;
    case DType::f16: f(Half{}); return true;
    case DType::bf16: f(BFloat16{}); return true;
  }
  return false;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
