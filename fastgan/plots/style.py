"""The common style of all pictures: colours for all kinds of colour vision, frames, labels, and atomic files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan.data.extras import need
from fastgan.files import write_atomically

Array = NDArray[np.float64]
PathLike = str | os.PathLike[str]

# Okabe and Ito's palette: told apart by everyone, also in grey.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
INK, GREY, LIGHT = "#222222", "#777777", "#DDDDDD"
DPI = 150


def matplotlib(module: str) -> Any:
    """A module of matplotlib, or what to install."""
    return need(f"matplotlib.{module}", what="fastgan.plots", package="matplotlib")


def figure(width: float, height: float) -> Any:
    return matplotlib("figure").Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def save(figure: Any, path: PathLike) -> Path:
    """The format follows the suffix: png, svg or pdf."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"plot: a picture must end in .png, .svg or .pdf, got {str(path)!r}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI)
    write_atomically(path, [buffer.getvalue()])
    return path


def label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=13, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=11, color=INK)
    axes.set_ylabel(y, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.grid(True, color=LIGHT, lw=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def note(axes: Any, text: str, at: tuple[float, float], colour: str) -> None:
    axes.text(*at, text, fontsize=10, color=colour, va="center")


def reference(axes: Any, y: float, text: str, colour: str) -> None:
    axes.axhline(y, color=colour, lw=1.2, ls=(0, (4, 3)), alpha=0.9, label=text, zorder=1)


def legend_below(axes: Any, offset: float = -0.16, ncols: int = 3) -> None:
    axes.legend(frameon=False, fontsize=10, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, offset))
