"""The ring of unrolled GANs: how many modes G reaches when it looks K updates of D ahead, and when it does not.

Settings of Metz et al. (2017), appendix A, as far as they are known: 8 modes on a circle of radius 2 with standard
deviation 0.02, z of 256 normal numbers, G with two hidden layers of 128 ReLU units, D with one behind an input divided
by 4, orthogonal weights of gain 0.8, Adam of rate 1e-4 and beta1 0.5 for both, the minimax loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import data, evaluation, nn
from fastgan._errors import Invalid
from fastgan.apps.reproduce.table import FASTGAN, Figure, Row
from fastgan.apps.reproduce.trials import SAMPLES, Recorder
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.training import Adam, Callback, TrainConfig, train_population

UNROLLS = (0, 1, 5, 10)
COSTS = ("minimax", "non_saturating", "mle")
STEPS = 25_000
TRIALS = 10
COLUMNS = ("modes", "trials with all 8", "% high quality", "reverse KL")


@dataclass(frozen=True)
class Trial:
    """One GAN on the ring.

    Args:
        overrides: what sets its column of the table apart, as {"unroll": 5} or {"loss": "mle"}.
        seed: of its weights, rows and noise.
        history: (evaluations, 4): iteration, modes with a sample within three standard deviations, share of such
            samples, KL(p_g||uniform) over the nearest modes of all samples. The last row is the end of training,
            unless that was interrupted.
        failed: what was not finite and when, where that ended it before; else None.
        samples: (2500, 2), from G as it is in the end.
    """

    overrides: Mapping[str, Any]
    seed: int
    history: np.ndarray
    failed: str | None
    samples: Tensor = field(repr=False)

    @property
    def step(self) -> int:
        """Iteration of the last evaluation; 0 before the first."""
        return int(self.history[-1, 0]) if len(self.history) else 0

    @property
    def modes(self) -> int:
        """Modes found, of 8, at the last evaluation; 0 for a GAN that broke down before the first."""
        return int(self.history[-1, 1]) if len(self.history) else 0

    @property
    def high_quality(self) -> float:
        """Share of the samples near a mode, at the last evaluation."""
        return float(self.history[-1, 2]) if len(self.history) else 0.0


def ring(rows: int = 100_000) -> Dataset:
    """8 modes at radius 2, standard deviation 0.02."""
    return data.ring(rows, radius=2.0, std=0.02)


def networks() -> GAN:
    """G 256-128-128-2 and D 2-128-1, ReLU; the division of D's input by 4 is in its first weights."""
    generator, discriminator = (nn.MLP(sizes, activation="relu") for sizes in ([256, 128, 128, 2], [2, 128, 1]))
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.orthogonal_(layer.weight, 0.8)
                torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        next(discriminator.parameters()).div_(4)
    return GAN(generator, discriminator, latent_dim=256, data_shape=(2,))


def trials_on_ring(
    grid: Mapping[str, Sequence[Any]],
    *,
    trials: int = TRIALS,
    steps: int = STEPS,
    batch_size: int = 512,
    learning_rate: float = 1e-4,
    looks: int = 10,
    threads: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Trial]:
    """Train the networks above on the ring with every value of the grid and every seed.

    {"unroll": UNROLLS} is the table of Metz et al. (2017), section 3.1: K = 0 runs in a compiled engine, the others in
    the eager one. {"loss": COSTS} asks whether the divergence makes a GAN lose modes: the maximum-likelihood cost
    descends KL(p_data||p_g) where D is optimal, which punishes every mode left out; the other two descend divergences
    that do not. Goodfellow (2016), section 3.2.5, says that all three choose few modes.

    Args:
        grid: values by field of the config, as for `train_population`; the loss is minimax if it sets none.
        trials: GANs for each value, with the seeds 0, 1, ...
        steps: iterations of each, one step of D and one of G.
        batch_size: rows of data and of noise in a step.
        learning_rate: of both players.
        looks: evaluations of each, evenly spread.
        threads: of the CPU.
        callbacks: called for each trial, as in `train_population`.

    Returns:
        A Trial for each grid point and seed, point by point.

    Raises:
        ValueError: a number that breaks its rule.
    """
    for name, value in (("trials", trials), ("looks", looks)):
        if value < 1:
            raise Invalid("reproduce").value(name, f"must be at least 1, got {value}")
    rows = ring()
    config = TrainConfig(steps=steps, batch_size=batch_size, loss="minimax", optimizer=Adam(learning_rate))
    history = Recorder(max(1, steps // looks), lambda samples: _coverage(samples, rows))
    result = train_population(
        networks, rows, config, seeds=range(trials), grid=grid, callbacks=[*callbacks, history], threads=threads
    )
    return [
        Trial(
            overrides=member.overrides,
            seed=member.seed,
            history=np.array(history.rows.get(number, [])),
            failed=member.failed,
            samples=member.gan.sample(SAMPLES, seed=0, device="cpu"),
        )
        for number, member in enumerate(result.members)
    ]


def _coverage(samples: Tensor, dataset: Dataset) -> dict[str, float]:
    assert dataset.centres is not None and dataset.std is not None
    found = evaluation.mode_coverage(samples, dataset.centres, dataset.std)
    return {"modes": float(found.covered), "high_quality": found.high_quality, "reverse_kl": found.reverse_kl}


# ---------------------------------------------------------------- the table


def groups(found: Sequence[Trial]) -> dict[str, list[Trial]]:
    """The trials by what sets them apart: "K = 5", or the cost of G."""
    by_label: dict[str, list[Trial]] = {}
    for trial in found:
        ((name, value),) = trial.overrides.items()
        by_label.setdefault(f"K = {value}" if name == "unroll" else str(value), []).append(trial)
    return by_label


def table(found: Sequence[Trial]) -> list[Row]:
    """A row for each group: means over the trials at their ends, with standard errors."""
    return [Row("ring", label, FASTGAN, _figures(own)) for label, own in groups(found).items()]


def _figures(trials: Sequence[Trial]) -> dict[str, Figure]:
    last = [trial.history[-1] for trial in trials if len(trial.history)]
    values = (
        Figure.of([trial.modes for trial in trials]),
        Figure(sum(trial.modes == 8 for trial in trials)),
        Figure.of([100 * trial.high_quality for trial in trials]),
        Figure.of([row[3] for row in last]) if last else Figure(math.nan),
    )
    return dict(zip(COLUMNS, values, strict=True))
