// Launchers of products.cu.
#pragma once
#include <cstdint>

namespace fastgan {

void tiles(int kind, const float* left, const float* right, uint32_t* registers, int* positions, void* stream);
void instruction(int kind, const uint32_t* registers, float* sums, void* stream);
void product(int kind, const float* a, const float* b, float* out, int m, int n, int k, void* stream);

}  // namespace fastgan
