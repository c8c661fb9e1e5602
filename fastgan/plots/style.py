"""The common style of all pictures: colours, labels, legends, files."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan import __version__
from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan._files import write_atomically

Array = NDArray[np.float64]
PathLike = str | os.PathLike[str]

# Okabe and Ito's palette, for all kinds of colour vision.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
INK, GREY, LIGHT = "#222222", "#777777", "#DDDDDD"
DPI = 150


def matplotlib(module: str) -> Any:
    """A module of matplotlib; an error that says what to install if it is missing."""
    return need(f"matplotlib.{module}", what="fastgan.plots", package="matplotlib")


def figure(width: float, height: float) -> Any:
    return _figure_class()(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


@functools.cache
def _figure_class() -> Any:
    """matplotlib's Figure, with the method by which a notebook shows it."""

    def png(figure: Any) -> bytes:
        return _rendered(figure, "png")

    return type("Figure", (matplotlib("figure").Figure,), {"_repr_png_": png})


_SOURCE: contextvars.ContextVar[str] = contextvars.ContextVar("source", default="")


@contextlib.contextmanager
def source(text: str) -> Iterator[None]:
    """A context whose pictures name their source in small type, such as "digits, iteration 2,000, seed 0".

    Args:
        text: one line.
    """
    token = _SOURCE.set(text)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def sign(figure: Any, about: str = "") -> None:
    """Write in small type where a picture comes from: the text of `source`, else `about` and the version."""
    if text := _SOURCE.get() or (about and f"{about}, fastgan {__version__}"):
        if figure.get_layout_engine() is None:  # images in exact pixels
            figure.text(0.99, 0.004, plain(text), fontsize=6, color=GREY, ha="right", va="bottom")
        else:
            figure.supxlabel(plain(text), x=0.99, fontsize=7, color=GREY, ha="right")


def save(figure: Any, path: PathLike | None, about: str = "") -> Any:
    """Write a picture, in the format of its suffix: png, svg or pdf.

    Args:
        figure: what is drawn.
        path: None: nothing is written.
        about: what a picture of no run shows: rows, iterations, seed. `source` goes before it.

    Returns:
        Path; without a path the figure itself, which a notebook shows.
    """
    sign(figure, about)
    if path is None:
        return figure
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise Invalid("plot").value("a picture", f"must end in .png, .svg or .pdf, got {str(path)!r}")
    write_atomically(path, [_rendered(figure, kind)])
    return path


def _rendered(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a line for each: the boxes are seen
        figure.savefig(buffer, format=kind, dpi=DPI)
    return buffer.getvalue()


def axis_names(names: Sequence[str], features: int) -> list[str]:
    """What the axes of rows in the plane or on a line are called: the columns' names, or x."""
    if names:
        return [plain(name.strip()[:40]) for name in names]
    return ["x"] if features == 1 else [f"$x_{i + 1}$" for i in range(features)]


def plain(text: str) -> str:
    """Text with $ escaped, which would begin a formula."""
    return text.replace("$", r"\$")


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


def legend_below(axes: Any, offset: float = -0.16, ncols: int = 3, more: Sequence[Any] = ()) -> None:
    handles = [*axes.get_legend_handles_labels()[0], *more]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, offset)}
    axes.legend(handles=handles, frameon=False, fontsize=10, ncols=ncols, **place)
