"""Callbacks: a run calls them between iterations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastgan._errors import Invalid
from fastgan.models import GAN
from fastgan.training.config import TrainConfig

if TYPE_CHECKING:
    from fastgan.training.result import TrainResult

log = logging.getLogger("fastgan")


@dataclass
class Run:
    """The run a callback belongs to.

    Args:
        gan: as it is after `step` iterations.
        config: of the run.
        run_dir: its folder, or None.
        engine: which engine trains, and why in `engine_reason`.
        step: iterations done.
        stop: set to True to end the run as if interrupted.
        held: seconds that a callback has made the run wait; `train` subtracts them when it chooses how many iterations
            make a chunk.
        checkpoint: the last one written or resumed from, or None.
        member: its number in a population, from 0.
        no_logits: why D's outputs look like probabilities although the losses take logits; None if they do not.
    """

    gan: GAN
    config: TrainConfig
    run_dir: Path | None
    engine: str
    engine_reason: str
    step: int = 0
    stop: bool = False
    held: float = 0.0
    checkpoint: Path | None = field(default=None)
    member: int = 0
    no_logits: str | None = None


class Callback:
    """Base of the callbacks: override what you need. Calls come between iterations, on the training thread.

    A callback may draw samples or random numbers: that does not change the training.

    Args:
        every: also end a chunk at each multiple of `every` iterations, so that `on_chunk` is called exactly
            there; 0: the engine decides, a few times a second.
        one_run: True if it keeps state of one run: `train_population` then refuses it.
        reads_networks: False if `on_chunk` neither reads nor changes networks and optimisers: the CPU engine then does
            not update them before the call, nor read them again after it.
    """

    every: int = 0
    one_run: bool = False
    reads_networks: bool = True

    def on_start(self, run: Run) -> None:
        """Before the first iteration; `run.step` is above 0 after a resume."""

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        """After some iterations: their history rows, one an iteration, by column name."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """After a checkpoint has been written; path: its JSON file."""

    def on_end(self, run: Run, result: TrainResult) -> None:
        """After the last iteration, also after an interruption; not after an error."""

    def on_failure(self, run: Run, why: str) -> None:
        """After a loss or a logit that is not finite has ended a member of a population."""


_HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def check_callbacks(invalid: Invalid, callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """The callbacks of a call; those with a method like a hook of another library, which nothing calls, are warned of.

    Raises:
        TypeError: one is none, such as a function or a class.
    """
    if not isinstance(callbacks, Iterable):
        raise invalid.type("callbacks", f"must be a list of fastgan.Callback objects, got {type(callbacks).__name__}")
    found = tuple(callbacks)
    for one in found:
        if not isinstance(one, Callback):
            got = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            raise invalid.type("callbacks", f"must hold fastgan.Callback objects, got {got}")
        if strange := sorted(name for name in dir(one) if name.startswith("on_") and name not in _HOOKS):
            text = "%s: %s.%s is never called: the hooks of a Callback are %s"
            log.warning(text, invalid.operation, type(one).__name__, strange[0], ", ".join(_HOOKS))
    return found
