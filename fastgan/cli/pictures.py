"""The pictures of a run: the one of its samples that fits the data, and its curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan.cli.runs import RunConfig
from fastgan.data import Dataset
from fastgan.models import GAN

_ROWS = 10_000  # for histograms


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
    samples = config.restore(gan.sample(n or (64 if image else _ROWS), seed=seed, offset=offset, device="cpu"))
    real = _some_rows(dataset, 64 if image else _ROWS)
    if config.image_shape is not None:
        return plots.image_grid(
            samples,
            real,
            path,
            image_shape=config.image_shape,
            value_range=config.value_range or (float(real.min()), float(real.max())),
            ink=config.source == "digits",
        )
    d = config.probability(gan)
    if real.shape[1] == 1:
        return plots.line(samples, real, path, discriminator=d)
    if real.shape[1] == 2:
        return plots.scatter(samples, real, path, discriminator=d)
    return plots.marginals(samples, real, path)


def _some_rows(dataset: Dataset, n: int) -> Tensor:
    """n rows spread evenly over the data, which may be sorted."""
    n = min(n, len(dataset))
    return dataset.rows(torch.arange(n) * len(dataset) // n)
