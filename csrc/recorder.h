// Lists the verbs of an iteration (iteration.h), for the engine that replays them and for code that counts operations.
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

// The executor that lists each verb with its arguments.
class Recorder {
 public:
  explicit Recorder(const IterationPlan& plan) : plan_(plan) {}

  const IterationPlan& plan() const { return plan_; }

  void begin(int64_t it) { add("begin", {step(it)}); }
  void prepare_d(int64_t draw) { add("prepare_d", {step(draw)}); }
  void prepare_g(int64_t number) { add("prepare_g", {step(number)}); }
  void save() { add("save", {}); }
  void sample_data(int64_t draw) { add("sample_data", {step(draw)}); }
  void sample_noise(uint32_t purpose, int64_t number) {
    add("sample_noise", {split(names_of(purpose::Purpose()))[purpose], step(number)});
  }
  void forward_g() { add("forward_g", {}); }
  void show(BatchOfD batch) { add("show", {split(names_of(batch))[size_t(batch)]}); }
  void forward_d() { add("forward_d", {}); }
  void loss_of_d(double weight) { add("loss_of_d", {weight}); }
  void loss_of_g() { add("loss_of_g", {}); }
  void backward_d() { add("backward_d", {}); }
  void backward_through_d() { add("backward_through_d", {}); }
  void backward_g() { add("backward_g", {}); }
  void penalty(int64_t draw) { add("penalty", {step(draw)}); }
  void record_d(int64_t it, double weight) { add("record_d", {step(it), weight}); }
  void record_g(int64_t it) { add("record_g", {step(it)}); }
  void update_d() { add("update_d", {}); }
  void update_g() { add("update_g", {}); }
  void commit_or_roll_back(Updated updated) {
    std::vector<std::string> players;
    if (updated.g) players.push_back("generator");
    if (updated.d) players.push_back("discriminator");
    add("commit_or_roll_back", {players});
  }
  void update_ema() { add("update_ema", {}); }

  std::vector<Verb> verbs;

 private:
  static StepNumber step(int64_t number) { return {0, number}; }
  void add(const char* name, std::vector<Argument> arguments) { verbs.emplace_back(name, std::move(arguments)); }

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
