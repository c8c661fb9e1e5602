"""D after some more updates of its own optimiser, as a differentiable function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fastgan.training.optimizers import Adam, Momentum

DiscriminatorFn = Callable[[Tensor], Tensor]  # from inputs of D to logits


def look_ahead(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    description: Adam | Momentum,
    loss: Callable[[DiscriminatorFn], Tensor],
    steps: int,
    *,
    update: int,
    epoch: float,
) -> DiscriminatorFn:
    """D after `steps` more updates; gradients flow through them, into whatever the loss depends on.

    D itself, its buffers and its optimiser stay as they are; the updates begin with the moments they have.

    Args:
        network: D.
        optimizer, description: that update it, and the Adam or Momentum they were built from.
        loss: D's loss as a function of the discriminator.
        steps: how many updates.
        update: number of the first, from 0.
        epoch: from 1, for the momentum's schedule.

    Source: Metz et al. (2017), "Unrolled generative adversarial networks", eq. 7 to 9.
    """
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    known = {id(p): name for name, p in network.named_parameters()}
    names = [known[id(p)] for p in parameters]
    sizes = [p.numel() for p in parameters]
    # Forward passes in train mode would move running statistics: those of the look-ahead are thrown away.
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

    def discriminator(theta: Tensor) -> DiscriminatorFn:
        parts = zip(names, parameters, theta.split(sizes), strict=True)
        values = {name: part.view_as(p) for name, p, part in parts}
        return lambda x: functional_call(network, {**buffers, **values}, (x,))

    def flat(tensors: Iterator[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    # One vector for all parameters: a step then costs a dozen small operations, not a dozen a tensor.
    theta = flat(iter(parameters)).requires_grad_()
    state = {
        name: flat(optimizer.state[p][name] for p in parameters)
        for name in optimizer.state[parameters[0]]
        if name != "step"
    }
    if isinstance(description, Adam):
        state["step"] = torch.stack([optimizer.state[p]["step"] for p in parameters]).max().double()
    for step in range(update, update + steps):
        (grad,) = torch.autograd.grad(loss(discriminator(theta)), theta, create_graph=True)
        if isinstance(description, Adam):
            theta = theta + _adam(description, state, grad)
        else:
            theta = theta + _momentum(description, state, grad, step, epoch)
    return discriminator(theta)


def _adam(rule: Adam, state: dict[str, Any], grad: Tensor) -> Tensor:
    """Adam's change of the parameters; updates the state."""
    beta1, beta2 = rule.betas
    state["step"] = state["step"] + 1
    state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * grad
    state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * grad * grad
    mean = state["exp_avg"] / (1 - beta1 ** state["step"])
    square = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
    still = square == 0  # a root has an infinite gradient there, and infinity times zero is NaN
    root = torch.sqrt(torch.where(still, 1.0, square)) * ~still
    return -rule.lr * mean / (root + rule.eps)


def _momentum(rule: Momentum, state: dict[str, Any], grad: Tensor, update: int, epoch: float) -> Tensor:
    """The change of the parameters in either convention; updates the state."""
    rate, momentum, velocity = rule.learning_rate(update), rule.momentum_at(epoch), state["momentum_buffer"]
    if rule.convention == "pylearn2":
        velocity = change = momentum * velocity - rate * grad
    else:
        velocity = momentum * velocity + grad
        change = -rate * velocity
    state["momentum_buffer"] = velocity
    return change
