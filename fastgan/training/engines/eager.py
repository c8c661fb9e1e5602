"""Algorithm 1 of Goodfellow et al. (2014), step by step in PyTorch, for any pair of modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastgan import losses, nn, random
from fastgan._ranks import Ranks
from fastgan._torch_settings import torch_threads
from fastgan.models import GAN, join
from fastgan.random import Purpose
from fastgan.training import plugins, tricks
from fastgan.training.config import TrainConfig
from fastgan.training.engines.player import Player
from fastgan.training.engines.snapshot import Snapshot
from fastgan.training.optimizers import Adam, Momentum
from fastgan.training.rows import Minibatches
from fastgan.training.sampled import body_and_heads
from fastgan.training.unroll import DiscriminatorFn, look_ahead

_Tensors = TypeVar("_Tensors", bound=tuple[Tensor, ...])
_METRIC_ELEMENTS = 1 << 21  # logits kept on the device between two transfers to the host


class EagerEngine:
    """Runs iterations and returns their metrics; an iteration does not synchronise with the device."""

    name = "eager"
    calls_at_once = 1

    def __init__(
        self, gan: GAN, rows: Minibatches, config: TrainConfig, logits_per_batch: int, ranks: Ranks | None = None
    ) -> None:
        self.gan, self.rows, self.config, self.ranks = gan, rows, config, ranks or Ranks()
        self.batch_size = config.batch_size // self.ranks.size  # of this process
        self.generator = Player.of(gan, config, "generator", self.ranks)
        self.discriminator = Player.of(gan, config, "discriminator", self.ranks)
        players = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = {name: player.optimizer for name, player in players.items()}
        self.schedulers, self.as_built = plugins.schedulers_of(players), plugins.all_as_built(players)
        # Its bits depend on torch's threads, so that a run keeps their number, also where it is resumed.
        self.threads: int | None = torch.get_num_threads()
        self.most_iterations = max(1, min(1000, _METRIC_ELEMENTS // (2 * logits_per_batch)))
        self._snapshot = Snapshot(gan, self.optimizers.values(), active=config.nonfinite == "skip", ranks=self.ranks)
        self._counts_seeds = not any(may_run_again(module) for module in gan.modules() if module is not gan)
        self._before_heads = torch.empty(0)  # G's outputs
        self._iterate = self._simultaneous if config.mode == "simultaneous" else self._alternating

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """One: members train one after another."""
        return 1

    def write_back(self) -> None:
        """Does nothing: an iteration changes parameters and states in place."""

    def advance(self, first: int, count: int, should_stop: Callable[[], bool]) -> np.ndarray:
        """Run iterations first .. first+count (from 0), fewer if asked to stop.

        Returns:
            float64 array (iterations, 6): loss_d, loss_g, d_real, d_fake, accuracy_real, accuracy_fake.
        """
        metrics = Metrics(min(count, self.most_iterations), self.config.threshold)
        threads = torch_threads(self.threads or torch.get_num_threads())
        with threads, replayable_torch(self.gan.device, self.ranks.rank) as reseed:
            for it in range(first, first + min(count, self.most_iterations)):
                reseed(self.config.seed, it)
                seeds = random.dropout_seeds(self.config.seed, it, self.ranks.rank)
                with seeds if self._counts_seeds else contextlib.nullcontext():
                    self._iterate(it, metrics)
                if should_stop():
                    break
        # Running statistics are those of the rank's own part of each batch; one rank's are kept.
        self.ranks.copy_from_first_(list(self.gan.buffers()))
        return metrics.fetch(self.ranks)

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count as `advance` does."""
        return functools.partial(self.advance, first, count, should_stop)

    def _alternating(self, it: int, metrics: Metrics) -> None:
        """One iteration of Algorithm 1."""
        config, optimum = self.config, self.config.inner == "optimum"
        for draw in [it] if optimum else range(it * config.k, (it + 1) * config.k):
            self._snapshot.save()
            batch = self._batch(it, draw)
            with torch.no_grad():  # D's step needs no graph of G
                fakes = [self._fake(Purpose.NOISE_D, it, draw, part, 1) for part in batch]
            for inner_step in range(config.k if optimum else 1):
                if inner_step > 0:
                    self._snapshot.save()  # each update is rolled back alone
                loss_d, real_logits, fake_logits = self._differentiate_d(batch, fakes, draw)
                # The decision depends on the gradient: the only synchronisation within an iteration.
                if optimum and self.discriminator.grad_norm() <= config.inner_tolerance:
                    break
                self.discriminator.update(update=draw, epoch=self.rows.epoch(draw))
                self._snapshot.restore_unless_finite(loss_d)
        metrics.record_d(loss_d, real_logits, fake_logits)

        for update in range(it * config.generator_steps, (it + 1) * config.generator_steps):
            self._snapshot.save()
            if self.rows.sampled is not None:
                batch = self._relabelled(batch, update)
            with frozen(self.discriminator.parameters):
                loss_g = self._differentiate_g(it, update, batch, draw)
            self.generator.update(update=update, epoch=self.rows.epoch(draw))
            self._snapshot.restore_unless_finite(loss_g)
            self._update_ema()
        metrics.record_g(loss_g)

    def _differentiate_d(
        self, batch: list[MicroBatch], fakes: list[Tensor], draw: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of D's loss, in D; the loss, and the logits of real rows and of fakes."""
        found, last = [], len(batch) - 1
        for number, (part, fake) in enumerate(zip(batch, fakes, strict=True)):
            real_logits, fake_logits = part.discriminator(part.real), part.discriminator(fake)
            loss = self._discriminator_loss(real_logits, fake_logits) + self._penalty(part, fake, draw)
            loss = self._of_whole(loss)
            if number == 0:  # what is no mean over the rows of the batch
                loss = loss + self._supervised(draw) + self.discriminator.pull()
            self.discriminator.differentiate(loss, first=number == 0, last=number == last)
            loss, real_logits, fake_logits = of_part = _detached((loss, real_logits, fake_logits))
            found.append(of_part)
        return _whole(found)

    def _differentiate_g(self, it: int, update: int, batch: list[MicroBatch], draw: int) -> Tensor:
        """The gradients of G's loss, in G; the loss."""
        found, last = [], len(batch) - 1
        for number, part in enumerate(batch):
            fake = self._fake(Purpose.NOISE_G, it, update, part, 2)
            if self.config.loss == "feature_matching":
                loss = self._feature_matching(part.discriminator, part.real, fake)
            else:
                ahead = self._ahead(part, fake, draw) if self.config.unroll else part.discriminator
                fake_logits = ahead(fake)
                # D(x) after D's update, for the losses in which G's step looks at real data
                against = ahead(part.real) if self.config.generator_sees_real else None
                loss = self._generator_loss(fake_logits, against)
            loss = self._of_whole(loss + self._cross_entropy(part.labels))
            if number == 0:
                loss = loss + self.generator.pull()
            self.generator.differentiate(loss, first=number == 0, last=number == last)
            found.append(_detached((loss,)))
        return _whole(found)[0]

    def _simultaneous(self, it: int, metrics: Metrics) -> None:
        """One iteration of the original code: one real, one fake batch and one D dropout for both losses."""
        epoch = self.rows.epoch(it)
        self._snapshot.save()
        batch = self._batch(it, it)
        found, last = [], len(batch) - 1
        for number, part in enumerate(batch):
            fake = self._fake(Purpose.NOISE_D, it, it, part, 1)
            real_logits, fake_logits = part.discriminator(part.real), part.discriminator(fake)
            loss_d = 0.5 * self._discriminator_loss(real_logits, fake_logits) + self._penalty(part, fake.detach(), it)
            loss_g = self._generator_loss(fake_logits, real_logits.detach()) + self._cross_entropy(part.labels)
            loss_d, loss_g = self._of_whole(loss_d), self._of_whole(loss_g)
            if number == 0:
                loss_d = loss_d + self._supervised(it) + self.discriminator.pull()
                loss_g = loss_g + self.generator.pull()
            # Both gradients before either update: D's must not see the new G, nor G's the new D.
            self.discriminator.differentiate(loss_d, keep_graph=True, first=number == 0, last=number == last)
            self.generator.differentiate(loss_g, first=number == 0, last=number == last)
            loss_d, real_logits, fake_logits, loss_g = of_part = _detached((loss_d, real_logits, fake_logits, loss_g))
            found.append(of_part)
        self.discriminator.update(update=it, epoch=epoch)
        self.generator.update(update=it, epoch=epoch)
        loss_d, real_logits, fake_logits, loss_g = _whole(found)
        self._snapshot.restore_unless_finite(loss_d + loss_g)
        self._update_ema()
        metrics.record_d(loss_d, real_logits, fake_logits)
        metrics.record_g(loss_g)

    def _batch(self, it: int, draw: int) -> list[MicroBatch]:
        """The real rows of a draw in micro-batches, each with D as a function of samples, given their labels."""
        condition, rows = self._condition(draw), self._packed(self.rows.minibatch(draw))
        size, pack = len(rows) // self.config.micro_batches, self.config.pack
        found = []
        for first in range(0, len(rows), size):
            labels = None if condition is None else condition[first * pack : (first + size) * pack]
            offset = self.ranks.rank * self.batch_size + first
            real = self._noisy(rows[first : first + size], it, draw, 0, offset)
            found.append(MicroBatch(real, labels, self._conditioned(labels), offset))
        return found

    def _relabelled(self, batch: list[MicroBatch], update: int) -> list[MicroBatch]:
        """The batch with labels drawn for an update of G alone."""
        labels = self._condition(update, Purpose.NOISE_G)
        if labels is None:  # a table without columns of labels
            return batch
        parts = labels.chunk(len(batch))
        return [p._replace(labels=of, discriminator=self._conditioned(of)) for p, of in zip(batch, parts, strict=True)]

    def _of_whole(self, loss: Tensor) -> Tensor:
        """A part's loss as its part of the mean over the batch."""
        parts = self.config.micro_batches
        return loss if parts == 1 else loss / parts

    def _condition(self, draw: int, purpose: Purpose = Purpose.NOISE_D) -> Tensor | None:
        """The labels of a draw's rows and of its fakes; None if the model is not conditional."""
        return self.gan.one_hot(self.rows.labels_of(draw, purpose)) if self.gan.classes else None

    def _conditioned(self, condition: Tensor | None, network: DiscriminatorFn | None = None) -> DiscriminatorFn:
        """D, or an unrolled D, as a function of samples with these labels."""
        network = network or self.gan.discriminator
        return network if condition is None else lambda x: network(join(x, self._packed(condition)))

    def _fake(self, purpose: Purpose, it: int, step: int, part: MicroBatch, substream: int) -> Tensor:
        """Samples of G with the labels of a part, as D sees them."""
        config, pack = self.config, self.config.pack
        rows, offset = len(part.real) * pack, part.offset * pack
        z = self.gan.noise(rows, seed=config.seed, purpose=purpose, step=step, offset=offset, impl=config.impl)
        fake = self._packed(self._generated(join(z, part.labels)))
        return self._noisy(fake, it, step, substream, part.offset)

    def _generated(self, z: Tensor) -> Tensor:
        """G(z); where rows are drawn by their labels, its outputs before the heads are kept for the cross-entropy."""
        if self.rows.sampled is None:
            return self.gan.generator(z)
        body, heads = body_and_heads(self.gan.generator) or (self.gan.generator, torch.nn.Identity())
        self._before_heads = body(z)
        return heads(self._before_heads)

    def _cross_entropy(self, labels: Tensor | None) -> Tensor | float:
        """The cross-entropy of the last generated samples and their requested labels, if rows are drawn by labels."""
        if self.rows.sampled is None or labels is None:
            return 0.0
        return self.rows.sampled.cross_entropy(self._before_heads, labels.argmax(1))

    def _noisy(self, samples: Tensor, it: int, step: int, substream: int, offset: int) -> Tensor:
        return tricks.noisy(samples, self.config, it, step, substream, offset)

    def _ahead(self, part: MicroBatch, fake: Tensor, draw: int) -> DiscriminatorFn:
        """D `unroll` updates after this iteration's last draw."""

        def loss(network: DiscriminatorFn) -> Tensor:
            discriminator = self._conditioned(part.labels, network)
            return self._discriminator_loss(discriminator(part.real), discriminator(fake))

        description = self.discriminator.description
        assert isinstance(description, Adam | Momentum)
        network = look_ahead(
            self.gan.discriminator,
            self.discriminator.optimizer,
            description,
            loss,
            self.config.unroll,
            update=draw + 1,
            epoch=self.rows.epoch(draw),
        )
        return self._conditioned(part.labels, network)

    def _packed(self, samples: Tensor) -> Tensor:
        return packed(samples, self.config.pack)

    def _update_ema(self) -> None:
        if self.config.ema_decay is not None:
            self.gan.update_ema(self.config.ema_decay)

    def _discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        config = self.config
        if not isinstance(config.loss, str):
            return config.loss[0](real_logits, fake_logits)
        assert config.discriminator_loss is not None
        loss = losses.discriminator_loss(
            real_logits,
            fake_logits,
            kind=config.discriminator_loss,
            real_label=config.real_label,
            fake_label=config.fake_label,
            impl=config.impl,
        )
        assert isinstance(loss, Tensor)  # a pair only with reduction="none"
        return loss

    def _generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        kind = self.config.loss
        if not self.config.generator_sees_real:
            real_logits = None
        if not isinstance(kind, str):
            return kind[1](fake_logits) if real_logits is None else kind[1](fake_logits, real_logits)
        assert kind != "feature_matching"
        return losses.generator_loss(fake_logits, kind=kind, real_logits=real_logits, impl=self.config.impl)

    def _feature_matching(self, discriminator: DiscriminatorFn, real: Tensor, fake: Tensor) -> Tensor:
        network = self.gan.discriminator
        with torch.no_grad():
            of_real = tricks.features(network, discriminator, real)
        return losses.feature_matching_loss(of_real, tricks.features(network, discriminator, fake))

    def _penalty(self, part: MicroBatch, fake: Tensor, draw: int) -> Tensor | float:
        config = self.config
        total: Tensor | float = 0.0
        for kind in config.penalties:
            total = total + losses.gradient_penalty(
                part.discriminator,
                part.real,
                fake,
                kind=kind,
                weight=config.penalty_weight,
                seed=config.seed,
                step=draw,
                offset=part.offset,
                impl=config.impl,
            )
        return total

    def _supervised(self, draw: int) -> Tensor | float:
        """The cross-entropy of labelled rows, where D tells classes apart."""
        discriminator = self.gan.discriminator
        if not isinstance(discriminator, nn.ClassDiscriminator):
            return 0.0
        return discriminator.supervised_loss(*self.rows.labelled(draw))


class MicroBatch(NamedTuple):
    """A part of a batch that goes through the networks at once: all of it, unless gradients are accumulated.

    Args:
        real: (n, ...) inputs of D.
        labels: (n * pack, classes), of the rows, one-hot; None if the model is not conditional.
        discriminator: D as a function of samples with these labels.
        offset: number of its first input in the batch of all processes.
    """

    real: Tensor
    labels: Tensor | None
    discriminator: DiscriminatorFn
    offset: int


def _whole(parts: list[_Tensors]) -> _Tensors:
    """The values of a batch from those of its parts: losses are added, logits are concatenated."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*parts, strict=True)
    whole: Any = tuple(torch.stack(each).sum() if each[0].ndim == 0 else torch.cat(each) for each in columns)
    return whole


def _detached(of_part: _Tensors) -> _Tensors:
    """The values of a part without their graph, which keeps activations that no backward pass has freed."""
    detached: Any = tuple(value.detach() for value in of_part)
    return detached


def packed(samples: Tensor, pack: int) -> Tensor:
    """Samples (m * pack, n, ...) as inputs (m, pack * n, ...) of D, neighbours side by side."""
    if pack == 1:
        return samples
    return samples.reshape(len(samples) // pack, pack * samples.shape[1], *samples.shape[2:])


class Metrics:
    """Losses and logits of up to `rows` iterations, kept on the device until one transfer fetches them.

    Args:
        rows: most iterations.
        threshold: logit above which D classifies a row as real.
    """

    def __init__(self, rows: int, threshold: float) -> None:
        self.rows, self.threshold, self.done = rows, threshold, 0
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
    def fetch(self, ranks: Ranks | None = None) -> np.ndarray:
        losses, logits = self.losses[: self.done], self.logits[: self.done]
        # A row at a time: in one call for all, a row's last bit would depend on how many there are.
        probability = torch.stack([torch.sigmoid(row).mean(-1) for row in logits])
        # A logit is right above the threshold on real data, and below it on fakes. NaN is neither.
        sign = torch.tensor([1.0, -1.0], dtype=logits.dtype).to(logits.device)
        threshold = torch.tensor(self.threshold, dtype=logits.dtype).to(logits.device)
        right = (logits * sign[:, None] > threshold * sign[:, None]).to(logits.dtype).mean(-1)
        metrics = torch.cat([losses, probability, right], 1).double()
        if ranks is not None:
            ranks.mean_([metrics])  # each rank has as many rows as the others
        table: np.ndarray = metrics.cpu().numpy()
        return table


def may_run_again(module: torch.nn.Module) -> bool:
    """Whether its forward pass is the user's own code, which may run a part again in the backward pass.

    `torch.utils.checkpoint` does: it restores torch's generator, so the masks are the same, but no other counter.
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
def replayable_torch(device: torch.device, rank: int = 0) -> Iterator[Callable[[int, int], None]]:
    """Gives reseed(seed, step) of torch's own generators, so that dropout replays; restores them.

    Each of several processes, numbered by rank, draws other numbers.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]

    def reseed(seed: int, step: int) -> None:
        for generator in generators:
            generator.manual_seed(random.torch_seed(seed, step, rank))

    try:
        yield reseed
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
