"""Loss formulas at every logit, and their means or sums over a batch of real and one of fake logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan import _kernels, _operators, reference
from fastgan._errors import Invalid, check_choice
from fastgan._options import Impl
from fastgan._schema import FORMULAS
from fastgan.ops.checks import FLOATS, check_same, check_tensor
from fastgan.ops.dispatch import is_batched, is_common, is_compiling, natively


class _Pointwise(torch.autograd.Function):
    """A formula's derivative of some order at every element; its own derivative is the next order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: str, target: float, order: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.what = formula, target, order
        return _kernels.pointwise(x, FORMULAS[formula], target, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        formula, target, order = ctx.what
        if order < 2:
            run = reference.pointwise if is_batched(grad) else _native_pointwise
            return grad * run(x, formula, target, order + 1), None, None, None
        with torch.enable_grad():
            y = reference.pointwise(x if x.requires_grad else x.detach().requires_grad_(), formula, target, order)
        return torch.autograd.grad(y, x, grad, create_graph=torch.is_grad_enabled())[0], None, None, None


def _native_pointwise(x: Tensor, formula: str, target: float, order: int) -> Tensor:
    result: Tensor = _Pointwise.apply(x, formula, target, order)
    return result


def pointwise(
    x: Tensor, formula: str, target: float = 0.0, order: int = 0, *, impl: Impl = "auto", caller: str = "pointwise"
) -> Tensor:
    """Value (order 0), derivative (1) or second derivative (2) of a loss formula at every logit.

    Args:
        x: logits of any shape, float32, float64, float16 or bfloat16 (the halves are computed in float32).
        formula: a name of `reference.FORMULAS`.
        target: of the formulas that have one.
        order: of the derivative.
        impl: "auto", "native" or "reference".
        caller: the name errors begin with.

    Returns:
        Tensor of x's shape and dtype, differentiable.
    """
    check_tensor(caller, "x", x)
    check_choice(caller, "formula", formula, FORMULAS)
    if order not in (0, 1, 2):
        raise Invalid(caller).value("order", f"must be 0, 1 or 2, got {order}")
    if not natively(caller, "loss", impl, x):
        return reference.pointwise(x, formula, target, order)
    if is_compiling():
        return _operators.pointwise(x, formula, target, order)
    return _native_pointwise(x, formula, target, order)


class _PairLoss(torch.autograd.Function):
    """Both halves of a loss in one pass that also writes the derivatives, which are the gradients up to a factor."""

    @staticmethod
    def forward(
        ctx: Any,
        real: Tensor,
        fake: Tensor | None,
        formulas: tuple[str, str],
        targets: tuple[float, float],
        mean: bool,
    ) -> Tensor:
        need_real, need_fake = ctx.needs_input_grad[:2]
        numbers = FORMULAS[formulas[0]], FORMULAS[formulas[1]]
        value, *ctx.loss_grads = _kernels.pair_loss(real, fake, numbers, targets, mean, need_real, need_fake)
        ctx.save_for_backward(real, fake)
        ctx.what = numbers, formulas, targets, mean
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        real, fake = ctx.saved_tensors
        need_real, need_fake = ctx.needs_input_grad[:2]
        numbers, formulas, targets, mean = ctx.what
        if torch.is_grad_enabled() or is_batched(grad):  # a graph of the gradient, or many: from the logits
            grad_real = _pointwise_grad(real, grad, formulas[0], targets[0], mean) if need_real else None
            grad_fake = _pointwise_grad(fake, grad, formulas[1], targets[1], mean) if need_fake else None
            return grad_real, grad_fake, None, None, None
        # Scale the saved gradients in place and return them; no other reference exists, so autograd does not copy.
        # Should a retained graph be walked again, they are computed again.
        loss_grads, ctx.loss_grads = ctx.loss_grads, None
        if loss_grads is None:
            loss_grads = _kernels.pair_loss(real, fake, numbers, targets, mean, need_real, need_fake)[1:]
        grad_real, grad_fake = loss_grads
        loss_grads = None
        _kernels.scale((grad_real, grad_fake), grad)
        if real.dtype is not grad.dtype:  # halves: scaled in float32, rounded once
            grad_real = None if grad_real is None else grad_real.to(real.dtype)
            grad_fake = None if grad_fake is None else grad_fake.to(real.dtype)
        return grad_real, grad_fake, None, None, None


# What Function.apply does once torch.func is out of the question, without the Python around it (3 us of 10).
_apply_pair_loss = super(torch.autograd.Function, _PairLoss).apply


def _pointwise_grad(x: Tensor, grad: Tensor, formula: str, target: float, mean: bool) -> Tensor:
    wide = x.to(_kernels.ACCUMULATORS[x.dtype])
    scaled = grad / x.numel() if mean else grad
    run = reference.pointwise if is_batched(grad) else _native_pointwise
    return (scaled * run(wide, formula, target, 1)).to(x.dtype)


def pair_loss(
    real: Tensor,
    fake: Tensor | None,
    formulas: tuple[str, str],
    targets: tuple[float, float] = (0.0, 0.0),
    *,
    mean: bool = True,
    impl: Impl = "auto",
    caller: str = "pair_loss",
    names: tuple[str, str] = ("real_logits", "fake_logits"),
) -> Tensor:
    """Mean (or sum) of one formula over `real` plus that of another over `fake`, value and derivative in one pass.

    Args:
        real: logits (any shape), m of them.
        fake: logits, n of them, same dtype and device; None for a loss of one batch.
        formulas: of `real` and of `fake`.
        targets: of the formulas that have one.
        mean: divide each half by its own number of elements.
        impl: "auto", "native" or "reference".
        caller: the name errors begin with.
        names: what errors call the two batches.

    Returns:
        Scalar Tensor: float64 for float64 logits, else float32 (a float16 sum would overflow).
    """
    common = impl == "auto" and is_common(FLOATS, real, fake)
    if not common or not real.numel() or (fake is not None and not fake.numel()):
        for name, x in zip(names, (real,) if fake is None else (real, fake), strict=False):
            check_tensor(caller, name, x)
            check_same(caller, names[0], real, name, x)
            if mean and x.numel() == 0:
                raise Invalid(caller).value(name, f"must not be empty under 'mean', got shape {tuple(x.shape)}")
        if not natively(caller, "loss", impl, real, fake):
            return reference.pair_loss(real, fake, *formulas, *targets, mean)
        if is_compiling():
            return _operators.pair_loss(real, fake, *formulas, *targets, mean)
    if torch.is_grad_enabled() and (real.requires_grad or (fake is not None and fake.requires_grad)):
        result: Tensor = _apply_pair_loss(real, fake, formulas, targets, mean)
        return result
    numbers = FORMULAS[formulas[0]], FORMULAS[formulas[1]]
    return _kernels.pair_loss(real, fake, numbers, targets, mean, False, False)[0]
