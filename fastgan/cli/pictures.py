"""The pictures of a run: its samples in the form that fits the data, its curves, and those asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import evaluation
from fastgan.cli import runs, snapshots
from fastgan.cli.runs import RunConfig
from fastgan.data import Dataset
from fastgan.models import GAN

_ROWS = 10_000  # for histograms
_PAIRS = 16  # of neighbours
_MANY = 100_000  # for densities in the plane


def draw(
    config: RunConfig, gan: GAN, dataset: Dataset, history: dict[str, np.ndarray], folder: Path
) -> list[Path]:
    """samples.png, losses.png and d_curves.png in a folder.

    Raises:
        ImportError: matplotlib is missing. OSError: the folder cannot be written.
    """
    from fastgan import plots

    label = config.train.real_label
    return [
        draw_samples(config, gan, dataset, folder / "samples.png"),
        plots.loss_curves(history, folder / "losses.png", loss=config.train.loss, real_label=label),
        plots.d_curves(history, folder / "d_curves.png", real_label=label),
    ]


def draw_samples(
    config: RunConfig, gan: GAN, dataset: Dataset, path: Path, *, n: int | None = None, seed: int = 0, offset: int = 0
) -> Path:
    """Generated beside real: a grid of images, points in the plane, or histograms."""
    from fastgan import plots

    image = config.image_shape is not None
    samples = _samples(config, gan, n or (64 if image else _ROWS), seed=seed, offset=offset)
    real = _some_rows(dataset, 64 if image else _ROWS)
    if image:
        return plots.image_grid(samples, real, path, **_look(config, real))
    # A packed D has nothing to say of one sample.
    d = config.probability(gan) if config.train.pack == 1 else None
    if real.shape[1] == 1:
        return plots.line(samples, real, path, discriminator=d)
    if real.shape[1] == 2:
        return plots.scatter(samples, real, path, discriminator=d)
    return plots.marginals(samples, real, path)


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


def draw_discriminator(config: RunConfig, folder: Path, path: Path) -> Path:
    """D beside the optimal discriminator of the data and G's samples."""
    from fastgan import plots

    if config.networks.data_dim > 2:
        columns = f"{config.networks.data_dim} of {config.source}"
        raise ValueError(f"RUN_DIR must be of one or two columns for the picture discriminator, got {columns}")
    if config.train.pack > 1:
        raise ValueError(f"RUN_DIR must have pack=1 for the picture discriminator, got {config.train.pack}")
    gan, dataset = runs.trained(folder, config), config.load_data()
    # D plays against G as it is; samples.png shows the average, where there is one.
    origin = "G" if config.train.ema_decay is None else "G itself (not of its average)"
    samples = config.restore(gan.sample(_MANY, seed=0, device="cpu", averaged=False))
    real = _some_rows(dataset, _MANY)
    picture = plots.line if config.networks.data_dim == 1 else plots.verdicts
    return picture(samples, real, path, discriminator=config.probability(gan), origin=origin)


def draw_animation(config: RunConfig, folder: Path, path: Path) -> Path:
    """The snapshots of a run, one after another."""
    from fastgan import plots

    steps, frames = snapshots.read(folder, config)
    real = _some_rows(config.load_data(), _ROWS)
    look = _look(config, real) if config.image_shape is not None else {}
    return plots.animation(steps, frames, real, path, **look)


# ---------------------------------------------------------------- parts


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


def _samples(config: RunConfig, gan: GAN, n: int, *, seed: int = 0, offset: int = 0) -> Tensor:
    return config.restore(gan.sample(n, seed=seed, offset=offset, device="cpu"))


def _some_rows(dataset: Dataset, n: int) -> Tensor:
    """n rows spread evenly over the data, which may be sorted."""
    n = min(n, len(dataset))
    return dataset.rows(torch.arange(n) * len(dataset) // n)
