"""G's samples of one noise during training, kept in the run folder for fastgan plot animation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan._files import write_atomically
from fastgan.apps.cli.runs import RunConfig, Trained
from fastgan.models import GAN
from fastgan.training import Callback, Run

FRAMES = 60
_IMAGES, _POINTS = 36, 1000  # samples in a frame


class Snapshots(Callback):
    """Writes G's samples at evenly spaced iterations: snapshots/<iteration>.npy.

    Args:
        config: of the run. Tables that no picture can show have no snapshots.
        frames: approximate number over the whole run; 0: none.
    """

    def __init__(self, config: RunConfig, frames: int = FRAMES) -> None:
        self._config = config
        self.every = max(1, config.train.steps // frames) if frames and size(config) else 0

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if not self.every or run.step % self.every or run.run_dir is None:
            return
        folder = run.run_dir / "snapshots"
        folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, _samples(self._config, run.gan).numpy())
        write_atomically(folder / f"{run.step:012d}.npy", [buffer.getvalue()])


def size(config: RunConfig) -> int:
    """Samples in a frame; 0 if no picture can show them."""
    return _IMAGES if config.image_shape is not None else _POINTS if config.networks.data_dim <= 2 else 0


def read(folder: Path, config: RunConfig) -> tuple[list[int], list[Tensor]]:
    """Iterations and samples in the units of the data; begins with the untrained G if its weights are known.

    Raises:
        FileNotFoundError: the run has no snapshots.
    """
    paths = sorted((folder / "snapshots").glob("*.npy"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no snapshots: they are kept of images and of one or two columns")
    steps = [int(path.stem) for path in paths]
    frames = [torch.from_numpy(np.load(path)) for path in paths]
    if not isinstance(config.networks, Trained):  # whose first weights are not known
        steps, frames = [0, *steps], [_samples(config, config.build()), *frames]
    return steps, [config.restore(frame) for frame in frames]


def _samples(config: RunConfig, gan: GAN) -> Tensor:
    return gan.sample(size(config), seed=0, device="cpu").float()
