"""Every picture: loss and D(x) curves, samples beside real rows, and the generator's costs themselves.

Blue is always the real data and what D takes for it, orange what G made. Matplotlib is imported late and used
through its object interface, so no global state of pyplot is touched; files appear complete or not at all.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan import ops
from fastgan.data.extras import need
from fastgan.training.checkpoint import write_atomically

Array = NDArray[np.float64]
Path_ = str | os.PathLike[str]

# Okabe and Ito's palette: told apart by everyone, also in grey.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
_PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
INK, GREY, LIGHT = "#222222", "#777777", "#DDDDDD"
_DPI = 150
_LOG4, _LOG2 = math.log(4.0), math.log(2.0)


# ---------------------------------------------------------------- the costs of the generator


def loss_table(logits: Array | Sequence[float] | None = None) -> dict[str, Array]:
    """The generator's three costs and their slopes as functions of D's logit, in float64.

    Args:
        logits: logits l of D(G(z)); default 401 of them, evenly from -10 to 10.

    Returns:
        Columns "logit", "d" = sigmoid(l), and for "minimax" ln(1 - D), "non_saturating" -ln D and "mle"
        -exp(l) / 2 the value and, as "..._slope", the derivative with respect to l.

    Source: Goodfellow et al. (2014), section 3; Goodfellow (2016), tutorial, figure 16.
    """
    chosen = np.linspace(-10.0, 10.0, 401) if logits is None else np.array(logits, np.float64)
    logit = torch.from_numpy(chosen)
    table = {"logit": logit, "d": torch.sigmoid(logit)}
    for formula in ("minimax", "non_saturating", "mle"):
        table[formula] = ops.pointwise(logit, formula)
        table[f"{formula}_slope"] = ops.pointwise(logit, formula, order=1)
    return {name: column.numpy() for name, column in table.items()}


def losses(path: Path_) -> Path:
    """The picture of `loss_table`: each cost against D(G(z)), and its slope against the logit."""
    figure = _figure(11, 4.6)
    costs, slopes = figure.subplots(1, 2)
    table = loss_table(np.linspace(-8.0, 8.0, 801))
    kinds = (
        ("minimax", r"minimax  $\ln(1-D)$", BLUE, "-"),
        ("non_saturating", r"non-saturating  $-\ln D$", ORANGE, "--"),
        ("mle", r"maximum likelihood  $-\frac{1}{2}\,e^{\,l}$", GREEN, "-."),
    )
    for name, label, colour, dash in kinds:
        costs.plot(table["d"], table[name], dash, color=colour, lw=2.2, label=label)
        slopes.plot(table["logit"], table[f"{name}_slope"], dash, color=colour, lw=2.2, label=label)
    _label(costs, "The generator's costs", r"$D(G(z))$, D's verdict on a sample", "cost")
    costs.set(xlim=(0, 1), ylim=(-5, 5))
    costs.legend(frameon=False, loc="upper right", fontsize=10)
    _label(slopes, "What G learns from: the slope", r"logit $l$ of $D(G(z))$", r"d cost / d$l$")
    slopes.set(xlim=(-6, 6), ylim=(-2, 0.25))
    slopes.axvline(0, color=LIGHT, lw=1, zorder=0)
    _note(slopes, "D rejects the sample:\nonly $-\\ln D$ still teaches", (-5.8, -0.55), INK)
    _note(slopes, "D is fooled", (3.3, 0.1), GREY)
    return _save(figure, path)


# ---------------------------------------------------------------- the course of a training


def equilibrium(loss: str, real_label: float = 1.0) -> dict[str, float]:
    """loss_d, loss_g and D where p_g = p_data and D is optimal; empty where theory says nothing.

    With one-sided smoothing the optimal D of equal distributions is real_label / 2.
    """
    if loss not in ("non_saturating", "minimax", "mle"):
        return {}
    d = real_label / 2
    generator = {"non_saturating": -math.log(d), "minimax": math.log1p(-d), "mle": -0.5 * d / (1 - d)}
    smooth = (1 - real_label) * math.log1p(-d)
    return {"loss_d": -real_label * math.log(d) - smooth - math.log1p(-d), "loss_g": generator[loss], "d": d}


def loss_curves(
    history: Mapping[str, NDArray[Any]], path: Path_, *, loss: str = "non_saturating", real_label: float = 1.0
) -> Path:
    """loss_d and loss_g over the iterations, with their values at equilibrium.

    Args:
        history: columns "step", "loss_d", "loss_g".
        path: of the picture.
        loss, real_label: as in `TrainConfig`; they set the reference lines.
    """
    figure = _figure(8.5, 4.6)
    axes = figure.subplots()
    goal = equilibrium(loss, real_label)
    for name, label, colour in (("loss_d", "discriminator", BLUE), ("loss_g", "generator", ORANGE)):
        _curve(axes, history["step"], history[name], label, colour)
        if goal:
            value = {_LOG4: "log 4", _LOG2: "log 2"}.get(goal[name], f"{goal[name]:.3f}")
            _reference(axes, goal[name], f"{label} at equilibrium: {value}", colour)
    _label(axes, "Losses", "iteration", "loss (nats)")
    _limits(axes, history["step"], [history["loss_d"], history["loss_g"]], goal.values())
    _legend_below(axes, ncols=2)
    return _save(figure, path)


def d_curves(history: Mapping[str, NDArray[Any]], path: Path_, *, real_label: float = 1.0) -> Path:
    """D(x), D(G(z)) and D's accuracy over the iterations; at equilibrium all of them are one half.

    Args:
        history: columns "step", "d_real", "d_fake", "accuracy_real", "accuracy_fake".
        path: of the picture.
        real_label: target of D on real data; D's equilibrium is half of it.
    """
    figure = _figure(8.5, 6.6)
    outputs, accuracy = figure.subplots(2, 1, sharex=True)
    for axes, names in ((outputs, ("d_real", "d_fake")), (accuracy, ("accuracy_real", "accuracy_fake"))):
        _curve(axes, history["step"], history[names[0]], "on real data", BLUE)
        _curve(axes, history["step"], history[names[1]], "on G's samples", ORANGE)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(0, max(1, int(history["step"][-1])) if len(history["step"]) else 1)
    half = "1/2" if real_label == 1.0 else f"{real_label / 2:g} (half the label {real_label:g})"
    _reference(outputs, real_label / 2, f"equilibrium: {half}", GREY)
    _reference(accuracy, 0.5, "guessing: 1/2", GREY)
    _label(outputs, "What D says: D(x) and D(G(z)), batch means", "", "probability of being real")
    _label(accuracy, "How often D is right", "iteration", "share of the batch")
    for axes in (outputs, accuracy):
        _legend_below(axes, offset=-0.06 if axes is outputs else -0.2)
    return _save(figure, path)


def population_curves(
    mean: Mapping[str, NDArray[Any]],
    standard_error: Mapping[str, NDArray[Any]],
    path: Path_,
    *,
    labels: Sequence[str],
    loss: str = "non_saturating",
    real_label: float = 1.0,
) -> Path:
    """loss_d and loss_g of a population: means over the seeds, with a band of one standard error on either side.

    Args:
        mean, standard_error: "loss_d" and "loss_g", each (grid points, steps).
        path: of the picture.
        labels: of the grid points.
        loss, real_label: as in `TrainConfig`; they set the reference lines.
    """
    one = len(labels) == 1
    figure = _figure(8.5, 4.6) if one else _figure(11, 5)
    panels = [figure.subplots()] * 2 if one else figure.subplots(1, 2)
    goal = equilibrium(loss, real_label)
    step = np.arange(1, mean["loss_d"].shape[1] + 1)
    kinds = (("loss_d", "discriminator", BLUE), ("loss_g", "generator", ORANGE))
    for axes, (name, player, own) in zip(panels, kinds, strict=True):
        for point, label in enumerate(labels):
            colour, dash = (own, "-") if one else (_PALETTE[point % len(_PALETTE)], _DASHES[point // len(_PALETTE) % 4])
            _band(axes, step, mean[name][point], standard_error[name][point], player if one else label, colour, dash)
        if goal:
            value = {_LOG4: "log 4", _LOG2: "log 2"}.get(goal[name], f"{goal[name]:.3f}")
            _reference(axes, goal[name], f"{player + ' ' if one else ''}at equilibrium: {value}", own if one else GREY)
        shown = ("loss_d", "loss_g") if one else (name,)
        _limits(axes, step, [curve for each in shown for curve in mean[each]], [goal[n] for n in shown if goal])
        _label(axes, f"Losses: {labels[0]}" if one else f"Loss of the {player}", "iteration", "loss (nats)")
    for axes in panels[:1] if one else panels:
        _legend_below(axes, ncols=2)
    return _save(figure, path)


# ---------------------------------------------------------------- samples


def image_grid(
    samples: Tensor,
    real: Tensor,
    path: Path_,
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
    figure = _figure(pixels[0] / _DPI, pixels[1] / _DPI)
    figure.set_layout_engine("none")
    for image, x, text, colour in (
        (left, margin, titles[0], ORANGE),
        (right, margin + width + gap, titles[1], BLUE),
    ):
        axes = figure.add_axes((x / pixels[0], margin / pixels[1], width / pixels[0], height / pixels[1]))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(text, fontsize=13, color=colour, loc="left", fontweight="bold")
    return _save(figure, path)


def scatter(
    samples: Tensor,
    real: Tensor,
    path: Path_,
    *,
    discriminator: Callable[[Tensor], Tensor] | None = None,
    title: str = "",
) -> Path:
    """Two-dimensional samples over the real points, with D's surface behind them.

    Args:
        samples, real: (n, 2).
        path: of the picture.
        discriminator: from points (m, 2) to D's probabilities (m,); None leaves the surface out.
        title: above the picture.
    """
    shown_real, shown = real[:2500].double().numpy(), samples[:2500].double().numpy()
    # The middle of the data sets the frame: one stray sample must not shrink the picture.
    low, high = shown_real.min(0), shown_real.max(0)
    centre, half = (low + high) / 2, max(float((high - low).max()) * 0.65, 1e-6)
    figure = _figure(8.2, 7)
    axes = figure.subplots()
    if discriminator is not None:
        _surface(figure, axes, discriminator, centre, half)
    axes.scatter(*shown_real.T, s=26, color=BLUE, alpha=0.35, lw=0, label="real", rasterized=True)
    axes.scatter(*shown.T, s=5, color="#8A2F00", alpha=0.75, lw=0, label="generated", rasterized=True)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    axes.set_aspect("equal")
    _label(axes, title or "Samples of G over real points", r"$x_1$", r"$x_2$")
    legend = axes.legend(loc="upper right", fontsize=11, markerscale=2, framealpha=0.9)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
    return _save(figure, path)


def line(
    samples: Tensor, real: Tensor, path: Path_, *, discriminator: Callable[[Tensor], Tensor] | None = None
) -> Path:
    """One-dimensional samples: both histograms, and below them D(x) beside the ratio that it should learn.

    Args:
        samples, real: (n, 1).
        path: of the picture.
        discriminator: from points (m, 1) to D's probabilities (m,).
    """
    x, y = real[:, 0].double().numpy(), samples[:, 0].double().numpy()
    edges = _edges(x, y, 60)
    figure = _figure(8.5, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    p, q = _histogram(top, x, y, edges)
    top.legend(frameon=False, fontsize=11)
    _label(top, "Samples of G against the data", "", "density")
    middle = (edges[:-1] + edges[1:]) / 2
    with np.errstate(invalid="ignore"):
        optimal = p / (p + q)  # NaN in empty bins leaves a gap in the line
    ratio = r"optimal $p_{data}/(p_{data}+p_g)$, from the histograms"
    bottom.plot(middle, optimal, color=GREY, lw=1.2, ls=":", label=ratio)
    if discriminator is not None:
        grid = torch.linspace(float(edges[0]), float(edges[-1]), 400, dtype=torch.float64)
        bottom.plot(grid.numpy(), discriminator(grid[:, None]), color=PURPLE, lw=2.2, label=r"$D(x)$")
    _reference(bottom, 0.5, "equilibrium: 1/2", GREY)
    bottom.set(ylim=(-0.03, 1.03), xlim=(edges[0], edges[-1]))
    _label(bottom, "The discriminator", "x", "probability of being real")
    _legend_below(bottom, offset=-0.28)
    return _save(figure, path)


def marginals(samples: Tensor, real: Tensor, path: Path_, *, limit: int = 9) -> Path:
    """Histograms of the first columns, generated over real.

    Args:
        samples, real: (n, columns).
        path: of the picture.
        limit: columns shown.
    """
    count = min(limit, real.shape[1])
    across = min(3, count)
    rows = -(-count // across)
    figure = _figure(3.7 * across, 2.7 * rows + 0.6)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for column, axes in enumerate(panels):
        if column >= count:
            axes.set_axis_off()
            continue
        x, y = real[:, column].double().numpy(), samples[:, column].double().numpy()
        _histogram(axes, x, y, _edges(x, y, 40))
        _label(axes, f"column {column}", "", "density" if column % across == 0 else "")
        axes.set_yticks([])  # each column has its own unit; only the shapes are to be compared
    panels[0].legend(frameon=False, fontsize=9)
    hidden = real.shape[1] - count
    more = f" (first {count} of {real.shape[1]})" if hidden else ""
    figure.suptitle(f"Samples of G against the data, column by column{more}", fontsize=13)
    return _save(figure, path)


# ---------------------------------------------------------------- parts


def _figure(width: float, height: float) -> Any:
    figure = need("matplotlib.figure", what="fastgan.plots", package="matplotlib", extra="demo")
    return figure.Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _save(figure: Any, path: Path_) -> Path:
    """The format follows the suffix: png, svg or pdf."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"plot: a picture must end in .png, .svg or .pdf, got {str(path)!r}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI)
    write_atomically(path, [buffer.getvalue()])
    return path


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=13, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=11, color=INK)
    axes.set_ylabel(y, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.grid(True, color=LIGHT, lw=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _note(axes: Any, text: str, at: tuple[float, float], colour: str) -> None:
    axes.text(*at, text, fontsize=10, color=colour, va="center")


def _reference(axes: Any, y: float, text: str, colour: str) -> None:
    axes.axhline(y, color=colour, lw=1.2, ls=(0, (4, 3)), alpha=0.9, label=text, zorder=1)


def _legend_below(axes: Any, offset: float = -0.16, ncols: int = 3) -> None:
    axes.legend(frameon=False, fontsize=10, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, offset))


def _limits(axes: Any, step: NDArray[Any], curves: Sequence[NDArray[Any]], goals: Any) -> None:
    """The frame of nearly all values: the wild first iterations must not flatten the rest."""
    values = np.concatenate([_smooth(np.asarray(curve, np.float64)) for curve in curves])
    values = values[np.isfinite(values)]
    marks = [float(goal) for goal in goals]
    if len(values):
        low, high = np.percentile(values, [0.2, 99.8])
        low, high = min([low, *marks]), max([high, *marks])
        pad = 0.12 * (high - low) or 0.1
        axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0, max(1, int(step[-1])) if len(step) else 1)


def _curve(axes: Any, step: NDArray[Any], values: NDArray[Any], label: str, colour: str) -> None:
    """The values in light and their moving average in full colour; many of them as the band they fill."""
    values = np.asarray(values, np.float64)
    if len(values) > 3000:
        edges = np.linspace(0, len(values), 601).astype(int)
        bins = [np.percentile(values[a:b], [5, 95]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        low, high = np.array(bins).T
        axes.fill_between(step[edges[:-1]], low, high, color=colour, alpha=0.18, lw=0)
    else:
        axes.plot(step, values, color=colour, alpha=0.3, lw=0.7)
    axes.plot(step, _smooth(values), color=colour, lw=2, label=label)


def _band(axes: Any, step: NDArray[Any], mean: Array, error: Array, label: str, colour: str, dash: str) -> None:
    """A moving average of the mean with its standard error around it, at as many iterations as a picture can show."""
    shown = slice(None, None, max(1, len(step) // 2000))
    x, y, spread = step[shown], _smooth(mean)[shown], _smooth(error)[shown]
    axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.2, lw=0)
    axes.plot(x, y, dash, color=colour, lw=2, label=label)


def _smooth(values: Array) -> Array:
    """Centred moving average over a fiftieth of the run; near the ends over what there is."""
    window = max(1, len(values) // 50)
    if window == 1:
        return values
    ones = np.ones(window)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), ones, "same")
    count = np.convolve(finite.astype(np.float64), ones, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1.0), np.nan)


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


def _surface(
    figure: Any, axes: Any, discriminator: Callable[[Tensor], Tensor], centre: Array, half: float
) -> None:
    colors = need("matplotlib.colors", what="fastgan.plots", package="matplotlib", extra="demo")
    ticks = torch.linspace(-half, half, 200, dtype=torch.float64)
    x, y = ticks + centre[0], ticks + centre[1]
    surface = discriminator(torch.cartesian_prod(x, y)).reshape(len(x), len(y)).double().numpy()
    palette = colors.LinearSegmentedColormap.from_list("verdict", ["#F0A868", "#FFFFFF", "#7FB8E0"])
    extent = (float(x[0]), float(x[-1]), float(y[0]), float(y[-1]))
    image = axes.imshow(
        surface.T, origin="lower", extent=extent, cmap=palette, vmin=0, vmax=1, interpolation="bilinear"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.ax.set_title("D(x)", fontsize=11, color=INK, loc="left", pad=12)
    bar.set_ticks([0, 0.5, 1], labels=["0: made by G", "1/2", "1: real"])
    bar.outline.set_visible(False)


def _edges(x: Array, y: Array, bins: int) -> Array:
    """Bins over nearly all of the data and of the samples; wide enough where every value is the same."""
    values = np.concatenate([x, y])
    low, high = np.percentile(values[np.isfinite(values)], [0.1, 99.9])
    pad = 0.08 * (high - low) or max(0.5, 0.01 * abs(low))
    return np.linspace(low - pad, high + pad, bins + 1)


def _histogram(axes: Any, x: Array, y: Array, edges: Array) -> tuple[Array, Array]:
    p, _, _ = axes.hist(x, edges, density=True, color=BLUE, alpha=0.35, label="real")
    q, _, _ = axes.hist(y, edges, density=True, color=ORANGE, histtype="step", lw=2, label="generated")
    return p, q
