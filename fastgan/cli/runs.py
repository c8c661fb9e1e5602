"""The run folder: config.json says what was trained on what, and how; the rest is made from it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan import data
from fastgan.data import Dataset, Standardizer
from fastgan.models import GAN
from fastgan.presets import Networks
from fastgan.training import TrainConfig, checkpoint

FORMAT = 1
POPULATION = "population.json"  # in the folder of many runs


@dataclass(frozen=True)
class RunConfig:
    """Everything a run folder is made from.

    Args:
        source: name of a data set, or absolute path.
        n: rows asked for; None: all.
        data_seed: of synthetic data.
        read: how a file is read, where that was given: options of `fastgan.data.read`.
        networks: G and D.
        train: how they are trained.
        columns: mean and standard deviation taken out of the data; None where the data is used as it is.
        image_shape, value_range: of the data, for pictures.
        column_names: of the data, for pictures and the first line of a .csv.
    """

    source: str
    n: int | None
    data_seed: int
    networks: Networks
    train: TrainConfig
    columns: Standardizer | None = None
    image_shape: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    column_names: tuple[str, ...] = ()
    read: dict[str, Any] = field(default_factory=dict)

    def load_data(self) -> Dataset:
        """The rows p_data is known by; in float64 where their columns are standardised.

        Raises:
            ValueError: a conditional run's have no labels any more.
        """
        dataset = self.load(self.n)
        if self.networks.classes and dataset.labels is None:
            raise ValueError(f"{self.source} must have the labels that the run was trained with, got none")
        if (columns := dataset.shape[1:].numel()) != self.networks.data_dim:
            wanted = self.networks.data_dim
            raise ValueError(f"{self.source} must have the {wanted} columns the run was trained with, got {columns}")
        return self.in_units(dataset)

    def load(self, n: int | None = None) -> Dataset:
        """The first n rows of the source, or all. What is left out of them was said when training began."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", data.DataWarning)
            return data.load(self.source, n=n, seed=self.data_seed, **self.read)

    def in_units(self, dataset: Dataset) -> Dataset:
        """The rows with all the digits that standardising them needs."""
        return dataset if self.columns is None else dataset.double()

    def build(self) -> GAN:
        """Both networks with their first weights."""
        return self.networks.build(seed=self.train.seed, impl=self.train.impl, pack=self.train.pack)

    def training_rows(self, dataset: Dataset) -> Any:
        """The data as the networks see them."""
        return dataset if self.columns is None else self.columns.transform(dataset)

    def restore(self, x: Tensor) -> Tensor:
        """Samples of G in the data's own units; float64 where columns were standardised."""
        return x if self.columns is None else self.columns.inverse(x)

    def probability(self, gan: GAN) -> Callable[[Tensor], Tensor]:
        """D(x) of points in the data's own units, as a function."""

        def d(x: Tensor) -> Tensor:
            inside = x if self.columns is None else self.columns.transform(x)
            return torch.sigmoid(gan.logits(inside).double()).cpu()

        return d

    def to_json(self) -> bytes:
        from fastgan import __version__

        body = {
            "format": FORMAT,
            "fastgan": __version__,
            "source": self.source,
            "n": self.n,
            "data_seed": self.data_seed,
            "image_shape": self.image_shape,
            "value_range": self.value_range,
            "column_names": self.column_names,
            "read": self.read,
            "columns": None if self.columns is None else self.columns.as_dict(),
            "networks": dataclasses.asdict(self.networks),
            "train": self.train.as_dict(),
        }
        return (json.dumps(body, indent=1) + "\n").encode()


def read(folder: Path, *, of_many: bool = False) -> RunConfig:
    """The config of a run folder.

    Args:
        folder: of the run.
        of_many: it may be the folder of a population too.

    Raises:
        FileNotFoundError: it is no run folder. ValueError: its config.json is damaged.
    """
    if not of_many and (folder / POPULATION).is_file():
        raise ValueError(f"RUN_DIR must be of one GAN, as {folder / 'member-0000'}, got {folder} with many")
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.json")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {body['format']!r}")
        columns = body["columns"]
        return RunConfig(
            source=str(body["source"]),
            n=body["n"],
            data_seed=int(body["data_seed"]),
            networks=_networks(body["networks"]),
            train=TrainConfig.from_dict(body["train"]),
            columns=None if columns is None else Standardizer.from_dict(columns),
            image_shape=_pair(body["image_shape"], int),
            value_range=_pair(body["value_range"], float),
            column_names=_names(body.get("column_names", []), body["networks"]["data_dim"]),  # younger than the format
            read={name: tuple(v) if isinstance(v, list) else v for name, v in body.get("read", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} must be the config of a run, got: {reason}") from error


def trained(folder: Path, config: RunConfig) -> GAN:
    """The networks of a run at its newest checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    gan = config.build()
    found = checkpoint.load(folder)
    if any(name.startswith("averaged.") for name in found.gan_state()):
        gan.keep_average()
    found.restore(gan)
    return gan


def _networks(values: dict[str, Any]) -> Networks:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Networks(**fields)


def _names(values: list[str], columns: int) -> tuple[str, ...]:
    names = tuple(map(str, values))
    if names and len(names) != columns:
        raise ValueError(f"column_names must be one for each of {columns} columns, got {len(names)}")
    return names


def _pair(values: list[Any] | None, kind: Callable[[Any], Any]) -> Any:
    if values is None:
        return None
    first, second = values
    return kind(first), kind(second)


class Folder:
    """The folder of a run to be trained; of a new one nothing remains when training never starts.

    Args:
        path: of an existing run folder; `new` makes one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_new = False
        self._made: list[Path] = []

    @classmethod
    def new(cls, out: str | None, source: str) -> Folder:
        """An empty folder at `out`, or the first free runs/<source>-<n>.

        Raises:
            ValueError: there is something in it, or it cannot be made.
        """
        folder = cls(_free(source) if out is None else Path(out))
        folder._is_new = True
        if folder.path.is_dir() and any(folder.path.iterdir()):
            raise ValueError(f"--out must be new or empty, or be resumed with --resume, got {folder.path}")
        try:
            for path in [*reversed(folder.path.parents), folder.path]:
                if not path.is_dir():
                    path.mkdir()
                    folder._made.append(path)
        except OSError as error:
            folder.discard()
            raise ValueError(f"--out must be a folder that can be made, got {folder.path}: {error.strerror}") from error
        return folder

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from; a run killed before its first checkpoint begins again."""
        return bool(checkpoint.steps(self.path / "checkpoint"))

    def discard(self) -> None:
        """Take back what was made, unless the folder is an older run's or iterations have been recorded."""
        history = self.path / "history.csv"
        if not self._is_new or (history.is_file() and history.read_bytes().count(b"\n") > 1):
            return
        for name in ("config.json", "history.csv"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        for folder in (self.path / "checkpoint", *reversed(self._made)):
            with contextlib.suppress(OSError):  # not empty: then it is not ours alone
                folder.rmdir()


def _free(source: str) -> Path:
    stem = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.") or "run"
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path


def usable_device(name: str) -> torch.device:
    """A device that exists here.

    Raises:
        ValueError: torch does not know it or cannot use it.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" can make a tensor, but has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"--device must be one that torch can use here, got {name!r} ({reason})") from None
    return device
