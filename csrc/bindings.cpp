// pybind11 only: names, arguments, build_info. Addresses come from fastgan/kernels.py, which has validated everything.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "philox.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

template <class T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T = const void>
std::vector<T*> pointers(const std::vector<uintptr_t>& addresses) {
  std::vector<T*> result;
  for (uintptr_t address : addresses) result.push_back(pointer<T>(address));
  return result;
}

struct Terms {
  LossTerm real, fake;
};

Terms loss_terms(uintptr_t real, int64_t m, uintptr_t fake, int64_t n, int formula_real, int formula_fake,
                 double target_real, double target_fake, double scale_real, double scale_fake, uintptr_t grad_real,
                 uintptr_t grad_fake) {
  return {{pointer(real), m, formula_real, target_real, scale_real, pointer(grad_real)},
          {pointer(fake), n, formula_fake, target_fake, scale_fake, pointer(grad_fake)}};
}

int64_t padded_rows(int64_t rows) { return (rows + 31) / 32 * 32; }

struct Mlp {
  using Description = std::tuple<int64_t, int64_t, int, int, double, double, bool>;
  NetworkPlan shape;

  Mlp(const std::vector<Description>& layers, double input_dropout) {
    shape.input_dropout = input_dropout;
    for (const auto& [inputs, outputs, pieces, activation, slope, dropout, bias] : layers)
      shape.layers.push_back({inputs, outputs, pieces, activation, slope, dropout, bias});
  }

  void forward(int dtype, uintptr_t x, int64_t rows, const std::vector<uintptr_t>& weights,
               const std::vector<uintptr_t>& biases, uintptr_t y, uintptr_t work, uint64_t key, int threads) const {
    const auto w = pointers(weights), b = pointers(biases);
    py::gil_scoped_release release;
    kernels().mlp_forward(dtype, shape,
                          {pointer(x), rows, w.data(), b.data(), pointer(y), pointer(work), key, threads});
  }

  void backward(int dtype, uintptr_t x, int64_t rows, const std::vector<uintptr_t>& weights, uintptr_t work,
                uintptr_t grad_y, uintptr_t grad_x, const std::vector<uintptr_t>& grad_weights,
                const std::vector<uintptr_t>& grad_biases, uintptr_t scratch, uint64_t key, int threads) const {
    const auto w = pointers(weights);
    const auto gw = pointers<void>(grad_weights), gb = pointers<void>(grad_biases);
    py::gil_scoped_release release;
    kernels().mlp_backward(dtype, shape,
                           {pointer(x), rows, w.data(), pointer(work), pointer(grad_y), pointer(grad_x), gw.data(),
                            gb.data(), pointer(scratch), key, threads});
  }
};

py::dict build_info() {
  py::dict info;
  info["version"] = FASTGAN_VERSION;
  info["compiler"] = __VERSION__;
  info["instruction_set"] = kernels().name;
  info["cuda"] = cuda_version();
  info["cuda_architectures"] = FASTGAN_CUDA_ARCHITECTURES;
  return info;
}

}  // namespace

void bind_training(py::module_& m);  // bindings_train.cpp

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled core of fastgan: pointers, sizes, threads or a stream. fastgan.kernels calls it with tensors.";
  m.def("build_info", build_info);

  m.def("pair_loss", [](int dtype, uintptr_t real, int64_t m, uintptr_t fake, int64_t n, int formula_real,
                        int formula_fake, double target_real, double target_fake, double scale_real, double scale_fake,
                        uintptr_t value, uintptr_t grad_real, uintptr_t grad_fake, int threads) {
    const Terms t = loss_terms(real, m, fake, n, formula_real, formula_fake, target_real, target_fake, scale_real,
                               scale_fake, grad_real, grad_fake);
    py::gil_scoped_release release;
    kernels().pair_loss(dtype, t.real, t.fake, pointer(value), threads);
  });
  m.def("pointwise", [](int dtype, uintptr_t x, uintptr_t out, int64_t n, int formula, double target, int order,
                        int threads) {
    py::gil_scoped_release release;
    kernels().pointwise(dtype, pointer(x), pointer(out), n, formula, target, order, threads);
  });
  m.def("dropout", [](int dtype, uintptr_t x, uintptr_t out, int64_t rows, int64_t features, double p, uint64_t key,
                      uint32_t substream, int threads) {
    py::gil_scoped_release release;
    kernels().dropout(dtype, pointer(x), pointer(out), rows, features, p, key, substream, threads);
  });
  m.def("random_fill", [](int dtype, uintptr_t out, int64_t n, bool normal, uint64_t seed, uint32_t purpose,
                          uint64_t step, uint32_t substream, int64_t offset, int threads) {
    py::gil_scoped_release release;
    kernels().random_fill(dtype, pointer(out), n, normal, seed, purpose, step, substream, offset, threads);
  });
  m.def("permutation", [](uintptr_t out, uint64_t n, uint64_t seed, uint64_t epoch, uint64_t start, uint64_t count,
                          uint32_t purpose) {
    py::gil_scoped_release release;
    const Permutation permute(n, seed, purpose, epoch);
    for (uint64_t i = 0; i < count; ++i) pointer<int64_t>(out)[i] = int64_t(permute(start + i));
  });

  py::class_<Mlp>(m, "Mlp")
      .def(py::init<const std::vector<Mlp::Description>&, double>())
      .def_property_readonly("outputs", [](const Mlp& net) { return net.shape.layers.back().outputs; })
      .def_property_readonly("work_per_row", [](const Mlp& net) { return kernels().mlp_work_per_row(net.shape); })
      .def("backward_size",
           [](const Mlp& net, int64_t rows) { return kernels().mlp_scratch_per_row(net.shape) * padded_rows(rows); })
      .def("forward", &Mlp::forward)
      .def("backward", &Mlp::backward);

  bind_training(m);

  m.def("cuda_problem", cuda_problem);
  m.def("cuda_partials", cuda_partials);
  m.def("cuda_pair_loss", [](int dtype, uintptr_t real, int64_t m, uintptr_t fake, int64_t n, int formula_real,
                             int formula_fake, double target_real, double target_fake, double scale_real,
                             double scale_fake, uintptr_t value, uintptr_t grad_real, uintptr_t grad_fake,
                             uintptr_t partial, uintptr_t stream) {
    const Terms t = loss_terms(real, m, fake, n, formula_real, formula_fake, target_real, target_fake, scale_real,
                               scale_fake, grad_real, grad_fake);
    py::gil_scoped_release release;
    cuda_pair_loss(dtype, t.real, t.fake, pointer(value), pointer<double>(partial), pointer(stream));
  });
  m.def("cuda_pointwise", [](int dtype, uintptr_t x, uintptr_t out, int64_t n, int formula, double target, int order,
                             uintptr_t stream) {
    py::gil_scoped_release release;
    cuda_pointwise(dtype, pointer(x), pointer(out), n, formula, target, order, pointer(stream));
  });
}
