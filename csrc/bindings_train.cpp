// pybind11 only: the training engine's plan, read from the dictionaries of fastgan/training/engines/plan.py, and its
// schema, by which Python writes them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cuda/launchers.h"
#include "dtypes.h"
#include "philox.h"
#include "recorder.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

// Reads the fields of a struct from a dictionary, which has no others.
class FromDict {
 public:
  explicit FromDict(const py::handle& given) : given_(given.cast<py::dict>()) {}

  template <class T>
  void operator()(const std::string& name, T& field) {
    read(given_[name.c_str()], field);
    ++count_;
  }

  void end() const {
    if (count_ != given_.size())
      throw py::value_error("plan: " + std::to_string(given_.size() - count_) + " fields are unknown to the core");
  }

 private:
  template <class T>
  static void read(const py::handle& value, T& field) {
    if constexpr (std::is_pointer_v<T>)
      field = reinterpret_cast<T>(value.cast<uintptr_t>());
    else if constexpr (std::is_enum_v<T>)
      field = named<T>(value.cast<std::string>());
    else if constexpr (std::is_arithmetic_v<T>)
      field = value.cast<T>();
    else {
      const auto items = value.cast<py::tuple>();
      size_t i = 0;
      field.fields([&](const std::string&, auto& item) { read(items[i++], item); });
    }
  }

  template <class T>
  static void read(const py::handle& value, std::vector<T>& field) {
    for (const py::handle& item : value.cast<py::sequence>()) read(item, field.emplace_back());
  }

  static void read(const py::handle& value, PlayerPlan& player) {
    FromDict given(value);
    given.with_layers([&](FromDict& layer) { player.read_layer(layer); });
    player.fields(given);
    given.end();
  }

  template <class Function>
  void with_layers(Function&& f) {
    for (const py::handle& item : given_["layers"]) {
      FromDict layer(item);
      f(layer);
      layer.end();
    }
    ++count_;
  }

  template <class Enum>
  static Enum named(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    const std::vector<std::string> names = split(names_of(Enum()));
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) throw py::value_error("plan: no " + std::string(name_of(Enum())) + " is named " + name);
    return Enum(found - names.begin());
  }

  const py::dict given_;
  size_t count_ = 0;
};

// A plan and its workspace. Python owns networks, optimiser state and data, and keeps them alive.
struct CompiledPlan {
  int dtype;
  TrainPlan plan{};
  Workspace workspace;

  explicit CompiledPlan(const py::dict& d) : dtype(d["dtype"].cast<int>()) {
    FromDict given(d["plan"]);
    plan.fields(given);
    given.end();
  }

  // Brings the addresses up to date with the last iteration.
  void write_back(int threads) {
    const py::gil_scoped_release release;
    kernels().write_back(dtype, plan, workspace, threads);
  }

  // What multiplies in G and in D on a CPU.
  std::pair<std::string, std::string> products() const {
    TrainPlan chosen = plan;
    kernels().products_of(dtype, chosen);
    return {name_of(chosen.generator.network.products), name_of(chosen.discriminator.network.products)};
  }

  TrainCall call(const py::dict& d, int threads) {
    TrainCall call{};
    FromDict given(d);
    call.fields(given);
    given.end();
    call.workspace = &workspace, call.threads = threads;
    return call;
  }
};

using Updates = std::vector<std::pair<int64_t, int64_t>>;

// Some iterations of a call: begin .. end of its `count`.
TrainCall part_of(const TrainCall& call, int64_t begin, int64_t end) {
  const auto part = [&](const std::vector<double>& values) {
    const auto size = int64_t(values.size()), an_iteration = size > 1 ? size / call.count : 0;  // 0: one number for all
    const auto last = an_iteration ? end * an_iteration : size;
    return std::vector<double>(values.begin() + begin * an_iteration, values.begin() + last);
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
        if (!states[i].busy && states[i].done < calls[i].count &&
            (next == plans.size() || progress(i) < progress(next)))
          next = i;
      if (next == plans.size()) return;  // other threads run the remaining iterations
      State& state = states[next];
      const int64_t some = std::max<int64_t>(1, calls[next].count * int64_t(plans.size()) / (turns * threads));
      TrainCall part = part_of(calls[next], state.done, std::min(state.done + some, calls[next].count));
      state.busy = true;
      lock.unlock();
      kernels().train(plans[next]->dtype, plans[next]->plan, part);
      lock.lock();
      state.busy = false, state.done += part.count;
      calls[next].generator_updates = part.generator_updates,
      calls[next].discriminator_updates = part.discriminator_updates;
    }
  });
}

// Some iterations of several GANs: of one alone with all threads, of many with a thread each.
Updates advance(const std::vector<CompiledPlan*>& plans, const std::vector<py::dict>& arguments, int threads) {
  std::vector<TrainCall> calls;
  calls.reserve(plans.size());
  for (size_t i = 0; i < plans.size(); ++i)
    calls.push_back(plans[i]->call(arguments[i], plans.size() == 1 ? threads : 1));
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
void cuda_advance(const std::vector<CompiledPlan*>& plans, const std::vector<py::dict>& arguments, int multiprocessors,
                  int cluster, size_t shared_bytes, const py::function& memory, uintptr_t stream) {
  std::vector<TrainCall> calls;
  std::vector<CudaMember> members;
  calls.reserve(plans.size());
  for (size_t i = 0; i < plans.size(); ++i) {
    calls.push_back(plans[i]->call(arguments[i], 1));
    members.push_back({&plans[i]->plan, &calls.back()});
  }
  const auto allocate = [&](size_t bytes) { return reinterpret_cast<void*>(memory(bytes).cast<uintptr_t>()); };
  cuda_train(plans[0]->dtype, members, {multiprocessors, cluster, shared_bytes}, allocate,
             reinterpret_cast<void*>(stream));
}

std::pair<size_t, size_t> cuda_needs(const CompiledPlan& compiled, int multiprocessors, int cluster,
                                     size_t shared_bytes) {
  const CudaLimits needs = cuda_train_needs(compiled.dtype, compiled.plan, {multiprocessors, cluster, shared_bytes});
  return {needs.shared_bytes, needs.scratch_bytes};
}

// ---------------------------------------------------------------- the schema: names of values, and of fields

template <class Enum>
void describe(py::dict& enums, Enum e) {
  enums[name_of(e)] = py::tuple(py::cast(split(names_of(e))));
}

// Notes each field of a struct with what it is: an enumeration, a struct, or plain.
struct Noted {
  py::dict fields;

  template <class T>
  void operator()(const std::string& name, T&) {
    fields[name.c_str()] = std::string(kind(static_cast<T*>(nullptr)));
  }

  template <class T>
  static std::string kind(T*) {
    if constexpr (std::is_enum_v<T>)
      return name_of(T());
    else if constexpr (std::is_pointer_v<T>)
      return "address";
    else if constexpr (std::is_same_v<T, bool>)
      return "flag";
    else
      return std::is_floating_point_v<T> ? "real" : "integer";
  }
  static std::string kind(PlayerPlan*) { return "PlayerPlan"; }
  static std::string kind(ParameterPlan*) { return "ParameterPlan"; }
  static std::string kind(HeadPlan*) { return "HeadPlan"; }
  static std::string kind(LossPlan*) { return "LossPlan"; }
  static std::string kind(TablePlan*) { return "TablePlan"; }
  static std::string kind(Schedule*) { return "Schedule"; }
  template <class T>
  static std::string kind(std::vector<T>*) {
    return "[" + kind(static_cast<T*>(nullptr)) + "]";
  }
};

template <class Plan>
py::dict noted(Plan plan) {
  Noted all;
  plan.fields(all);
  return all.fields;
}

void bind_schema(py::module_& m) {
  py::dict enums, fields;
  describe(enums, DType()), describe(enums, Formula()), describe(enums, Activation()), describe(enums, Prior());
  describe(enums, Precision()), describe(enums, Penalty()), describe(enums, Rule()),
      describe(enums, purpose::Purpose());
  describe(enums, Head());
  describe(enums, Distribution()), describe(enums, Predicate());
  m.attr("ENUMS") = enums;
  Noted layer;
  PlayerPlan().read_layer(layer);
  fields["LayerPlan"] = layer.fields, fields["PlayerPlan"] = noted(PlayerPlan()),
  fields["TrainPlan"] = noted(TrainPlan());
  fields["OptimizerPlan"] = noted(OptimizerPlan()), fields["ParameterPlan"] = noted(ParameterPlan());
  fields["IterationPlan"] = noted(IterationPlan()), fields["TablePlan"] = noted(TablePlan()),
  fields["HeadPlan"] = noted(HeadPlan()), fields["LossPlan"] = noted(LossPlan()),
  fields["Schedule"] = noted(Schedule()), fields["TrainCall"] = noted(TrainCall());
  m.attr("FIELDS") = fields;
}

}  // namespace

void bind_training(py::module_& m) {
  bind_schema(m);
  py::class_<CompiledPlan>(m, "CompiledPlan")
      .def(py::init<const py::dict&>())
      .def("write_back", &CompiledPlan::write_back)
      .def("products", &CompiledPlan::products);
  m.def("record", [](const py::dict& d) {
    IterationPlan plan{};
    FromDict given(d);
    plan.fields(given);
    given.end();
    return record(plan);
  });
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
    info["avx512_bf16"] = found.dot_is_fast             ? "yes"
                          : found.dot                   ? "yes, slower than fp32"
                          : !kernels().has_bf16_kernels ? "this instruction set's build has none"
                                                        : "the processor has none";
    return info;
  });
  m.def("force_products", force_products);  // for tests: cpu/products.h
  m.def("announce_amx", announce_amx);      // for tests: cpu/products.h
  m.def("tile_dot", [](bool software, uintptr_t c, uintptr_t a, uintptr_t b) {
    kernels().tile_dot(software, reinterpret_cast<float*>(c), reinterpret_cast<uint16_t*>(a),
                       reinterpret_cast<uint16_t*>(b));
  });
  m.def("tile_round", [](bool software, uintptr_t in, uintptr_t out) {
    kernels().tile_round(software, reinterpret_cast<float*>(in), reinterpret_cast<uint16_t*>(out));
  });
}
