// The table of functions of one instruction set's build.
#include <type_traits>

#include "../formulas.h"
#include "dispatch.h"

#define FASTGAN_STRING_(x) #x
#define FASTGAN_STRING(x) FASTGAN_STRING_(x)

namespace fastgan {
inline namespace FASTGAN_ISA {

#define FASTGAN_DECLARE(name) std::remove_pointer_t<decltype(Kernels::name)> name
FASTGAN_DECLARE(pair_loss);
FASTGAN_DECLARE(pointwise);
FASTGAN_DECLARE(dropout);
FASTGAN_DECLARE(random_fill);
FASTGAN_DECLARE(mlp_forward);
FASTGAN_DECLARE(mlp_backward);
FASTGAN_DECLARE(mlp_second_order);
FASTGAN_DECLARE(mlp_penalty);
FASTGAN_DECLARE(mlp_sizes);
FASTGAN_DECLARE(multiplies_bf16);
FASTGAN_DECLARE(train);
FASTGAN_DECLARE(write_back);
FASTGAN_DECLARE(fma_peak);
#if defined(__AVX512F__)
constexpr bool has_bf16_kernels = true;
FASTGAN_DECLARE(tile_dot);
FASTGAN_DECLARE(tile_round);
#else
constexpr bool has_bf16_kernels = false;
constexpr decltype(Kernels::tile_dot) tile_dot = nullptr;
constexpr decltype(Kernels::tile_round) tile_round = nullptr;
#endif

extern const Kernels table;
const Kernels table = {FASTGAN_STRING(FASTGAN_ISA),
                       pair_loss,
                       pointwise,
                       dropout,
                       random_fill,
                       mlp_forward,
                       mlp_backward,
                       mlp_second_order,
                       mlp_penalty,
                       mlp_sizes,
                       has_bf16_kernels,
                       multiplies_bf16,
                       train,
                       write_back,
                       fma_peak,
                       tile_dot,
                       tile_round};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
