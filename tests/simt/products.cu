// The types of mma.cuh laid open: the registers their tiles go to, one instruction by itself, whole products.
#include "products.h"

#include "cuda/mma.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

constexpr int kWarps = 2;  // that a block of `multiply` has, each with rows of its own

// Registers of a lane: four of the left tile, two of the right one (Tf32x3: high, high, low, low).
__device__ void put(uint32_t* to, const LeftTile& tile) {
  for (int i = 0; i < 4; ++i) to[i] = tile.at[i];
}
__device__ void put(uint32_t* to, const RightTile& tile) {
  for (int i = 0; i < 2; ++i) to[i] = tile.at[i];
}
__device__ void put_all(uint32_t* to, const LeftTile& a, const RightTile& b) {
  put(to, a);
  put(to + 4, b);
}
__device__ void put_all(uint32_t* to, const Tf32x3::Left& a, const Tf32x3::Right& b) {
  put_all(to, a.high, b.high);
  put_all(to + 6, a.low, b.low);
}

template <class P>
__global__ void lay_out(const float* left, const float* right, uint32_t* registers, int* positions) {
  const int lane = int(threadIdx.x);
  const auto a = P::left([&](int row, int k) { return left[row * P::depth + k]; });
  const auto b = P::right([&](int k, int column) { return right[k * 8 + column]; });
  put_all(registers + lane * int((sizeof a + sizeof b) / 4), a, b);
  for (int i = 0; i < 4; ++i) {
    positions[8 * lane + 2 * i] = sum_row(i);
    positions[8 * lane + 2 * i + 1] = sum_column(i);
  }
}

// Four, two and again four words a lane: left, right and what the sums begin with.
template <bool bf16>
__global__ void one_instruction(const uint32_t* registers, float* sums) {
  const uint32_t* own = registers + 6 * int(threadIdx.x);
  const LeftTile a{{own[0], own[1], own[2], own[3]}};
  const RightTile b{{own[4], own[5]}};
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = sums[4 * int(threadIdx.x) + i];
  bf16 ? multiply_bf16(sum, a, b) : multiply_tf32(sum, a, b);
  for (int i = 0; i < 4; ++i) sums[4 * int(threadIdx.x) + i] = sum[i];
}

// (m, k) times (n, k) transposed; beyond the edges are zeros.
template <class P>
__global__ void multiply(const float* a, const float* b, float* out, int m, int n, int k) {
  const int row0 = (int(blockIdx.x) * kWarps + int(threadIdx.x) / 32) * 16;
  for (int column0 = 0; column0 < n; column0 += 8) {
    typename P::Sum sum{};
    for (int k0 = 0; k0 < k; k0 += P::depth) {
      const auto left =
          P::left([&](int r, int i) { return row0 + r < m && k0 + i < k ? a[(row0 + r) * k + k0 + i] : 0.f; });
      const auto right =
          P::right([&](int i, int c) { return column0 + c < n && k0 + i < k ? b[(column0 + c) * k + k0 + i] : 0.f; });
      P::multiply(sum, left, right);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + sum_row(i), column = column0 + sum_column(i);
      if (row < m && column < n) out[row * n + column] = P::value(sum, i);
    }
  }
}

template <class... Parameters, class... Arguments>
void launch_warps(void (*kernel)(Parameters...), int blocks, int warps, void* stream, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(32 * warps));
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "products");
}

// 0: Tf32, 1: Tf32x3, 2: Bf16, 3: ShortBf16.
template <class Function>
void with_kind(int kind, Function&& f) {
  if (kind == 0) f(Tf32{});
  if (kind == 1) f(Tf32x3{});
  if (kind == 2) f(Bf16{});
  if (kind == 3) f(ShortBf16{});
}

}  // namespace
}  // namespace FASTGAN_ISA

void tiles(int kind, const float* left, const float* right, uint32_t* registers, int* positions, void* stream) {
  with_kind(kind, [&](auto p) { launch_warps(lay_out<decltype(p)>, 1, 1, stream, left, right, registers, positions); });
}

void instruction(int kind, const uint32_t* registers, float* sums, void* stream) {
  launch_warps(kind == 2 ? one_instruction<true> : one_instruction<false>, 1, 1, stream, registers, sums);
}

void product(int kind, const float* a, const float* b, float* out, int m, int n, int k, void* stream) {
  const int blocks = (m + 16 * kWarps - 1) / (16 * kWarps);
  with_kind(kind, [&](auto p) { launch_warps(multiply<decltype(p)>, blocks, kWarps, stream, a, b, out, m, n, k); });
}

}  // namespace fastgan
