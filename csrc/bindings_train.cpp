// pybind11 only: the training engine's plan, read from the dictionaries of fastgan/training/engines/plan.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cuda/launchers.h"
#include "dtypes.h"

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
          d["dropout_seed_index"].cast<int>(),       d["dropout_substream"].cast<int>(), d["batch_norm"].cast<bool>(),
          d["norm_epsilon"].cast<double>(),   d["norm_momentum"].cast<double>()};
}

PlayerPlan player(const py::dict& d) {
  PlayerPlan plan;
  plan.network.input_dropout = d["input_dropout"].cast<double>();
  plan.network.dropout_seeds = d["dropout_seeds"].cast<int>();
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

// A plan and its workspace. Python owns networks, optimiser state and data, and keeps them alive.
struct CompiledPlan {
  int dtype;
  TrainPlan plan;
  Workspace workspace;

  explicit CompiledPlan(const py::dict& d)
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
             d["ema_decay"].cast<double>(),
             d["skip_nonfinite"].cast<bool>()} {}

  // Brings the addresses up to date with the last iteration.
  void write_back(int threads) {
    const py::gil_scoped_release release;
    kernels().write_back(dtype, plan, workspace, threads);
  }

  // What multiplies in G and in D on a CPU.
  std::pair<std::string, std::string> products() const {
    const auto of = [&](const PlayerPlan& p) { return name_of(choose_products(p.network, DType(dtype) == DType::f32)); };
    return {of(plan.generator), of(plan.discriminator)};
  }

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

// Some iterations of a call: begin .. end of its `count`.
TrainCall part_of(const TrainCall& call, int64_t begin, int64_t end) {
  const auto part = [&](const std::vector<double>& values) {
    if (values.size() <= 1) return values;
    const auto an_iteration = int64_t(values.size()) / call.count;
    return std::vector<double>(values.begin() + begin * an_iteration, values.begin() + end * an_iteration);
  };
  TrainCall some = call;
  some.first += begin, some.count = end - begin, some.metrics += begin * kMetrics;
  for (Schedule* s : {&some.generator_schedule, &some.discriminator_schedule}) *s = {part(s->rate), part(s->momentum)};
  return some;
}

// Trains several GANs, each on one thread at a time. A free thread advances the GAN that is furthest behind by some
// iterations: with two threads, three GANs take 1.5 times as long as one, not twice.
void advance_in_turn(const std::vector<CompiledPlan*>& plans, std::vector<TrainCall>& calls, int threads) {
  constexpr int64_t turns = 8;  // about so many slices for each thread; the last ones may end at different times
  struct State {
    int64_t done = 0;
    bool busy = false;
  };
  std::vector<State> states(plans.size());
  std::mutex mutex;
  const auto progress = [&](size_t i) { return double(states[i].done) / double(std::max<int64_t>(1, calls[i].count)); };
  parallel_for(threads, threads, [&](int64_t) {
    for (std::unique_lock<std::mutex> lock(mutex);;) {
      size_t next = plans.size();
      for (size_t i = 0; i < plans.size(); ++i)
        if (!states[i].busy && states[i].done < calls[i].count && (next == plans.size() || progress(i) < progress(next))) next = i;
      if (next == plans.size()) return;  // other threads run the remaining iterations
      State& state = states[next];
      const int64_t some = std::max<int64_t>(1, calls[next].count * int64_t(plans.size()) / (turns * threads));
      TrainCall part = part_of(calls[next], state.done, std::min(state.done + some, calls[next].count));
      state.busy = true;
      lock.unlock();
      kernels().train(plans[next]->dtype, plans[next]->plan, part);
      lock.lock();
      state.busy = false, state.done += part.count;
      calls[next].generator_updates = part.generator_updates, calls[next].discriminator_updates = part.discriminator_updates;
    }
  });
}

// Some iterations of several GANs: of one alone with all threads, of many with a thread each.
Updates advance(const std::vector<CompiledPlan*>& plans, const std::vector<py::dict>& arguments, int threads) {
  std::vector<TrainCall> calls;
  for (size_t i = 0; i < plans.size(); ++i) calls.push_back(plans[i]->call(arguments[i], plans.size() == 1 ? threads : 1));
  {
    py::gil_scoped_release release;
    if (plans.size() == 1)
      kernels().train(plans[0]->dtype, plans[0]->plan, calls[0]);
    else
      advance_in_turn(plans, calls, threads);
  }
  Updates updates;
  for (const TrainCall& call : calls) updates.emplace_back(call.generator_updates, call.discriminator_updates);
  return updates;
}

// The same on a CUDA device, in one launch. `memory` gives the address of so many bytes there.
void cuda_advance(const std::vector<CompiledPlan*>& plans, const std::vector<py::dict>& arguments, int multiprocessors, int cluster,
                  size_t shared_bytes, const py::function& memory, uintptr_t stream) {
  std::vector<TrainCall> calls;
  std::vector<CudaMember> members;
  calls.reserve(plans.size());
  for (size_t i = 0; i < plans.size(); ++i) {
    calls.push_back(plans[i]->call(arguments[i], 1));
    members.push_back({&plans[i]->plan, &calls.back()});
  }
  const auto allocate = [&](size_t bytes) { return reinterpret_cast<void*>(memory(bytes).cast<uintptr_t>()); };
  cuda_train(plans[0]->dtype, members, {multiprocessors, cluster, shared_bytes}, allocate, reinterpret_cast<void*>(stream));
}

std::pair<size_t, size_t> cuda_needs(const CompiledPlan& compiled, int multiprocessors, int cluster, size_t shared_bytes) {
  const CudaLimits needs = cuda_train_needs(compiled.dtype, compiled.plan, {multiprocessors, cluster, shared_bytes});
  return {needs.shared_bytes, needs.scratch_bytes};
}

}  // namespace

void bind_training(py::module_& m) {
  py::class_<CompiledPlan>(m, "CompiledPlan").def(py::init<const py::dict&>())
      .def("write_back", &CompiledPlan::write_back)
      .def("products", &CompiledPlan::products);
  m.def("advance", advance);
  m.def("cuda_train", cuda_advance);
  m.def("cuda_train_needs", cuda_needs);
  m.def("force_team", force_team);  // for tests: cpu/parallel.h
  m.def("multiplies_bf16", [] { return bf16_products().dot || products_are_forced(); });
  m.def("multiplies_tf32", [] { return bf16_products().amx || products_are_forced(); });
  m.def("bf16_products", [] {
    const Bf16Products& found = bf16_products();
    py::dict info;
    info["amx"] = found.amx ? "yes" : found.why_no_amx;
    info["avx512_bf16"] = !found.dot ? "the processor has none" : found.dot_is_fast ? "yes" : "yes, slower than fp32";
    return info;
  });
  m.def("force_products", force_products);  // for tests: cpu/products.h
  m.def("tile_dot", [](bool software, uintptr_t c, uintptr_t a, uintptr_t b) {
    kernels().tile_dot(software, reinterpret_cast<float*>(c), reinterpret_cast<uint16_t*>(a), reinterpret_cast<uint16_t*>(b));
  });
  m.def("tile_round", [](bool software, uintptr_t in, uintptr_t out) {
    kernels().tile_round(software, reinterpret_cast<float*>(in), reinterpret_cast<uint16_t*>(out));
  });
}
