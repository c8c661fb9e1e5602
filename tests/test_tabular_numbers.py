"""Numbers of a table: their modes and quantiles, heavy tails, decimals, and what a generator sees of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from test_tabular_transform import quietly
from torch import special

from fastgan.tabular.numeric import Modes, Quantiles, Real, Squash, quiet_fits

pd = pytest.importorskip("pandas")


def test_a_mixture_finds_its_modes() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-10, 0.5, 3000), rng.normal(5, 1, 3000)])
    with quiet_fits():
        modes = Modes.fit(x, seed=0)
    low = modes.weights[modes.means < 0].sum()
    assert abs(low - 0.5) < 0.02
    alpha, codes = modes.encode(x, rng.random(len(x)))
    assert np.abs(modes.decode(alpha, codes) - x).max() < 1e-12
    assert ((modes.means[codes] < 0) == (x < 0)).mean() > 0.999


def modes_of(x: Any) -> int:
    with quiet_fits():
        return max(len(Modes.fit(x, seed=seed)) for seed in range(3))


@pytest.mark.parametrize("rows", [150, 1000, 5000])
def test_modes_are_those_that_rows_can_be_told_apart_by(rows: int) -> None:
    """A mode for each cluster, and one for a skewed column. A mode more is a label that says nothing of its row."""
    rng = np.random.default_rng(rows)
    assert modes_of(rng.normal(size=rows)) == 1
    assert modes_of(rng.gamma(4, size=rows)) <= 2
    for clusters in (2, 3, 4):
        assert modes_of(10.0 * rng.integers(0, clusters, rows) + rng.normal(size=rows)) == clusters


@pytest.mark.parametrize("rows", [2, 3, 5, 8, 12])
def test_a_few_rows_are_not_a_mode_each(rows: int) -> None:
    """Such modes would hold the real numbers themselves, also in a long column of which nearly all is missing."""
    x = np.random.default_rng(1).normal(size=rows)
    assert modes_of(x) == 1
    column = quietly(pd.DataFrame({"x": np.append(x, np.full(1000, np.nan))})).columns[0]
    assert column.size == 2 and column.has_scalar  # a number, or none


def test_every_number_is_within_reach_of_a_mode() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=1000), [400.0, -900.0]])
    with quiet_fits():
        modes = Modes.fit(x, seed=0)
    alpha, codes = modes.encode(x, np.full(len(x), 0.5))
    assert np.abs(modes.decode(alpha, codes) - x).max() < 1e-9


def test_so_is_a_number_between_modes() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(2, 1000)) + [[0.0], [100.0]], [[40.0, 70.0]]], axis=None)
    with quiet_fits():
        modes = Modes.fit(x, seed=0, modes=2)
    alpha, codes = modes.encode(x, np.full(len(x), 0.5))
    assert np.abs(modes.decode(alpha, codes) - x).max() < 1e-9


def test_the_ends_of_quantiles_come_back() -> None:
    for rows in (2, 183, 284, 531, 742, 20_000):
        x = np.random.default_rng(rows).normal(size=rows)
        fitted = Quantiles.fit(x)
        assert fitted.levels[0] == -1 and fitted.levels[-1] == 1
        low, high = fitted.decode(np.array([-1.0, 1.0]), np.zeros(2, dtype=np.int64))
        assert low == x.min() and high == x.max()


def test_numbers_of_all_magnitudes_in_one_column_come_back() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-200, 1e-290, 1e-310):
        x = np.append(rng.normal(size=300) * scale, [1e149, -1e149])
        fitted = quietly(pd.DataFrame({"x": x}))
        back = fitted.inverse(fitted.transform(pd.DataFrame({"x": x})))["x"].to_numpy()
        assert np.abs(back - x).max() < 1e-4 * np.abs(x).max()
        assert np.sign(back[-2:]).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("fitted", "other", "expected"),
    [
        (np.arange(300, dtype=np.uint64) % 150 + 100, np.array([-1, 150, 500]), [100, 150, 249]),
        (np.arange(300) % 150 - 100, np.array([2**64 - 1, 7, 0], dtype=np.uint64), [49, 7, 0]),
        (np.arange(300) % 150 - 100, np.array([1e20, -1e20, -3.0]), [49, -100, -3]),
        (np.repeat([1.5, 2.5], 100), np.array([-1e150, 1e150, 2.4]), [1.5, 2.5, 2.5]),
        (np.repeat([0.0, 1e-6], 100) + np.arange(200) * 1e-9, np.array([-1e150, 1e150]), [0.0, 1.199e-6]),
    ],
    ids=["below uint64", "above int64", "real", "spikes", "tiny"],
)
def test_numbers_beyond_those_of_fit_become_the_nearest(fitted: Any, other: Any, expected: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table = quietly(pd.DataFrame({"x": fitted}))
        back = table.inverse(table.transform(pd.DataFrame({"x": other})))["x"]
    assert back.dtype == fitted.dtype
    assert np.allclose(back.to_numpy(), expected, rtol=1e-6, atol=0)


def test_quantiles_make_a_column_normal() -> None:
    x = np.random.default_rng(0).lognormal(size=20_000)
    fitted = Quantiles.fit(x)
    alpha, codes = fitted.encode(x, x)
    assert alpha.min() == -1 and alpha.max() == 1 and not codes.any()
    assert np.abs(fitted.decode(alpha, codes) - x).max() < 1e-9
    ranks = special.ndtr(torch.from_numpy(alpha / alpha.std())).numpy()
    assert np.abs(np.histogram(ranks, 10, (0, 1))[0] / len(x) - 0.1).max() < 0.002


@pytest.mark.parametrize("skewed", [lambda x: np.exp(x / 2), np.square, lambda x: x], ids=["exp", "square", "none"])
def test_a_column_of_one_mode_has_no_labels_and_is_normal(skewed: Any) -> None:
    """Whatever its skewness, as ranks do not depend on it."""
    x = skewed(np.abs(np.random.default_rng(0).normal(5, 1, 800)))
    fitted = quietly(pd.DataFrame({"x": x}))
    assert [head.kind for head in fitted.heads] == ["tanh"]
    alpha = fitted.transform(pd.DataFrame({"x": x}))[:, 0].astype(np.float64)
    assert abs(float(((alpha / alpha.std()) ** 3).mean())) < 0.01 and abs(float(alpha.mean())) < 0.01


def test_a_column_of_clusters_has_a_label_for_each() -> None:
    rng = np.random.default_rng(0)
    fitted = quietly(pd.DataFrame({"x": 10.0 * rng.integers(0, 3, 800) + rng.normal(size=800)}))
    assert [(head.kind, head.width) for head in fitted.heads] == [("tanh", 1), ("softmax", 3)]


def test_heavy_tails_are_squashed_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    assert Squash.fit(rng.normal(size=5000), count=False).width == 0
    heavy = rng.lognormal(0, 2, 5000)
    squash = Squash.fit(heavy, count=False)
    assert squash.width > 0
    assert np.allclose(squash.undo(squash.apply(heavy)), heavy, rtol=1e-12)


def test_decimals_of_the_data_are_found() -> None:
    assert Real.fit(np.array([1.25, 3.5])).decimals == 2
    assert Real.fit(np.array([1.25, 3.5], dtype=np.float32)).decimals == 2
    assert Real.fit(np.array([0.1], dtype=np.float32)).decimals == 1
    assert Real.fit(np.array([1e300, 1 / 3])).decimals is None
