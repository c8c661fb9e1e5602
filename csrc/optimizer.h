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

// The exponential moving average of a value. As a rule, it has no state, and the value is passed as the gradient.
template <class T>
struct Ema {
  T keep;
  FASTGAN_HD explicit Ema(double decay) : keep(T(1.0 - decay)) {}
  FASTGAN_HD void operator()(T& mean, T value) const { mean += keep * (value - mean); }
  FASTGAN_HD void operator()(T& mean, T&, T&, T value) const { (*this)(mean, value); }
};

// Kingma and Ba (2015), Algorithm 1, with both bias corrections folded into constants of the step.
template <class T>
struct Adam {
  T rate, keep1, beta2, keep2, epsilon, root;  // keep: 1 - beta; root: 1 / sqrt(1 - beta2^t)

  FASTGAN_HD Adam(const OptimizerPlan& plan, double learning_rate, double, int64_t step)  // step: counted from 1
      : rate(T(learning_rate / (1.0 - integer_power(plan.beta1, step)))),
        keep1(T(1.0 - plan.beta1)),
        beta2(T(plan.beta2)),
        keep2(T(1.0 - plan.beta2)),
        epsilon(T(plan.epsilon)),
        root(T(1.0 / std::sqrt(1.0 - integer_power(plan.beta2, step)))) {}

  FASTGAN_HD void operator()(T& p, T& mean, T& square, T g) const {
    mean += keep1 * (g - mean);
    square = fused(beta2, square, keep2 * g * g);  // infinite, and not infinity - infinity, where g * g overflows
    p -= rate * mean / (std::sqrt(square) * root + epsilon);
  }
};

// v <- m v + g; p <- p - rate v, or p - rate (g + m v) by Nesterov's momentum: as torch.optim.SGD.
template <class T>
struct MomentumTorch {
  T rate, momentum;
  bool nesterov;

  FASTGAN_HD MomentumTorch(const OptimizerPlan& plan, double learning_rate, double of_velocity, int64_t)
      : rate(T(learning_rate)), momentum(T(of_velocity)), nesterov(plan.nesterov) {}

  FASTGAN_HD void operator()(T& p, T& velocity, T&, T g) const {
    velocity = fused(momentum, velocity, g);
    p = fused(-rate, nesterov ? fused(momentum, velocity, g) : velocity, p);
  }
};

// v <- m v - rate g; p <- p + v, as pylearn2: the rate is inside the velocity.
template <class T>
struct MomentumPylearn2 {
  T rate, momentum;

  FASTGAN_HD MomentumPylearn2(const OptimizerPlan&, double learning_rate, double of_velocity, int64_t)
      : rate(T(learning_rate)), momentum(T(of_velocity)) {}

  FASTGAN_HD void operator()(T& p, T& velocity, T&, T g) const {
    velocity = fused(momentum, velocity, -(rate * g));
    p += velocity;
  }
};

// Tieleman and Hinton (2012): s <- a s + (1 - a) g^2; v <- m v + g / (sqrt(s) + eps); p <- p - rate v, as
// torch.optim.RMSprop.
template <class T>
struct RMSprop {
  T rate, momentum, alpha, keep, epsilon;

  FASTGAN_HD RMSprop(const OptimizerPlan& plan, double learning_rate, double of_velocity, int64_t)
      : rate(T(learning_rate)),
        momentum(T(of_velocity)),
        alpha(T(plan.beta2)),
        keep(T(1.0 - plan.beta2)),
        epsilon(T(plan.epsilon)) {}

  FASTGAN_HD void operator()(T& p, T& square, T& velocity, T g) const {
    square = fused(alpha, square, keep * g * g);
    velocity = fused(momentum, velocity, g / (std::sqrt(square) + epsilon));
    p = fused(-rate, velocity, p);
  }
};

// A rule with weight decay. Decoupled (Loshchilov and Hutter 2019), it shrinks the weight before the rule, else it is a
// part of the gradient.
template <class T, class RuleOf>
struct Decayed {
  RuleOf rule;
  T shrunk, part;
  bool active;

  FASTGAN_HD Decayed(const OptimizerPlan& plan, double rate, double momentum, int64_t step)
      : rule(plan, rate, momentum, step),
        shrunk(plan.decoupled ? T(1.0 - rate * plan.weight_decay) : T(1)),
        part(plan.decoupled ? T(0) : T(plan.weight_decay)),
        active(plan.weight_decay != 0) {}

  FASTGAN_HD void operator()(T& p, T& s0, T& s1, T g) const {
    p *= shrunk;
    rule(p, s0, s1, fused(part, p, g));
  }
};

// Calls f(rule) with the plan's rule for update `step` (counted from 1).
template <class T, class Function>
void with_rule(const OptimizerPlan& plan, double rate, double momentum, int64_t step, Function&& f) {
  switch (plan.rule) {
    case Rule::adam: return f(Decayed<T, Adam<T>>(plan, rate, momentum, step));
    case Rule::momentum_torch: return f(Decayed<T, MomentumTorch<T>>(plan, rate, momentum, step));
    case Rule::momentum_pylearn2: return f(Decayed<T, MomentumPylearn2<T>>(plan, rate, momentum, step));
    case Rule::rmsprop: return f(Decayed<T, RMSprop<T>>(plan, rate, momentum, step));
  }
}

// The same for a device, whose threads choose where they apply it: one kernel for all rules.
template <class T>
struct AnyRule {
  Rule rule;
  Adam<T> adam;
  MomentumTorch<T> momentum_torch;
  MomentumPylearn2<T> momentum_pylearn2;
  RMSprop<T> rmsprop;

  FASTGAN_HD AnyRule(const OptimizerPlan& plan, double rate, double momentum, int64_t step)
      : rule(plan.rule),
        adam(plan, rate, momentum, step),
        momentum_torch(plan, rate, momentum, step),
        momentum_pylearn2(plan, rate, momentum, step),
        rmsprop(plan, rate, momentum, step) {}

  FASTGAN_HD void operator()(T& p, T& s0, T& s1, T g) const {
    switch (rule) {
      case Rule::adam: return adam(p, s0, s1, g);
      case Rule::momentum_torch: return momentum_torch(p, s0, s1, g);
      case Rule::momentum_pylearn2: return momentum_pylearn2(p, s0, s1, g);
      case Rule::rmsprop: return rmsprop(p, s0, s1, g);
    }
  }
};
template <class T>
using DeviceRule = Decayed<T, AnyRule<T>>;

}  // namespace FASTGAN_ISA
}  // namespace fastgan
