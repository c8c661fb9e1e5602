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
from fastgan._run_folder import TABLE, checkpoints, of_member
from fastgan._torch_settings import torch_threads
from fastgan.training import TrainConfig
from fastgan.training.callbacks import Callback
from fastgan.training.members import Member
from fastgan.training.population import train_members
from fastgan.training.sampled import SampledRows

from . import model_folder

if TYPE_CHECKING:
    from .config import TabularConfig
    from .gan import TabularGAN

invalid = Invalid("fit_population")


def configs(
    base: TabularConfig, seeds: Iterable[int] | None, grid: Mapping[str, Iterable[Any]] | None
) -> list[TabularConfig]:
    """All members: every combination of the grid's values, the last option fastest, with every seed.

    Raises:
        TypeError, ValueError: an option that is none, a value that breaks its rule, nothing to train, the same GAN
            twice.
    """
    known = [item.name for item in dataclasses.fields(base) if item.name != "seed"]
    values: dict[str, list[Any]] = {}
    for name, given in (grid or {}).items():
        if name not in known:
            raise invalid.value("grid", f"must name options ({', '.join(known)}), got {name!r}")
        if isinstance(given, str) or not isinstance(given, Iterable) or not (listed := list(given)):
            raise invalid.value(f"grid[{name!r}]", f"must be a list of values, got {given!r}")
        values[name] = listed
    steps = values.get("steps", [base.steps])
    if "epochs" in values and steps != [None]:
        raise invalid.value(
            "grid", f"must not have epochs where steps are given, which replace them, got steps {steps}"
        )
    if not isinstance(seeds, Iterable | None):
        raise invalid.type("seeds", f"must be a list of integers, got {seeds!r}")
    own = [base.seed] if seeds is None else list(seeds)
    if not own:
        raise invalid.value("seeds", "must hold at least one seed, got none")
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    found = [dataclasses.replace(base, **point, seed=seed) for point in points for seed in own]
    if twice := [config for number, config in enumerate(found) if config in found[:number]]:
        raise invalid.value("members", f"must differ, got one with seed {twice[0].seed} twice")
    return found


def seed_of_columns(folder: Path | None, members: int, otherwise: int) -> int:
    """The seed that fitted the columns of the population that is resumed; otherwise: as in `model_folder`.

    Raises:
        ValueError: there is no folder.
    """
    if folder is None:
        raise invalid.value("run_dir", "must be given where resume is True, got None")
    begun = (path for number in range(members) if (path := of_member(folder, number) / TABLE).is_file())
    return model_folder.seed_of_columns(next(begun, folder / TABLE).parent, otherwise)


def train(
    fitted: TabularGAN,
    planned: Sequence[TabularConfig],
    rows: SampledRows,
    *,
    progress: bool,
    callbacks: Sequence[Callback],
    folder: Path | None,
    resume: bool,
) -> list[TabularGAN]:
    """Copies of a TabularGAN with fitted columns, each trained with its own config; arguments as `fit_population`'s."""
    members = [copy.copy(fitted) for _ in planned]
    for member, config in zip(members, planned, strict=True):
        member.config = config

    def body(number: int) -> dict[str, Any]:
        return model_folder.describe(members[number], rows.sampler.counts, fitted._fingerprint, interrupted=True)

    if folder is not None:
        callbacks = [*callbacks, model_folder.KeepModel(body)]
    for number in range(len(planned)):
        if resume and folder is not None:
            own = of_member(folder, number)
            if (own / TABLE).is_file() or checkpoints(own / "checkpoint"):
                model_folder.check_same_table(own, body(number), invalid)

    def training(number: int) -> TrainConfig:
        own = of_member(folder, number) if folder is not None and resume else None
        return model_folder.as_begun(own, planned[number].training(len(rows), fitted.device))

    with torch_threads(fitted.threads or torch.get_num_threads()):
        result = train_members(
            [Member(i, i, {}, training(i)) for i in range(len(planned))],
            lambda member: fitted._networks(planned[member.number], rows.sampler.width),
            rows,
            callbacks=callbacks,
            resume=resume,
            run_dir=folder,
            threads=fitted.threads,
            progress=progress,
        )
    for number, (member, trained) in enumerate(zip(members, result.members, strict=True)):
        member.gan, member.failed = trained.gan, trained.failed
        member._take(trained, rows)
        if folder is not None and trained.step and not trained.failed:
            member.save(of_member(folder, number))
    return members
