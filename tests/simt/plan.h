// Reads a training plan and a call from arguments, in the order in which tests/simt_train.py writes them: that of the
// fields of csrc/plan.h and csrc/train.h, a player's layers first.
#pragma once
#include "calls.h"
#include "train.h"

namespace simt {

struct Training {
  fastgan::TrainPlan plan;
  fastgan::TrainCall call;
};

struct PlanReader : fastgan::InOrder<Arguments> {
  using fastgan::InOrder<Arguments>::operator();
  void operator()(const std::string&, fastgan::PlayerPlan& player) {
    for (int64_t count = arguments.integer(); count > 0; --count) player.read_layer(*this);
    player.fields(*this);
  }
};

inline void read(Arguments& a, fastgan::TrainPlan& plan) { plan.fields(PlanReader{{a}}); }

inline void read(Arguments& a, Training& t) {
  read(a, t.plan);
  t.call.fields(PlanReader{{a}});
}

}  // namespace simt
