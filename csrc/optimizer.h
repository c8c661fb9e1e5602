// The update rules, each once: what one step does to a parameter p, its state and its gradient g.
#pragma once
#include <cmath>
#include <limits>

#include "formulas.h"
#include "plan.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

template <class T>
FASTGAN_HD T held(T x, T bound) {  // within -bound .. bound, or NaN
  return x > bound ? bound : x < -bound ? -bound : x;
}

FASTGAN_HD double integer_power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1, base *= base)
    if (n & 1) result *= base;
  return result;
}

FASTGAN_HD double rate_at(const ScheduleParameters& c, int64_t update) {  // from 0
  const double decayed = c.rate / integer_power(c.decay, update);
  return c.decay == 1.0 ? c.rate : decayed > c.least ? decayed : c.least;
}

FASTGAN_HD double momentum_at(const ScheduleParameters& c, int64_t epoch) {  // from 1
  if (c.saturated == 0.0) return c.momentum;
  const double way = double(epoch - 1) / (c.saturated - 1.0), progress = way < 1.0 ? way : 1.0;
  return c.saturated > 1.0 ? c.momentum * (1.0 - progress) + c.last * progress : c.last;
}

// What clipping makes of a gradient before its rule: each number is held within the bound, then scaled.
template <class T>
struct Clipping {
  T bound, scale;
  bool active;

  // With a scale of 1. bounds in the plan: 0 for none.
  FASTGAN_HD explicit Clipping(const OptimizerPlan& plan)
      : bound(plan.max_grad_value > 0 ? T(plan.max_grad_value) : std::numeric_limits<T>::infinity()),
        scale(1),
        active(clips(plan)) {}
  FASTGAN_HD T operator()(T g) const { return scale * held(g, bound); }
};

// The scale that brings gradients, whose squares add up to `square`, within a norm; as torch's clip_grad_norm_.
FASTGAN_HD double clipping(double square, double limit) {
  const double scale = limit / (std::sqrt(square) + 1e-6);
  return scale > 1.0 ? 1.0 : scale;
}

// Kingma and Ba (2015), Algorithm 1, with both bias corrections folded into constants of the step.
template <class T>
struct Adam {
  T rate, keep1, beta2, keep2, epsilon, root;  // keep: 1 - beta; root: 1 / sqrt(1 - beta2^t)

  FASTGAN_HD Adam(const OptimizerPlan& plan, double learning_rate, int64_t step)  // step: counted from 1
      : rate(T(learning_rate / (1.0 - integer_power(plan.beta1, step)))),
        keep1(T(1.0 - plan.beta1)),
        beta2(T(plan.beta2)),
        keep2(T(1.0 - plan.beta2)),
        epsilon(T(plan.epsilon)),
        root(T(1.0 / std::sqrt(1.0 - integer_power(plan.beta2, step)))) {}

  FASTGAN_HD void operator()(T& p, T& mean, T& square, T g) const {
    mean += keep1 * (g - mean);
    square = beta2 * square + keep2 * g * g;  // infinite, and not infinity - infinity, where g * g overflows
    p -= rate * mean / (std::sqrt(square) * root + epsilon);
  }
};

// v <- m v + g; p <- p - rate v, as torch.optim.SGD.
template <class T>
struct MomentumTorch {
  T rate, momentum;
  FASTGAN_HD void operator()(T& p, T& velocity, T&, T g) const {
    velocity = momentum * velocity + g;
    p -= rate * velocity;
  }
};

// v <- m v - rate g; p <- p + v, as pylearn2: the rate is inside the velocity.
template <class T>
struct MomentumPylearn2 {
  T rate, momentum;
  FASTGAN_HD void operator()(T& p, T& velocity, T&, T g) const {
    velocity = momentum * velocity - rounded_product(rate, g);
    p += velocity;
  }
};

// Calls f(rule) with the plan's rule for update `step` (counted from 1).
template <class T, class Function>
void with_rule(const OptimizerPlan& plan, double rate, double momentum, int64_t step, Function&& f) {
  switch (plan.rule) {
    case Rule::adam: return f(Adam<T>(plan, rate, step));
    case Rule::momentum_torch: return f(MomentumTorch<T>{T(rate), T(momentum)});
    case Rule::momentum_pylearn2: return f(MomentumPylearn2<T>{T(rate), T(momentum)});
  }
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
