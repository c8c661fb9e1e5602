"""Mode coverage of a mixture whose modes are known, in the literature's two conventions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgan import _options, theory
from fastgan._errors import Invalid, check_choice
from fastgan._options import ModeConvention

from .rows import Rows, take_rows

_CHUNK = 1 << 22  # numbers held at once


@dataclass(frozen=True)
class ModeCoverage:
    """The result of `mode_coverage`.

    Args:
        covered: modes with at least one high-quality sample.
        modes: how many there are.
        high_quality: share of the samples near a mode.
        reverse_kl: KL(p_g||uniform) over the nearest modes of all samples, in nats. Finite also if modes are missed;
            about (modes - 1) / 2n for n samples of a perfect sampler.
        forward_kl: KL(uniform||p_g); infinite if a mode has no sample.
        js: Jensen-Shannon divergence of the two.
        counts: (modes,) int64, samples nearest to each mode.
        convention: "radius" or "box", and the `threshold` in standard deviations.
    """

    covered: int
    modes: int
    high_quality: float
    reverse_kl: float
    forward_kl: float
    js: float
    counts: Any = field(repr=False, compare=False)
    convention: ModeConvention
    threshold: float

    def __str__(self) -> str:
        near = "within" if self.convention == "radius" else "within, on every axis,"
        return (
            f"{self.covered} of {self.modes} modes, {100 * self.high_quality:.1f}% of the samples {near} "
            f"{self.threshold:g} standard deviations of one, reverse KL {self.reverse_kl:.4f} nats"
        )


def mode_coverage(
    samples: Rows, centres: Rows, std: float, *, convention: ModeConvention = "radius", threshold: float = 3.0
) -> ModeCoverage:
    """Which modes of an equal mixture of isotropic Gaussians a generator reaches, and how well.

    Args:
        samples: (n, features), at least as many as modes.
        centres: (modes, features) means.
        std: standard deviation of every mode.
        convention: "radius", Mahalanobis distance below the threshold (VEEGAN, PacGAN): a perfect sampler of the plane
            scores 98.89%; "box", every axis below it (self-conditioned GAN): 99.46%.
        threshold: greatest distance of a high-quality sample, in standard deviations.

    Returns:
        ModeCoverage.

    Raises:
        TypeError, ValueError: samples that are fewer than the modes or of another width, a std or threshold that is not
            above 0, an unknown convention.

    Source: Srivastava et al. (2017), section 4.1; Lin et al. (2018), section 4.1; Liu et al. (2020).
    """
    caller = "mode_coverage"
    check_choice(caller, "convention", convention, _options.names(ModeConvention))
    for name, value in (("std", std), ("threshold", threshold)):
        Invalid(caller).check_number(name, value)
        if not 0 < value < math.inf:
            raise Invalid(caller).value(name, f"must be above 0 and finite, got {value}")
    (means, x), back = take_rows(caller, centres=centres, samples=samples)
    modes = len(means)
    if len(x) < modes:
        raise Invalid(caller).value("samples", f"must be at least as many as the {modes} modes, got {len(x)}")
    step = max(1, _CHUNK // means.numel())
    parts = [_nearest(part, means, threshold * std, convention) for part in x.split(step)]
    nearest, good = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    counts = torch.bincount(nearest, minlength=modes)
    p_g = counts.double() / len(x)
    uniform = torch.full_like(p_g, 1 / modes)
    return ModeCoverage(
        covered=int(nearest[good].unique().numel()),
        modes=modes,
        high_quality=float(good.double().mean()),
        reverse_kl=float(theory.kl_divergence(p_g, uniform)),
        forward_kl=float(theory.kl_divergence(uniform, p_g)),
        js=float(theory.js_divergence(p_g, uniform)),
        counts=back(counts),
        convention=convention,
        threshold=float(threshold),
    )


def _nearest(x: Tensor, means: Tensor, reach: float, convention: str) -> tuple[Tensor, Tensor]:
    """The nearest mode of each row, and whether the row lies within reach of it."""
    difference = x[:, None] - means
    nearest = difference.square().sum(2).argmin(1)
    own = difference[torch.arange(len(x), device=x.device), nearest]
    distance = own.norm(dim=1) if convention == "radius" else own.abs().amax(1)
    return nearest, distance < reach
