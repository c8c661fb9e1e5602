"""What a small classifier, fitted to labelled rows, sees in samples: their classes, and how far their features lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgan import random
from fastgan._errors import Invalid
from fastgan.data import Dataset

from .rows import Rows, take_rows

_FEATURES, _HIDDEN = 32, 128
_STEPS, _BATCH = 1500, 64
_REACHED = 0.2  # of its share among the real rows: below it a class counts as missing


@dataclass(frozen=True)
class ClassBalance:
    """The result of `class_balance`.

    Args:
        covered: classes whose share of the samples is at least a fifth of their share of the real rows.
        classes: how many labels the real rows have.
        smallest, largest: the extremes of `shares`.
        distance: Frechet distance of the samples' features from those of real rows, in units of these rows' variance.
        real_distance: the same for other real rows; a perfect generator has about this distance.
        accuracy: of the classifier, on real rows that it was not fitted to.
        shares: (classes,) float64, share of the samples that the classifier gives each label.
        real_shares: (classes,) float64, share of the real rows that have each label.
    """

    covered: int
    classes: int
    smallest: float
    largest: float
    distance: float
    real_distance: float
    accuracy: float
    shares: Any = field(repr=False, compare=False)
    real_shares: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return (
            f"{self.covered} of {self.classes} classes, {100 * self.smallest:.1f}% to {100 * self.largest:.1f}% of the "
            f"samples each; feature distance {self.distance:.4f}, of real rows {self.real_distance:.4f} (by a small "
            f"classifier, {100 * self.accuracy:.1f}% right)"
        )


def class_balance(samples: Rows, real: Rows, labels: Any = None, *, seed: int = 0) -> ClassBalance:
    """How samples spread over the classes of the data, and a Frechet distance between features of both.

    A perceptron with two hidden layers (128 and 32 units) is fitted to three fifths of the labelled rows, 1,500 steps
    of Adam. Its 32 last hidden units are the features. The Frechet distance of two sets of them is that of two
    Gaussians with their means and covariances: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), divided by tr(C) of a
    held-out fifth of the real rows. This is not FID, whose features are Inception's: compare figures only for the same
    rows, labels and seed.

    Args:
        samples: (m, ...) rows of the generator, at least 2.
        real: (n, ...) rows of the data, at least 10.
        labels: (n,) integer labels of the real rows; rows with a negative label are left out. None: those of `real`, a
            Dataset.
        seed: of the classifier and of the choice of its rows.

    Returns:
        ClassBalance.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width, too few rows, labels that are not
            integers, one for each row, of at least two classes.

    Source: Heusel et al. (2017), section 2, for the Frechet distance of features; Santurkar et al. (2018) for counting
        classes by a classifier.
    """
    caller = "class_balance"
    if labels is None and isinstance(real, Dataset):
        labels = real.labels
    if labels is None:
        raise Invalid(caller).value("labels", "must be given where real is no Dataset that has them, got none")
    (x, fake), back = take_rows(caller, real=real, samples=samples)
    target = torch.as_tensor(labels, device=x.device)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise Invalid(caller).type("labels", f"must be integers, got {target.dtype}")
    if target.shape != (len(x),):
        raise Invalid(caller).value("labels", f"must have shape ({len(x)},), got {tuple(target.shape)}")
    x, target = x[target >= 0], target[target >= 0]
    if len(x) < 10 or len(fake) < 2:
        few = f"{len(x)} and {len(fake)}"
        raise Invalid(caller).value("real and samples", f"must have at least 10 labelled rows and 2 rows, got {few}")
    names, target = target.unique(return_inverse=True)
    if len(names) < 2:
        raise Invalid(caller).value("labels", f"must name at least 2 classes, got {len(names)}")
    order = random.permutation(len(x), seed=seed, epoch=0, device=x.device)
    fifth = len(x) // 5
    known, other, kept = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    mean, scale = x[known].mean(0), x[known].std(0, correction=0).mean().clamp(min=1e-12)
    body, head = _fit(((x[known] - mean) / scale).float(), target[known], len(names), seed)
    with torch.no_grad():
        of_fake, of_kept, of_other = (body(((part - mean) / scale).float()) for part in (fake, x[kept], x[other]))
        predicted = head(of_fake).argmax(1)
        right = head(torch.cat([of_kept, of_other])).argmax(1) == target[torch.cat([kept, other])]
    shares, real_shares = (part.bincount(minlength=len(names)).double() / len(part) for part in (predicted, target))
    unit = max(float(of_kept.double().var(0).sum()), 1e-300)
    return ClassBalance(
        covered=int((shares >= _REACHED * real_shares).sum()),
        classes=len(names),
        smallest=float(shares.min()),
        largest=float(shares.max()),
        distance=_frechet(of_fake[: len(of_kept)], of_kept) / unit,
        real_distance=_frechet(of_other, of_kept) / unit,
        accuracy=float(right.double().mean()),
        shares=back(shares),
        real_shares=back(real_shares),
    )


@torch.inference_mode(False)
def _fit(x: Tensor, target: Tensor, classes: int, seed: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The classifier's body, whose outputs are the features, and its last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = torch.nn.Linear(x.shape[1], _HIDDEN), torch.nn.Linear(_HIDDEN, _FEATURES)
        body = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU()).to(x.device)
        head = torch.nn.Linear(_FEATURES, classes).to(x.device)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    size = min(_BATCH, len(x))
    whole = len(x) // size * size  # rows of an epoch, in full batches
    for step in range(_STEPS):
        epoch, start = divmod(step * size, whole)
        index = random.permutation(len(x), seed=seed, epoch=epoch + 1, start=start, count=size, device=x.device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(body(x[index])), target[index]).backward()
        optimizer.step()
        schedule.step()
    return body, head


def _frechet(x: Tensor, y: Tensor) -> float:
    """The Frechet distance of the Gaussians with the means and covariances of two sets of rows."""
    x, y = x.double(), y.double()
    of_x, of_y = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(of_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ of_y @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float((x.mean(0) - y.mean(0)).square().sum() + of_x.trace() + of_y.trace() - 2 * cross))
