"""Every operation in plain, differentiable PyTorch: the oracle of the tests and the fallback on any device.

Written independently of `csrc/formulas.h` on purpose: each formula is written once there and once, differently, here.
Nothing in this module knows of the native core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- formulas of the losses


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), accurate on both sides (F.softplus returns x itself above 20)."""
    return -F.logsigmoid(-x)


class _Hold(torch.autograd.Function):
    """clamp whose derivative stays 1 outside, so that a held value still pushes its input back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return torch.clamp(x, low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class _HoldForward(_Hold):
    """The same with a forward-mode derivative, which torch.compile cannot trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return tangent.clone()


def _hold(x: Tensor, low: float, high: float) -> Tensor:
    return (_Hold if torch.compiler.is_compiling() else _HoldForward).apply(x, low, high)


def _soft_target(x: Tensor, label: float) -> Tensor:
    if label == 1.0:  # a side of weight 0 is left out: 0 * softplus(inf) would be NaN
        return softplus(-x)
    return label * softplus(-x) + (1.0 - label) * softplus(x) if label else softplus(x)


def _held_exp(x: Tensor) -> Tensor:
    """exp of a logit held at 88 (709 in float64), where it and any mean of it are still finite."""
    return torch.exp(_hold(x, -math.inf, 709.0 if x.dtype == torch.float64 else 88.0))


def _probability(p: Tensor) -> Tensor:
    # A product, not where(outside, p * nan, p): the derivative of that is NaN inside as well.
    return p * torch.where((p < 0) | (p > 1), math.nan, 1.0)


def _held_probability(p: Tensor, least: float) -> Tensor:
    return _hold(_probability(p), least, 1.0)


def _log_of_complement(p: Tensor, least: float) -> Tensor:
    small = p < 0.5  # both branches stay finite where the other is taken
    near_zero = torch.log1p(-torch.where(small, _probability(p), 0.0))
    return torch.where(small, near_zero, torch.log(_held_probability(1 - torch.where(small, 0.5, p), least)))


class Formula(NamedTuple):
    """A loss of one logit l with its first and second derivative; `t` is the target, if there is one."""

    value: Callable[[Tensor, float], Tensor]
    derivative: Callable[[Tensor, float], Tensor]
    second_derivative: Callable[[Tensor, float], Tensor]


def _sigmoid_second_derivative(x: Tensor, t: float) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _zero(x: Tensor, t: float) -> Tensor:
    return torch.where(torch.isnan(x), x, 0.0)


def _constant(c: float) -> Callable[[Tensor, float], Tensor]:
    return lambda x, t: torch.where(torch.isnan(x), x, c)


FORMULAS: dict[str, Formula] = {
    "non_saturating": Formula(lambda x, t: softplus(-x), lambda x, t: -torch.sigmoid(-x), _sigmoid_second_derivative),
    "fake": Formula(lambda x, t: softplus(x), lambda x, t: torch.sigmoid(x), _sigmoid_second_derivative),
    "minimax": Formula(
        lambda x, t: -softplus(x), lambda x, t: -torch.sigmoid(x), lambda x, t: -_sigmoid_second_derivative(x, t)
    ),
    "mle": Formula(*(3 * (lambda x, t: -0.5 * _held_exp(x),))),
    "soft_target": Formula(
        _soft_target, lambda x, t: (1 - t) * torch.sigmoid(x) - t * torch.sigmoid(-x), _sigmoid_second_derivative
    ),
    "hinge_real": Formula(
        lambda x, t: torch.relu(1 - x), lambda x, t: torch.where(x >= 1, 0.0, _constant(-1.0)(x, t)), _zero
    ),
    "hinge_fake": Formula(
        lambda x, t: torch.relu(1 + x), lambda x, t: torch.where(x <= -1, 0.0, _constant(1.0)(x, t)), _zero
    ),
    "least_squares": Formula(lambda x, t: 0.5 * (x - t) * (x - t), lambda x, t: x - t, _constant(1.0)),
    "wasserstein_real": Formula(lambda x, t: -x, _constant(-1.0), _zero),
    "wasserstein_fake": Formula(lambda x, t: x.clone(), _constant(1.0), _zero),
    "probability_real": Formula(
        lambda p, t: -torch.log(_held_probability(p, t)),
        lambda p, t: -1 / _held_probability(p, t),
        lambda p, t: 1 / _held_probability(p, t) ** 2,
    ),
    "probability_fake": Formula(
        lambda p, t: -_log_of_complement(p, t),
        lambda p, t: 1 / _held_probability(1 - _probability(p), t),
        lambda p, t: 1 / _held_probability(1 - _probability(p), t) ** 2,
    ),
}


def pointwise(x: Tensor, formula: str, target: float = 0.0, order: int = 0) -> Tensor:
    """The formula's value (order 0), derivative (1) or second derivative (2) at every element, computed in float or
    better."""
    wide = x if x.dtype == torch.float64 else x.float()
    chosen = FORMULAS[formula]
    return (chosen.value, chosen.derivative, chosen.second_derivative)[order](wide, float(target)).to(x.dtype)


def pair_loss(
    real: Tensor,
    fake: Tensor | None,
    formula_real: str,
    formula_fake: str,
    target_real: float,
    target_fake: float,
    mean: bool,
) -> Tensor:
    """The mean (or sum) of one formula over `real` plus that of another over `fake`; accumulates in float64."""
    total = torch.zeros((), dtype=torch.float64, device=real.device if real.device.type != "mps" else "cpu")
    for x, formula, target in ((real, formula_real, target_real), (fake, formula_fake, target_fake)):
        if x is None:
            continue
        wide = x if x.dtype == torch.float64 else x.float()
        values = FORMULAS[formula].value(wide, float(target))
        partial = values.sum(dtype=torch.float64) if values.device.type != "mps" else values.sum().cpu().double()
        total = total + (partial / x.numel() if mean else partial)
    return total.to(real.device, torch.float64 if real.dtype == torch.float64 else torch.float32)


def gradient_penalty(gradient: Tensor, kind: str, weight: float) -> Tensor:
    """The penalty "wgan-gp", "r1" or "r2" of a gradient (batch, ...) of logits; accumulates in float or better."""
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    square = wide.flatten(1).square().sum(1)
    if kind != "wgan-gp":
        return weight / 2 * square.mean()
    zero = square == 0  # sqrt has an infinite derivative there, and infinity times zero is NaN
    norm = torch.sqrt(torch.where(zero, 1.0, square)) * (~zero)
    return weight * (norm - 1).square().mean()


# ---------------------------------------------------------------- layers


class LayerSpec(NamedTuple):
    """One layer of an MLP: `dropout(activation(x @ W.T + b))`, or the largest of `pieces` affine maps (maxout).

    dropout_first: the activation comes after dropout. norm: "none", or batch normalisation before the activation, by
    the statistics of the batch ("batch") or the running ones ("running").
    """

    activation: str = "none"
    negative_slope: float = 0.2
    pieces: int = 1
    dropout: float = 0.0
    dropout_first: bool = False
    norm: str = "none"
    norm_epsilon: float = 1e-5


ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, _: x,
    "relu": lambda x, _: torch.relu(x),
    "leaky_relu": F.leaky_relu,
    "tanh": lambda x, _: torch.tanh(x),
    "sigmoid": lambda x, _: torch.sigmoid(x),
    "elu": lambda x, _: F.elu(x),
    "softplus": lambda x, _: softplus(x),
    "gelu": lambda x, _: F.gelu(x),
}


def dropout(x: Tensor, p: float, dropout_seed: Tensor, substream: int = 0) -> Tensor:
    """Inverted dropout by a counter-based mask: element (row, column) of x is kept by its own random word."""
    if p == 0.0:
        return x
    if p == 1.0:
        return x * 0.0
    features = x.shape[-1] if x.dim() else 1
    rows = x.numel() // features if features else 0
    padded = -(-features // 4) * 4  # a random block of four words never straddles two rows
    words = random_words(
        rows * padded, seed=dropout_seed, purpose=5, step=0, substream=substream, device=x.device
    ).view(rows, padded)[:, :features]
    keep = (words >= round(p * 2.0**32)).to(x.dtype).reshape(x.shape)
    return x * (keep * (1.0 / (1.0 - p)))


def softmax_of_groups(x: Tensor, group: Tensor, groups: int, cold: Tensor, tau: float) -> Tensor:
    """softmax of the features (..., n) of each group; group: int64 (n,). Infinities share the whole.

    cold: bool (n,), the features of groups whose softmax is that of x / tau.
    """
    shape = *x.shape[:-1], groups
    at = group.expand(x.shape)
    with torch.no_grad():  # a softmax does not depend on what is subtracted
        most = x.new_full(shape, -math.inf).scatter_reduce(-1, at, x.detach(), "amax").gather(-1, at)
    below = torch.where(torch.isinf(x) & (x == most), 0.0, x - most)
    weights = torch.exp(below / torch.ones(len(group), dtype=x.dtype, device=x.device).masked_fill(cold, tau))
    return weights / torch.zeros(shape, dtype=x.dtype, device=x.device).scatter_add(-1, at, weights).gather(-1, at)


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    layers: Sequence[LayerSpec],
    input_dropout: float = 0.0,
    dropout_seed: Tensor | None = None,
    norms: Sequence[Sequence[Tensor | None]] = (),
) -> Tensor:
    """Layers `dropout(activation(x @ W.T + b))` one after another; `pieces > 1` keeps the largest of the pieces.

    norms: (scale, shift, running mean, running variance) of each layer, where some have batch normalisation.
    """
    if input_dropout and dropout_seed is not None:
        x = dropout(x, input_dropout, dropout_seed, substream=0)
    for i, (weight, bias, layer) in enumerate(zip(weights, biases, layers, strict=True)):
        x = F.linear(x, weight, bias)
        if layer.pieces > 1:
            pieces = x.unflatten(-1, (-1, layer.pieces))
            x = torch.gather(pieces, -1, pieces.argmax(-1, keepdim=True)).squeeze(-1)
        if layer.norm != "none":
            scale, shift, mean, variance = norms[i]
            by_batch = layer.norm == "batch"
            if by_batch:  # else they would be updated
                mean = variance = None
            x = F.batch_norm(x, mean, variance, scale, shift, training=by_batch, eps=layer.norm_epsilon)
        if layer.dropout and layer.dropout_first and dropout_seed is not None:
            x = dropout(x, layer.dropout, dropout_seed, substream=i + 1)
        x = ACTIVATIONS[layer.activation](x, layer.negative_slope)
        if layer.dropout and not layer.dropout_first and dropout_seed is not None:
            x = dropout(x, layer.dropout, dropout_seed, substream=i + 1)
    return x


# ---------------------------------------------------------------- counter-based random numbers

_WORD = 0xFFFFFFFF
Word = TypeVar("Word", int, Tensor)


def philox(c0: Word, c1: Word, c2: Word, c3: Word, k0: Any, k1: Any) -> tuple[Word, Word, Word, Word]:
    """Philox4x32-10 (Salmon et al., 2011) on Python ints or int64 tensors: four random 32-bit words a counter."""
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def random_words(
    n: int,
    *,
    seed: int | Tensor,
    purpose: int,
    step: int,
    substream: int,
    offset: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Words offset .. offset+n of a stream as int64 (n,): element e is word e % 4 of counter e // 4."""
    first = offset // 4
    block = torch.arange(first, (offset + n + 3) // 4 if n else first, dtype=torch.int64, device=device)
    # A seed in a tensor stays on the CPU: as a scalar it meets tensors of any device without a copy that would wait.
    words = philox(
        block & _WORD,
        (block >> 32) | (substream << 16),
        torch.full_like(block, step & _WORD),
        torch.full_like(block, (step >> 32) | (purpose << 24)),
        seed & _WORD,
        (seed >> 32) & _WORD,
    )
    return torch.stack(words, dim=-1).reshape(-1)[offset - 4 * first :][:n]


def _unit(words: Tensor) -> Tensor:
    """(0, 1) in float64, exact in float32 too: 23 random bits and a half."""
    return ((words >> 9).double() + 0.5) * 2.0**-23


def random_uniform(n: int, **stream: Any) -> Tensor:
    """float64 (n,) uniform in (0, 1)."""
    return _unit(random_words(n, **stream))


def random_normal(n: int, *, offset: int = 0, **stream: Any) -> Tensor:
    """float64 (n,) standard normal by Box and Muller: words (u, v) give the pair r cos, r sin."""
    first = offset // 2 * 2
    words = random_words(-(-(offset + n - first) // 2) * 2, offset=first, **stream)
    u, v = _unit(words).view(-1, 2).unbind(-1)
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * v
    pair = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pair.reshape(-1)[offset - first :][:n]


def permutation(n: int, *, seed: int, epoch: int, start: int, count: int, purpose: int) -> Tensor:
    """Positions start .. start+count of the keyed permutation of range(n): a Feistel network, cycle-walked."""
    keys = random_words(8, seed=seed, purpose=purpose, step=epoch, substream=0).tolist()
    half = max(1, (n - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1

    def encrypt(x: Tensor) -> Tensor:
        left, right = x >> half, x & mask
        for key in keys:
            f = right ^ key
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
                f = ((f ^ (f >> shift)) * factor) & _WORD
            left, right = right, left ^ ((f ^ (f >> 16)) & mask)
        return (left << half) | right

    x = encrypt(torch.arange(start, start + count, dtype=torch.int64, device="cpu"))
    while (outside := x >= n).any():
        x = torch.where(outside, encrypt(x), x)
    return x
