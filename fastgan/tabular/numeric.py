"""Encodes numbers for a generator: a scalar in [-1, 1] within a mode of the column's density, and the mode."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastgan._extras import need

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

FIT_ROWS = 2_000  # order statistics of a column that its mixture is fitted to
_ITERATIONS = 50  # of that fit, which only places the modes; the GAN learns the density
MODES = 10  # of a mixture, at most
_ROWS = 10  # for each mode of a mixture, at least; with fewer, each row would become a mode
_PATIENCE = 2  # mixtures of ever more modes that are worse than the best, before the search ends
KNOTS = 1_025  # of a quantile function
_FARTHEST = 1e300  # widths from the centre of a squash; its sinh is finite
_HEAVY = 10.0  # kurtosis above which a column is squashed; that of a normal distribution is 3
_CHUNK = 1 << 16  # rows whose responsibilities are in memory at once


@dataclass(frozen=True)
class Squash:
    """asinh((x - centre) / width): logarithmic in the tails, linear in the middle. Width 0 is the identity."""

    centre: float = 0.0
    width: float = 0.0

    @classmethod
    def fit(cls, x: Array, *, count: bool) -> Squash:
        """The identity unless x (n,) has heavy tails. count: numbers from zero on, with zero as the centre."""
        spread = x - x.mean()
        largest = float(np.abs(spread).max())
        if largest == 0.0:
            return cls()
        spread = spread / largest
        variance = float((spread**2).mean())
        kurtosis = float((spread**4).mean()) / variance**2 if variance > 0 else math.inf
        if kurtosis < _HEAVY and not count:
            return cls()
        centre = 0.0 if count else float(np.median(x))
        away = np.abs(x - centre)
        width = float(np.median(away[away > 0])) if (away > 0).any() else 0.0
        return cls(centre, max(width, float(away.max()) / _FARTHEST))

    def apply(self, x: Array) -> Array:
        """x -> squashed."""
        return x if self.width == 0.0 else np.arcsinh((x - self.centre) / self.width)

    def undo(self, y: Array) -> Array:
        """squashed -> x."""
        return y if self.width == 0.0 else np.sinh(np.clip(y, -700.0, 700.0)) * self.width + self.centre


@dataclass(frozen=True)
class Modes:
    """Mode-specific normalisation: a mode, drawn by its responsibility for x, and (x - mean) / reach.

    Args:
        means, stds, weights: (modes,), of the normal distributions.
        reach: (modes,), the distance from the mean that is encoded as 1: four standard deviations, or more where
            numbers are farther from all modes.

    Source: Xu et al. (2019), section 4.2; `fit` chooses the number of modes by another criterion.
    """

    means: Array
    stds: Array
    weights: Array
    reach: Array

    @classmethod
    def fit(cls, x: Array, *, seed: int, rows: int = FIT_ROWS, modes: int = MODES) -> Modes:
        """Fit the mixture of normal distributions, of at most `modes`, with the best integrated completed likelihood.

        This criterion counts the modes that the rows can be told apart by. Xu et al. (2019) keep all modes that the
        density has. Where modes overlap, G must learn which of them each row happened to be drawn for: with few rows
        it does not, and the columns become less dependent on one another.

        Args:
            x: (n,). Of more than `rows` numbers, `rows` evenly spaced order statistics are used.
            seed: for the initial modes.
            rows, modes: the most of each. A mode needs ten rows on average.

        Source: Biernacki, Celeux and Govaert (2000), "Assessing a mixture model for clustering with the integrated
            completed likelihood".
        """
        sample = np.sort(x)[np.linspace(0, len(x) - 1, min(rows, len(x))).round().astype(np.int64)]
        centre, spread = float(sample.mean()), float(sample.std()) or 1.0
        standard = (sample - centre) / spread
        most = min(modes, len(np.unique(standard)), max(len(sample) // _ROWS, 1))
        best = cls._mixture(standard, 1, seed)
        least, worse = best._criterion(standard), 0
        for components in range(2, most + 1):
            found = cls._mixture(standard, components, seed)
            if (criterion := found._criterion(standard)) < least:
                best, least, worse = found, criterion, 0
            elif (worse := worse + 1) == _PATIENCE:
                break
        stds = best.stds * spread
        return cls(best.means * spread + centre, stds, best.weights, 4 * stds).reaching(x)

    @classmethod
    def _mixture(cls, x: Array, components: int, seed: int) -> Modes:
        """The mixture of so many modes that fits x (n,) best: standardised, finite numbers."""
        mixture = need("sklearn.mixture", what="fastgan.tabular", package="scikit-learn")
        reach = np.ones(components)
        if components == 1:  # needs no search: zero, and the variance with what scikit-learn adds to each
            return cls(np.zeros(1), np.sqrt([x.var() + 1e-6]), np.ones(1), reach)
        with need("sklearn", what="fastgan.tabular", package="scikit-learn").config_context(
            assume_finite=True,
            skip_parameter_validation=True,  # checks that take an eighth of the time
        ):
            model = mixture.GaussianMixture(
                n_components=components,
                covariance_type="spherical",
                max_iter=_ITERATIONS,
                init_params="k-means++",
                random_state=seed,
            ).fit(x[:, None])
        return cls(model.means_[:, 0], np.sqrt(model.covariances_), model.weights_, reach)

    def _criterion(self, x: Array) -> float:
        """-2 times the integrated completed likelihood of x (n,): BIC, and twice the entropy of the modes' shares."""
        log = self._log_densities(x) - 0.5 * math.log(2 * math.pi)
        most = log.max(1, keepdims=True)
        log_total = most + np.log(np.exp(log - most).sum(1, keepdims=True))
        log_shares = log - log_total
        entropy = -float((np.exp(log_shares) * log_shares).sum())
        return -2 * float(log_total.sum()) + (3 * len(self) - 1) * math.log(len(x)) + 2 * entropy

    def _log_densities(self, x: Array) -> Array:
        """Of each mode with its weight at each x (n,), but for a constant: (n, modes)."""
        densities: Array = np.log(self.weights) - np.log(self.stds) - 0.5 * ((x[:, None] - self.means) / self.stds) ** 2
        return densities

    def reaching(self, x: Array) -> Modes:
        """These modes with the reach extended to each of x (n,) that none of them reaches."""
        reach = self.reach.copy()
        for start in range(0, len(x), _CHUNK):
            ratio = np.abs(x[start : start + _CHUNK, None] - self.means) / reach
            ratio = ratio[ratio.min(1) > 1]
            farthest = np.ones(len(reach))
            np.maximum.at(farthest, ratio.argmin(1), ratio.min(1))
            reach *= farthest
        return Modes(self.means, self.stds, self.weights, reach)

    def __len__(self) -> int:
        return len(self.means)

    def encode(self, x: Array, uniform: Array) -> tuple[Array, Codes]:
        """alpha in [-1, 1] and the mode, for each x (n,). uniform: (n,) numbers in (0, 1) that draw the modes."""
        alpha, codes = np.empty(len(x)), np.empty(len(x), dtype=np.int64)
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            alpha[part], codes[part] = self._encode(x[part], uniform[part])
        return alpha, codes

    def _encode(self, x: Array, uniform: Array) -> tuple[Array, Codes]:
        log = self._log_densities(x)
        share = np.exp(log - log.max(1, keepdims=True))
        ratio = (x[:, None] - self.means) / self.reach
        share[np.abs(ratio) > 1] = 0.0  # modes that do not reach x
        total = share.cumsum(1)
        codes = (total < uniform[:, None] * total[:, -1:]).sum(1)
        none = total[:, -1] == 0
        codes[none] = np.abs(ratio[none]).argmin(1)
        return np.clip(np.take_along_axis(ratio, codes[:, None], 1)[:, 0], -1, 1), codes

    def decode(self, alpha: Array, codes: Codes) -> Array:
        """alpha (n,) and modes (n,) -> x."""
        return alpha * self.reach[codes] + self.means[codes]

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("means", "stds", "weights", "reach")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Modes:
        return cls(*(np.array(values[name], dtype=np.float64) for name in ("means", "stds", "weights", "reach")))


@dataclass(frozen=True)
class Quantiles:
    """The rank of x among the data, as the quantile of a normal distribution that is cut off at -1 and 1. One mode.

    The column becomes normal, whatever its skewness.

    Args:
        knots: (k,), values in rising order.
        levels: (k,), their places in [-1, 1].
    """

    knots: Array
    levels: Array

    @classmethod
    def fit(cls, x: Array) -> Quantiles:
        """Quantiles of x (n,), at least two different numbers."""
        count = min(KNOTS, len(x))
        levels = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).numpy()
        levels = (levels - levels[::-1]) / (levels[-1] - levels[0])  # symmetric: the ends are -1 and 1 exactly
        quantiles = np.quantile(x, np.linspace(0, 1, count))
        knots, first, counts = np.unique(quantiles, return_index=True, return_counts=True)
        return cls(knots, (levels[first] + levels[first + counts - 1]) / 2)

    def __len__(self) -> int:
        return 1

    def encode(self, x: Array, uniform: Array) -> tuple[Array, Codes]:
        """As `Modes.encode`."""
        return np.interp(x, self.knots, self.levels), np.zeros(len(x), dtype=np.int64)

    def decode(self, alpha: Array, codes: Codes) -> Array:
        """As `Modes.decode`."""
        return np.interp(alpha, self.levels, self.knots)

    def as_dict(self) -> dict[str, Any]:
        return {"knots": self.knots.tolist(), "levels": self.levels.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Quantiles:
        return cls(np.array(values["knots"], dtype=np.float64), np.array(values["levels"], dtype=np.float64))


# ---------------------------------------------------------------- grids: the possible values of a column


@dataclass(frozen=True)
class Whole:
    """Whole numbers origin + step * k. k is encoded as float64, so that large numbers keep all digits.

    Args:
        origin: the lowest number.
        step: the greatest common divisor of the differences (days, cents, thousands).
        count: k of the highest number.
        dtype: "int64" or "uint64".
    """

    origin: int
    step: int
    count: int
    dtype: str

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Whole:
        """The grid of (n,) int64 or uint64."""
        low, high = int(values.min()), int(values.max())
        differences = values.astype(np.uint64) - np.uint64(low % 2**64)  # modulo 2**64, hence exact
        step = int(np.gcd.reduce(differences)) or 1
        return cls(low, step, (high - low) // step, str(values.dtype))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest that `to_float` gives of the data."""
        return 0.0, float(self.count)

    def to_float(self, values: NDArray[Any]) -> Array:
        """(n,) of any type of numbers -> k; numbers outside the fitted range, or off the grid, are allowed."""
        rough = values.astype(np.float64) - float(self.origin)
        if values.dtype.kind == "f":
            return rough / self.step
        low, own = np.uint64(self.origin % 2**64), values.astype(np.uint64)
        exact = np.where(values >= self.origin, (own - low).astype(np.float64), -(low - own).astype(np.float64))
        return np.where(np.abs(rough) < 2.0**64, exact, rough) / self.step  # beyond, int64 minus uint64 overflows

    def from_float(self, x: Array) -> NDArray[Any]:
        """k -> the number, clipped to the range."""
        k = np.rint(np.clip(x, 0.0, float(self.count)))
        top = k >= float(self.count)  # a float above `count` may be beyond uint64
        k = np.where(top, np.uint64(self.count), np.where(top, 0.0, k).astype(np.uint64))
        return (k * np.uint64(self.step) + np.uint64(self.origin % 2**64)).astype(np.dtype(self.dtype))

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"grid": "whole"}


@dataclass(frozen=True)
class Real:
    """Floating-point numbers within the range of the data, with its number of decimals.

    Args:
        low, high: range of the data.
        decimals: the most of any value; None: not limited.
        dtype: of the data.
    """

    low: float
    high: float
    decimals: int | None
    dtype: str

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Real:
        """The grid of (n,) finite numbers."""
        wide = values.astype(np.float64)
        found = next((d for d in range(16) if _has_decimals(values, wide, d)), None)
        return cls(float(wide.min()), float(wide.max()), found, str(values.dtype))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest that `to_float` gives of the data."""
        return self.low, self.high

    def to_float(self, values: NDArray[Any]) -> Array:
        """(n,) -> float64."""
        return values.astype(np.float64)

    def from_float(self, x: Array) -> NDArray[Any]:
        """float64 -> the column's type, rounded and within the range."""
        rounded = x if self.decimals is None else np.round(x, self.decimals)
        return np.clip(rounded, self.low, self.high).astype(self.dtype)

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"grid": "real"}


Grid = Whole | Real


@contextlib.contextmanager
def quiet_fits() -> Iterator[None]:
    """A context in which several threads may fit mixtures: one BLAS thread for each, no ConvergenceWarning.

    Both settings concern the whole process. torch's threads are not changed.
    """
    pools = need("threadpoolctl", what="fastgan.tabular", package="scikit-learn")
    exceptions = need("sklearn.exceptions", what="fastgan.tabular", package="scikit-learn")
    with pools.threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        yield


def _has_decimals(values: NDArray[Any], wide: Array, decimals: int) -> bool:
    """Whether rounding changes no value. The first 1000 are checked before the rest."""
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 cannot be rounded to decimals
        return all(
            bool((np.round(wide[part], decimals).astype(values.dtype) == values[part]).all())
            for part in (slice(0, 1000), slice(None))
        )


def grid_from_dict(values: dict[str, Any]) -> Grid:
    """The grid that `as_dict` described."""
    fields = {name: value for name, value in values.items() if name != "grid"}
    return Whole(**fields) if values["grid"] == "whole" else Real(**fields)
