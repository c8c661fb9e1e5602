// pybind11 only: the training engine's plan, read from the dictionaries of fastgan/training/plan.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cuda/kernels.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

void* pointer(const py::handle& address) { return reinterpret_cast<void*>(address.cast<uintptr_t>()); }

ParameterPlan parameter(const py::handle& addresses) {
  const auto at = addresses.cast<py::tuple>();
  return {pointer(at[0]), pointer(at[1]), pointer(at[2]), pointer(at[3])};
}

LayerPlan layer(const py::dict& d) {
  return {d["inputs"].cast<int64_t>(),        d["outputs"].cast<int64_t>(),      d["pieces"].cast<int>(),
          d["activation"].cast<int>(),        d["negative_slope"].cast<double>(), d["dropout"].cast<double>(),
          d["bias"].cast<py::tuple>()[0].cast<uintptr_t>() != 0,
          d["dropout_key"].cast<int>(),       d["dropout_substream"].cast<int>(), d["batch_norm"].cast<bool>(),
          d["norm_epsilon"].cast<double>(),   d["norm_momentum"].cast<double>()};
}

PlayerPlan player(const py::dict& d) {
  PlayerPlan plan;
  plan.network.input_dropout = d["input_dropout"].cast<double>();
  plan.network.keys = d["keys"].cast<int>();
  plan.network.precision = Precision(d["precision"].cast<int>());
  for (const py::handle& item : d["layers"]) {
    const auto l = item.cast<py::dict>();
    plan.network.layers.push_back(layer(l));
    plan.parameters.push_back({parameter(l["weight"]), parameter(l["bias"]), parameter(l["norm_scale"]),
                               parameter(l["norm_shift"]), pointer(l["running_mean"]), pointer(l["running_variance"]),
                               static_cast<int64_t*>(pointer(l["batches"]))});
  }
  plan.optimizer = {Rule(d["rule"].cast<int>()), d["beta1"].cast<double>(), d["beta2"].cast<double>(),
                    d["epsilon"].cast<double>(), d["max_norm"].cast<double>()};
  return plan;
}

LossPlan loss(const py::handle& formula_and_target) {
  const auto pair = formula_and_target.cast<std::pair<int, double>>();
  return {pair.first, pair.second};
}

Schedule schedule(const py::handle& rates_and_momenta) {
  auto pair = rates_and_momenta.cast<std::pair<std::vector<double>, std::vector<double>>>();
  return {std::move(pair.first), std::move(pair.second)};
}

// A plan and the memory of its run. Networks, optimiser state and data are Python's, who keeps them alive.
struct Run {
  int dtype;
  TrainPlan plan;
  Workspace workspace;

  explicit Run(const py::dict& d)
      : dtype(d["dtype"].cast<int>()),
        plan{player(d["generator"]),
             player(d["discriminator"]),
             d["latent"].cast<int64_t>(),
             Prior(d["prior"].cast<int>()),
             d["seed"].cast<uint64_t>(),
             pointer(d["data"]),
             d["rows"].cast<int64_t>(),
             d["features"].cast<int64_t>(),
             d["batch"].cast<int64_t>(),
             d["k"].cast<int64_t>(),
             d["generator_steps"].cast<int64_t>(),
             d["pack"].cast<int64_t>(),
             d["simultaneous"].cast<bool>(),
             loss(d["real"]),
             loss(d["fake"]),
             loss(d["generated"]),
             d["relativistic"].cast<bool>(),
             Penalty(d["penalty"].cast<int>()),
             d["penalty_weight"].cast<double>(),
             d["average_decay"].cast<double>(),
             d["skip_nonfinite"].cast<bool>()} {}

  TrainCall call(const py::dict& d, int threads) {
    return {d["first"].cast<int64_t>(),
            d["count"].cast<int64_t>(),
            schedule(d["generator_schedule"]),
            schedule(d["discriminator_schedule"]),
            d["generator_updates"].cast<int64_t>(),
            d["discriminator_updates"].cast<int64_t>(),
            static_cast<double*>(pointer(d["metrics"])),
            &workspace,
            threads};
  }
};

using Updates = std::vector<std::pair<int64_t, int64_t>>;

// Some iterations of several runs: of one alone with all threads, of many with a thread each.
Updates advance(const std::vector<Run*>& runs, const std::vector<py::dict>& arguments, int threads) {
  std::vector<TrainCall> calls;
  for (size_t i = 0; i < runs.size(); ++i) calls.push_back(runs[i]->call(arguments[i], runs.size() == 1 ? threads : 1));
  {
    py::gil_scoped_release release;
    parallel_for(runs.size() == 1 ? 1 : threads, int64_t(runs.size()),
                 [&](int64_t i) { kernels().train(runs[size_t(i)]->dtype, runs[size_t(i)]->plan, calls[size_t(i)]); });
  }
  Updates updates;
  for (const TrainCall& call : calls) updates.emplace_back(call.generator_updates, call.discriminator_updates);
  return updates;
}

// The same on a CUDA device, in one launch. `memory` gives the address of so many bytes there.
void cuda_advance(const std::vector<Run*>& runs, const std::vector<py::dict>& arguments, int multiprocessors, int cluster,
                  size_t shared_bytes, const py::function& memory, uintptr_t stream) {
  std::vector<TrainCall> calls;
  std::vector<CudaMember> members;
  calls.reserve(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    calls.push_back(runs[i]->call(arguments[i], 1));
    members.push_back({&runs[i]->plan, &calls.back()});
  }
  const auto allocate = [&](size_t bytes) { return reinterpret_cast<void*>(memory(bytes).cast<uintptr_t>()); };
  cuda_train(runs[0]->dtype, members, {multiprocessors, cluster, shared_bytes}, allocate, reinterpret_cast<void*>(stream));
}

std::pair<size_t, size_t> cuda_needs(const Run& run, int multiprocessors, int cluster, size_t shared_bytes) {
  const CudaRoom needs = cuda_train_needs(run.dtype, run.plan, {multiprocessors, cluster, shared_bytes});
  return {needs.shared_bytes, needs.scratch_bytes};
}

}  // namespace

void bind_training(py::module_& m) {
  py::class_<Run>(m, "Run").def(py::init<const py::dict&>());
  m.def("advance", advance);
  m.def("cuda_train", cuda_advance);
  m.def("cuda_train_needs", cuda_needs);
  m.def("multiplies_bf16", [] { return kernels().multiplies_bf16(); });
}
