"""Thin wrappers: one function for each native entry point. They pass data pointers and validate nothing.

Python owns the memory of every tensor, the core only that of its scratch; it receives addresses, sizes, the number of
threads or the current CUDA stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastgan import _cuda
from fastgan._backend import native  # callers ask backend.why_not first, so it is there
from fastgan._errors import Invalid
from fastgan._schema import ACTIVATIONS, DTYPES
from fastgan.reference import LayerSpec

F = TypeVar("F", bound=Callable[..., Any])


_NORMS = ("none", "batch", "running")
_is_profiling = torch.autograd._profiler_enabled


def _shown(name: str, call: F) -> F:
    """`call`, which torch.profiler shows as fastgan::<name>."""
    return _recorded(name, call) if _is_profiling() else call


def _recorded(name: str, call: F) -> F:
    def run(*arguments: Any) -> Any:
        with torch.profiler.record_function(f"fastgan::{name}"):
            return call(*arguments)

    return run  # type: ignore[return-value]


# The types in which losses are computed and returned.
ACCUMULATORS = {dtype: torch.float64 if dtype is torch.float64 else torch.float32 for dtype in DTYPES}


def dense(x: Tensor) -> Tensor:
    """x contiguous in memory: a copy if it has other strides, or is negated lazily (torch's -x)."""
    return x.contiguous().resolve_neg()


def pair_loss(
    real: Tensor,
    fake: Tensor | None,
    numbers: tuple[int, int],
    targets: tuple[float, float],
    mean: bool,
    need_real: bool,
    need_fake: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One pass over both batches: the value and, on request, the derivatives, scaled for the reduction."""
    dtype = real.dtype
    wide = ACCUMULATORS[dtype]
    real = dense(real)
    m, n, fake_at = real.numel(), 0, 0
    value = real.new_empty((), dtype=wide)
    empty_like = torch.empty_like if wide is dtype else functools.partial(torch.empty_like, dtype=wide)
    grad_real = empty_like(real) if need_real else None
    grad_fake = None
    if fake is not None:
        fake = dense(fake)
        n, fake_at = fake.numel(), fake.data_ptr()
        grad_fake = empty_like(fake) if need_fake else None
    arguments = (
        DTYPES[dtype],
        real.data_ptr(),
        m,
        fake_at,
        n,
        *numbers,
        *targets,
        1.0 / m if mean and m else 1.0,
        1.0 / n if mean and n else 1.0,
        value.data_ptr(),
        0 if grad_real is None else grad_real.data_ptr(),
        0 if grad_fake is None else grad_fake.data_ptr(),
    )
    if real.is_cuda:
        partial = real.new_empty(native.cuda_partials(m, n), dtype=torch.float64)
        _shown("pair_loss", _cuda.launch)(real, "pair_loss", *arguments, partial)
    else:
        _shown("pair_loss", native.pair_loss)(*arguments, torch.get_num_threads())
    return value, grad_real, grad_fake


def scale(loss_grads: Sequence[Tensor | None], grad: Tensor) -> None:
    """Multiply derivatives in place by the scalar gradient of the loss, which loss.backward() sets to 1."""
    present = [loss_grad for loss_grad in loss_grads if loss_grad is not None]
    if grad.is_cuda:  # reading its value would synchronise with the device
        for loss_grad in present:
            _cuda.scale(loss_grad, dense(grad))
    elif grad.item() != 1.0:
        for loss_grad in present:
            loss_grad.mul_(grad)


def pointwise(x: Tensor, number: int, target: float, order: int) -> Tensor:
    """Value (order 0), derivative (1) or second derivative (2) of a loss formula at every element, in x's dtype."""
    x = dense(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    arguments = (DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), x.numel(), number, target, order)
    if x.device.type == "cuda":
        _shown("pointwise", _cuda.launch)(x, "pointwise", *arguments)
    else:
        _shown("pointwise", native.pointwise)(*arguments, torch.get_num_threads())
    return out


def unsigned_seed(dropout_seed: Tensor) -> int:
    """The dropout seed as an unsigned integer."""
    return int(dropout_seed) & (2**64 - 1)


def dropout(x: Tensor, p: float, dropout_seed: Tensor, substream: int) -> Tensor:
    """x times the mask of (dropout_seed, substream): the same call computes forward, backward and double backward."""
    x = dense(x)
    out = torch.empty_like(x)
    if x.is_cuda:
        return _shown("dropout", _cuda.dropout)(x, out, p, unsigned_seed(dropout_seed), substream)
    features = x.shape[-1] if x.dim() else 1
    rows = x.numel() // features if features else 0
    _shown("dropout", native.dropout)(
        DTYPES[x.dtype],
        x.data_ptr(),
        out.data_ptr(),
        rows,
        features,
        p,
        unsigned_seed(dropout_seed),
        substream,
        torch.get_num_threads(),
    )
    return out


def random(
    kind: str,
    n: int,
    seed: int,
    purpose: int,
    step: int,
    substream: int,
    offset: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Elements offset .. offset+n of a stream of uniform or normal numbers."""
    out = torch.empty(n, dtype=dtype, device=device)
    if out.is_cuda:
        return _cuda.random(out, kind == "normal", int(seed) & (2**64 - 1), purpose, step, substream, offset)
    native.random_fill(
        DTYPES[dtype],
        out.data_ptr(),
        n,
        kind == "normal",
        int(seed) & (2**64 - 1),
        purpose,
        step,
        substream,
        offset,
        torch.get_num_threads(),
    )
    return out


def permutation(n: int, seed: int, epoch: int, start: int, count: int, purpose: int) -> Tensor:
    """Positions start .. start+count of the keyed permutation of range(n)."""
    out = torch.empty(count, dtype=torch.int64, device="cpu")
    native.permutation(out.data_ptr(), n, int(seed) & (2**64 - 1), epoch, start, count, purpose)
    return out


def _second_order_parts(layers: Sequence[LayerSpec]) -> list[bool]:
    """Whether grad_x depends on grad_y, x, each weight and each bias.

    On a bias it does where there is an activation above, whose second derivative may be zero.
    """
    activated = [layer.activation != "none" for layer in layers]
    return [True, any(activated), *(True for _ in layers), *(any(activated[i:]) for i in range(len(layers)))]


class MlpDescription:
    """An MLP without its parameters, and its native description; every call reads plain attributes only."""

    __slots__ = (
        "core",
        "input_dropout",
        "inputs",
        "kept_per_row",
        "layers",
        "normalized",
        "outputs",
        "parameter_shapes",
        "saved",
        "second_order_parts",
        "shape",
        "undifferentiated",
        "weight_shapes",
        "work_per_row",
    )

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        layers: Sequence[LayerSpec],
        input_dropout: float,
        biases: Sequence[bool],
        affine: Sequence[bool] = (),
    ) -> None:
        """`shapes`: of the weights; `biases` says which layers have one, `affine` which a scale, then which a shift."""
        description = [
            (
                inputs,
                rows // layer.pieces,
                layer.pieces,
                ACTIVATIONS[layer.activation],
                layer.negative_slope,
                layer.dropout,
                has_bias,
                layer.dropout_first,
                _NORMS.index(layer.norm),
                layer.norm_epsilon,
            )
            for (rows, inputs), layer, has_bias in zip(shapes, layers, biases, strict=True)
        ]
        self.core = native.Mlp(description, input_dropout)
        self.layers, self.input_dropout = layers, input_dropout
        bias_shapes = [(w[0],) if has_bias else None for w, has_bias in zip(shapes, biases, strict=True)]
        self.parameter_shapes: list[Any] = [*map(tuple, shapes), *bias_shapes]
        # Of the tensors that a call gets: how many backward reads, and None for those that never get a gradient. Behind
        # the biases there may be scales, shifts, running means, running variances and numbers of batches.
        self.normalized, self.saved = False, len(self.parameter_shapes)
        self.undifferentiated: tuple[None, ...] = ()
        if any(layer.norm != "none" for layer in layers):
            vectors = [(w[0],) if has else None for w, has in zip((*shapes, *shapes), affine, strict=True)]
            self.parameter_shapes += vectors
            running = any(layer.norm == "running" for layer in layers)
            self.normalized, self.saved = True, (6 if running else 4) * len(layers)
            self.undifferentiated = (None,) * (3 * len(layers))
        self.second_order_parts = _second_order_parts(layers)
        self.weight_shapes = [torch.Size(shape) for shape in shapes]
        self.shape = _cuda.Shape(shapes[0][1], tuple(d[1] for d in description), tuple(layers), input_dropout)
        self.inputs, self.outputs = shapes[0][1], self.core.outputs
        self.work_per_row = self.core.work_per_row
        self.kept_per_row = self.core.kept_per_row

    def work_size(self, rows: int, x: Tensor) -> int:
        """Elements of the buffer that holds what backward reads: on the CPU feature-major, rows padded."""
        if x.is_cuda:
            return self.shape.work_size(rows, x.dtype)
        return self.work_per_row * (rows + -rows % native.row_padding)

    def shapes(self, y: Tensor) -> tuple[Any, ...]:
        """The shapes of x, the weights and the biases (or None). y has the shape of the outputs."""
        return ((*y.shape[:-1], self.shape.inputs), *self.parameter_shapes)


def mlp_forward(
    net: MlpDescription,
    x: Tensor,
    params: Sequence[Tensor | None],
    dropout_seed: Tensor | None,
    save: bool,
    momenta: Sequence[float] = (),
    *,
    padding: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """x (..., in) -> y (..., out), and the activations that backward reads. Without a dropout seed, no dropout.

    `params` are the weights, then a bias or None for each; all tensors dense. With batch normalisation, on the CPU,
    then scales, shifts, running means and variances, which are updated by `momenta`, and numbers of batches, or None.
    """
    leading = x.shape[:-1]
    rows = leading.numel()
    if x.is_cuda:
        kept = (x.new_zeros if padding else x.new_empty)(net.work_size(rows, x)) if save else None
        y = _shown("mlp_forward", _cuda.mlp_forward)(
            net.shape,
            x.view(rows, x.shape[-1]),
            params,
            0 if dropout_seed is None else unsigned_seed(dropout_seed),
            kept,
        )
        return y.view(*leading, net.outputs), kept
    y = x.new_empty(*leading, net.outputs)  # numbers: a tuple takes twice as long
    work = None
    if save:  # padding rows are undefined; they are zeroed when outputs are compared
        work = (x.new_zeros if padding else x.new_empty)(net.work_size(rows, x))
    _shown("mlp_forward", net.core.forward)(
        DTYPES[x.dtype],
        x.data_ptr(),
        rows,
        [0 if p is None else p.data_ptr() for p in params],
        y.data_ptr(),
        0 if work is None else work.data_ptr(),
        dropout_seed is not None,
        0 if dropout_seed is None else unsigned_seed(dropout_seed),
        torch.get_num_threads(),
        momenta,
    )
    return y, work


def check_saved(net: MlpDescription, tensors: Sequence[Tensor | None], work: Tensor, grad_y: Tensor) -> None:
    """Raise unless x and parameters, which backward reads by their addresses, are of the size that forward saw.

    `p.data = other` changes no version counter, and hooks of saved tensors may return anything.
    """
    dtype, device = work.dtype, work.device
    for i, (t, shape) in enumerate(zip(tensors, net.shapes(grad_y), strict=False)):
        if t is not None and (t.shape != shape or t.dtype is not dtype or t.device != device):
            name = "x" if i == 0 else f"parameter {i - 1}"
            raise Invalid("mlp")(
                RuntimeError,
                name,
                f"must stay as it is until backward, shape {tuple(shape)}, {dtype}, {device}, got shape "
                f"{tuple(t.shape)}, {t.dtype}, {t.device}",
            )
    size = net.work_size(grad_y.shape[:-1].numel(), work)
    if work.numel() != size or work.dtype is not grad_y.dtype or not work.is_contiguous():
        raise Invalid("mlp")(
            RuntimeError,
            "the saved activations",
            f"must come back as forward left them, {size} of {grad_y.dtype}, got {work.numel()} of {work.dtype}",
        )


def mlp_backward(
    net: MlpDescription,
    x: Tensor,
    weights: list[Any],
    work: Tensor,
    grad_y: Tensor,
    dropout_seed: Tensor | None,
    needs: Sequence[bool],
    *,
    keep: bool = False,
) -> tuple[list[Tensor | None], Tensor | None]:
    """The gradients that `needs` asks for, of x and parameters, and with `keep` what `mlp_second_order` reads.

    `weights`: addresses of dense ones, with batch normalisation then of the scales. On CUDA, dense tensors of all
    parameters. The CPU does not read x.
    """
    leading = grad_y.shape[:-1]
    grad_y, rows = dense(grad_y), leading.numel()
    seed = 0 if dropout_seed is None else unsigned_seed(dropout_seed)
    if work.is_cuda:
        x = dense(x)
        flat = x.view(rows, x.shape[-1]), weights, work, grad_y.view(rows, net.outputs)
        found = _shown("mlp_backward", _cuda.mlp_backward)(net.shape, *flat, seed, needs)
        shapes = net.shapes(grad_y)
        return [None if g is None else g.view(shape) for g, shape in zip(found, shapes, strict=True)], None
    new = work.new_empty
    shapes = ((*leading, net.inputs), *net.parameter_shapes)
    grads = [new(*shape) if need else None for shape, need in zip(shapes, needs, strict=True)]  # numbers: as above
    kept = new(work.numel() // net.work_per_row * net.kept_per_row) if keep else None
    _shown("mlp_backward", net.core.backward)(
        DTYPES[work.dtype],
        rows,
        weights,
        work.data_ptr(),
        grad_y.data_ptr(),
        [0 if g is None else g.data_ptr() for g in grads],
        0 if kept is None else kept.data_ptr(),
        seed,
        torch.get_num_threads(),
    )
    return grads, kept


def mlp_second_order(
    net: MlpDescription,
    weights: list[int],
    work: Tensor,
    kept: Tensor,
    tangent: Tensor,
    outputs_shape: torch.Size,
    dropout_seed: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of <tangent, grad_x> that `needs` asks for: of grad_y, x, the weights and the biases.

    Args:
        net: of the CPU.
        weights: addresses of dense ones.
        work: of the forward pass.
        kept: of a backward pass that computed grad_x.
        tangent: of x's shape.
        outputs_shape: grad_y's.
        dropout_seed: of the masks.
        needs: one for each result.
    """
    tangent, rows, new = dense(tangent), outputs_shape[:-1].numel(), work.new_empty
    shapes = (outputs_shape, tangent.shape, *net.parameter_shapes)
    grads = [new(*shape) if need else None for shape, need in zip(shapes, needs, strict=True)]
    _shown("mlp_second_order", net.core.second_order)(
        DTYPES[work.dtype],
        rows,
        weights,
        work.data_ptr(),
        kept.data_ptr(),
        tangent.data_ptr(),
        [0 if g is None else g.data_ptr() for g in grads],
        0 if dropout_seed is None else unsigned_seed(dropout_seed),
        torch.get_num_threads(),
    )
    return grads


def mlp_penalty(
    net: MlpDescription,
    x: Tensor,
    params: Sequence[Tensor | None],
    dropout_seed: Tensor | None,
    kind: int,
    weight: float,
    needs: Sequence[bool],
) -> tuple[float, list[Tensor | None]]:
    """A gradient penalty (`native.PENALTIES`) at x and the gradients of `params` that `needs` asks for; all dense."""
    grads = [p.new_empty(p.shape) if p is not None and need else None for p, need in zip(params, needs, strict=True)]
    value: float = _shown("mlp_penalty", net.core.penalty)(
        DTYPES[x.dtype],
        x.data_ptr(),
        x.shape[:-1].numel(),
        [0 if p is None else p.data_ptr() for p in params],
        kind,
        weight,
        [0 if g is None else g.data_ptr() for g in grads] if any(needs) else [],
        0 if dropout_seed is None else unsigned_seed(dropout_seed),
        torch.get_num_threads(),
    )
    return value, grads
