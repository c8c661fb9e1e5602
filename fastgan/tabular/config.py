"""The options of a TabularGAN."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from fastgan._errors import Invalid, is_integer, is_number
from fastgan._options import EngineName, Precision
from fastgan.training import Adam, TrainConfig


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """How a TabularGAN is built and trained.

    Args:
        epochs: passes over the table: `ceil(rows / batch_size)` iterations each.
        steps: iterations, instead of epochs.
        batch_size: rows of a minibatch, a multiple of pack.
        pack: rows that D sees together (PacGAN).
        latent_dim: length of z.
        generator_hidden: features that each residual block of G appends.
        discriminator_hidden: widths of D's layers.
        dropout: probability that a unit of D is dropped.
        lr, betas: of Adam, for both networks.
        weight_decay: of Adam, for G.
        temperature: of the Gumbel-softmax.
        penalty_weight: of the gradient penalty (WGAN-GP).
        discriminator_steps: updates of D for each of G.
        ema_decay: of the moving average of G's weights, from which `sample` draws; None: no average. A training of few
            iterations gets a lower one, `1 - 10 / steps`, so that G's first weights do not count; a resume keeps it.
        engine, precision, checkpoint_every: as in `TrainConfig`.
        seed: for the weights and all random numbers.

    Raises:
        ValueError: a number that breaks its rule.
    """

    epochs: int = 300
    steps: int | None = None
    batch_size: int = 500
    pack: int = 10
    latent_dim: int = 128
    generator_hidden: tuple[int, ...] = (256, 256)
    discriminator_hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.5
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 1e-6
    temperature: float = 0.2
    penalty_weight: float = 10.0
    discriminator_steps: int = 1
    ema_decay: float | None = 0.99
    engine: EngineName = "auto"
    precision: Precision = "fp32"
    checkpoint_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        def check(name: str, valid: bool, rule: str) -> None:
            if not valid:
                raise Invalid("TabularGAN").value(name, f"must be {rule}, got {getattr(self, name)!r}")

        for name in ("epochs", "batch_size", "pack", "latent_dim", "discriminator_steps"):
            check(name, is_integer(getattr(self, name)) and getattr(self, name) >= 1, "a whole number of at least 1")
        check("steps", self.steps is None or is_integer(self.steps) and self.steps >= 1, "None or at least 1")
        check("batch_size", self.batch_size % self.pack == 0, f"a multiple of pack ({self.pack})")
        check("batch_size", self.batch_size > 1, "at least 2, which batch normalisation needs")
        for name, rule in (
            ("generator_hidden", "a list of widths"),
            ("discriminator_hidden", "a list of widths"),
            ("betas", "two numbers"),
        ):
            check(name, isinstance(getattr(self, name), Iterable), rule)
        for name in ("generator_hidden", "discriminator_hidden"):
            object.__setattr__(self, name, tuple(map(_plain, getattr(self, name))))
            check(name, all(is_integer(w) and w >= 1 for w in getattr(self, name)), "widths of at least 1")
        for name in ("dropout", "lr", "temperature", "weight_decay", "penalty_weight"):
            check(name, is_number(getattr(self, name)), "a number")
        object.__setattr__(self, "betas", tuple(map(_plain, self.betas)))
        check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        for name in ("lr", "temperature"):
            check(name, getattr(self, name) > 0, "above 0")
        for name in ("weight_decay", "penalty_weight"):
            check(name, getattr(self, name) >= 0, "at least 0")
        decay = self.ema_decay
        check("ema_decay", decay is None or is_number(decay) and 0 < decay < 1, "None or above 0 and below 1")
        every = self.checkpoint_every
        check("checkpoint_every", is_integer(every) and every >= 0, "a whole number of at least 0")
        check("seed", is_integer(self.seed) and 0 <= self.seed < 2**63, "at least 0 and below 2**63")
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _plain(getattr(self, item.name)))

    def training(self, rows: int, device: torch.device | str = "cpu") -> TrainConfig:
        """The config of `fastgan.train` for a table of `rows` rows."""
        adam = Adam(lr=self.lr, betas=self.betas)
        config = TrainConfig(
            steps=self.steps or self.epochs * -(-rows // self.batch_size),
            batch_size=self.batch_size // self.pack,
            pack=self.pack,
            k=self.discriminator_steps,
            loss="wasserstein",
            gradient_penalty="wgan-gp",
            penalty_weight=self.penalty_weight,
            generator_optimizer=dataclasses.replace(adam, weight_decay=self.weight_decay),
            discriminator_optimizer=adam,
            ema_decay=self.ema_decay,
            engine=self.engine,
            precision=self.precision,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
            device=str(device),
        )
        return config.with_ema_for_its_length()


def _plain(value: Any) -> Any:
    """A number of NumPy or a tensor as one of Python, which JSON can hold."""
    return value.item() if hasattr(value, "item") else value
