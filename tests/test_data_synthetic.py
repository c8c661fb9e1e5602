"""Synthetic distributions have the moments and modes that their definitions promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fastgan import data

RING_MEAN = 1 + math.sqrt(math.pi / 2) / 10  # 1.1253314
RING_STD = math.sqrt(2 - math.pi / 2) / 10  # 0.0655136


def test_M30_ring_map_radius_is_one_plus_a_tenth_of_norm() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(10_000, 2)) * 3)
    for dtype in (torch.float64, torch.float32):
        z = x.to(dtype)
        radius = data.map_to_ring(z).double().norm(dim=1)
        assert (radius - (1 + z.double().norm(dim=1) / 10)).abs().max() <= 1e-6
        angle = torch.atan2(data.map_to_ring(z)[:, 1], data.map_to_ring(z)[:, 0])
        assert (angle - torch.atan2(z[:, 1], z[:, 0])).abs().max() <= 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_M30_ring_map_of_300_samples(seed: int) -> None:
    radius = data.ring_map(seed=seed).tensor().norm(dim=1)
    assert len(radius) == 300
    assert abs(radius.mean().item() - 1.12533) <= 0.0114  # 3 standard errors
    assert radius.min() >= 1


def test_M30_ring_map_moments() -> None:
    n = 300_000
    radius = data.ring_map(n, seed=3).tensor().double().norm(dim=1)
    assert abs(radius.mean().item() - RING_MEAN) <= 4 * RING_STD / math.sqrt(n)
    assert abs(radius.std().item() - RING_STD) <= 4 * RING_STD / math.sqrt(2 * n) * 1.1
    assert pytest.approx(1.1253314, abs=1e-7) == RING_MEAN
    assert pytest.approx(0.0655136, abs=1e-7) == RING_STD


def test_M30_ring_map_handles_zero_and_tiny() -> None:
    x = torch.tensor([[0.0, 0.0], [-0.0, 0.0], [0.0, 1e-45], [-1e-40, 0.0], [3e37, 4e37]])
    y = data.map_to_ring(x)
    assert torch.isfinite(y).all()
    assert torch.equal(y[:4], torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    assert torch.allclose(y[4], x[4] / 10)
    assert data.map_to_ring(torch.tensor([math.nan, 1.0])).isnan().all()
    assert data.map_to_ring(torch.zeros(0, 2)).shape == (0, 2)
    with pytest.raises(TypeError, match=r"^map_to_ring: x must be floating point"):
        data.map_to_ring(torch.tensor([1, 2]))


def test_M34_ring_has_8_distinct_modes() -> None:
    centres = data.ring(1).centres
    assert centres is not None and centres.shape == (8, 2)
    distance = torch.cdist(centres, centres) + 9 * torch.eye(8)
    # Neighbours on a circle of radius 1: 2 sin(pi / 8). A doubled mode would be at 0.
    assert distance.min().item() == pytest.approx(2 * math.sin(math.pi / 8), abs=1e-6)
    assert torch.allclose(centres.norm(dim=1), torch.ones(8))


def test_M34_grid_is_minus_4_to_4() -> None:
    centres = data.grid(1).centres
    assert centres is not None
    assert {(x, y) for x, y in centres.tolist()} == {
        (float(x), float(y)) for x in range(-4, 5, 2) for y in range(-4, 5, 2)
    }


@pytest.mark.parametrize("make", [data.ring, data.grid], ids=["ring", "grid"])
@pytest.mark.parametrize("seed", [0, 1])
def test_M34_mode_counts_and_perfect_sampler_ceiling(make, seed: int) -> None:
    n = 100_000
    dataset = make(n, seed=seed)
    rows, centres, labels = dataset.tensor(), dataset.centres, dataset.labels
    counts = np.bincount(labels.numpy(), minlength=len(centres))
    assert stats.chisquare(counts).pvalue > 1e-3
    # Modes are far apart: the nearest centre is the one that was drawn.
    assert torch.equal(torch.cdist(rows, centres).argmin(dim=1), labels)
    offset = (rows - centres[labels]).double() / dataset.std
    inside = (offset.norm(dim=1) < 3).double().mean().item()
    assert abs(inside - 0.98889) <= 4 * math.sqrt(0.98889 * 0.01111 / n)
    box = (offset.abs() < 3).all(dim=1).double().mean().item()
    assert abs(box - 0.99461) <= 4 * math.sqrt(0.99461 * 0.00539 / n)


def test_M34_mixture1200d() -> None:
    dataset = data.mixture1200d(2_000, seed=1)
    rows, centres, labels = dataset.tensor(), dataset.centres, dataset.labels
    assert rows.shape == (2_000, 1200) and rows.dtype == torch.float32
    assert centres is not None and centres.shape == (10, 1200) and labels is not None
    # The embedding is isometric, so the squared norm of the noise is chi-square with 700 degrees of freedom.
    noise = (rows - centres[labels]).double()
    squared = noise.square().sum(dim=1).mean().item()
    assert abs(squared - 700) <= 4 * math.sqrt(1400 / 2_000)
    between = torch.cdist(centres, centres)[~torch.eye(10, dtype=torch.bool)]
    assert 30 < between.min() and between.max() < 45
    assert stats.chisquare(np.bincount(labels.numpy(), minlength=10)).pvalue > 1e-3
    again = data.mixture1200d(10, seed=2)
    assert torch.equal(again.centres, centres) and not torch.equal(again.data, rows[:10])


def test_M34_mixture1200d_lies_in_a_subspace() -> None:
    small = data.mixture1200d(500, modes=3, latent_dim=70, dim=120)
    assert small.centres is not None and small.centres.shape == (3, 120)
    assert torch.linalg.matrix_rank(small.tensor().double(), rtol=1e-4).item() == 70


def test_gaussian_moments() -> None:
    n = 200_000
    rows = data.gaussian(n, mean=[1.0, -2.0, 0.5], std=0.25, seed=4).tensor().double()
    assert rows.shape == (n, 3)
    error = (rows.mean(dim=0) - torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).abs().max().item()
    assert error <= 4 * 0.25 / math.sqrt(n)
    assert (torch.cov(rows.T) - 0.0625 * torch.eye(3)).abs().max() < 4 * 0.0625 * math.sqrt(2 / n)
    assert data.gaussian(5, 3.0, dim=7).shape == (5, 7)


def test_gaussians_std_0_gives_point_masses() -> None:
    dataset = data.gaussians(999, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], std=0.0)
    assert dataset.centres is not None
    assert {tuple(row) for row in dataset.tensor().tolist()} == {tuple(c) for c in dataset.centres.tolist()}
    assert data.gaussians(4, [1.0, 2.0, 3.0]).centres.shape == (3, 1)


@pytest.mark.parametrize("name", ["ring", "grid", "gaussian", "gaussians", "ring_map"])
def test_seed_alone_decides(name: str) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = data.load(name, n=500, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(data.load(name, n=500, seed=7).data, first.data)
    assert not torch.equal(data.load(name, n=500, seed=8).data, first.data)
    assert torch.equal(data.load(name, n=200, seed=7).data, first.data[:200])
    assert first.data.dtype == torch.float32 and first.name == name


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.ring(0), ValueError, "ring: n must be at least 1, got 0"),
        (lambda: data.ring(10, modes=0), ValueError, "ring: modes must be at least 1, got 0"),
        (lambda: data.ring(10, std=-1.0), ValueError, "ring: std must be finite and not negative, got -1.0"),
        (
            lambda: data.ring(10, std=math.nan),
            ValueError,
            "ring: std must be finite and not negative, got nan",
        ),
        (
            lambda: data.ring(10, radius=math.inf),
            ValueError,
            "ring: radius must be finite and not negative, got inf",
        ),
        (lambda: data.ring(1.5), TypeError, "ring: n must be an integer, got 1.5"),  # type: ignore[arg-type]
        (lambda: data.grid(True), TypeError, "grid: n must be an integer, got True"),
        (lambda: data.grid(10, side=0), ValueError, "grid: side must be at least 1, got 0"),
        (lambda: data.gaussian(10, dim=0), ValueError, "gaussian: dim must be at least 1, got 0"),
        (
            lambda: data.gaussian(10, [1.0, 2.0], dim=3),
            ValueError,
            "gaussian: mean must be a number or one for each of 3 dimensions, got [1.0, 2.0]",
        ),
        (
            lambda: data.gaussians(10, [math.nan]),
            ValueError,
            "gaussians: centres must be finite, got NaN or infinity",
        ),
        (
            lambda: data.gaussians(10, []),
            ValueError,
            "gaussians: centres must be (modes, dim), got shape (0, 1)",
        ),
        (lambda: data.ring_map(0), ValueError, "ring_map: n must be at least 1, got 0"),
        (
            lambda: data.mixture1200d(10, latent_dim=5, dim=4),
            ValueError,
            "mixture1200d: latent_dim must be at most dim 4, got 5",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_digits() -> None:
    digits = data.digits()
    assert digits.shape == (1797, 64) and digits.image_shape == (8, 8) and digits.value_range == (0.0, 1.0)
    assert digits.data.dtype == torch.float32
    assert digits.data.min() == 0 and digits.data.max() == 1
    assert torch.equal(digits.data * 16, (digits.data * 16).round())
    assert digits.labels is not None and torch.bincount(digits.labels).min() >= 170
    assert data.load("digits", n=10).shape == (10, 64)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"^fastgan.data.digits needs scikit-learn: pip install scikit-learn$"):
        data.digits()
