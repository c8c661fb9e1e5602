"""Histograms of samples over those of real rows, and D beside its optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import style
from .style import Array


def line(
    samples: Tensor,
    real: Tensor,
    path: style.PathLike | None = None,
    *,
    discriminator: Callable[[Tensor], Tensor] | None = None,
    origin: str = "G",
    names: Sequence[str] = (),
) -> Any:
    """One-dimensional samples: both histograms, and below them D(x) beside the optimal one.

    Args:
        samples, real: (n, 1).
        path: of the picture; None: the figure is returned, which a notebook shows.
        discriminator: from points (m, 1) to D's probabilities (m,).
        origin: of the samples, for the title.
        names: of the column, for the axis.
    """
    x, y = real[:, 0].double().numpy(), samples[:, 0].double().numpy()
    edges = bin_edges(x, y, 60)
    figure = style.figure(8.5, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    p, q = _histogram(top, x, y, edges)
    top.legend(frameon=False, fontsize=11)
    style.label(top, f"Samples of {origin} against the data", "", "density")
    middle = (edges[:-1] + edges[1:]) / 2
    with np.errstate(invalid="ignore"):
        optimal = p / (p + q)  # NaN in empty bins leaves a gap in the line
    ratio = r"optimal $p_{data}/(p_{data}+p_g)$, from the histograms"
    bottom.plot(middle, optimal, color=style.GREY, lw=1.2, ls=":", label=ratio)
    if discriminator is not None:
        grid = torch.linspace(float(edges[0]), float(edges[-1]), 400, dtype=torch.float64)
        bottom.plot(grid.numpy(), discriminator(grid[:, None]), color=style.PURPLE, lw=2.2, label=r"$D(x)$")
    style.reference(bottom, 0.5, "equilibrium: 1/2", style.GREY)
    bottom.set(ylim=(-0.03, 1.03), xlim=(edges[0], edges[-1]))
    (name,) = style.axis_names(names, 1)
    style.label(bottom, "The discriminator", name, "probability of being real")
    style.legend_below(bottom, offset=-0.28)
    return style.save(figure, path)


def marginals(
    samples: Tensor, real: Tensor, path: style.PathLike | None = None, *, limit: int = 9, names: Sequence[str] = ()
) -> Any:
    """Histograms of the first columns, generated over real.

    Args:
        samples, real: (n, columns).
        path: of the picture; None: the figure is returned, which a notebook shows.
        limit: columns shown.
        names: of the columns; by default their numbers.
    """
    count = min(limit, real.shape[1])
    across = min(3, count)
    rows = -(-count // across)
    figure = style.figure(3.7 * across, 2.7 * rows + 0.6)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for column, axes in enumerate(panels):
        if column >= count:
            axes.set_axis_off()
            continue
        x, y = real[:, column].double().numpy(), samples[:, column].double().numpy()
        _histogram(axes, x, y, bin_edges(x, y, 40))
        name = _title(names[column]) if names else f"column {column}"
        style.label(axes, name, "", "density" if column % across == 0 else "")
        axes.set_yticks([])  # each column has its own unit; only the shapes are to be compared
    panels[0].legend(frameon=False, fontsize=9)
    hidden = real.shape[1] - count
    more = f" (first {count} of {real.shape[1]})" if hidden else ""
    figure.suptitle(f"Samples of G against the data, column by column{more}", fontsize=13)
    return style.save(figure, path)


def _title(name: str) -> str:
    """A column's name, cut to what fits."""
    return style.plain(name.strip()[:30])


def bin_edges(x: Array, y: Array, bins: int) -> Array:
    """Bins over 99.8% of x and of y. For whole numbers x, each bin contains equally many of them."""
    ends = [np.percentile(values[np.isfinite(values)], [0.1, 99.9]) for values in (x, y) if np.isfinite(values).any()]
    low, high = np.min(ends), np.max(ends)
    if (x == np.round(x)).all() and high - low < 1e9:
        first, last = math.floor(low) - 1, math.ceil(high) + 1
        each = -(-(last - first + 1) // bins)
        count = -(-(last - first + 1) // each)
        return first - 0.5 + each * np.arange(count + 1, dtype=np.float64)
    pad = 0.08 * (high - low) or max(0.5, 0.01 * abs(low))
    return np.linspace(low - pad, high + pad, bins + 1)


def _histogram(axes: Any, x: Array, y: Array, edges: Array) -> tuple[Array, Array]:
    p, _, _ = axes.hist(x, edges, density=True, color=style.BLUE, alpha=0.35, label="real")
    q, _, _ = axes.hist(y, edges, density=True, color=style.ORANGE, histtype="step", lw=2, label="generated")
    return p, q
