"""Algorithm 1 of Goodfellow et al. (2014) in plain PyTorch: an oracle that shares no code with the engines.

Networks, losses, penalties, optimisers, packing, moving average and bounds on norms are written out here, in formulas
that fastgan uses nowhere. Only the counter-based random numbers are fastgan's, in the version without native code
(`fastgan.reference`), and the parameters are copies of those of the networks given. `Game.play` runs iterations.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from algorithm1_networks import PlainNetwork
from torch import Tensor

from fastgan import (
    GAN,
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    RMSprop,
    StepDecay,
    TrainConfig,
    reference,
)
from fastgan.data import Dataset
from fastgan.random import Purpose
from fastgan.training.engines.cpu import CpuEngine
from fastgan.training.engines.eager import EagerEngine
from fastgan.training.session import rows_for


class Rule:
    """A network's optimiser and schedule, written out; `count` is the number of updates made."""

    def __init__(self, rule: Any, schedule: Any, parameters: list[Tensor]) -> None:
        self.rule, self.schedule, self.count = rule, schedule, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def factor(self, number: int) -> float:
        """Of the rate of update `number`, from 0."""
        schedule = self.schedule
        if isinstance(schedule, CosineDecay):
            least = schedule.least / self.rule.lr
            return least + (1 - least) * (1 + math.cos(math.pi * number / schedule.updates)) / 2
        if isinstance(schedule, StepDecay):
            return float(schedule.factor ** (number // schedule.updates))
        if isinstance(schedule, LinearDecay):
            way = min(number / schedule.updates, 1.0)
            return schedule.first + way * (schedule.last - schedule.first)
        return float(schedule.factor**number) if isinstance(schedule, ExponentialDecay) else 1.0

    @torch.no_grad()
    def step(self, parameters: list[Tensor], grads: list[Tensor], number: int, epoch: int) -> None:
        self.count += 1
        rule, rate = self.rule, self.rule.lr * self.factor(number)
        decay = getattr(rule, "weight_decay", 0.0)
        if isinstance(rule, AdamW):
            for p in parameters:
                p -= rate * decay * p
        else:
            grads = [g + decay * p for g, p in zip(grads, parameters, strict=True)]
        if isinstance(rule, Adam):
            (one, two), t = rule.betas, self.count
            for p, m, v, g in zip(parameters, self.first, self.second, grads, strict=True):
                m.copy_(one * m + (1 - one) * g)
                v.copy_(two * v + (1 - two) * g**2)
                p -= rate * (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + rule.eps)
        elif isinstance(rule, RMSprop):
            for p, s, v, g in zip(parameters, self.first, self.second, grads, strict=True):
                s.copy_(rule.alpha * s + (1 - rule.alpha) * g**2)
                v.copy_(rule.momentum * v + g / (s.sqrt() + rule.eps))
                p -= rate * v
        elif isinstance(rule, SGD):
            for p, v, g in zip(parameters, self.first, grads, strict=True):
                v.copy_(rule.momentum * v + g)
                p -= rate * (g + rule.momentum * v if rule.nesterov else v)
        else:
            self.momentum(parameters, grads, number, epoch)

    def momentum(self, parameters: list[Tensor], grads: list[Tensor], number: int, epoch: int) -> None:
        rule = self.rule
        rate = self.factor(number) * max(rule.lr * rule.lr_decay**-number, rule.min_lr)
        momentum = rule.momentum
        if rule.momentum_final is not None:
            way = 1.0 if rule.saturate_epochs == 1 else min((epoch - 1) / (rule.saturate_epochs - 1), 1.0)
            momentum += way * (rule.momentum_final - rule.momentum)
        for p, v, g in zip(parameters, self.first, grads, strict=True):
            if rule.convention == "pylearn2":
                v.copy_(momentum * v - rate * g)
                p += v
            else:
                v.copy_(momentum * v + g)
                p -= rate * v


KIND_OF_D = {"non_saturating": "gan", "minimax": "gan", "mle": "gan"}


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.logaddexp(-x, torch.zeros_like(x))


def loss_of_d(kind: str, real: Tensor, fake: Tensor, label: float, fake_label: float) -> Tensor:
    if kind == "relativistic":
        return -log_sigmoid(real - fake).mean()
    if kind == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    if kind == "least_squares":
        return (real - label).square().mean() / 2 + fake.square().mean() / 2
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    cross_entropy = -label * log_sigmoid(real) - (1 - label) * log_sigmoid(-real)
    of_fakes = -fake_label * log_sigmoid(fake) - (1 - fake_label) * log_sigmoid(-fake)
    return cross_entropy.mean() + of_fakes.mean()


@functools.cache
def undecided(kind: str, label: float, fake_label: float) -> float:
    """D's best logit where a row is as likely real as made: the minimum of its loss of one of each, by bisection."""
    if kind not in ("gan", "least_squares"):
        return 0.0
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        (rises,) = torch.autograd.grad(loss_of_d(kind, middle, middle, label, fake_label), middle)
        low, high = (low, middle.item()) if rises > 0 else (middle.item(), high)
    return round((low + high) / 2, 12)  # without smoothing the threshold is 0


def loss_of_g(kind: str, fake: Tensor, real: Tensor | None) -> Tensor:
    if kind == "relativistic":
        assert real is not None
        return -log_sigmoid(fake - real).mean()
    return {
        "non_saturating": lambda: -log_sigmoid(fake), "minimax": lambda: log_sigmoid(-fake),
        "mle": lambda: -0.5 * torch.exp(fake), "hinge": lambda: -fake, "wasserstein": lambda: -fake,
        "least_squares": lambda: (fake - 1).square() / 2,
    }[kind]().mean()  # fmt: skip


def dropout_seeds(seed: int, it: int) -> Iterator[int]:
    """63 bits each, a block of Philox's after another; block 0 is the seed of torch's own generators."""
    for block in itertools.count(1):
        low, high, _, _ = reference.philox(
            block, 0, it, int(Purpose.DROPOUT_SEED) << 24, seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
        )
        yield (high % 2**31) * 2**32 + low


class Game:
    """Both networks, their optimisers and the data, which have labels where the model is conditional."""

    def __init__(
        self, gan: GAN, data: Tensor | Dataset, config: TrainConfig, dtype: torch.dtype = torch.float64
    ) -> None:
        rows, labels = (data, None) if isinstance(data, Tensor) else (data.data, data.labels)
        self.config, self.dtype, self.data = config, dtype, rows.to(dtype)
        self.conditions = torch.zeros(len(rows), gan.classes, dtype=dtype)  # a one at each row's label
        if labels is not None:
            self.conditions[torch.arange(len(rows)), labels.long()] = 1.0
        self.condition = self.conditions[:0]  # of the minibatch
        self.latent, self.prior = gan.latent_dim, gan.prior
        self.g, self.d = PlainNetwork(gan.generator, dtype), PlainNetwork(gan.discriminator, dtype)
        self.d.penalised = bool(config.penalties)
        self.rule_g, self.rule_d = (
            Rule(config.optimizer_of(name), config.scheduler_of(name)[1], network.parameters())
            for name, network in (("generator", self.g), ("discriminator", self.d))
        )
        self.average = {name: value.detach().clone() for name, value in self.g.values.items()}
        self.labels = config.real_label, config.fake_label
        self.threshold = undecided(KIND_OF_D.get(config.loss, config.loss), *self.labels)
        self.history: list[list[float]] = []
        self.kink = math.inf

    def play(self, iterations: int) -> None:
        for it in range(len(self.history), len(self.history) + iterations):
            self.next_dropout_seed = functools.partial(next, dropout_seeds(self.config.seed, it))
            self.history.append(self.simultaneous(it) if self.config.mode == "simultaneous" else self.alternating(it))
        self.kink = min(self.kink, self.g.kink, self.d.kink)

    # ------------------------------------------------------------ what the networks see

    def noise(self, purpose: int, step: int) -> Tensor:
        rows = self.config.batch_size * self.config.pack
        stream = {"seed": self.config.seed, "purpose": int(purpose), "step": step, "substream": 0}
        if self.prior == "uniform":
            z = (2 * reference.random_uniform(rows * self.latent, **stream) - 1) * math.sqrt(3.0)
        else:
            z = reference.random_normal(rows * self.latent, **stream)
        z = z.reshape(rows, self.latent)
        return (z / z.square().sum(1, keepdim=True).sqrt() if self.prior == "spherical" else z).to(self.dtype)

    def pack(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.config.batch_size, self.config.pack * rows.shape[1])

    def epoch(self, draw: int) -> tuple[int, int]:
        return divmod(draw, len(self.data) // (self.config.batch_size * self.config.pack))

    def fake(self, purpose: int, step: int) -> Tensor:
        z = torch.cat([self.noise(purpose, step), self.condition], 1)
        return self.pack(self.g(z, self.next_dropout_seed))

    def logits(self, x: Tensor) -> Tensor:
        """Of samples that have the minibatch's labels: the labels of a packed row come behind its samples."""
        return self.d(torch.cat([x, self.pack(self.condition)], 1), self.next_dropout_seed)

    def real(self, draw: int) -> Tensor:
        (epoch, batch), size = self.epoch(draw), self.config.batch_size * self.config.pack
        order = reference.permutation(
            len(self.data),
            seed=self.config.seed,
            epoch=epoch,
            start=batch * size,
            count=size,
            purpose=int(Purpose.ROWS),
        )
        self.condition = self.conditions[order]
        return self.pack(self.data[order])

    def beside_loss_of_g(self) -> Tensor | float:
        """What a game of another paper adds."""
        return 0.0

    def penalty(self, real: Tensor, fake: Tensor, draw: int) -> Tensor | float:
        return sum(self.one_penalty(kind, real, fake, draw) for kind in self.config.penalties)

    def one_penalty(self, kind: str, real: Tensor, fake: Tensor, draw: int) -> Tensor:
        weight = self.config.penalty_weight
        stream = {"seed": self.config.seed, "purpose": int(Purpose.PENALTY), "step": draw, "substream": 0}
        u = reference.random_uniform(len(real), **stream).to(self.dtype)[:, None]
        x = {"r1": real, "r2": fake, "wgan-gp": fake + u * (real - fake)}[kind].detach().requires_grad_()
        (derivative,) = torch.autograd.grad(self.logits(x).sum(), x, create_graph=True)
        square = derivative.square().sum(1)
        if kind != "wgan-gp":
            return weight * square.mean() / 2
        self.d.note(square.sqrt())
        norm = (square + (square == 0)).sqrt() * (square != 0)
        return weight * (norm - 1).square().mean()

    # ------------------------------------------------------------ one iteration

    def update(self, player: PlainNetwork, rule: Rule, loss: Tensor, number: int, epoch: int) -> list[Tensor]:
        """Descend the loss; it and its gradients, which `restore_unless_finite` wants."""
        grads = self.clipped(torch.autograd.grad(loss, player.parameters(), materialize_grads=True))
        rule.step(player.parameters(), list(grads), number, epoch)
        self.bound(player)
        return [loss, *grads]

    def clipped(self, grads: Sequence[Tensor]) -> list[Tensor]:
        bound, limit = self.config.max_grad_value, self.config.max_grad_norm
        if bound is not None:
            grads = [torch.where(g.abs() > bound, bound * g.sign(), g) for g in grads]
        if limit is not None:
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
            grads = [g * min(limit / (norm + 1e-6), 1.0) if norm == norm else g * norm for g in grads]
        return list(grads)

    @torch.no_grad()
    def bound(self, player: PlainNetwork) -> None:
        if self.config.clip_weights is not None and player is self.d:
            for p in player.parameters():
                p.copy_(p.clamp(-self.config.clip_weights, self.config.clip_weights))
        if self.config.max_col_norm is not None:
            player.bound(self.config.max_col_norm)

    def alternating(self, it: int) -> list[float]:
        config = self.config
        kind = KIND_OF_D.get(config.loss, config.loss)
        for draw in range(it * config.k, (it + 1) * config.k):
            before, real = self.saved(), self.real(draw)
            fake = self.fake(Purpose.NOISE_D, draw).detach()
            on_real, on_fake = self.logits(real), self.logits(fake)
            loss_d = loss_of_d(kind, on_real, on_fake, *self.labels) + self.penalty(real, fake, draw)
            used = self.update(self.d, self.rule_d, loss_d, draw, self.epoch(draw)[0] + 1)
            self.restore_unless_finite(before, used)
        if kind == "hinge":
            self.d.note(torch.cat([1 - on_real, 1 + on_fake]))
        for update in range(it * config.generator_steps, (it + 1) * config.generator_steps):
            before = self.saved()
            logits = self.logits(self.fake(Purpose.NOISE_G, update))
            against = self.logits(real) if kind == "relativistic" else None
            loss_g = loss_of_g(config.loss, logits, against) + self.beside_loss_of_g()
            used = self.update(self.g, self.rule_g, loss_g, update, self.epoch(draw)[0] + 1)
            self.restore_unless_finite(before, used)
            self.take_average()
        return self.metrics(loss_d, loss_g, on_real, on_fake)

    def simultaneous(self, it: int) -> list[float]:
        config = self.config
        kind = KIND_OF_D.get(config.loss, config.loss)
        before, real = self.saved(), self.real(it)
        fake = self.fake(Purpose.NOISE_D, it)
        on_real, on_fake = self.logits(real), self.logits(fake)
        loss_d = loss_of_d(kind, on_real, on_fake, *self.labels) / 2 + self.penalty(real, fake.detach(), it)
        loss_g = loss_of_g(config.loss, on_fake, on_real) + self.beside_loss_of_g()
        if kind == "hinge":
            self.d.note(torch.cat([1 - on_real, 1 + on_fake]))
        parameters = [*self.d.parameters(), *self.g.parameters()]
        n, epoch = len(self.d.parameters()), self.epoch(it)[0] + 1
        of_d = torch.autograd.grad(loss_d, parameters[:n], retain_graph=True, materialize_grads=True)
        of_g = torch.autograd.grad(loss_g, parameters[n:], materialize_grads=True)
        of_d, of_g = self.clipped(of_d), self.clipped(of_g)
        self.rule_d.step(parameters[:n], of_d, it, epoch)
        self.rule_g.step(parameters[n:], of_g, it, epoch)
        self.bound(self.d)
        self.bound(self.g)
        self.restore_unless_finite(before, [loss_d, loss_g, *of_d, *of_g])
        self.take_average()
        return self.metrics(loss_d, loss_g, on_real, on_fake)

    @torch.no_grad()
    def take_average(self) -> None:
        for name, value in self.g.values.items():
            if self.config.ema_decay is not None:
                decay = self.config.ema_decay if value.is_floating_point() and "running" not in name else 0.0
                self.average[name] = decay * self.average[name] + (1 - decay) * value if decay else value.clone()

    @torch.no_grad()
    def metrics(self, loss_d: Tensor, loss_g: Tensor, real: Tensor, fake: Tensor) -> list[float]:
        p, q = 1 / (1 + torch.exp(-real)), 1 / (1 + torch.exp(-fake))
        right = (real > self.threshold).double().mean(), (fake < self.threshold).double().mean()
        found = (loss_d, loss_g, p.mean(), q.mean(), *right)
        return [float(value) for value in found]

    # ------------------------------------------------------------ an update that is not finite

    def state(self) -> list[Tensor]:
        rules = (self.rule_g, self.rule_d)
        return [*self.g.values.values(), *self.d.values.values(), *(s for r in rules for s in (*r.first, *r.second))]

    def saved(self) -> Any:
        if self.config.nonfinite == "skip":
            return [value.detach().clone() for value in self.state()], self.rule_g.count, self.rule_d.count
        return None

    @torch.no_grad()
    def restore_unless_finite(self, saved: Any, used: Sequence[Tensor]) -> None:
        """Take an update back that used a number which is not finite, or that left one where it was finite."""
        if saved is None:
            return
        pairs = list(zip(self.state(), saved[0], strict=True))
        lost = any(bool((old.isfinite() & ~value.isfinite()).any()) for value, old in pairs)
        if lost or not all(bool(value.isfinite().all()) for value in used):
            for value, old in pairs:
                value.copy_(old)
            self.rule_g.count, self.rule_d.count = saved[1:]


# ---------------------------------------------------------------- comparison


def trained(engine: Any, config: TrainConfig, chunks: tuple[int, ...] = ()) -> Any:
    """The metrics of config.steps iterations of this engine, in chunks of these lengths."""
    tables, done = [], 0
    for count in (*chunks, config.steps - sum(chunks)):
        tables.append(engine.begin(done, count, lambda: False)())
        done += count
    engine.write_back()
    return np.concatenate(tables)


def compiled(
    gan: GAN,
    data: Tensor | Dataset,
    config: TrainConfig,
    chunks: tuple[int, ...] = (),
    make: Callable[..., Any] = CpuEngine,
) -> tuple[Any, Any]:
    """A compiled engine after config.steps iterations, and its metrics."""
    if config.ema_decay is not None:
        gan.keep_ema()
    engine = make(gan, rows_for(data, gan, config), config)
    return engine, trained(engine, config, chunks)


def eager(
    gan: GAN, data: Tensor | Dataset, config: TrainConfig, chunks: tuple[int, ...] = ()
) -> tuple[EagerEngine, Any]:
    """The eager engine after config.steps iterations, and its metrics."""
    if config.ema_decay is not None:
        gan.keep_ema()
    engine = EagerEngine(gan, rows_for(data, gan, config), config, logits_per_batch=config.batch_size)
    return engine, trained(engine, config, chunks)


def differences(
    game: Game, gan: GAN, data: Tensor | Dataset, config: TrainConfig, chunks: tuple[int, ...] = ()
) -> dict[str, float]:
    """Train `gan`, from which the game was made, by the compiled engine, and compare all that training leaves.

    Each as `compare` gives it.
    """
    engine, metrics = compiled(gan, data, config, chunks)
    return compare(game, gan, engine.optimizers, metrics)


def compare(game: Game, gan: GAN, optimizers: dict[str, torch.optim.Optimizer], metrics: Any) -> dict[str, float]:
    """The largest difference of each tensor, against its largest element.

    That of moments is against at least 1e-2, of values 1e-6: a gradient that is zero in theory leaves rounding.
    """
    found: dict[str, float] = {}

    def note(name: str, got: Tensor, want: Tensor, least: float = 1e-6) -> None:
        a, b = got.detach().double(), want.detach().double()
        if a.numel() == 0:
            assert a.shape == b.shape
            return
        differs = (a - b).abs().nan_to_num(math.inf)  # a NaN on one side is a difference
        differs[(a == b) | (a.isnan() & b.isnan())] = 0.0
        found[name] = float(differs.max() / max(float(b.abs().nan_to_num(0.0).max()), least))

    for player, network, rule in (("generator", game.g, game.rule_g), ("discriminator", game.d, game.rule_d)):
        module = getattr(gan, player)
        for name, value in module.state_dict().items():
            note(f"{player}.{name}", value, network.values[name])
        parameters = dict(module.named_parameters())
        for name, first, second in zip(network.trained, rule.first, rule.second, strict=True):
            state = optimizers[player].state[parameters[name]]
            if "exp_avg" in state:
                note(f"{player}.{name}: mean", state["exp_avg"], first, 1e-2)
                note(f"{player}.{name}: square", state["exp_avg_sq"].sqrt(), second.sqrt(), 1e-2)
                found[f"{player}.{name}: step"] = abs(float(state["step"]) - rule.count)
            elif "square_avg" in state:
                note(f"{player}.{name}: square", state["square_avg"].sqrt(), first.sqrt(), 1e-2)
                if "momentum_buffer" in state:  # of quotients, which an epsilon of 1e-2 makes a hundred gradients
                    note(f"{player}.{name}: velocity", state["momentum_buffer"], second, 1.0)
            elif "momentum_buffer" in state:
                note(f"{player}.{name}: velocity", state["momentum_buffer"], first, 1e-2)
    if game.config.ema_decay is not None:
        for name, value in gan.ema.state_dict().items():
            note(f"averaged.{name}", value, game.average[name])
    for column, (got, want) in enumerate(zip(metrics.T, np.array(game.history).T, strict=True)):
        note(f"metric {column}", torch.from_numpy(got.copy()), torch.from_numpy(want.copy()), 1.0)
    return found
