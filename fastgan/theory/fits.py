"""Fit of one Gaussian to any density by KL, reverse KL or JSD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan._errors import Invalid, check_choice
from fastgan._options import FitKind

from .arrays import Array, check_positive, take, take_distributions
from .densities import gaussian_density
from .divergences import LOG2, js_terms, kl_terms


@dataclass(frozen=True)
class GaussianFit:
    """A Gaussian at a local minimum of a divergence.

    Args:
        mean, std: of the Gaussian.
        divergence: from the data to it, in nats.
        kind: of the divergence: "kl", "reverse_kl" or "js".
    """

    mean: float
    std: float
    divergence: float
    kind: str


def _reverse_kl_terms(p: Tensor, q: Tensor) -> Tensor:
    """0 where p underflowed to 0: the terms next to it, with log p about -700, already keep q away."""
    return torch.where(p > 0, kl_terms(q, p), 0.0)


# kind -> (term of one point, its derivative with respect to log q up to terms whose integral is 0)
_KINDS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "kl": (kl_terms, lambda p, q: -p),
    "reverse_kl": (_reverse_kl_terms, _reverse_kl_terms),
    "js": (js_terms, lambda p, q: (kl_terms(q, p + q) + LOG2 * q) / 2),  # halving p + q could underflow
}


def fit_gaussian(p: Array, x: Array, *, kind: FitKind = "kl", start: tuple[float, float] | None = None) -> GaussianFit:
    """The Gaussian q nearest to a density p in the sense of KL(p||q), KL(q||p) or JSD(p||q).

    KL covers all of p, reverse KL one mode. JSD has optima of both kinds, and p decides which one is lower: a GAN's
    criterion is not mode-seeking by nature.

    Args:
        p: (points,) density on the grid x, integrating to one.
        x: (points,) increasing; wide and fine enough for q as well.
        kind: "kl", "reverse_kl" or "js".
        start: (mean, std), where descent to a local minimum starts. None: the lowest of the minima reached from the
            moments of p and from its 16 highest modes.

    Returns:
        GaussianFit.

    Raises:
        ValueError: p is no density on x, x does not increase, an unknown kind, or a Gaussian that leaves x.

    Source: Goodfellow (2016), NIPS tutorial, section 3.2 and figure 14.
    """
    caller = "fit_gaussian"
    check_choice(caller, "kind", kind, tuple(_KINDS))
    grid = take(caller, x=x)[0][0].detach().cpu()
    if grid.ndim != 1 or len(grid) < 3 or not bool((grid.diff() > 0).all()):
        raise Invalid(caller).value("x", f"must be (points,) and increase, got shape {tuple(grid.shape)}")
    ends = torch.cat([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    dx = ends.diff()  # the trapezoid rule's weights
    (p_,) = take_distributions(caller, dx, p=p)[0]
    p_ = p_.detach().cpu()
    if start is not None:
        check_positive(caller, "start[1]", start[1])
    fits = [_descend(p_, grid, dx, kind, s) for s in ([start] if start else _starts(p_, grid, dx))]
    best = min(fits, key=lambda fit: fit.divergence)
    outside = 1 - _mass(p_, gaussian_density(grid, best.mean, best.std) * dx, kind)
    if not outside < 1e-3:
        place = "where p is positive" if kind == "reverse_kl" else "on x"
        raise Invalid(caller).value("the Gaussian", f"must lie {place}, got {best} with {outside:.2g} of it elsewhere")
    return best


def _mass(p: Tensor, share: Tensor, kind: str) -> float:
    """The part of the Gaussian that is on the grid."""
    return float(share[p > 0].sum() if kind == "reverse_kl" else share.sum())


def _starts(p: Tensor, x: Tensor, dx: Tensor) -> list[tuple[float, float]]:
    """The moments of p, and for each mode a Gaussian of its height."""
    mean = float((p * x * dx).sum())
    inner = (p[1:-1] > p[:-2]) & (p[1:-1] >= p[2:]) & (p[1:-1] > p.max() / 1000)  # without ripples in the tails
    modes = 1 + inner.nonzero().flatten()
    modes = modes[p[modes].argsort(descending=True)][:16]
    heights = [(float(x[i]), 1 / (float(p[i]) * math.sqrt(2 * math.pi))) for i in modes.tolist()]
    return [(mean, float((p * (x - mean).square() * dx).sum().sqrt())), *heights]


def _descend(p: Tensor, x: Tensor, dx: Tensor, kind: str, start: tuple[float, float]) -> GaussianFit:
    """Natural gradient descent: the Fisher information of (mean, log std) is (1 / std^2, 2).

    A step is halved until the divergence falls. If no step lowers it, the minimum is exact up to rounding.
    """
    terms, grad = _KINDS[kind]

    def divergence(mean: float, std: float) -> float:
        q = gaussian_density(x, mean, std)
        if _mass(p, q * dx, kind) < 0.9:  # mass outside the grid would cost nothing
            return math.inf
        return float((terms(p, q) * dx).sum())

    (mean, std), current = start, divergence(*start)
    for _ in range(2000):
        z, q = (x - mean) / std, gaussian_density(x, mean, std)
        weight = grad(p, q) * dx
        by_mean, by_log_std = -std * float((weight * z).sum()), -float((weight * (z.square() - 1)).sum()) / 2
        size = 1.0
        while size > 1e-9:
            tried = mean + size * by_mean, std * math.exp(max(-1.0, min(1.0, size * by_log_std)))
            if (reached := divergence(*tried)) < current:
                break
            size /= 2
        else:
            break
        (mean, std), current = tried, reached
    return GaussianFit(mean, std, current, kind)
