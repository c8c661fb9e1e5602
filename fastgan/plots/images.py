"""Samples that are images: generated ones beside real ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import style


def image_grid(
    samples: Tensor,
    real: Tensor,
    path: style.PathLike,
    *,
    image_shape: tuple[int, int],
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
    titles: tuple[str, str] = ("made by the generator", "real, from the data"),
) -> Path:
    """Generated images beside real ones, every pixel a square block.

    Args:
        samples, real: (n, pixels) or (n, channels * pixels); as many as fill a square are shown.
        path: of the picture.
        image_shape: (height, width).
        value_range: what is black and what is white.
        ink: dark on white, as handwriting.
        titles: of the two halves.
    """
    side = max(1, min(8, math.isqrt(len(samples))))
    left = _mosaic(samples, side, image_shape, value_range, ink)
    right = _mosaic(real[: side * side], side, image_shape, value_range, ink)
    gap, title, margin = 48, 76, 24
    height, width = left.shape[:2]
    pixels = (2 * width + gap + 2 * margin, height + title + margin)
    figure = style.figure(pixels[0] / style.DPI, pixels[1] / style.DPI)
    figure.set_layout_engine("none")
    for image, x, text, colour in (
        (left, margin, titles[0], style.ORANGE),
        (right, margin + width + gap, titles[1], style.BLUE),
    ):
        axes = figure.add_axes((x / pixels[0], margin / pixels[1], width / pixels[0], height / pixels[1]))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(text, fontsize=13, color=colour, loc="left", fontweight="bold")
    return style.save(figure, path)


def _mosaic(
    rows: Tensor, side: int, image_shape: tuple[int, int], value_range: tuple[float, float], ink: bool
) -> NDArray[np.uint8]:
    """side^2 images as one (height, width, 3) array, pixels enlarged to blocks; missing ones are white."""
    height, width = image_shape
    low, high = value_range
    rows = rows[: side * side].detach().cpu().double()
    images = rows.reshape(len(rows), -1, height, width)[:, :3]  # a fourth channel is opacity
    images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    images = ((images - low) / (high - low)).nan_to_num(0.0).clamp(0.0, 1.0)
    images = 1.0 - images if ink else images
    scale = max(1, 80 // max(height, width))
    cell = np.full((side * side, scale * height + 8, scale * width + 8, 3), 255, np.uint8)
    blocks = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    cell[: len(blocks), 4:-4, 4:-4] = blocks.repeat(scale, axis=1).repeat(scale, axis=2)
    grid = cell.reshape(side, side, *cell.shape[1:]).swapaxes(1, 2)
    return grid.reshape(side * cell.shape[1], side * cell.shape[2], 3)
