"""The generator's three losses and their derivatives, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastgan import ops

from . import style
from .style import Array


def loss_table(logits: Array | Sequence[float] | None = None) -> dict[str, Array]:
    """The generator's three costs and their derivatives as functions of D's logit, in float64.

    Args:
        logits: logits l of D(G(z)); default 401 of them, evenly from -10 to 10.

    Returns:
        Columns "logit", "d" = sigmoid(l), and for "minimax" ln(1 - D), "non_saturating" -ln D and "mle"
        -exp(l) / 2 the value and, as "..._derivative", the derivative with respect to l.

    Source: Goodfellow et al. (2014), section 3; Goodfellow (2016), tutorial, figure 16.
    """
    chosen = np.linspace(-10.0, 10.0, 401) if logits is None else np.array(logits, np.float64)
    logit = torch.from_numpy(chosen)
    table = {"logit": logit, "d": torch.sigmoid(logit)}
    for formula in ("minimax", "non_saturating", "mle"):
        table[formula] = ops.pointwise(logit, formula)
        table[f"{formula}_derivative"] = ops.pointwise(logit, formula, order=1)
    return {name: column.numpy() for name, column in table.items()}


def losses(path: style.PathLike | None = None) -> Any:
    """The picture of `loss_table`: each cost against D(G(z)), and its derivative against the logit."""
    figure = style.figure(11, 4.6)
    costs, derivatives = figure.subplots(1, 2)
    table = loss_table(np.linspace(-8.0, 8.0, 801))
    kinds = (
        ("minimax", r"minimax  $\ln(1-D)$", style.BLUE, "-"),
        ("non_saturating", r"non-saturating  $-\ln D$", style.ORANGE, "--"),
        ("mle", r"maximum likelihood  $-\frac{1}{2}\,e^{\,l}$", style.GREEN, "-."),
    )
    for name, label, colour, dash in kinds:
        costs.plot(table["d"], table[name], dash, color=colour, lw=2.2, label=label)
        derivatives.plot(table["logit"], table[f"{name}_derivative"], dash, color=colour, lw=2.2, label=label)
    style.label(costs, "The generator's costs", r"$D(G(z))$, D's verdict on a sample", "cost")
    costs.set(xlim=(0, 1), ylim=(-5, 5))
    costs.legend(frameon=False, loc="upper right", fontsize=10)
    style.label(derivatives, "What G learns from: the derivative", r"logit $l$ of $D(G(z))$", r"d cost / d$l$")
    derivatives.set(xlim=(-6, 6), ylim=(-2, 0.25))
    derivatives.axvline(0, color=style.LIGHT, lw=1, zorder=0)
    style.note(derivatives, "D rejects the sample:\nonly $-\\ln D$ still teaches", (-5.8, -0.55), style.INK)
    style.note(derivatives, "D is fooled", (3.3, 0.1), style.GREY)
    return style.save(figure, path, "computed in float64")
