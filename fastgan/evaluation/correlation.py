"""The error of the samples' feature correlations."""

from __future__ import annotations

from torch import Tensor

from fastgan._errors import Invalid

from .rows import Rows, take_rows


def correlation_error(samples: Rows, data: Rows) -> float:
    """Root mean square difference of the pairwise correlations of the features: 0 for equal ones.

    Equivalent to `np.sqrt(np.mean((np.corrcoef(samples.T) - np.corrcoef(data.T))[np.triu_indices(d, 1)] ** 2))` over
    the features that vary in the data; a feature that is constant in the samples has correlation 0 with all others. A
    sampler of the marginals alone shows what the joint distribution is worth.

    Args:
        samples: (n, ...), at least two.
        data: (m, ...), at least two.

    Returns:
        The error, between 0 and 2.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width, fewer than two, or fewer than two
            features that vary in the data.
    """
    caller = "correlation_error"
    (x, y), _ = take_rows(caller, samples=samples, data=data)
    for name, rows in (("samples", x), ("data", y)):
        if len(rows) < 2:
            raise Invalid(caller).value(name, f"must have at least 2 rows, got {len(rows)}")
    varying = y.std(0) > 0
    features = int(varying.sum())
    if features < 2:
        raise Invalid(caller).value("data", f"must have at least 2 features that vary, got {features}")
    difference = _correlations(x[:, varying]) - _correlations(y[:, varying])
    return float((difference.square().sum() / (features * (features - 1))).sqrt())


def _correlations(x: Tensor) -> Tensor:
    """The correlations of the columns, with zeros on the diagonal."""
    centred = x - x.mean(0)
    norm = centred.norm(dim=0)
    unit = centred / norm.where(norm > 0, 1.0)
    return (unit.T @ unit).fill_diagonal_(0.0)
