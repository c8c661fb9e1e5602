"""Optimisers as frozen descriptions: Adam, and momentum SGD with the original code's schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import options
from fastgan.options import MomentumConvention


@dataclass(frozen=True)
class Adam:
    """Adam; `build` gives a `torch.optim.Adam`.

    Args:
        lr: learning rate.
        betas: decay of the two moments; (0.5, 0.999) is DCGAN's choice.
        eps: added to the root of the second moment.

    Source: Kingma and Ba (2015), Algorithm 1; the defaults are those of Radford et al. (2016).
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _at_least("Adam", "lr", self.lr, 0.0)
        _at_least("Adam", "eps", self.eps, 0.0)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"Adam: betas must be two numbers in [0, 1), got {self.betas!r}")
        object.__setattr__(self, "betas", tuple(self.betas))  # a list from JSON would not compare equal

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters, its state allocated (step 0, moments 0)."""
        parameters = list(parameters)
        optimizer = torch.optim.Adam(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, fused=_fusable(parameters) or None
        )
        for parameter in parameters:
            device = parameter.device if optimizer.defaults["fused"] else torch.device("cpu")
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer, *, update: int, epoch: float) -> None:
        """Adam's rate is constant: nothing to set."""


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with momentum and the schedules of the original code.

    Two conventions: "torch", v <- m v + g and p <- p - lr v (`torch.optim.SGD`); "pylearn2", v <- m v - lr g
    and p <- p + v, with the rate inside the velocity. They agree while the rate is constant and part where it
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
        _at_least("Momentum", "lr", self.lr, 0.0)
        _at_least("Momentum", "lr_decay", self.lr_decay, 1.0)
        _at_least("Momentum", "min_lr", self.min_lr, 0.0)
        for name, value in (("momentum", self.momentum), ("momentum_final", self.momentum_final)):
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"Momentum: {name} must lie in [0, 1), got {value!r}")
        if self.convention not in options.names(MomentumConvention):
            raise ValueError(f"Momentum: convention must be 'torch' or 'pylearn2', got {self.convention!r}")
        if (self.momentum_final is None) != (self.saturate_epochs is None):
            raise ValueError("Momentum: momentum_final and saturate_epochs must be given together, got one of them")
        if self.saturate_epochs is not None:
            _at_least("Momentum", "saturate_epochs", self.saturate_epochs, 1.0)

    @property
    def is_constant(self) -> bool:
        """Whether rate and momentum stay what they are."""
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
        if inside or 0.0 in (self.momentum, self.momentum_final):  # at momentum 0 torch's keeps no velocity
            optimizer = VelocitySGD(parameters, lr=self.lr, momentum=self.momentum, rate_inside=inside)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, fused=_fusable(parameters) or None
            )
        for parameter in parameters:
            optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
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
        self._rate_inside = rate_inside

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rate_inside": self._rate_inside}  # torch's own names three attributes

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
            inside, outside = (-group["lr"], 1.0) if self._rate_inside else (1.0, -group["lr"])
            torch._foreach_add_(velocities, [p.grad for p in moved], alpha=inside)
            torch._foreach_add_(moved, velocities, alpha=outside)
        return loss


Optimizer = Adam | Momentum


def _fusable(parameters: list[Tensor]) -> bool:
    """Whether torch's fused update can take them: an update then costs one call, not a dozen a tensor."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def _at_least(owner: str, name: str, value: float, least: float) -> None:
    if not isinstance(value, int | float) or not least <= value < float("inf"):
        raise ValueError(f"{owner}: {name} must be a finite number of at least {least:g}, got {value!r}")
