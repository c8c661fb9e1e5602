"""Illustrations of probability: a joint table with its conditionals, and the entropy of coins."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgan import theory

from . import style
from .style import Array

COUNTS = ((2, 2, 10, 2), (10, 10, 2, 2), (5, 2, 1, 2))  # (y, x), of 50: P(y=1|x=1) = 2/17, P(x=1) = 17/50


def joint(path: style.PathLike | None = None, *, counts: Any = COUNTS) -> Any:
    """A joint table with its marginals, both conditionals, and Bayes' rule from one to the other.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        counts: (y, x) table of counts or probabilities.
    """
    table = theory.JointTable(np.asarray(counts, np.float64))
    p_x, p_y = table.marginal("x"), table.marginal("y")
    given_x, given_y = table.conditional("y"), table.conditional("x")
    posterior = theory.bayes(p_x, given_x)
    off = float(np.nanmax(np.abs(posterior - given_y)))
    figure = style.figure(12.5, 4.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 4, 4))
    framed = np.full((len(p_y) + 1, len(p_x) + 1), np.nan)
    framed[:-1, :-1], framed[-1, :-1], framed[:-1, -1], framed[-1, -1] = table.joint, p_x, p_y, 1.0
    _cells(left, framed, "P(x, y), and its margins P(x), P(y)", extra=("P(x)", "P(y)"))
    _cells(middle, given_x, "P(y | x) = P(x, y) / P(x): columns sum to 1")
    _cells(right, given_y, "P(x | y): rows sum to 1")
    bits = {"I(X;Y)": table.mutual_information(base=2)}
    bits |= {f"H({name})": table.entropy(v, base=2) for name, v in (("X", "x"), ("Y", "y"), ("X,Y", "xy"))}
    measured = "   ".join(f"{name} = {float(value):.4f} bits" for name, value in bits.items())
    rule = "Bayes: P(x | y) = P(y | x) P(x) / $\\sum_x$ P(y | x) P(x)"
    figure.suptitle(f"{rule}: the middle table and P(x) give the right one, to {off:.0e}\n{measured}", fontsize=11)
    return style.save(figure, path, "computed from the table")


def _cells(axes: Any, values: Array, title: str, extra: tuple[str, str] | None = None) -> None:
    """A table with cells coloured by probability; the margins of `extra` are white."""
    rows, columns = values.shape
    shown = values.copy()
    if extra is not None:
        shown[-1], shown[:, -1] = np.nan, np.nan
    palette = style.matplotlib("colors").LinearSegmentedColormap.from_list("blue", ["#FFFFFF", style.BLUE])
    axes.imshow(shown, cmap=palette, vmin=0, vmax=1.6 * np.nanmax(shown), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.4f}".rstrip("0").rstrip("."), ha="center", va="center", fontsize=9, color=style.INK)
    inner = (rows, columns) if extra is None else (rows - 1, columns - 1)
    names = [[f"{v}={i + 1}" for i in range(n)] for v, n in zip("yx", inner, strict=True)]
    if extra is not None:
        names[0].append(extra[0])
        names[1].append(extra[1])
    axes.set_yticks(range(rows), labels=names[0], fontsize=9)
    axes.set_xticks(range(columns), labels=names[1], fontsize=9)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10, loc="left", color=style.INK)
    for side in axes.spines.values():
        side.set_visible(False)


def coins(path: style.PathLike | None = None, *, q: float = 0.05) -> Any:
    """The entropy of a coin over its probability of heads, and its cross-entropy to another coin.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        q: probability of heads of the coin that is assumed, in the second panel.
    """
    p = np.linspace(0.0, 1.0, 401)
    both = np.stack([p, 1 - p], 1)
    other = np.broadcast_to([q, 1 - q], both.shape)
    entropy, cross = theory.entropy(both, base=2), theory.cross_entropy(both, other, base=2)
    js = theory.js_divergence(both, other, base=2)
    figure = style.figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    left.plot(p, entropy, color=style.BLUE, lw=2.2)
    for at in (0.05, 0.3, 0.5):
        bits = float(theory.entropy([at, 1 - at], base=2))
        left.plot(at, bits, "o", color=style.BLUE, ms=6)
        where = {"x": at, "y": bits - 0.06, "ha": "center"} if at == 0.5 else {"x": at + 0.02, "y": bits - 0.03}
        left.text(**where, s=f"{at:g}: {bits:.3f}", fontsize=9, color=style.INK, va="top")
    style.label(left, "Entropy: the fairer the coin, the more a throw tells", "probability of heads p", "H(p), bits")
    right.plot(p, cross, color=style.ORANGE, lw=2.2, label=f"cross-entropy H(p, q), q = {q:g}")
    right.plot(p, entropy, color=style.BLUE, lw=2.2, label="entropy H(p)")
    right.fill_between(p, entropy, cross, color=style.ORANGE, alpha=0.12, lw=0, label="between them: KL(p || q)")
    right.plot(p, js, color=style.GREEN, lw=2.2, ls="--", label="JSD(p, q), at most 1 bit")
    gap = float(theory.kl_divergence([0.5, 0.5], [q, 1 - q], base=2))
    right.text(0.52, 1.0 + gap / 2, f"KL of the fair coin: {gap:.4f}", fontsize=9, color=style.INK)
    right.plot([0.5, 0.5], [1.0, 1.0 + gap], color=style.INK, lw=1)
    style.label(right, "Cross-entropy: what it costs to assume q", "probability of heads p", "bits")
    style.legend_below(right, ncols=2)
    return style.save(figure, path, "computed, no samples")
