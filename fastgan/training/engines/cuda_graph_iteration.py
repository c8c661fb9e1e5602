"""One iteration of Algorithm 1 as a fixed sequence of launches: the verbs that csrc/recorder.h lists, each as launches.

All per-iteration state is on the device.
A device step counter drives random streams, batch indices, schedules and Adam's bias correction, and the last launch of
an iteration increments it. So an iteration can be captured, and each replay is the next iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgan import _schema
from fastgan.models import GAN
from fastgan.training.engines import recording
from fastgan.training.engines.cuda_graph_layers import Batch, KernelLauncher, NetworkBuffers, PenaltyPass
from fastgan.training.engines.plan import Description, network_plan
from fastgan.training.engines.state import METRICS
from fastgan.training.engines.updater import Updater

CAPACITY = 4096  # iterations whose metrics the device keeps
MOST = 100  # iterations whose dropout seeds are drawn together
_PLAYERS = ("generator", "discriminator")
Step = tuple[int, int]  # times, plus: the number of a step is times * iteration + plus, as the device counts


class Iteration:
    """The buffers of a plan, and the verbs of csrc/iteration.h as launches.

    Args:
        gan: the networks, whose parameters are worked on in place.
        dtype: the number of their type.
        described: their plan, of `plan.describe`.
        updaters: of both networks, with allocated states.
        data: (n, features), on the launcher's device; of a table, its scalars.
        labels: int32 (n,), likewise; None if the model is not conditional, or where there is a table.
        table: the fields of TablePlan with tensors on that device, where rows are drawn by their labels.
        launcher: launches the kernels.
    """

    def __init__(
        self,
        gan: GAN,
        dtype: int,
        described: Description,
        updaters: Mapping[str, Updater],
        data: Tensor,
        labels: Tensor | None,
        table: tuple[Any, ...] | None,
        launcher: KernelLauncher,
    ) -> None:
        self.gan, self.described, self.launcher, self.data, self.labels = gan, described, launcher, data, labels
        self.table, self.conditional = table, described["classes"] > 0
        self.dtype, self.rows, self.pack = dtype, described["batch"], described["pack"]
        self.verbs = recording.record(described)
        self.penalties = [_schema.number("Penalty", kind) for kind in described["penalties"]]
        self.skips = described["skip_nonfinite"]
        self._place_networks(updaters)
        self._place_state()
        self.steps = {name: self._parameters(name, updaters[name]) for name in _PLAYERS}
        self.snapshot = self._copies() if self.skips else {}
        shape = MOST, max(1, described["dropout_seeds_per_iteration"])
        self.dropout_seeds = torch.zeros(shape, dtype=torch.int64, device=launcher.device)

    # ------------------------------------------------------------ memory

    def _place_networks(self, updaters: Mapping[str, Updater]) -> None:
        """D's batch is fakes, real rows and two more sub-batches for each penalty: first all tangents, then the rows
        where each penalty is evaluated.

        G's output and its gradient are views of D's input and of its gradient: with packing, several rows of G are one
        row of D. In a conditional model labels come behind the samples, so that these have buffers of their own.
        """
        m, gan, launcher = self.rows, self.gan, self.launcher

        def trained(name: str) -> Callable[[Tensor | None], bool]:
            return lambda parameter: parameter is not None and bool(updaters[name].states(parameter))

        bf16 = self.described["generator"]["precision"] == "bf16"
        factors = torch.bfloat16 if bf16 else gan.dtype
        of_d, rows = network_plan("gan.discriminator", gan.discriminator), (2 + 2 * len(self.penalties)) * m
        self.d = NetworkBuffers(of_d, trained("discriminator"), rows, launcher, factors, sub_batches=2)
        shape = m * self.pack, self.described["features"]
        of_g = network_plan("gan.generator", gan.generator), trained("generator"), m * self.pack, launcher, factors, 1
        if not self.conditional:
            result, grad = self.d.input[:m].view(shape), self.d.grad_input[:m].view(shape)
            self.g = NetworkBuffers(*of_g, result, grad)
            self.noise, self.real_rows = self.g.input, self.d.input[m : 2 * m].view(shape)
        else:
            self.g = NetworkBuffers(*of_g)
            self.noise, self.real_rows = (self.d.input.new_zeros(s) for s in ((m * self.pack, gan.latent_dim), shape))
            self.condition = self.noise.new_zeros(m * self.pack, gan.classes)
            self.no_grad = self.noise.new_zeros(m, gan.classes * self.pack)
        # Of a table, the labels of the condition, and what G's loss has for them.
        self.drawn: Tensor | None = None
        self.entropies: Tensor | None = None
        if self.conditional and self.table is not None:
            self.drawn = self.condition.new_zeros(m * self.pack, dtype=torch.int32)
            self.entropies = self.noise.new_zeros(m * self.pack)
        count = len(self.penalties)
        self.penalty_values = self.d.input.new_zeros(count * m)
        self.penalty_passes = [
            PenaltyPass(self.d, (2 + count + i) * m, (2 + i) * m, self.penalty_values[i * m : (i + 1) * m])
            for i in range(count)
        ]
        if self.penalties:
            self.ones = self.d.grad_output.new_ones(m, self.d.units)

    def _place_state(self) -> None:
        device = self.launcher.device
        # One block, fetched at once: the step counter (csrc/step_counter.h), then the metrics.
        self.block = torch.zeros(4 + CAPACITY * METRICS, dtype=torch.float64, device=device)
        self.counter = self.block[:4].view(torch.int64)
        self.metrics = self.block[4:].view(CAPACITY, METRICS)
        size = self.launcher.size("loss_metrics_sums", self.logits)
        self.sums_of_d = torch.zeros(2 * size, dtype=torch.float64, device=device)
        self.sums_of_g = torch.zeros(size, dtype=torch.float64, device=device)
        # Rates and momenta of the updates of a call; update u has number u % count.
        steps = {"generator": self.described["generator_steps"], "discriminator": self.described["k"]}
        self.schedules = {
            name: torch.zeros(2, CAPACITY * steps[name], dtype=torch.float64, device=device) for name in _PLAYERS
        }
        norms = [layer.norm for net in (self.g, self.d) for layer in net.layers if layer.running()]
        self.running = [t for n in norms for t in (n.running_mean, n.running_var, n.num_batches_tracked)]

    @property
    def logits(self) -> int:
        """The number of logits in a batch of D."""
        return self.rows * self.d.units

    def _parameters(self, name: str, updater: Updater) -> list[tuple[Tensor, ...]]:
        """For each trained parameter: the parameter, its state, its gradient."""
        found = []
        for parameter, grad in self._network(name).grads.items():
            found.append((parameter.detach(), *updater.states(parameter), grad))
        return found

    def _copies(self) -> dict[tuple[str, ...], list[tuple[Tensor, Tensor]]]:
        """Everything that a step of these players may change, with its copy."""

        def pairs(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
            return [(t, torch.zeros_like(t)) for t in tensors]

        of = {name: pairs([t for *live, _ in self.steps[name] for t in live]) for name in _PLAYERS}
        running = pairs(self.running)
        g, d = _PLAYERS
        return {(g,): of[g] + running, (d,): of[d] + running, (g, d): of[g] + of[d] + running}

    def set_schedule(self, name: str, first: int, numbers: tuple[list[float], list[float]]) -> None:
        """The rates and momenta of a player's updates from `first` on: one each, or one for all."""
        table = self.schedules[name]
        for row, values in zip(table, numbers, strict=True):
            if len(values) == 1:
                row.fill_(values[0])
                continue
            at = torch.arange(first, first + len(values)) % len(row)
            row[at.to(row.device)] = torch.tensor(values, dtype=row.dtype, device=row.device)

    # ------------------------------------------------------------ iterations

    def run(self, count: int) -> None:
        """The next iterations, at most MOST."""
        self._round_weights(self.g, self.d)  # they may have changed since
        if each := self.described["dropout_seeds_per_iteration"]:
            numbers = count, self.described["seed"], self.dropout_seeds, each
            self.launcher.launch("draw_dropout_seeds", self.counter, 1, 0, *numbers)
        for slot in range(count):
            self._seeds = self.dropout_seeds[slot]  # those not yet taken
            self._players: list[str] = []  # of the step
            for verb, arguments in self.verbs:
                getattr(self, verb)(*arguments)
            parts = self.penalty_values if self.penalties else None, self.entropies
            beside = [argument for part in parts for argument in (part, 0 if part is None else len(part))]
            head = self.dtype, self.counter, self.metrics, CAPACITY, self.sums_of_d, self.sums_of_g
            self.launcher.launch("record", *head, self.logits, self._weight_of_d, *beside)

    # ------------------------------------------------------------ the verbs: the batch and its logits

    def begin(self, it: Step) -> None:
        """Does nothing: launches read the iteration from the step counter."""

    def prepare_g(self, number: Step) -> None:
        """Begin a step that updates G."""
        self._number_of_g = number
        self._players.append("generator")

    def prepare_d(self, draw: Step) -> None:
        """Begin a step that updates D."""
        self._number_of_d = draw
        self._players.append("discriminator")

    def save(self) -> None:
        """Copy what the step may change, before its forward passes, which change running statistics."""
        if self.skips:
            self._copy(tuple(self._players), "always")

    def sample_data(self, draw: Step) -> None:
        """The real half of D's batch, and the labels, for G and for both halves of D's batch, until the next draw."""
        plan, launcher = self.described, self.launcher
        wanted = self.rows * self.pack, plan["seed"]
        shape = len(self.data), plan["features"]
        if self.table is None:
            stream = *wanted, self.counter, *draw
            launcher.launch("gather", self.dtype, self.data, *shape, self.real_rows, *stream)
            if self.labels is not None:
                of_labels = self.labels, len(self.labels), self.condition.shape[1], self.condition
                launcher.launch("gather_labels", self.dtype, *of_labels, *stream)
        else:
            if self.conditional:
                self._draw_labels("noise_d", draw)
            purpose = _schema.number("Purpose", "noise_d")
            head = self.dtype, *self.table, self.data, *shape, self.drawn
            launcher.launch("gather_sampled", *head, self.real_rows, *wanted, purpose, self.counter, *draw)
        if self.conditional:
            launcher.copy(self._samples(self.real_half), self.real_rows.view(self.rows, -1))
            self._show_labels(self.real_half, self.fake_half)

    def sample_noise(self, purpose: str, number: Step) -> None:
        """G's input. Of a table, a step of G alone has labels of its own."""
        if self.drawn is not None and purpose == "noise_g":
            self._draw_labels(purpose, number)
            self._show_labels(self.fake_half)
        z, plan = self.noise, self.described
        stream = plan["seed"], _schema.number("Purpose", purpose), self.counter, *number, 0, 0
        draw = _schema.number("Distribution", "centred" if plan["prior"] == "uniform" else "normal")
        self.launcher.launch("random_fill", self.dtype, z, z.numel(), draw, *stream)
        if plan["prior"] == "spherical":
            self.launcher.launch("to_sphere", self.dtype, z, *z.shape)
        if self.conditional:
            self.launcher.copy(self.g.input[:, : z.shape[1]], z)

    def forward_g(self) -> None:
        """G(z), without labels written to D's fake inputs."""
        self._of_g = Batch(0, len(self.noise), 1, self._take_seeds(self.g))
        self.g.forward(self._of_g)

    def show(self, batch: str) -> None:
        """Sub-batches to D, in the order of the module's calls; in D's batch the fakes always come first."""
        order = recording.sub_batches(batch)
        seeds, stride = self._take_seeds(self.d, len(order)), self.d.dropout_seeds
        if order[0] == "fake":
            self._of_d = Batch(0, self.rows, len(order), seeds, stride, (0, 1)[: len(order)])
        else:
            self._of_d = Batch(0, self.rows, 2, seeds[stride:], -stride, (1, 0))
        if self.conditional:
            self.launcher.copy(self._samples(self.fake_half), self.g.output.view(self.rows, -1))

    def forward_d(self) -> None:
        """D's logits."""
        self.d.forward(self._of_d)

    # ------------------------------------------------------------ the verbs: losses and gradients

    def loss_of_d(self, weight: float) -> None:
        """The sums of D's loss for the metrics, and its derivatives with respect to the logits."""
        plan, threshold = self.described, self.described["threshold"]
        (real, fake), (grad, grad_of_fake) = self._halves(self.d.output), self._halves(self.d.grad_output)
        if plan["relativistic"]:
            of_d = real, fake, grad, grad_of_fake, *plan["real"], True, threshold
            sub_batches = (*of_d, fake, None, None, None, -1, 0.0, False, threshold)
        else:
            sub_batches = (
                *(real, None, grad, None, *plan["real"], True, threshold),
                *(fake, None, grad_of_fake, None, *plan["fake"], False, threshold),
            )
        head = self.dtype, self.logits, weight / self.logits, self.sums_of_d, 2
        self.launcher.launch("loss_metrics", *head, *sub_batches)

    def loss_of_g(self) -> None:
        """The sums of G's loss for the metrics, and its derivatives with respect to the logits."""
        real, fake = self._halves(self.d.output)
        other = real if self.described["relativistic"] else None
        sub_batch = fake, other, self._halves(self.d.grad_output)[1], None, *self.described["generated"], False, 0.0
        self.launcher.launch("loss_metrics", self.dtype, self.logits, 1.0 / self.logits, self.sums_of_g, 1, *sub_batch)

    def backward_d(self) -> None:
        """Backward from the logits to each layer's product."""
        self.d.backward(self._of_d, to_input=False, of_vectors=True)

    def backward_through_d(self) -> None:
        """Backward to G's output, without gradients of D's parameters."""
        fakes = Batch(0, self.rows, 1, self._of_d.dropout_seeds)
        self.d.backward(fakes, to_input=True, of_vectors=False)
        if self.conditional:
            self.launcher.copy(self.g.grad_output.view(self.rows, -1), self._samples(self.fake_half, grad=True))

    def backward_g(self) -> None:
        """The gradients of G."""
        self.g.backward_heads(self._of_g)
        if self.drawn is not None:
            assert self.table is not None
            shape = len(self.drawn), self.g.units
            tail = self.g.layers[-1].given, self.g.grad_output, self.entropies, *shape, 1.0 / len(self.drawn)
            self.launcher.launch("cross_entropy", self.dtype, *self.table, self.drawn, *tail)
        self.g.backward(self._of_g, to_input=False, of_vectors=True)
        self.g.weight_gradients(self._of_g.rows)

    def penalty(self, draw: Step) -> None:
        """The penalties' part of D's gradients, then those of its weights."""
        count = len(self.penalties)
        for i in range(count):
            self._penalize(i, draw)
        self.d.weight_gradients((2 + (2 if self.d.has_second_derivative else 1) * count) * self.rows)

    def _penalize(self, which: int, draw: Step) -> None:
        d, plan, kind = self.d, self.described, self.penalties[which]
        real, fake = self._halves(d.input)
        batch = Batch((2 + len(self.penalties) + which) * self.rows, self.rows, 1, self._take_seeds(d))
        numbers = self.rows, d.inputs, kind, plan["seed"], self.counter, *draw
        self.launcher.launch("interpolate", self.dtype, real, fake, d.input[batch.span], *numbers)
        if self.conditional:  # interpolates of labels would be rounded
            self.launcher.copy(self._labels(batch.span), self.condition.view(self.rows, -1))
        d.forward(batch)
        self.launcher.copy(d.grad_output[batch.span], self.ones)
        d.backward(batch, to_input=True, of_vectors=False)
        if self.conditional:  # the penalty is one of the samples' gradient
            self.launcher.copy(self._labels(batch.span, grad=True), self.no_grad)
        self.penalty_passes[which].run(batch, kind, plan["penalty_weight"] / self.rows)

    # ------------------------------------------------------------ the verbs: metrics and updates

    def record_d(self, it: Step, weight: float) -> None:
        """Does nothing: the last launch of the iteration records the metrics."""
        self._weight_of_d = weight

    def record_g(self, it: Step) -> None:
        """Does nothing, as `record_d`."""

    def update_d(self) -> None:
        """Apply D's gradients."""
        self._update("discriminator", self._number_of_d)

    def update_g(self) -> None:
        """Apply G's gradients."""
        self._update("generator", self._number_of_g)

    def commit_or_roll_back(self, updated: list[str]) -> None:
        """Bound the weights, then roll back an update that is not finite, if such updates are skipped."""
        for player in updated:
            self._bound(player)
        if self.skips:
            self._inspect(tuple(updated))
            self._copy(tuple(updated), "bad")
            self.launcher.launch("count_skipped", self.counter, "generator" in updated, "discriminator" in updated)
        self._round_weights(*(self._network(player) for player in updated))
        self._players.clear()

    def update_ema(self) -> None:
        """The moving average of G."""
        pairs = zip(self.gan.keep_ema().parameters(), self.gan.generator.parameters(), strict=True)
        members = [(a.detach(), None, None, p.detach()) for a, p in pairs]
        self.launcher.launch("ema", self.dtype, self.described["ema_decay"], *_listed(members))

    # ------------------------------------------------------------ parts of the verbs

    @property
    def real_half(self) -> slice:
        """The real half of D's batch."""
        return slice(self.rows, 2 * self.rows)

    @property
    def fake_half(self) -> slice:
        """The fake half of D's batch."""
        return slice(0, self.rows)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[self.real_half], x[self.fake_half]

    def _network(self, name: str) -> NetworkBuffers:
        return self.g if name == "generator" else self.d

    def _take_seeds(self, network: NetworkBuffers, passes: int = 1) -> Tensor:
        """The dropout seeds of the next forward passes of a network, and those after them."""
        taken = self._seeds
        self._seeds = taken[passes * network.dropout_seeds :]
        return taken

    def _samples(self, rows: slice, grad: bool = False) -> Tensor:
        """A part of D's input, or of its gradient, without the labels behind it."""
        return (self.d.grad_input if grad else self.d.input)[rows, : self.described["features"] * self.pack]

    def _labels(self, rows: slice, grad: bool = False) -> Tensor:
        """The labels of a part of D's input, or the gradient there."""
        return (self.d.grad_input if grad else self.d.input)[rows, self.described["features"] * self.pack :]

    def _draw_labels(self, purpose: str, number: Step) -> None:
        """The labels of a batch."""
        assert self.table is not None
        stream = self.described["seed"], _schema.number("Purpose", purpose), self.counter, *number
        rows, classes = self.condition.shape
        head = self.dtype, *self.table, self.drawn, classes
        self.launcher.launch("draw_labels", *head, self.condition, rows, *stream)

    def _show_labels(self, *halves: slice) -> None:
        """The condition as input of G, and of these halves of D's batch."""
        self.launcher.copy(self.g.input[:, self.noise.shape[1] :], self.condition)
        for half in halves:
            self.launcher.copy(self._labels(half), self.condition.view(self.rows, -1))

    def _update(self, name: str, number: Step) -> None:
        plan, launcher = self.described[name], self.launcher
        head = self.dtype, *_schema.in_order("OptimizerPlan", plan)
        schedule = [part for numbers in self.schedules[name] for part in (numbers, len(numbers))]
        counts = *schedule, self.counter, *number, _PLAYERS.index(name)
        members = [(p, s[0], s[1] if len(s) > 1 else None, grad) for p, *s, grad in self.steps[name]]
        if plan["max_grad_value"] > 0 or plan["max_grad_norm"] > 0:
            launcher.clip([grad for *_, grad in members], plan["max_grad_value"], plan["max_grad_norm"])
        launcher.launch("update", *head, *counts, *_listed(members))

    def _bound(self, name: str) -> None:
        plan, launcher = self.described[name], self.launcher
        if plan["clip_weights"] > 0:
            launcher.hold([parameter for parameter, *_ in self.steps[name]], plan["clip_weights"])
        if plan["max_col_norm"] > 0:
            for layer in self._network(name).layers:
                if layer.grad_of(layer.spec["weight"]) is not None:  # else it is frozen
                    numbers = layer.columns, layer.inputs, plan["max_col_norm"]
                    launcher.launch("bound_norms", self.dtype, layer.weight, *numbers)

    def _round_weights(self, *networks: NetworkBuffers) -> None:
        """Round the weights for the products until the next update."""
        factors = [layer.w for network in networks for layer in network.layers if layer.w.rounds]
        if factors:
            self.launcher.copy_all([f.taken for f in factors], [f.exact for f in factors])

    def _copy(self, players: tuple[str, ...], predicate: str) -> None:
        """Copy what a step of these players may change, to the snapshot or back."""
        back = predicate == "bad"
        pairs = [(live, saved) if back else (saved, live) for live, saved in self.snapshot[players]]
        for wide in (False, True):  # a counter moves as a double: the copy moves its eight bytes unchanged
            chosen = [(a, None, None, b) for a, b in pairs if (a.itemsize == 8) == wide]
            if chosen:
                when = _schema.number("Predicate", predicate)
                self.launcher.launch("copy", int(wide), when, self.counter, *_listed(chosen))

    def _inspect(self, players: tuple[str, ...]) -> None:
        """Set the step counter's flag if a loss is not finite, or a number that was finite before the step no longer
        is.

        Gradients need no check: one that is not finite makes the optimiser's state not finite too.
        """
        numbers: list[tuple[Tensor | None, None, None, Tensor]] = [
            (saved, None, None, live) for live, saved in self.snapshot[players] if live.is_floating_point()
        ]
        if self.penalties and "discriminator" in players:
            numbers.append((None, None, None, self.penalty_values))
        if self.entropies is not None and "generator" in players:
            numbers.append((None, None, None, self.entropies))
        for name in players:
            sums = self.sums_of_g if name == "generator" else self.sums_of_d
            members = _listed(numbers if name == players[0] else [])
            self.launcher.launch("inspect", self.dtype, self.counter, sums, sums.numel() // 3, 3, *members)


def _listed(members: list[tuple[Any, Any, Any, Any]]) -> tuple[object, ...]:
    """The arguments for parameters (itself, two states, gradient), their number first."""
    return len(members), *(a for member in members for a in (*member, member[-1].numel()))
