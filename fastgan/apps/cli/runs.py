"""The run folder: config.json says what was trained on what, and how; the rest is made from it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import data, random
from fastgan._options import Impl
from fastgan._run_folder import CONFIG, CONFIG_FORMAT, LOCK, TABLE, checkpoints
from fastgan.apps.cli import checks
from fastgan.apps.cli.arguments import explain
from fastgan.apps.presets import Networks
from fastgan.data import Dataset, Standardizer
from fastgan.models import GAN
from fastgan.training import CheckpointError, TrainConfig, load_checkpoint

POPULATION = "population.json"  # in the folder of many runs
UNKNOWN = "data given in Python"  # the source of a run that `fastgan.train` began with data that have no name
_FINGERPRINT = 1 << 26  # numbers of the data that a fingerprint looks at
_CHUNK = 1 << 12  # rows at a time


@dataclass(frozen=True)
class RunConfig:
    """Everything a run folder is made from.

    Args:
        source: name of a data set, or absolute path.
        n: requested rows; None: all.
        data_seed: of synthetic data.
        read: how a file is read, where that was given: options of `fastgan.data.read`.
        networks: G and D; those of a run that Python began are described by its checkpoint.
        train: how they are trained.
        columns: mean and standard deviation taken out of the data; None if the data is used as it is.
        image_shape, value_range: of the data, for pictures.
        column_names: of the data, for pictures and the first line of a .csv.
        held_out: rows kept from training, for `fastgan evaluate`: drawn by chance, always the same ones.
        fingerprint: of the rows of a file; None of named data, and of runs from before there were any.
        functions: fields of `train` that were functions; a file has their names alone, and they are left out of it.
    """

    source: str
    n: int | None
    data_seed: int
    networks: Networks | Trained
    train: TrainConfig
    columns: Standardizer | None = None
    image_shape: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    column_names: tuple[str, ...] = ()
    held_out: int = 0
    fingerprint: str | None = None
    read: dict[str, Any] = field(default_factory=dict)
    functions: tuple[str, ...] = ()

    def moved(self, path: str) -> RunConfig:
        """The same run of data that are at another path now; `load_data` compares them.

        Raises:
            ValueError: the data were no file.
        """
        if self.source == UNKNOWN and path in data.NAMES:
            return dataclasses.replace(self, source=path)
        if self.source in data.NAMES:
            raise ValueError(f"--data must be left out for a run on {self.source}, which is no file, got {path}")
        return dataclasses.replace(self, source=absolute(path))

    def load_data(self) -> Dataset:
        """The rows p_data is known by; in float64 where their columns are standardised.

        Raises:
            FileNotFoundError: they are not where they were.
            ValueError: they are others than the run was trained on, or a conditional run's have no labels any more; or
                they were given by Python.
        """
        if self.source == UNKNOWN:
            raise ValueError("--data must be given for a run that Python began: where its data are, got none")
        try:
            dataset = training_part(self.in_units(self.load(self.n)), self.held_out)
        except FileNotFoundError as error:
            hint = "where the data have moved, give their new path: --data, or SOURCE of train --resume"
            raise FileNotFoundError(f"{explain(error)}; {hint}") from error
        if (features := dataset.shape[1:].numel()) != self.networks.data_dim:
            raise ValueError(f"{self.source} must have {self.networks.data_dim} features a row, got {features}")
        if self.networks.classes and dataset.labels is None:
            raise ValueError(f"{self.source} must have the labels that the run was trained with, got none")
        if self.fingerprint is not None and self.fingerprint != fingerprint(dataset):
            raise ValueError(f"{self.source} must hold the rows that the run was trained on, got others")
        return dataset

    def load(self, n: int | None = None) -> Dataset:
        """The first n rows of the source, or all. What is left out of them was said when training began."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", data.DataWarning)
            return data.load(self.source, n=n, seed=self.data_seed, **self.read)

    def held_out_part(self) -> Dataset | None:
        """The rows of the source that were not trained on: those held out, or those after the first n."""
        everything = self.in_units(self.load())
        if self.held_out:
            kept = everything if self.n is None else everything.head(self.n)
            return kept.take(_held_out_numbers(len(kept), self.held_out))
        if self.n is None or self.n == len(everything):
            return None
        return everything.take(torch.arange(self.n, len(everything)))

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
            "format": CONFIG_FORMAT,
            "fastgan": __version__,
            "source": None if self.source == UNKNOWN else self.source,
            "n": self.n,
            "data_seed": self.data_seed,
            "image_shape": self.image_shape,
            "value_range": self.value_range,
            "column_names": self.column_names,
            "held_out": self.held_out,
            "fingerprint": self.fingerprint,
            "read": self.read,
            "columns": None if self.columns is None else self.columns.as_dict(),
            "networks": dataclasses.asdict(self.networks) if isinstance(self.networks, Networks) else None,
            "train": self.train.as_dict(),
        }
        return (json.dumps(body, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Trained:
    """The networks of a run that `fastgan.train` began: its newest checkpoint describes them.

    Args:
        folder: of the run.
        shape: of a sample.
        classes: as in `GAN`.
    """

    folder: Path
    shape: tuple[int, ...]
    classes: int

    @classmethod
    def of(cls, folder: Path) -> Trained:
        """Those of a run folder.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged or of networks of the user's own class.
        """
        try:
            shape = load_checkpoint(folder).meta["data"]["shape"]
            return cls(folder, tuple(map(int, shape)), GAN.load(folder).classes)
        except CheckpointError:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{explain(error)}; in Python, fastgan.GAN.load takes it") from None

    @property
    def data_dim(self) -> int:
        """Features of a sample."""
        return math.prod(self.shape)

    def build(self, *, seed: int = 0, impl: Impl = "auto", pack: int = 1) -> GAN:
        """Both networks as they are now: what made their first weights is not known."""
        return GAN.load(self.folder)


def training_part(dataset: Dataset, held_out: int) -> Dataset:
    """The rows that are not held out, in their order."""
    if not held_out:
        return dataset
    kept = torch.ones(len(dataset), dtype=torch.bool)
    kept[_held_out_numbers(len(dataset), held_out)] = False
    return dataset.take(kept.nonzero().flatten())


def has_test_files(source: str) -> bool:
    """Whether a folder has MNIST's test images beside those to train on."""
    try:
        return Path(source).is_dir() and data.locate("mnist", source, "test").is_dir()
    except FileNotFoundError:
        return False


def _held_out_numbers(rows: int, count: int) -> Tensor:
    """Numbers of `count` rows, in their order, drawn by chance: files may be sorted. The same for every run."""
    return random.permutation(rows, seed=0, epoch=0, count=count).sort().values


def fingerprint(dataset: Dataset) -> str:
    """A sha256 of the rows as training sees them, and of their labels; of many rows, of some spread evenly."""
    shape = tuple(dataset.shape)
    count = min(len(dataset), max(1, _FINGERPRINT // max(1, dataset.shape[1:].numel())))
    index = torch.arange(count) * len(dataset) // count
    digest = hashlib.sha256(repr((shape, str(dataset.dtype))).encode())
    for part in index.split(_CHUNK):
        digest.update(np.ascontiguousarray(dataset.rows(part).cpu().numpy()).data)
    if dataset.labels is not None:
        digest.update(np.ascontiguousarray(dataset.labels[index].cpu().numpy()).data)
    return digest.hexdigest()


def absolute(source: str) -> str:
    """A path that means the same from anywhere; a suffix :NAME that picks an array stays."""
    return str(Path(source).absolute())


def read(folder: Path, *, of_many: bool = False, moved: str | None = None) -> RunConfig:
    """The config of a run folder.

    Args:
        folder: of the run.
        of_many: it may be the folder of a population too.
        moved: where its data are now, if not where they were.

    Raises:
        FileNotFoundError: it is no run folder. ValueError: its config.json is damaged, or its data cannot have moved.
    """
    if not of_many and (folder / POPULATION).is_file():
        raise ValueError(f"RUN_DIR must be of one GAN, as {folder / 'member-0000'}, got {folder} with many")
    path = folder / CONFIG
    if (folder / TABLE).is_file():
        raise ValueError(f"RUN_DIR must be of a GAN of numbers here, got {folder} of a TabularGAN")
    if not path.is_file() and (folder / POPULATION).is_file():
        raise ValueError(f"a population of TabularGANs must be trained again, it has no checkpoints, got {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.json")
    try:
        body = checks.read_object(path)
        if body["format"] != CONFIG_FORMAT:
            raise ValueError(f"format must be {CONFIG_FORMAT}, got {body['format']!r}")
        networks = Trained.of(folder) if body["networks"] is None else _networks(body["networks"])
        checks.columns(body, networks.data_dim)
        known, functions = _without_functions(body["train"])
        config = RunConfig(
            source=UNKNOWN if body["source"] is None is body["networks"] else checks.text(body, "source"),
            n=None if body["n"] is None else checks.whole(body, "n", 1),
            data_seed=checks.whole(body, "data_seed", 0),
            networks=networks,
            train=TrainConfig.from_dict(known),
            functions=functions,
            columns=None if body["columns"] is None else Standardizer.from_dict(body["columns"]),
            image_shape=checks.image_shape(body, networks.data_dim),
            value_range=checks.value_range(body),
            column_names=checks.column_names(body, networks.data_dim),
            held_out=0 if "held_out" not in body else checks.whole(body, "held_out", 0),
            fingerprint=None if body.get("fingerprint") is None else checks.text(body, "fingerprint"),
            read=checks.reading(body),
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} must be the config of a run, got: {reason}") from error
    return config if moved is None else config.moved(moved)


def trained(folder: Path, config: RunConfig) -> GAN:
    """The networks of a run at its newest checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    gan = config.build()
    load_checkpoint(folder).restore(gan)
    if not isinstance(config.networks, Trained) or len(config.networks.shape) == 1:
        return gan
    shape = config.networks.shape  # the commands know rows alone
    flat = GAN(
        torch.nn.Sequential(gan.generator, torch.nn.Flatten()),
        torch.nn.Sequential(torch.nn.Unflatten(1, shape), gan.discriminator),
        latent_dim=gan.latent_dim,
        prior=gan.prior,
        data_shape=(config.networks.data_dim,),
        classes=gan.classes,
    )
    flat.ema = None if gan.ema is None else torch.nn.Sequential(gan.ema, torch.nn.Flatten())
    return flat


def _without_functions(values: Any) -> tuple[Any, tuple[str, ...]]:
    """The training config of a file, and the names of its fields that were functions, of which it has no more."""
    if not isinstance(values, dict):
        return values, ()
    names = tuple(name for name, value in values.items() if isinstance(value, dict) and "function" in value)
    return {name: value for name, value in values.items() if name not in names}, names


def _networks(values: Any) -> Networks:
    if not isinstance(values, dict):
        raise ValueError(f"networks must be an object, got {values!r}")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Networks(**fields)


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
        """Whether there is a checkpoint to continue from; a run killed before its first checkpoint begins again."""
        return bool(checkpoints(self.path / "checkpoint"))

    def discard(self) -> None:
        """Take back what was made, unless the folder is another run's or iterations have been recorded."""
        if (self.path / LOCK).exists():  # another process has begun here meanwhile
            return
        history = self.path / "history.csv"
        if not self._is_new or (history.is_file() and history.read_bytes().count(b"\n") > 1):
            return
        for name in (CONFIG, "history.csv", TABLE, "source.json"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        for folder in (self.path / "checkpoint", *reversed(self._made)):
            with contextlib.suppress(OSError):  # not empty: another program uses it too
                folder.rmdir()


def _free(source: str) -> Path:
    stem = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.") or "run"
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path
