"""Losses and penalties of one's own: the eager engine is plain PyTorch written out, to 1e-10."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_plugins import (
    DATA,
    ENGINES,
    SGD,
    clamp_,
    config,
    distance,
    moved,
    new_gan,
    pairing_d,
    pairing_g,
    plain_torch,
    wasserstein_d,
    wasserstein_g,
)
from torch import Tensor, nn

from fastgan import GAN
from fastgan._backend import native
from fastgan.training import Momentum, TrainConfig, train


def plain_wgan() -> GAN:
    make = functools.partial(torch.optim.RMSprop, lr=1e-2)
    return plain_torch(make, after_d=clamp_, k=5, loss_d=wasserstein_d, loss_g=lambda fake, real: wasserstein_g(fake))


def test_wgan_with_clipping_as_its_paper_has_it() -> None:
    """Arjovsky et al. (2017), Algorithm 1: RMSprop, five critic steps, weights in a box."""
    gan, make = new_gan(), functools.partial(torch.optim.RMSprop, lr=1e-2)
    own = config(loss=(wasserstein_d, wasserstein_g), optimizer=make, clip_weights=0.01, k=5)
    result = train(gan, DATA, own)
    assert native is None or result.engine_reason.startswith("config.loss is wasserstein_d")
    by_name = new_gan()
    train(by_name, DATA, replace(own, loss="wasserstein"))
    loop = plain_wgan()
    assert max(distance(gan, loop), distance(by_name, loop)) < 1e-10 < 1e-4 < moved(gan)


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_losses_of_ones_own_that_see_real_logits_are_the_named_ones(mode: str) -> None:
    named, own = new_gan(), new_gan()
    train(named, DATA, config(loss="relativistic", mode=mode, engine="eager"))
    result = train(own, DATA, config(loss=(pairing_d, pairing_g), mode=mode))
    reason = "config.loss is pairing_d, pairing_g" if native is not None else "FASTGAN_DISABLE_NATIVE is set"
    assert reason in result.engine_reason and distance(named, own) < 1e-10
    unrolled = config(loss=(pairing_d, pairing_g), unroll=2)
    if mode == "alternating":
        train(own := new_gan(), DATA, unrolled)
        train(named := new_gan(), DATA, replace(unrolled, loss="relativistic"))
        assert distance(named, own) < 1e-10 < 1e-4 < moved(own)


def r1_and_r2(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    total = torch.zeros((), dtype=real.dtype)
    for x in (real, fake):
        x = x.detach().clone().requires_grad_()
        (derivative,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
        total = total + 0.5 * derivative.square().sum(1).mean()
    return total


def plain_r3gan() -> GAN:
    return plain_torch(SGD, loss_d=pairing_d, loss_g=pairing_g, penalty=r1_and_r2)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_penalties_and_the_pairing_loss_are_r3gan(engine: str) -> None:
    """Huang et al. (2024), eq. 4 and 5: the relativistic pairing loss with R1 and R2."""
    gan = new_gan()
    fields = {"loss": "relativistic", "gradient_penalty": ("r1", "r2"), "penalty_weight": 1.0}
    recipe = config(**fields, optimizer=Momentum(0.1), engine=engine)
    result = train(gan, DATA, recipe)
    assert result.engine == engine
    assert distance(gan, plain_r3gan()) < 1e-10
    assert distance(gan, plain_torch(SGD, loss_d=pairing_d, loss_g=pairing_g)) > 1e-4
    assert TrainConfig.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_run_with_losses_of_ones_own_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = config(loss=(wasserstein_d, wasserstein_g), gradient_penalty=("r1", "wgan-gp"))
    train(through := new_gan(), DATA, own)
    train(new_gan(), DATA, replace(own, steps=5), run_dir=tmp_path)
    with pytest.raises(ValueError, match="config.loss must be .*wasserstein_d"):
        train(new_gan(), DATA, replace(own, loss=(pairing_d, wasserstein_g)), run_dir=tmp_path, resume=True)
    train(resumed := new_gan(), DATA, own, run_dir=tmp_path, resume=True)
    assert distance(through, resumed) == 0.0 and "resume takes config.loss for what it was" in caplog.text
