"""Class balance and the distance of features, by a small classifier: what it finds of samples whose truth is known."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from fastgan import data, evaluation
from fastgan.evaluation import classes
from fastgan.evaluation.classes import _frechet

CENTRES = 4 * torch.eye(6)[:4]


def blobs(n: int, seed: int, kept: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    """n rows of four round classes in six columns, of `kept` ones in turn; and their labels."""
    labels = torch.tensor(kept)[torch.arange(n) % len(kept)]
    return CENTRES[labels] + torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), labels


REAL, LABELS = blobs(2000, 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round classes far apart are learned in a fifth of the steps."""
    monkeypatch.setattr(classes, "_STEPS", 300)


def test_a_perfect_generator_has_every_class_and_the_distance_of_real_rows() -> None:
    found = evaluation.class_balance(blobs(2000, 1)[0], REAL, LABELS)
    assert (found.covered, found.classes) == (4, 4) and found.accuracy > 0.95
    assert found.shares.sum() == pytest.approx(1.0)
    assert (found.shares - 0.25).abs().max() < 0.04 and found.real_shares.tolist() == [0.25] * 4
    assert found.smallest == found.shares.min() and found.largest == found.shares.max()
    assert found.distance < 0.02 and found.real_distance < 0.02  # of 400 rows each; one class less makes 0.2


def test_a_missing_class_is_seen_in_the_shares_and_in_the_distance() -> None:
    whole = evaluation.class_balance(blobs(2000, 1)[0], REAL, LABELS)
    found = evaluation.class_balance(blobs(2000, 1, kept=(0, 1, 3))[0], REAL, LABELS)
    assert found.covered == 3 and found.shares[2] < 0.02 and found.largest < 0.4
    assert found.distance > 10 * whole.distance and found.real_distance == whole.real_distance


def test_labels_that_do_not_count_from_0_and_rows_without_one() -> None:
    named = torch.where(LABELS == 3, 70, LABELS)
    more = torch.cat([REAL, 100 * torch.ones(50, 6)])  # of unknown label: they must not count
    unknown = torch.cat([named, torch.full((50,), -1)])
    expected = evaluation.class_balance(blobs(500, 1)[0], REAL, LABELS)
    found = evaluation.class_balance(blobs(500, 1)[0], more, unknown)
    assert found == expected and torch.equal(found.shares, expected.shares)


def test_the_units_of_the_rows_do_not_matter_and_the_seed_decides() -> None:
    fake = blobs(500, 1)[0]
    first = evaluation.class_balance(fake, REAL, LABELS)
    with torch.inference_mode():
        assert evaluation.class_balance(fake, REAL, LABELS) == first
    scaled = evaluation.class_balance(1024 * fake, 1024 * REAL, LABELS)
    assert scaled.distance == pytest.approx(first.distance, rel=1e-3) and torch.equal(scaled.shares, first.shares)
    assert evaluation.class_balance(fake, REAL, LABELS, seed=1).distance != first.distance


def test_arrays_and_data_sets_are_taken_too() -> None:
    fake = blobs(500, 1)[0]
    expected = evaluation.class_balance(fake, REAL, LABELS)
    found = evaluation.class_balance(fake.numpy(), REAL.numpy(), LABELS.numpy())
    assert found == expected and isinstance(found.shares, np.ndarray)
    rows = data.Dataset(REAL, labels=LABELS)
    assert evaluation.class_balance(fake, rows) == expected
    assert re.match(r"4 of 4 classes, 2\d\.\d% to 2\d\.\d% of the samples each; feature distance 0\.0", str(found))


def test_the_frechet_distance_is_that_of_two_gaussians() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert _frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    assert _frechet(x, x + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25.0)
    variance = float(x.var(0).sum())  # of x and 3 x: tr(C + 9 C - 2 * 3 C)
    assert _frechet(x - x.mean(0), 3 * (x - x.mean(0))) == pytest.approx(4 * variance)
    mixed = x @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]], dtype=torch.float64)
    a, b = x.T.cov().numpy(), mixed.T.cov().numpy()
    roots = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()  # tr (C1 C2)^(1/2); one is 0 but for rounding
    means = float((x.mean(0) - mixed.mean(0)).square().sum())
    assert _frechet(x, mixed) == pytest.approx(means + np.trace(a) + np.trace(b) - 2 * roots)


@pytest.mark.parametrize(
    ("change", "error", "rule"),
    [
        ({"labels": None}, ValueError, "labels must be given where real is no Dataset that has them, got none"),
        ({"labels": LABELS.double()}, TypeError, "labels must be integers, got torch.float64"),
        ({"labels": LABELS[1:]}, ValueError, r"labels must have shape \(2000,\), got \(1999,\)"),
        ({"labels": LABELS * 0}, ValueError, "labels must name at least 2 classes, got 1"),
        ({"labels": LABELS * 0 - 1}, ValueError, "at least 10 labelled rows and 2 rows, got 0 and 2000"),
        ({"samples": REAL[:1]}, ValueError, "at least 10 labelled rows and 2 rows, got 2000 and 1"),
        ({"samples": REAL[:, :5]}, ValueError, "samples must have the 6 features of real, got 5"),
    ],
)
def test_bad_arguments_are_refused(change: dict, error: type[Exception], rule: str) -> None:
    arguments = {"samples": REAL, "real": REAL, "labels": LABELS, **change}
    with pytest.raises(error, match=f"class_balance: {rule}|class_balance: real and samples must have {rule}"):
        evaluation.class_balance(**arguments)


def test_the_result_is_one_frozen_record() -> None:
    found = evaluation.class_balance(REAL[:100], REAL, LABELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.covered = 0  # type: ignore[misc]
    assert "shares=" not in repr(found)
