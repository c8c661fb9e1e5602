// Algorithm 1 of Goodfellow et al. (2014), once for all compiled engines. The CPU engine and the persistent CUDA kernel
// have an executor each, whose member functions are the verbs below; the CUDA-graph engine replays the verbs that
// recorder.h lists.
//
// All threads of an executor run these functions, each on its part of the batch or of the parameters. A verb ends with
// the barrier that the readers of its results need, so there is none here. An executor takes dropout seeds in the order
// of the calls. On a device, only the steps are function calls: with more, the kernel spills registers.
#pragma once
#include "philox.h"
#include "schema.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The sub-batches of D's batch, in order. Fakes come first where only G's loss is needed.
FASTGAN_ENUM(enum class, BatchOfD, real_fake, fake, fake_real)

// What a step changes.
struct Updated {
  bool g, d;
};

// The gradients of G's loss through a fixed D: those of D's parameters are not computed.
FASTGAN_CALLS_BACK
template <class Executor>
FASTGAN_HD void gradients_of_g(Executor& run, int64_t it) {
  run.loss_of_g();
  run.backward_through_d();
  run.backward_g();
  run.record_g(it);
}

// The gradients of D's loss, and of its penalty; none flows into G. `weight`: of the loss, but not of the penalty.
FASTGAN_CALLS_BACK
template <class Executor>
FASTGAN_HD void gradients_of_d(Executor& run, int64_t draw, double weight) {
  run.loss_of_d(weight);
  run.backward_d();
  run.penalty(draw);
}

// D ascends on m real and m fake rows side by side. draw: the number of the minibatch.
template <class Executor>
FASTGAN_CALLED void discriminator_step(Executor& run, int64_t it, int64_t draw) {
  run.prepare_d(draw);
  run.save();
  run.sample_data(draw);
  run.sample_noise(purpose::noise_d, draw);
  run.forward_g();
  run.show(BatchOfD::real_fake);
  run.forward_d();
  gradients_of_d(run, draw, 1.0);
  const bool last = draw + 1 == (it + 1) * run.plan().k;  // an iteration keeps the metrics of its last minibatch
  if (last || run.plan().skip_nonfinite) run.record_d(it, 1.0);
  run.update_d();
  run.commit_or_roll_back(Updated{false, true});
}

// G descends through a fixed D. number: of the step. The rows of D's last minibatch are still chosen: a conditional GAN
// takes their labels, and a relativistic loss also looks at D of them.
template <class Executor>
FASTGAN_CALLED void generator_step(Executor& run, int64_t it, int64_t number) {
  const bool relativistic = run.plan().relativistic;
  run.prepare_g(number);
  run.save();
  run.sample_noise(purpose::noise_g, number);
  run.forward_g();
  run.show(relativistic ? BatchOfD::fake_real : BatchOfD::fake);
  run.forward_d();
  gradients_of_g(run, it);
  run.update_g();
  run.commit_or_roll_back(Updated{true, false});
  if (run.plan().ema_decay > 0) run.update_ema();
}

// The original code's rule: both losses use one real and one fake batch, and both gradients precede both updates.
template <class Executor>
FASTGAN_CALLED void simultaneous_step(Executor& run, int64_t it) {
  run.prepare_g(it);
  run.prepare_d(it);
  run.save();
  run.sample_data(it);
  run.sample_noise(purpose::noise_d, it);
  run.forward_g();
  run.show(BatchOfD::real_fake);
  run.forward_d();
  gradients_of_g(run, it);
  gradients_of_d(run, it, 0.5);
  run.record_d(it, 0.5);
  run.update_g();
  run.update_d();
  run.commit_or_roll_back(Updated{true, true});
  if (run.plan().ema_decay > 0) run.update_ema();
}

FASTGAN_CALLS_BACK
template <class Executor>
FASTGAN_HD void iterate(Executor& run, int64_t it) {
  const int64_t k = run.plan().k, generator_steps = run.plan().generator_steps;
  run.begin(it);
  if (run.plan().simultaneous) return simultaneous_step(run, it);
  for (int64_t draw = it * k; draw < (it + 1) * k; ++draw) discriminator_step(run, it, draw);
  for (int64_t i = 0; i < generator_steps; ++i) generator_step(run, it, it * generator_steps + i);
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
