"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastgan._results import Result


@dataclass(frozen=True, eq=False, repr=False)
class TrainResult(Result):
    """The result of a run.

    Args:
        history: one row an iteration, by column: step (iterations done, from 1), loss_d and loss_g (the descended
            losses, penalty included), d_real and d_fake (mean of D(x) and of D(G(z)), before the update),
            accuracy_real and accuracy_fake (fraction of the batch on the right side of `config.threshold`). With k > 1
            they are of the last D step.
        steps_per_second: iterations a second in this call, checkpoints and callbacks included.
        engine: which engine ran, and why in `engine_reason`.
        step: iterations done in all.
        interrupted: whether Ctrl-C, SIGTERM or a callback ended the run early.
    """

    history: dict[str, np.ndarray]
    steps_per_second: float
    engine: str
    engine_reason: str
    step: int
    interrupted: bool
