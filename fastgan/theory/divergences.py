"""Entropy and the divergences between distributions, in nats or bits, with exact values at the edges.

A distribution is an array of probabilities over its last axis; leading axes are a batch. With `dx`, its numbers are
densities on a grid whose cells have these widths. 0 log 0 is 0. Every function takes numpy arrays, lists, or torch
tensors, and is differentiable for the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan._errors import Invalid

from .arrays import Array, take_distributions

LOG2 = math.log(2.0)

# ---------------------------------------------------------------- terms of one outcome


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


def _total(
    caller: str,
    terms: Callable[..., Tensor],
    *,
    base: float = math.e,
    dx: Array | None,
    low: float | None = 0.0,
    high: float | None = None,
    **distributions: Array,
) -> Any:
    """The sum of the terms of all outcomes, which rounding must not take out of [low, high], in units of log(base)."""
    Invalid(caller).check_number("base", base)
    if not 1 < base < math.inf:
        raise Invalid(caller).value("base", f"must be above 1 (math.e for nats, 2 for bits), got {base}")
    tensors, weight, back = take_distributions(caller, dx, **distributions)
    total = (terms(*tensors) * weight).sum(-1)
    return back((total if low is None else total.clamp(low, high)) / math.log(base))


def entropy(p: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Entropy H(p) = -sum p log p: the expected surprise; the differential entropy for a density.

    Args:
        p: (..., outcomes) probabilities that sum to one, or densities on a grid.
        base: of the logarithm: math.e for nats, 2 for bits.
        dx: None, or the widths of the grid's cells: one number or (outcomes,).

    Returns:
        (...) of the kind of p.

    Raises:
        ValueError: p is negative somewhere or does not sum to one.
    """
    return _total("entropy", lambda p: 0.0 - torch.special.xlogy(p, p), base=base, dx=dx, low=None, p=p)


def cross_entropy(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Cross-entropy H(p, q) = -sum p log q: the expected surprise under p of a model q.

    Equivalent to `entropy(p) + kl_divergence(p, q)`. Infinite where q = 0 and p > 0.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        base, dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """
    return _total("cross_entropy", lambda p, q: 0.0 - torch.special.xlogy(p, q), base=base, dx=dx, low=None, p=p, q=q)


# ---------------------------------------------------------------- divergences


def kl_divergence(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Kullback-Leibler divergence KL(p||q) = sum p log(p/q), at least 0; infinite where q = 0 and p > 0.

    Maximum likelihood minimises it, with p the data and q the model. Not symmetric.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        base, dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.

    Raises:
        ValueError: as `entropy`, or different outcomes.
    """
    return _total("kl_divergence", kl_terms, base=base, dx=dx, p=p, q=q)


def reverse_kl_divergence(p: Array, q: Array, *, base: float = math.e, dx: Array | None = None) -> Any:
    """Reverse Kullback-Leibler divergence KL(q||p): infinite where p = 0 and q > 0.

    Equivalent to `kl_divergence(q, p)`; arguments as for `kl_divergence`.
    """
    return _total("reverse_kl_divergence", lambda p, q: kl_terms(q, p), base=base, dx=dx, p=p, q=q)


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
    return _total("js_divergence", js_terms, base=base, dx=dx, high=LOG2, p=p, q=q)


def pearson_divergence(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    """Pearson's chi-squared divergence sum (p-q)^2 / q; infinite where q = 0 and p > 0.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """

    def terms(p: Tensor, q: Tensor) -> Tensor:
        difference = p - q
        return torch.where(difference == 0, 0.0, difference.square() / torch.where(difference == 0, 1.0, q))

    return _total("pearson_divergence", terms, dx=dx, p=p, q=q)


def hellinger_divergence(p: Array, q: Array, *, dx: Array | None = None) -> Any:
    """Squared Hellinger distance sum (sqrt p - sqrt q)^2, from 0 to 2.

    Args:
        p, q: (..., outcomes) probabilities, or densities on a grid.
        dx: as for `entropy`.

    Returns:
        (...) of the kind of p and q.
    """
    return _total("hellinger_divergence", lambda p, q: (p.sqrt() - q.sqrt()).square(), dx=dx, p=p, q=q)
