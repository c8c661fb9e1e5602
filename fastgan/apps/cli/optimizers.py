"""The flags of `fastgan train` for optimisers, and what they make of a preset's."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fastgan.apps.cli.arguments import number, share
from fastgan.training import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    RMSprop,
    TrainConfig,
)
from fastgan.training.optimizers import Optimizer
from fastgan.training.plugins import Built

_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(),
    "adamw": AdamW(),
    "momentum": Momentum(0.1),
    "sgd": SGD(0.1),
    "rmsprop": RMSprop(5e-5),
}


def add(group: Any) -> None:
    """The flags."""
    # Not "optimizer": that is a field of TrainConfig, and holds more than a name.
    group.add_argument("--optimizer", dest="optimizer_kind", choices=(*_OPTIMIZERS,), help="of both networks")
    for flag, kind, text in (
        ("--lr", number, "learning rate"),
        ("--generator-lr", number, "of G alone"),
        ("--discriminator-lr", number, "of D alone"),
        ("--beta1", share, "Adam's decay of the first moment"),
        ("--beta2", share, "Adam's decay of the second moment"),
        ("--momentum", number, "of momentum, sgd or rmsprop"),
        ("--weight-decay", number, "of adam, adamw, sgd or rmsprop"),
    ):
        group.add_argument(flag, type=kind, metavar="X", help=text)


def gives_rates(arguments: argparse.Namespace) -> bool:
    """Whether one of them gives a learning rate."""
    return any(rate is not None for rate in (arguments.lr, arguments.generator_lr, arguments.discriminator_lr))


def of_config(arguments: argparse.Namespace, base: TrainConfig) -> dict[str, Optimizer | None]:
    """The preset's optimisers with the flags applied; D's is the common one where G's differs."""
    generator = _optimizer(arguments, base.optimizer_of_generator, arguments.generator_lr)
    discriminator = _optimizer(arguments, base.optimizer_of_discriminator, arguments.discriminator_lr)
    if (generator, discriminator) == (base.optimizer_of_generator, base.optimizer_of_discriminator):
        return {}  # a resumed run keeps the fields that it had them in
    return {
        "optimizer": discriminator,
        "generator_optimizer": None if generator == discriminator else generator,
        "discriminator_optimizer": None,
    }


def _optimizer(arguments: argparse.Namespace, optimizer: Optimizer | Built, own_rate: float | None) -> Optimizer:
    if isinstance(optimizer, Built):
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
