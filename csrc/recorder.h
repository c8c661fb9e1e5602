// Lists the verbs of an iteration (iteration.h): for the engine that replays them, and for all code that counts what an
// iteration does.
#pragma once
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "iteration.h"
#include "plan.h"

namespace fastgan {

using StepNumber = std::pair<int64_t, int64_t>;  // times, plus: times * iteration + plus
using Argument = std::variant<StepNumber, double, std::string, std::vector<std::string>>;
using Verb = std::pair<std::string, std::vector<Argument>>;

// The executor that notes each verb with its arguments: numbers of steps as they are in this iteration.
class Recorder {
 public:
  explicit Recorder(const IterationPlan& plan) : plan_(plan) {}

  const IterationPlan& plan() const { return plan_; }

  void begin(int64_t it) { note("begin", {step(it)}); }
  void prepare_d(int64_t draw) { note("prepare_d", {step(draw)}); }
  void prepare_g(int64_t number) { note("prepare_g", {step(number)}); }
  void save() { note("save", {}); }
  void sample_data(int64_t draw) { note("sample_data", {step(draw)}); }
  void sample_noise(uint32_t purpose, int64_t number) {
    note("sample_noise", {split(names_of(purpose::Purpose()))[purpose], step(number)});
  }
  void forward_g() { note("forward_g", {}); }
  void show(BatchOfD batch) { note("show", {split(names_of(batch))[size_t(batch)]}); }
  void forward_d() { note("forward_d", {}); }
  void loss_of_d(double weight) { note("loss_of_d", {weight}); }
  void loss_of_g() { note("loss_of_g", {}); }
  void backward_d() { note("backward_d", {}); }
  void backward_through_d() { note("backward_through_d", {}); }
  void backward_g() { note("backward_g", {}); }
  void penalty(int64_t draw) { note("penalty", {step(draw)}); }
  void record_d(int64_t it, double weight) { note("record_d", {step(it), weight}); }
  void record_g(int64_t it) { note("record_g", {step(it)}); }
  void update_d() { note("update_d", {}); }
  void update_g() { note("update_g", {}); }
  void commit_or_roll_back(Updated updated) {
    std::vector<std::string> players;
    if (updated.g) players.push_back("generator");
    if (updated.d) players.push_back("discriminator");
    note("commit_or_roll_back", {players});
  }
  void update_ema() { note("update_ema", {}); }

  std::vector<Verb> verbs;

 private:
  static StepNumber step(int64_t number) { return {0, number}; }
  void note(const char* name, std::vector<Argument> arguments) { verbs.emplace_back(name, std::move(arguments)); }

  const IterationPlan& plan_;
};

// The verbs of any iteration: a step's number grows by the same amount from each iteration to the next.
inline std::vector<Verb> record(const IterationPlan& plan) {
  Recorder first(plan), second(plan);
  iterate(first, 0), iterate(second, 1);
  for (size_t i = 0; i < first.verbs.size(); ++i)
    for (size_t j = 0; j < first.verbs[i].second.size(); ++j)
      if (auto* number = std::get_if<StepNumber>(&first.verbs[i].second[j]))
        number->first = std::get<StepNumber>(second.verbs[i].second[j]).second - number->second;
  return first.verbs;
}

}  // namespace fastgan
