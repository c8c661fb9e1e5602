"""One iteration of Algorithm 1 as a fixed sequence of launches; all per-iteration state is on the device.

A device step counter drives random streams, batch indices, schedules and Adam's bias correction, and the last launch of
an iteration increments it. So an iteration can be captured, and each replay is the next iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan import schema
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training.engines.cuda_graph_layers import Batch, KernelLauncher, NetworkBuffers, PenaltyPass
from fastgan.training.engines.plan import Description, network_plan
from fastgan.training.engines.state import METRICS
from fastgan.training.optimizers import Momentum, Optimizer

CAPACITY = 4096  # iterations whose metrics the device keeps
MOST = 100  # iterations whose dropout seeds are drawn together
_PLAYERS = ("generator", "discriminator")


class Iteration:
    """The buffers of a plan, and the launches of its steps.

    Args:
        gan: the networks, whose parameters are worked on in place.
        dtype: their number of it.
        described: their plan, of `plan.describe`.
        optimizers: with allocated states; and what they were built from.
        data: (n, features), on the launcher's device.
        labels: int32 (n,), likewise; None where the model is not conditional.
        machine: launches the kernels.
    """

    def __init__(
        self,
        gan: GAN,
        dtype: int,
        described: Description,
        optimizers: dict[str, torch.optim.Optimizer],
        descriptions: dict[str, Optimizer],
        data: Tensor,
        labels: Tensor | None,
        launcher: KernelLauncher,
    ) -> None:
        self.gan, self.described, self.launcher, self.data, self.labels = gan, described, launcher, data, labels
        self.dtype, self.rows, self.pack = dtype, described["batch"], described["pack"]
        self.k, self.generator_steps = described["k"], described["generator_steps"]
        self.penalty, self.relativistic = schema.number("Penalty", described["penalty"]), described["relativistic"]
        self.skips = described["skip_nonfinite"]
        self._place_networks(optimizers)
        self._place_state(descriptions)
        self.steps = {name: self._parameters(name, optimizers[name]) for name in _PLAYERS}
        self.snapshot = self._copies() if self.skips else {}
        self.dropout_seeds_per_iteration = self._count_dropout_seeds()
        shape = MOST, max(1, self.dropout_seeds_per_iteration)
        self.dropout_seeds = torch.zeros(shape, dtype=torch.int64, device=launcher.device)

    # ------------------------------------------------------------ memory

    def _place_networks(self, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """D's batch is fakes, real rows and, under a penalty, two more sub-batches: the tangents, and the rows where
        the penalty is evaluated.

        G's output and its gradient are views of D's input and of its gradient: with packing, several rows of G are one
        row of D. In a conditional model labels come behind the samples, so that these have buffers of their own.
        """
        m, gan, launcher = self.rows, self.gan, self.launcher

        def trained(name: str) -> Callable[[Tensor | None], bool]:
            return lambda parameter: parameter in optimizers[name].state

        bf16 = self.described["generator"]["precision"] == "bf16"
        factors = torch.bfloat16 if bf16 else gan.dtype
        of_d, rows = network_plan("gan.discriminator", gan.discriminator), (4 if self.penalty else 2) * m
        self.d = NetworkBuffers(of_d, trained("discriminator"), rows, launcher, factors, sub_batches=2)
        shape = m * self.pack, self.described["features"]
        of_g = network_plan("gan.generator", gan.generator), trained("generator"), m * self.pack, launcher, factors, 1
        if self.labels is None:
            result, grad = self.d.input[:m].view(shape), self.d.grad_input[:m].view(shape)
            self.g = NetworkBuffers(*of_g, result, grad)
            self.noise, self.real_rows = self.g.input, self.d.input[m : 2 * m].view(shape)
        else:
            self.g = NetworkBuffers(*of_g)
            self.noise, self.real_rows = (self.d.input.new_zeros(s) for s in ((m * self.pack, gan.latent_dim), shape))
            self.condition = self.noise.new_zeros(m * self.pack, gan.classes)
            self.no_grad = self.noise.new_zeros(m, gan.classes * self.pack)
        if self.penalty:
            self.penalty_pass = PenaltyPass(self.d, 3 * m, 2 * m, m)
            self.ones = self.d.grad_output.new_ones(m, self.d.units)

    def _place_state(self, descriptions: dict[str, Optimizer]) -> None:
        device = self.launcher.device
        # One block, fetched at once: the step counter (csrc/step_counter.h), then the metrics.
        self.block = torch.zeros(4 + CAPACITY * METRICS, dtype=torch.float64, device=device)
        self.counter = self.block[:4].view(torch.int64)
        self.metrics = self.block[4:].view(CAPACITY, METRICS)
        size = self.launcher.size("loss_metrics_sums", self.logits)
        self.sums_of_d = torch.zeros(2 * size, dtype=torch.float64, device=device)
        self.sums_of_g = torch.zeros(size, dtype=torch.float64, device=device)
        self.schedules = {
            name: torch.tensor(schedule_parameters(descriptions[name]), dtype=torch.float64, device=device)
            for name in _PLAYERS
        }
        norms = [layer.norm for net in (self.g, self.d) for layer in net.layers if layer.running()]
        self.running = [t for n in norms for t in (n.running_mean, n.running_var, n.num_batches_tracked)]

    @property
    def logits(self) -> int:
        """In a batch of D."""
        return self.rows * self.d.units

    def _parameters(self, name: str, optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, ...]]:
        """Of each trained parameter: itself, its state, its gradient."""
        network = self.g if name == "generator" else self.d
        found = []
        for parameter, grad in network.grads.items():
            kept = optimizer.state[parameter]
            states = [kept[name] for name in ("exp_avg", "exp_avg_sq", "momentum_buffer") if name in kept]
            found.append((parameter.detach(), *states, grad))
        return found

    def _copies(self) -> dict[tuple[str, ...], list[tuple[Tensor, Tensor]]]:
        """What a step of these players may change, and where it is saved."""

        def pairs(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
            return [(t, torch.zeros_like(t)) for t in tensors]

        of = {name: pairs([t for *live, _ in self.steps[name] for t in live]) for name in _PLAYERS}
        running = pairs(self.running)
        g, d = _PLAYERS
        return {(g,): of[g] + running, (d,): of[d] + running, (g, d): of[g] + of[d] + running}

    def _count_dropout_seeds(self) -> int:
        """The number of dropout seeds: each forward pass of a module draws its own."""
        g, d = self.g.dropout_seeds, self.d.dropout_seeds
        of_d = g + (3 if self.penalty else 2) * d
        of_g = g + (2 if self.relativistic else 1) * d
        return of_d if self.described["simultaneous"] else int(self.k * of_d + self.generator_steps * of_g)

    # ------------------------------------------------------------ iterations

    def run(self, count: int) -> None:
        """The next iterations, at most MOST."""
        self._round_weights(self.g, self.d)  # they may have changed since
        if self.dropout_seeds_per_iteration:
            numbers = count, self.described["seed"], self.dropout_seeds, self.dropout_seeds_per_iteration
            self.launcher.launch("draw_dropout_seeds", *self._count(1, 0), *numbers)
        for slot in range(count):
            dropout_seeds = self.dropout_seeds[slot]
            if self.described["simultaneous"]:
                self._simultaneous(dropout_seeds)
            else:
                self._alternating(dropout_seeds)
            weight = 0.5 if self.described["simultaneous"] else 1.0
            penalties = (self.penalty_pass.values, self.rows) if self.penalty else (None, 0)
            head = self.dtype, self.counter, self.metrics, CAPACITY, self.sums_of_d, self.sums_of_g
            self.launcher.launch("record", *head, self.logits, weight, *penalties)

    def _alternating(self, dropout_seeds: Tensor) -> None:
        for i in range(self.k):
            dropout_seeds = self._discriminator_step((self.k, i), dropout_seeds)
        for i in range(self.generator_steps):
            dropout_seeds = self._generator_step((self.generator_steps, i), dropout_seeds)

    def _discriminator_step(self, number: tuple[int, int], dropout_seeds: Tensor) -> Tensor:
        """D ascends on m real and m fake rows; the fakes come without a backward pass into G."""
        self._save("discriminator")
        self._draw_labels(number)
        self._generate(Purpose.NOISE_D, number, dropout_seeds)
        dropout_seeds = dropout_seeds[self.g.dropout_seeds :]
        self._show(number, dropout_seeds)
        self._loss_of_d(1.0)
        rest = self._gradients_of_d(number, dropout_seeds)
        self._update(number, number, "discriminator")
        return rest

    def _generator_step(self, number: tuple[int, int], dropout_seeds: Tensor) -> Tensor:
        """G descends through a fixed D: gradients of D's weights are not computed.

        A relativistic loss looks at D(x) too, after D's update: the real rows of the last draw are still there.
        """
        self._save("generator")
        of_g = self._generate(Purpose.NOISE_G, number, dropout_seeds)
        dropout_seeds = dropout_seeds[self.g.dropout_seeds :]
        sub_batches = 2 if self.relativistic else 1
        self.d.forward(Batch(0, self.rows, sub_batches, dropout_seeds, self.d.dropout_seeds, (0, 1)[:sub_batches]))
        self._loss_of_g()
        self._gradients_of_g(of_g, Batch(0, self.rows, 1, dropout_seeds))
        self._update(number, (self.k, self.k - 1), "generator")
        self._update_ema()
        return dropout_seeds[sub_batches * self.d.dropout_seeds :]

    def _simultaneous(self, dropout_seeds: Tensor) -> None:
        """The original code's rule: one real, one fake batch for both losses, both gradients before either update."""
        number = 1, 0
        self._save(*_PLAYERS)
        self._draw_labels(number)
        of_g = self._generate(Purpose.NOISE_D, number, dropout_seeds)
        dropout_seeds = dropout_seeds[self.g.dropout_seeds :]
        self._show(number, dropout_seeds)
        self._loss_of_g()
        self._gradients_of_g(of_g, Batch(0, self.rows, 1, dropout_seeds[self.d.dropout_seeds :]))
        self._loss_of_d(0.5)
        self._gradients_of_d(number, dropout_seeds)
        self._update(number, number, *_PLAYERS)
        self._update_ema()

    # ------------------------------------------------------------ D's inputs

    def _count(self, times: int, plus: int) -> tuple[object, ...]:
        """times * iteration + plus, as the device counts."""
        return self.counter, times, plus

    def _samples(self, rows: slice, grad: bool = False) -> Tensor:
        """A part of D's input, or of its gradient, without the labels behind it."""
        return (self.d.grad_input if grad else self.d.input)[rows, : self.described["features"] * self.pack]

    def _labels(self, rows: slice, grad: bool = False) -> Tensor:
        """The labels of a part of D's input, or the gradient there."""
        return (self.d.grad_input if grad else self.d.input)[rows, self.described["features"] * self.pack :]

    def _draw_labels(self, number: tuple[int, int]) -> None:
        """Of a draw's rows, for G and for both halves of D's batch, until the next draw."""
        if self.labels is None:
            return
        wanted = len(self.condition), self.described["seed"], *self._count(*number)
        shape = len(self.labels), self.condition.shape[1]
        self.launcher.launch("gather_labels", self.dtype, self.labels, *shape, self.condition, *wanted)
        self.launcher.copy(self.g.input[:, self.noise.shape[1] :], self.condition)
        for half in self._halves_of_d:
            self.launcher.copy(self._labels(half), self.condition.view(self.rows, -1))

    def _generate(self, purpose: Purpose, number: tuple[int, int], dropout_seeds: Tensor) -> Batch:
        """G(z), written to D's fake inputs."""
        z, plan = self.noise, self.described
        stream = plan["seed"], int(purpose), *self._count(*number), 0, 0
        draw = schema.number("Distribution", "centred" if plan["prior"] == "uniform" else "normal")
        self.launcher.launch("random_fill", self.dtype, z, z.numel(), draw, *stream)
        if plan["prior"] == "spherical":
            self.launcher.launch("to_sphere", self.dtype, z, *z.shape)
        if self.labels is not None:
            self.launcher.copy(self.g.input[:, : z.shape[1]], z)
        batch = Batch(0, len(z), 1, dropout_seeds)
        self.g.forward(batch)
        if self.labels is not None:
            self.launcher.copy(self._samples(self._halves_of_d[1]), self.g.output.view(self.rows, -1))
        return batch

    def _show(self, number: tuple[int, int], dropout_seeds: Tensor) -> None:
        """Real rows of a draw beside the fakes, and D's logits of both."""
        plan, shape = self.described, (len(self.data), self.described["features"])
        wanted = self.rows * self.pack, plan["seed"], *self._count(*number)
        self.launcher.launch("gather", self.dtype, self.data, *shape, self.real_rows, *wanted)
        if self.labels is not None:
            self.launcher.copy(self._samples(self._halves_of_d[0]), self.real_rows.view(self.rows, -1))
        self.d.forward(self._both(dropout_seeds))

    def _both(self, dropout_seeds: Tensor) -> Batch:
        """Fakes and real rows; the module's first call is the one with real rows."""
        return Batch(0, self.rows, 2, dropout_seeds[self.d.dropout_seeds :], -self.d.dropout_seeds, (1, 0))

    # ------------------------------------------------------------ losses

    @property
    def _halves_of_d(self) -> tuple[slice, slice]:
        """The real rows and the fakes of D's batch."""
        return slice(self.rows, 2 * self.rows), slice(0, self.rows)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        real, fake = self._halves_of_d
        return x[real], x[fake]

    def _loss_of_d(self, weight: float) -> None:
        plan = self.described
        (real, fake), (grad, grad_of_fake) = self._halves(self.d.output), self._halves(self.d.grad_output)
        if self.relativistic:
            sub_batches = (real, fake, grad, grad_of_fake, *plan["real"], True, fake, None, None, None, -1, 0.0, False)
        else:
            sub_batches = (
                *(real, None, grad, None, *plan["real"], True),
                *(fake, None, grad_of_fake, None, *plan["fake"], False),
            )
        head = self.dtype, self.logits, weight / self.logits, self.sums_of_d, 2
        self.launcher.launch("loss_metrics", *head, *sub_batches)

    def _loss_of_g(self) -> None:
        real, fake = self._halves(self.d.output)
        other = real if self.relativistic else None
        sub_batch = fake, other, self._halves(self.d.grad_output)[1], None, *self.described["generated"], False
        self.launcher.launch("loss_metrics", self.dtype, self.logits, 1.0 / self.logits, self.sums_of_g, 1, *sub_batch)

    # ------------------------------------------------------------ gradients

    def _gradients_of_d(self, number: tuple[int, int], dropout_seeds: Tensor) -> Tensor:
        """From the derivatives of the logits. Returns the dropout seeds that follow."""
        rows, after = 2 * self.rows, dropout_seeds[2 * self.d.dropout_seeds :]
        self.d.backward(self._both(dropout_seeds), to_input=False, of_vectors=True)
        if self.penalty:
            self._penalize(number, after)
            rows, after = (4 if self.d.has_second_derivative else 3) * self.rows, after[self.d.dropout_seeds :]
        self.d.weight_gradients(rows)
        return after

    def _penalize(self, number: tuple[int, int], dropout_seeds: Tensor) -> None:
        d, plan = self.d, self.described
        real, fake = self._halves(d.input)
        batch = Batch(3 * self.rows, self.rows, 1, dropout_seeds)
        shape = self.rows, d.inputs
        draw = plan["seed"], *self._count(*number)
        self.launcher.launch("interpolate", self.dtype, real, fake, d.input[batch.span], *shape, self.penalty, *draw)
        if self.labels is not None:  # interpolates of labels would be rounded
            self.launcher.copy(self._labels(batch.span), self.condition.view(self.rows, -1))
        d.forward(batch)
        self.launcher.copy(d.grad_output[batch.span], self.ones)
        d.backward(batch, to_input=True, of_vectors=False)
        if self.labels is not None:  # the penalty is one of the samples' gradient
            self.launcher.copy(self._labels(batch.span, grad=True), self.no_grad)
        self.penalty_pass.run(batch, self.penalty, plan["penalty_weight"] / self.rows)

    def _gradients_of_g(self, of_g: Batch, fakes: Batch) -> None:
        self.d.backward(fakes, to_input=True, of_vectors=False)
        if self.labels is not None:
            grad = self._samples(self._halves_of_d[1], grad=True)
            self.launcher.copy(self.g.grad_output.view(self.rows, -1), grad)
        self.g.backward(of_g, to_input=False, of_vectors=True)
        self.g.weight_gradients(of_g.rows)

    # ------------------------------------------------------------ updates

    def _update(self, number: tuple[int, int], draw: tuple[int, int], *players: str) -> None:
        """Apply the gradients of a player, or of both; roll back what is not finite, where that is to be skipped."""
        for player in players:
            self._step(player, number, draw)
        if self.skips:
            self._inspect(players)
            self._copy(players, "bad")
            self.launcher.launch("count_skipped", self.counter, "generator" in players, "discriminator" in players)
        self._round_weights(*(self.g if player == "generator" else self.d for player in players))

    def _step(self, name: str, number: tuple[int, int], draw: tuple[int, int]) -> None:
        plan, launcher = self.described[name], self.launcher
        batches = self.described["rows"] // (self.rows * self.pack)
        head = self.dtype, *schema.in_order("OptimizerPlan", plan), self.schedules[name]
        counts = *self._count(*number), *self._count(*draw), batches, _PLAYERS.index(name)
        members = [(p, s[0], s[1] if len(s) > 1 else None, grad) for p, *s, grad in self.steps[name]]
        if plan["max_grad_value"] > 0 or plan["max_grad_norm"] > 0:
            launcher.clip([grad for *_, grad in members], plan["max_grad_value"], plan["max_grad_norm"])
        launcher.launch("update", *head, *counts, *_listed(members))
        if plan["clip_weights"] > 0:
            launcher.hold([parameter for parameter, *_ in members], plan["clip_weights"])
        network = self.g if name == "generator" else self.d
        if plan["max_col_norm"] > 0:
            for layer in network.layers:
                if layer.grad_of(layer.spec["weight"]) is not None:  # else it is frozen
                    launcher.launch(
                        "bound_norms", self.dtype, layer.weight, layer.columns, layer.inputs, plan["max_col_norm"]
                    )

    def _round_weights(self, *networks: NetworkBuffers) -> None:
        """For the products until the next update."""
        factors = [layer.w for network in networks for layer in network.layers if layer.w.rounds]
        if factors:
            self.launcher.copy_all([f.taken for f in factors], [f.exact for f in factors])

    def _update_ema(self) -> None:
        decay = self.described["ema_decay"]
        if decay:
            ema = self.gan.keep_ema().parameters()
            pairs = zip(ema, self.gan.generator.parameters(), strict=True)
            members = [(a.detach(), None, None, p.detach()) for a, p in pairs]
            self.launcher.launch("ema", self.dtype, decay, *_listed(members))

    # ------------------------------------------------------------ updates that are not finite

    def _save(self, *players: str) -> None:
        """Before a step of these players, its forward passes included: they move running statistics."""
        if self.skips:
            self._copy(players, "always")

    def _copy(self, players: tuple[str, ...], predicate: str) -> None:
        """What their step may change: to where it is saved, or back."""
        back = predicate == "bad"
        pairs = [(live, saved) if back else (saved, live) for live, saved in self.snapshot[players]]
        for wide in (False, True):  # a counter moves as a double: the copy moves its eight bytes unchanged
            chosen = [(a, None, None, b) for a, b in pairs if (a.itemsize == 8) == wide]
            if chosen:
                when = schema.number("Predicate", predicate)
                self.launcher.launch("copy", int(wide), when, self.counter, *_listed(chosen))

    def _inspect(self, players: tuple[str, ...]) -> None:
        """Set the step counter's flag if a loss is not finite, or a number that was finite before the step no longer
        is.

        A gradient need not be looked at: if it is not finite, neither is the optimiser's state that took it up.
        """
        numbers: list[tuple[Tensor | None, None, None, Tensor]] = [
            (saved, None, None, live) for live, saved in self.snapshot[players] if live.is_floating_point()
        ]
        if self.penalty and "discriminator" in players:
            numbers.append((None, None, None, self.penalty_pass.values))
        for name in players:
            sums = self.sums_of_g if name == "generator" else self.sums_of_d
            members = _listed(numbers if name == players[0] else [])
            self.launcher.launch("inspect", self.dtype, self.counter, sums, sums.numel() // 3, 3, *members)


def _listed(members: list[tuple[Any, Any, Any, Any]]) -> tuple[object, ...]:
    """The arguments for parameters (itself, two states, gradient), their number first."""
    return len(members), *(a for member in members for a in (*member, member[-1].numel()))


def schedule_parameters(optimizer: Optimizer) -> list[float]:
    """ScheduleParameters in csrc/plan.h: what decides the rate and the momentum of each update."""
    if not isinstance(optimizer, Momentum):
        return [optimizer.lr, 1.0, 0.0, 0.0, 0.0, 0.0]
    last, saturated = optimizer.momentum_final or 0.0, optimizer.saturate_epochs or 0.0
    return [optimizer.lr, optimizer.lr_decay, optimizer.min_lr, optimizer.momentum, last, saturated]
