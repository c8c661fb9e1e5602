#include "products.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "dispatch.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastgan {
namespace {

std::atomic<bool> announced{false};

// Requests permission for tiles from the kernel, for all threads of the process. Returns why there are none, or "".
std::string why_no_amx() {
  if (!kernels().has_bf16_kernels) return "this instruction set's build has none";
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16, AMX-TILE
  if (!(tiles || announced.load()) || !kernels().multiplies_bf16()) return "the processor has none";
  constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0)
    return std::string("the kernel refuses them (") + std::strerror(errno) + ")";
  return "";
#else
  return "the processor has none";
#endif
}

// The ratio is far from 1 on every known processor, so a busy machine does not change the result.
bool dot_is_fast() {
  constexpr double seconds = 0.003, margin = 1.2;
  return kernels().multiplies_bf16() && kernels().fma_peak(seconds, true) > margin * kernels().fma_peak(seconds, false);
}

// Multiplications per row of the batch. Below, rounding the factors costs more than faster products save: 1-16-16-1 has
// 288 and is 1.2 times slower with AVX512-BF16 than with fp32; 2-128-128-1 has 16,768 and is 1.1 times faster.
constexpr double kLeastBf16 = 4096;

// The same for bf16x3, which is about twice as fast as fp32 in large networks; the limit itself is not measured.
constexpr double kLeastTf32 = 65536;

std::atomic<int> forced{-1};
constexpr Products kAll[] = {Products::fp32, Products::dot_bf16, Products::amx, Products::amx_software};

}  // namespace

const Bf16Products& bf16_products() {
  static const Bf16Products found = [] {
    const std::string why = why_no_amx();
    return Bf16Products{why.empty(), kernels().multiplies_bf16(), dot_is_fast(), why};
  }();
  return found;
}

Products choose_products(const NetworkPlan& plan, bool is_float) {
  const bool split = plan.precision == Precision::tf32;
  if ((plan.precision != Precision::bf16 && !split) || !is_float) return Products::fp32;
  if (const int asked = forced.load(); asked >= 0 && !(split && Products(asked) == Products::dot_bf16))
    return Products(asked);
  double products = 0;
  for (const LayerPlan& l : plan.layers) products += double(l.inputs) * double(l.outputs * l.pieces);
  if (products < (split ? kLeastTf32 : kLeastBf16)) return Products::fp32;
  const Bf16Products& have = bf16_products();
  return have.amx ? Products::amx : have.dot_is_fast && !split ? Products::dot_bf16 : Products::fp32;
}

const char* name_of(Products products) {
  switch (products) {
    case Products::fp32: return "fp32";
    case Products::dot_bf16: return "AVX512-BF16";
    case Products::amx: return "AMX";
    default: return "AMX in software";
  }
}

void announce_amx() { announced.store(true); }

bool products_are_forced() { return forced.load() >= 0; }

void force_products(const std::string& name) {
  if (name.empty()) return forced.store(-1);
  for (Products products : kAll)
    if (name == name_of(products)) {
      const bool has = products == Products::fp32 || (products == Products::amx_software ? kernels().has_bf16_kernels
                                                      : products == Products::amx        ? bf16_products().amx
                                                                                         : bf16_products().dot);
      if (!has) throw std::invalid_argument("force_products: this machine has no " + name);
      return forced.store(int(products));
    }
  throw std::invalid_argument("force_products: there is no " + name);
}

}  // namespace fastgan
