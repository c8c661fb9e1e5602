"""The modes that G covers, during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import style


def modes_over_time(
    trials: Mapping[str, Sequence[np.ndarray]],
    path: style.PathLike | None = None,
    *,
    modes: int,
    paper: Mapping[str, float],
    title: str,
) -> Any:
    """Modes that G covers and samples near a mode, over the iterations; a thin line for each trial.

    Args:
        trials: by method, for each trial an array (evaluations, 3 or more): iteration, modes, share near a mode.
        path: of the picture; None: the figure is returned, which a notebook shows.
        modes: of the data.
        paper: by method, the modes in a paper's table.
        title: above the picture.
    """
    figure = style.figure(9, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for (method, runs), colour in zip(trials.items(), style.PALETTE, strict=False):
        _bundle(top, [(run[:, 0], run[:, 1]) for run in runs], method, colour)
        _bundle(bottom, [(run[:, 0], 100 * run[:, 2]) for run in runs], f"_{method}", colour)  # labelled above
        if method in paper:
            style.reference(top, paper[method], f"the paper's: {paper[method]:g}", colour)
    top.set_ylim(0, modes * 1.06)
    bottom.set(xlim=(0, max(run[-1, 0] for runs in trials.values() for run in runs)), ylim=(0, 103))
    style.reference(bottom, 98.89, "perfect sampler: 98.9%", style.GREY)
    style.label(top, title, "", f"modes found, of {modes}")
    style.label(bottom, "", "iteration", "% within 3 std of a mode")
    style.legend_below(top, offset=-0.04, ncols=4)  # curves may be anywhere above
    style.legend_below(bottom)
    return style.save(figure, path)


def _bundle(axes: Any, curves: Sequence[tuple[np.ndarray, np.ndarray]], label: str, colour: str) -> None:
    """A thin line for each trial, a thick one for their mean."""
    for x, y in curves:
        axes.plot(x, y, color=colour, lw=0.6, alpha=0.35)
    shortest = min(len(x) for x, _ in curves)
    mean = np.mean([y[:shortest] for _, y in curves], 0)
    axes.plot(curves[0][0][:shortest], mean, color=colour, lw=2, label=label)
