"""The verbs of an iteration of Algorithm 1 in their order, as csrc/recorder.h lists them, and what is counted there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgan import _backend, _schema
from fastgan.training.config import TrainConfig

# A verb of csrc/iteration.h and its arguments; the number of a step is (times, plus): times * iteration + plus.
Verb = tuple[str, list[Any]]


def iteration_plan(config: TrainConfig) -> dict[str, Any]:
    """The fields on which the order of an iteration's steps depends."""
    return _schema.of_config("IterationPlan", config) | {
        "simultaneous": config.mode == "simultaneous",
        "relativistic": config.loss == "relativistic",
        "skip_nonfinite": config.nonfinite == "skip",
    }


def record(plan: Mapping[str, Any]) -> list[Verb]:
    """The verbs of an iteration of a plan, which has the fields of `iteration_plan`."""
    verbs: list[Verb] = _backend.native.record({name: plan[name] for name in _schema.FIELDS["IterationPlan"]})
    return verbs


def sub_batches(batch: str) -> list[str]:
    """The sub-batches in the argument of `show`, in order: "real" and "fake"."""
    return batch.split("_")


def dropout_seeds(config: TrainConfig, of_g: int, of_d: int) -> int:
    """How many dropout seeds an iteration draws, from the numbers for a forward pass of G and of D."""
    count = 0
    for name, arguments in record(iteration_plan(config)):
        if name == "forward_g":
            count += of_g
        elif name == "show":
            count += len(sub_batches(*arguments)) * of_d
        elif name == "penalty":
            count += len(config.penalties) * of_d
    return count
