"""Densities for examples of the theory."""

from __future__ import annotations

import math
from typing import Any

import torch

from fastgan._errors import Invalid

from .arrays import Array, check_non_negative, take, take_distributions


def gaussian_density(x: Array, mean: Array = 0.0, std: Array = 1.0, weights: Array | None = None) -> Any:
    """The density of N(mean, std^2), or of a mixture of several, at x.

    Args:
        x: points, any shape.
        mean: one number, or (components,).
        std: above 0; one number, or (components,).
        weights: (components,) that sum to one; None: equal.

    Returns:
        Array like x.

    Raises:
        ValueError: a std that is not above 0, weights that do not sum to one or do not fit.
    """
    caller = "gaussian_density"
    (x_, mean_, std_), back = take(caller, x=x, mean=mean, std=std)
    check_non_negative(caller, "std", std_)
    if bool((std_ == 0).any()):
        raise Invalid(caller).value("std", "must be above 0, got 0")
    mean_, std_ = torch.broadcast_tensors(torch.atleast_1d(mean_), torch.atleast_1d(std_))
    count = len(mean_)
    share = torch.full_like(mean_, 1 / count)
    if weights is not None:
        (share,), _, _ = take_distributions(caller, None, weights=weights)
        if share.shape != mean_.shape:
            raise Invalid(caller).value(
                "weights", f"must be one for each of {count} components, got {tuple(share.shape)}"
            )
    z = (x_[..., None] - mean_) / std_
    density = torch.exp(-z.square() / 2) / (std_ * math.sqrt(2 * math.pi))
    return back((density * share).sum(-1))
