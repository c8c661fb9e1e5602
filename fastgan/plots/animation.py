"""Samples during training, as an animation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan._files import write_atomically

from . import style
from .images import mosaic
from .plane import DARK, frame, set_limits
from .points import bin_edges

_MILLISECONDS = 100  # of a frame
_PAUSE = 2000  # milliseconds of the last frame
_COLOURS = 48
_DPI = 80

Paint = Callable[[Tensor], None]


def animation(
    steps: Sequence[int],
    samples: Sequence[Tensor],
    real: Tensor,
    path: style.PathLike,
    *,
    image_shape: tuple[int, int] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    ink: bool = False,
    names: Sequence[str] = (),
) -> Path:
    """Samples of G from the same noise during training: points, a histogram over that of the data, or images.

    Args:
        steps: iteration of each frame.
        samples: (n, features) for each frame, of the same noise; one feature, two, or images.
        real: (m, features) rows of the data.
        path: of the picture, a .gif.
        image_shape, value_range, ink: as for `image_grid`; None: not images.
        names: of the columns, for the axes.

    Raises:
        ValueError: no frames, another suffix, or rows that are neither images nor of one or two features.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise Invalid("plot").value("an animation", f"must end in .gif, got {str(path)!r}")
    if not steps or len(steps) != len(samples):
        raise Invalid("animation").value(
            "steps", f"must be one for each of the frames, got {len(steps)} and {len(samples)}"
        )
    if image_shape is None and real.shape[1] > 2:
        raise Invalid("animation").value("samples", f"must be images or have one or two features, got {real.shape[1]}")
    figure = style.figure(4.8, 5.0)
    axes = figure.subplots()
    if image_shape is not None:
        paint = _images(axes, samples[0], image_shape, value_range, ink)
    else:
        paint = (_line if real.shape[1] == 1 else _plane)(axes, samples[-1], real, names)
    title = axes.set_title(" ", fontsize=13, loc="left", color=style.INK)
    style.sign(figure)
    figure.set_dpi(_DPI)
    canvas = style.matplotlib("backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # a layout for each frame would move the axes
    frames = []
    for step, rows in zip(steps, samples, strict=True):
        paint(rows)
        title.set_text(f"iteration {step:,}")
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    write_atomically(path, [_gif(frames)])
    return path


def _gif(frames: list[NDArray[np.uint8]]) -> bytes:
    pillow = need("PIL.Image", what="fastgan.plots.animation", package="pillow")
    few = [pillow.fromarray(frame).quantize(_COLOURS, dither=pillow.Dither.NONE) for frame in frames]
    duration = [_MILLISECONDS] * (len(few) - 1) + [_PAUSE]
    buffer = io.BytesIO()
    few[0].save(buffer, "GIF", save_all=True, append_images=few[1:], duration=duration, loop=0, optimize=True)
    return buffer.getvalue()


def _plane(axes: Any, last: Tensor, real: Tensor, names: Sequence[str]) -> Paint:
    shown = real[:1000].double().numpy()
    centre, half = frame(shown)
    axes.scatter(*shown.T, s=14, color=style.BLUE, alpha=0.35, lw=0, label="real")
    points = axes.scatter([], [], s=6, color=DARK, alpha=0.8, lw=0, label="generated")
    set_limits(axes, centre, half)
    style.label(axes, "", *style.axis_names(names, 2))
    axes.legend(loc="upper right", fontsize=10, markerscale=2, framealpha=0.9)
    return lambda rows: points.set_offsets(rows.double().numpy())


def _line(axes: Any, last: Tensor, real: Tensor, names: Sequence[str]) -> Paint:
    x = real[:, 0].double().numpy()
    bins = bin_edges(x, last[:, 0].double().numpy(), 50)
    p, _, _ = axes.hist(x, bins, density=True, color=style.BLUE, alpha=0.35, label="real")
    outline = axes.stairs(np.zeros(len(bins) - 1), bins, color=style.ORANGE, lw=2, label="generated")
    axes.set(ylim=(0, 2 * p.max()), xlim=(bins[0], bins[-1]))
    (name,) = style.axis_names(names, 1)
    style.label(axes, "", name, "density")
    axes.legend(loc="upper right", fontsize=10, frameon=False)
    width = bins[1] - bins[0]

    def paint(rows: Tensor) -> None:
        counts, _ = np.histogram(rows[:, 0].double().numpy(), bins)
        outline.set_data(counts / (len(rows) * width))

    return paint


def _images(
    axes: Any, first: Tensor, image_shape: tuple[int, int], value_range: tuple[float, float], ink: bool
) -> Paint:
    side = max(1, int(len(first) ** 0.5))

    def grid(rows: Tensor) -> NDArray[np.uint8]:
        return mosaic(rows, (side, side), image_shape, value_range, ink)

    image = axes.imshow(grid(first), interpolation="nearest")
    axes.set_axis_off()
    return lambda rows: image.set_data(grid(rows))
