"""K + 1 classes: D also learns the classes of the data, from the few rows whose label is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan.nn
from fastgan import _backend, data, models, random
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.nn import ClassDiscriminator
from fastgan.random import Purpose
from fastgan.training import Adam, TrainConfig, train

SEED = 7
ROWS = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.where(torch.arange(20) % 3 == 0, torch.arange(20) % 5, -1)  # 7 of 20 are known
DATA = Dataset(ROWS, labels=LABELS, dtype=torch.float64)
BASE = TrainConfig(steps=6, batch_size=5, optimizer=Adam(0.01), seed=SEED)


def small_gan(weight: float = 0.7) -> GAN:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
    features = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    discriminator = ClassDiscriminator(features, nn.Linear(8, 5), supervised_weight=weight)
    return GAN(generator, discriminator, latent_dim=2).double()


def test_M59_the_logit_is_that_of_a_softmax_over_k_plus_1_classes() -> None:
    gan = small_gan()
    with torch.no_grad():
        logits = gan.discriminator.class_logits(ROWS)
        p = torch.softmax(torch.cat([logits, torch.zeros(20, 1, dtype=torch.float64)], 1), 1)
        assert torch.allclose(torch.sigmoid(gan.discriminator(ROWS)).flatten(), 1 - p[:, 5], rtol=1e-12)
    assert torch.equal(gan.classify(ROWS), p[:, :5].argmax(1))


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_M59_equals_the_loss_written_out_in_plain_torch(mode: str) -> None:
    """Labelled rows come in an order of their own, five of the seven in each step."""
    gan, other = small_gan(), small_gan()
    train(gan, DATA, replace(BASE, mode=mode))
    g, d = other.generator, other.discriminator
    optimizer_g = torch.optim.Adam(g.parameters(), 0.01, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(d.parameters(), 0.01, betas=(0.5, 0.999))
    known = (LABELS >= 0).nonzero().flatten()
    for it in range(6):
        real = ROWS[random.permutation(20, seed=SEED, epoch=it // 4)[5 * (it % 4) :][:5]]
        labelled = known[random.permutation(7, seed=SEED, epoch=it)[:5]]
        z = [random.prior("normal", (5, 2), seed=SEED, purpose=p, step=it, dtype=torch.float64) for p in (1, 2)]
        fake = g(z[Purpose.NOISE_D - 1])
        loss_d = F.softplus(-d(real)).mean() + F.softplus(d(fake.detach())).mean()
        loss_d = (0.5 if mode == "simultaneous" else 1.0) * loss_d
        loss_d = loss_d + 0.7 * F.cross_entropy(d.class_logits(ROWS[labelled]), LABELS[labelled])
        if mode == "simultaneous":
            grads_g = torch.autograd.grad(F.softplus(-d(fake)).mean(), list(g.parameters()))
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        if mode == "alternating":
            fake = g(z[Purpose.NOISE_G - 1])
            grads_g = torch.autograd.grad(F.softplus(-d(fake)).mean(), list(g.parameters()))
        for p, grad in zip(g.parameters(), grads_g, strict=True):
            p.grad = grad
        optimizer_g.step()
    for (name, a), b in zip(gan.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9), name


# ---------------------------------------------------------------- on digits


def classifier() -> ClassDiscriminator:
    torch.manual_seed(0)
    features = fastgan.nn.MLP(
        [64, 128, 128], activation="leaky_relu", output_activation="leaky_relu", input_dropout=0.2, dropout=0.3
    )
    return ClassDiscriminator(features, nn.Linear(128, 10))


def digits_with_100_labels() -> tuple[Dataset, Tensor, Tensor]:
    """1,200 rows with ten labels a class, and 597 rows held out with theirs."""
    digits = data.digits()
    assert digits.labels is not None
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:597], order[597:]
    known = digits.labels[rest]
    rank = torch.stack([(known == c).cumsum(0) for c in range(10)]).gather(0, known[None])[0]
    rows = Dataset(digits.tensor()[rest], labels=torch.where(rank <= 10, known, -1), value_range=(0.0, 1.0))
    return rows, digits.tensor()[held_out], digits.labels[held_out]


def test_M59_unlabelled_digits_lower_the_error_of_100_labels() -> None:
    """The same network and optimiser, with the other 1,100 rows and a generator against the 100 labelled rows alone,
    for which the best of three lengths of training counts."""
    pytest.importorskip("sklearn")
    rows, x, y = digits_with_100_labels()
    assert rows.labels is not None
    known = rows.labels >= 0
    assert torch.bincount(rows.labels[known]).tolist() == [10] * 10
    alone = classifier()
    optimizer = torch.optim.Adam(alone.parameters(), 1e-3, betas=(0.5, 0.999))
    baseline = []
    for step in range(1, 1001):
        with random.scope(0, step):
            loss = alone.supervised_loss(rows.tensor()[known], rows.labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (200, 500, 1000):
            baseline.append(error(GAN(nn.Identity(), alone, latent_dim=32), x, y))
    torch.manual_seed(0)
    generator = fastgan.nn.MLP([32, 128, 128, 64], activation="relu", output_activation="sigmoid")
    gan = GAN(generator, classifier(), latent_dim=32)
    train(gan, rows, TrainConfig(steps=3000, batch_size=64, optimizer=Adam(1e-3)))
    assert error(gan, x, y) < min(baseline)
    features = gan.discriminator.features(x)
    assert features.shape == (597, 128)


def error(gan: GAN, x: Tensor, y: Tensor) -> float:
    return (gan.classify(x) != y).double().mean().item()


# ---------------------------------------------------------------- the rest


def test_M59_runs_in_the_eager_engine_and_resumes_to_the_bit(tmp_path: Path) -> None:
    _, result = check_resumed(small_gan, DATA, BASE, 2, tmp_path)
    if _backend.native is not None:
        assert result.engine_reason == "gan.discriminator: ClassDiscriminator is no layer that fuses"


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        ({}, ROWS, "data must have labels, one whole number a row, for a ClassDiscriminator, got no labels"),
        (
            {},
            replace(DATA, labels=LABELS * 0 - 1),
            "data must have labels, .* for a ClassDiscriminator, got -1 everywhere",
        ),
        ({}, replace(DATA, labels=LABELS + 1), "labels must lie in 0 to 4, got 0 to 5"),
        ({"pack": 2}, DATA, "config.pack must be 1 for a ClassDiscriminator, got 2"),
        ({"unroll": 1}, DATA, "config.unroll must be 0 for a ClassDiscriminator, got 1"),
        ({"loss": "hinge"}, DATA, "the discriminator's loss must be 'gan' for a ClassDiscriminator, got 'hinge'"),
    ],
)
def test_M59_what_does_not_go_together_is_named(change: dict, rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^train: {message}"):
        train(small_gan(), rows, replace(BASE, **change))


def test_M59_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="ClassDiscriminator: head must be a torch.nn.Module, got NoneType"):
        ClassDiscriminator(nn.Identity(), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="supervised_weight must be finite and at least 0, got -1"):
        ClassDiscriminator(nn.Identity(), nn.Identity(), supervised_weight=-1)
    with pytest.raises(TypeError, match="classify: discriminator must be a fastgan.nn.ClassDiscriminator, got MLP"):
        models.mlp_gan(2).classify(torch.zeros(1, 2))
