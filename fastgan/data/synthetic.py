"""Distributions with known density, to measure a GAN against.

Every number comes from fastgan.random (purpose DATA), so a seed means the same rows everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan._errors import Invalid

from .. import random
from .dataset import Dataset

# Substreams: one for each kind of number that a row needs.
_MODE, _NOISE, _CENTRES, _EMBEDDING = range(4)


def ring(n: int, *, modes: int = 8, radius: float = 1.0, std: float = 0.01, seed: int = 0) -> Dataset:
    """Equal mixture of `modes` Gaussians evenly on a circle: mode i at angle 2 pi i / modes, all distinct.

    The 2-D ring of VEEGAN (Srivastava et al., 2017) and PacGAN (Lin et al., 2018), whose settings are the
    default; unrolled GANs (Metz et al., 2017) use radius 2, std 0.02.

    Returns: rows (n, 2), centres (modes, 2), labels (n,) the mode of each row.
    """
    Invalid("ring").check_integer("modes", modes, 1)
    _check_scale("ring", "radius", radius)
    angles = [2 * math.pi * i / modes for i in range(modes)]
    centres = torch.tensor([[radius * math.cos(a), radius * math.sin(a)] for a in angles])
    return _mixture("ring", n, centres, std, seed)


def grid(n: int, *, side: int = 5, spacing: float = 2.0, std: float = 0.05, seed: int = 0) -> Dataset:
    """Equal mixture of side x side Gaussians on a square grid about 0 (25 modes from -4 to 4 by default).

    The 2-D grid of VEEGAN (Srivastava et al., 2017) and PacGAN (Lin et al., 2018).

    Returns: rows (n, 2), centres (side * side, 2), labels (n,) the mode of each row.
    """
    Invalid("grid").check_integer("side", side, 1)
    _check_scale("grid", "spacing", spacing)
    ticks = [(i - (side - 1) / 2) * spacing for i in range(side)]
    centres = torch.tensor([[x, y] for x in ticks for y in ticks])
    return _mixture("grid", n, centres, std, seed)


def gaussian(n: int, mean: float | Sequence[float] = 0.0, std: float = 1.0, dim: int = 1, *, seed: int = 0) -> Dataset:
    """One isotropic Gaussian N(mean, std^2 I).

    Args:
        mean: one number for all dimensions, or one for each (then `dim` is their number).
        std: standard deviation.
        dim: dimensions.

    Returns: rows (n, dim), centres (1, dim).
    """
    Invalid("gaussian").check_integer("dim", dim, 1)
    means = torch.as_tensor(mean, dtype=torch.float32)
    if means.ndim > 1 or (means.ndim == 1 and dim not in (1, len(means))):
        raise Invalid("gaussian").value("mean", f"must be a number or one for each of {dim} dimensions, got {mean}")
    return _mixture("gaussian", n, means.expand(1, dim) if means.ndim == 0 else means[None], std, seed)


def gaussians(
    n: int,
    centres: Tensor | Sequence[float] | Sequence[Sequence[float]] = (-2.0, 2.0),
    std: float = 0.5,
    *,
    seed: int = 0,
) -> Dataset:
    """Equal mixture of isotropic Gaussians; std 0 gives point masses.

    Args:
        centres: (modes, dim) means, or (modes,) for one dimension.
        std: standard deviation of every mode.

    Returns: rows (n, dim), centres (modes, dim), labels (n,) the mode of each row.
    """
    means = torch.as_tensor(centres, dtype=torch.float32)
    means = means[:, None] if means.ndim == 1 else means
    return _mixture("gaussians", n, means, std, seed)


def mixture1200d(
    n: int, *, modes: int = 10, latent_dim: int = 700, dim: int = 1200, std: float = 1.0, seed: int = 0
) -> Dataset:
    """Equal mixture of ten 700-dimensional Gaussians embedded in 1,200 dimensions.

    After VEEGAN (Srivastava et al., 2017), which leaves means and embedding open; here the means are
    N(0, 1) in the latent space, and the embedding is a random isometry, so distances are those of the
    latent space. Two means are sqrt(2 * 700) = 37 apart, and a sample sqrt(700) std = 26 from its own.
    The distribution is always the same; `seed` draws the rows.

    Returns: rows (n, dim), centres (modes, dim), labels (n,) the mode of each row.
    """
    for name, value in (("modes", modes), ("latent_dim", latent_dim), ("dim", dim)):
        Invalid("mixture1200d").check_integer(name, value, 1)
    if latent_dim > dim:
        raise Invalid("mixture1200d").value("latent_dim", f"must be at most dim {dim}, got {latent_dim}")
    square = _normal((dim, latent_dim), 0, _EMBEDDING).double()
    isometry = torch.linalg.qr(square).Q.T  # (latent_dim, dim), orthonormal rows
    latent = _mixture("mixture1200d", n, _normal((modes, latent_dim), 0, _CENTRES), std, seed)
    assert latent.centres is not None
    # In float64 and by blocks: float32 rounding then hardly ever depends on the number of threads.
    rows = torch.cat([(block.double() @ isometry).float() for block in latent.data.split(4096)])
    centres = (latent.centres.double() @ isometry).float()
    return Dataset(rows, name="mixture1200d", centres=centres, std=std, labels=latent.labels)


def ring_map(n: int = 300, *, seed: int = 0) -> Dataset:
    """Isotropic bivariate Gaussians moved onto a noisy ring by f(x) = x/10 + x/||x||.

    The mean radius is 1 + sqrt(pi/2)/10 = 1.1253314, its standard deviation 0.0655136.

    Returns: rows (n, 2).
    """
    Invalid("ring_map").check_integer("n", n, 1)
    return Dataset(map_to_ring(_normal((n, 2), seed, _NOISE)), name="ring_map")


def map_to_ring(x: Tensor) -> Tensor:
    """f(x) = x/10 + x/||x||, so that ||f(x)|| = 1 + ||x||/10; what a generator must learn from z = x.

    f has no limit at 0; the direction (1, 0, ...) is chosen there, which keeps the radius.

    Args:
        x: (..., dim) floating point.

    Returns: same shape and dtype.
    """
    if not x.is_floating_point() or x.ndim == 0:
        raise Invalid("map_to_ring").type("x", f"must be floating point (..., dim), got {x.dtype} {tuple(x.shape)}")
    wide = x.double()
    first = torch.zeros_like(wide)
    first[..., 0] = 1.0
    # Divide by the largest component first: squares of tiny ones would vanish and leave no direction.
    largest = wide.abs().amax(dim=-1, keepdim=True)
    scaled = torch.where(largest == 0, first, wide / largest.where(largest != 0, 1.0))
    unit = scaled / scaled.norm(dim=-1, keepdim=True)
    return (wide / 10 + unit).to(x.dtype)


def _mixture(name: str, n: int, centres: Tensor, std: float, seed: int) -> Dataset:
    """n rows: an equally likely mode, plus isotropic noise."""
    Invalid(name).check_integer("n", n, 1)
    _check_scale(name, "std", std)
    if centres.ndim != 2 or centres.numel() == 0:
        raise Invalid(name).value("centres", f"must be (modes, dim), got shape {tuple(centres.shape)}")
    if not torch.isfinite(centres).all():
        raise Invalid(name).value("centres", "must be finite, got NaN or infinity")
    modes, dim = centres.shape
    u = random.uniform((n,), seed=seed, purpose=random.Purpose.DATA, substream=_MODE)
    labels = (u * modes).long().clamp_(max=modes - 1)
    rows = centres[labels] + std * _normal((n, dim), seed, _NOISE)
    return Dataset(rows, name=name, centres=centres.clone(), std=float(std), labels=labels)


def _normal(shape: tuple[int, ...], seed: int, substream: int) -> Tensor:
    return random.normal(shape, seed=seed, purpose=random.Purpose.DATA, substream=substream)


def _check_scale(operation: str, name: str, value: float) -> None:
    Invalid(operation).check_number(name, value)
    if not 0 <= value < math.inf:
        raise Invalid(operation).value(name, f"must be finite and not negative, got {value}")
