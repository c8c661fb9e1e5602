// pybind11 only: the CUDA half, an entry of cuda/entries.h each, on the stream that comes last.
#include <pybind11/pybind11.h>

#include <string>

#include "cuda/entries.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

// Hands out the arguments of a call one by one.
class Arguments {
 public:
  explicit Arguments(const py::args& given) : given_(given) {}
  int64_t integer() {  // signed, or unsigned up to 2^64 - 1
    const py::handle next = given_[at_++];
    const auto unsigned_number = PyLong_AsUnsignedLongLongMask(next.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    return int64_t(unsigned_number);
  }
  int number() { return int(integer()); }
  double real() { return given_[at_++].cast<double>(); }
  template <class T = void>
  T* pointer() {
    return reinterpret_cast<T*>(integer());
  }
  void* stream() {
    void* last = pointer();
    if (at_ != given_.size()) throw py::type_error("more arguments than the entry takes");
    return last;
  }

 private:
  const py::args& given_;
  size_t at_ = 0;
};

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("cuda_problem", cuda_problem);
  m.def("cuda_partials", cuda_partials);
  m.def("cuda_layer_partials", cuda_layer_partials);
  m.def("cuda_loss_metrics_sums", cuda_loss_metrics_sums);
  entries::each<Arguments>([&](const char* name, void (*entry)(Arguments&)) {
    m.def(("cuda_" + std::string(name)).c_str(), [entry](const py::args& given) {
      Arguments arguments(given);
      entry(arguments);
    });
  });
}
