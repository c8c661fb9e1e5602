// Stands in for the CUDA half where nvcc was not found; fastgan/backend.py never lets a call come this far.
#include <stdexcept>

#include "kernels.h"

namespace fastgan {

std::string cuda_version() { return ""; }
std::string cuda_problem() { return "fastgan was built without CUDA"; }
int64_t cuda_partials(int64_t, int64_t) { return 0; }
void cuda_pair_loss(int, const LossTerm&, const LossTerm&, void*, double*, void*) {
  throw std::runtime_error(cuda_problem());
}
void cuda_pointwise(int, const void*, void*, int64_t, int, double, int, void*) {
  throw std::runtime_error(cuda_problem());
}

}  // namespace fastgan
