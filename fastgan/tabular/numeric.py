"""Numbers as a generator can make them: a scalar in [-1, 1], and the mode of the column's density it belongs to."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan.data.extras import need

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

FIT_ROWS = 2_000  # order statistics of a column that its mixture is fitted to
_ITERATIONS = 50  # of that fit: it places the modes, the GAN learns the rest
MODES = 10  # of a mixture, at most; those of no weight are left out
KNOTS = 1_025  # of a quantile function
_LEAST_WEIGHT = 0.005
_HEAVY = 10.0  # kurtosis above which a column is squashed; a normal one has 3
_CHUNK = 1 << 16  # rows whose responsibilities are in memory at once


@dataclass(frozen=True)
class Squash:
    """asinh((x - centre) / width): tails become logarithms, the middle stays as it is. width 0: nothing is changed."""

    centre: float = 0.0
    width: float = 0.0

    @classmethod
    def fit(cls, x: Array, *, count: bool) -> Squash:
        """For heavy tails only. x: (n,). count: numbers that begin at zero, which stays the centre."""
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
        return cls(centre, width)

    def apply(self, x: Array) -> Array:
        """x -> squashed."""
        return x if self.width == 0.0 else np.arcsinh((x - self.centre) / self.width)

    def undo(self, y: Array) -> Array:
        """squashed -> x."""
        return y if self.width == 0.0 else np.sinh(np.clip(y, -700.0, 700.0)) * self.width + self.centre


@dataclass(frozen=True)
class Modes:
    """Mode-specific normalisation: a mode drawn by its responsibility for x, and (x - mean) / reach within it.

    Args:
        means, stds, weights: of the normal distributions, (modes,).
        reach: the distance of alpha = 1, (modes,): four standard deviations, more where the data go further.

    Source: Xu et al. (2019), section 4.2.
    """

    means: Array
    stds: Array
    weights: Array
    reach: Array

    @classmethod
    def fit(cls, x: Array, *, seed: int, rows: int = FIT_ROWS, modes: int = MODES) -> Modes:
        """A Bayesian mixture of at most `modes` normal distributions.

        Args:
            x: (n,); of more than `rows` numbers, as many order statistics at even distances.
            seed: of the first places of the modes.
            rows, modes: at most.
        """
        mixture = need("sklearn.mixture", what="fastgan.tabular", package="scikit-learn")
        sample = np.sort(x)[np.linspace(0, len(x) - 1, min(rows, len(x))).round().astype(np.int64)]
        centre, spread = float(sample.mean()), float(sample.std()) or 1.0
        standard = ((sample - centre) / spread)[:, None]
        components = min(modes, len(np.unique(standard)))
        if components < 2:
            return cls(*(np.array([value]) for value in (centre, spread, 1.0, 4 * spread))).reaching(x)
        model = mixture.BayesianGaussianMixture(
            n_components=components,
            covariance_type="spherical",
            weight_concentration_prior=1e-3,
            max_iter=_ITERATIONS,
            init_params="k-means++",
            random_state=seed,
        ).fit(standard)
        kept = model.weights_ > _LEAST_WEIGHT
        stds = np.sqrt(model.covariances_.reshape(-1)[kept]) * spread
        means = model.means_.reshape(-1)[kept] * spread + centre
        weights = model.weights_[kept] / model.weights_[kept].sum()
        return cls(means, stds, weights, 4 * stds).reaching(x)

    def reaching(self, x: Array) -> Modes:
        """The same with the lowest and the highest of x within reach of the modes nearest to them."""
        reach = self.reach.copy()
        for value in (float(x.min()), float(x.max())):
            ratio = np.abs(value - self.means) / reach
            nearest = int(ratio.argmin())
            reach[nearest] *= max(1.0, float(ratio[nearest]))
        return Modes(self.means, self.stds, self.weights, reach)

    def __len__(self) -> int:
        return len(self.means)

    def encode(self, x: Array, uniform: Array) -> tuple[Array, Codes]:
        """alpha in [-1, 1] and the mode of each x (n,). uniform: (n,) numbers in (0, 1) that draw the modes."""
        alpha, codes = np.empty(len(x)), np.empty(len(x), dtype=np.int64)
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            alpha[part], codes[part] = self._encode(x[part], uniform[part])
        return alpha, codes

    def _encode(self, x: Array, uniform: Array) -> tuple[Array, Codes]:
        log = np.log(self.weights) - np.log(self.stds) - 0.5 * ((x[:, None] - self.means) / self.stds) ** 2
        share = np.exp(log - log.max(1, keepdims=True))
        ratio = (x[:, None] - self.means) / self.reach
        share[np.abs(ratio) > 1] = 0.0  # a mode that would have to cut x off
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
    """The rank of x among the data, from -1 to 1: the column becomes uniform. One mode.

    Args:
        knots: values in rising order, (k,).
        levels: their ranks, (k,).
    """

    knots: Array
    levels: Array

    @classmethod
    def fit(cls, x: Array) -> Quantiles:
        """Of the numbers x (n,)."""
        levels = np.linspace(-1, 1, min(KNOTS, len(x)))
        knots, first, counts = np.unique(np.quantile(x, (levels + 1) / 2), return_index=True, return_counts=True)
        middle = (levels[first] + levels[first + counts - 1]) / 2
        return cls(knots, middle)

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


# ---------------------------------------------------------------- what values a column can have


@dataclass(frozen=True)
class Whole:
    """Whole numbers, exactly: origin + step * k. float64 holds k, so that no digit of a large number is lost.

    Args:
        origin: the lowest.
        step: the greatest common divisor of the differences: days, cents or thousands.
        count: k of the highest.
        dtype: of numpy, "int64" or "uint64".
    """

    origin: int
    step: int
    count: int
    dtype: str

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Whole:
        """Of (n,) int64 or uint64."""
        low, high = int(values.min()), int(values.max())
        differences = values.astype(np.uint64) - np.uint64(low % 2**64)  # modulo 2**64, hence exact
        step = int(np.gcd.reduce(differences)) or 1
        return cls(low, step, (high - low) // step, str(values.dtype))

    def to_float(self, values: NDArray[Any]) -> Array:
        """(n,) -> k, also of numbers outside the range that was fitted."""
        low = np.uint64(self.origin % 2**64)
        above = values >= values.dtype.type(self.origin)
        up = values.astype(np.uint64) - low
        down = low - values.astype(np.uint64)
        return np.where(above, up.astype(np.float64), -down.astype(np.float64)) / self.step

    def from_float(self, x: Array) -> NDArray[Any]:
        """k -> the number, within the range."""
        k = np.rint(np.clip(x, 0.0, float(self.count)))
        top = k >= float(self.count)  # which may be more than `count`, even more than uint64 holds
        k = np.where(top, np.uint64(self.count), np.where(top, 0.0, k).astype(np.uint64))
        return (k * np.uint64(self.step) + np.uint64(self.origin % 2**64)).astype(np.dtype(self.dtype))

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"grid": "whole"}


@dataclass(frozen=True)
class Real:
    """Floating numbers: within the range of the data, with as many decimals.

    Args:
        low, high: of the data.
        decimals: that all values have at most; None: as many as float64 has.
        dtype: of numpy: the type's own digits are kept, not more.
    """

    low: float
    high: float
    decimals: int | None
    dtype: str

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Real:
        """Of (n,) finite numbers."""
        wide = values.astype(np.float64)
        found = next((d for d in range(16) if _has_decimals(values, wide, d)), None)
        return cls(float(wide.min()), float(wide.max()), found, str(values.dtype))

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
    """Inside, mixtures can be fitted by several threads: each has one thread in its matrix products, and no warning
    says that a fit was stopped early. Both are settings of the whole process; torch's own threads keep their number."""
    pools = need("threadpoolctl", what="fastgan.tabular", package="scikit-learn")
    exceptions = need("sklearn.exceptions", what="fastgan.tabular", package="scikit-learn")
    with pools.threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        yield


def _has_decimals(values: NDArray[Any], wide: Array, decimals: int) -> bool:
    """Whether rounding changes no value; a look at some first."""
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 cannot be rounded to decimals
        return all(
            bool((np.round(wide[part], decimals).astype(values.dtype) == values[part]).all())
            for part in (slice(0, 1000), slice(None))
        )


def grid_from_dict(values: dict[str, Any]) -> Grid:
    """Of `as_dict`."""
    fields = {name: value for name, value in values.items() if name != "grid"}
    return Whole(**fields) if values["grid"] == "whole" else Real(**fields)
