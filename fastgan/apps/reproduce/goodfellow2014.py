"""Table 1 of the paper: Parzen-window log-likelihood of MNIST, the Toronto faces and CIFAR-10, from the user's files.

Settings of the authors' code (github.com/goodfeli/adversarial: mnist.yaml, tfd_pretrain, cifar10_fully_connected.yaml,
parzen_ll.py). The digits that come with scikit-learn, which the paper does not have, train by the MNIST recipe with
narrower layers.
"""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastgan import data, nn
from fastgan._errors import Invalid
from fastgan._options import ActivationName, Precision
from fastgan._run_folder import checkpoints
from fastgan.apps.reproduce.table import FASTGAN, PAPER, Figure, Row
from fastgan.data import DataError
from fastgan.evaluation import ParzenLogLikelihood, parzen_log_likelihood
from fastgan.models import GAN, goodfellow_mnist, maxout_discriminator
from fastgan.training import Callback, Momentum, TrainConfig, TrainResult, train

COLUMN = "log-likelihood, nats"
SAMPLES = 10_000
_BATCH = 100
_MAX_NORM = 1.9365

# Table 1: mean and standard error, of the test set.
_PAPER = {
    "mnist": {
        "DBN": (138.0, 2.0),
        "Stacked CAE": (121.0, 1.6),
        "Deep GSN": (214.0, 1.1),
        "Adversarial nets": (225.0, 2.0),
    },
    "tfd": {
        "DBN": (1909.0, 66.0),
        "Stacked CAE": (2110.0, 50.0),
        "Deep GSN": (1890.0, 29.0),
        "Adversarial nets": (2057.0, 26.0),
    },
}
_METHOD = "Adversarial nets"


@dataclass(frozen=True)
class Split:
    """Rows to train on, to choose sigma by, and to be measured on: each (n, features).

    Args:
        train, validation, test: float32.
        image_shape: (height, width) of a row.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    image_shape: tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe; a later one may hold the G of an earlier one.

    Args:
        gan: what it trains.
        config: how.
        folder: of the run.
        epochs: of this run, and of the recipe.
    """

    gan: GAN
    config: TrainConfig
    folder: Path
    epochs: tuple[int, int]

    @property
    def name(self) -> str:
        """Of the stage, as "train"."""
        return self.folder.name

    @property
    def shortened(self) -> bool:
        """Whether it ends before the recipe does."""
        return self.epochs[0] < self.epochs[1]

    def seconds_an_iteration(self, split: Split, *, iterations: int = 10) -> float:
        """Measured on a copy of the networks, after as many iterations to warm up."""
        gan, config = copy.deepcopy(self.gan), dataclasses.replace(self.config, steps=iterations, checkpoint_every=0)
        train(gan, split.train, config)
        begun = time.perf_counter()
        train(gan, split.train, config)
        return (time.perf_counter() - begun) / iterations

    def train(self, split: Split, callbacks: Sequence[Callback] = ()) -> TrainResult:
        """Train from where it is; nothing where it has ended."""
        begun = bool(checkpoints(self.folder / "checkpoint"))
        return train(self.gan, split.train, self.config, callbacks=callbacks, run_dir=self.folder, resume=begun)


_Recipe = Iterator[tuple[str, GAN, int, TrainConfig]]  # name, networks, epochs and all else of each stage


# ---------------------------------------------------------------- data


def _digits(folder: Path | None) -> Split:
    """1,200 rows to train on, 300 and 297 of other writers to choose and to measure by."""
    rows = data.digits().tensor()
    return Split(rows[:1200], rows[1200:1500], rows[1500:], (8, 8))


def _mnist(folder: Path | None) -> Split:
    """The split of the paper's code: the last sixth of the 60,000 training rows is for validation."""
    rows, test = (_read(folder, "mnist", split, 784) for split in ("train", "test"))
    held = len(rows) // 6
    return Split(rows[: len(rows) - held], rows[len(rows) - held :], test, (28, 28))


def _cifar10(folder: Path | None) -> Split:
    """The split of the paper's code: the last fifth for validation; images contrast-normalised to a norm of 55."""
    rows, test = (_contrast_normalised(_read(folder, "cifar10", split, 3072)) for split in ("train", "test"))
    held = len(rows) // 5
    return Split(rows[: len(rows) - held], rows[len(rows) - held :], test, (32, 32))


def _tfd(folder: Path | None) -> Split:
    """The user's own split: train.npy holds the unlabelled faces."""
    train_, validation, test = (_read(folder, "tfd", split, 2304) for split in ("train", "valid", "test"))
    return Split(train_, validation, test, (48, 48))


FILES = {
    "mnist": "MNIST's four IDX files, or train.npy and test.npy",
    "cifar10": "CIFAR-10's binary version (*.bin), or train.npy and test.npy",
    "tfd": "train.npy (the unlabelled faces), valid.npy and test.npy, (n, 48, 48)",
}


def _read(folder: Path | None, name: str, split: str, width: int) -> Tensor:
    assert folder is not None
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; it must hold {FILES[name]}")
    array = folder / f"{split}.npy"
    if name == "tfd" and not array.is_file():
        raise FileNotFoundError(f"{array} is missing; {folder} must hold {FILES[name]}")
    try:
        found = data.read(array) if array.is_file() else data.read(folder, split=split)
    except DataError as error:
        raise DataError(f"{folder} must hold {FILES[name]}: {error}") from error
    if found.data.dtype == torch.uint8 and found.image_shape is None:  # flattened: pixels all the same
        found = dataclasses.replace(found, divisor=255.0)
    rows = found.tensor().flatten(1)
    if rows.shape[1] != width:
        raise DataError(f"a row of {split} in {folder} must have {width} numbers, got {rows.shape[1]}")
    if name != "cifar10" and not bool(((rows >= 0) & (rows <= 1)).all()):
        got = f"{float(rows.min()):g} to {float(rows.max()):g}"
        raise DataError(f"{split} in {folder} must lie in [0, 1], or in 0 to 255 as bytes, got {got}")
    if len(rows) < 6 * _BATCH and split == "train":
        raise DataError(f"train in {folder} must have at least {6 * _BATCH} rows, got {len(rows)}")
    return rows


def _contrast_normalised(rows: Tensor) -> Tensor:
    """Each row with mean 0 and norm 55, as pylearn2's global_contrast_normalize; a constant row stays 0."""
    centred = rows - rows.mean(1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True) / 55
    return centred / torch.where(norm < 1e-8, 1.0, norm)


# ---------------------------------------------------------------- recipes


def _config(lr: float, max_col_norm: float | None = None) -> TrainConfig:
    momentum = Momentum(
        lr,
        momentum=0.5,
        convention="pylearn2",
        lr_decay=1.000004,
        min_lr=1e-6,
        momentum_final=0.7,
        saturate_epochs=250,
    )
    return TrainConfig(steps=1, batch_size=_BATCH, mode="simultaneous", optimizer=momentum, max_col_norm=max_col_norm)


def _stages_digits(rows: Tensor) -> _Recipe:
    yield "train", goodfellow_mnist(rows, data_dim=64, hidden=256, units=100), 1700, _config(0.1)


def _stages_mnist(rows: Tensor) -> _Recipe:
    yield "train", goodfellow_mnist(rows), 250, _config(0.1)


def _stages_tfd(rows: Tensor) -> _Recipe:
    """A G of its own first; then two new layers in front of it, trained with it against a new D."""
    top = _affine(8000, 2304, "sigmoid", bias=None)
    nn.init.sparse_(top.weight, 100)
    nn.init.output_bias_from_data(top, rows)
    pretrained = nn.Sequential(_affine(100, 8000, "relu"), _affine(8000, 8000, "sigmoid", bias=-2.0), top)
    for name, generator, epochs in (
        ("pretrain", pretrained, 50),
        ("train", nn.Sequential(_affine(100, 8000, "relu"), _affine(8000, 100, "sigmoid", bias=-2.0), *pretrained), 22),
    ):
        gan = GAN(generator, maxout_discriminator(2304, 1200), latent_dim=100, data_shape=(2304,))
        yield name, gan, epochs, _config(0.05, _MAX_NORM)


def _stages_cifar10(rows: Tensor) -> _Recipe:
    layers = [_affine(100, 8000, "relu"), _affine(8000, 8000, "sigmoid"), _affine(8000, 3072, None, irange=0.5)]
    gan = GAN(nn.Sequential(*layers), maxout_discriminator(3072, 1600), latent_dim=100, data_shape=(3072,))
    yield "train", gan, 100, _config(0.025)


def _affine(
    inputs: int, outputs: int, activation: ActivationName | None, *, irange: float = 0.05, bias: float | None = 0.0
) -> nn.Linear:
    return nn.init.uniform_(nn.Linear(inputs, outputs, activation=activation), irange, bias=bias)


_RECIPES: dict[str, tuple[Callable[[Path | None], Split], Callable[[Tensor], _Recipe]]] = {
    "digits": (_digits, _stages_digits),
    "mnist": (_mnist, _stages_mnist),
    "tfd": (_tfd, _stages_tfd),
    "cifar10": (_cifar10, _stages_cifar10),
}
DATASETS = tuple(_RECIPES)


# ---------------------------------------------------------------- running


def load(name: str, folder: Path | None) -> Split:
    """The rows of a data set.

    Args:
        name: one of `DATASETS`.
        folder: where the user's files are; the digits need none.

    Raises:
        ValueError, OSError, DataError: no folder, or what it lacks.
    """
    if folder is None and name in FILES:
        raise Invalid("reproduce").value("data", f"must be the folder of {FILES[name]}, got none")
    return _RECIPES[name][0](folder)


def plan(
    name: str,
    split: Split,
    folder: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> list[Stage]:
    """The training runs of a recipe, to be trained in order.

    Args:
        name: one of `DATASETS`.
        split: its rows.
        folder: for a run folder a stage.
        epochs: of each stage; None: the recipe's.
        seed: of weights, order, noise and dropout.
        precision: as in `TrainConfig`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = list(_RECIPES[name][1](split.train))
    an_epoch = len(split.train) // _BATCH
    stages = []
    for stage, gan, usual, config in recipe:
        steps = an_epoch * (usual if epochs is None else epochs)
        every = min(50 * an_epoch, 5000)
        config = dataclasses.replace(config, steps=steps, seed=seed, precision=precision, checkpoint_every=every)
        stages.append(Stage(gan, config, folder / stage, (usual if epochs is None else epochs, usual)))
    return stages


# ---------------------------------------------------------------- measuring


def measure(gan: GAN, split: Split, *, seed: int = 1) -> ParzenLogLikelihood:
    """The test set under windows about 10,000 samples, sigma chosen by the validation rows."""
    return parzen(gan.sample(SAMPLES, seed=seed, device="cpu"), split)


def parzen(windows: Tensor, split: Split) -> ParzenLogLikelihood:
    """The test set under windows about some rows; a sigma at the end of the paper's ten is no reason to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parzen_sigma")
        return parzen_log_likelihood(windows, split.test, validation=split.validation)


def table(name: str, split: Split, found: ParzenLogLikelihood) -> list[Row]:
    """The paper's rows, fastgan's, and the same measure of real rows, which need not be the highest."""
    rows = [
        Row(name, method, PAPER, {COLUMN: Figure(*figure, trials=1)}) for method, figure in _PAPER.get(name, {}).items()
    ]
    rows.append(Row(name, _METHOD, FASTGAN, {COLUMN: Figure(found.mean, found.standard_error)}))
    real = parzen(split.train[:SAMPLES], split)
    rows.append(Row(name, "real rows", "training set", {COLUMN: Figure(real.mean, real.standard_error)}))
    return rows


def value_range(split: Split) -> tuple[float, float]:
    """What is black and what is white in a picture of the rows."""
    low, high = float(split.test.min()), float(split.test.max())
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    reach = 3 * float(split.test.std())
    return -reach, reach
