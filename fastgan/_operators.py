"""The native operations as custom operators of torch.library (schema, fake, autograd), for `torch.compile` alone.

A call of a custom operator takes twice as long as an autograd.Function, so eager code uses the latter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, List  # noqa: UP035

import torch
from torch import Tensor

from fastgan import _kernels
from fastgan._schema import FORMULAS
from fastgan.reference import LayerSpec


def _differentiated(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow. A constant of the compiled graph: torch compiles again if it changes."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


# ---------------------------------------------------------------- losses


@torch.library.custom_op("fastgan::pointwise", mutates_args=())
def pointwise(x: Tensor, formula: str, target: float, order: int) -> Tensor:
    """The custom operator of `kernels.pointwise`."""
    return _kernels.pointwise(x, FORMULAS[formula], target, order)


@pointwise.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _pointwise_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, *ctx.what = inputs
    ctx.save_for_backward(x)


def _pointwise_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    formula, target, order = ctx.what
    if order == 2:
        raise NotImplementedError("pointwise: third derivatives need impl='reference' under torch.compile")
    return grad * pointwise(ctx.saved_tensors[0], formula, target, order + 1), None, None, None


pointwise.register_autograd(_pointwise_backward, setup_context=_pointwise_context)


@torch.library.custom_op("fastgan::pair_loss", mutates_args=())
def _pair_loss(
    real: Tensor,
    fake: Tensor | None,
    formula_real: str,
    formula_fake: str,
    target_real: float,
    target_fake: float,
    mean: bool,
    need_real: bool,
    need_fake: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    numbers = FORMULAS[formula_real], FORMULAS[formula_fake]
    value, *loss_grads = _kernels.pair_loss(real, fake, numbers, (target_real, target_fake), mean, need_real, need_fake)
    grad_real, grad_fake = (value.new_empty(0) if loss_grad is None else loss_grad for loss_grad in loss_grads)
    return value, grad_real, grad_fake


@_pair_loss.register_fake
def _(real: Tensor, fake: Tensor | None, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    wide = _kernels.ACCUMULATORS[real.dtype]
    *_, need_real, need_fake = arguments
    grad_real = real.new_empty(real.shape if need_real else (0,), dtype=wide)
    grad_fake = real.new_empty(fake.shape if fake is not None and need_fake else (0,), dtype=wide)
    return real.new_empty((), dtype=wide), grad_real, grad_fake


def _pair_loss_context(ctx: Any, inputs: Any, output: Any) -> None:
    *arguments, need_real, need_fake = inputs
    ctx.dtype, (ctx.wants_real, ctx.wants_fake, *_) = inputs[0].dtype, ctx.needs_input_grad
    _, *loss_grads = output
    ctx.mark_non_differentiable(*loss_grads)
    if ctx.wants_real > need_real or ctx.wants_fake > need_fake:  # exported for inference, trained all the same
        _, *loss_grads = _pair_loss(*arguments, ctx.wants_real, ctx.wants_fake)
    ctx.save_for_backward(*loss_grads)


def _pair_loss_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    grad_real, grad_fake = ctx.saved_tensors
    real = (grad_real * grad).to(ctx.dtype) if ctx.wants_real else None
    fake = (grad_fake * grad).to(ctx.dtype) if ctx.wants_fake else None
    return real, fake, *(None,) * 7


_pair_loss.register_autograd(_pair_loss_backward, setup_context=_pair_loss_context)


def pair_loss(real: Tensor, fake: Tensor | None, *arguments: Any) -> Tensor:
    """The custom operator of `kernels.pair_loss`: the value alone. `arguments`: formulas, targets, mean."""
    return _pair_loss(real, fake, *arguments, _differentiated(real), _differentiated(fake))[0]


# ---------------------------------------------------------------- layers


@torch.library.custom_op("fastgan::dropout", mutates_args=())
def dropout(x: Tensor, p: float, dropout_seed: Tensor, substream: int) -> Tensor:
    """The custom operator of `kernels.dropout`."""
    return _kernels.dropout(x, p, dropout_seed, substream)


@dropout.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _dropout_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, ctx.p, dropout_seed, ctx.substream = inputs
    ctx.save_for_backward(dropout_seed)


def _dropout_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return dropout(grad, ctx.p, ctx.saved_tensors[0], ctx.substream), None, None, None


dropout.register_autograd(_dropout_backward, setup_context=_dropout_context)


# A schema has no type for layers or for lists of optional tensors: an absent bias is an empty tensor, and layers are
# parallel lists of names (joined by commas) and numbers.


def _network(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    numbers: Sequence[float],
    input_dropout: float,
) -> Any:
    layers = [
        LayerSpec(name, numbers[3 * i], int(numbers[3 * i + 1]), numbers[3 * i + 2])
        for i, name in enumerate(activations.split(","))
    ]
    # int and bool pin symbolic sizes: the layers' widths are constants of a compiled graph, only the batch is not.
    shapes = [(int(w.shape[0]), int(w.shape[1])) for w in weights]
    return _kernels.MlpDescription(shapes, layers, input_dropout, [bool(b.numel() > 0) for b in biases])


def _dense(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor | None]:
    return [*map(_kernels.dense, weights), *(_kernels.dense(b) if b.numel() else None for b in biases)]


@torch.library.custom_op("fastgan::mlp", mutates_args=())
def _mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    numbers: Sequence[float],
    input_dropout: float,
    dropout_seed: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor]:
    net = _network(weights, biases, activations, numbers, input_dropout)
    params = _dense(weights, biases)
    y, work = _kernels.mlp_forward(net, _kernels.dense(x), params, dropout_seed, save, padding=True)
    return y, x.new_empty(0) if work is None else work


@_mlp.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *described, _, save = arguments
    net = _network(*described)
    rows = math.prod(x.shape[:-1])  # Size.numel() would make a dynamic batch a constant
    return x.new_empty((*x.shape[:-1], net.outputs)), x.new_empty(net.work_size(rows, x) if save else 0)


@torch.library.custom_op("fastgan::mlp_backward", mutates_args=())
def _mlp_backward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    numbers: Sequence[float],
    input_dropout: float,
    dropout_seed: Tensor | None,
    work: Tensor,
    grad_y: Tensor,
) -> List[Tensor]:  # noqa: UP006 - torch 2.5 knows no other
    net = _network(weights, biases, activations, numbers, input_dropout)
    params = _dense(weights, biases)
    _kernels.check_saved(net, (x, *params), work, grad_y)
    grads, _ = _kernels.mlp_backward(
        net,
        x,
        params if work.is_cuda else [p.data_ptr() for p in params[: len(weights)] if p is not None],
        work,
        grad_y,
        dropout_seed,
        [True, *(p is not None for p in params)],
    )
    return [x.new_empty(0) if g is None else g for g in grads]


@_mlp_backward.register_fake
def _(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [x.new_empty(t.shape) for t in (x, *weights, *biases)]


def _mlp_context(ctx: Any, inputs: Any, output: Any) -> None:
    *arguments, save = inputs
    x, weights, biases, ctx.activations, ctx.numbers, ctx.input_dropout, dropout_seed = arguments
    ctx.depth, ctx.has_dropout_seed = len(weights), dropout_seed is not None
    ctx.mark_non_differentiable(output[1])
    work = output[1] if save else _mlp(*arguments, True)[1]  # exported for inference, trained all the same
    ctx.save_for_backward(x, *weights, *biases, work, *([dropout_seed] if dropout_seed is not None else []))


def _mlp_autograd(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    dropout_seed = rest.pop() if ctx.has_dropout_seed else None
    work = rest.pop()
    weights, biases = rest[: ctx.depth], rest[ctx.depth :]
    grads = _mlp_backward(
        x, weights, biases, ctx.activations, ctx.numbers, ctx.input_dropout, dropout_seed, work, grad_y
    )
    return grads[0], grads[1 : 1 + ctx.depth], grads[1 + ctx.depth :], *(None,) * 5


_mlp.register_autograd(_mlp_autograd, setup_context=_mlp_context)


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    input_dropout: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """The custom operator of the native MLP: one opaque call forward, one backward."""
    activations = ",".join(layer.activation for layer in layers)
    numbers: list[float] = []
    for layer in layers:
        numbers += [layer.negative_slope, float(layer.pieces), layer.dropout]
    present = [w.new_empty(0) if b is None else b for w, b in zip(weights, biases, strict=True)]
    save = _differentiated(x, *weights, *biases)
    return _mlp(x, list(weights), present, activations, numbers, input_dropout, dropout_seed, save)[0]
