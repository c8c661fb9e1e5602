// The table of functions of one instruction set's build.
#include "../formulas.h"
#include "dispatch.h"

#define FASTGAN_STRING_(x) #x
#define FASTGAN_STRING(x) FASTGAN_STRING_(x)

namespace fastgan {
inline namespace FASTGAN_ISA {

void pair_loss(int, const LossTerm&, const LossTerm&, void*, int);
void pointwise(int, const void*, void*, int64_t, int, double, int, int);
void dropout(int, const void*, void*, int64_t, int64_t, double, uint64_t, uint32_t, int);
void random_fill(int, void*, int64_t, bool, uint64_t, uint32_t, uint64_t, uint32_t, int64_t, int);
void mlp_forward(int, const NetworkPlan&, const MlpForward&);
void mlp_backward(int, const NetworkPlan&, const MlpBackward&);
void mlp_second_order(int, const NetworkPlan&, const MlpSecondOrder&);
void mlp_penalty(int, const NetworkPlan&, const MlpPenalty&);
MlpSizes mlp_sizes(const NetworkPlan&);
bool multiplies_bf16();
void train(int, const TrainPlan&, TrainCall&);
void write_back(int, const TrainPlan&, Workspace&, int);
double fma_peak(double, bool);
#if defined(__AVX512F__)
constexpr bool has_bf16_kernels = true;
void tile_dot(bool, float*, const uint16_t*, const uint16_t*);
void tile_round(bool, const float*, uint16_t*);
#else
constexpr bool has_bf16_kernels = false;
constexpr void (*tile_dot)(bool, float*, const uint16_t*, const uint16_t*) = nullptr;
constexpr void (*tile_round)(bool, const float*, uint16_t*) = nullptr;
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
