"""Two-dimensional samples, D's surface, and the optimal one beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import theory

from . import style
from .style import Array

Discriminator = Callable[[Tensor], Tensor]
_CELLS = 200  # of a surface, on each side
_BLUR = 1.5  # cells
_STRETCH = 3  # of widths of two columns, above which their units are taken to differ
DARK = "#8A2F00"  # generated points on a surface that has orange


def scatter(
    samples: Tensor,
    real: Tensor,
    path: style.PathLike | None = None,
    *,
    discriminator: Discriminator | None = None,
    title: str = "",
    names: Sequence[str] = (),
) -> Any:
    """Two-dimensional samples over the real points, with D's surface behind them.

    Args:
        samples, real: (n, 2).
        path: of the picture; None: the figure is returned, which a notebook shows.
        discriminator: from points (m, 2) to D's probabilities (m,); None leaves the surface out.
        title: above the picture.
        names: of the two columns, for the axes.
    """
    shown_real, shown = real[:2500].double().numpy(), samples[:2500].double().numpy()
    centre, half = frame(shown_real)
    figure = style.figure(8.2, 7)
    axes = figure.subplots()
    if discriminator is not None:
        surface = discriminator(_grid(centre, half)).reshape(_CELLS, _CELLS).double()
        _bar(figure, _show(axes, surface, centre, half), axes)
    axes.scatter(*shown_real.T, s=26, color=style.BLUE, alpha=0.35, lw=0, label="real", rasterized=True)
    axes.scatter(*shown.T, s=5, color=DARK, alpha=0.75, lw=0, label="generated", rasterized=True)
    set_limits(axes, centre, half)
    style.label(axes, title or "Samples of G over real points", *style.axis_names(names, 2))
    legend = axes.legend(loc="upper right", fontsize=11, markerscale=2, framealpha=0.9)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
    return style.save(figure, path)


def verdicts(
    samples: Tensor,
    real: Tensor,
    path: style.PathLike | None = None,
    *,
    discriminator: Discriminator,
    origin: str = "G",
    names: Sequence[str] = (),
) -> Any:
    """D(x) over the plane beside the optimal D*(x) = p_data / (p_data + p_g) of the same samples.

    The densities of D* are smoothed counts on a fine grid. Cells with too few points are grey.

    Args:
        samples, real: (n, 2), many.
        path: of the picture; None: the figure is returned, which a notebook shows.
        discriminator: from points (m, 2) to D's probabilities (m,).
        origin: of the samples, for the title.
        names: of the two columns, for the axes.

    Source: Goodfellow et al. (2014), proposition 1.
    """
    centre, half = frame(real[:2500].double().numpy())
    points = _grid(centre, half)
    learned = discriminator(points).reshape(_CELLS, _CELLS).double()
    p, q = (_density(x, centre, half) for x in (real, samples))
    seen = p * len(real) + q * len(samples) > 1
    optimal = torch.where(seen, theory.optimal_discriminator(p, q), torch.nan)
    off = float(((learned - optimal).abs() * (p + q))[seen].sum() / (p + q)[seen].sum())
    figure = style.figure(12, 5.8)
    left, right = figure.subplots(1, 2, sharey=True)
    image = _show(left, learned, centre, half)
    _show(right, optimal, centre, half)
    set_limits(left, centre, half)
    set_limits(right, centre, half)
    across, up = style.axis_names(names, 2)
    style.label(left, "D(x), as it was learned", across, up)
    style.label(right, "$D^*(x)$, optimal against G; grey where nothing fell", across, "")
    over = f"over the data and the samples of {origin}"
    figure.suptitle(f"mean $|D-D^*|$ {over}: {off:.3f}", fontsize=12, color=style.INK)
    _bar(figure, image, [left, right])
    return style.save(figure, path)


def frame(shown: Array) -> tuple[Array, Array]:
    """Centre and half widths of the data, not of samples, which may have outliers."""
    low, high = shown.min(0), shown.max(0)
    return (low + high) / 2, 0.65 * widths(low, high)


def widths(low: Array, high: Array) -> Array:
    """The width that each axis shows: one for both, but where the columns of a table have units that differ."""
    width = high - low
    largest = max(float(width.max()), 1e-6)
    return width if 0 < width.min() < largest / _STRETCH else np.full(2, largest)


def set_limits(axes: Any, centre: Array, half: Array) -> None:
    """Limits of a square picture."""
    axes.set(xlim=(centre[0] - half[0], centre[0] + half[0]), ylim=(centre[1] - half[1], centre[1] + half[1]))
    axes.set_box_aspect(1)


def _grid(centre: Array, half: Array) -> Tensor:
    """(cells^2, 2): the centres of the cells of a frame, x1 slowest."""
    ticks = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS * 2 - 1
    return torch.cartesian_prod(*(ticks * float(h) + float(c) for c, h in zip(centre, half, strict=True)))


def _density(x: Tensor, centre: Array, half: Array) -> Tensor:
    """The share of points in each cell, blurred by a Gaussian."""
    edges = [np.linspace(c - h, c + h, _CELLS + 1) for c, h in zip(centre, half, strict=True)]
    first, second = x.double().numpy().T
    counts = torch.from_numpy(np.histogram2d(first, second, bins=edges)[0]) / len(x)
    reach = torch.arange(-6, 7, dtype=torch.float64)
    kernel = torch.exp(-(reach / _BLUR).square() / 2)
    kernel = (kernel / kernel.sum())[None, None, :, None]
    blurred = torch.nn.functional.conv2d(counts[None, None], kernel, padding=(6, 0))
    return torch.nn.functional.conv2d(blurred, kernel.transpose(2, 3), padding=(0, 6))[0, 0]


def _show(axes: Any, surface: Tensor, centre: Array, half: Array) -> Any:
    """A surface (x1, x2) of probabilities: orange for fake, blue for real."""
    colours = ["#F0A868", "#FFFFFF", "#7FB8E0"]
    palette = style.matplotlib("colors").LinearSegmentedColormap.from_list("verdict", colours)
    palette = palette.with_extremes(bad="#EEEEEE")
    extent = (centre[0] - half[0], centre[0] + half[0], centre[1] - half[1], centre[1] + half[1])
    look: dict[str, Any] = {"origin": "lower", "extent": extent, "cmap": palette, "vmin": 0, "vmax": 1}
    return axes.imshow(surface.T.numpy(), interpolation="nearest", aspect="auto", **look)


def _bar(figure: Any, image: Any, axes: Any) -> None:
    """A colour scale for a surface."""
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.ax.set_title("D(x)", fontsize=11, color=style.INK, loc="left", pad=12)
    bar.set_ticks([0, 0.5, 1], labels=["0: made by G", "1/2", "1: real"])
    bar.outline.set_visible(False)
