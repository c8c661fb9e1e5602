"""THE table: one row a loss formula, a network, an operation. A new loss needs one row here (and one in reference.py).

The rows are for values against the float64 reference, limits, finite differences of both orders, and opcheck.
Tolerances belong to the row and the dtype; the same rows run on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastgan import ops, reference
from fastgan._backend import why_not
from fastgan.ops import LayerSpec

IMPLS = ("native", "reference")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INF, NAN = math.inf, math.nan
DIGITS = {torch.float32: 24, torch.float64: 53, torch.float16: 11, torch.bfloat16: 8}  # of the significand, in bits


def name_of(x: object) -> str:
    """A short test id for a dtype or a row."""
    return str(getattr(x, "name", x)).removeprefix("torch.")


def need(impl: str, operation: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Skip, visibly and with the reason, where `impl` cannot run the operation."""
    reason = why_not(operation, device, dtype) if impl == "native" else None
    if reason:
        pytest.skip(f"no native {operation}: {reason}")


# ---------------------------------------------------------------- units in the last place


def ulp_error(got: Tensor, want: Tensor, least: float = 0.0) -> Tensor:
    """|got - want| in units in the last place of got's dtype at `want` (float64), or at `least` where that is larger.

    Equal infinities and NaN count 0; a NaN on one side counts infinity; overflow to infinity is right beyond the
    largest number of the dtype.
    """
    info = torch.finfo(got.dtype)
    wide = got.double()
    size = want.abs().clamp(max(info.tiny, least), info.max).nan_to_num(1.0)
    unit = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - DIGITS[got.dtype])
    error = (wide - want).abs() / unit
    overflow = wide.isinf() & (want.abs() > info.max) & (wide.sign() == want.sign())
    error = torch.where((wide == want) | overflow, 0.0, error)
    return torch.where(got.isnan() | want.isnan(), torch.where(got.isnan() & want.isnan(), 0.0, INF), error)


def bit_patterns(dtype: torch.dtype, stride: int = 1, chunk: int = 1 << 16) -> Iterator[Tensor]:
    """Every stride-th bit pattern of a type, subnormals, infinities and NaN among them, a chunk at a time."""
    bits = torch.finfo(dtype).bits
    integer = {16: torch.int16, 32: torch.int32}[bits]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    for start in range(low, high, stride * chunk):
        numbers = torch.arange(start, min(start + stride * chunk, high), stride, dtype=torch.int64)
        yield numbers.to(integer).view(dtype)


# ---------------------------------------------------------------- losses

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LossCase:
    """A formula of one logit (or probability), with what is known of it without computing."""

    formula: str
    at_low: Triple  # exact value, gradient and second derivative at the lower end of the domain
    at_high: Triple | None  # and at the upper; None where that depends on the dtype (a test of its own says how)
    target: float = 0.0  # exact in every dtype where the limits depend on it
    domain: tuple[float, float] = (-INF, INF)
    ulp: Triple = (2.0, 2.0, 4.0)  # allowed to the native core, in the computing type, per order
    reference_ulp: Triple = (3.0, 3.0, 6.0)  # allowed to plain PyTorch
    derivative_unit: float = 0.0  # the gradient cancels near a zero: errors count in units of this size
    smooth: tuple[float, float] = (-3.0, 3.0)  # where finite differences are taken
    kinks: tuple[float, ...] = ()  # points to stay clear of there
    hold: float = INF  # logits above are held here (in float64 at 709)
    logistic: bool = False  # made of softplus and sigmoid: the losses of the paper

    @property
    def name(self) -> str:
        return f"{self.formula}-{self.target:.3g}" if self.target else self.formula

    def want(self, x: Tensor, order: int = 0, impl: str = "native") -> Tensor:
        """The float64 reference at x, its target rounded as the native core's is: to the type it computes in."""
        exact = x.dtype == torch.float64 or impl == "reference"
        target = self.target if exact else torch.tensor(self.target).item()
        wide = x.detach().cpu().double()
        wide = wide if x.dtype == torch.float64 else wide.clamp(max=self.hold)
        return reference.pointwise(wide, self.formula, target, order)

    def points(self, *shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
        """Inputs in the domain, clear of the kinks."""
        low, high = self.smooth
        unit = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        x = low + (high - low) * unit
        for kink in self.kinks:
            x = torch.where((x - kink).abs() < 0.05, x + 0.1, x)
        return x.to(device, dtype)


_PROBABILITY = {"domain": (0.0, 1.0), "smooth": (0.1, 0.9), "ulp": (2.0, 2.0, 4.0)}
_SOFT = {"ulp": (2.0, 3.0, 4.0), "reference_ulp": (3.0, 6.0, 6.0), "logistic": True}
_HELD = 2.0**-20

LOSSES = (
    LossCase("non_saturating", (INF, -1, 0), (0, 0, 0), logistic=True),
    LossCase("fake", (0, 0, 0), (INF, 1, 0), logistic=True),
    LossCase("minimax", (0, 0, 0), (-INF, -1, 0), logistic=True),
    LossCase("mle", (0, 0, 0), None, hold=88.0),
    LossCase("soft_target", (INF, -0.875, 0), (INF, 0.125, 0), 0.875, derivative_unit=0.1, **_SOFT),
    LossCase("soft_target", (INF, -0.9, 0), (INF, 0.1, 0), 0.9, derivative_unit=0.09, **_SOFT),
    LossCase("soft_target", (INF, -1, 0), (0, 0, 0), 1.0, logistic=True),
    LossCase("soft_target", (0, 0, 0), (INF, 1, 0), 0.0, logistic=True),
    LossCase("hinge_real", (INF, -1, 0), (0, 0, 0), kinks=(1.0,)),
    LossCase("hinge_fake", (0, 0, 0), (INF, 1, 0), kinks=(-1.0,)),
    LossCase("least_squares", (INF, -INF, 1), (INF, INF, 1), 0.0),
    LossCase("least_squares", (INF, -INF, 1), (INF, INF, 1), 1.0),
    LossCase("wasserstein_real", (INF, -1, 0), (-INF, -1, 0)),
    LossCase("wasserstein_fake", (-INF, 1, 0), (INF, 1, 0)),
    LossCase("probability_real", (INF, -INF, INF), (0, -1, 1), **_PROBABILITY),
    LossCase("probability_real", (20 * math.log(2), -(2.0**20), 2.0**40), (0, -1, 1), _HELD, **_PROBABILITY),
    LossCase("probability_fake", (0, 1, 1), (INF, INF, INF), **_PROBABILITY),
    LossCase("probability_fake", (0, 1, 1), (20 * math.log(2), 2.0**20, 2.0**40), _HELD, **_PROBABILITY),
)
LOGISTIC = tuple(case for case in LOSSES if case.logistic)

# (formula of real, formula of fake, targets): the pairs `ops.pair_loss` fuses
PAIRS = (
    (("non_saturating", "fake"), (0.0, 0.0)),
    (("soft_target", "soft_target"), (0.9, 0.1)),
    (("hinge_real", "hinge_fake"), (0.0, 0.0)),
    (("least_squares", "least_squares"), (1.0, 0.0)),
    (("wasserstein_real", "wasserstein_fake"), (0.0, 0.0)),
    (("minimax", "mle"), (0.0, 0.0)),
    (("probability_real", "probability_fake"), (_HELD, _HELD)),
)


def row(formula: str) -> LossCase:
    """The first row of a formula."""
    return next(case for case in LOSSES if case.formula == formula)


# ---------------------------------------------------------------- networks


@dataclass(frozen=True)
class MlpCase:
    """An MLP for `ops.mlp`; sizes are widths of units, so maxout layers have pieces times as many rows."""

    name: str
    sizes: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    bias: bool = True
    input_dropout: float = 0.0

    @property
    def drops(self) -> bool:
        return self.input_dropout > 0 or any(layer.dropout for layer in self.layers)

    def make(
        self, *batch: int, dtype: torch.dtype = torch.float64, device: str = "cpu", grad: bool = False, seed: int = 0
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None], Tensor | None]:
        """x, weights, biases and, where something drops, a key."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            made = torch.randn(shape, dtype=torch.float64, generator=generator) * scale
            return made.to(device, dtype).requires_grad_(grad)

        weights, biases = [], []
        for fan_in, units, layer in zip(self.sizes, self.sizes[1:], self.layers, strict=False):
            weights.append(normal(units * layer.pieces, fan_in, scale=1.5 * fan_in**-0.5))
            biases.append(normal(units * layer.pieces, scale=0.5) if self.bias else None)
        key = torch.tensor(0x1234_5678_9ABC) if self.drops else None
        return normal(*batch, self.sizes[0]), weights, biases, key

    def run(
        self, x: Tensor, weights: list[Tensor], biases: list[Tensor | None], key: Tensor | None, impl: str
    ) -> Tensor:
        return ops.mlp(x, weights, biases, self.layers, input_dropout=self.input_dropout, dropout_seed=key, impl=impl)


def _mlp(name: str, *sizes: int, bias: bool = True, input_dropout: float = 0.0, **layer: object) -> MlpCase:
    spec = LayerSpec(**layer)  # type: ignore[arg-type]
    return MlpCase(name, sizes, (spec,) * (len(sizes) - 1), bias, input_dropout)


ACTIVATIONS = tuple(reference.ACTIVATIONS)
MLPS = (
    *(_mlp(activation, 5, 7, 3, activation=activation) for activation in ACTIVATIONS),
    _mlp("one_layer", 3, 1),
    _mlp("steep_leak", 4, 6, 2, activation="leaky_relu", negative_slope=0.01),
    _mlp("no_bias", 6, 4, 4, activation="tanh", bias=False),
    _mlp("maxout", 4, 5, 3, pieces=3),
    _mlp("dropout", 3, 6, 2, activation="relu", dropout=0.5),
    _mlp("input_dropout", 6, 3, 2, activation="softplus", input_dropout=0.2),
    MlpCase(
        "original",  # the shape of the paper's discriminator: maxout, both dropouts, a linear logit
        (4, 3, 3, 1),
        (LayerSpec(pieces=3, dropout=0.5), LayerSpec(pieces=3, dropout=0.5), LayerSpec()),
        input_dropout=0.2,
    ),
    MlpCase("mixed", (3, 4, 3, 2), (LayerSpec("gelu", dropout=0.3), LayerSpec(pieces=2), LayerSpec("sigmoid"))),
)


# ---------------------------------------------------------------- arguments of the custom operators, for opcheck


def _numbers(case: MlpCase) -> tuple[str, list[float]]:
    names = ",".join(layer.activation for layer in case.layers)
    return names, [v for layer in case.layers for v in (layer.negative_slope, float(layer.pieces), layer.dropout)]


def _mlp_arguments(case: MlpCase, grad: bool = True, save: bool = True) -> tuple[object, ...]:
    x, weights, biases, key = case.make(4, dtype=torch.float32, grad=grad)
    present = [w.new_empty(0) if b is None else b for w, b in zip(weights, biases, strict=True)]
    return x, weights, present, *_numbers(case), case.input_dropout, key, save


def _mlp_backward_arguments(case: MlpCase) -> tuple[object, ...]:
    from fastgan import _operators

    arguments = _mlp_arguments(case, grad=False)
    y, work = _operators._mlp(*arguments)
    return *arguments[:-1], work, torch.ones_like(y)


def _pointwise_arguments(case: LossCase) -> tuple[object, ...]:
    return case.points(5, dtype=torch.float32).requires_grad_(), case.formula, case.target, 0


def _pair_arguments(
    pair: int, m: int, n: int | None, dtype: torch.dtype, mean: bool, grad: bool = True
) -> tuple[object, ...]:
    formulas, targets = PAIRS[pair]
    real = row(formulas[0]).points(m, dtype=dtype).requires_grad_(grad)
    fake = None if n is None else row(formulas[1]).points(n, dtype=dtype, seed=1).requires_grad_(grad)
    return real, fake, *formulas, *targets, mean, grad, grad and n is not None


def _dropout_arguments(*shape: int, p: float = 0.5, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    return torch.ones(shape, dtype=dtype, requires_grad=True), p, torch.tensor(7), 3


# operator -> makers of at least six tuples of arguments each
OPERATORS: dict[str, list[Callable[[], tuple[object, ...]]]] = {
    "pointwise": [
        *((lambda c=case: _pointwise_arguments(c)) for case in LOSSES),
        lambda: (row("fake").points(3, 4).requires_grad_(), "fake", 0.0, 1),
        lambda: (row("fake").points(6, dtype=torch.bfloat16), "fake", 0.0, 2),
        lambda: (row("minimax").points(4, 6, dtype=torch.float32).t().requires_grad_(), "minimax", 0.0, 0),
        lambda: (torch.empty(0, requires_grad=True), "non_saturating", 0.0, 0),
    ],
    "pair_loss": [
        *((lambda i=i: _pair_arguments(i, 5, 3, torch.float32, True)) for i in range(len(PAIRS))),
        lambda: _pair_arguments(0, 5, 3, torch.float64, False),
        lambda: _pair_arguments(0, 8, None, torch.float32, True),
        lambda: _pair_arguments(0, 4, 4, torch.float16, True),
        lambda: _pair_arguments(0, 4, 4, torch.float32, True, grad=False),
    ],
    "dropout": [
        lambda: _dropout_arguments(4, 6),
        lambda: _dropout_arguments(7),
        lambda: _dropout_arguments(2, 3, 5, p=0.2),
        lambda: _dropout_arguments(4, 6, dtype=torch.float64),
        lambda: _dropout_arguments(4, 6, p=1.0),
        lambda: _dropout_arguments(0, 6),
    ],
    "mlp": [
        *((lambda c=case: _mlp_arguments(c)) for case in MLPS),
        lambda: _mlp_arguments(MLPS[-1], grad=False, save=False),
    ],
    "mlp_backward": [(lambda c=case: _mlp_backward_arguments(c)) for case in MLPS],
}
