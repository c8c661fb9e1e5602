// Chooses among the builds for several instruction sets, once, before the first kernel runs.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "dispatch.h"

namespace fastgan {

#if defined(FASTGAN_X86)
namespace v2 {
extern const Kernels table;
}
namespace v3 {
extern const Kernels table;
}
namespace v4 {
extern const Kernels table;
}
#else
namespace portable {
extern const Kernels table;
}
#endif

namespace {

struct Build {
  const Kernels& table;
  bool runs;
};

// FASTGAN_ISA selects another build, to compare them. A build that does not exist or that this
// processor cannot run is an error, so that a comparison never runs another build silently.
const Kernels& choose() {
  const char* asked = std::getenv("FASTGAN_ISA");
#if defined(FASTGAN_X86)
  __builtin_cpu_init();
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  const Build builds[] = {{v4::table, has_v4}, {v3::table, has_v3}, {v2::table, true}};
#else
  const Build builds[] = {{portable::table, true}};
#endif
  std::string names;
  for (const auto& build : builds) {
    if (!build.runs) continue;
    if (!asked || !*asked || build.table.name == std::string_view(asked)) return build.table;
    names += (names.empty() ? "" : ", ") + std::string(build.table.name);
  }
  throw std::invalid_argument("FASTGAN_ISA must be an instruction set that this processor has (" + names + "), got '" +
                              asked + "'");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fastgan
