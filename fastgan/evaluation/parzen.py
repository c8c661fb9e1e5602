"""Parzen-window log-likelihood, the measure of the paper's table 1."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgan._errors import Invalid

from .rows import Blocks, Rows, map_distances, take_rows

PARZEN_SIGMAS = tuple(10.0 ** (k / 9 - 1) for k in range(10))
"""The widths among which the paper's code chooses, for pixels in [0, 1]: logspace(-1, 0, 10)."""
_VALIDATION_ROWS = 1000


@dataclass(frozen=True)
class ParzenLogLikelihood:
    """The result of `parzen_log_likelihood`.

    Args:
        mean: mean log-likelihood of a row, in nats.
        standard_error: standard deviation over the rows divided by the root of their number.
        sigma: width of the windows.
        samples: number of windows.
        log_likelihoods: (rows,) float64, of the kind of the arguments.
    """

    mean: float
    standard_error: float
    sigma: float
    samples: int
    log_likelihoods: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.standard_error:.2g} nats (sigma {self.sigma:.3g}, {self.samples:,} samples)"


def parzen_log_likelihood(
    samples: Rows,
    data: Rows,
    *,
    sigma: float | None = None,
    validation: Rows | None = None,
    sigmas: Sequence[float] = PARZEN_SIGMAS,
) -> ParzenLogLikelihood:
    """The log-likelihood of data under a Gaussian window about each of G's samples.

    Equivalent to `torch.logsumexp(-torch.cdist(data, samples)**2 / (2*sigma**2), 1)` minus `log(n) + d/2 *
    log(2*pi*sigma**2)`, in float64 and in small blocks, so that memory does not grow with n * m, and a row's bits do
    not depend on other rows. The measure ranks models badly (Theis et al., 2016): k-means centres score better than
    real data.

    Args:
        samples: (n, ...) of the generator; the paper takes 10,000.
        data: (m, ...) held-out rows.
        sigma: width of the windows; None to choose it by `validation`.
        validation: (rows, ...) rows that are neither in the training set nor in data; the first 1,000 are used.
        sigmas: candidates for sigma; the paper's code has ten from 0.1 to 1, for pixels in [0, 1].

    Returns:
        ParzenLogLikelihood.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width, a sigma that is not above 0, neither
            or both of sigma and validation.

    Source: Goodfellow et al. (2014), section 5; Breuleux et al. (2009).
    """
    caller = "parzen_log_likelihood"
    if (sigma is None) == (validation is None):
        got = "neither" if sigma is None else "both"
        raise Invalid(caller).value("sigma or validation", f"must be given, got {got}")
    if sigma is None:
        assert validation is not None
        sigma = parzen_sigma(samples, validation, sigmas)
    _check_sigma(caller, "sigma", sigma)
    (samples_, data_), back = take_rows(caller, samples=samples, data=data)
    rows = _log_densities(samples_, data_, [sigma])[0]
    mean, spread = float(rows.mean()), float(rows.std(correction=0))
    return ParzenLogLikelihood(mean, spread / math.sqrt(len(rows)), float(sigma), len(samples_), back(rows))


def parzen_sigma(samples: Rows, validation: Rows, sigmas: Sequence[float] = PARZEN_SIGMAS) -> float:
    """The width under which the first 1,000 validation rows are likeliest.

    Args:
        samples: (n, ...) of the generator.
        validation: (rows, ...) held-out rows.
        sigmas: candidates. A warning tells if the smallest or largest is best: a better one may be outside of them.

    Returns:
        One of sigmas.

    Raises:
        TypeError, ValueError: as `parzen_log_likelihood`, or no sigmas.
    """
    caller = "parzen_sigma"
    if len(sigmas) == 0:
        raise Invalid(caller).value("sigmas", "must not be empty, got none")
    for value in sigmas:
        _check_sigma(caller, "sigmas", value)
    (samples_, rows), _ = take_rows(caller, samples=samples, validation=validation)
    means = _log_densities(samples_, rows[:_VALIDATION_ROWS], sigmas).mean(1)
    best = float(sigmas[int(means.argmax())])
    if len(sigmas) > 1 and best in (min(sigmas), max(sigmas)):
        end = "smallest" if best == min(sigmas) else "largest"
        warnings.warn(f"{caller}: sigma {best:.3g} is the {end} of sigmas; the best may lie beyond", stacklevel=3)
    return best


def _check_sigma(caller: str, name: str, sigma: float) -> None:
    Invalid(caller).check_number(name, sigma)
    if not 1e-150 <= sigma <= 1e150:  # its square must be a number
        raise Invalid(caller).value(name, f"must be above 0 and finite, got {sigma}")


def _log_densities(samples: Tensor, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """log p(x) for each sigma: (sigmas, rows). The nearest sample leads the sum, so that it never underflows."""
    n, dim = samples.shape
    rate = torch.tensor([[0.5 / (s * s)] for s in sigmas], dtype=torch.float64, device=x.device)
    result = x.new_empty(len(sigmas), len(x))

    def visit(rows: slice, blocks: Blocks) -> None:
        lowest, total = x.new_full((), torch.inf), x.new_zeros(())
        for _, block in blocks:
            before, lowest = lowest, torch.minimum(lowest, block.amin(1))
            block.sub_(lowest[:, None])
            total = total * torch.exp((lowest - before) * rate)
            total = total + torch.stack([torch.exp(block * -r).sum(1) for r in rate])
        result[:, rows] = (total.log() - lowest * rate)[:, : rows.stop - rows.start]

    map_distances(visit, x, samples)
    scale = [math.log(n) + dim / 2 * math.log(2 * math.pi) + dim * math.log(s) for s in sigmas]
    return result - torch.tensor(scale, dtype=torch.float64, device=x.device)[:, None]
