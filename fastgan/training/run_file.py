"""config.json of a run folder, as `train` writes it: what the commands need to know beside the checkpoint."""

from __future__ import annotations

import json
from typing import Any

from fastgan.data import Dataset
from fastgan.training.config import TrainConfig
from fastgan.training.rows import Minibatches

NAME = "config.json"
FORMAT = 1
_FIXED = ("digits",)  # data that their name and the number of rows give


def to_bytes(config: TrainConfig, rows: Minibatches) -> bytes:
    """The file's contents. Networks are null: the checkpoint describes them. So is the source of data without a name.

    The command line writes its own, with both, and with how the data were read.
    """
    from fastgan import __version__

    dataset = rows.data if isinstance(rows.data, Dataset) else None
    known: dict[str, Any] = {"source": None, "image_shape": None, "value_range": None, "column_names": ()}
    if dataset is not None:
        known = {name: getattr(dataset, name) for name in known if name != "source"}
        known["source"] = dataset.name if dataset.name in _FIXED else None
    body = {
        "format": FORMAT,
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
