"""Samples of several models: a panel for each, all with the same axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from . import style
from .images import mosaic
from .plane import set_limits, widths
from .points import bin_edges

_SHOWN = 2500
_ACROSS = 5  # images in a row of a panel


def compare_points(
    panels: Mapping[str, Tensor],
    path: style.PathLike | None = None,
    *,
    title: str,
    centres: Tensor | None = None,
    names: Sequence[str] = (),
) -> Any:
    """Two-dimensional samples of several models side by side.

    The axes cover the modes, or the last panel if modes are not known.

    Args:
        panels: by model, samples (n, 2), n at least 1.
        path: of the picture; None: the figure is returned, which a notebook shows.
        title: above the picture.
        centres: (modes, 2), drawn as circles, or None.
        names: of the two columns, for the axes.
    """
    frame = (list(panels.values())[-1] if centres is None else centres).double().numpy()
    low, high = frame.min(0), frame.max(0)
    half = (0.75 if centres is not None else 0.6) * widths(low, high)
    across, up = style.axis_names(names, 2)
    figure, row = _row(len(panels), 4.2, title)
    for axes, (name, samples) in zip(row, panels.items(), strict=True):
        if centres is not None:
            axes.scatter(*frame.T, s=160, facecolors="none", edgecolors=style.BLUE, lw=1.2, label="modes of the data")
        axes.scatter(
            *samples[:_SHOWN].T.numpy(), s=4, color=style.ORANGE, alpha=0.4, lw=0, label="samples", rasterized=True
        )
        set_limits(axes, (low + high) / 2, half)
        style.label(axes, name, across, up if axes is row[0] else "")
    if centres is not None:
        legend = figure.legend(
            *row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10
        )
        legend.legend_handles[1].set(alpha=1.0, sizes=[25])
    return style.save(figure, path)


def compare_images(
    panels: Mapping[str, Tensor],
    path: style.PathLike | None = None,
    *,
    title: str,
    image_shape: tuple[int, int],
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
) -> Any:
    """Images of several models side by side, 25 a panel; arguments as for `compare_points` and `image_grid`."""
    figure, row = _row(len(panels), 3.9, title)
    for axes, (name, samples) in zip(row, panels.items(), strict=True):
        side = min(_ACROSS, math.isqrt(len(samples)))
        axes.imshow(mosaic(samples, (side, side), image_shape, value_range, ink), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name, fontsize=13, loc="left", color=style.INK)
    return style.save(figure, path)


def compare_histograms(
    panels: Mapping[str, Tensor], path: style.PathLike | None = None, *, title: str, names: Sequence[str] = ()
) -> Any:
    """The first column of each model's samples over the last panel's; arguments as for `compare_points`."""
    real = list(panels.values())[-1][:, 0].double().numpy()
    edges = bin_edges(real, real, 60)
    across, *_ = style.axis_names(names, 2)
    figure, row = _row(len(panels), 3.4, title)
    for axes, (name, samples) in zip(row, panels.items(), strict=True):
        axes.hist(real, edges, density=True, color=style.BLUE, alpha=0.35)
        axes.hist(samples[:, 0].double().numpy(), edges, density=True, color=style.ORANGE, histtype="step", lw=1.6)
        style.label(axes, name, across, "density" if axes is row[0] else "")
    return style.save(figure, path)


def _row(count: int, height: float, title: str) -> tuple[Any, Any]:
    figure = style.figure(3.4 * count + 0.4, height)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", color=style.INK)
    figure.get_layout_engine().set(wspace=0.06)
    return figure, figure.subplots(1, count, squeeze=False)[0]
