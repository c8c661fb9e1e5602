// The rounded copies of weights that products in bfloat16 read (gemm_bf16.h, amx.h), two of each weight: for the
// forward and the backward pass. The optimiser updates both with each tile of the gradient (update.h), so no product
// rounds weights.
#pragma once
#include "amx.h"
#include "gemm_bf16.h"

namespace fastgan::inline FASTGAN_ISA {

inline bool keeps_rounded(const NetworkPlan& plan) { return plan.products != Products::fp32; }

#if defined(__AVX512F__)

// Bytes of a copy.
inline int64_t rounded_bytes(const NetworkPlan& plan, const LayerPlan& l) {
  const int64_t outputs = l.outputs * l.pieces;
  return uses_amx(plan) ? amx_of(plan).rounded_size(outputs, l.inputs) * int64_t(sizeof(Bf16))
                        : PairedWeight{outputs, l.inputs}.size() * int64_t(sizeof(Pair));
}

// Rounds the rows of a tile in the block of a weight that begins at input `column`, into both copies.
inline void round_weight(const NetworkPlan& plan, const LayerPlan& l, const LayerParameters& p, int64_t row,
                         int64_t rows, int64_t column) {
  const BlockedWeight<float> weight{static_cast<const float*>(p.weight.value), l.outputs * l.pieces, l.inputs};
  if (uses_amx(plan))
    amx_of(plan).round_weight(weight, row, column, static_cast<Bf16*>(p.rounded),
                              static_cast<Bf16*>(p.rounded_transposed));
  else
    PairedWeight{weight.outputs, weight.inputs}.round(weight, row, rows, column, static_cast<Pair*>(p.rounded),
                                                      static_cast<Pair*>(p.rounded_transposed));
}

// A thread's part of all of it: some blocks.
inline void round_weight(const NetworkPlan& plan, const LayerPlan& l, const LayerParameters& p, int rank, int size) {
  const int64_t outputs = l.outputs * l.pieces;
  for (int64_t column = 0, i = 0; column < l.inputs; column += kBlockRows<float>, ++i)
    for (int64_t row = 0; i % size == rank && row < outputs; row += kTileEdge)
      round_weight(plan, l, p, row, std::min(kTileEdge, outputs - row), column);
}

#endif

}  // namespace fastgan::inline FASTGAN_ISA
