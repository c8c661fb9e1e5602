"""Algorithm 1 of Goodfellow et al. (2014), step by step in PyTorch, for any pair of modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fastgan import losses, nn, random
from fastgan.models import GAN, join
from fastgan.random import Purpose
from fastgan.training.config import TrainConfig
from fastgan.training.optimizers import Optimizer
from fastgan.training.rows import Minibatches
from fastgan.training.unroll import DiscriminatorFn, look_ahead

_METRIC_ELEMENTS = 1 << 21  # logits kept on the device between two transfers to the host


class EagerEngine:
    """Runs iterations and returns their metrics; an iteration does not synchronise with the device."""

    name = "eager"
    calls_at_once = 1

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig, logits_per_batch: int) -> None:
        self.gan, self.rows, self.config = gan, rows, config
        self.generator = Player(gan.generator, config.optimizer_of_generator, config.max_col_norm)
        self.discriminator = Player(gan.discriminator, config.optimizer_of_discriminator, config.max_col_norm)
        self.optimizers = {
            "generator": self.generator.optimizer,
            "discriminator": self.discriminator.optimizer,
        }
        # Its bits depend on torch's threads, so that a run keeps their number, also where it is resumed.
        self.threads: int | None = torch.get_num_threads()
        self.most_iterations = max(1, min(1000, _METRIC_ELEMENTS // (2 * logits_per_batch)))
        self._snapshot = Snapshot(gan, self.optimizers.values(), active=config.nonfinite == "skip")
        self._counts_seeds = not any(may_run_again(module) for module in gan.modules() if module is not gan)
        self._iterate = self._simultaneous if config.mode == "simultaneous" else self._alternating

    def advance(self, first: int, count: int, should_stop: Callable[[], bool]) -> np.ndarray:
        """Run iterations first .. first+count (from 0), fewer if asked to stop.

        Returns:
            float64 array (iterations, 6): loss_d, loss_g, d_real, d_fake, accuracy_real, accuracy_fake.
        """
        metrics = Metrics(min(count, self.most_iterations))
        with torch_threads(self.threads or torch.get_num_threads()), replayable_torch(self.gan.device) as reseed:
            for it in range(first, first + min(count, self.most_iterations)):
                reseed(self.config.seed, it)
                with random.dropout_seeds(self.config.seed, it) if self._counts_seeds else contextlib.nullcontext():
                    self._iterate(it, metrics)
                if should_stop():
                    break
        return metrics.fetch()

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count as `advance` does."""
        return functools.partial(self.advance, first, count, should_stop)

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """One: members train one after another."""
        return 1

    @classmethod
    def begin_all(
        cls,
        engines: Sequence[Self],
        firsts: list[int],
        counts: list[int],
        threads: int,
        should_stop: Callable[[], bool],
    ) -> Callable[[], list[np.ndarray]]:
        """`begin` of the one engine of a call."""
        (engine,) = engines
        finish = engine.begin(firsts[0], counts[0], should_stop)
        return lambda: [finish()]

    def _alternating(self, it: int, metrics: Metrics) -> None:
        """One iteration of Algorithm 1."""
        config, optimum = self.config, self.config.inner == "optimum"
        for draw in [it] if optimum else range(it * config.k, (it + 1) * config.k):
            self._snapshot.save()
            condition = self._condition(draw)
            discriminator = self._conditioned(condition)
            real = self._packed(self.rows.minibatch(draw))
            with torch.no_grad():  # D's step needs no graph of G
                fake = self._generated(Purpose.NOISE_D, draw, condition)
            for _ in range(config.k if optimum else 1):
                real_logits, fake_logits = discriminator(real), discriminator(fake)
                loss_d = self._discriminator_loss(real_logits, fake_logits) + self._penalty(
                    discriminator, real, fake, draw
                )
                loss_d = loss_d + self._supervised(draw)
                self.discriminator.differentiate(loss_d)
                # The decision depends on the gradient: the only synchronisation within an iteration.
                if optimum and self.discriminator.grad_norm() <= config.inner_tolerance:
                    break
                self.discriminator.update(update=draw, epoch=self.rows.epoch(draw))
                self._snapshot.restore_unless_finite(loss_d)
        metrics.record_d(loss_d, real_logits, fake_logits)

        for update in range(it * config.generator_steps, (it + 1) * config.generator_steps):
            self._snapshot.save()
            with frozen(self.discriminator.parameters):
                fake = self._generated(Purpose.NOISE_G, update, condition)
                ahead = self._ahead(condition, real, fake, draw) if config.unroll else discriminator
                fake_logits = ahead(fake)
                # D(x) after D's update, for the one loss in which G's step looks at real data
                against = ahead(real) if config.loss == "relativistic" else None
                loss_g = self._generator_loss(fake_logits, against)
                self.generator.differentiate(loss_g)
            self.generator.update(update=update, epoch=self.rows.epoch(draw))
            self._snapshot.restore_unless_finite(loss_g)
            self._update_ema()
        metrics.record_g(loss_g)

    def _simultaneous(self, it: int, metrics: Metrics) -> None:
        """One iteration of the original code: one real, one fake batch and one D dropout for both losses."""
        epoch = self.rows.epoch(it)
        self._snapshot.save()
        condition = self._condition(it)
        discriminator = self._conditioned(condition)
        real = self._packed(self.rows.minibatch(it))
        fake = self._generated(Purpose.NOISE_D, it, condition)
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        beside = self._penalty(discriminator, real, fake.detach(), it) + self._supervised(it)
        loss_d = 0.5 * self._discriminator_loss(real_logits, fake_logits) + beside
        loss_g = self._generator_loss(fake_logits, real_logits.detach())
        # Both gradients before either update: D's must not see the new G, nor G's the new D.
        self.discriminator.differentiate(loss_d, keep_graph=True)
        self.generator.differentiate(loss_g)
        self.discriminator.update(update=it, epoch=epoch)
        self.generator.update(update=it, epoch=epoch)
        self._snapshot.restore_unless_finite(loss_d + loss_g)
        self._update_ema()
        metrics.record_d(loss_d, real_logits, fake_logits)
        metrics.record_g(loss_g)

    def _condition(self, draw: int) -> Tensor | None:
        """The labels of a draw's rows, which its fakes share; None where the model is not conditional."""
        return self.gan.one_hot(self.rows.labels_of(draw)) if self.gan.classes else None

    def _conditioned(self, condition: Tensor | None, network: DiscriminatorFn | None = None) -> DiscriminatorFn:
        """D, or an unrolled D, as a function of samples with these labels."""
        network = network or self.gan.discriminator
        return network if condition is None else lambda x: network(join(x, self._packed(condition)))

    def _generated(self, purpose: Purpose, step: int, condition: Tensor | None) -> Tensor:
        config = self.config
        rows = config.batch_size * config.pack
        z = self.gan.noise(rows, seed=config.seed, purpose=purpose, step=step, impl=config.impl)
        return self._packed(self.gan.generator(join(z, condition)))

    def _ahead(self, condition: Tensor | None, real: Tensor, fake: Tensor, draw: int) -> DiscriminatorFn:
        """D `unroll` updates after this iteration's last draw."""

        def loss(network: DiscriminatorFn) -> Tensor:
            discriminator = self._conditioned(condition, network)
            return self._discriminator_loss(discriminator(real), discriminator(fake))

        network = look_ahead(
            self.gan.discriminator,
            self.discriminator.optimizer,
            self.discriminator.description,
            loss,
            self.config.unroll,
            update=draw + 1,
            epoch=self.rows.epoch(draw),
        )
        return self._conditioned(condition, network)

    def _packed(self, samples: Tensor) -> Tensor:
        return packed(samples, self.config.pack)

    def _update_ema(self) -> None:
        if self.config.ema_decay is not None:
            self.gan.update_ema(self.config.ema_decay)

    def _discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        config = self.config
        loss = losses.discriminator_loss(
            real_logits,
            fake_logits,
            kind=config.discriminator_loss,
            real_label=config.real_label,
            impl=config.impl,
        )
        assert isinstance(loss, Tensor)  # a pair only with reduction="none"
        return loss

    def _generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        kind = self.config.loss
        if kind != "relativistic":
            real_logits = None
        return losses.generator_loss(fake_logits, kind=kind, real_logits=real_logits, impl=self.config.impl)

    def _penalty(self, discriminator: DiscriminatorFn, real: Tensor, fake: Tensor, draw: int) -> Tensor | float:
        config = self.config
        if config.gradient_penalty is None:
            return 0.0
        return losses.gradient_penalty(
            discriminator,
            real,
            fake,
            kind=config.gradient_penalty,
            weight=config.penalty_weight,
            seed=config.seed,
            step=draw,
            impl=config.impl,
        )

    def _supervised(self, draw: int) -> Tensor | float:
        """The cross-entropy of labelled rows, where D tells classes apart."""
        discriminator = self.gan.discriminator
        if not isinstance(discriminator, nn.ClassDiscriminator):
            return 0.0
        return discriminator.supervised_loss(*self.rows.labelled(draw))


def packed(samples: Tensor, pack: int) -> Tensor:
    """Samples (m * pack, n, ...) as inputs (m, pack * n, ...) of D, neighbours side by side."""
    if pack == 1:
        return samples
    return samples.reshape(len(samples) // pack, pack * samples.shape[1], *samples.shape[2:])


class Player:
    """One side of the game: a network's trainable parameters, its optimiser and its bound on weight norms."""

    def __init__(self, network: torch.nn.Module, optimizer: Optimizer, max_col_norm: float | None) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.network, self.max_col_norm = network, max_col_norm
        self.description = optimizer
        self.optimizer = optimizer.build(self.parameters)

    def differentiate(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        """Gradients of the loss for this player alone; hooks on its parameters and modules are called."""
        for parameter in self.parameters:
            parameter.grad = None
        # Not `autograd.grad`: it calls no hooks for accumulated gradients, and lays gradients out as it likes, while
        # torch's fused updates pair the elements of a parameter and its gradient by where they lie.
        torch.autograd.backward(loss, inputs=self.parameters, retain_graph=keep_graph)

    def grad_norm(self) -> float:
        """Euclidean norm of the last gradients; waits for the device."""
        return float(torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm())

    def update(self, *, update: int, epoch: int) -> None:
        """Apply the gradients. update: counted from 0; epoch: counted from 1."""
        self.description.schedule(self.optimizer, update=update, epoch=epoch)
        self.optimizer.step()
        if self.max_col_norm is not None:
            nn.init.max_col_norm_(self.network, self.max_col_norm)


class Snapshot:
    """A copy of all that an update may change, to take a non-finite one back without asking the host.

    Args:
        active: False makes both methods do nothing.
    """

    def __init__(self, gan: GAN, optimizers: Iterable[torch.optim.Optimizer], *, active: bool) -> None:
        state = [value for optimizer in optimizers for entry in optimizer.state.values() for value in entry.values()]
        self.live: list[Tensor] = [*gan.parameters(), *gan.buffers(), *state] if active else []
        self.saved = [torch.empty_like(tensor) for tensor in self.live]

    @torch.no_grad()
    def save(self) -> None:
        """Before an update, its forward passes included: they move running statistics."""
        for saved, live in zip(self.saved, self.live, strict=True):
            saved.copy_(live)

    @torch.no_grad()
    def restore_unless_finite(self, loss: Tensor) -> None:
        """After an update: put everything back if its loss is not finite, or a number that was finite no longer is.

        A gradient need not be looked at: if it is not finite, neither is the optimiser's state that took it up.
        """
        if self.live:
            pairs = list(zip(self.saved, self.live, strict=True))
            kept = [(torch.isfinite(live) | ~torch.isfinite(saved)).all().to(loss.device) for saved, live in pairs]
            finite = torch.stack([torch.isfinite(loss).all(), *kept]).all()
            for saved, live in pairs:
                live.copy_(torch.where(finite.to(live.device), live, saved))


class Metrics:
    """Losses and logits of up to `rows` iterations, kept on the device until one transfer fetches them."""

    def __init__(self, rows: int) -> None:
        self.rows, self.done = rows, 0
        self.losses = self.logits = torch.empty(0)

    @torch.no_grad()
    def record_d(self, loss: Tensor, real_logits: Tensor, fake_logits: Tensor) -> None:
        if self.done == 0:
            kind = torch.float64 if real_logits.dtype == torch.float64 else torch.float32
            self.losses = torch.empty(self.rows, 2, dtype=kind, device=real_logits.device)
            self.logits = torch.empty(self.rows, 2, real_logits.numel(), dtype=kind, device=real_logits.device)
        self.losses[self.done, 0].copy_(loss)
        self.logits[self.done, 0].copy_(real_logits.reshape(-1))
        self.logits[self.done, 1].copy_(fake_logits.reshape(-1))

    @torch.no_grad()
    def record_g(self, loss: Tensor) -> None:
        self.losses[self.done, 1].copy_(loss)
        self.done += 1

    @torch.no_grad()
    def fetch(self) -> np.ndarray:
        losses, logits = self.losses[: self.done], self.logits[: self.done]
        # A row at a time: in one call for all, a row's last bit would depend on how many there are.
        probability = torch.stack([torch.sigmoid(row).mean(-1) for row in logits])
        # Right is: above 0 on real data, below on fakes. A NaN logit is neither.
        sign = torch.tensor([1.0, -1.0], dtype=logits.dtype).to(logits.device)
        right = (logits * sign[:, None] > 0).to(logits.dtype).mean(-1)
        table: np.ndarray = torch.cat([losses, probability, right], 1).double().cpu().numpy()
        return table


def may_run_again(module: torch.nn.Module) -> bool:
    """Whether its forward pass is the user's own code, which may run a part again in the backward pass.

    `torch.utils.checkpoint` does. It restores torch's generator to meet the same dropout masks, and no counter of ours.
    """
    own = type(module).__module__.startswith(("torch.nn.modules.", "fastgan.nn."))
    return not own or "forward" in vars(module)


@contextlib.contextmanager
def frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    """No gradients for these inside: autograd then skips the work of their weight gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch's threads of the CPU inside; their number is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def replayable_torch(device: torch.device) -> Iterator[Callable[[int, int], None]]:
    """Gives reseed(seed, step) of torch's own generators, so that dropout replays; restores them."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]

    def reseed(seed: int, step: int) -> None:
        for generator in generators:
            generator.manual_seed(random.torch_seed(seed, step))

    try:
        yield reseed
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
