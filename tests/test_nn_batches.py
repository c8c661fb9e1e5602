"""Layers that look at more than one example: virtual batch normalisation and minibatch discrimination."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn

import fastgan.nn
from fastgan import _backend
from fastgan.models import GAN
from fastgan.nn import MinibatchDiscrimination, ReferenceBatch, VirtualBatchNorm
from fastgan.training import Adam, TrainConfig, train

DATA = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
BASE = TrainConfig(steps=5, batch_size=8, optimizer=Adam(0.01), seed=3)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normalised(*, images: bool = False) -> ReferenceBatch:
    torch.manual_seed(0)
    if images:
        layers = [nn.Conv2d(2, 4, 3), VirtualBatchNorm(4), nn.Flatten(), nn.Linear(36, 1)]
        return ReferenceBatch(nn.Sequential(*layers).double(), numbers(6, 2, 5, 5, seed=9))
    layers = [nn.Linear(3, 5), VirtualBatchNorm(5), nn.ReLU(), nn.Linear(5, 4), VirtualBatchNorm(4)]
    return ReferenceBatch(nn.Sequential(*layers).double(), numbers(6, 3, seed=9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("images", [False, True], ids=["rows", "images"])
def test_M65_an_output_keeps_its_bits_when_the_rest_of_the_batch_changes(images: bool, dtype: torch.dtype) -> None:
    network = normalised(images=images).to(dtype)
    shape = (2, 5, 5) if images else (3,)
    x, others = numbers(7, *shape).to(dtype), 100 * numbers(7, *shape, seed=1).to(dtype)
    others[3] = x[3]
    assert torch.equal(network(x)[3], network(others)[3])
    assert not torch.equal(network(x)[4], network(others)[4])
    assert torch.equal(network(x), network.eval()(x))


@pytest.mark.parametrize("shape", [(), (4, 2)], ids=["rows", "images"])
def test_M65_statistics_are_those_of_the_reference_and_the_example_together(shape: tuple[int, ...]) -> None:
    """Weights n/(n+1) and 1/(n+1): exactly the moments of the n + 1 examples, also far from the origin."""
    n, m, offset = 6, 3, 1e6
    layer = VirtualBatchNorm(2, eps=1e-9).double()
    layer.references = n
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 0.5]))
        layer.bias.copy_(torch.tensor([-1.0, 3.0]))
    x = offset + numbers(n + m, 2, *shape)
    found = layer(x)
    axes = (0, *range(2, x.ndim))
    weight, bias = (p.reshape(2, *(1 for _ in shape)) for p in (layer.weight, layer.bias))
    for i in range(n + m):
        known = x[:n] if i < n else torch.cat([x[:n], x[i : i + 1]])
        mean, variance = known.mean(axes, keepdim=True)[0], known.var(axes, correction=0, keepdim=True)[0]
        expected = weight * (x[i] - mean) / torch.sqrt(variance + 1e-9) + bias
        torch.testing.assert_close(found[i], expected, rtol=1e-7, atol=1e-7)


def test_M65_gradients_and_their_gradients_flow_through_the_reference_batch() -> None:
    layer = VirtualBatchNorm(3).double()
    layer.references = 4
    x = numbers(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,)) and torch.autograd.gradgradcheck(layer, (x,))
    network = normalised()
    network(numbers(5, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_M65_a_constant_feature_stays_finite() -> None:
    """No spread anywhere: only eps is under the root, and the result is the shift."""
    layer = VirtualBatchNorm(1)
    layer.references = 3
    x = torch.full((5, 1), 7.0, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(5, 1)) and bool(torch.isfinite(x.grad).all())


def test_M65_bad_use_is_named() -> None:
    with pytest.raises(RuntimeError, match="VirtualBatchNorm: must be part of a network inside fastgan.nn.Reference"):
        VirtualBatchNorm(2)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="VirtualBatchNorm: num_features must be at least 1, got 0"):
        VirtualBatchNorm(0)
    with pytest.raises(ValueError, match="VirtualBatchNorm: eps must be above 0 and finite, got 0"):
        VirtualBatchNorm(2, eps=0)
    with pytest.raises(ValueError, match=r"VirtualBatchNorm: input must have 5 features, got \(8, 4\)"):
        ReferenceBatch(nn.Sequential(nn.Linear(3, 4), VirtualBatchNorm(5)), torch.zeros(2, 3))(torch.zeros(6, 3))
    network = nn.Sequential(VirtualBatchNorm(3))
    for reference, error, message in (
        (torch.zeros(1, 3), ValueError, "reference must have two rows or more"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "reference must be a floating-point tensor, got torch.int64"),
        ([1.0], TypeError, "reference must be a floating-point tensor, got list"),
    ):
        with pytest.raises(error, match=f"ReferenceBatch: {message}"):
            ReferenceBatch(network, reference)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReferenceBatch: network must have a VirtualBatchNorm layer, got none"):
        ReferenceBatch(nn.Linear(3, 1), torch.zeros(2, 3))


# ---------------------------------------------------------------- minibatch discrimination


def test_M66_equals_the_papers_sums() -> None:
    layer, x = MinibatchDiscrimination(4, 3, kernel=2).double(), numbers(5, 4)
    found = layer(x)
    tensor = layer.weight.detach().view(4, 3, 2)
    for i in range(5):
        for b in range(3):
            o = sum(torch.exp(-((x[i] - x[j]) @ tensor[:, b]).abs().sum()) for j in range(5))
            assert found[i, 4 + b].item() == pytest.approx(float(o), rel=1e-12)
    assert torch.equal(found[:, :4], x)


def test_M66_gradcheck_and_gradgradcheck() -> None:
    layer = MinibatchDiscrimination(3, 2, kernel=2).double()
    x = numbers(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,)) and torch.autograd.gradgradcheck(layer, (x,))


def test_M66_an_identical_batch_has_the_greatest_feature() -> None:
    """m exactly, and nothing not finite; examples far apart have the least, their own 1."""
    layer = MinibatchDiscrimination(4, 3)
    same = torch.randn(1, 4).expand(16, 4).clone().requires_grad_()
    out = layer(same)
    assert torch.equal(out[:, 4:], torch.full((16, 3), 16.0))
    out.sum().backward()
    assert bool(torch.isfinite(same.grad).all()) and bool(torch.isfinite(layer.weight.grad).all())
    spread = layer(torch.randn(16, 4))[:, 4:]
    assert bool((spread < 16).all()) and bool((spread >= 1).all())
    far = layer(torch.arange(16.0)[:, None] * 1e30 * torch.ones(4))[:, 4:]
    assert torch.equal(far, torch.ones(16, 3))


def test_M66_a_nan_stays_visible() -> None:
    x = torch.randn(3, 4)
    x[1, 2] = float("nan")
    assert bool(MinibatchDiscrimination(4, 2)(x)[:, 4:].isnan().all())


def test_M66_bad_sizes_are_named() -> None:
    for name in ("in_features", "features", "kernel"):
        with pytest.raises(ValueError, match=f"MinibatchDiscrimination: {name} must be at least 1, got 0"):
            MinibatchDiscrimination(**{"in_features": 1, "features": 1, "kernel": 1, name: 0})
    with pytest.raises(ValueError, match=r"MinibatchDiscrimination: input must have shape \(m, 4\), got \(2, 3\)"):
        MinibatchDiscrimination(4, 1)(torch.zeros(2, 3))


# ---------------------------------------------------------------- in training


def gan_with(kind: str) -> GAN:
    torch.manual_seed(0)
    if kind == "VirtualBatchNorm":
        generator = ReferenceBatch(
            nn.Sequential(nn.Linear(2, 8), VirtualBatchNorm(8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(6, 2)
        )
        discriminator = fastgan.nn.MLP([3, 8, 1], activation="relu")
    else:
        generator = fastgan.nn.MLP([2, 8, 3], activation="relu")
        discriminator = fastgan.nn.Sequential(
            fastgan.nn.Linear(3, 8, activation="relu"), MinibatchDiscrimination(8, 4), fastgan.nn.Linear(12, 1)
        )
    return GAN(generator, discriminator, latent_dim=2)


@pytest.mark.parametrize("kind", ["VirtualBatchNorm", "MinibatchDiscrimination"])
def test_M65_M66_train_eagerly_with_the_reason_and_resume_to_the_bit(kind: str, tmp_path: Path) -> None:
    gan, result = check_resumed(lambda: gan_with(kind), DATA, BASE, 2, tmp_path)
    assert result.engine == "eager"
    if _backend.native is not None:
        layer = "ReferenceBatch" if kind == "VirtualBatchNorm" else kind
        assert result.engine_reason.endswith(f"{layer} is no layer that fuses")
        with pytest.raises(ValueError, match=f"{layer} is no layer that fuses"):
            train(gan_with(kind), DATA, replace(BASE, engine="fused"))
    start, trained = gan_with(kind).state_dict(), gan.state_dict()
    moved = [name for name, value in start.items() if not torch.equal(value, trained[name])]
    assert set(start) - set(moved) <= {"generator.reference"}


def test_M66_features_tell_a_collapsed_batch_from_a_spread_one() -> None:
    """D, shown batches of one repeated point as fakes, learns from the batch what no single example can tell."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), MinibatchDiscrimination(8, 4), nn.Linear(12, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    correct = 0
    for step in range(200):
        real = torch.randn(16, 2)
        fake = torch.randn(1, 2).expand(16, 2)
        a, b = network(real), network(fake)
        loss = fastgan.discriminator_loss(a, b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 150:
            correct += int((a > 0).sum() + (b < 0).sum())
    assert correct / (50 * 32) > 0.95
