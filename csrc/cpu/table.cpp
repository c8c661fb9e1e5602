// The table of functions of one instruction set's build.
#include <type_traits>

#include "../formulas.h"
#include "dispatch.h"

#define FASTGAN_STRING_(x) #x
#define FASTGAN_STRING(x) FASTGAN_STRING_(x)

namespace fastgan::inline FASTGAN_ISA {

// The functions of every build, in the order of `Kernels`.
#define FASTGAN_KERNELS(each)                                                                                     \
  each(pair_loss) each(pointwise) each(dropout) each(random_fill) each(mlp_forward) each(mlp_backward)            \
      each(mlp_second_order) each(mlp_penalty) each(mlp_sizes) each(multiplies_bf16) each(train) each(write_back) \
          each(products_of) each(fma_peak)
#define FASTGAN_DECLARE(name) std::remove_pointer_t<decltype(Kernels::name)> name;
#define FASTGAN_ENTRY(name) .name = name,

FASTGAN_KERNELS(FASTGAN_DECLARE)
#if defined(__AVX512F__)
constexpr bool has_bf16_kernels = true;
FASTGAN_DECLARE(tile_dot)
FASTGAN_DECLARE(tile_round)
#else
constexpr bool has_bf16_kernels = false;
constexpr decltype(Kernels::tile_dot) tile_dot = nullptr;
constexpr decltype(Kernels::tile_round) tile_round = nullptr;
#endif

extern const Kernels table;
const Kernels table = {.name = FASTGAN_STRING(FASTGAN_ISA),
                       FASTGAN_ENTRY(has_bf16_kernels) FASTGAN_KERNELS(FASTGAN_ENTRY) FASTGAN_ENTRY(tile_dot)
                           FASTGAN_ENTRY(tile_round)};

}  // namespace fastgan::inline FASTGAN_ISA
