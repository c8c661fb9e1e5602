"""The pictures beside the results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by the colour-blind
VERDICT_COLOURS = {"met": COLOURS[0], "within the spread": "#999999", "missed": COLOURS[1]}
INK, GRID = "#222222", "#dddddd"


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its array of axes, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    fig = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, wspace=0.04))
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_size(9)
        ax.yaxis.label.set_size(9)
    return fig, axes


def title(fig: Any, heading: str, notes: Sequence[str]) -> None:
    """A bold heading, under it what one must know to read the picture."""
    # bold comes as mathematics, which would put spaces of its own around punctuation: that stays outside
    parts = re.findall(r"[^\s.,']+|[\s.,']+", heading.replace("_", r"\_"))
    bold = "".join(part if part[0] in " .,'" else f"$\\mathbf{{{part}}}$" for part in parts)
    for ax in fig.axes:
        ax.title.set_size(9.5)
    fig.suptitle("\n".join([bold, *(n for n in notes if n)]), fontsize=9.5, x=0.01, ha="left", color=INK)


def lines(ax: Any, x: Sequence[float], series: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> None:
    """One line with markers per entry, on logarithmic axes."""
    for name, values in series.items():
        ax.plot(x, values, marker="o", markersize=4, linewidth=1.6, color=colours[name], label=name)
    ax.set_xscale("log", base=2)


def ratio_line(ax: Any, at: float, text: str, vertical: bool = False) -> None:
    """A dashed line for a target, labelled at its end."""
    draw = ax.axvline if vertical else ax.axhline
    draw(at, color=INK, linestyle="--", linewidth=0.9)
    where = {"xy": (at, 1.0), "xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
    if not vertical:
        where = {"xy": (1.0, at), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    ax.annotate(text, fontsize=7.5, color=INK, **where)
