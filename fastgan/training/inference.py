"""train_encoder(): a network that predicts the z a sample came from, fitted after G has been trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan import _deprecation, random
from fastgan._errors import Invalid
from fastgan._results import Result
from fastgan.models.gan import GAN, evaluating
from fastgan.random import Purpose
from fastgan.training.engines.player import Player
from fastgan.training.optimizers import Adam, Optimizer
from fastgan.training.plain import count_of

_HELD_OUT = 10_000  # samples that R^2 is measured on


@dataclass(frozen=True, eq=False, repr=False)
class InferenceResult(Result):
    """How well z can be read off G(z).

    Args:
        loss: (steps,) mean squared error of each batch.
        r_squared: share of the variance of z that the prediction explains, on 10,000 samples that it was not fitted
            to. 1 - r_squared is what the network cannot recover of z.
    """

    loss: np.ndarray
    r_squared: float


@_deprecation.argument("train_encoder", "inferer", "encoder")
@torch.inference_mode(False)
def train_encoder(
    gan: GAN,
    encoder: torch.nn.Module,
    *,
    steps: int,
    batch_size: int = 128,
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> InferenceResult:
    """Fit a network E to z = E(G(z)) with G fixed: learned approximate inference.

    Equivalent to regression on an endless stream of pairs (G(z), z), z ~ p_z. G, or the moving average of its weights
    if training kept one, is not changed and runs in eval mode.

    Args:
        gan: trained.
        encoder: module from samples (m, ...) to (m, latent_dim), of the networks' type and on their device; trained in
            place in its current mode, measured in eval mode.
        steps: updates.
        batch_size: pairs in each.
        optimizer: Adam or Momentum; None: Adam of rate 1e-3.
        seed: of z and of dropout masks.

    Returns:
        InferenceResult.

    Raises:
        TypeError: an argument of the wrong kind. ValueError: a number that breaks its rule, a conditional model, a
            network that does not give a z for each sample.

    Source: Goodfellow et al. (2014), section 7, item 2.
    """
    _check(gan, encoder, steps, batch_size)
    generator = gan.generator if gan.ema is None else gan.ema

    def pair(n: int, purpose: Purpose, step: int) -> tuple[Tensor, Tensor]:
        z = gan.noise(n, seed=seed, purpose=purpose, step=step)
        with torch.no_grad():
            return generator(z), z

    player = Player(encoder, optimizer or Adam(1e-3, betas=(0.9, 0.999)), name="encoder")
    losses = torch.empty(steps, device=gan.device)
    with evaluating(generator):
        for step in range(steps):
            x, z = pair(batch_size, Purpose.NOISE_G, step)
            with random.scope(seed, step):
                loss = torch.nn.functional.mse_loss(encoder(x), z)
            player.differentiate(loss)
            player.update(update=step, epoch=1)
            losses[step] = loss.detach()
        x, z = pair(_HELD_OUT, Purpose.SAMPLE, 0)
        with evaluating(encoder), torch.no_grad():
            error = (encoder(x) - z).double().square().sum()
    for parameter in player.parameters:
        parameter.grad = None
    spread = (z - z.mean(0)).double().square().sum()
    return InferenceResult(losses.cpu().numpy(), 1.0 - float(error / spread))


def _check(gan: GAN, encoder: torch.nn.Module, steps: int, batch_size: int) -> None:
    caller = "train_encoder"
    for name, value, kind in (("gan", gan, GAN), ("encoder", encoder, torch.nn.Module)):
        if not isinstance(value, kind):
            raise Invalid(caller).type(name, f"must be a {kind.__name__}, got {type(value).__name__}")
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        count_of(caller, name, number)
    if gan.classes:
        raise Invalid(caller).value("gan", f"must not be conditional, got one with {gan.classes} classes")
    with evaluating(gan.generator), evaluating(encoder), torch.no_grad():
        z = gan.noise(2, seed=0)
        shape = tuple(encoder(gan.generator(z)).shape)
    if shape != tuple(z.shape):
        raise Invalid(caller).value("encoder", f"must give z of shape {tuple(z.shape)} for 2 samples, got {shape}")
