// pybind11 only: names, arguments, build_info. Addresses come from fastgan/_kernels.py, which has validated everything.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <new>
#include <string>
#include <thread>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/shared_core.h"
#include "cpu/team_choice.h"
#include "cuda/launchers.h"
#include "dtypes.h"
#include "philox.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

template <class T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
std::vector<T*> pointers(const py::list& addresses) {
  std::vector<T*> result;
  result.reserve(addresses.size());
  for (py::handle address : addresses) result.push_back(static_cast<T*>(PyLong_AsVoidPtr(address.ptr())));
  return result;
}

constexpr int64_t kRowPadding = 32;  // of `work` and `scratch` (cpu/dispatch.h)
constexpr int64_t kMostRows = 4096;  // at a time in a call without backward, so that their buffer stays in the cache

int64_t element_size(int dtype) { return DType(dtype) == DType::f64 ? sizeof(double) : sizeof(float); }

int64_t padded(int64_t rows) { return (rows + kRowPadding - 1) / kRowPadding * kRowPadding; }

// Rows of scratch in which each thread of a team has a region.
int64_t padded_for_a_team(int64_t rows, int threads) {
  return padded(rows) + kRowPadding * std::max(threads, forced_team());
}

// Scratch memory of one call, aligned to cache lines; a thread has one at a time. The thread keeps it for its next
// call, because new memory comes with page faults, which took more time than the products of a wide layer. Only large
// memory is freed, which glibc would map anew each time.
class Scratch {
 public:
  Scratch(int dtype, int64_t elements) {
    const size_t bytes = size_t(elements * element_size(dtype));
    thread_local Block kept;
    Block& block = bytes > kMostKept ? own_ : kept;
    if (block.bytes < bytes) block.resize(bytes);
    data_ = block.data;
  }
  void* data() const { return data_; }

 private:
  static constexpr std::align_val_t kLine{64};
  static constexpr size_t kMostKept = size_t(32) << 20;
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
    Block() = default;
    Block(const Block&) = delete;
    ~Block() { resize(0); }
    void resize(size_t to) {
      ::operator delete(data, kLine);
      data = nullptr, bytes = 0;
      if (to) data = ::operator new(to, kLine), bytes = to;
    }
  };
  Block own_;
  void* data_;
};

// A list of addresses has the weights, then as many biases (0 for a layer without). If a layer has batch normalisation,
// it continues with the scales, the shifts, the running means and variances, and the numbers of batches.
struct Mlp {
  // inputs, outputs, pieces, activation, negative slope, dropout, whether there is a bias, whether dropout comes before
  // the activation; batch normalisation: 0 none, 1 by the batch, 2 by the running statistics; its epsilon.
  using Description = std::tuple<int64_t, int64_t, int, int, double, double, bool, bool, int, double>;
  NetworkPlan shape;
  bool normalizes = false, by_batch = false;
  MlpSizes sizes;  // elements a row
  mutable TeamChoice of_forward, of_backward, of_second_order, of_penalty;

  Mlp(const std::vector<Description>& layers, double input_dropout) {
    shape.input_dropout = input_dropout;
    for (const auto& [inputs, outputs, pieces, activation, slope, dropout, bias, dropout_first, norm, epsilon] :
         layers) {
      LayerPlan layer{inputs, outputs, pieces, activation, slope, dropout, bias};
      layer.dropout_first = dropout_first;
      layer.batch_norm = norm != 0, layer.running_norm = norm == 2, layer.norm_epsilon = epsilon;
      normalizes = normalizes || layer.batch_norm, by_batch = by_batch || norm == 1;
      shape.layers.push_back(layer);
    }
    sizes = kernels().mlp_sizes(shape);
  }

  // The batch normalisation of each layer; empty if no layer has any.
  template <class Fill>
  std::vector<MlpNorm> norms(Fill&& fill) const {
    std::vector<MlpNorm> result(normalizes ? shape.layers.size() : 0);
    for (size_t i = 0; i < result.size(); ++i) fill(result[i] = MlpNorm{}, i);
    return result;
  }

  // Without `work`, in steps, unless there is dropout (a mask depends on the row's index in the call) or batch
  // normalisation by the batch. `momenta`: of the running statistics.
  void forward(int dtype, uintptr_t x, int64_t rows, const py::list& parameters, uintptr_t y, uintptr_t work,
               bool dropout, uint64_t dropout_seed, int threads, const std::vector<double>& momenta) const {
    const auto at = pointers<void>(parameters);
    const size_t depth = shape.layers.size();
    const std::vector<MlpNorm> norm = norms([&](MlpNorm& n, size_t i) {
      n.scale = at[2 * depth + i], n.shift = at[3 * depth + i];
      n.running_mean = at[4 * depth + i], n.running_variance = at[5 * depth + i];
      n.batches = static_cast<int64_t*>(at[6 * depth + i]), n.momentum = momenta[i];
    });
    py::gil_scoped_release release;
    const int64_t step = work || dropout || by_batch ? rows : std::min(rows, kMostRows);
    const Scratch own(dtype, work ? 0 : sizes.work * padded(step));
    const int64_t x_bytes = shape.layers.front().inputs * element_size(dtype);
    const int64_t y_bytes = shape.layers.back().outputs * element_size(dtype);
    for (int64_t first = 0; first < rows; first += step)
      of_forward.run(threads, std::min(step, rows - first), [&](int chosen) {
        kernels().mlp_forward(dtype, shape,
                              {pointer(x + first * x_bytes), std::min(step, rows - first), at.data(), at.data() + depth,
                               pointer(y + first * y_bytes), work ? pointer(work) : own.data(), dropout_seed, chosen,
                               normalizes ? norm.data() : nullptr});
      });
  }

  // `weights`: with batch normalisation, followed by the scales. `grads`: of x, then of the parameters; 0: not
  // computed. `kept`: sizes.backward elements for each row, which a second-order pass reads (it needs the gradient of
  // x); or 0.
  void backward(int dtype, int64_t rows, const py::list& weights, uintptr_t work, uintptr_t grad_y,
                const py::list& grads, uintptr_t kept, uint64_t dropout_seed, int threads) const {
    const auto w = pointers<const void>(weights);
    const auto g = pointers<void>(grads);
    const size_t depth = shape.layers.size();
    const std::vector<MlpNorm> norm = norms([&](MlpNorm& n, size_t i) {
      n.scale = w[depth + i], n.grad_scale = g[1 + 2 * depth + i], n.grad_shift = g[1 + 3 * depth + i];
    });
    py::gil_scoped_release release;
    const Scratch own(dtype, kept ? 0 : sizes.backward * padded(rows));
    of_backward.run(threads, rows, [&](int chosen) {
      kernels().mlp_backward(dtype, shape,
                             {rows, w.data(), pointer(work), pointer(grad_y), g[0], g.data() + 1, g.data() + 1 + depth,
                              kept ? pointer(kept) : own.data(), dropout_seed, chosen,
                              normalizes ? norm.data() : nullptr});
    });
  }

  // From the tangent of grad_x: the gradients of grad_y, of x, then of the parameters; 0: not computed.
  void second_order(int dtype, int64_t rows, const py::list& weights, uintptr_t work, uintptr_t kept, uintptr_t tangent,
                    const py::list& grads, uint64_t dropout_seed, int threads) const {
    const auto w = pointers<const void>(weights);
    const auto g = pointers<void>(grads);
    py::gil_scoped_release release;
    const Scratch scratch(dtype, sizes.second_order * padded_for_a_team(rows, threads));
    of_second_order.run(threads, rows, [&](int chosen) {
      kernels().mlp_second_order(dtype, shape,
                                 {rows, w.data(), pointer(work), pointer(kept), pointer(tangent), g[0], g[1],
                                  g.data() + 2, g.data() + 2 + shape.layers.size(), scratch.data(), dropout_seed,
                                  chosen});
    });
  }

  // The penalty, and the gradients of the parameters unless `grads` is empty.
  double penalty(int dtype, uintptr_t x, int64_t rows, const py::list& parameters, int kind, double weight,
                 const py::list& grads, uint64_t dropout_seed, int threads) const {
    const auto at = pointers<const void>(parameters);
    const auto g = pointers<void>(grads);
    const size_t depth = shape.layers.size();
    py::gil_scoped_release release;
    const int64_t size = sizes.penalty * padded_for_a_team(rows, threads);
    const Scratch scratch(dtype, size + padded(rows));
    void* const values = static_cast<char*>(scratch.data()) + size * element_size(dtype);
    of_penalty.run(threads, rows, [&](int chosen) {
      kernels().mlp_penalty(dtype, shape,
                            {pointer(x), rows, at.data(), at.data() + depth, Penalty(kind), weight / double(rows),
                             values, g.empty() ? nullptr : g.data(), g.empty() ? nullptr : g.data() + depth,
                             scratch.data(), dropout_seed, chosen});
    });
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i)
      sum += DType(dtype) == DType::f64 ? static_cast<double*>(values)[i] : static_cast<float*>(values)[i];
    return sum;
  }
};

// Whether all that `seen` holds is unchanged: the values of `children` in their order, their kinds, which dicts are
// empty and which are not, and of some dicts the value (or None) under a name. Python asks at every call of a chain,
// where its own loops took longer than a product of a small network.
bool unchanged(const py::dict& children, const py::tuple& seen) {
  const auto at = [&](size_t i) { return PyTuple_GET_ITEM(seen.ptr(), i); };
  PyObject *const values = at(0), *const kinds = at(1), *const dicts = at(4), *const names = at(5);
  if (PyDict_Size(children.ptr()) != PyTuple_GET_SIZE(values)) return false;
  PyObject *name, *child;
  Py_ssize_t position = 0;
  for (Py_ssize_t i = 0; PyDict_Next(children.ptr(), &position, &name, &child); ++i)
    if (child != PyTuple_GET_ITEM(values, i) ||
        reinterpret_cast<PyObject*>(Py_TYPE(child)) != PyTuple_GET_ITEM(kinds, i))
      return false;
  for (const bool filled : {false, true})
    for (py::handle d : py::reinterpret_borrow<py::tuple>(at(2 + filled)))
      if ((PyDict_Size(d.ptr()) > 0) != filled) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(dicts); ++i) {
    PyObject* const found = PyDict_GetItemWithError(PyTuple_GET_ITEM(dicts, i), PyTuple_GET_ITEM(names, i));
    if ((found ? found : Py_None) != PyTuple_GET_ITEM(at(6), i)) return false;
  }
  return true;
}

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
void bind_cuda(py::module_& m);      // bindings_cuda.cpp

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  m.doc() =
      "The compiled core of fastgan: pointers, sizes, threads or a stream. fastgan._kernels calls it with tensors.";
  m.def("build_info", build_info);
  m.attr("row_padding") = kRowPadding;

  m.def("pair_loss", [](int dtype, uintptr_t real, int64_t m, uintptr_t fake, int64_t n, int formula_real,
                        int formula_fake, double target_real, double target_fake, double scale_real, double scale_fake,
                        uintptr_t value, uintptr_t grad_real, uintptr_t grad_fake, int threads) {
    const LossTerm of_real{pointer(real), m, formula_real, target_real, scale_real, pointer(grad_real)},
        of_fake{pointer(fake), n, formula_fake, target_fake, scale_fake, pointer(grad_fake)};
    py::gil_scoped_release release;
    kernels().pair_loss(dtype, of_real, of_fake, pointer(value), threads);
  });
  m.def("pointwise",
        [](int dtype, uintptr_t x, uintptr_t out, int64_t n, int formula, double target, int order, int threads) {
          py::gil_scoped_release release;
          kernels().pointwise(dtype, pointer(x), pointer(out), n, formula, target, order, threads);
        });
  m.def("dropout", [](int dtype, uintptr_t x, uintptr_t out, int64_t rows, int64_t features, double p,
                      uint64_t dropout_seed, uint32_t substream, int threads) {
    py::gil_scoped_release release;
    kernels().dropout(dtype, pointer(x), pointer(out), rows, features, p, dropout_seed, substream, threads);
  });
  m.def("random_fill", [](int dtype, uintptr_t out, int64_t n, bool normal, uint64_t seed, uint32_t purpose,
                          uint64_t step, uint32_t substream, int64_t offset, int threads) {
    py::gil_scoped_release release;
    kernels().random_fill(dtype, pointer(out), n, normal, seed, purpose, step, substream, offset, threads);
  });
  m.def("permutation",
        [](uintptr_t out, uint64_t n, uint64_t seed, uint64_t epoch, uint64_t start, uint64_t count, uint32_t purpose) {
          py::gil_scoped_release release;
          const Permutation permute(n, seed, purpose, epoch);
          for (uint64_t i = 0; i < count; ++i) pointer<int64_t>(out)[i] = int64_t(permute(start + i));
        });

  m.def("fma_peak", [](double seconds, int threads) {
    std::vector<double> fp32(threads), bf16(threads);
    std::vector<std::thread> others;
    const auto measure = [&](int i) {
      fp32[i] = kernels().fma_peak(seconds / 2, false);
      bf16[i] = kernels().fma_peak(seconds / 2, true);
    };
    {
      py::gil_scoped_release release;
      for (int i = 1; i < threads; ++i) others.emplace_back(measure, i);
      measure(0);
      for (std::thread& other : others) other.join();
    }
    return std::make_pair(fp32, bf16);
  });

  m.def("unchanged", &unchanged);
  m.def("additions_per_cycle", [] {
    py::gil_scoped_release release;
    return additions_per_cycle();
  });
  m.def("line_transfer_ns", [] {
    py::gil_scoped_release release;
    return line_transfer_ns();
  });

  py::class_<Mlp>(m, "Mlp")
      .def(py::init<const std::vector<Mlp::Description>&, double>())
      .def_property_readonly("outputs", [](const Mlp& net) { return net.shape.layers.back().outputs; })
      .def_property_readonly("work_per_row", [](const Mlp& net) { return net.sizes.work; })
      .def_property_readonly("kept_per_row", [](const Mlp& net) { return net.sizes.backward; })
      .def("forward", &Mlp::forward)
      .def("backward", &Mlp::backward)
      .def("second_order", &Mlp::second_order)
      .def("penalty", &Mlp::penalty);

  bind_training(m);
  bind_cuda(m);
}
