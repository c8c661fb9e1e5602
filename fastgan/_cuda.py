"""Thin wrappers of the CUDA entry points, on the current stream of the tensors' device.

A small MLP is one launch forward and two backward. The matrix products of a larger one are cuBLAS's (`torch.mm`), with
one native kernel between them in each direction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan._backend import native  # callers ask backend.why_not first, so it is there
from fastgan._schema import ACTIVATIONS, DTYPES, FROM_INPUT
from fastgan.reference import LayerSpec


def launch(x: Tensor, entry: str, *arguments: object) -> None:
    """Call `cuda_<entry>` of the core on the device of x and its current stream; tensors become addresses, None 0."""
    addresses = [a.data_ptr() if isinstance(a, Tensor) else 0 if a is None else a for a in arguments]
    with torch.cuda.device(x.device):
        getattr(native, f"cuda_{entry}")(*addresses, torch.cuda.current_stream().cuda_stream)


def scale(x: Tensor, factor: Tensor) -> Tensor:
    """x *= factor, both of one type, without reading the factor on the host; a factor of 1 costs only the launch."""
    launch(x, "scale", DTYPES[x.dtype], x, x.numel(), factor)
    return x


# ---------------------------------------------------------------- noise and masks


def random(out: Tensor, normal: bool, seed: int, purpose: int, step: int, substream: int, offset: int) -> Tensor:
    """Fill `out`, float32 or float64, with elements offset, offset + 1, ... of a stream."""
    stream = seed, purpose, None, 0, step, substream  # no step counter on the device: the step is the argument
    launch(out, "random_fill", DTYPES[out.dtype], out, out.numel(), normal, *stream, offset)
    return out


def dropout(x: Tensor, out: Tensor, p: float, dropout_seed: int, substream: int) -> Tensor:
    """`out` becomes x times the mask of (key, substream); both dense, and possibly the same."""
    features = x.shape[-1] if x.dim() else 1
    rows = x.numel() // features if features else 0
    launch(x, "dropout", DTYPES[x.dtype], x, out, rows, features, p, dropout_seed, None, 0, 0, substream)
    return out


# ---------------------------------------------------------------- what a forward pass leaves for backward


class _Kept(NamedTuple):
    """What the backward pass needs of a layer, (rows, units) each, or None."""

    before: Tensor | None  # input of the activation
    output: Tensor | None  # its output
    winner: Tensor | None  # which piece was the largest, int32
    dropped: Tensor | None  # output under the mask


Take = Callable[[int, torch.dtype | None], Tensor]  # (units, dtype) -> (rows, units)


def _keep(take: Take, layer: LayerSpec, units: int, drops: bool, last: bool) -> _Kept:
    """The buffers of a layer. The last layer's output is the result, which the caller may change, so it is not kept."""
    if layer.pieces > 1:
        # Units with the winners they belong to; `output` is only the next layer's input.
        return _Kept(
            None,
            take(units, None) if not (last or drops) else None,
            take(units, torch.int32),
            take(units, None) if drops and not last else None,
        )
    from_input = layer.activation in FROM_INPUT
    backward_needs_output = not from_input and layer.activation != "none"
    return _Kept(
        take(units, None) if from_input else None,
        take(units, None) if backward_needs_output or not (last or drops) else None,
        None,
        take(units, None) if drops and not last else None,
    )


class _Parts:
    """Parts of one flat buffer, one after another, each on a 16-byte boundary; without a buffer, only counted."""

    def __init__(self, rows: int, dtype: torch.dtype, buffer: Tensor | None = None) -> None:
        self.rows, self.dtype, self.buffer, self.used = rows, dtype, buffer, 0

    def take(self, units: int, dtype: torch.dtype | None) -> Tensor:
        dtype = dtype or self.dtype
        elements, start = self.rows * units, self.used
        self.used += -(-elements * dtype.itemsize // 16) * 16 // self.dtype.itemsize
        if self.buffer is None:
            return torch.empty(0, device="meta")
        return self.buffer[start : self.used].view(dtype)[:elements].view(self.rows, units)

    def all(self, shape: Shape) -> tuple[Tensor | None, list[_Kept]]:
        """The input under its mask, and what each layer keeps."""
        dropped_input = self.take(shape.inputs, None) if shape.input_dropout else None
        last = len(shape.layers) - 1
        return dropped_input, [
            _keep(self.take, layer, units, layer.dropout > 0, i == last)
            for i, (layer, units) in enumerate(zip(shape.layers, shape.units, strict=True))
        ]


# Limits of a small MLP: the layers fit the kernel's arguments, 16 rows fit in shared memory. Thresholds (unmeasured):
# the weights fit in L2, few enough multiply-adds per call.
_MOST_LAYERS, _MOST_SHARED = 12, 96 << 10
_MOST_WEIGHTS, _MOST_PRODUCTS = 3 << 14, 1 << 24


@functools.cache
def _has_tensor_cores(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@dataclass(frozen=True)
class Shape:
    """The shape of an MLP, without its parameters."""

    inputs: int
    units: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    input_dropout: float = 0.0

    def work_size(self, rows: int, dtype: torch.dtype) -> int:
        """Elements of the buffer that holds what backward reads."""
        parts = _Parts(rows, dtype)
        parts.all(self)
        return parts.used

    @functools.cached_property
    def most_rows(self) -> int:
        """Rows up to which the network counts as small."""
        inputs = (self.inputs, *self.units[:-1])
        columns = [units * layer.pieces for units, layer in zip(self.units, self.layers, strict=True)]
        weights = sum(i * c for i, c in zip(inputs, columns, strict=True))
        words = max(self.inputs, *self.units) + max(columns) + 2 * 12  # and what rows are padded by
        fits = len(columns) <= _MOST_LAYERS and weights <= _MOST_WEIGHTS and 16 * 8 * words <= _MOST_SHARED
        return _MOST_PRODUCTS // max(1, weights) if fits else 0

    def is_small(self, x: Tensor) -> bool:
        """Whether x (rows, in) goes through all layers in one launch."""
        return x.shape[0] <= self.most_rows and _has_tensor_cores(x.device)


# ---------------------------------------------------------------- one activation, to the second order


def _head(
    layer: LayerSpec, rows: int, units: int, dropout: float, dropout_seed: int, substream: int
) -> tuple[object, ...]:
    """The first arguments of every pass of a layer."""
    number = ACTIVATIONS[layer.activation]
    return rows, units, layer.pieces, number, layer.negative_slope, dropout, dropout_seed, None, 0, 0, substream


def activate(layer: LayerSpec, z: Tensor, dropout_seed: int, substream: int) -> tuple[Tensor, Tensor]:
    """Activation and dropout of z (rows, units), no maxout; and what `activate_backward` reads."""
    given, saved = torch.empty_like(z), torch.empty_like(z)
    before, output = (saved, None) if layer.activation in FROM_INPUT else (None, saved)
    head = _head(layer, z.shape[0], z.shape[1], layer.dropout, dropout_seed, substream)
    launch(z, "layer_forward", DTYPES[z.dtype], *head, z, None, before, output, None, given)
    return given, saved


def activate_backward(
    layer: LayerSpec, grad: Tensor, saved: Tensor, dropout_seed: int, substream: int, grad_grad: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradient of z; with `grad_grad`, the gradients of z and of `grad` in double backward."""
    grad_z, to_grad = torch.empty_like(grad), None if grad_grad is None else torch.empty_like(grad)
    head = _head(layer, grad.shape[0], grad.shape[1], layer.dropout, dropout_seed, substream)
    launch(grad, "layer_backward", DTYPES[grad.dtype], *head, grad, saved, None, grad_z, None, None, grad_grad, to_grad)
    return grad_z, to_grad


# ---------------------------------------------------------------- a small MLP


def _launch_small_mlp(
    entry: str,
    shape: Shape,
    x: Tensor,
    params: Sequence[Tensor | None],
    dropout_seed: int,
    kept: tuple[Tensor | None, Sequence[_Kept]],
    *,
    y: Tensor | None = None,
    lowest: int = 0,
    grad_y: Tensor | None = None,
    grad_x: Tensor | None = None,
    grads: Sequence[tuple[Tensor | None, ...]] = (),
) -> None:
    """Launch with the fields of SmallMlpCall (csrc/cuda/launchers.h). grads: of each layer's product, weight, bias."""
    depth = len(shape.layers)
    head = x.shape[0], shape.inputs, shape.input_dropout, dropout_seed, lowest, x, kept[0], y, grad_y, grad_x, depth
    layers: list[object] = []
    for i, (layer, units, keep) in enumerate(zip(shape.layers, shape.units, kept[1], strict=True)):
        layers += units, layer.pieces, ACTIVATIONS[layer.activation], layer.negative_slope, layer.dropout
        layers += params[i], params[depth + i], *keep, *(grads[i] if grads else (None, None, None))
    launch(x, entry, DTYPES[x.dtype], *head, *layers)


def _backward_in_one(
    shape: Shape,
    x: Tensor,
    params: Sequence[Any],
    dropout_seed: int,
    kept: tuple[Tensor | None, Sequence[_Kept]],
    grad_y: Tensor,
    needs: Sequence[bool],
    lowest: int,
) -> list[Tensor | None]:
    depth, rows = len(shape.layers), x.shape[0]
    found = [torch.empty_like(t) if need else None for t, need in zip((x, *params), needs, strict=True)]
    scratch = grad_y.new_empty(rows * sum(w.shape[0] for w in params[lowest:depth]))
    grads: list[tuple[Tensor | None, ...]] = []
    for i, weight in enumerate(params[:depth]):
        size = rows * weight.shape[0] if i >= lowest else 0
        product, scratch = scratch[:size], scratch[size:]
        grads.append((product, found[1 + i], found[1 + depth + i]))
    _launch_small_mlp(
        "small_mlp_backward",
        shape,
        x,
        params,
        dropout_seed,
        kept,
        lowest=lowest,
        grad_y=grad_y,
        grad_x=found[0],
        grads=grads,
    )
    return found


# ---------------------------------------------------------------- an MLP


def _pass(shape: Shape, i: int, rows: int, dropout_seed: int, dropout: float) -> tuple[object, ...]:
    return _head(shape.layers[i], rows, shape.units[i], dropout, dropout_seed, i + 1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def mlp_forward(
    shape: Shape, x: Tensor, params: Sequence[Tensor | None], dropout_seed: int, work: Tensor | None
) -> Tensor:
    """x (rows, in) -> (rows, out). `work` gets what backward reads.

    `params` are the weights, then a bias or None for each; all tensors dense.
    """
    rows, number, depth = x.shape[0], DTYPES[x.dtype], len(shape.layers)
    if shape.is_small(x):
        y = x.new_empty(rows, shape.units[-1])
        nothing = None, [_Kept(None, None, None, None)] * depth
        what = nothing if work is None else _Parts(rows, x.dtype, work).all(shape)
        _launch_small_mlp("small_mlp_forward", shape, x, params, dropout_seed, what, y=y)
        return y
    work = x.new_empty(shape.work_size(rows, x.dtype)) if work is None else work
    dropped_input, kept = _Parts(rows, x.dtype, work).all(shape)
    if dropped_input is not None:
        x = dropout(x, dropped_input, shape.input_dropout, dropout_seed, 0)
    for i, (layer, keep) in enumerate(zip(shape.layers, kept, strict=True)):
        weight, bias = params[i], params[depth + i]
        # The input of the next layer: a stored buffer, or for the last layer the result.
        given = keep.dropped if keep.dropped is not None else keep.output
        if i == depth - 1:
            given = x.new_empty(rows, shape.units[i])
        assert weight is not None and given is not None
        head = _pass(shape, i, rows, dropout_seed, layer.dropout)
        if layer.pieces > 1:
            product = torch.mm(x, weight.t())
            launch(x, "layer_forward", number, *head, product, bias, None, given, keep.winner, None)
            if layer.dropout:
                dropout(given, given, layer.dropout, dropout_seed, i + 1)
        elif layer.activation == "none" and not layer.dropout:
            _affine(x, weight, bias, given)
        else:
            product = keep.before if keep.before is not None else keep.output if keep.output is not None else given
            torch.mm(x, weight.t(), out=product)
            dropped = None if given is keep.output else given  # without dropout a copy
            launch(x, "layer_forward", number, *head, product, bias, keep.before, keep.output, None, dropped)
        x = given
    return x


def _through_layer(
    shape: Shape, i: int, keep: _Kept, grad: Tensor, columns: int, dropout_seed: int, need_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of layer i's product and, if needed, of its bias, from that of its result."""
    layer, drops, rows = shape.layers[i], shape.layers[i].dropout, grad.shape[0]
    if layer.pieces > 1 and drops:
        grad, drops = dropout(grad, torch.empty_like(grad), drops, dropout_seed, i + 1), 0.0
    changes = layer.pieces > 1 or layer.activation != "none" or drops > 0
    product = grad.new_empty(rows, columns) if changes else grad
    grad_bias = partial = None
    if need_bias:
        grad_bias = grad.new_empty(columns)
        partial = grad.new_empty(native.cuda_layer_partials(rows, columns), dtype=torch.float64)
    if changes or need_bias:
        head = _pass(shape, i, rows, dropout_seed, drops)
        saved = keep.before if keep.before is not None else keep.output
        tail = grad, saved, keep.winner, product if changes else None, grad_bias, partial, None, None
        launch(grad, "layer_backward", DTYPES[grad.dtype], *head, *tail)
    return product, grad_bias


def mlp_backward(
    shape: Shape,
    x: Tensor,
    params: Sequence[Any],
    work: Tensor,
    grad_y: Tensor,
    dropout_seed: int,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x and `params` that `needs` selects; x (rows, in), grad_y (rows, out), all dense.

    Layers below the lowest one with a needed gradient are skipped.
    """
    depth = len(shape.layers)
    dropped_input, kept = _Parts(x.shape[0], x.dtype, work).all(shape)
    wanted = [i for i in range(depth) if needs[1 + i] or needs[1 + depth + i]]
    lowest = 0 if needs[0] else min(wanted, default=depth)
    if shape.is_small(x) and lowest < depth:
        return _backward_in_one(shape, x, params, dropout_seed, (dropped_input, kept), grad_y, needs, lowest)
    inputs = [x if dropped_input is None else dropped_input]
    inputs += [k.dropped if k.dropped is not None else k.output for k in kept[:-1]]  # type: ignore[misc]
    grads: list[Tensor | None] = [None] * len(needs)
    grad = grad_y
    for i in range(depth - 1, lowest - 1, -1):
        weight = params[i]
        product, grads[1 + depth + i] = _through_layer(
            shape, i, kept[i], grad, weight.shape[0], dropout_seed, needs[1 + depth + i]
        )
        if needs[1 + i]:
            grads[1 + i] = torch.mm(product.t(), inputs[i])
        if i > lowest or needs[0]:
            grad = torch.mm(product, weight)
    if needs[0]:
        grads[0] = dropout(grad, grad, shape.input_dropout, dropout_seed, 0) if shape.input_dropout else grad
    return grads
