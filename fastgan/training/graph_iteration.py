"""One iteration of Algorithm 1 as calls of a machine, the same each time: what changes stands on the device.

How far the run is, a clock on the device says: streams, rows of data, schedules and Adam's corrections follow from it,
and the last launch of an iteration moves it on. So an iteration can be captured, and each replay is the next iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training.config import PRECISIONS
from fastgan.training.fused import METRICS
from fastgan.training.graph_layers import Batch, Machine, Network, PenaltyPass
from fastgan.training.optimizers import Momentum, Optimizer
from fastgan.training.plan import Description, chain_of

CAPACITY = 4096  # iterations whose metrics the device keeps
MOST = 100  # iterations whose keys of masks are drawn together
_CENTRED, _NORMAL = 2, 1  # Draw in csrc/cuda/kernels.h
_ALWAYS, _BAD = 0, 1  # Gate
_PLAYERS = ("generator", "discriminator")


class Iteration:
    """Buffers of a plan and the steps over them.

    Args:
        gan: the networks, whose parameters are worked on in place.
        described: their plan, of `plan.describe`.
        optimizers: with allocated states; and what they were built from.
        data: (n, features), on the machine's device.
        machine: runs the calls.
    """

    def __init__(
        self,
        gan: GAN,
        described: Description,
        optimizers: dict[str, torch.optim.Optimizer],
        descriptions: dict[str, Optimizer],
        data: Tensor,
        machine: Machine,
    ) -> None:
        self.gan, self.described, self.machine, self.data = gan, described, machine, data
        self.dtype, self.rows, self.pack = described["dtype"], described["batch"], described["pack"]
        self.k, self.generator_steps = described["k"], described["generator_steps"]
        self.penalty, self.relativistic = described["penalty"], described["relativistic"]
        self.skips = described["skip_nonfinite"]
        self._place_networks(optimizers)
        self._place_state(descriptions)
        self.steps = {name: self._parameters(name, optimizers[name]) for name in _PLAYERS}
        self.undo = self._copies() if self.skips else {}
        self.keys_an_iteration = self._count_keys()
        shape = MOST, max(1, self.keys_an_iteration)
        self.keys = torch.zeros(shape, dtype=torch.int64, device=machine.device)

    # ------------------------------------------------------------ memory

    def _place_networks(self, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """D's batch is fakes, real rows and, under a penalty, two more sections: those turned, and where it looks.

        G writes its fakes, and finds their gradient, where D has them: several of G's rows are one of D's.
        """
        m, gan, machine = self.rows, self.gan, self.machine

        def trained(name: str) -> Callable[[Tensor | None], bool]:
            return lambda parameter: parameter in optimizers[name].state

        bf16 = self.described["generator"]["precision"] == PRECISIONS.index("bf16")
        factors = torch.bfloat16 if bf16 else gan.dtype
        of_d, rows = chain_of("gan.discriminator", gan.discriminator), (4 if self.penalty else 2) * m
        self.d = Network(of_d, trained("discriminator"), rows, machine, factors, sections=2)
        shape = m * self.pack, self.described["features"]
        result, grad = self.d.input[:m].view(shape), self.d.grad_input[:m].view(shape)
        of_g = chain_of("gan.generator", gan.generator)
        self.g = Network(of_g, trained("generator"), m * self.pack, machine, factors, 1, result, grad)
        self.real_rows = self.d.input[m : 2 * m].view(shape)
        if self.penalty:
            self.penalty_pass = PenaltyPass(self.d, 3 * m, 2 * m, m)
            self.ones = self.d.grad_output.new_ones(m, self.d.units)

    def _place_state(self, descriptions: dict[str, Optimizer]) -> None:
        device = self.machine.device
        # One block, fetched at once: the clock (csrc/clock.h), then the metrics.
        self.block = torch.zeros(4 + CAPACITY * METRICS, dtype=torch.float64, device=device)
        self.clock = self.block[:4].view(torch.int64)
        self.metrics = self.block[4:].view(CAPACITY, METRICS)
        size = self.machine.size("judge_sums", self.logits)
        self.sums_of_d = torch.zeros(2 * size, dtype=torch.float64, device=device)
        self.sums_of_g = torch.zeros(size, dtype=torch.float64, device=device)
        self.courses = {
            name: torch.tensor(course(descriptions[name]), dtype=torch.float64, device=device) for name in _PLAYERS
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
            states = [kept[key] for key in ("exp_avg", "exp_avg_sq", "momentum_buffer") if key in kept]
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

    def _count_keys(self) -> int:
        """Of masks: each forward pass of a module draws its own."""
        g, d = self.g.keys, self.d.keys
        of_d = g + (3 if self.penalty else 2) * d
        of_g = g + (2 if self.relativistic else 1) * d
        return of_d if self.described["simultaneous"] else int(self.k * of_d + self.generator_steps * of_g)

    # ------------------------------------------------------------ iterations

    def run(self, count: int) -> None:
        """The next iterations, at most MOST."""
        self._round_weights(self.g, self.d)  # somebody may have changed them since
        if self.keys_an_iteration:
            numbers = count, self.described["seed"], self.keys, self.keys_an_iteration
            self.machine.launch("draw_keys", *self._count(1, 0), *numbers)
        for slot in range(count):
            keys = self.keys[slot]
            if self.described["simultaneous"]:
                self._simultaneous(keys)
            else:
                self._alternating(keys)
            weight = 0.5 if self.described["simultaneous"] else 1.0
            penalties = (self.penalty_pass.values, self.rows) if self.penalty else (None, 0)
            head = self.dtype, self.clock, self.metrics, CAPACITY, self.sums_of_d, self.sums_of_g
            self.machine.launch("record", *head, self.logits, weight, *penalties)

    def _alternating(self, keys: Tensor) -> None:
        for i in range(self.k):
            keys = self._discriminator_step((self.k, i), keys)
        for i in range(self.generator_steps):
            keys = self._generator_step((self.generator_steps, i), keys)

    def _discriminator_step(self, number: tuple[int, int], keys: Tensor) -> Tensor:
        """D ascends on m real and m fake rows; the fakes come without a way back into G."""
        self._save("discriminator")
        self._generate(Purpose.NOISE_D, number, keys)
        keys = keys[self.g.keys :]
        self._show(number, keys)
        self._judge_for_d(1.0)
        rest = self._gradients_of_d(number, keys)
        self._update(number, number, "discriminator")
        return rest

    def _generator_step(self, number: tuple[int, int], keys: Tensor) -> Tensor:
        """G descends through a D that stays as it is: gradients of D's weights are not computed.

        A relativistic loss looks at D(x) too, after D's update: the real rows of the last draw are still there.
        """
        self._save("generator")
        of_g = self._generate(Purpose.NOISE_G, number, keys)
        keys = keys[self.g.keys :]
        sections = 2 if self.relativistic else 1
        self.d.forward(Batch(0, self.rows, sections, keys, self.d.keys, (0, 1)[:sections]))
        self._judge_for_g()
        self._gradients_of_g(of_g, Batch(0, self.rows, 1, keys))
        self._update(number, (self.k, self.k - 1), "generator")
        self._average()
        return keys[sections * self.d.keys :]

    def _simultaneous(self, keys: Tensor) -> None:
        """The original code's rule: one real, one fake batch for both losses, both gradients before either update."""
        number = 1, 0
        self._save(*_PLAYERS)
        of_g = self._generate(Purpose.NOISE_D, number, keys)
        keys = keys[self.g.keys :]
        self._show(number, keys)
        self._judge_for_g()
        self._gradients_of_g(of_g, Batch(0, self.rows, 1, keys[self.d.keys :]))
        self._judge_for_d(0.5)
        self._gradients_of_d(number, keys)
        self._update(number, number, *_PLAYERS)
        self._average()

    # ------------------------------------------------------------ what D is shown

    def _count(self, times: int, plus: int) -> tuple[object, ...]:
        """times * iteration + plus, as the device counts."""
        return self.clock, times, plus

    def _generate(self, purpose: Purpose, number: tuple[int, int], keys: Tensor) -> Batch:
        """G(z), to where D has its fakes."""
        z, plan = self.g.input, self.described
        uniform, spherical = plan["prior"] == 1, plan["prior"] == 2
        stream = plan["seed"], int(purpose), *self._count(*number), 0, 0
        draw = _CENTRED if uniform else _NORMAL
        self.machine.launch("random_fill", self.dtype, z, z.numel(), draw, *stream)
        if spherical:
            self.machine.launch("to_sphere", self.dtype, z, *z.shape)
        batch = Batch(0, len(z), 1, keys)
        self.g.forward(batch)
        return batch

    def _show(self, number: tuple[int, int], keys: Tensor) -> None:
        """Real rows of a draw beside the fakes, and D's logits of both."""
        plan, shape = self.described, (len(self.data), self.described["features"])
        wanted = self.rows * self.pack, plan["seed"], *self._count(*number)
        self.machine.launch("gather", self.dtype, self.data, *shape, self.real_rows, *wanted)
        self.d.forward(self._both(keys))

    def _both(self, keys: Tensor) -> Batch:
        """Fakes and real rows, of which the module saw the real ones first."""
        return Batch(0, self.rows, 2, keys[self.d.keys :], -self.d.keys, (1, 0))

    # ------------------------------------------------------------ losses

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of real rows and of fakes."""
        return x[self.rows : 2 * self.rows], x[: self.rows]

    def _judge_for_d(self, weight: float) -> None:
        plan = self.described
        (real, fake), (slope, slope_of_fake) = self._halves(self.d.output), self._halves(self.d.grad_output)
        if self.relativistic:
            sections = (real, fake, slope, slope_of_fake, *plan["real"], True, fake, None, None, None, -1, 0.0, False)
        else:
            sections = (
                *(real, None, slope, None, *plan["real"], True),
                *(fake, None, slope_of_fake, None, *plan["fake"], False),
            )
        head = self.dtype, self.logits, weight / self.logits, self.sums_of_d, 2
        self.machine.launch("judge", *head, *sections)

    def _judge_for_g(self) -> None:
        real, fake = self._halves(self.d.output)
        other = real if self.relativistic else None
        section = fake, other, self._halves(self.d.grad_output)[1], None, *self.described["generated"], False
        self.machine.launch("judge", self.dtype, self.logits, 1.0 / self.logits, self.sums_of_g, 1, *section)

    # ------------------------------------------------------------ gradients

    def _gradients_of_d(self, number: tuple[int, int], keys: Tensor) -> Tensor:
        """From the slopes of the logits. Returns the keys that follow."""
        rows, after = 2 * self.rows, keys[2 * self.d.keys :]
        self.d.backward(self._both(keys), to_input=False, of_vectors=True)
        if self.penalty:
            self._penalize(number, after)
            rows, after = (4 if self.d.curved else 3) * self.rows, after[self.d.keys :]
        self.d.weight_gradients(rows)
        return after

    def _penalize(self, number: tuple[int, int], keys: Tensor) -> None:
        d, plan = self.d, self.described
        real, fake = self._halves(d.input)
        batch = Batch(3 * self.rows, self.rows, 1, keys)
        shape = self.rows, d.inputs
        draw = plan["seed"], *self._count(*number)
        self.machine.launch("between", self.dtype, real, fake, d.input[batch.span], *shape, self.penalty, *draw)
        d.forward(batch)
        self.machine.copy(d.grad_output[batch.span], self.ones)
        d.backward(batch, to_input=True, of_vectors=False)
        self.penalty_pass.run(batch, self.penalty, plan["penalty_weight"] / self.rows)

    def _gradients_of_g(self, of_g: Batch, fakes: Batch) -> None:
        self.d.backward(fakes, to_input=True, of_vectors=False)
        self.g.backward(of_g, to_input=False, of_vectors=True)
        self.g.weight_gradients(of_g.rows)

    # ------------------------------------------------------------ updates

    def _update(self, number: tuple[int, int], draw: tuple[int, int], *players: str) -> None:
        """Apply the gradients of a player, or of both; roll back what is not finite, where that is to be skipped."""
        for player in players:
            self._step(player, number, draw)
        if self.skips:
            self._inspect(players)
            self._copy(players, _BAD)
            self.machine.launch("settle", self.clock, "generator" in players, "discriminator" in players)
        self._round_weights(*(self.g if player == "generator" else self.d for player in players))

    def _step(self, name: str, number: tuple[int, int], draw: tuple[int, int]) -> None:
        plan, machine = self.described[name], self.machine
        batches = self.described["rows"] // (self.rows * self.pack)
        head = self.dtype, plan["rule"], plan["beta1"], plan["beta2"], plan["epsilon"], self.courses[name]
        counts = *self._count(*number), *self._count(*draw), batches, _PLAYERS.index(name)
        members = [(p, s[0], s[1] if len(s) > 1 else None, grad) for p, *s, grad in self.steps[name]]
        machine.launch("update", *head, *counts, *_listed(members))
        network = self.g if name == "generator" else self.d
        if plan["max_norm"] > 0:
            for layer in network.layers:
                if layer.grad_of(layer.spec["weight"]) is not None:  # else it is frozen
                    machine.launch(
                        "bound_norms", self.dtype, layer.weight, layer.columns, layer.inputs, plan["max_norm"]
                    )

    def _round_weights(self, *networks: Network) -> None:
        """For the products until the next update."""
        factors = [layer.w for network in networks for layer in network.layers if layer.w.rounds]
        if factors:
            self.machine.copy_all([f.taken for f in factors], [f.exact for f in factors])

    def _average(self) -> None:
        decay = self.described["average_decay"]
        if decay:
            averaged = self.gan.keep_average().parameters()
            pairs = zip(averaged, self.gan.generator.parameters(), strict=True)
            members = [(a.detach(), None, None, p.detach()) for a, p in pairs]
            self.machine.launch("average", self.dtype, decay, *_listed(members))

    # ------------------------------------------------------------ updates that are not finite

    def _save(self, *players: str) -> None:
        """Before a step of these players, its forward passes included: they move running statistics."""
        if self.skips:
            self._copy(players, _ALWAYS)

    def _copy(self, players: tuple[str, ...], gate: int) -> None:
        """What their step may change: to where it is saved, or back."""
        back = gate == _BAD
        pairs = [(live, saved) if back else (saved, live) for live, saved in self.undo[players]]
        for wide in (False, True):  # a counter moves as a double: eight bytes that nobody reads
            chosen = [(a, None, None, b) for a, b in pairs if (a.itemsize == 8) == wide]
            if chosen:
                self.machine.launch("copy", int(wide), gate, self.clock, *_listed(chosen))

    def _inspect(self, players: tuple[str, ...]) -> None:
        """Note on the clock whether a loss is not finite, or a number that was finite before the step no longer is.

        A gradient need not be looked at: if it is not finite, neither is the optimiser's state that took it up.
        """
        numbers: list[tuple[Tensor | None, None, None, Tensor]] = [
            (saved, None, None, live) for live, saved in self.undo[players] if live.is_floating_point()
        ]
        if self.penalty and "discriminator" in players:
            numbers.append((None, None, None, self.penalty_pass.values))
        for name in players:
            sums = self.sums_of_g if name == "generator" else self.sums_of_d
            members = _listed(numbers if name == players[0] else [])
            self.machine.launch("inspect", self.dtype, self.clock, sums, sums.numel() // 3, 3, *members)


def _listed(members: list[tuple[Any, Any, Any, Any]]) -> tuple[object, ...]:
    """The arguments for parameters (itself, two states, gradient), their number first."""
    return len(members), *(a for member in members for a in (*member, member[-1].numel()))


def course(optimizer: Optimizer) -> list[float]:
    """Course in csrc/plan.h: what decides the rate and the momentum of each update."""
    if not isinstance(optimizer, Momentum):
        return [optimizer.lr, 1.0, 0.0, 0.0, 0.0, 0.0]
    last, saturated = optimizer.momentum_final or 0.0, optimizer.saturate_epochs or 0.0
    return [optimizer.lr, optimizer.lr_decay, optimizer.min_lr, optimizer.momentum, last, saturated]
