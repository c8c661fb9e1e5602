"""What the eager engine can play beside Algorithm 1: feature matching, historical averaging, noise on D's input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan import random
from fastgan.random import Purpose
from fastgan.training.config import TrainConfig

AVERAGE = "historical_average"  # in an optimiser's state, so that checkpoints and roll-backs have it too


def noisy(samples: Tensor, config: TrainConfig, it: int, step: int, substream: int) -> Tensor:
    """D's input with the noise of iteration `it` on it; as it is where there is none.

    Args:
        samples: (m, ...).
        it: iteration, from 0, which says how strong the noise is.
        step, substream: of its stream: the number of the draw or of the update, and who is shown.

    Source: Soenderby et al. (2017); Arjovsky and Bottou (2017).
    """
    std = config.instance_noise_at(it)
    if std == 0.0:
        return samples
    noise = random.normal(
        samples.shape,
        seed=config.seed,
        purpose=Purpose.INSTANCE_NOISE,
        step=step,
        substream=substream,
        dtype=samples.dtype,
        device=samples.device,
        impl=config.impl,
    )
    return samples + std * noise


def features(discriminator: torch.nn.Module, judge: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What goes into D's last layer with parameters, (m, ...): the features by which it tells real from made.

    Args:
        discriminator: D.
        judge: D as a function of samples, with their labels where it takes any.
        x: (m, ...) samples.
    """
    owners = [m for m in discriminator.modules() if any(True for _ in m.parameters(recurse=False))]
    seen: list[Tensor] = []
    handle = owners[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        judge(x)
    finally:
        handle.remove()
    return seen[-1]


def begin_average(optimizer: torch.optim.Optimizer) -> None:
    """Make room for the averages where the optimiser has made its own state: a checkpoint is read into it."""
    for parameter, state in optimizer.state.items():
        if state:
            state[AVERAGE] = torch.zeros_like(parameter)


def distance_from_average(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> Tensor:
    """The squared distance of the parameters from their average over all updates so far.

    Source: Salimans et al. (2016), section 3.3.
    """
    parts = [(p - optimizer.state[p][AVERAGE]).square().sum() for p in parameters]
    return torch.stack(parts).sum()


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, parameters: list[Tensor], update: int) -> None:
    """After update t (from 0): average <- average + (parameter - average) / (t + 1)."""
    for parameter in parameters:
        state = optimizer.state[parameter]
        state.setdefault(AVERAGE, torch.zeros_like(parameter)).lerp_(parameter, 1.0 / (update + 1))
