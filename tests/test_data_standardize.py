"""Standardised columns: float64 until the mean is out, and back into the data's own units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run

from fastgan import data
from fastgan.data import DataError, Dataset, Standardizer, standardize

HOUR = 1_700_000_000 + np.random.default_rng(0).integers(3600, size=2000)  # Unix times within an hour: 1,508 different


def write(path: Path, column: np.ndarray) -> None:
    """The same column in any of the formats of tables."""
    table = np.stack([column, np.arange(len(column)) % 7], 1)
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".npz":
        np.savez(path, table)
    elif path.suffix in (".csv", ".tsv"):
        delimiter = "," if path.suffix == ".csv" else "\t"
        np.savetxt(path, table, delimiter=delimiter, fmt="%d", header=f"t{delimiter}k", comments="")
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(table, columns=["t", "k"]).to_parquet(path)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.tsv", "x.parquet"])
@pytest.mark.parametrize("column", [HOUR, 1000 * HOUR], ids=["seconds", "milliseconds"])
def test_unix_times_within_an_hour_stay_apart(tmp_path: Path, name: str, column: np.ndarray) -> None:
    write(tmp_path / name, column)
    table = data.read(tmp_path / name)
    assert len(table.tensor()[:, 0].unique()) < 40  # what float32 makes of them
    scaler = Standardizer.fit(table)
    rows = scaler.transform(table).tensor()
    assert rows.dtype == torch.float32
    assert len(rows[:, 0].unique()) == len(np.unique(column)) > 1500
    assert abs(float(rows[:, 0].double().mean())) < 1e-6
    back = scaler.inverse(rows)
    assert back.dtype == torch.float64 and (back[:, 0].round().long().numpy() == column).all()


def test_it_agrees_with_scikit_learn() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rows = np.random.default_rng(1).normal(size=(500, 3)) * [1e3, 1e-3, 1.0] + [1e6, 0.0, -5.0]
    theirs, found = preprocessing.StandardScaler().fit(rows), Standardizer.fit(rows)
    np.testing.assert_allclose(found.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(found.std, theirs.scale_, rtol=1e-12)
    np.testing.assert_allclose(found.transform(torch.from_numpy(rows)), theirs.transform(rows), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1, -1.7e18])
def test_a_constant_column_has_no_spread(value: float) -> None:
    scaler = Standardizer.fit(np.full((12_345, 1), value))
    assert scaler.std == (0.0,) and scaler.mean == pytest.approx((value,), rel=1e-15)
    assert (scaler.transform(torch.full((2, 1), value, dtype=torch.float64)) == 0).all()
    assert (scaler.inverse(torch.randn(5, 1)) == scaler.mean[0]).all()


def test_nanoseconds_within_a_second_have_a_spread() -> None:
    times = 1_700_000_000_000_000_000 + np.random.default_rng(2).integers(10**5, size=(300, 1))
    assert Standardizer.fit(times).std[0] == pytest.approx(times.std(), rel=1e-2)  # float64 has steps of 256 there


def test_state_survives_json() -> None:
    scaler = Standardizer.fit(np.random.default_rng(3).normal(size=(100, 4)) * 1e7)
    assert Standardizer.from_dict(json.loads(json.dumps(scaler.as_dict()))) == scaler


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"mean": [1.0, 2.0], "std": [1.0]}, "must have a std for each mean, got 1 for 2"),
        ({"mean": [float("nan")], "std": [1.0]}, "mean must be finite"),
        ({"mean": [0.0], "std": [-1.0]}, "std finite and not negative"),
    ],
)
def test_a_damaged_state_is_refused(values: dict[str, list[float]], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Standardizer.from_dict(values)


def test_rows_too_large_to_square_are_refused() -> None:
    with pytest.raises(DataError, match="finite mean and standard deviation"):
        Standardizer.fit(np.array([[1e200], [-1e200]]))


def test_large_data_are_standardised_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.from_numpy(np.stack([HOUR, HOUR % 5], 1))
    table = Dataset(stored, labels=torch.arange(len(stored)) % 3, column_names=("t", "k"))
    scaler = Standardizer.fit(table)
    whole = scaler.transform(table)
    assert isinstance(whole, Dataset) and whole.column_names == ("t", "k") and torch.equal(whole.labels, table.labels)
    monkeypatch.setattr(standardize, "_IN_MEMORY", 1000)
    lazy = scaler.transform(table)
    assert not isinstance(lazy, Dataset) and len(lazy) == len(table) and torch.equal(lazy.labels, table.labels)
    index = torch.tensor([1999, 3])
    assert torch.equal(lazy.rows(index), whole.rows(index))
    monkeypatch.setattr(standardize, "_CHUNK", 64)
    in_parts = Standardizer.fit(table)
    assert in_parts.mean == pytest.approx(scaler.mean, rel=1e-14)
    assert in_parts.std == pytest.approx(scaler.std, rel=1e-12)


def test_images_are_standardised_by_pixel() -> None:
    stored = torch.randint(-900, 900, (50, 3, 4), dtype=torch.int16)
    images = Dataset(stored, image_shape=(3, 4), divisor=10.0)
    scaler = Standardizer.fit(images)
    rows = scaler.transform(images).tensor()
    assert rows.shape == (50, 12) and float(rows.std(0, correction=0).mean()) == pytest.approx(1)
    torch.testing.assert_close(scaler.inverse(rows), stored.flatten(1).double() / 10, rtol=0, atol=1e-4)


def test_the_command_line_gives_times_back(run: Run, tmp_path: Path) -> None:
    """From file to file: samples in the hour, in float64, as fine as float32 is about the mean."""
    write(tmp_path / "x.csv", HOUR)
    flags = ("--steps", "30", "--quiet", "--no-pictures", "--width", "8", "--out", "r")
    assert run("train", "x.csv", *flags)[0] == 0
    for name in ("s.npy", "s.csv"):
        assert run("sample", "r", "--n", "300", "--out", name)[0] == 0
    samples = np.load("s.npy")
    assert samples.dtype == np.float64 and len(np.unique(samples[:, 0])) == 300
    assert abs(samples[:, 0].mean() - HOUR.mean()) < 3600
    assert (np.loadtxt("s.csv", delimiter=",", skiprows=1) == samples).all()
