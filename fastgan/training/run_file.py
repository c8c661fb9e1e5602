"""config.json of a run folder, as `train` writes it: what the commands need to know beside the checkpoint."""

from __future__ import annotations

import json
from typing import Any

import torch

from fastgan import data
from fastgan._run_folder import CONFIG, CONFIG_FORMAT
from fastgan.data import Dataset
from fastgan.training.config import TrainConfig
from fastgan.training.rows import Minibatches

_FIXED = ("digits",)  # data that their name and the number of rows give


def _source(dataset: Dataset) -> str | None:
    """The name of the data set whose first rows these are; None of others, which may keep its name."""
    if dataset.name not in _FIXED:
        return None
    try:
        whole = data.load(dataset.name)
    except ImportError:
        return None
    n = len(dataset)
    same = n <= len(whole) and dataset.shape[1:] == whole.shape[1:] and dataset.divisor == whole.divisor
    for mine, first in ((dataset.data, whole.data[:n]), (dataset.labels, whole.head(min(n, len(whole))).labels)):
        if same and mine is not None and first is not None:
            same = torch.equal(mine.cpu(), first)
    return dataset.name if same else None


def to_bytes(config: TrainConfig, rows: Minibatches) -> bytes:
    """The file's contents. Networks are null: the checkpoint describes them. So is the source of data without a name.

    The command line writes its own, with both, and with how the data were read.
    """
    from fastgan import __version__

    dataset = rows.data if isinstance(rows.data, Dataset) else None
    known: dict[str, Any] = {"source": None, "image_shape": None, "value_range": None, "column_names": ()}
    if dataset is not None:
        known = {name: getattr(dataset, name) for name in known if name != "source"}
        known["source"] = _source(dataset)
    body = {
        "format": CONFIG_FORMAT,
        "fastgan": __version__,
        "n": rows.n if known["source"] is not None else None,
        "data_seed": 0,
        "fingerprint": None,
        "read": {},
        "columns": None,
        "networks": None,
        "train": config.as_dict(),
        **known,
    }
    return (json.dumps(body, indent=1) + "\n").encode()


def with_train(old: bytes, config: TrainConfig) -> bytes:
    """The file's contents with another training config; all else stays.

    Raises:
        ValueError: they are no JSON object.
    """
    body = json.loads(old)
    if not isinstance(body, dict):
        raise ValueError(f"{CONFIG} must hold an object, got {type(body).__name__}")
    return (json.dumps(body | {"train": config.as_dict()}, indent=1) + "\n").encode()
