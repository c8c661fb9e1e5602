"""The pictures of a run: its samples in the form that fits the data, its curves, and those with a name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import __version__, data, evaluation, nn
from fastgan.apps.cli import labels, runs, snapshots
from fastgan.apps.cli.runs import RunConfig
from fastgan.data import Dataset
from fastgan.models import GAN

_ROWS = 10_000  # for histograms
_MOST_NUMBERS, _FEWEST = 1 << 24, 100  # numbers of the rows of one picture, and rows
_PAIRS = 16  # of neighbours
_MANY = 100_000  # for densities in the plane
_ACROSS, _CLASSES = 8, 16  # images of a class side by side, and classes one below another, at most


def draw(config: RunConfig, gan: GAN, dataset: Dataset, history: dict[str, np.ndarray], folder: Path) -> list[Path]:
    """samples.png, losses.png and d_curves.png in a folder.

    Raises:
        ImportError: matplotlib is missing. OSError: the folder cannot be written.
    """
    from fastgan import plots

    labels = {"real_label": config.train.real_label, "fake_label": config.train.fake_label}
    assert isinstance(config.train.loss, str)  # no flag and no file gives functions
    # No equilibrium is known of the user's own losses, nor of Wasserstein's.
    loss = "wasserstein" if "loss" in config.functions else config.train.loss
    with plots.source(origin(config, int(history["step"][-1]) if len(history["step"]) else 0)):
        return [
            draw_samples(config, gan, dataset, folder / "samples.png"),
            plots.loss_curves(history, folder / "losses.png", loss=loss, **labels),
            plots.d_curves(history, folder / "d_curves.png", **labels),
        ]


def name_of(config: RunConfig) -> str:
    """The name of the data: of a file, without its folders."""
    return config.source if config.source in data.NAMES else Path(config.source).name


def origin(config: RunConfig, step: int) -> str:
    """Where a picture of a run comes from, in one line."""
    return f"{name_of(config)}, iteration {step:,}, seed {config.train.seed}, fastgan {__version__}"


def draw_samples(
    config: RunConfig,
    gan: GAN,
    dataset: Dataset,
    path: Path,
    *,
    n: int | None = None,
    seed: int = 0,
    offset: int = 0,
    asked: Sequence[int] | None = None,
) -> Path:
    """Generated beside real: a grid of images, points in the plane, or histograms.

    Of a conditional run the requested labels, by default all in turn, beside real rows of theirs, or of all where
    there are none; images of each class in a row of their own.
    """
    from fastgan import plots

    image = config.image_shape is not None
    several = config.networks.classes if asked is None else len(asked)
    rows = _rows_for(config)
    count = n or (_ACROSS * max(_ACROSS, several) if image else rows)
    samples = _samples(config, gan, count, seed=seed, offset=offset, asked=asked)
    wanted = labels.in_turn(config, asked, count, offset)
    if image and wanted is not None and len(wanted.unique()) > 1:
        return _draw_classes(config, samples, wanted, dataset, path)
    real = _some_rows(dataset, _ACROSS**2 if image else rows, asked)
    if image:  # beside an empty half, where no row has the label
        return plots.image_grid(samples, real, path, **_look(config, _some_rows(dataset, _ACROSS**2)))
    real = real if len(real) else _some_rows(dataset, rows)
    # A packed D has nothing to say of one sample, nor a conditional one of a point without its label, nor one that
    # compares the samples of a batch.
    alone = config.train.pack == 1 and wanted is None and not _compares(gan)
    d = config.probability(gan) if alone else None
    names = config.column_names
    if real.shape[1] <= 2:
        return (plots.line if real.shape[1] == 1 else plots.scatter)(samples, real, path, discriminator=d, names=names)
    return plots.marginals(samples, real, path, names=names)


def _draw_classes(config: RunConfig, samples: Tensor, wanted: Tensor, dataset: Dataset, path: Path) -> Path:
    """Images of each class in a row of their own, beside real ones of that class."""
    from fastgan import plots

    names = wanted.unique()[:_CLASSES].tolist()
    by_class = [samples[wanted == label] for label in names]
    across = min(_ACROSS, *map(len, by_class))
    real = torch.cat([_filled(_some_rows(dataset, across, [label]), across) for label in names])
    made = torch.cat([rows[:across] for rows in by_class])
    return plots.image_grid(made, real, path, names=list(map(str, names)), **_look(config, _some_rows(dataset, 64)))


def draw_neighbours(config: RunConfig, samples: Tensor, train: Tensor, path: Path) -> Path:
    """Samples and under each the training image that lies nearest."""
    from fastgan import plots

    shown = samples[:_PAIRS]
    found = evaluation.nearest_neighbours(shown, train)
    return plots.neighbours(shown, train[found.index], found.distance, path, **_look(config, train))


# ---------------------------------------------------------------- by name, from the run folder alone


def draw_nearest(config: RunConfig, folder: Path, path: Path) -> Path:
    """`draw_neighbours` of the newest checkpoint, among all training rows."""
    _need_images(config, "neighbours")
    gan, dataset = runs.trained(folder, config), config.load_data()
    return draw_neighbours(config, _samples(config, gan, _PAIRS), dataset.tensor().flatten(1), path)


def draw_interpolation(config: RunConfig, folder: Path, path: Path, *, lines: int = 6, steps: int = 11) -> Path:
    """Samples between two, a line in z for each row."""
    from fastgan import plots

    _need_images(config, "interpolation")
    gan = runs.trained(folder, config)
    start, end = gan.noise(2 * lines, seed=0).chunk(2)
    paths = config.restore(gan.interpolate(start, end, steps).flatten(0, 1).cpu()).unflatten(0, (lines, steps))
    return plots.interpolation(paths, path, **_look(config, _some_rows(config.load_data(), 64)))


def _compares(gan: GAN) -> bool:
    """Whether D compares the rows of a batch, so that its outputs, time and memory depend on the other rows."""
    return any(isinstance(module, nn.MinibatchDiscrimination) for module in gan.discriminator.modules())


def draw_discriminator(config: RunConfig, folder: Path, path: Path) -> Path:
    """D beside the optimal discriminator of the data and G's samples."""
    from fastgan import plots

    if config.networks.data_dim > 2:
        columns = f"{config.networks.data_dim} of {config.source}"
        raise ValueError(f"RUN_DIR must be of one or two columns for the picture discriminator, got {columns}")
    if config.train.pack > 1:
        raise ValueError(f"RUN_DIR must have pack=1 for the picture discriminator, got {config.train.pack}")
    if config.networks.classes:
        raise ValueError("RUN_DIR must have no labels for the picture discriminator, got a run with --conditional")
    gan, dataset = runs.trained(folder, config), config.load_data()
    if _compares(gan):
        raise ValueError("RUN_DIR must have a D of single rows for the picture discriminator, got --minibatch-features")
    # D plays against the current G; samples.png shows the average, if there is one.
    origin = "G" if config.train.ema_decay is None else "G itself (not of its average)"
    samples = config.restore(gan.sample(_MANY, seed=0, device="cpu", ema=False))
    real = _some_rows(dataset, _MANY)
    picture = plots.line if config.networks.data_dim == 1 else plots.verdicts
    d = config.probability(gan)
    return picture(samples, real, path, discriminator=d, origin=origin, names=config.column_names)


def draw_animation(config: RunConfig, folder: Path, path: Path) -> Path:
    """The snapshots of a run, one after another."""
    from fastgan import plots

    steps, frames = snapshots.read(folder, config)
    real = _some_rows(config.load_data(), _ROWS)
    look = _look(config, real) if config.image_shape is not None else {}
    return plots.animation(steps, frames, real, path, names=config.column_names, **look)


# ---------------------------------------------------------------- parts


def _rows_for(config: RunConfig) -> int:
    """Rows of a picture that shows a few columns of them: fewer of a table so wide that they would not fit."""
    return min(_ROWS, max(_FEWEST, _MOST_NUMBERS // config.networks.data_dim))


def _need_images(config: RunConfig, name: str) -> None:
    if config.image_shape is None:
        raise ValueError(f"RUN_DIR must be of images for the picture {name}, got {config.source}")


def _look(config: RunConfig, rows: Tensor) -> dict[str, Any]:
    """How the images of this run are drawn."""
    return {
        "image_shape": config.image_shape,
        "value_range": config.value_range or (float(rows.min()), float(rows.max())),
        "ink": config.source == "digits",
    }


def _samples(
    config: RunConfig, gan: GAN, n: int, *, seed: int = 0, offset: int = 0, asked: Sequence[int] | None = None
) -> Tensor:
    wanted = labels.in_turn(config, asked, n, offset)
    return config.restore(gan.sample(n, seed=seed, offset=offset, device="cpu", labels=wanted))


def _some_rows(dataset: Dataset, n: int, of: Sequence[int] | None = None) -> Tensor:
    """n rows, or all if there are fewer, of these labels; spread evenly over the data, which may be sorted."""
    chosen = torch.arange(len(dataset))
    if of is not None:
        assert dataset.labels is not None
        chosen = chosen[torch.isin(dataset.labels, torch.tensor(of))]
    n = min(n, len(chosen))
    return dataset.rows(chosen[torch.arange(n) * len(chosen) // max(n, 1)])


def _filled(rows: Tensor, n: int) -> Tensor:
    """Rows (m, features), and after them blank ones up to n."""
    blank = torch.full((n - len(rows), rows.shape[1]), math.nan, dtype=rows.dtype)
    return torch.cat([rows, blank])
