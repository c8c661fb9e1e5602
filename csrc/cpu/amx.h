// Products on AMX tiles, with sums in float. Both factors are rounded to bfloat16; or each is split into the sum of
// two, and three of the four products are added (bf16x3: about 16 bits of each factor; an infinite factor gives NaN).
// The rounded copies of a weight (rounded.h) have blocks of 16 rows by 32 along the depth.
//
// For tests, the same products run on a software version of the tile instructions (tiles.h), with the same bits.
#pragma once
#include <memory>

#include "../plan.h"
#include "blocked.h"

#if defined(__AVX512F__)

namespace fastgan {
inline namespace FASTGAN_ISA {

using Bf16 = uint16_t;
constexpr int64_t kTileEdge = 32;    // of C: 2 x 2 tiles of 16 x 16
constexpr int64_t kTileBlock = 512;  // of bf16 in a block of a rounded copy: 16 rows of 32

inline int64_t tile_blocks(int64_t count) { return (count + kTileEdge - 1) / kTileEdge; }
// Elements of one part of a rounded copy; the same for both orientations.
inline int64_t part_size(int64_t outputs, int64_t inputs) {
  return 2 * tile_blocks(outputs) * tile_blocks(inputs) * kTileBlock;
}

// A reference to a function, without an allocation.
template <class Signature>
class FunctionRef;
template <class... Arguments>
class FunctionRef<void(Arguments...)> {
 public:
  template <class Function>
  FunctionRef(Function& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Arguments... arguments) { (*static_cast<Function*>(object))(arguments...); }) {}
  void operator()(Arguments... arguments) const { call_(object_, arguments...); }

 private:
  void* object_;
  void (*call_)(void*, Arguments...);
};

// A thread calls begin() before its first product and end() after its last: the shapes of tiles are thread state.
struct AmxProducts {
  bool software;
  int parts;  // of a factor: 1, or 2
  // Elements of a copy.
  int64_t rounded_size(int64_t outputs, int64_t inputs) const { return parts * part_size(outputs, inputs); }
  void begin() const;
  void end() const;

  // As multiply_rows() for all n rows; `a` is a rounded copy.
  void multiply(int64_t n, int64_t depth, const Bf16* a, const float* bias, const float* b, float* c, ColumnRange range,
                const Mapped<float>& after) const;

  // As multiply_gradient(), in tiles of up to 32 rows.
  void gradient(int64_t n, int64_t inputs, int64_t rows, const float* e, const float* x, int64_t first, int64_t last,
                FunctionRef<void(int64_t column, int columns, int64_t row, int rows, const float* tile)> apply) const;

  // Rounds up to 32 x 32 elements of a blocked weight, from output `row` and input `column` on, into both copies.
  void round_weight(const BlockedWeight<float>& weight, int64_t row, int64_t column, Bf16* rounded,
                    Bf16* transposed) const;
};

inline bool uses_amx(const NetworkPlan& plan) {
  return plan.products == Products::amx || plan.products == Products::amx_software;
}
inline AmxProducts amx_of(const NetworkPlan& plan) {
  return {plan.products == Products::amx_software, plan.precision == Precision::tf32 ? 2 : 1};
}

// One instruction of each kind on given tiles, for tests: c += a b by TDPBF16PS, and 32 floats rounded.
void tile_dot(bool software, float* c, const Bf16* a, const Bf16* b);
void tile_round(bool software, const float* in, Bf16* out);

}  // namespace FASTGAN_ISA
}  // namespace fastgan

#else

namespace fastgan {
inline namespace FASTGAN_ISA {
inline bool uses_amx(const NetworkPlan&) { return false; }
}  // namespace FASTGAN_ISA
}  // namespace fastgan

#endif
