"""A gradient penalty of a whole MLP, value and gradient in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import and_
from typing import Any

import torch
from torch import Tensor

from fastgan import _kernels, reference
from fastgan._kernels import MlpDescription
from fastgan._schema import PENALTIES
from fastgan.ops.call_cache import CallCache
from fastgan.ops.dispatch import is_batched
from fastgan.ops.networks import common_network
from fastgan.reference import LayerSpec


class _MlpPenalty(torch.autograd.Function):
    """Forward, backward to the input, the penalty and the second-order pass in one call. All tensors dense."""

    @staticmethod
    def forward(
        ctx: Any,
        network: MlpDescription,
        dropout_seed: Tensor | None,
        kind: str,
        weight: float,
        x: Tensor,
        *params: Tensor | None,
    ) -> Tensor:
        ctx.needs = list(map(and_, ctx.needs_input_grad[5:], network.second_order_parts[2:]))
        value, ctx.grads = _kernels.mlp_penalty(network, x, params, dropout_seed, PENALTIES[kind], weight, ctx.needs)
        ctx.save_for_backward(x, *params)
        ctx.what = network, dropout_seed, kind, weight
        return x.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *params = ctx.saved_tensors
        nothing = (None,) * 5
        if torch.is_grad_enabled() or is_batched(grad):  # a graph of the gradient, or many: by the reference
            return *nothing, *_differentiable_gradients(ctx.what, x, params, ctx.needs, grad)
        # The gradients are scaled in place and given away. A second backward through the graph computes them again.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            network, dropout_seed, kind, weight = ctx.what
            grads = _kernels.mlp_penalty(network, x, params, dropout_seed, PENALTIES[kind], weight, ctx.needs)[1]
        _kernels.scale(grads, grad)
        return *nothing, *grads


_apply_penalty = super(torch.autograd.Function, _MlpPenalty).apply  # as _apply_pair_loss


def _differentiable_gradients(
    what: tuple[MlpDescription, Tensor | None, str, float],
    x: Tensor,
    params: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """The penalty's gradients with a graph of their own."""
    network, dropout_seed, kind, weight = what
    graph, depth = torch.is_grad_enabled(), len(network.layers)
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        where = x.detach().requires_grad_()
        alias: list[Any] = [None if p is None else p.view_as(p) for p in params]  # as in ops.networks
        y = reference.mlp(where, alias[:depth], alias[depth:], network.layers, network.input_dropout, dropout_seed)
        (grad_x,) = torch.autograd.grad(y.sum(), where, create_graph=True)
        penalty = reference.gradient_penalty(grad_x, kind, weight)
        wanted = [p for p, need in zip(alias, needs, strict=True) if need]
        found = iter(torch.autograd.grad(penalty, wanted, grad, create_graph=graph, allow_unused=True))
    return [next(found) if need else None for need in needs]


def mlp_penalty(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    kind: str,
    weight: float,
    *,
    input_dropout: float,
    dropout_seed: Callable[[], Tensor] | None,
    caller: str,
    cache: CallCache,
) -> Tensor | None:
    """A penalty on the gradient of the sum of `ops.mlp` at x, in one call.

    Args:
        x: (batch, in_features); it gets no gradient.
        weights, biases, layers, input_dropout, caller, cache: as of `mlp`.
        kind: "wgan-gp", "r1" or "r2".
        weight: of the penalty.
        key: a function that gives the dropout seed; None switches dropout off.

    Returns:
        Scalar Tensor of x's dtype, differentiable in the parameters; None if only several calls can compute it (half
        precision, autocast, other devices, transforms of torch.func), and then no dropout seed is drawn.
    """
    if x.dim() != 2 or x.shape[0] == 0:
        return None
    network = common_network(x, weights, biases, layers, input_dropout, dropout_seed is not None, caller, cache)
    if network is None:
        return None
    params = (*weights, *biases)
    masks = None if dropout_seed is None else dropout_seed()
    if torch.is_grad_enabled():
        result: Tensor = _apply_penalty(network, masks, kind, weight, x, *params)
        return result
    value, _ = _kernels.mlp_penalty(network, x, params, masks, PENALTIES[kind], weight, [False] * len(params))
    return x.new_tensor(value)
