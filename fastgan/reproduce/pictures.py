"""The pictures of a reproduced table: samples over the modes, and modes over the time of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastgan import plots
from fastgan.plots import BLUE, GREY, ORANGE, PURPLE

_COLOURS = (ORANGE, BLUE, "#009E73", PURPLE)


def samples_over_modes(panels: Mapping[str, tuple[Tensor, Tensor]], path: Path, *, title: str) -> Path:
    """One panel a method: a trial's samples over the centres of the modes.

    Args:
        panels: by method, samples (n, 2) and centres (modes, 2).
        path: of the picture.
        title: above all.
    """
    figure = plots._figure(3.6 * len(panels) + 0.4, 4.2)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (method, (samples, centres)) in zip(row, panels.items(), strict=True):
        low, high = centres.numpy().min(0), centres.numpy().max(0)
        pad = 0.25 * float((high - low).max())
        axes.scatter(*centres.T.numpy(), s=160, facecolors="none", edgecolors=BLUE, lw=1.2, label="modes of the data")
        axes.scatter(*samples.T.numpy(), s=4, color=ORANGE, alpha=0.4, lw=0, label="samples of G", rasterized=True)
        axes.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - pad, high[1] + pad), aspect="equal")
        plots._label(axes, method, r"$x_1$", r"$x_2$")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return plots._save(figure, path)


def modes_over_time(
    trials: Mapping[str, Sequence[np.ndarray]], path: Path, *, modes: int, paper: Mapping[str, float], title: str
) -> Path:
    """How many modes G holds and how many samples lie near one, over the iterations; a thin line a trial.

    Args:
        trials: by method, arrays (evaluations, 4) as in modes.csv.
        path: of the picture.
        modes: of the data.
        paper: by method, the modes in the paper's table.
        title: above the picture.
    """
    figure = plots._figure(9, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for (method, runs), colour in zip(trials.items(), _COLOURS, strict=False):
        _bundle(top, [(run[:, 0], run[:, 1]) for run in runs], method, colour)
        _bundle(bottom, [(run[:, 0], 100 * run[:, 2]) for run in runs], method, colour)
        if method in paper:
            label = f"{method} in the paper: {paper[method]:g}"
            top.axhline(paper[method], color=colour, lw=1.2, ls=(0, (4, 3)), label=label)
    top.set_ylim(0, modes * 1.06)
    bottom.set(xlim=(0, max(run[-1, 0] for runs in trials.values() for run in runs)), ylim=(0, 102))
    bottom.axhline(98.89, color=GREY, lw=1.2, ls=":", label="perfect sampler: 98.9%")
    plots._label(top, title, "", f"modes found, of {modes}")
    plots._label(bottom, "", "iteration", "% of samples within 3 std of a mode")
    for axes in (top, bottom):
        axes.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)
    return plots._save(figure, path)


def _bundle(axes: Any, curves: Sequence[tuple[np.ndarray, np.ndarray]], label: str, colour: str) -> None:
    """Every trial thin, their mean thick."""
    for x, y in curves:
        axes.plot(x, y, color=colour, lw=0.6, alpha=0.35)
    shortest = min(len(x) for x, _ in curves)
    mean = np.mean([y[:shortest] for _, y in curves], 0)
    axes.plot(curves[0][0][:shortest], mean, color=colour, lw=2, label=label)
