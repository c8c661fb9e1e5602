// Chooses among the builds for several instruction sets, once, when the first kernel is asked for.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace fastgan {

#if defined(FASTGAN_X86)
namespace v2 { extern const Kernels table; }
namespace v3 { extern const Kernels table; }
namespace v4 { extern const Kernels table; }
#else
namespace portable { extern const Kernels table; }
#endif

namespace {

const Kernels& choose() {
#if defined(FASTGAN_X86)
  __builtin_cpu_init();
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  const char* asked = std::getenv("FASTGAN_ISA");
  const auto is_asked = [&](const char* name) { return asked && std::strcmp(asked, name) == 0; };
  if (is_asked("v2")) return v2::table;
  if (is_asked("v3") && has_v3) return v3::table;
  return has_v4 ? v4::table : has_v3 ? v3::table : v2::table;
#else
  return portable::table;
#endif
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fastgan
