"""Options of the eager engine beyond Algorithm 1: feature matching, historical averaging, noise on D's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from fastgan import random
from fastgan.random import Purpose
from fastgan.training.config import TrainConfig

# The average and how many updates are in it: in an optimiser's state, so that checkpoints and roll-backs have them too.
AVERAGE, COUNT = "historical_average", "historical_count"


def noisy(samples: Tensor, config: TrainConfig, it: int, step: int, substream: int, offset: int = 0) -> Tensor:
    """D's input plus the noise of iteration `it`, if the config has any.

    Args:
        samples: (m, ...).
        it: iteration, from 0, which determines the strength of the noise.
        step, substream: of its stream: the number of the draw or of the update, and 0 for real rows, 1 and 2 for fakes.
        offset: number of the first of them in the whole batch.

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
        offset=offset * samples[0].numel(),
        dtype=samples.dtype,
        device=samples.device,
        impl=config.impl,
    )
    return samples + std * noise


def features(discriminator: torch.nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The input of D's last layer with parameters, (m, ...): its features.

    Args:
        discriminator: D.
        function: D as a function of samples, with their labels where it takes any.
        x: (m, ...) samples.
    """
    owners = [
        module
        for name, module in discriminator.named_modules()
        # A parametrised layer has its parameters in submodules, which do not see the features.
        if "parametrizations" not in name.split(".")
        and (parametrize.is_parametrized(module) or any(True for _ in module.parameters(recurse=False)))
    ]
    seen: list[Tensor] = []
    handle = owners[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        function(x)
    finally:
        handle.remove()
    return seen[-1]


def begin_average(optimizer: torch.optim.Optimizer) -> None:
    """Create the averages beside the optimiser's own state, so that a checkpoint can be read into them."""
    for parameter, state in optimizer.state.items():
        if state:
            _begin(parameter, state)


def _begin(parameter: Tensor, state: dict[str, Any]) -> None:
    state[AVERAGE] = torch.zeros_like(parameter)
    # Not in the parameter's type: half precision cannot count beyond 2048.
    state[COUNT] = torch.zeros((), dtype=torch.float32, device=parameter.device)


def distance_from_average(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> Tensor | float:
    """The squared distance of the parameters from their average over all updates so far; 0 before the first.

    Source: Salimans et al. (2016), section 3.3.
    """
    begun = [(p, state) for p in parameters if COUNT in (state := optimizer.state.get(p, {}))]
    parts = [torch.where(state[COUNT] > 0, p - state[AVERAGE], 0.0).square().sum() for p, state in begun]
    return torch.stack(parts).sum() if parts else 0.0


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """After update t (from 1): average <- average + (parameter - average) / t. Rolled-back updates do not count."""
    for parameter in parameters:
        state = optimizer.state[parameter]
        if COUNT not in state:
            _begin(parameter, state)
        state[COUNT] += 1
        state[AVERAGE].lerp_(parameter, state[COUNT].double().reciprocal().to(parameter.dtype))
