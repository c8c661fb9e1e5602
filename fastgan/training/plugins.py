"""Users' own optimisers, schedulers and losses of PyTorch, given as functions."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastgan._errors import Invalid
from fastgan.training import plain

invalid = Invalid("train")

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]
OwnLoss = tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., Tensor]]


_MUON = (
    "must build from what it is given, got Muon, which takes matrices alone: give a list of optimisers, as "
    "[Muon([p for p in params if p.ndim == 2]), AdamW([p for p in params if p.ndim != 2])]"
)


class Several(torch.optim.Optimizer):
    """Optimisers that share the parameters of a network, as one: their groups, their states, one step of each."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each part; of its own groups and states, which loading a checkpoint replaces."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups, part.state = [next(groups) for _ in part.param_groups], self.state
            part.step()


@dataclass(frozen=True)
class Built:
    """An optimiser that a factory makes, with the interface of `fastgan.Adam`.

    Args:
        factory: a class of `torch.optim`, one with arguments (`functools.partial`), or a function of the parameters,
            which may give several optimisers that share them.
        field: of the config, for messages.
    """

    factory: OptimizerFactory
    field: str

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of exactly these parameters.

        Raises:
            TypeError, ValueError: the factory fails, or gives something else.
        """
        optimizer = _call(self.field, self._make, parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise invalid.type(f"config.{self.field}", f"must give a torch.optim.Optimizer, got {kind_of(optimizer)}")
        given = {id(parameter) for parameter in parameters}
        updated = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        if strangers := len(set(updated) - given):
            raise invalid.value(
                f"config.{self.field}", f"must update the parameters it is given, got {strangers} others"
            )
        if left := len(given - set(updated)):
            raise invalid.value(
                f"config.{self.field}", f"must update all {len(given)} parameters it is given, got {left} left out"
            )
        for part in optimizer.parts if isinstance(optimizer, Several) else (optimizer,):
            closure = inspect.signature(type(part).step).parameters.get("closure")
            needed = closure is not None and closure.default is inspect.Parameter.empty
            if needed or isinstance(part, torch.optim.SparseAdam):
                what = "whose step needs no closure" if needed else "of dense gradients"
                raise invalid.value(f"config.{self.field}", f"must give an optimiser {what}, got {kind_of(part)}")
        return optimizer

    def _make(self, parameters: list[Tensor]) -> Any:
        """What the factory makes; several optimisers as one."""
        made = self.factory(parameters)
        if isinstance(made, list | tuple) and made and all(isinstance(part, torch.optim.Optimizer) for part in made):
            return Several(made)
        return made

    def schedule(self, optimizer: torch.optim.Optimizer, *, update: int, epoch: float) -> None:
        """Does nothing: the optimiser or a scheduler sets the rate."""


def build_scheduler(field: str, factory: SchedulerFactory, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The scheduler of this optimiser.

    Raises:
        TypeError, ValueError: the factory fails, or gives something else, or a scheduler of another optimiser.
    """
    scheduler = _call(field, factory, optimizer)
    if not isinstance(scheduler, LRScheduler):
        got = kind_of(scheduler)
        raise invalid.type(f"config.{field}", f"must give a torch.optim.lr_scheduler.LRScheduler, got {got}")
    if isinstance(scheduler, ReduceLROnPlateau):
        raise invalid.value(f"config.{field}", f"must give a scheduler of the updates alone, got {kind_of(scheduler)}")
    if getattr(scheduler, "optimizer", None) is not optimizer:
        raise invalid.value(
            f"config.{field}", f"must schedule the optimiser it is given, got {kind_of(scheduler)} of another"
        )
    return scheduler


def _call(field: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return factory(argument)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        rule = _MUON if why.startswith("Muon only supports 2D") else f"must build from what it is given, got {why}"
        raise invalid.value(f"config.{field}", rule) from error


def all_as_built(players: Mapping[str, Any]) -> dict[str, Any]:
    """What functions in the config made: each network's `description`, `optimizer`, `scheduler`."""
    return {
        name: as_built(player.optimizer, player.scheduler)
        for name, player in players.items()
        if isinstance(player.description, Built) or player.scheduler is not None
    }


def schedulers_of(players: Mapping[str, Any]) -> dict[str, LRScheduler]:
    """The schedulers by network, without networks that have none."""
    return {name: player.scheduler for name, player in players.items() if player.scheduler is not None}


def as_built(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Classes and numbers before the first update, which a resume compares: JSON, functions left out."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    described: dict[str, Any] = {"optimizer": kind_of(optimizer), "groups": [_known(group) for group in groups]}
    if scheduler is not None:
        described |= {"scheduler": kind_of(scheduler), "schedule": _known(scheduler.state_dict())}
    return described


def _known(values: dict[str, Any]) -> dict[str, Any]:
    known = {}
    for name, value in values.items():
        try:
            known[name] = plain.encode(value)
        except TypeError:
            continue
    return known


# ---------------------------------------------------------------- factories and losses as JSON


def describe(value: Any) -> dict[str, Any]:
    """A factory or a loss as JSON: classes of PyTorch with plain arguments so that `recall` gives them back.

    Anything else by name alone, under "function".
    """
    maker, keywords = (value.func, value.keywords) if isinstance(value, functools.partial) else (value, {})
    whole = not (isinstance(value, functools.partial) and value.args)
    module = _public(maker)
    if whole and module is not None:
        try:
            described = {"type": f"{module}.{maker.__name__}", **plain.encode(dict(keywords))}
        except TypeError:
            pass
        else:
            return described
    return {"function": name_of(value)}


def recall(described: dict[str, Any]) -> Any:
    """The class of PyTorch, with its arguments, that `describe` described.

    Raises:
        ValueError: it is a function, known by its name alone, or there is no such class.
    """
    if "function" in described:
        raise Invalid("TrainConfig").value(
            described["function"], "is known by its name alone: give the function itself"
        )
    module, _, name = str(described.get("type")).rpartition(".")
    maker = getattr(importlib.import_module(module), name, None) if module in _MODULES else None
    if not isinstance(maker, type):
        got = described.get("type")
        raise Invalid("TrainConfig").value(
            "optimizer type", f"must be one of fastgan's or a class of torch.optim, got {got!r}"
        )
    keywords = {name: plain.decode(value) for name, value in described.items() if name != "type"}
    return functools.partial(maker, **keywords) if keywords else maker


_MODULES = ("torch.optim", "torch.optim.lr_scheduler")


def _public(maker: Any) -> str | None:
    """The module of PyTorch with a class of this name, or None."""
    if not isinstance(maker, type):
        return None
    return next((m for m in _MODULES if getattr(importlib.import_module(m), maker.__name__, None) is maker), None)


def name_of(value: Any) -> str:
    """The name of a function or class, or of several, for messages."""
    if isinstance(value, tuple):
        return ", ".join(map(name_of, value))
    if isinstance(value, functools.partial):
        return f"partial({name_of(value.func)})"
    named = value if hasattr(value, "__qualname__") else type(value)
    return str(named.__qualname__)


def kind_of(value: object) -> str:
    """The name of its class; of several optimisers, the names of theirs."""
    return " and ".join(map(kind_of, value.parts)) if isinstance(value, Several) else type(value).__name__


# ---------------------------------------------------------------- losses


def takes_real_logits(generator_loss: Callable[..., Tensor]) -> bool:
    """Whether a generator's loss takes D's logits of real data: a second argument without default, or of that name.

    A function without a signature takes the fakes' logits alone.
    """
    try:
        parameters = list(inspect.signature(generator_loss).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = positional[1] if len(positional) > 1 else None
    return any(p.name == "real_logits" for p in parameters) or (second is not None and second.default is second.empty)


def check_loss(loss: OwnLoss, logits: Tensor) -> None:
    """Call both functions with made-up logits.

    Raises:
        TypeError, ValueError: one fails, or gives something else than a number that depends on the logits.
    """
    real, fake = (logits.detach().clone().requires_grad_() for _ in range(2))
    both = (real, fake), (fake, real) if takes_real_logits(loss[1]) else (fake,)
    for name, function, arguments in zip(("discriminator", "generator"), loss, both, strict=True):
        subject = f"config.loss: the {name}'s"
        try:
            with torch.enable_grad():
                value = function(*arguments)
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise invalid.value(subject, f"must take {len(arguments)} Tensors of logits, got {why}") from error
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)
            raise invalid.type(subject, f"must give one floating number, as a Tensor of no dimension, got {got}")
        if not value.requires_grad:
            raise invalid.value(subject, "must depend on the logits by torch operations, got one that does not")
