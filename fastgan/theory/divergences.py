"""Entropy and the divergences between distributions, in nats or bits, with exact values at the edges.

A distribution is an array of probabilities over its last axis; leading axes are a batch. With `dx`, its numbers are
densities on a grid whose cells have these widths. 0 log 0 is 0; whatever p gives mass and q does not is infinitely
far. Every function takes numpy arrays, torch tensors (then it is differentiable in the interior) or lists.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan.errors import Invalid

from .arrays import Array, take_distributions

LOG2 = math.log(2.0)

# ---------------------------------------------------------------- one outcome's share


def kl_terms(p: Tensor, q: Tensor) -> Tensor:
    """p log(p/q); 0 where p = 0, infinite where only q = 0."""
    return torch.special.xlogy(p, p) - torch.special.xlogy(p, q)


def js_terms(p: Tensor, q: Tensor) -> Tensor:
    """Half of p log(p/m) + q log(q/m), m = (p+q)/2, through t = (p-q)/(p+q): p = m (1+t), q = m (1-t).

    Exchanging p and q only changes the sign of t, so the result is symmetric to the last bit.
    """
    total = p + q
    t = torch.where(total == 0, 0.0, p - q) / torch.where(total == 0, 1.0, total)
    return total / 4 * (torch.special.xlog1py(1 + t, t) + torch.special.xlog1py(1 - t, -t))


# ---------------------------------------------------------------- entropy


def _unit(caller: str, base: float) -> float:
    Invalid(caller).check_number("base", base)
    if not 1 < base < math.inf:
        raise Invalid(caller).value("base", f"must be above 1 (math.e for nats, 2 for bits), got {base}")
    return math.log(base)


def entropy(p: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Entropy H(p) = -sum p log p: the expected surprise; of a density, the differential entropy.

    Args:
        p: (..., outcomes) probabilities that sum to one, or densities on a grid.
        base: of the logarithm: math.e for nats, 2 for bits.
        dx: None, or the widths of the grid's cells: one number or (outcomes,).

    Returns:
        (...) of the kind of p.

    Raises:
        ValueError: p is negative somewhere or does not sum to one.
    """
    unit = _unit("entropy", base)
    (p_,), weight, back = take_distributions("entropy", dx, p=p)
    return back((-torch.special.xlogy(p_, p_) * weight).sum(-1).add(0.0) / unit)  # + 0.0: never -0.0


def cross_entropy(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Cross-entropy H(p, q) = -sum p log q: the expected surprise under p if one believes q.

    Equivalent to `entropy(p) + kl_divergence(p, q)`. Infinite where q = 0 and p > 0.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        base, dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """
    unit = _unit("cross_entropy", base)
    (p_, q_), weight, back = take_distributions("cross_entropy", dx, p=p, q=q)
    return back((-torch.special.xlogy(p_, q_) * weight).sum(-1).add(0.0) / unit)


# ---------------------------------------------------------------- divergences


def kl_divergence(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Kullback-Leibler divergence KL(p||q) = sum p log(p/q), at least 0; infinite where q = 0 and p > 0.

    With p the data and q the model it is what maximum likelihood descends. Not symmetric.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        base, dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.

    Raises:
        ValueError: as `entropy`, or different outcomes.
    """
    unit = _unit("kl_divergence", base)
    (p_, q_), weight, back = take_distributions("kl_divergence", dx, p=p, q=q)
    return back((kl_terms(p_, q_) * weight).sum(-1).clamp(min=0.0) / unit)  # rounding may fall below 0


def reverse_kl_divergence(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Reverse Kullback-Leibler divergence KL(q||p): infinite where the model q puts mass that p has not.

    Equivalent to `kl_divergence(q, p)`; arguments as for `kl_divergence`.
    """
    unit = _unit("reverse_kl_divergence", base)
    (p_, q_), weight, back = take_distributions("reverse_kl_divergence", dx, p=p, q=q)
    return back((kl_terms(q_, p_) * weight).sum(-1).clamp(min=0.0) / unit)


def js_divergence(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Jensen-Shannon divergence JSD(p||q) = KL(p||m)/2 + KL(q||m)/2, m = (p+q)/2: from 0 to log 2.

    Symmetric to the last bit; its square root is a metric.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        base, dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.

    Source: Goodfellow et al. (2014), eq. 6.
    """
    unit = _unit("js_divergence", base)
    (p_, q_), weight, back = take_distributions("js_divergence", dx, p=p, q=q)
    return back((js_terms(p_, q_) * weight).sum(-1).clamp(0.0, LOG2) / unit)


def pearson_divergence(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    """Pearson's chi-squared divergence sum (p-q)^2 / q; infinite where q = 0 and p > 0.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """
    (p_, q_), weight, back = take_distributions("pearson_divergence", dx, p=p, q=q)
    difference = p_ - q_
    terms = torch.where(difference == 0, 0.0, difference.square() / torch.where(difference == 0, 1.0, q_))
    return back((terms * weight).sum(-1))


def hellinger_divergence(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    """Squared Hellinger distance sum (sqrt p - sqrt q)^2, from 0 to 2.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """
    (p_, q_), weight, back = take_distributions("hellinger_divergence", dx, p=p, q=q)
    return back(((p_.sqrt() - q_.sqrt()).square() * weight).sum(-1))
