"""Does the divergence make a GAN lose modes? The three costs of G on the same ring, networks and seeds, in one table.

The maximum-likelihood cost descends KL(p_data||p_g) where D is optimal, which punishes every mode left out; the other
two descend divergences that do not. What the table says is up to the trials: Goodfellow (2016), section 3.2.5, holds
that all three choose few modes, so that the choice of divergence is not the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastgan.apps.reproduce.unrolled import Trial, trials_on_ring
from fastgan.training import Adam, Callback, TrainConfig

COSTS = ("minimax", "non_saturating", "mle")


def costs(
    losses: Sequence[str] = COSTS,
    *,
    trials: int = 5,
    steps: int = 25_000,
    batch_size: int = 512,
    learning_rate: float = 1e-4,
    looks: int = 10,
    threads: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Trial]:
    """Train on the ring of `unrolled` with each cost of G and each seed; all in a compiled engine.

    Args:
        losses: kinds of `fastgan.generator_loss`.
        trials: GANs for each, with the seeds 0, 1, ...
        steps, batch_size, learning_rate, looks, threads, callbacks: as for `unrolled`.

    Returns:
        A Trial for each cost and seed, cost by cost.
    """
    config = TrainConfig(steps=steps, batch_size=batch_size, optimizer=Adam(learning_rate))
    return trials_on_ring(config, {"loss": losses}, trials=trials, looks=looks, threads=threads, callbacks=callbacks)
