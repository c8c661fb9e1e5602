"""The networks of tests/algorithm1.py: layers, dropout, batch normalisation and heads, written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastgan.nn
from fastgan import (
    reference,
)
from fastgan.random import Purpose

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, s: x,
    "relu": lambda x, s: x * (x > 0),
    "leaky_relu": lambda x, s: torch.where(x > 0, x, s * x),
    "tanh": lambda x, s: torch.tanh(x),
    "sigmoid": lambda x, s: torch.sigmoid(x),
    "elu": lambda x, s: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1),
    "softplus": lambda x, s: torch.logaddexp(x, torch.zeros_like(x)),
    "gelu": lambda x, s: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
}
MODULES = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ELU: "elu",
    nn.Softplus: "softplus", nn.GELU: "gelu",
}  # fmt: skip


def stretches(network: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules in the order they run, in groups. Dropouts of one group share a key: fastgan's Sequential draws one
    for each chain `[dropout] (linear [activation] [dropout])...`."""
    if not isinstance(network, nn.Sequential):
        yield [network]
        return
    may_follow = {
        "start": ("dropout", "linear"), "first dropout": ("linear",), "linear": ("linear", "activation", "dropout"),
        "activation": ("linear", "dropout"), "dropout": ("linear",), "end": (),
    }  # fmt: skip
    chain: list[nn.Module] = []
    state = "end"
    for module in network:
        if type(module) is nn.Identity and chain:  # it changes nothing
            chain.append(module)
            continue
        kind = (
            "linear" if isinstance(module, nn.Linear | fastgan.nn.Maxout)
            else "dropout" if isinstance(module, fastgan.nn.Dropout)
            else "activation" if type(module) in MODULES else "other"
        )  # fmt: skip
        if not isinstance(network, fastgan.nn.Sequential) or kind == "other":
            yield from filter(None, [chain])
            chain, state = [], "end"
            yield from stretches(module)
            continue
        if kind not in may_follow[state]:
            yield from filter(None, [chain])
            chain, state = [], "start"
        chain.append(module)
        inside = isinstance(module, fastgan.nn.Maxout) or getattr(module, "activation", "none") != "none"
        state = (
            "end" if state == "start" and kind == "activation"
            else "first dropout" if state == "start" and kind == "dropout"
            else "activation" if kind == "linear" and inside else kind
        )  # fmt: skip
    yield from filter(None, [chain])


class PlainNetwork:
    """A network as formulas over copies of its parameters and running statistics."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.stretches = list(stretches(module))
        self.values = {name: value.detach().clone().to(dtype if value.is_floating_point() else value.dtype)
                       for name, value in module.state_dict().items()}  # fmt: skip
        self.names = {id(m): name for name, m in module.named_modules()}
        self.trained = [name for name, p in module.named_parameters() if p.requires_grad]
        for name in self.trained:
            self.values[name].requires_grad_()
        self.kink = math.inf  # the least distance of any number from a place where a derivative jumps
        self.penalised = False  # then also from a place where a second derivative jumps

    def get(self, module: nn.Module, what: str) -> Any:
        path = self.names[id(module)]
        return self.values.get(f"{path}.{what}" if path else what)

    def parameters(self) -> list[Tensor]:
        return [self.values[name] for name in self.trained]

    def __call__(self, x: Tensor, next_dropout_seed: Callable[[], int]) -> Tensor:
        for stretch in self.stretches:
            drops = [m for m in stretch if isinstance(m, fastgan.nn.Dropout) and m.training and m.p > 0]
            noisy = any(isinstance(m, fastgan.nn.Heads) and "gumbel_softmax" in dict(m.groups) for m in stretch)
            key, layer = next_dropout_seed() if drops or noisy else 0, 0
            for module in stretch:
                layer += isinstance(module, nn.Linear | fastgan.nn.Maxout)
                x = self.apply(module, x, key, layer, bool(drops) and module in drops)
        return x

    def apply(self, module: Any, x: Tensor, key: int, layer: int, drop: bool) -> Tensor:
        if isinstance(module, nn.Linear | fastgan.nn.Maxout):
            bias = self.get(module, "bias")
            x = x.matmul(self.get(module, "weight").t()) + (0.0 if bias is None else bias)
            if isinstance(module, fastgan.nn.Maxout):
                pieces = x.reshape(len(x), -1, module.pieces)
                if module.pieces > 1:
                    two = pieces.detach().topk(2, -1).values
                    self.note(two[..., 0] - two[..., 1])
                return (pieces * nn.functional.one_hot(pieces.argmax(-1), module.pieces)).sum(-1)
            return self.activate(getattr(module, "activation", "none"), x, getattr(module, "negative_slope", 0.0))
        if isinstance(module, nn.BatchNorm1d):
            return self.normalise(module, x)
        if isinstance(module, fastgan.nn.Residual):
            new = self.apply(module.linear, x, key, layer, False)
            return torch.cat([self.activate("relu", self.normalise(module.norm, new), 0.0), x], 1)
        if isinstance(module, fastgan.nn.Heads):
            return heads(module.groups, module.tau, x, key)
        if type(module) in MODULES:
            return self.activate(MODULES[type(module)], x, getattr(module, "negative_slope", 0.0))
        if drop:
            ones = torch.ones_like(x, dtype=torch.float64)
            return x * reference.dropout(ones, module.p, torch.tensor(key), layer).to(x.dtype)
        assert isinstance(module, nn.Flatten | nn.Identity | nn.Dropout), f"no formula for {module}"
        return x

    def activate(self, name: str, x: Tensor, derivative: float) -> Tensor:
        if name in ("relu", "leaky_relu") or (name == "elu" and self.penalised):
            self.note(x)
        return ACTIVATIONS[name](x, derivative)

    def note(self, distance: Tensor) -> None:
        if distance.numel():
            self.kink = min(self.kink, float(distance.detach().abs().min()))

    def normalise(self, module: nn.BatchNorm1d, x: Tensor) -> Tensor:
        mean = x.sum(0) / len(x)
        variance = ((x - mean) ** 2).sum(0) / len(x)
        weight, bias = self.get(module, "weight"), self.get(module, "bias")
        if (running := self.get(module, "running_mean")) is not None:
            running.mul_(1 - module.momentum).add_(module.momentum * mean.detach())
            running = self.get(module, "running_var")
            running.mul_(1 - module.momentum).add_(module.momentum * variance.detach() * len(x) / (len(x) - 1))
            self.get(module, "num_batches_tracked").add_(1)
        if x.dtype == torch.float32:  # how far rounding leads: by the closed form of torch and the engines
            return nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=module.eps)
        x = (x - mean) / (variance + module.eps).sqrt()
        return x * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)

    @torch.no_grad()
    def bound(self, limit: float) -> None:
        for stretch in self.stretches:
            for module in (m.linear if isinstance(m, fastgan.nn.Residual) else m for m in stretch):
                if isinstance(module, nn.Linear | fastgan.nn.Maxout):
                    weight = self.get(module, "weight")
                    if not weight.requires_grad:
                        continue  # a frozen layer stays as it is
                    weight *= (limit / weight.double().square().sum(1, keepdim=True).sqrt()).clamp(max=1.0)


def heads(groups: Any, tau: float, x: Tensor, key: int) -> Tensor:
    """Each group by itself; noise of the Gumbel distribution by its quantile function."""
    rows, quads = len(x), -(-x.shape[1] // 4)
    u = reference.random_uniform(4 * rows * quads, seed=key, purpose=int(Purpose.GUMBEL), step=0, substream=0)
    u, parts, first = u.reshape(rows, 4 * quads).to(x.dtype), [], 0
    for kind, width in groups:
        part = x[:, first : first + width]
        if kind == "gumbel_softmax":
            part = (part - torch.log(-torch.log(u[:, first : first + width]))) / tau
        if "softmax" in kind:
            odds = torch.exp(part - part.detach().max(1, keepdim=True).values)
            part = odds / odds.sum(1, keepdim=True)
        parts.append(1 - 2 / (torch.exp(2 * part) + 1) if kind == "tanh" else part)
        first += width
    return torch.cat(parts, 1)
