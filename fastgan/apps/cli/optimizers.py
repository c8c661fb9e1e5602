"""The flags of optimisers and of the schedules of their rates."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fastgan.apps.cli.arguments import natural, number, share
from fastgan.training import SGD, Adam, AdamW, CosineDecay, LinearDecay, Momentum, RMSprop, StepDecay, TrainConfig

Optimizer = Adam | AdamW | Momentum | SGD | RMSprop
_SCHEDULES = ("cosine", "linear", "step")

_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(),
    "adamw": AdamW(),
    "momentum": Momentum(0.1),
    "sgd": SGD(0.1),
    "rmsprop": RMSprop(5e-5),
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of optimisers and of their schedules."""
    group = command.add_argument_group("optimiser")
    # Not "optimizer": that is a field of TrainConfig, and holds more than a name.
    group.add_argument("--optimizer", dest="optimizer_kind", choices=(*_OPTIMIZERS,), help="of both networks (adam)")
    for flag, kind, text in (
        ("--lr", number, "learning rate (the preset's)"),
        ("--generator-lr", number, "of G alone (--lr, else the preset's)"),
        ("--discriminator-lr", number, "of D alone (--lr, else the preset's)"),
        ("--beta1", share, "Adam's decay of the first moment (0.5)"),
        ("--beta2", share, "Adam's decay of the second moment (0.999)"),
        ("--momentum", number, "of momentum (0.5), sgd (0) or rmsprop (0)"),
        ("--weight-decay", number, "of adamw (0.01), adam, sgd or rmsprop (0)"),
    ):
        group.add_argument(flag, type=kind, metavar="X", help=text)
    group.add_argument(
        "--schedule",
        choices=("none", *_SCHEDULES),
        help="of both rates: down to a factor of them along half a cosine or a line, or times a factor in steps",
    )
    group.add_argument(
        "--schedule-steps",
        type=natural,
        metavar="N",
        help="iterations until the last rate of cosine and linear (all), between two changes of step (a third of all)",
    )
    group.add_argument(
        "--schedule-factor",
        type=number,
        metavar="X",
        help="of the rate: the last one of cosine and linear (0), at each change of step (0.1)",
    )


def gives_rates(arguments: argparse.Namespace) -> bool:
    """Whether a learning rate was given."""
    return any(rate is not None for rate in (arguments.lr, arguments.generator_lr, arguments.discriminator_lr))


def optimizers(arguments: argparse.Namespace, base: TrainConfig) -> dict[str, Optimizer | None]:
    """The preset's optimisers with the flags applied; D's is the common one where G's differs."""
    generator = _optimizer(arguments, base.optimizer_of_generator, arguments.generator_lr)
    discriminator = _optimizer(arguments, base.optimizer_of_discriminator, arguments.discriminator_lr)
    if (generator, discriminator) == (base.optimizer_of_generator, base.optimizer_of_discriminator):
        return {}  # a resumed run keeps the fields of its own config
    return {
        "optimizer": discriminator,
        "generator_optimizer": None if generator == discriminator else generator,
        "discriminator_optimizer": None,
    }


def _optimizer(arguments: argparse.Namespace, optimizer: object, own_rate: float | None) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise ValueError("config.json's optimizer must be one of fastgan's here; continue such a run by fastgan.train")
    kind = arguments.optimizer_kind
    if kind is not None and kind not in _OPTIMIZERS:  # of a file
        raise ValueError(f"--optimizer must be one of {', '.join(_OPTIMIZERS)}, got {kind!r}")
    if kind is not None and type(optimizer) is not type(_OPTIMIZERS[kind]):
        optimizer = _OPTIMIZERS[kind]
    rate = own_rate if own_rate is not None else arguments.lr
    changes = {"lr": rate, "momentum": arguments.momentum, "weight_decay": arguments.weight_decay}
    if arguments.beta1 is not None or arguments.beta2 is not None:
        old = getattr(optimizer, "betas", (0.0, 0.0))
        new = arguments.beta1, arguments.beta2
        changes["betas"] = tuple(b if a is None else a for a, b in zip(new, old, strict=True))
    asked = {name: value for name, value in changes.items() if value is not None}
    known = {field.name for field in dataclasses.fields(optimizer)}
    flags_of = {"betas": "--beta1 and --beta2", "momentum": "--momentum", "weight_decay": "--weight-decay"}
    for name, flags in flags_of.items():
        if name in asked and name not in known:
            fits = ", ".join(kind for kind, one in _OPTIMIZERS.items() if hasattr(one, name))
            raise ValueError(f"{flags} must come with --optimizer {fits}, got {type(optimizer).__name__}")
    return dataclasses.replace(optimizer, **asked)


def schedules(arguments: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """The fields of the requested schedule; none if none was requested: a resumed run keeps its own.

    Raises:
        ValueError: a part of a schedule without a schedule.
    """
    kind, steps, factor = arguments.schedule, arguments.schedule_steps, arguments.schedule_factor
    if kind not in (None, "none", *_SCHEDULES):  # of a file
        raise ValueError(f"--schedule must be one of none, {', '.join(_SCHEDULES)}, got {kind!r}")
    for flag, value in (("--schedule-steps", steps), ("--schedule-factor", factor)):
        if value is not None and kind in (None, "none"):
            raise ValueError(f"{flag} must come with --schedule {', '.join(_SCHEDULES)}, got {value}")
    if kind is None:
        return {}
    if factor is not None and not (0.0 < factor <= 1.0 or factor == 0.0 and kind != "step"):
        interval = "(0, 1]" if kind == "step" else "[0, 1]"
        raise ValueError(f"--schedule-factor must lie in {interval}, got {factor:g}")
    found = {}
    for network, updates in (("generator", config.generator_steps), ("discriminator", config.k)):
        found[network] = None if kind == "none" else _schedule(kind, config, network, updates, steps, factor)
    same = found["generator"] == found["discriminator"]
    own = {f"{network}_scheduler": None if same else schedule for network, schedule in found.items()}
    return {"scheduler": found["generator"] if same else None, **own}


def _schedule(
    kind: str, config: TrainConfig, network: str, updates: int, steps: int | None, factor: float | None
) -> CosineDecay | LinearDecay | StepDecay:
    """The schedule of a network with so many updates per iteration."""
    every = max(1, config.steps // 3) if kind == "step" else max(1, config.steps)
    length = (every if steps is None else steps) * updates
    if kind == "step":
        return StepDecay(length, 0.1 if factor is None else factor)
    if kind == "linear":
        return LinearDecay(length, last=factor or 0.0)
    rule = config.optimizer_of(network)
    assert isinstance(rule, Optimizer)  # `optimizers` has refused it
    return CosineDecay(length, least=(factor or 0.0) * rule.lr)
