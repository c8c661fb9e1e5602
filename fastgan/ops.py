"""THE dispatch: validate, choose native or reference, differentiate.

Every operation is twice differentiable: backward recomputes from the saved inputs when a graph of the gradient is asked
for. Transforms of `torch.func`, forward-mode derivatives, tensor subclasses and autocast go to the reference, which is
plain PyTorch; `torch.compile` meets the twins of `fastgan.library`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fastgan import kernels, library, reference
from fastgan.backend import native as _native
from fastgan.backend import why_not
from fastgan.reference import ACTIVATIONS, FORMULAS, LayerSpec

IMPLEMENTATIONS = ("auto", "native", "reference")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REAL = (torch.float32, torch.float64)
_ORDINARY = (Tensor, Parameter, type(None))
_is_compiling = torch.compiler.is_compiling
_functorch_stack = torch._C._functorch.peek_interpreter_stack

# ---------------------------------------------------------------- choosing


def _tracing() -> bool:
    """Whether torch.jit.trace or a dispatch mode (make_fx, FakeTensorMode) watches: neither sees a native call."""
    return torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0


def _special(*tensors: Tensor | None) -> str | None:
    """Why these tensors need plain PyTorch whatever their dtype and device."""
    if _functorch_stack() is not None:
        return "a torch.func transform is active"
    if _tracing():
        return "a tracer records the operations"
    if forward_ad._current_level >= 0 and any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors
    ):
        return "a forward-mode derivative is asked for"
    for x in tensors:
        if type(x) not in _ORDINARY:
            return f"{type(x).__name__} is a tensor subclass"
        if x is not None and x._is_zerotensor():
            return "a tensor of symbolic zeros has no memory"
    return None


def _is_batched(grad: Tensor) -> bool:
    """Whether vmap runs a backward: torch.func's, or autograd's own for is_grads_batched."""
    return _functorch_stack() is not None or torch._C._functorch.is_legacy_batchedtensor(grad)


_PLAIN = (Tensor, Parameter)


def _simple(dtypes: tuple[torch.dtype, ...], x: Tensor, *others: Tensor | None) -> bool:
    """Whether this is the common call, by the cheapest questions: plain CPU tensors of one dtype, nothing special on.

    Everything else takes the long way, which finds the reasons and the words for errors.
    """
    if _native is None or _is_compiling() or _functorch_stack() is not None or forward_ad._current_level >= 0:
        return False
    if type(x) not in _PLAIN or not x.is_cpu or x.dtype not in dtypes or x.layout is not torch.strided:
        return False
    if x._is_zerotensor() or _tracing():
        return False
    dtype = x.dtype
    for t in others:
        if t is not None and not (type(t) in _PLAIN and t.dtype is dtype and t.is_cpu and t.layout is torch.strided):
            return False
    return True


def can_look(x: Tensor) -> bool:
    """Whether the values of x may be inspected: not while compiling, under a transform, or for a tensor without any."""
    return not _is_compiling() and _special(x) is None and x.device.type != "meta"


def _use_native(caller: str, operation: str, impl: str, *tensors: Tensor | None) -> bool:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{caller}: impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if impl == "reference":
        return False
    x = tensors[0]
    assert x is not None
    reason = why_not(operation, x.device.type, x.dtype)
    if reason is None and not _is_compiling():
        reason = _special(*tensors)
    if impl == "native" and reason is not None:
        raise RuntimeError(f"{caller}: impl='native' cannot be served: {reason}")
    return reason is None


def check_tensor(caller: str, name: str, x: object) -> None:
    """Raise unless x is a dense floating-point tensor of a type fastgan computes with."""
    if isinstance(x, Tensor) and x.dtype in FLOATS and x.layout is torch.strided:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}: {name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{caller}: {name} must be floating point, got {x.dtype}")
    if x.dtype not in FLOATS:
        raise TypeError(f"{caller}: {name} must be float32, float64, float16 or bfloat16, got {x.dtype}")
    raise TypeError(f"{caller}: {name} must be a dense tensor, got layout {x.layout}")


def check_same(caller: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raise unless both tensors live on one device and share one dtype."""
    if a.device != b.device:
        raise ValueError(f"{caller}: {first} and {second} must be on one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype:
        raise TypeError(f"{caller}: {first} and {second} must share one dtype, got {a.dtype} and {b.dtype}")


# ---------------------------------------------------------------- losses


class _Pointwise(torch.autograd.Function):
    """A formula's derivative of some order at every element; its own derivative is the next order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: str, target: float, order: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.what = formula, target, order
        return kernels.pointwise(x, FORMULAS[formula].number, target, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        formula, target, order = ctx.what
        if order < 2:
            run = reference.pointwise if _is_batched(grad) else _native_pointwise
            return grad * run(x, formula, target, order + 1), None, None, None
        with torch.enable_grad():
            y = reference.pointwise(x if x.requires_grad else x.detach().requires_grad_(), formula, target, order)
        return torch.autograd.grad(y, x, grad, create_graph=torch.is_grad_enabled())[0], None, None, None


def _native_pointwise(x: Tensor, formula: str, target: float, order: int) -> Tensor:
    result: Tensor = _Pointwise.apply(x, formula, target, order)
    return result


def pointwise(
    x: Tensor, formula: str, target: float = 0.0, order: int = 0, *, impl: str = "auto", caller: str = "pointwise"
) -> Tensor:
    """Value (order 0), slope (1) or curvature (2) of a loss formula at every logit.

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
    if formula not in FORMULAS:
        raise ValueError(f"{caller}: formula must be one of {', '.join(FORMULAS)}, got {formula!r}")
    if order not in (0, 1, 2):
        raise ValueError(f"{caller}: order must be 0, 1 or 2, got {order}")
    if not _use_native(caller, "loss", impl, x):
        return reference.pointwise(x, formula, target, order)
    if _is_compiling():
        return library.pointwise(x, formula, target, order)
    return _native_pointwise(x, formula, target, order)


class _PairLoss(torch.autograd.Function):
    """Both halves of a loss in one pass that also writes the slopes, which are the gradients up to a factor."""

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
        numbers = FORMULAS[formulas[0]].number, FORMULAS[formulas[1]].number
        value, *ctx.slopes = kernels.pair_loss(real, fake, numbers, targets, mean, need_real, need_fake)
        ctx.save_for_backward(real, fake)
        ctx.what = numbers, formulas, targets, mean
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        real, fake = ctx.saved_tensors
        need_real, need_fake = ctx.needs_input_grad[:2]
        numbers, formulas, targets, mean = ctx.what
        if torch.is_grad_enabled() or _is_batched(grad):  # a graph of the gradient, or many: from the logits
            grad_real = _slope_times(real, grad, formulas[0], targets[0], mean) if need_real else None
            grad_fake = _slope_times(fake, grad, formulas[1], targets[1], mean) if need_fake else None
            return grad_real, grad_fake, None, None, None
        # The slopes are given away, scaled in place: autograd need not copy what nobody else holds. Should a retained
        # graph be walked again, they are computed again.
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None:
            slopes = kernels.pair_loss(real, fake, numbers, targets, mean, need_real, need_fake)[1:]
        grad_real, grad_fake = slopes
        slopes = None
        if grad.is_cuda or grad.item() != 1.0:  # loss.backward() hands in 1
            grad_real = None if grad_real is None else grad_real.mul_(grad)
            grad_fake = None if grad_fake is None else grad_fake.mul_(grad)
        if real.dtype is not grad.dtype:  # halves: scaled in float32, rounded once
            grad_real = None if grad_real is None else grad_real.to(real.dtype)
            grad_fake = None if grad_fake is None else grad_fake.to(real.dtype)
        return grad_real, grad_fake, None, None, None


# What Function.apply does once torch.func is out of the question, without the Python around it (3 us of 10).
_apply_pair_loss = super(torch.autograd.Function, _PairLoss).apply


def _native_pair_loss(
    real: Tensor, fake: Tensor | None, formulas: tuple[str, str], targets: tuple[float, float], mean: bool
) -> Tensor:
    if torch.is_grad_enabled() and (real.requires_grad or (fake is not None and fake.requires_grad)):
        result: Tensor = _apply_pair_loss(real, fake, formulas, targets, mean)
        return result
    numbers = FORMULAS[formulas[0]].number, FORMULAS[formulas[1]].number
    return kernels.pair_loss(real, fake, numbers, targets, mean, False, False)[0]


def _slope_times(x: Tensor, grad: Tensor, formula: str, target: float, mean: bool) -> Tensor:
    wide = x.to(kernels.accumulator(x.dtype))
    scaled = grad / x.numel() if mean else grad
    run = reference.pointwise if _is_batched(grad) else _native_pointwise
    return (scaled * run(wide, formula, target, 1)).to(x.dtype)


def pair_loss(
    real: Tensor,
    fake: Tensor | None,
    formulas: tuple[str, str],
    targets: tuple[float, float] = (0.0, 0.0),
    *,
    mean: bool = True,
    impl: str = "auto",
    caller: str = "pair_loss",
    names: tuple[str, str] = ("real_logits", "fake_logits"),
) -> Tensor:
    """Mean (or sum) of one formula over `real` plus that of another over `fake`, value and slope in one pass.

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
    if impl == "auto" and _simple(FLOATS, real, fake) and real.numel() and (fake is None or fake.numel()):
        return _native_pair_loss(real, fake, formulas, targets, mean)
    check_tensor(caller, names[0], real)
    if mean and real.numel() == 0:
        raise ValueError(f"{caller}: {names[0]} must not be empty under 'mean', got shape {tuple(real.shape)}")
    if fake is not None:
        check_tensor(caller, names[1], fake)
        check_same(caller, names[0], real, names[1], fake)
        if mean and fake.numel() == 0:
            raise ValueError(f"{caller}: {names[1]} must not be empty under 'mean', got shape {tuple(fake.shape)}")
    if not _use_native(caller, "loss", impl, real, fake):
        return reference.pair_loss(real, fake, *formulas, *targets, mean)
    if _is_compiling():
        return library.pair_loss(real, fake, *formulas, *targets, mean)
    return _native_pair_loss(real, fake, formulas, targets, mean)


# ---------------------------------------------------------------- layers


class _Dropout(torch.autograd.Function):
    """Multiplication by a mask that is replayed, never stored; linear, hence its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, key: Tensor, substream: int) -> Tensor:
        ctx.what = p, key, substream
        return kernels.dropout(x, p, key, substream)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        run = reference.dropout if _is_batched(grad) else _Dropout.apply
        return run(grad, *ctx.what), None, None, None


def _check_key(caller: str, key: Tensor | None) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.dim() != 0:
        raise TypeError(f"{caller}: key must be an int64 tensor of shape (), got {key!r}")


def check_probability(caller: str, name: str, p: float) -> None:
    """Raise unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{caller}: {name} must lie in [0, 1], got {p}")


def dropout(x: Tensor, p: float, key: Tensor, substream: int = 0, *, impl: str = "auto") -> Tensor:
    """Inverted dropout: each element is zeroed with probability p, the others divided by 1 - p.

    Equivalent to `torch.nn.functional.dropout(x, p)` with the mask of (key, substream), which backward replays.

    Args:
        x: (..., features).
        p: probability of zeroing.
        key: int64 tensor of shape (), as `random.next_key()` gives.
        substream: tells masks of one key apart, < 2**16.
        impl: "auto", "native" or "reference".
    """
    check_tensor("dropout", "x", x)
    check_probability("dropout", "p", p)
    _check_key("dropout", key)
    _check_integer("dropout", "substream", substream, 0, 2**16)
    if not _use_native("dropout", "dropout", impl, x):
        return reference.dropout(x, p, key, substream)
    if _is_compiling():
        return library.dropout(x, p, key, substream)
    result: Tensor = _Dropout.apply(x, p, key, substream)
    return result


def _as_rows(x: Tensor) -> Tensor:
    return kernels.dense(x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1]))


Network = tuple[Any, Sequence[LayerSpec], float, Tensor | None]  # native description, layers, input dropout, key


def _mlp_forward(
    network: Network, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, save: bool
) -> tuple[Tensor, Tensor | None]:
    key = network[3]
    y, work = kernels.mlp_forward(
        network[0],
        kernels.dense(x),
        [kernels.dense(w) for w in weights],
        [None if b is None else kernels.dense(b) for b in biases],
        None if key is None else kernels.seed_of(key),
        save,
    )
    return y, work


class _Mlp(torch.autograd.Function):
    """A whole MLP: one native call forward, one backward; double backward through the reference."""

    @staticmethod
    def forward(ctx: Any, network: Network, x: Tensor, *params: Tensor | None) -> Tensor:
        depth = len(network[1])
        weights: Any = params[:depth]
        y, work = _mlp_forward(network, x, weights, params[depth:], save=True in ctx.needs_input_grad)
        ctx.save_for_backward(x, work, *params)
        ctx.network = network
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, work, *params = ctx.saved_tensors
        net, layers, input_dropout, key = ctx.network
        depth = len(layers)
        needs = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or _is_batched(grad_y):
            # Derivatives with respect to aliases: those of the tensors themselves would run on through their own
            # history, and count a weight twice that serves two layers.
            graph = torch.is_grad_enabled()
            with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
                alias: list[Any] = [None if t is None else t.view_as(t) for t in (x, *params)]
                y = reference.mlp(alias[0], alias[1 : 1 + depth], alias[1 + depth :], layers, input_dropout, key)
                wanted = [t for t, need in zip(alias, needs, strict=True) if need]
                found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=graph))
            return None, *(next(found) if need else None for need in needs)
        grad_x, grad_w, grad_b = kernels.mlp_backward(
            net,
            kernels.dense(x),
            [kernels.dense(w) for w in params[:depth]],
            work,
            kernels.dense(grad_y),
            0 if key is None else kernels.seed_of(key),
            needs[0],
            needs[1 : 1 + depth],
            needs[1 + depth :],
        )
        return None, grad_x, *grad_w, *grad_b


_apply_mlp = super(torch.autograd.Function, _Mlp).apply  # as _apply_pair_loss


def _check_network(
    caller: str,
    features: int,
    shapes: tuple[torch.Size, ...],
    bias_shapes: tuple[torch.Size | None, ...],
    layers: tuple[LayerSpec, ...],
) -> None:
    """Raise unless the layers fit together."""
    if not layers or not len(shapes) == len(bias_shapes) == len(layers):
        raise ValueError(
            f"{caller}: weights, biases and layers must be equally many and at least one, "
            f"got {len(shapes)}, {len(bias_shapes)} and {len(layers)}"
        )
    for i, (shape, bias_shape, layer) in enumerate(zip(shapes, bias_shapes, layers, strict=True)):
        if len(shape) != 2:
            raise ValueError(f"{caller}: weights[{i}] must be a matrix, got shape {tuple(shape)}")
        if shape[1] != features:
            what = "x" if i == 0 else f"layer {i - 1}"
            raise ValueError(
                f"{caller}: layer {i} takes {shape[1]} features (weight of shape {tuple(shape)}), "
                f"but {what} gives {features}"
            )
        if layer.activation not in ACTIVATIONS:
            raise ValueError(f"{caller}: activation must be one of {', '.join(ACTIVATIONS)}, got {layer.activation!r}")
        if not (layer.activation != "leaky_relu" or layer.negative_slope > 0):
            raise ValueError(f"{caller}: negative_slope must be positive, got {layer.negative_slope}")
        if layer.pieces < 1 or shape[0] % layer.pieces:
            raise ValueError(f"{caller}: weights[{i}] has {shape[0]} rows, not a multiple of pieces = {layer.pieces}")
        if layer.pieces > 1 and layer.activation != "none":
            raise ValueError(f"{caller}: maxout has no further activation, got {layer.activation!r}")
        check_probability(caller, "dropout", layer.dropout)
        if bias_shape is not None and tuple(bias_shape) != (shape[0],):
            raise ValueError(f"{caller}: biases[{i}] must have shape ({shape[0]},), got {tuple(bias_shape)}")
        features = shape[0] // layer.pieces


@functools.lru_cache(maxsize=256)
def _network(
    caller: str,
    features: int,
    shapes: tuple[torch.Size, ...],
    bias_shapes: tuple[torch.Size | None, ...],
    layers: tuple[LayerSpec, ...],
    input_dropout: float,
) -> Any:
    """The native description of a checked network: both are had once for all calls of one shape."""
    _check_network(caller, features, shapes, bias_shapes, layers)
    return kernels.network(shapes, layers, input_dropout, tuple(shape is not None for shape in bias_shapes))


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
    key: Tensor | None = None,
    impl: str = "auto",
    caller: str = "mlp",
) -> Tensor:
    """A multilayer perceptron: per layer an affine map, bias, activation (or maxout) and dropout, in one call.

    Equivalent to `for W, b in zip(weights, biases): x = dropout(activation(x @ W.T + b))`.

    Args:
        x: (..., in_features).
        weights: (out * pieces, in) each; row u * pieces + p is piece p of unit u.
        biases: (out * pieces,) each, or None.
        layers: what follows each affine map.
        input_dropout: probability of zeroing an element of x.
        key: int64 tensor of shape (), the key of the masks; None switches dropout off.
        impl: "auto", "native" or "reference".
        caller: the name errors begin with.

    Returns:
        Tensor (..., out_features) of x's dtype.
    """
    layers = tuple(layers)
    simple = impl == "auto" and _simple(REAL, x, *weights, *biases) and not torch.is_autocast_enabled("cpu")
    if not simple or not x.dim():
        check_tensor(caller, "x", x)
        if x.dim() == 0:
            raise ValueError(f"{caller}: x must have at least one dimension, got a scalar")
        _check_params(caller, x, weights, biases)
    if key is not None:
        check_probability(caller, "input_dropout", input_dropout)
        _check_key(caller, key)
    else:  # evaluation and training without dropout share one native description
        strip = _strip_dropout if _is_compiling() else _without_dropout  # torch.compile warns of caches
        input_dropout, layers = 0.0, strip(layers)
    shapes = tuple([w.shape for w in weights])
    bias_shapes = tuple([None if b is None else b.shape for b in biases])
    if not simple:
        if impl == "auto" and _autocasts(x):
            impl = "reference"  # F.linear applies the autocast rules
        native = _use_native(caller, "mlp", impl, x, *weights, *biases)
        if not native or _is_compiling():
            _check_network(caller, x.shape[-1], shapes, bias_shapes, layers)
            serve = library.mlp if native else reference.mlp
            return serve(x, weights, biases, layers, input_dropout, key)
    net = _network(caller, x.shape[-1], shapes, bias_shapes, layers, input_dropout)
    network = net, layers, input_dropout, key
    if torch.is_grad_enabled():
        result: Tensor = _apply_mlp(network, x, *weights, *biases)
        return result
    return _mlp_forward(network, x, weights, biases, save=False)[0]


def _strip_dropout(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    return tuple(layer._replace(dropout=0.0) for layer in layers)


_without_dropout = functools.lru_cache(maxsize=256)(_strip_dropout)


# ---------------------------------------------------------------- random numbers


def _check_integer(caller: str, name: str, number: int, low: int, limit: int) -> None:
    if not hasattr(number, "__index__"):
        raise TypeError(f"{caller}: {name} must be an integer, got {number!r}")
    if not low <= number < limit:
        raise ValueError(f"{caller}: {name} must lie in [{low}, {limit}), got {number}")


def _check_stream(caller: str, seed: int, purpose: int, step: int) -> None:
    _check_integer(caller, "seed", seed, -(2**63), 2**64)
    _check_integer(caller, "purpose", purpose, 0, 2**8)
    _check_integer(caller, "step", step, 0, 2**56)


def random(
    kind: str,
    n: int,
    *,
    seed: int,
    purpose: int,
    step: int,
    substream: int,
    offset: int,
    dtype: torch.dtype,
    device: torch.device,
    impl: str = "auto",
) -> Tensor:
    """Elements offset .. offset+n of a stream: "uniform" in (0, 1) or "normal"; Tensor (n,)."""
    caller = f"random.{kind}"
    _check_stream(caller, seed, purpose, step)
    _check_integer(caller, "substream", substream, 0, 2**16)
    _check_integer(caller, "offset", offset, 0, 2**50)
    if not dtype.is_floating_point:
        raise TypeError(f"{caller}: dtype must be floating point, got {dtype}")
    narrow = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    probe = torch.empty(0, dtype=narrow, device="cpu")  # drawn on the CPU and moved, where the device has no kernel
    if _use_native(caller, "random", impl, probe):
        flat = kernels.random(kind, n, seed, purpose, step, substream, offset, narrow)
    else:
        draw = reference.random_normal if kind == "normal" else reference.random_uniform
        flat = draw(n, seed=seed, purpose=purpose, step=step, substream=substream, offset=offset)
    flat = flat.to(dtype)
    if device.type != "cuda":
        return flat.to(device)
    return flat.pin_memory().to(device, non_blocking=True)  # nobody waits for the copy


def permutation(n: int, *, seed: int, epoch: int, start: int, count: int, purpose: int, impl: str = "auto") -> Tensor:
    """Positions start .. start+count of the keyed permutation of range(n); int64 Tensor (count,) on the CPU."""
    _check_stream("permutation", seed, purpose, epoch)
    if _use_native("permutation", "random", impl, torch.empty(0, device="cpu")):
        return kernels.permutation(n, seed, epoch, start, count, purpose)
    return reference.permutation(n, seed=seed, epoch=epoch, start=start, count=count, purpose=purpose)
