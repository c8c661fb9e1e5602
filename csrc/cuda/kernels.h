// What the CUDA half offers to the bindings. Built without nvcc, none.cpp stands in and says so.
#pragma once
#include <cstdint>
#include <string>

#include "../cpu/kernels.h"

namespace fastgan {

std::string cuda_version();  // of the toolkit it was built with; empty: built without CUDA
std::string cuda_problem();  // why kernels cannot run on the current device; empty: they can

int64_t cuda_partials(int64_t m, int64_t n);  // doubles of scratch a pair_loss needs
void cuda_pair_loss(int dtype, const LossTerm& real, const LossTerm& fake, void* value, double* partial, void* stream);
void cuda_pointwise(int dtype, const void* x, void* out, int64_t n, int formula, double target, int order, void* stream);

}  // namespace fastgan
