"""One side of the game in PyTorch: its gradients and its updates."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from fastgan import nn
from fastgan._errors import Invalid
from fastgan._ranks import Ranks
from fastgan.models import GAN
from fastgan.training import plugins, tricks
from fastgan.training.config import TrainConfig
from fastgan.training.optimizers import Optimizer
from fastgan.training.plugins import Built, SchedulerFactory


class Player:
    """One side of the game: a network's trainable parameters, what updates them, and the bounds on both.

    Args:
        network: of this side.
        name: of the network in errors.
        optimizer: of its trainable parameters.
        max_col_norm, max_grad_norm, max_grad_value, clip_weights, historical_averaging: as in `TrainConfig`.
        scheduler: its field in the config, and what makes it.
        ranks: the processes that share each batch; an update is by the mean of their gradients.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: Optimizer | Built,
        *,
        name: str,
        max_col_norm: float | None = None,
        max_grad_norm: float | None = None,
        max_grad_value: float | None = None,
        clip_weights: float | None = None,
        historical_averaging: float = 0.0,
        scheduler: tuple[str, SchedulerFactory | None] = ("scheduler", None),
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        self.network, self.name, self.max_col_norm, self.clip_weights = network, name, max_col_norm, clip_weights
        self.max_grad_norm, self.max_grad_value = max_grad_norm, max_grad_value
        self.description = optimizer
        self.optimizer = optimizer.build(self.parameters)
        self.historical_averaging = historical_averaging
        if historical_averaging:
            tricks.begin_average(self.optimizer)
        field, factory = scheduler
        self.scheduler = None if factory is None else plugins.build_scheduler(field, factory, self.optimizer)

    @classmethod
    def of(cls, gan: GAN, config: TrainConfig, name: str, ranks: Ranks | None = None) -> Self:
        """The "generator" or the "discriminator" of a run."""
        return cls(
            getattr(gan, name),
            config.optimizer_of(name),
            name=f"gan.{name}",
            max_col_norm=config.max_col_norm,
            max_grad_norm=config.max_grad_norm,
            max_grad_value=config.max_grad_value,
            clip_weights=config.clip_weights_of(name),
            historical_averaging=config.historical_averaging,
            scheduler=config.scheduler_of(name),
            ranks=ranks,
        )

    def differentiate(self, loss: Tensor, *, keep_graph: bool = False, first: bool = True, last: bool = True) -> None:
        """Gradients of the loss for this player alone; hooks on its parameters and modules are called.

        first, last: of the losses whose gradients add up.
        """
        if not loss.requires_grad:
            rule = "must be part of its loss: a forward, or a loss of your own, detaches it or runs under torch.no_grad"
            raise Invalid("train")(RuntimeError, f"the output of {self.name}", rule)
        for parameter in self.parameters if first else ():
            parameter.grad = None
        # Not `autograd.grad`: it calls no hooks for accumulated gradients, and lays gradients out as it likes, while
        # torch's fused updates pair the elements of a parameter and its gradient by their offsets in memory.
        torch.autograd.backward(loss, inputs=self.parameters, retain_graph=keep_graph)
        if last:
            self.ranks.mean_([p.grad for p in self.parameters if p.grad is not None])

    def pull(self) -> Tensor | float:
        """The term of historical averaging in the loss of an update; None before the first."""
        if not self.historical_averaging:
            return 0.0
        return self.historical_averaging * tricks.distance_from_average(self.optimizer, self.parameters)

    def grad_norm(self) -> float:
        """Euclidean norm of the last gradients; waits for the device."""
        return float(torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm())

    def update(self, *, update: int, epoch: int) -> None:
        """Apply the gradients. update: counted from 0; epoch: counted from 1."""
        if self.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, self.max_grad_value)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        if self.scheduler is None:
            self.description.schedule(self.optimizer, update=update, epoch=epoch)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.clip_weights is not None:
            with torch.no_grad():
                torch._foreach_clamp_min_(self.parameters, -self.clip_weights)
                torch._foreach_clamp_max_(self.parameters, self.clip_weights)
        if self.max_col_norm is not None:
            nn.init.max_col_norm_(self.network, self.max_col_norm)
        if self.historical_averaging:
            tricks.update_average(self.optimizer, self.parameters)
