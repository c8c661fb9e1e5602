"""Marginals of a table's columns, real and synthetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._results import shortened

from . import style
from .points import bin_edges

_LABELS = 8  # bars of a column of labels, and one for the rest
_BINS = 40


@dataclass(frozen=True)
class Marginal:
    """A column of the picture.

    Args:
        name: of the column.
        real, synthetic: numbers or text, (n,), without missing values.
        note: after the name, such as "KS 0.031".
        is_time: whether numbers are seconds since 1970.
    """

    name: str
    real: NDArray[Any]
    synthetic: NDArray[Any]
    note: str = ""
    is_time: bool = False


def table_marginals(columns: Sequence[Marginal], path: style.PathLike, *, title: str, limit: int = 16) -> Path:
    """Each column's histogram, or the frequencies of its labels: real beside synthetic.

    Args:
        columns: in order.
        path: of the picture.
        title: above the picture.
        limit: most columns that are shown.
    """
    shown = list(columns[:limit])
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    figure = style.figure(3.5 * across, 2.6 * down + 0.6)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, column in zip(panels, shown, strict=False):
        (_bars if column.real.dtype.kind in "OU" else _histogram)(axes, column)
        name = style.plain(shortened(column.name.strip(), 24))
        style.label(axes, f"{name}   {column.note}", "", "")
        axes.set_title(axes.get_title(loc="left"), fontsize=10, loc="left", color=style.INK)
        axes.tick_params(labelsize=8)
    handles = [("real", style.BLUE), ("synthetic", style.ORANGE)]
    patches = [style.matplotlib("patches").Patch(color=colour, label=name) for name, colour in handles]
    figure.legend(handles=patches, loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    hidden = len(columns) - len(shown)
    more = f" (first {len(shown)} of {len(columns)} columns)" if hidden else ""
    figure.suptitle(f"{title}{more}", fontsize=12, x=0.01, ha="left", color=style.INK)
    return style.save(figure, path)


def _histogram(axes: Any, column: Marginal) -> None:
    x, y = column.real.astype(np.float64), column.synthetic.astype(np.float64)
    edges = bin_edges(x, y if len(y) else x, _BINS) if len(x) else np.linspace(0, 1, _BINS + 1)
    for values, colour, options in (
        (x, style.BLUE, {"alpha": 0.4}),
        (y, style.ORANGE, {"histtype": "step", "lw": 1.6}),
    ):
        if len(values):
            counts = np.full(len(values), 1 / len(values))
            axes.hist(values, edges, weights=counts, color=colour, **options)
    axes.set_yticks([])
    if column.is_time:
        dates = style.matplotlib("dates")
        low, high = axes.get_xlim()
        places = np.linspace(low + 0.1 * (high - low), high - 0.1 * (high - low), 3)
        axes.set_xticks(places, [dates.num2date(place / 86400).strftime("%Y-%m-%d") for place in places])


def _bars(axes: Any, column: Marginal) -> None:
    labels, counts = np.unique(column.real.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_LABELS]
    names = list(labels[order])
    shares = [
        [float((values.astype(str) == name).mean()) if len(values) else 0.0 for name in names]
        for values in (column.real, column.synthetic)
    ]
    if len(labels) > len(names):
        names.append("others")
        shares = [[*share, max(0.0, 1 - sum(share))] for share in shares]
    places = np.arange(len(names))
    axes.barh(places - 0.2, shares[0], 0.4, color=style.BLUE, alpha=0.5)
    axes.barh(places + 0.2, shares[1], 0.4, color=style.ORANGE)
    axes.set_yticks(places, [style.plain(shortened(name, 14)) for name in names])
    axes.invert_yaxis()
