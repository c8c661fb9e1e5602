"""Multilayer perceptrons: a whole network in one call, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import and_, itemgetter
from typing import Any

import torch
from torch import Tensor

from fastgan import _kernels, _operators, reference
from fastgan._errors import Invalid, check_choice
from fastgan._kernels import MlpDescription
from fastgan._options import Impl
from fastgan.ops.call_cache import CallCache
from fastgan.ops.checks import check_dropout_seed, check_probability, check_same, check_tensor
from fastgan.ops.dispatch import REAL, is_batched, is_common, is_compiling, natively
from fastgan.ops.layers import mlp_by_layers
from fastgan.reference import ACTIVATIONS, LayerSpec


class _Mlp(torch.autograd.Function):
    """A whole MLP: one native call forward, one backward, one for the derivatives of backward. All tensors dense."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *params: Tensor | None) -> Tensor:
        network, dropout_seed, momenta, cache = call
        y, work = _kernels.mlp_forward(network, x, params, dropout_seed, True in ctx.needs_input_grad, momenta)
        ctx.save_for_backward(x, work, *(params[: network.saved] if network.normalized else params))
        if work is not None:
            ctx.passed = network, dropout_seed, _memory(network, params, cache), work.numel()
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, work, *params = ctx.saved_tensors
        passed, needs = ctx.passed, ctx.needs_input_grad[1:]
        network, dropout_seed = passed[:2]
        rest, batched, graph = network.undifferentiated, is_batched(grad_y), torch.is_grad_enabled()
        if rest:
            needs = needs[: -len(rest)]
        if needs[0] and not batched:
            needs = _wanted(ctx, x, needs)
        grads: Sequence[Tensor | None]
        if batched or (graph and (rest or grad_y.is_cuda)):
            grads = _differentiable_backward(network, dropout_seed, (x, *params), grad_y, needs)
        elif graph:
            found = iter(_apply_gradients((passed, needs, work), grad_y, x, *params))
            grads = [next(found) if need else None for need in needs]
        else:
            weights = _weights(passed, x, params, work, grad_y)
            grads, _ = _kernels.mlp_backward(network, x, weights, work, grad_y, dropout_seed, needs)
        return None, *grads, *rest


class _Memory:
    """The memory that forward read weights from.

    `p.data` may be other memory at backward, and no version counter tells of it. The storages are held: forward's
    weights are still there, and no other tensor has their addresses. A storage may be somewhere else meanwhile, as FSDP
    frees its memory and allocates it again.
    """

    __slots__ = ("__weakref__", "addresses", "sizes", "starts", "storages", "there")

    def __init__(self, addresses: list[int], weights: Sequence[Any]) -> None:
        self.addresses, self.there = addresses, [w is not None for w in weights]
        self.storages = [w.untyped_storage() for w in weights if w is not None]
        self.starts, self.sizes = list(map(_start, self.storages)), list(map(_size, self.storages))

    def is_at(self, addresses: list[int]) -> bool:
        """Whether weights at these addresses are in this memory: if it is where it was, no other tensor is there."""
        return self.addresses == addresses and list(map(_start, self.storages)) == self.starts

    def addresses_now(self) -> list[int]:
        """The addresses of forward's weights.

        Raises:
            RuntimeError: a storage has another size.
        """
        starts, sizes = list(map(_start, self.storages)), list(map(_size, self.storages))
        if sizes != self.sizes:
            i = [size == found for size, found in zip(self.sizes, sizes, strict=True)].index(False)
            rule = f"must stay as it is until backward, {self.sizes[i]} bytes, got {sizes[i]}"
            raise Invalid("mlp")(RuntimeError, f"the storage of weight {i}", rule)
        if starts == self.starts:
            return self.addresses
        moved = iter([now - before for before, now in zip(self.starts, starts, strict=True)])
        steps = [next(moved) if there else 0 for there in self.there]  # one without elements has a step, no address
        return [address and address + step for address, step in zip(self.addresses, steps, strict=True)]


_start, _size = torch.UntypedStorage.data_ptr, torch.UntypedStorage.nbytes

# What a call passes to its backward passes: the elements of the saved activations are the last.
_Passed = tuple[MlpDescription, Tensor | None, _Memory, int]
# Network, dropout seed, momenta of batch normalisation, the caller's cache: one argument, because each costs time.
_Call = tuple[MlpDescription, Tensor | None, Sequence[float], CallCache | None]


def _memory(network: MlpDescription, params: Sequence[Any], cache: CallCache | None) -> _Memory:
    """The memory of the weights: that of the caller's last call, if they are still there."""
    depth = len(network.layers)
    weights = params[:depth]
    if network.normalized:  # a scale may be None
        weights = *weights, *params[2 * depth : 3 * depth]
    addresses = [0 if w is None else w.data_ptr() for w in weights]
    last = None if cache is None else cache.memory
    if last is None or not last.is_at(addresses):
        last = _Memory(addresses, weights)
        if cache is not None:
            cache.memory = last
    return last


def _weights(passed: _Passed, x: Tensor, params: Sequence[Any], work: Tensor, grad_y: Tensor) -> list[Any]:
    """What backward reads: addresses of forward's weights, on CUDA all parameters with these among them.

    Raises:
        RuntimeError: `work`, or a storage, is not what forward left. Hooks of saved tensors may return anything.
    """
    network, _, memory, size = passed
    if work.is_cuda:  # whose kernels read x, and the addresses of biases
        params = _params_of(memory, network, params, work)
        _kernels.check_saved(network, (x, *params), work, grad_y)
        return params
    if work.numel() != size or work.dtype is not grad_y.dtype or not work.is_contiguous():
        _kernels.check_saved(network, (), work, grad_y)
    return memory.addresses_now()


def _params_of(memory: _Memory, network: MlpDescription, params: Sequence[Any], work: Tensor) -> list[Any]:
    """`params`, the weights among them as forward saw them."""
    result = list(params)
    for i, (address, storage, shape) in enumerate(
        zip(memory.addresses, memory.storages, network.weight_shapes, strict=True)
    ):
        w = result[i]
        if (w.data_ptr(), w.shape, w.dtype, w.is_contiguous()) != (address, shape, work.dtype, True):
            offset = (address - memory.starts[i]) // work.element_size()
            result[i] = work.new_empty(0).set_(storage, offset, shape, (shape[1], 1))
    return result


def _wanted(ctx: Any, x: Tensor, needs: Sequence[bool]) -> Sequence[bool]:
    """Which of the gradients in `needs`, of x and the parameters, this backward call requires; it requires that of x.

    `autograd.grad(y, x)` requires none of the parameters'. If the call names a leaf, torch can only say so by an
    exception, which takes longer than the products of a small network: then all are computed.
    """
    if True not in needs[1:]:
        return needs
    asks = torch._C._will_engine_execute_node
    to_x, *others = filter(None, map(_first, ctx.next_functions))  # of the tensors that require a gradient
    try:
        asked = list(map(asks, others))
    except RuntimeError:
        return needs
    if True not in asked:
        return True, *(False for _ in needs[1:])
    of_those = iter(asked)
    return x.is_leaf or asks(to_x), *(need and next(of_those) for need in needs[1:])


_first = itemgetter(0)


class _MlpGradients(torch.autograd.Function):
    """The backward pass of an MLP as a function of grad_y, x and parameters; its backward is the second-order pass.

    It returns the gradients that are needed, without None for the others: each costs time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        of: tuple[_Passed, Sequence[bool], Tensor],
        grad_y: Tensor,
        x: Tensor,
        *params: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        passed, needs, work = of
        keep = needs[0] and True in ctx.needs_input_grad
        weights = _weights(passed, x, params, work, grad_y)
        grads, kept = _kernels.mlp_backward(passed[0], x, weights, work, grad_y, passed[1], needs, keep=keep)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(work, kept, grad_y, x, *params)
        ctx.passed = passed, needs
        return tuple([g for g in grads if g is not None])

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        work, kept, grad_y, x, *params = ctx.saved_tensors
        passed, needs = ctx.passed
        network, dropout_seed = passed[:2]
        wanted = ctx.needs_input_grad[1:]
        to_x, others = (given[0], given[1:]) if needs[0] else (None, given)
        alone = not others or all(t is None for t in others)
        # else a third derivative, or many second ones at once
        native = alone and to_x is not None and not torch.is_grad_enabled() and not is_batched(to_x)
        if not native or kept is None or to_x is None:
            if all(t is None for t in given):
                return None, *(None for _ in wanted)
            rest = iter(given)
            tangents = [next(rest) if need else None for need in needs]
            tensors = (grad_y, x, *params)
            return None, *_gradients_of_backward(network, dropout_seed, tensors, needs, tangents, wanted)
        wanted = list(map(and_, wanted, network.second_order_parts))
        weights = _weights(passed, x, params, work, grad_y)
        found = _kernels.mlp_second_order(network, weights, work, kept, to_x, grad_y.shape, dropout_seed, wanted)
        return None, *found


def _alias(t: Tensor | None) -> Any:
    """An alias of t, to differentiate by. A derivative by t itself would continue through the history of t, and count a
    weight that two layers share twice."""
    return None if t is None else t.view_as(t)


def _differentiable_backward(
    network: MlpDescription,
    dropout_seed: Tensor | None,
    tensors: Sequence[Tensor | None],
    grad_y: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients with a graph of their own, or many at once: by kernels on CUDA, else through the reference."""
    layers, graph = network.layers, torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(grad_y.device.type, enabled=False):
        alias = [_alias(t) for t in tensors]
        x, depth = alias[0], len(layers)
        weights, biases, *vectors = (alias[i : i + depth] for i in range(1, len(alias), depth))
        if network.normalized:
            norms = list(zip(*vectors, *(4 - len(vectors)) * [[None] * depth], strict=True))
            y = reference.mlp(x, weights, biases, layers, network.input_dropout, dropout_seed, norms)
        else:
            run = mlp_by_layers if grad_y.is_cuda and not is_batched(grad_y) else reference.mlp
            y = run(x, weights, biases, layers, network.input_dropout, dropout_seed)
        wanted = [t for t, need in zip(alias, needs, strict=False) if need]  # running statistics are behind the last
        found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=graph))
    return [next(found) if need else None for need in needs]


def _gradients_of_backward(
    network: MlpDescription,
    dropout_seed: Tensor | None,
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    tangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of <tangents, what backward gave> with respect to grad_y, x and parameters, by the reference."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        alias: list[Any] = [
            None if t is None else _alias(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors
        ]
        first = _differentiable_backward(network, dropout_seed, alias[1:], alias[0], needs)
        pairs = [(g, t) for g, t in zip(first, tangents, strict=True) if t is not None and g is not None]
        sought = [t for t, want in zip(alias, wanted, strict=True) if want]
        outputs, grads = [g for g, _ in pairs], [t for _, t in pairs]
        with torch.autocast(outputs[0].device.type, enabled=False):
            found = iter(torch.autograd.grad(outputs, sought, grads, create_graph=graph, allow_unused=True))
    return [next(found) if want else None for want in wanted]


_apply_gradients = super(torch.autograd.Function, _MlpGradients).apply
_apply_mlp = super(torch.autograd.Function, _Mlp).apply  # as _apply_pair_loss
for _function in (_Mlp, _MlpGradients):  # whose own look backward up at each call
    _function._backward_cls.apply = _function.backward


def _check_network(
    caller: str,
    features: int,
    shapes: tuple[torch.Size, ...],
    bias_shapes: tuple[torch.Size | None, ...],
    layers: tuple[LayerSpec, ...],
) -> None:
    """Raise unless the layers fit together."""
    if not layers or not len(shapes) == len(bias_shapes) == len(layers):
        raise Invalid(caller).value(
            "weights, biases and layers",
            f"must be equally many and at least one, got {len(shapes)}, {len(bias_shapes)} and {len(layers)}",
        )
    for i, (shape, bias_shape, layer) in enumerate(zip(shapes, bias_shapes, layers, strict=True)):
        if len(shape) != 2:
            raise Invalid(caller).value(f"weights[{i}]", f"must be a matrix, got shape {tuple(shape)}")
        if shape[1] != features:
            what = "x" if i == 0 else f"layer {i - 1}"
            raise Invalid(caller).value(
                f"layer {i}", f"takes {shape[1]} features (weight of shape {tuple(shape)}), but {what} gives {features}"
            )
        check_choice(caller, "activation", layer.activation, ACTIVATIONS)
        if not (layer.activation != "leaky_relu" or layer.negative_slope > 0):
            raise Invalid(caller).value("negative_slope", f"must be positive, got {layer.negative_slope}")
        if layer.pieces < 1 or shape[0] % layer.pieces:
            raise Invalid(caller).value(
                f"weights[{i}]", f"has {shape[0]} rows, not a multiple of pieces = {layer.pieces}"
            )
        if layer.pieces > 1 and layer.activation != "none":
            raise Invalid(caller).value("maxout", f"has no further activation, got {layer.activation!r}")
        check_probability(caller, "dropout", layer.dropout)
        if bias_shape is not None and tuple(bias_shape) != (shape[0],):
            raise Invalid(caller).value(f"biases[{i}]", f"must have shape ({shape[0]},), got {tuple(bias_shape)}")
        features = shape[0] // layer.pieces


@functools.lru_cache(maxsize=256)
def _network(
    caller: str,
    features: int,
    shapes: tuple[torch.Size, ...],
    bias_shapes: tuple[torch.Size | None, ...],
    layers: tuple[LayerSpec, ...],
    input_dropout: float,
    affine: tuple[bool, ...] = (),
) -> MlpDescription:
    """Validate and describe the network; cached per shape."""
    _check_network(caller, features, shapes, bias_shapes, layers)
    return MlpDescription(shapes, layers, input_dropout, tuple(shape is not None for shape in bias_shapes), affine)


def _autocasts(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _check_params(caller: str, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    autocast = _autocasts(x)  # F.linear will bring all to one dtype
    for kind, params in (("weights", weights), ("biases", biases)):
        for i, p in enumerate(params):
            if p is None and kind == "biases":
                continue
            check_tensor(caller, f"{kind}[{i}]", p)
            if not autocast:
                check_same(caller, "x", x, f"{kind}[{i}]", p)  # type: ignore[arg-type]


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    *,
    input_dropout: float = 0.0,
    dropout_seed: Tensor | None = None,
    impl: Impl = "auto",
    caller: str = "mlp",
    cache: CallCache | None = None,
) -> Tensor:
    """A multilayer perceptron: per layer an affine map, bias, activation (or maxout) and dropout, in one call.

    Equivalent to `for W, b in zip(weights, biases): x = dropout(activation(x @ W.T + b))`.

    Args:
        x: (..., in_features).
        weights: (out * pieces, in) each; row u * pieces + p is piece p of unit u.
        biases: (out * pieces,) each, or None.
        layers: what follows each affine map.
        input_dropout: probability of zeroing an element of x.
        dropout_seed: int64 tensor of shape (); None switches dropout off.
        impl: "auto", "native" or "reference".
        caller: the name errors begin with.
        cache: of a caller that calls again with the same layers, input_dropout and caller.

    Returns:
        Tensor (..., out_features) of x's dtype.
    """
    params: Sequence[Tensor | None] = (*weights, *biases)
    common = impl == "auto" and is_common(REAL, x, *params) and not torch.is_autocast_enabled("cpu") and x.dim() > 0
    if common and cache is not None and (known := cache.find(x, params, dropout_seed is not None)) is not None:
        return known_mlp(known, x, params, dropout_seed, cache=cache)
    if not common:
        check_tensor(caller, "x", x)
        if x.dim() == 0:
            raise Invalid(caller).value("x", "must have at least one dimension, got a scalar")
        _check_params(caller, x, weights, biases)
    layers = tuple(layers)
    if dropout_seed is not None:
        check_probability(caller, "input_dropout", input_dropout)
        check_dropout_seed(caller, dropout_seed)
    else:  # evaluation and training without dropout share one native description
        strip = _strip_dropout if is_compiling() else _without_dropout  # torch.compile warns of caches
        input_dropout, layers = 0.0, strip(layers)
    shapes = tuple([w.shape for w in weights])
    bias_shapes = tuple([None if b is None else b.shape for b in biases])
    if not common:
        if impl == "auto" and _autocasts(x):
            impl = "reference"  # F.linear applies the autocast rules
        native = natively(caller, "mlp", impl, x, *params)
        if native and any(layer.dropout_first for layer in layers) and (x.is_cuda or is_compiling()):
            if impl == "native":
                rule = "is not available: dropout comes before an activation"
                raise Invalid(caller)(RuntimeError, "impl='native'", rule)
            native = False  # neither CUDA's kernels nor the custom operators know it
        if not native or is_compiling():
            _check_network(caller, x.shape[-1], shapes, bias_shapes, layers)
            run = _operators.mlp if native else reference.mlp
            return run(x, weights, biases, layers, input_dropout, dropout_seed)
        x, params = _kernels.dense(x), [p if p is None else _kernels.dense(p) for p in params]
    network = _network(caller, x.shape[-1], shapes, bias_shapes, layers, input_dropout)
    if common and cache is not None:
        cache.keep(x, params, dropout_seed is not None, network)
    return known_mlp(network, x, params, dropout_seed, cache=cache)


def common_network(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    input_dropout: float,
    drops: bool,
    caller: str,
    cache: CallCache,
) -> MlpDescription | None:
    """The description for `mlp`'s native call; None if the call would not be the common native one."""
    params = (*weights, *biases)
    if not is_compiling() and (known := cache.recall(x, params, drops)) is not None:
        return known
    if not is_common(REAL, x, *params) or torch.is_autocast_enabled("cpu"):
        return None
    network = cache.find(x, params, drops)
    if network is None:
        layers = tuple(layers) if drops else _without_dropout(tuple(layers))
        bias_shapes = tuple([None if b is None else b.shape for b in biases])
        shapes = tuple([w.shape for w in weights])
        network = _network(caller, x.shape[-1], shapes, bias_shapes, layers, input_dropout if drops else 0.0)
        cache.keep(x, params, drops, network)
    return network


def known_mlp(
    network: MlpDescription,
    x: Tensor,
    params: Sequence[Tensor | None],
    dropout_seed: Tensor | None,
    momenta: Sequence[float] = (),
    cache: CallCache | None = None,
) -> Tensor:
    """`mlp` where the call is common and its description at hand; momenta: of batch normalisation."""
    if torch.is_grad_enabled():
        result: Tensor = _apply_mlp((network, dropout_seed, momenta, cache), x, *params)
        return result
    return _kernels.mlp_forward(network, x, params, dropout_seed, False, momenta)[0]


def normalized_network(
    x: Tensor,
    params: Sequence[Tensor | None],
    seen: Sequence[Tensor],
    layers: tuple[LayerSpec, ...],
    input_dropout: float,
    drops: bool,
    caller: str,
    cache: CallCache,
) -> MlpDescription | None:
    """The description of layers some of which have batch normalisation; None where that must not be one native call.

    Args:
        x: (rows, in_features).
        params: weights, biases, scales, shifts, running means, running variances and numbers of batches, one or None a
            layer each.
        seen: those among them that are there and of floating point.
        layers, input_dropout, caller, cache: as of `mlp`; the cache is asked with `seen`.
        drops: whether there is dropout.
    """
    if not is_common(REAL, x, *seen) or torch.is_autocast_enabled("cpu"):
        return None
    network = cache.find(x, seen, drops)
    if network is None:
        depth = len(layers)
        weights, biases, *vectors = (params[i * depth : (i + 1) * depth] for i in range(6))
        shapes = tuple([w.shape for w in weights if w is not None])
        widths = [shape[:1] for shape in shapes]
        for column in vectors:  # torch's own modules refuse a vector of another length
            if any(t is not None and t.shape != width for t, width in zip(column, widths, strict=True)):
                return None
        bias_shapes = tuple([None if b is None else b.shape for b in biases])
        layers = layers if drops else _without_dropout(layers)
        affine = tuple([t is not None for column in vectors[:2] for t in column])
        network = _network(caller, x.shape[-1], shapes, bias_shapes, layers, input_dropout if drops else 0.0, affine)
        cache.keep(x, seen, drops, network)
    return network


def _strip_dropout(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    # Not by _replace(), which torch 2.5 cannot compile.
    return tuple(
        LayerSpec(layer.activation, layer.negative_slope, layer.pieces, 0.0, False, layer.norm, layer.norm_epsilon)
        for layer in layers
    )


_without_dropout = functools.lru_cache(maxsize=256)(_strip_dropout)
