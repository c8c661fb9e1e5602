"""Fused segments of a Sequential: adjacent layers that run as one call; the other children run one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import ops, random
from fastgan._backend import instruction_set, native
from fastgan._options import Impl
from fastgan.nn.activation import of_module
from fastgan.nn.dropout import Dropout
from fastgan.nn.fusible import (
    DECIDING,
    DROPOUTS,
    GLOBAL_HOOKS,
    LINEARS,
    RUNNING,
    hooks,
    obstacle,
    ordinary,
    parameter_obstacle,
)
from fastgan.ops.dispatch import REAL

# position within a segment `[dropout] (linear [batch normalisation] [activation] [dropout])...`
_START, _INPUT_DROPOUT, _LINEAR, _NORM, _ACTIVATION, _DROPOUT = range(6)


class SegmentBuilder:
    """Neighbours `[dropout] (linear [batch normalisation] [activation] [dropout])...`, collected one by one.

    Dropout may also come before the activation, where there is no batch normalisation.
    """

    def __init__(self, impl: Impl, *, normalizes: bool = True) -> None:
        self.impl = self.default_impl = impl
        self.normalizes = normalizes
        self.children: dict[str, nn.Module] = {}
        self.linears: list[Any] = []
        self.norms: list[nn.BatchNorm1d | None] = []
        self.layers: list[dict[str, Any]] = []  # the fields of an ops.LayerSpec each
        self.input_dropout = 0.0
        self._stage = _START

    def take(self, name: str, module: nn.Module) -> bool:
        """Append the module if it continues the segment."""
        kind = type(module)
        impl = module.__dict__.get("impl", "auto")
        if kind in LINEARS:
            taken = self._take_linear(module, self.default_impl if impl == "auto" else impl)
        elif kind is nn.BatchNorm1d:
            taken = self._take_norm(module)
        elif kind in DROPOUTS:
            taken = impl in ("auto", self.impl) and self._take_dropout(module)
        else:
            taken = self._take_activation(module)
        if taken:
            self.children[name] = module
        return taken

    def _take_linear(self, module: Any, impl: Impl) -> bool:
        if self.linears and impl != self.impl:
            return False
        self.impl = impl
        self.linears.append(module)
        self.norms.append(None)
        self.layers.append({})
        self._stage = _LINEAR
        if type(module) is not nn.Linear:
            spec = module.spec
            self.layers[-1] = {name: getattr(spec, name) for name in ("activation", "negative_slope", "pieces")}
            if spec.activation != "none" or spec.pieces > 1:
                self._stage = _ACTIVATION
        return True

    def _take_activation(self, module: nn.Module) -> bool:
        name, negative_slope = of_module(module) or ("", 0.0)
        if name == "none":  # nn.Identity changes nothing at any position
            return self._stage != _START
        layer = self.layers[-1] if self.layers else {}
        if self._stage == _DROPOUT:
            if layer.get("activation", "none") != "none" or layer.get("pieces", 1) > 1:
                return False
            if not self._commutes(name):
                if self.norms[-1] is not None:
                    return False
                layer["dropout_first"] = True
        elif self._stage not in (_LINEAR, _NORM):
            return False
        layer |= {"activation": name, "negative_slope": negative_slope}
        self._stage = _DROPOUT if layer.get("dropout") is not None else _ACTIVATION
        return True

    def _commutes(self, activation: str) -> bool:
        """Whether the activation commutes with the last dropout, which a fused layer applies after the activation."""
        return self.layers[-1]["dropout"] == 0.0 or activation in ("relu", "leaky_relu")  # of c x: c times that of x

    def _take_norm(self, module: Any) -> bool:
        """Add batch normalisation, if possible. The segment can then only fall back to running module by module."""
        linear = self.linears[-1] if self._stage == _LINEAR else None
        if (
            linear is None
            or not self.normalizes
            or self.impl != "auto"
            or linear.weight.shape[0] != module.num_features
        ):
            return False
        self.norms[-1], self._stage = module, _NORM
        by_batch = module.training or module.running_mean is None
        self.layers[-1] |= {"norm": "batch" if by_batch else "running", "norm_epsilon": float(module.eps)}
        return True

    def _take_dropout(self, module: Any) -> bool:
        p = float(module.p) if module.training else 0.0
        if self._stage == _START and not module.inplace:  # in place, it writes to the caller's tensor
            self.input_dropout, self._stage = p, _INPUT_DROPOUT
        elif self._stage in (_LINEAR, _NORM, _ACTIVATION):
            self.layers[-1]["dropout"], self._stage = p, _DROPOUT
        else:
            return False
        return True


def pays(weights: Sequence[Tensor], layers: Sequence[ops.LayerSpec], rows: int, backward: bool = True) -> bool:
    """Whether a chain is faster as native calls than module by module, on the CPU; backward: with its gradients.

    Measured by `bench/bench_drop_in_grid.py` and `bench/bench_in_others_code.py`. Native calls save the interpreter's
    time between layers, and passes over large outputs. Torch wins with few rows, where each of its products is one of
    a matrix and a vector. Whether the native products are faster themselves depends on the width of vectors.
    """
    rule = _pays_with_wide_vectors if instruction_set() == "v4" else _pays_with_narrow_vectors
    return rule(weights, layers, rows, backward)


def _pays_with_wide_vectors(
    weights: Sequence[Tensor], layers: Sequence[ops.LayerSpec], rows: int, backward: bool
) -> bool:
    """The rule for AVX-512: native products are faster if the batch fills the vectors and a layer is wide.

    Or if there are few inputs, where torch's products are far from the processor's rate, and the output is large. Where
    neither rows nor inputs are many, converting the output takes as long as the product.
    """
    depth, products = len(layers), sum(w.numel() for w in weights)
    if not backward or any(layer.pieces > 1 or layer.dropout for layer in layers):
        return True
    if rows < 16:
        return rows >= 4 and depth >= 3 and products <= 20_000
    units, inputs = weights[0].shape
    if depth <= 2 and inputs <= 8 and rows * units >= 32_000:
        return True
    many = rows >= 32 or inputs >= 64
    return (
        depth >= 3
        or (rows * products >= 1_000_000 and units >= 16 and many)
        or (rows * units >= 60_000 and units >= 256)
    )


def _pays_with_narrow_vectors(
    weights: Sequence[Tensor], layers: Sequence[ops.LayerSpec], rows: int, backward: bool
) -> bool:
    """With AVX2, torch's products are as fast as native ones: a chain must win by what it saves between them.

    Products of at most 8 inputs are the exception. Torch's own are far from the processor's rate.
    """
    depth, products = len(layers), sum(w.numel() for w in weights)
    units, inputs = weights[0].shape
    widest = max(inputs, *(w.shape[0] for w in weights))
    if any(layer.norm != "none" for layer in layers):
        if not backward:
            return rows < 512 or widest <= 64
        if rows < 16:
            return depth >= 2 and widest < 512
        deep = depth >= 3 and (rows <= 128 or widest <= 512)
        return rows < 512 and (deep or (depth == 2 and rows <= 128 and widest <= 512))
    if any(layer.pieces > 1 or layer.dropout for layer in layers):
        return rows >= 16 or products <= 10_000
    if backward and depth <= 2:
        return inputs <= 8 and rows * units >= 32_000 and (depth == 1 or products <= 20_000)
    if backward:
        if rows < 16:
            return rows >= 4 and products <= 10_000
        return (rows < 512 or widest <= 128) and (rows >= 32 or widest < 1024)
    if depth <= 2:
        return rows <= 64 and (widest <= 128 or (rows >= 16 and inputs >= 64))
    if rows < 16:
        return widest <= (512 if rows >= 4 else 128)
    return rows <= 128 or widest <= 512


_MOST_SHAPES = 256


class Segment:
    """Adjacent layers for which one `ops.mlp` replaces several calls where that pays."""

    def __init__(self, chain: SegmentBuilder) -> None:
        self.names = list(chain.children)
        self.modules = list(chain.children.values())
        self.weights: list[Tensor] = [layer.weight for layer in chain.linears]
        self.biases: list[Tensor | None] = [layer.bias for layer in chain.linears]
        self.layers = tuple(ops.LayerSpec(**fields) for fields in chain.layers)
        self.input_dropout = chain.input_dropout
        self.drops = self.input_dropout > 0 or any(layer.dropout > 0 for layer in self.layers)
        self.impl = chain.impl
        self.cache = ops.CallCache()
        self.params: tuple[Tensor | None, ...] = (*self.weights, *self.biases)
        self.norms_of_layers = chain.norms
        self.norms = _Norms(chain.norms) if any(m is not None for m in chain.norms) else None
        if self.norms is not None:
            self.params = (*self.params, *self.norms.tensors)
        self.seen = tuple([p for p in self.params if p is not None and p.is_floating_point()])
        self.recalled = self.params if self.norms is None else self.seen
        plain = self.impl == "auto" and not self.input_dropout and all(type(x) is nn.Linear for x in chain.linears)
        self.may_leave = plain or self.norms is not None
        # whether inputs of a shape and type run module by module: without gradients, with gradients
        self.leaves_at: tuple[dict[tuple[torch.Size, torch.dtype], bool], ...] = ({}, {})
        # what a call of each module does, without looking its parameters up, which takes a microsecond
        self.calls = [self._plain_call(module, place) for place, module in enumerate(self.modules)]
        self.caller = f"Sequential ({self.names[0]} to {self.names[-1]})"

    def _plain_call(self, module: Any, place: int) -> tuple[Any, tuple[Any, ...], int | None]:
        """What a call of the module does: a function, its other arguments, for dropout the substream of its seed."""
        if type(module) is nn.Linear:
            return F.linear, (module.weight, module.bias), None
        if type(module) in DROPOUTS and module.training and module.p:
            return ops.dropout, (float(module.p),), sum(type(m) in LINEARS for m in self.modules[:place])
        return module.forward, (), None

    def __call__(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and self.impl == "auto":
            leaves = self.leaves_at[torch.is_grad_enabled()].get((x.shape, x.dtype)) if self.may_leave else False
            if leaves:
                return self._by_modules(x)
            if leaves is False and self.cache.alike:  # torch.compile traces segments that no call has used
                network = self.cache.recall(x, self.recalled, self.drops)
                if network is not None:
                    return self._run(network, x)
        return self._call(x)

    def _run(self, network: Any, x: Tensor) -> Tensor:
        dropout_seed = random.next_dropout_seed() if self.drops else None
        momenta = () if self.norms is None else self.norms.momenta()
        return ops.known_mlp(network, x, self.params, dropout_seed, momenta, self.cache)

    def _call(self, x: Tensor) -> Tensor:
        """A call of a kind that is new, or rare."""
        if not ordinary(x) or (self.may_leave and torch.jit.is_tracing()):  # which records what the modules call
            for module in self.modules:
                x = module(x)
            return x
        if self.may_leave and self._leaves(x):
            return self._by_modules(x)
        if self.norms is not None:
            network = self._normalized_network(x)
            return self._by_modules(x) if network is None else self._run(network, x)
        return ops.mlp(
            x,
            self.weights,
            self.biases,
            self.layers,
            input_dropout=self.input_dropout,
            dropout_seed=random.next_dropout_seed() if self.drops else None,
            impl=self.impl,
            caller=self.caller,
            cache=self.cache,
        )

    def _normalized_network(self, x: Tensor) -> Any:
        if torch.compiler.is_compiling() or x.dim() != 2 or x.shape[1] != self.weights[0].shape[1]:
            return None
        arguments = self.params, self.seen, self.layers, self.input_dropout, self.drops, self.caller, self.cache
        return ops.normalized_network(x, *arguments)

    def _leaves(self, x: Tensor) -> bool:
        if not x.is_cpu or x.dim() == 0 or x.shape[-1] != self.weights[0].shape[-1] or torch.compiler.is_compiling():
            return False
        if torch.is_autocast_enabled("cpu"):  # torch decides product by product; the answer holds for this call alone
            return True
        backward, dtype = torch.is_grad_enabled(), self.weights[0].dtype
        if x.dtype is not dtype:  # an error that names the argument
            return False
        rows = x.shape[:-1].numel()
        native = dtype in REAL and pays(self.weights, self.layers, rows, backward)
        if self.norms is not None:  # torch's module refuses one row, and reads a third dimension differently
            native = (native or (self.drops and dtype in REAL)) and x.dim() == 2 and rows > 1
        leaves, found = not native, self.leaves_at[backward]
        if len(found) >= _MOST_SHAPES:  # the number of rows differs from call to call
            found.clear()
        found[x.shape, dtype] = leaves
        return leaves

    def _by_modules(self, x: Tensor) -> Tensor:
        """Module by module, with the masks of a native call: they do not depend on which of the two is faster."""
        seed = random.next_dropout_seed() if self.drops else None
        for call, arguments, substream in self.calls:  # a call would do the same: no module has hooks
            x = call(x, *arguments) if substream is None else call(x, *arguments, seed, substream)
        return x

    def gradient_penalty(self, x: Tensor, kind: str, weight: float) -> Tensor | None:
        """The penalty of the sum of the outputs at x (batch, features), by one call; None if that is not possible."""
        if not ordinary(x) or self.impl == "reference" or self.norms is not None:
            return None
        return ops.mlp_penalty(
            x,
            self.weights,
            self.biases,
            self.layers,
            kind,
            weight,
            input_dropout=self.input_dropout,
            dropout_seed=random.next_dropout_seed if self.drops else None,
            caller=self.caller,
            cache=self.cache,
        )


class _Norms:
    """The batch normalisation of a segment's layers: what a native call reads and updates."""

    def __init__(self, modules: Sequence[nn.BatchNorm1d | None]) -> None:
        self.modules = [m for m in modules if m is not None]
        columns: list[list[Tensor | None]] = [[], [], [], [], []]
        for m in modules:
            mean = variance = batches = None
            if m is not None and (m.track_running_stats or not m.training):
                mean, variance = m.running_mean, m.running_var
                batches = m.num_batches_tracked if m.training else None
            row = (None, None) if m is None else (m.weight, m.bias)
            for column, value in zip(columns, (*row, mean, variance, batches), strict=True):
                column.append(value)
        # scales, shifts, running means, running variances, numbers of batches
        self.tensors = tuple([value for column in columns for value in column])
        self._momenta = [0.0 if m is None else m.momentum for m in modules]
        self._batches = columns[4]
        self._averages = None in self._momenta

    def momenta(self) -> list[float]:
        """The momenta of the running statistics at this call; without a momentum, statistics average all batches."""
        if not self._averages:
            return self._momenta  # type: ignore[return-value]
        pairs = zip(self._momenta, self._batches, strict=True)
        return [m if m is not None else 0.0 if n is None else 1.0 / (int(n) + 1) for m, n in pairs]


def segment(children: Mapping[str, nn.Module], impl: Impl) -> list[Segment | nn.Module]:
    """The steps of a Sequential in order: fused segments, and modules that are called as they are."""
    # Masks of fastgan's Dropout are numbered by its chain, which ends at batch normalisation: trainings depend on it.
    numbered = any(type(m) is Dropout and m.training and m.p > 0 for m in children.values())
    chains: list[SegmentBuilder | nn.Module] = []
    chain: SegmentBuilder | None = None
    for name, child in children.items():
        if obstacle(child) is not None:
            chains.append(child)
            chain = None
        elif chain is None or not chain.take(name, child):
            chain = SegmentBuilder(impl, normalizes=not numbered)
            chains.append(chain if chain.take(name, child) else child)
            chain = chain if chain.children else None
    steps: list[Segment | nn.Module] = []
    for part in chains:
        if not isinstance(part, SegmentBuilder):
            steps.append(part)
        elif part.linears and len(part.children) > 1:
            steps.append(Segment(part))
        else:
            steps.extend(part.children.values())
    return steps


def _unchanged(children: dict[str, Any], seen: tuple[tuple[Any, ...], ...]) -> bool:
    """Whether all that `seen` holds (`Segmentation.seen`) is unchanged."""
    values, kinds, empty, filled, dicts, names, expected = seen
    return (
        tuple(children.values()) == values
        and tuple(map(type, values)) == kinds
        and not any(empty)
        and all(filled)
        and all(map(is_, map(dict.get, dicts, names), expected))
    )


unchanged = _unchanged if native is None else native.unchanged


class Segmentation:
    """The steps of a Sequential and all that they were derived from; valid until any of that changes.

    Segmentation costs several times a check, and many changes are possible: a hook, a mode, a child or a parameter
    replaced. So the check compares all inputs of the segmentation by identity.
    """

    def __init__(self, children: Mapping[str, nn.Module], impl: Impl) -> None:
        self.steps = segment(children, impl)
        self.impl = impl
        values = tuple(children.values())
        known = [child for child in values if type(child) in DECIDING]
        of_known = [h for child in known for h in hooks(child)]
        compared: list[Any] = [(m.__dict__, name, m.__dict__.get(name)) for m in known for name in DECIDING[type(m)]]
        linears: list[Any] = [m for m in known if type(m) in LINEARS]
        norms: list[Any] = [m for m in known if type(m) is nn.BatchNorm1d]
        for layer in (*linears, *norms):
            compared += [(layer._parameters, name, getattr(layer, name)) for name in ("weight", "bias")]
        for norm in norms:
            compared += [(norm._buffers, name, getattr(norm, name)) for name in RUNNING]
        # children, their kinds, the hooks that are empty and those that are not; dicts, names, and what is under them
        self.seen: tuple[tuple[Any, ...], ...] = (
            values,
            tuple(map(type, values)),
            (*GLOBAL_HOOKS, *(h for h in of_known if not h)),
            tuple([h for h in of_known if h]),
            *(tuple([row[i] for row in compared]) for i in range(3)),
        )
        # dtypes and devices change in place, unseen; tensors swapped in for one call are not to be kept alive
        self.reusable = all(
            parameter_obstacle(layer) is None
            and all(p is None or isinstance(p, nn.Parameter) for p in (layer.weight, layer.bias))
            for layer in linears
        ) and all(p is None or isinstance(p, nn.Parameter) for norm in norms for p in (norm.weight, norm.bias))


def steps_of(module: Any) -> list[Segment | nn.Module]:
    """The current steps of a Sequential, cached while its segmentation is current."""
    children = module._modules
    if torch.compiler.is_compiling():
        return segment(children, module.impl)
    last: Segmentation | None = module.__dict__.get("_segmentation")
    if last is not None and last.impl is module.impl and unchanged(children, last.seen):
        return last.steps
    if any(GLOBAL_HOOKS) or torch.jit.is_tracing():  # a trace would record the sizes that segmentation looks at
        return list(children.values())
    last = Segmentation(children, module.impl)
    module.__dict__["_segmentation"] = last if last.reusable else None
    return last.steps
