"""A population of TabularGANs of one table: its members, by seeds and options, and their training."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastgan._errors import Invalid
from fastgan._torch_settings import torch_threads
from fastgan.training import display, train_population
from fastgan.training.callbacks import Callback
from fastgan.training.sampled import SampledRows

if TYPE_CHECKING:
    from .gan import TabularConfig, TabularGAN

# Options on which the networks depend: members that differ in one train one after another.
_OF_NETWORKS = ("latent_dim", "generator_hidden", "discriminator_hidden", "dropout", "temperature", "pack")

invalid = Invalid("fit_population")


def configs(
    base: TabularConfig, seeds: Iterable[int] | None, grid: Mapping[str, Iterable[Any]] | None
) -> list[TabularConfig]:
    """All members: every combination of the grid's values, the last option fastest, with every seed.

    Raises:
        TypeError, ValueError: an option that is none, a value that breaks its rule, nothing to train.
    """
    known = [item.name for item in dataclasses.fields(base) if item.name != "seed"]
    values: dict[str, list[Any]] = {}
    for name, given in (grid or {}).items():
        if name not in known:
            raise invalid.value("grid", f"must name options ({', '.join(known)}), got {name!r}")
        if isinstance(given, str) or not isinstance(given, Iterable) or not (listed := list(given)):
            raise invalid.value(f"grid[{name!r}]", f"must be a list of values, got {given!r}")
        values[name] = listed
    own = [base.seed] if seeds is None else list(seeds)
    if not own:
        raise invalid.value("seeds", "must hold at least one seed, got none")
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    return [dataclasses.replace(base, **point, seed=seed) for point in points for seed in own]


def alike(planned: Sequence[TabularConfig]) -> list[list[int]]:
    """The numbers of members whose networks have the same form."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, config in enumerate(planned):
        groups.setdefault(tuple(getattr(config, name) for name in _OF_NETWORKS), []).append(number)
    return list(groups.values())


def train(
    fitted: TabularGAN,
    planned: Sequence[TabularConfig],
    rows: SampledRows,
    *,
    progress: bool,
    callbacks: Sequence[Callback],
    folder: Path | None,
) -> list[TabularGAN]:
    """Copies of a TabularGAN with fitted columns, each trained with its own config; arguments as `fit_population`'s."""
    found: dict[int, TabularGAN] = {}
    for numbers in alike(planned):
        like = planned[numbers[0]]
        trainings = [planned[number].training(len(rows), fitted.device) for number in numbers]
        steps = sum(each.steps for each in trainings)
        displays = display.progress(steps, members=len(numbers), quiet=not progress)
        with torch_threads(fitted.threads or torch.get_num_threads()), displays as bars:
            result = train_population(
                lambda seed, like=like: fitted._networks(dataclasses.replace(like, seed=seed), rows.sampler.width),
                rows,
                [dataclasses.replace(each, checkpoint_every=0) for each in trainings],
                callbacks=[*bars, *callbacks],
                threads=fitted.threads,
            )
        for number, trained in zip(numbers, result.members, strict=True):
            found[number] = member = copy.copy(fitted)
            member.config, member.gan, member.failed = planned[number], trained.gan, trained.failed
            member._take(trained, rows)
            if folder is not None and not member.failed:
                member.save(folder / f"member-{number:04d}")
        if result.interrupted:
            break
    return [found[number] for number in sorted(found)]
