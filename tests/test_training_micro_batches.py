"""Gradient accumulation: a batch in parts gives the update of the whole, but for what looks at a batch as a whole."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from cases import need
from command_line import Run, check_refusal, check_success
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan import nn
from fastgan.apps.cli import runs
from fastgan.data import Dataset

ROWS = torch.rand(60, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1
LABELS = torch.arange(60) % 3
LABELLED = Dataset(ROWS, labels=torch.where(torch.arange(60) % 4 == 0, LABELS, -1), dtype=torch.float64)
BATCH, STEPS = 12, 5
SGD = fastgan.SGD(0.1)

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "k and generator steps": {"k": 2, "generator_steps": 2, "real_label": 0.9, "ema_decay": 0.9},
    "two penalties": {"gradient_penalty": ("wgan-gp", "r1"), "penalty_weight": 2.0, "loss": "wasserstein"},
    "relativistic": {"loss": "relativistic", "gradient_penalty": ("r1", "r2"), "penalty_weight": 1.0},
    "packed": {"pack": 2, "gradient_penalty": "wgan-gp"},
    "noise": {"instance_noise": 0.3, "pack": 2, "historical_averaging": 0.1},
    "simultaneous": {"mode": "simultaneous", "gradient_penalty": "r1", "historical_averaging": 0.1},
    "inner optimum": {"inner": "optimum", "k": 4, "inner_tolerance": 0.05},
    "clipped": {"max_grad_norm": 0.1, "clip_weights": 0.2, "nonfinite": "skip"},
    "own losses": {
        "loss": (
            lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
            lambda fake, real: F.softplus(real - fake).mean(),
        )
    },
    "conditional": {"pack": 2},
    "classes": {"historical_averaging": 0.1},
}


def gan_of(name: str, pack: int, seed: int = 1) -> fastgan.GAN:
    torch.manual_seed(seed)
    classes = 3 if name == "conditional" else 0
    generator = nn.MLP([3 + classes, 8, 4], activation="tanh")
    discriminator: torch.nn.Module = nn.MLP([(4 + classes) * pack, 8, 1], activation="leaky_relu")
    if name == "classes":
        features = nn.MLP([4, 8], output_activation="leaky_relu")
        discriminator = nn.ClassDiscriminator(features, torch.nn.Linear(8, 3))
    return fastgan.GAN(generator, discriminator, latent_dim=3, classes=classes).double()


def trained(name: str, parts: int, steps: int = STEPS, **changes: Any) -> tuple[fastgan.GAN, fastgan.TrainResult]:
    options = {"optimizer": SGD, **CASES[name], **changes}
    config = fastgan.TrainConfig(steps, BATCH, seed=3, engine="eager", micro_batches=parts, **options)
    gan = gan_of(name, config.pack)
    data: Any = ROWS
    if name in ("classes", "conditional"):
        data = LABELLED if name == "classes" else Dataset(ROWS, labels=LABELS, dtype=torch.float64)
    return gan, fastgan.train(gan, data, config)


def difference(a: fastgan.GAN, b: fastgan.GAN) -> float:
    one, other = a.state_dict(), b.state_dict()
    return max(float((one[name] - other[name]).abs().max()) for name in one.keys() & other.keys())


@pytest.mark.parametrize("parts", [2, 3, 12])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_in_parts_gives_the_update_of_the_whole(name: str, parts: int) -> None:
    whole, of_whole = trained(name, 1)
    gan, result = trained(name, parts)
    assert difference(gan, whole) < 1e-12
    for column, values in of_whole.history.items():
        assert result.history[column] == pytest.approx(values, rel=1e-11, abs=1e-12), column
    start = gan_of(name, CASES[name].get("pack", 1))
    if name != "clipped":
        assert difference(whole, start) > 1e-3  # they have moved


def test_it_is_plain_torch_with_gradients_that_add_up() -> None:
    """One iteration, written out."""
    gan, _ = trained("plain", 3, steps=1)
    plain = gan_of("plain", 1)
    real = ROWS[fastgan.random.permutation(60, seed=3, epoch=0)[:BATCH]]

    def z(purpose: Any) -> Tensor:
        return fastgan.random.prior("normal", (BATCH, 3), seed=3, purpose=purpose, step=0, dtype=torch.float64)

    purposes = fastgan.random.Purpose
    for x, noise in zip(real.split(4), z(purposes.NOISE_D).split(4), strict=True):
        fake = plain.generator(noise).detach()
        loss = F.softplus(-plain.discriminator(x)).mean() + F.softplus(plain.discriminator(fake)).mean()
        torch.autograd.backward(loss / 3, inputs=list(plain.discriminator.parameters()))
    torch.optim.SGD(plain.discriminator.parameters(), 0.1).step()
    for noise in z(purposes.NOISE_G).split(4):
        loss = F.softplus(-plain.discriminator(plain.generator(noise))).mean()
        torch.autograd.backward(loss / 3, inputs=list(plain.generator.parameters()))
    torch.optim.SGD(plain.generator.parameters(), 0.1).step()
    assert difference(gan, plain) < 1e-14


def test_no_network_sees_more_than_a_part_at_once() -> None:
    gan, seen = gan_of("plain", 1), set[int]()
    for network in (gan.generator, gan.discriminator):
        network.register_forward_pre_hook(lambda module, inputs: seen.add(len(inputs[0])))
    config = fastgan.TrainConfig(1, BATCH, engine="eager", micro_batches=4, optimizer=SGD)
    fastgan.train(gan, ROWS, config)
    assert max(seen) == BATCH // 4


class Watched(torch.autograd.Function):
    """The identity; `alive` has a reference to each graph that it is part of."""

    alive: ClassVar[list[weakref.ref[Any]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = torch.empty(0)
        Watched.alive.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.clone()


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
@pytest.mark.parametrize("penalty", [None, "r1"])
def test_no_graph_outlives_its_part(mode: Any, penalty: Any) -> None:
    """Else the activations of all parts would be in memory together, as those of the whole batch are."""
    gan, most = gan_of("plain", 1), 0

    def watch(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        nonlocal most
        watched: Tensor = Watched.apply(logits)  # type: ignore[no-untyped-call]
        most = max(most, sum(mark() is not None for mark in Watched.alive))
        return watched

    gan.discriminator.register_forward_hook(watch)
    config = fastgan.TrainConfig(
        1, BATCH, engine="eager", micro_batches=6, optimizer=SGD, mode=mode, gradient_penalty=penalty
    )
    Watched.alive.clear()
    fastgan.train(gan, ROWS, config)
    assert len(Watched.alive) >= 12
    assert most <= (2 if penalty is None else 3)  # of real rows, of fakes, of the penalty's rows


def test_batch_normalisation_sees_the_part_alone() -> None:
    """The documented exception: were the test above blind, this one would find no difference either."""

    def run(parts: int) -> fastgan.GAN:
        torch.manual_seed(0)
        layers = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
        gan = fastgan.GAN(nn.MLP([3, 4]), torch.nn.Sequential(*layers), latent_dim=3).double()
        config = fastgan.TrainConfig(3, BATCH, engine="eager", micro_batches=parts, optimizer=SGD)
        fastgan.train(gan, ROWS, config)
        return gan

    assert difference(run(1), run(2)) > 1e-3


def test_the_eager_engine_runs_and_says_why() -> None:
    need("native", "mlp")
    gan = fastgan.models.mlp_gan(4, hidden=(8,))
    config = fastgan.TrainConfig(2, BATCH, micro_batches=2)
    result = fastgan.train(gan, ROWS.float(), config)
    assert result.engine == "eager"
    assert result.engine_reason == "config.micro_batches is above 1: the compiled engines take a batch at once"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 5}, "micro_batches must divide batch_size=12, got 5"),
        ({"micro_batches": 0}, "micro_batches must be at least 1, got 0"),
        ({"micro_batches": 2, "unroll": 3}, "micro_batches must be 1 with unroll, got 2"),
        ({"micro_batches": 2, "loss": "feature_matching"}, "micro_batches must be 1 with feature_matching, got 2"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^TrainConfig: {message}$"):
        fastgan.TrainConfig(10, BATCH, **options)


def test_the_command_line_and_a_resume_keep_it(run: Run) -> None:
    tiny = "--steps 3 --batch-size 8 --width 8 --quiet --no-pictures --threads 1".split()
    check_success(run("train", "ring", "--rows", "64", "--micro-batches", "4", *tiny, "--out", "r"))
    assert runs.read(Path("r")).train.micro_batches == 4
    resume = ("train", "--resume", "--out", "r", "--quiet", "--no-pictures")
    check_success(run(*resume, "--steps", "4"))
    check_refusal(run(*resume, "--steps", "5", "--micro-batches", "2"), "--micro-batches must be 4 as in")
    check_refusal(run("train", "ring", "--micro-batches", "3", *tiny), "must divide batch_size=8, got 3")
