"""A network on CUDA layer by layer, differentiable again and again: what the gradient of a gradient goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan import _cuda, _kernels, reference
from fastgan.ops.masks import native_dropout
from fastgan.reference import ACTIVATIONS, LayerSpec

What = tuple[LayerSpec, Tensor | None, int]  # the layer, its dropout seed, and the substream of its mask


def _seed(dropout_seed: Tensor | None) -> int:
    return 0 if dropout_seed is None else _kernels.unsigned_seed(dropout_seed)


class _Activation(torch.autograd.Function):
    """Activation and dropout of z (rows, units), by one kernel."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, what: What) -> Tensor:
        layer, dropout_seed, substream = ctx.what = what
        given, saved = _cuda.activate(layer, z, _seed(dropout_seed), substream)
        ctx.save_for_backward(z, saved)
        return given

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result: Tensor = _ActivationBackward.apply(_kernels.dense(grad), *ctx.saved_tensors, ctx.what)
        return result, None


class _ActivationBackward(torch.autograd.Function):
    """The gradient of z from that of what the layer gave; its own derivative is one kernel more."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, z: Tensor, saved: Tensor, what: What) -> Tensor:
        layer, dropout_seed, substream = ctx.what = what
        ctx.save_for_backward(grad, z, saved)
        return _cuda.activate_backward(layer, grad, saved, _seed(dropout_seed), substream)[0]

    @staticmethod
    def backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad, z, saved = ctx.saved_tensors
        layer, dropout_seed, substream = ctx.what
        if torch.is_grad_enabled():  # a third derivative is needed
            return *_plain_second_order(grad, z, ctx.what, grad_grad), None, None
        to_z, to_grad = _cuda.activate_backward(
            layer, grad, saved, _seed(dropout_seed), substream, _kernels.dense(grad_grad)
        )
        assert to_grad is not None
        return to_grad, to_z, None, None


def _plain_second_order(grad: Tensor, z: Tensor, what: What, grad_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The result of `_ActivationBackward.backward` with a graph, computed by the reference."""
    layer, dropout_seed, substream = what
    grad, z = (t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in (grad, z))
    y = ACTIVATIONS[layer.activation](z, layer.negative_slope)
    if layer.dropout and dropout_seed is not None:
        y = reference.dropout(y, layer.dropout, dropout_seed, substream)
    (grad_z,) = torch.autograd.grad(y, z, grad, create_graph=True)
    to_grad, to_z = torch.autograd.grad(grad_z, (grad, z), grad_grad, create_graph=True, materialize_grads=True)
    return to_grad, to_z


def mlp_by_layers(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    input_dropout: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """`reference.mlp` on CUDA; between the products there is one kernel a layer in each order."""
    leading = x.shape[:-1]
    x = x.reshape(leading.numel(), x.shape[-1])
    if input_dropout and dropout_seed is not None:
        x = native_dropout(x, input_dropout, dropout_seed, 0)
    for i, (weight, bias, layer) in enumerate(zip(weights, biases, layers, strict=True)):
        x = F.linear(x, weight, bias)
        if layer.pieces > 1:  # the indices of the largest pieces have no derivatives
            pieces = x.unflatten(-1, (-1, layer.pieces))
            x = torch.gather(pieces, -1, pieces.argmax(-1, keepdim=True)).squeeze(-1)
            if layer.dropout and dropout_seed is not None:
                x = native_dropout(x, layer.dropout, dropout_seed, i + 1)
        elif layer.activation != "none" or layer.dropout:
            x = _Activation.apply(x, (layer, dropout_seed, i + 1))
    return x.view(*leading, x.shape[-1])
