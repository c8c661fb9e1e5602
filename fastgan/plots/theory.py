"""Illustrations of the theory: Gaussian fits by three divergences, the ring map, the bilinear game."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastgan import data, theory
from fastgan._options import FitKind, UpdateMode

from . import style

_TARGET = ((-2.0, 2.0), 0.5)  # means and standard deviation of the two Gaussians


def fits(path: style.PathLike | None = None) -> Any:
    """One Gaussian fitted to a mixture of two by KL(p||q), KL(q||p) and JSD, with the optima of each.

    Source: Goodfellow (2016), NIPS tutorial, figure 14; the third panel is not in it.
    """
    x = np.linspace(-10.0, 10.0, 20001)
    p = theory.gaussian_density(x, *_TARGET)
    panels: tuple[tuple[str, FitKind, tuple[tuple[float, float], ...]], ...] = (
        ("KL(p || q), maximum likelihood", "kl", ((0.5, 2.0),)),
        ("KL(q || p), reverse KL", "reverse_kl", ((-1.0, 1.0), (1.0, 1.0))),
        ("JSD(p || q), the GAN's", "js", ((0.5, 2.0), (-2.0, 0.5), (2.0, 0.5))),
    )
    figure = style.figure(11.5, 3.9)
    for axes, (title, kind, starts) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        axes.fill_between(x, p, color=style.BLUE, alpha=0.25, lw=0)
        found = [theory.fit_gaussian(p, x, kind=kind, start=start) for start in starts]
        best = min(fit.divergence for fit in found)
        for number, fit in enumerate(found):
            lowest = fit.divergence < best + 1e-6
            line = "--" if not lowest else ":" if number else "-"  # the mirror image of the first
            q = theory.gaussian_density(x, fit.mean, fit.std)
            axes.plot(x, q, line, color=style.ORANGE, lw=2.2 if lowest else 1.5)
        axes.text(-5.3, 1.13, "\n".join(_describe(found, best)), fontsize=9, color=style.ORANGE, va="top")
        style.label(axes, title, "x", "density" if kind == "kl" else "")
        axes.set(xlim=(-5.6, 5.6), ylim=(0, 1.16))
        height = 0.42 if kind == "kl" else 0.02
        axes.text(-2.0, height, "data p", fontsize=9, color=style.BLUE, ha="center", va="bottom")
    return style.save(figure, path, f"computed on {len(x):,} points, no samples")


def _describe(found: list[theory.GaussianFit], best: float) -> list[str]:
    """A line for each kind of optimum; mirror images are one."""
    kinds = {round(fit.divergence, 4): fit for fit in found}
    lines = []
    for fit in sorted(kinds.values(), key=lambda fit: fit.divergence):
        look = "" if len(kinds) == 1 else "solid, lowest: " if fit.divergence < best + 1e-6 else "dashed, local: "
        mean = f"\N{PLUS-MINUS SIGN}{abs(fit.mean):.2f}" if abs(fit.mean) > 1 else f"{abs(fit.mean):.2f}"
        lines.append(f"{look}{fit.divergence:.3f} nats, mean {mean}, std {fit.std:.2f}")
    if len(found) > len(kinds) == 1:
        lines.append("solid or dotted: one Gaussian, on either side")
    return lines


def ring_map(path: style.PathLike | None = None, *, n: int = 300, seed: int = 0) -> Any:
    """The ring example: n isotropic Gaussians z, and f(z) = z/10 + z/||z||.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        n: points.
        seed: of the points.
    """
    z = data.gaussian(n, dim=2, seed=seed).tensor()
    rows = data.synthetic.map_to_ring(z).numpy()
    figure = style.figure(10.5, 5.2)
    before, after = figure.subplots(1, 2)
    colour = np.arctan2(*z.numpy().T[::-1])
    look: dict[str, Any] = {"c": colour, "cmap": "twilight_shifted", "vmin": -math.pi, "vmax": math.pi}
    look |= {"s": 18, "lw": 0.4, "ec": style.GREY}
    before.scatter(*z.numpy().T, **look)
    after.add_artist(_circle(1.0))
    after.scatter(*rows.T, **look)
    radius = np.hypot(*rows.T)
    style.label(before, f"{n} isotropic Gaussians z", "$z_1$", "$z_2$")
    style.label(after, r"the same points under $f(z)=z/10+z/\|z\|$", "$x_1$", "$x_2$")
    mean = 1 + math.sqrt(math.pi / 2) / 10
    text = f"mean radius {radius.mean():.4f}\nexpected $1+\\sqrt{{\\pi/2}}/10={mean:.4f}$"
    after.text(0, 0, text, fontsize=11, color=style.INK, ha="center", va="center")
    for axes, half in ((before, 3.6), (after, 1.55)):
        axes.set(xlim=(-half, half), ylim=(-half, half))
        axes.set_aspect("equal")
    figure.suptitle("Each point keeps its direction (its colour), and nearly loses its length", fontsize=12)
    return style.save(figure, path, f"{n} draws, seed {seed}")


def _circle(radius: float) -> Any:
    patches = style.matplotlib("patches")
    return patches.Circle((0, 0), radius, fill=False, color=style.GREY, lw=0.8, ls=":")


def bilinear(path: style.PathLike | None = None, *, eta: float = 0.1, steps: int = 200) -> Any:
    """The game V(x, y) = x y under simultaneous and alternating gradient steps: one spirals out, one circles.

    Args:
        path: of the picture; None: the figure is returned, which a notebook shows.
        eta: step size of both players.
        steps: of each.
    """
    figure = style.figure(6.4, 6.2)
    axes = figure.subplots()
    colours: dict[UpdateMode, str] = {"simultaneous": style.ORANGE, "alternating": style.BLUE}
    for mode, colour in colours.items():
        trajectory = theory.bilinear_game(eta, mode, steps=steps)
        axes.plot(*trajectory.T, ".-", color=colour, lw=0.8, ms=4)
        text = f"{mode}:\nradius {math.hypot(*trajectory[-1]):.2f}"
        at = trajectory[-1] + (0.0, 0.12) if mode == "simultaneous" else (0.0, -0.62)
        axes.text(*at, text, fontsize=10, color=colour, ha="center", va="bottom")
    axes.plot(0, 0, "+", color=style.INK, ms=12, mew=2)
    axes.text(0, 0.12, "equilibrium", fontsize=10, color=style.INK, ha="center", va="bottom")
    style.label(axes, f"Descent in x, ascent in y on V = x y: {steps} steps, rate {eta:g}", "x", "y")
    axes.set_aspect("equal")
    axes.margins(0.12, 0.2)
    return style.save(figure, path, "computed, no samples")
