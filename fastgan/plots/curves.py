"""Curves of a training: losses, D(x) and D(G(z)), with their values at equilibrium."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._options import TrainLoss

from . import style
from .style import Array

_LOG4, _LOG2 = math.log(4.0), math.log(2.0)
_ACROSS = 125  # characters of a legend under two panels
_SINGLE = 3000  # most iterations whose values are drawn one by one


def equilibrium(loss: TrainLoss, real_label: float = 1.0, fake_label: float = 0.0) -> dict[str, float]:
    """loss_d, loss_g and D where p_g = p_data and D is optimal; empty for losses without such values.

    With smoothed labels the optimal D of equal distributions is the mean of both.
    """
    if loss not in ("non_saturating", "minimax", "mle"):
        return {}
    d = (real_label + fake_label) / 2
    generator = {"non_saturating": -math.log(d), "minimax": math.log1p(-d), "mle": -0.5 * d / (1 - d)}
    return {"loss_d": -2 * (d * math.log(d) + (1 - d) * math.log1p(-d)), "loss_g": generator[loss], "d": d}


def loss_curves(
    history: Mapping[str, NDArray[Any]],
    path: style.PathLike | None = None,
    *,
    loss: TrainLoss = "non_saturating",
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Any:
    """loss_d and loss_g over the iterations, with their values at equilibrium.

    A line is a moving average over a fiftieth of the run. Behind it are the values, or, of more than 3,000, the band
    between their 5th and 95th percentiles.

    Args:
        history: columns "step", "loss_d", "loss_g".
        path: of the picture; None: the figure is returned, which a notebook shows.
        loss, real_label, fake_label: as in `TrainConfig`; they set the reference lines.
    """
    figure = style.figure(8.5, 4.6)
    axes = figure.subplots()
    goal = equilibrium(loss, real_label, fake_label)
    for name, label, colour in (("loss_d", "discriminator", style.BLUE), ("loss_g", "generator", style.ORANGE)):
        _curve(axes, history["step"], history[name], label, colour)
        if goal:
            value = {_LOG4: "log 4", _LOG2: "log 2"}.get(goal[name], f"{goal[name]:.3f}")
            style.reference(axes, goal[name], f"{label} at equilibrium: {value}", colour)
    style.label(axes, "Losses" + _smoothed(real_label, fake_label), "iteration", _unit(goal))
    _limits(axes, history["step"], [history["loss_d"], history["loss_g"]], goal.values())
    style.legend_below(axes, ncols=2, more=_behind(len(history["step"])))
    return style.save(figure, path)


def d_curves(
    history: Mapping[str, NDArray[Any]],
    path: style.PathLike | None = None,
    *,
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Any:
    """D(x), D(G(z)) and D's accuracy over the iterations.

    At equilibrium both outputs are the mean of the two labels, and D's accuracy is that of guessing.

    Args:
        history: columns "step", "d_real", "d_fake", "accuracy_real", "accuracy_fake".
        path: of the picture; None: the figure is returned, which a notebook shows.
        real_label, fake_label: targets of D on real data and on fakes; D's equilibrium is their mean.
    """
    figure = style.figure(8.5, 6.6)
    outputs, accuracy = figure.subplots(2, 1, sharex=True)
    for axes, names in ((outputs, ("d_real", "d_fake")), (accuracy, ("accuracy_real", "accuracy_fake"))):
        _curve(axes, history["step"], history[names[0]], "on real data", style.BLUE)
        _curve(axes, history["step"], history[names[1]], "on G's samples", style.ORANGE)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(0, max(1, int(history["step"][-1])) if len(history["step"]) else 1)
    middle = (real_label + fake_label) / 2
    half = "1/2" if middle == 0.5 else f"{middle:g}"
    style.reference(outputs, middle, f"equilibrium: {half}", style.GREY)
    style.reference(accuracy, 0.5, "guessing: 1/2", style.GREY)
    smoothed = _smoothed(real_label, fake_label)
    style.label(outputs, f"What D says: D(x) and D(G(z)), batch means{smoothed}", "", "probability of being real")
    style.label(accuracy, f"How often D is right: cut at {half}", "iteration", "share of the batch")
    style.legend_below(outputs, offset=-0.06)
    style.legend_below(accuracy, offset=-0.2, more=_behind(len(history["step"])))
    return style.save(figure, path)


def population_curves(
    mean: Mapping[str, NDArray[Any]],
    standard_error: Mapping[str, NDArray[Any]],
    path: style.PathLike | None = None,
    *,
    labels: Sequence[str],
    loss: TrainLoss = "non_saturating",
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Any:
    """loss_d and loss_g of a population: means over the seeds, with a band of one standard error on either side.

    Args:
        mean, standard_error: "loss_d" and "loss_g", each (grid points, steps).
        path: of the picture; None: the figure is returned, which a notebook shows.
        labels: of the grid points.
        loss, real_label, fake_label: as in `TrainConfig`; they set the reference lines.
    """
    one = len(labels) == 1
    across = max(1, min(4, _ACROSS // (max(map(len, labels)) + 8)))  # labels beside each other in the legend
    figure = style.figure(8.5, 4.6) if one else style.figure(11, 4.6 + 0.22 * -(-(len(labels) + 3) // across))
    panels = [figure.subplots()] * 2 if one else figure.subplots(1, 2)
    goal = equilibrium(loss, real_label, fake_label)
    step = np.arange(1, mean["loss_d"].shape[1] + 1)
    kinds = (("loss_d", "discriminator", style.BLUE), ("loss_g", "generator", style.ORANGE))
    for axes, (name, player, own) in zip(panels, kinds, strict=True):
        for point, label in enumerate(labels):
            family = style.PALETTE[point % len(style.PALETTE)], style.DASHES[point // len(style.PALETTE) % 4]
            colour, dash = (own, "-") if one else family
            _band(axes, step, mean[name][point], standard_error[name][point], player if one else label, colour, dash)
        if goal:
            value = {_LOG4: "log 4", _LOG2: "log 2"}.get(goal[name], f"{goal[name]:.3f}")
            style.reference(axes, goal[name], f"{player} at equilibrium: {value}", own if one else style.GREY)
        shown = ("loss_d", "loss_g") if one else (name,)
        _limits(axes, step, [curve for each in shown for curve in mean[each]], [goal[n] for n in shown if goal])
        style.label(axes, f"Losses: {labels[0]}" if one else f"Loss of the {player}", "iteration", _unit(goal))
    means = f"; lines: means over {window:,}" if (window := len(step) // 50) > 1 else ""
    band = style.matplotlib("patches").Patch(label=f"one standard error{means}", color=style.GREY, alpha=0.2, lw=0)
    if one:
        style.legend_below(panels[0], ncols=2, more=[band])
    else:  # a line of one look has one label in both panels
        found = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
        handles = list({handle.get_label(): handle for handle in found}.values())
        look = {"loc": "outside lower center", "frameon": False, "fontsize": 10}
        figure.legend(handles=[*handles, band], ncols=across, **look)
    return style.save(figure, path)


def _unit(goal: Mapping[str, float]) -> str:
    """Of the axis: losses with an equilibrium are log-likelihoods; others, as those of a WGAN, have no unit."""
    return "loss (nats)" if goal else "loss"


def _smoothed(real_label: float, fake_label: float) -> str:
    """For a title: D's labels, unless they are 1 and 0."""
    return "" if (real_label, fake_label) == (1.0, 0.0) else f"; labels smoothed to {real_label:g} and {fake_label:g}"


def _behind(count: int) -> list[Any]:
    """For a legend: what the background shows, and the window of the moving average."""
    if count < 100:  # no average is taken: nothing is behind the lines
        return []
    look = {"color": style.GREY, "alpha": 0.3, "lw": 0.7}
    if many := count > _SINGLE:
        look["lw"] = 0
    text = "5th to 95th percentile" if many else "each iteration"
    label = f"{text}; lines: means over {count // 50:,}"
    kind = style.matplotlib("patches").Patch if many else functools.partial(style.matplotlib("lines").Line2D, [], [])
    return [kind(label=label, **look)]


def _limits(axes: Any, step: NDArray[Any], curves: Sequence[NDArray[Any]], goals: Any) -> None:
    """Limits that contain 99.6% of the values, so that the first iterations do not set the scale."""
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
    """The values in a light colour (a band if there are many), and their moving average."""
    values = np.asarray(values, np.float64)
    if len(values) > _SINGLE:
        edges = np.linspace(0, len(values), 601).astype(int)
        bins = [np.percentile(values[a:b], [5, 95]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        low, high = np.array(bins).T
        axes.fill_between(step[edges[:-1]], low, high, color=colour, alpha=0.18, lw=0)
    else:
        axes.plot(step, values, color=colour, alpha=0.3, lw=0.7)
    axes.plot(step, _smooth(values), color=colour, lw=2, label=label, marker=_marker(step))


def _band(axes: Any, step: NDArray[Any], mean: Array, error: Array, label: str, colour: str, dash: str) -> None:
    """A moving average of the mean with a band of its standard error, at 2,000 iterations or a little more."""
    shown = slice(None, None, max(1, len(step) // 2000))
    x, y, spread = step[shown], _smooth(mean)[shown], _smooth(error)[shown]
    axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.2, lw=0)
    axes.plot(x, y, dash, color=colour, lw=2, label=label, marker=_marker(x))


def _marker(step: NDArray[Any]) -> str:
    """One iteration is a point: a line of one is not seen."""
    return "o" if len(step) == 1 else ""


def _smooth(values: Array) -> Array:
    """Centred moving average over a fiftieth of the run; near the ends over fewer values."""
    window = max(1, len(values) // 50)
    if window == 1:
        return values
    ones = np.ones(window)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), ones, "same")
    count = np.convolve(finite.astype(np.float64), ones, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1.0), np.nan)
