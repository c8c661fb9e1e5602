"""Images: samples beside real ones, their nearest training images, and interpolations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import style

_TITLE = 350  # pixels that a title above images takes


def image_grid(
    samples: Tensor,
    real: Tensor,
    path: style.PathLike | None = None,
    *,
    image_shape: tuple[int, int],
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
    names: Sequence[str] = (),
) -> Any:
    """Generated images beside real ones, every pixel a square block.

    Args:
        samples, real: (n, pixels) or (n, channels * pixels); the largest square of them, at most 8 x 8, is shown.
        path: of the picture; None: the figure is returned, which a notebook shows.
        image_shape: (height, width).
        value_range: the values of black and of white.
        ink: draw dark on white, as handwriting.
        names: labels at the left of the rows of images; all images are then shown, in as many rows.
    """
    down = len(names) or max(1, min(8, math.isqrt(len(samples))))
    across = len(samples) // down if names else down
    left, right = (mosaic(x, (down, across), image_shape, value_range, ink) for x in (samples, real))
    gap, title, margin, indent = 48, 76, 24, 30 if names else 0
    height, width = left.shape[:2]
    second = margin + indent + max(width, _TITLE) + gap  # where the real images begin
    pixels = (second + max(width, _TITLE) + margin, height + title + margin)
    figure = style.figure(pixels[0] / style.DPI, pixels[1] / style.DPI)
    figure.set_layout_engine("none")
    for row, name in enumerate(names):
        y = (margin + height * (1 - (row + 0.5) / down)) / pixels[1]
        figure.text((margin + indent / 2) / pixels[0], y, name, fontsize=12, color=style.GREY, ha="center", va="center")
    for image, x, text, colour in (
        (left, margin + indent, "made by the generator", style.ORANGE),
        (right, second, "real, from the data", style.BLUE),
    ):
        axes = figure.add_axes((x / pixels[0], margin / pixels[1], width / pixels[0], height / pixels[1]))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(text, fontsize=13, color=colour, loc="left", fontweight="bold")
    return style.save(figure, path)


def interpolation(
    paths: Tensor,
    path: style.PathLike | None = None,
    *,
    image_shape: tuple[int, int],
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
) -> Any:
    """Interpolations: in each row, samples along a line in z.

    Args:
        paths: (lines, steps, pixels), of `GAN.interpolate`.
        path: of the picture; None: the figure is returned, which a notebook shows.
        image_shape, value_range, ink: as for `image_grid`.

    Source: Goodfellow et al. (2014), figure 3.
    """
    lines, steps = paths.shape[:2]
    rows = _cells(paths.flatten(0, 1), image_shape, value_range, ink).reshape(lines, steps, *_cell(image_shape), 3)
    image = rows.swapaxes(1, 2).reshape(lines * rows.shape[2], -1, 3)
    figure, axes = _canvas(image)
    for x, text in ((0.0, "$G(z_0)$"), (1.0, "$G(z_1)$")):
        _above(axes, x, text, style.ORANGE, "right" if x else "left")
    if image.shape[1] > 2 * _TITLE:  # few or narrow images leave it no room
        _above(axes, 0.5, "z moves evenly from $z_0$ to $z_1$", style.GREY, "center")
    return style.save(figure, path)


def neighbours(
    samples: Tensor,
    nearest: Tensor,
    distance: Tensor,
    path: style.PathLike | None = None,
    *,
    image_shape: tuple[int, int],
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
) -> Any:
    """Samples of G, and below each one the nearest training image, with their distance.

    Args:
        samples, nearest: (n, pixels); up to 16 pairs are shown.
        distance: (n,) Euclidean distances.
        path: of the picture; None: the figure is returned, which a notebook shows.
        image_shape, value_range, ink: as for `image_grid`.

    Source: Goodfellow et al. (2014), figure 2.
    """
    count = min(16, len(samples))
    across = min(8, count)
    down = -(-count // across)
    figure = style.figure(1.25 * across + 1.1, 2.75 * down + 0.2)
    panels = figure.subplots(2 * down, across, squeeze=False)
    made, real = (_cells(x[:count], image_shape, value_range, ink) for x in (samples, nearest))
    for axes in panels.ravel():
        axes.set_axis_off()
    for i in range(count):
        row, column = 2 * (i // across), i % across
        for axes, image in ((panels[row, column], made[i]), (panels[row + 1, column], real[i])):
            axes.imshow(image, interpolation="nearest")
        panels[row + 1, column].set_title(f"{float(distance[i]):.2f}", fontsize=9, color=style.GREY, pad=3)
        if not column:
            _beside(panels[row, 0], "made by G", style.ORANGE)
            _beside(panels[row + 1, 0], "nearest in\nthe data", style.BLUE)
    title = "Between them: their Euclidean distance; 0 would be a copy"
    title = title if across > 4 else title.replace(": ", ":\n").replace("; ", ";\n")
    figure.suptitle(title, fontsize=11, color=style.GREY)
    return style.save(figure, path)


def _beside(axes: Any, text: str, colour: str) -> None:
    axes.text(-0.12, 0.5, text, fontsize=10, color=colour, ha="right", va="center", transform=axes.transAxes)


def _above(axes: Any, x: float, text: str, colour: str, side: str) -> None:
    axes.text(x, 1.01, text, fontsize=11, color=colour, ha=side, va="bottom", transform=axes.transAxes)


def _canvas(image: NDArray[np.uint8]) -> tuple[Any, Any]:
    """A figure that shows an array pixel by pixel, with room for a line above it, and for its source below."""
    height, width = image.shape[:2]
    margin, title, foot = 12, 44, 24
    pixels = (width + 2 * margin, height + title + foot)
    figure = style.figure(pixels[0] / style.DPI, pixels[1] / style.DPI)
    figure.set_layout_engine("none")
    place = (margin / pixels[0], foot / pixels[1], width / pixels[0], height / pixels[1])
    axes = figure.add_axes(place)
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure, axes


def _cell(image_shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image on paper, with the white about it."""
    scale = max(1, 80 // max(image_shape))
    return scale * image_shape[0] + 8, scale * image_shape[1] + 8


def _cells(
    rows: Tensor, image_shape: tuple[int, int], value_range: tuple[float, float], ink: bool
) -> NDArray[np.uint8]:
    """Images as an array (n, height, width, 3), pixels enlarged to blocks, with white about them."""
    height, width = image_shape
    low, high = value_range
    rows = rows.detach().cpu().double()
    images = rows.flatten(1).unflatten(1, (-1, height, width))[:, :3]  # a fourth channel is opacity
    images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    images = ((images - low) / (high - low)).nan_to_num(0.0).clamp(0.0, 1.0)
    images = 1.0 - images if ink else images
    scale = max(1, 80 // max(height, width))
    blocks = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    cells = np.full((len(rows), *_cell(image_shape), 3), 255, np.uint8)
    cells[:, 4:-4, 4:-4] = blocks.repeat(scale, axis=1).repeat(scale, axis=2)
    return cells


def mosaic(
    rows: Tensor, shape: tuple[int, int], image_shape: tuple[int, int], value_range: tuple[float, float], ink: bool
) -> NDArray[np.uint8]:
    """A grid of images of shape (down, across), as one (height, width, 3) array. Missing images are white."""
    down, across = shape
    cells = _cells(rows[: down * across], image_shape, value_range, ink)
    missing = np.full((down * across - len(cells), *cells.shape[1:]), 255, np.uint8)
    grid = np.concatenate([cells, missing]).reshape(down, across, *cells.shape[1:]).swapaxes(1, 2)
    return grid.reshape(down * cells.shape[1], across * cells.shape[2], 3)
