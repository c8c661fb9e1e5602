"""Labels on the command line: how many classes the data have, and of which class each sample shall be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan import data
from fastgan.apps.cli.runs import RunConfig
from fastgan.data import Dataset

_OF_DIGITS, _DIGITS = ("digits", *data.USERS_OWN), 10


def classes_of(dataset: Dataset, source: str) -> int:
    """How many classes the data are known to have, or else their labels name.

    Raises:
        ValueError: there are no labels, or they do not count classes from 0, or name more than there are rows.
    """
    if dataset.labels is None:
        labelled = "digits, ring, grid, gaussians, mixture1200d, MNIST's or CIFAR-10's files, or a file with --labels"
        raise ValueError(f"--conditional must be used with data that have labels ({labelled}), got {source}")
    low, high = int(dataset.labels.min()), int(dataset.labels.max())
    if low < 0:
        raise ValueError(f"--conditional must be used with labels from 0 up, one a class, got {low} to {high}")
    # A few rows need not contain every class.
    known = len(dataset.centres) if dataset.centres is not None else _DIGITS if source in _OF_DIGITS else 0
    if high >= max(known, len(dataset)):  # so large a number is no class: a network would get so many inputs
        got = f"{len(dataset)} rows for labels up to {high}"
        raise ValueError(f"--conditional must be used with a row or more for each class, got {got}")
    return max(known, high + 1)


def check(config: RunConfig, labels: Sequence[int] | None) -> None:
    """Raise unless the samples of this run can have these labels."""
    classes = config.networks.classes
    if labels is None:
        return
    if not classes:
        raise ValueError(f"--labels must be left out for a run without --conditional, got {_list(labels)}")
    if not all(0 <= label < classes for label in labels):
        raise ValueError(f"--labels must lie in 0 to {classes - 1}, got {_list(labels)}")


def in_turn(config: RunConfig, labels: Sequence[int] | None, n: int, offset: int = 0) -> Tensor | None:
    """The labels of samples offset .. offset+n: the requested ones, or all, one after another; None without classes."""
    classes = config.networks.classes
    if not classes:
        return None
    chosen = torch.tensor(labels if labels is not None else range(classes))
    return chosen[torch.arange(offset, offset + n) % len(chosen)]


def _list(labels: Sequence[int]) -> str:
    return ",".join(map(str, labels))
