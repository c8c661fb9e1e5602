"""Optimisers as frozen descriptions: those of torch.optim, and momentum SGD with the original code's schedules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import _options
from fastgan._errors import Invalid, is_number
from fastgan._options import MomentumConvention
from fastgan._torch_settings import without_dynamo
from fastgan.training.plain import take_plain_numbers


class _OfTorch:
    """Base class: an optimiser of torch.optim with a constant rate."""

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters, its state allocated (step 0, moments 0)."""
        parameters = list(parameters)
        with without_dynamo():
            optimizer = self._make(parameters, _fusable(parameters) or None)
        allocate(optimizer)
        return optimizer

    def _make(self, parameters: list[Tensor], fused: bool | None) -> torch.optim.Optimizer:
        raise NotImplementedError

    def schedule(self, optimizer: torch.optim.Optimizer, *, update: int, epoch: float) -> None:
        """Does nothing: the rate is constant, or a scheduler sets it."""


@dataclass(frozen=True)
class Adam(_OfTorch):
    """Adam; `build` gives a `torch.optim.Adam`.

    Args:
        lr: learning rate.
        betas: decay of the two moments; (0.5, 0.999) is DCGAN's choice.
        eps: added to the root of the second moment.
        weight_decay: times a weight, added to its gradient.

    Source: Kingma and Ba (2015), Algorithm 1; the defaults are those of Radford et al. (2016).
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        with contextlib.suppress(TypeError):  # refused below
            object.__setattr__(self, "betas", tuple(self.betas))  # a list from JSON would not compare equal
        take_plain_numbers(self)
        for name in ("lr", "eps", "weight_decay"):
            _at_least(type(self).__name__, name, getattr(self, name), 0.0)
        pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        if not pair or not all(is_number(beta) and 0.0 <= beta < 1.0 for beta in self.betas):
            raise Invalid(type(self).__name__).value("betas", f"must be two numbers in [0, 1), got {self.betas!r}")

    def _make(self, parameters: list[Tensor], fused: bool | None) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if isinstance(self, AdamW) else torch.optim.Adam
        return kind(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay is a step of its own: p <- p - lr weight_decay p; `build` gives a `torch.optim.AdamW`.

    Args:
        lr, betas, eps: as in `Adam`.
        weight_decay: each update subtracts lr * weight_decay * p from a parameter p.

    Source: Loshchilov and Hutter (2019), Algorithm 2.
    """

    weight_decay: float = 0.01


@dataclass(frozen=True)
class SGD(_OfTorch):
    """Stochastic gradient descent; `build` gives a `torch.optim.SGD`. `Momentum` has the original code's schedules.

    Args:
        lr: learning rate.
        momentum: m in v <- m v + g; p <- p - lr v. 0: p <- p - lr g.
        nesterov: p <- p - lr (g + m v) instead.
        weight_decay: times a weight, added to its gradient.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        _at_least("SGD", "lr", self.lr, 0.0)
        _at_least("SGD", "weight_decay", self.weight_decay, 0.0)
        _below_one("SGD", "momentum", self.momentum)
        if self.nesterov and self.momentum == 0.0:
            raise Invalid("SGD").value("momentum", "must be above 0 where nesterov is True, got 0.0")

    def _make(self, parameters: list[Tensor], fused: bool | None) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=fused
        )


@dataclass(frozen=True)
class RMSprop(_OfTorch):
    """Gradients over the root of their mean square; `build` gives a `torch.optim.RMSprop`.

    Args:
        lr: learning rate; WGAN's is 5e-5.
        alpha: decay of the mean square.
        eps: added to its root.
        momentum: m in v <- m v + g / root; p <- p - lr v.
        weight_decay: times a weight, added to its gradient.

    Source: Tieleman and Hinton (2012), lecture 6.5.
    """

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        for name in ("lr", "eps", "weight_decay"):
            _at_least("RMSprop", name, getattr(self, name), 0.0)
        _below_one("RMSprop", "alpha", self.alpha)
        _below_one("RMSprop", "momentum", self.momentum)

    def _make(self, parameters: list[Tensor], fused: bool | None) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, self.lr, self.alpha, self.eps, self.weight_decay, momentum=self.momentum)


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with momentum and the schedules of the original code.

    Two conventions: "torch", v <- m v + g and p <- p - lr v (`torch.optim.SGD`); "pylearn2", v <- m v - lr g
    and p <- p + v, with the rate inside the velocity. They agree while the rate is constant, and differ when it
    changes.

    Args:
        lr: learning rate lr0 of the first update.
        momentum: m of the first epoch.
        convention: "torch" or "pylearn2".
        lr_decay: update t (from 0) uses max(lr0 / lr_decay**t, min_lr).
        min_lr: least rate of the decay.
        momentum_final: m at `saturate_epochs` and after, reached linearly epoch by epoch; None: constant.
        saturate_epochs: epoch, counted from 1, at which m arrives.

    Source: Goodfellow et al. (2014), section 5 ("we used momentum"), and its code: lr 0.1, decay 1.000004,
    momentum 0.5 to 0.7 in 250 epochs.
    """

    lr: float
    momentum: float = 0.5
    convention: MomentumConvention = "torch"
    lr_decay: float = 1.0
    min_lr: float = 0.0
    momentum_final: float | None = None
    saturate_epochs: float | None = None

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        _at_least("Momentum", "lr", self.lr, 0.0)
        _at_least("Momentum", "lr_decay", self.lr_decay, 1.0)
        _at_least("Momentum", "min_lr", self.min_lr, 0.0)
        _below_one("Momentum", "momentum", self.momentum)
        if self.momentum_final is not None:
            _below_one("Momentum", "momentum_final", self.momentum_final)
        if self.convention not in _options.names(MomentumConvention):
            raise Invalid("Momentum").value("convention", f"must be 'torch' or 'pylearn2', got {self.convention!r}")
        if (self.momentum_final is None) != (self.saturate_epochs is None):
            raise Invalid("Momentum").value(
                "momentum_final and saturate_epochs", "must be given together, got one of them"
            )
        if self.saturate_epochs is not None:
            _at_least("Momentum", "saturate_epochs", self.saturate_epochs, 1.0)

    @property
    def is_constant(self) -> bool:
        """Whether rate and momentum are constant."""
        return self.lr_decay == 1.0 and self.momentum_final is None

    def learning_rate(self, update: int) -> float:
        """Rate of update t, counted from 0: max(lr0 / lr_decay**t, min_lr)."""
        if self.lr_decay == 1.0:
            return self.lr
        try:
            return max(self.lr / self.lr_decay**update, self.min_lr)
        except OverflowError:  # lr_decay**t beyond the largest float: the limit
            return self.min_lr

    def momentum_at(self, epoch: float) -> float:
        """Momentum of an epoch, counted from 1: linear up to `momentum_final` at `saturate_epochs`."""
        if self.momentum_final is None or self.saturate_epochs is None:
            return self.momentum
        span = self.saturate_epochs - 1
        progress = min(max((epoch - 1) / span, 0.0), 1.0) if span > 0 else 1.0
        return self.momentum * (1.0 - progress) + self.momentum_final * progress

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters, its velocities allocated (zero)."""
        parameters = list(parameters)
        optimizer: torch.optim.Optimizer
        inside = self.convention == "pylearn2"
        with without_dynamo():
            if inside or 0.0 in (self.momentum, self.momentum_final):  # at momentum 0 torch's SGD keeps no velocity
                optimizer = VelocitySGD(parameters, lr=self.lr, momentum=self.momentum, rate_inside=inside)
            else:
                fused = _fusable(parameters) or None
                optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, fused=fused)
        allocate(optimizer)
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer, *, update: int, epoch: float) -> None:
        """Set the rate of update t (from 0) and the momentum of the epoch (from 1)."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(update)
            group["momentum"] = self.momentum_at(epoch)


class VelocitySGD(torch.optim.Optimizer):
    """Momentum SGD whose state "momentum_buffer" is v at any momentum.

    Args:
        rate_inside: True, as pylearn2 wrote it: v <- m v - lr g; p <- p + v. False: v <- m v + g; p <- p - lr v.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, *, rate_inside: bool) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})
        self.rate_inside = rate_inside

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rate_inside": self.rate_inside}  # torch's method leaves it out

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            velocities = [self.state[p]["momentum_buffer"] for p in moved]
            torch._foreach_mul_(velocities, group["momentum"])
            inside, outside = (-group["lr"], 1.0) if self.rate_inside else (1.0, -group["lr"])
            torch._foreach_add_(velocities, [p.grad for p in moved], alpha=inside)
            torch._foreach_add_(moved, velocities, alpha=outside)
        return loss


Optimizer = Adam | AdamW | Momentum | SGD | RMSprop
# What the compiled engines read and write for each parameter, in the order of csrc/optimizer.h: the state of torch's
# optimiser, which keeps no momentum_buffer while its momentum is 0.
STATES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
    VelocitySGD: ("momentum_buffer",),
    torch.optim.RMSprop: ("square_avg", "momentum_buffer"),
}


def allocate(optimizer: torch.optim.Optimizer) -> None:
    """Create missing state of each trained parameter, as before its first update: zeros."""
    kind = type(optimizer)
    for group in optimizer.param_groups:
        wanted = [n for n in STATES[kind] if n != "momentum_buffer" or group["momentum"] or kind is VelocitySGD]
        for p in (p for p in group["params"] if p.requires_grad and wanted):
            state = optimizer.state[p]
            if kind not in (torch.optim.SGD, VelocitySGD) and "step" not in state:
                on_device = group.get("fused") or group.get("capturable")
                state["step"] = torch.zeros((), device=p.device if on_device else "cpu", dtype=torch.float32)
            for name in wanted:
                if state.get(name) is None:
                    state[name] = torch.zeros_like(p)


def _fusable(parameters: list[Tensor]) -> bool:
    """Whether torch's fused update supports these parameters: one call instead of a dozen for each tensor."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def _at_least(owner: str, name: str, value: float, least: float) -> None:
    if not is_number(value) or not least <= value < float("inf"):
        raise Invalid(owner).value(name, f"must be a finite number of at least {least:g}, got {value!r}")


def _below_one(owner: str, name: str, value: float) -> None:
    if not is_number(value) or not 0.0 <= value < 1.0:
        raise Invalid(owner).value(name, f"must lie in [0, 1), got {value!r}")
