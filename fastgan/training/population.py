"""train_population(): many independent GANs in one call, each with the bits of its solo run."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastgan._errors import Invalid
from fastgan._files import folder_at
from fastgan._ranks import Ranks, ranks
from fastgan._results import Result
from fastgan.models import GAN
from fastgan.nn import saved
from fastgan.training.callbacks import Callback, check_callbacks
from fastgan.training.config import TrainConfig
from fastgan.training.display import progress as display
from fastgan.training.history import COLUMNS
from fastgan.training.lock import locked
from fastgan.training.members import Grid, Member, members
from fastgan.training.scheduler import Outcome, Scheduler
from fastgan.training.session import place

invalid = Invalid("train_population")

log = logging.getLogger("fastgan")


@dataclass(frozen=True, eq=False, repr=False)
class PopulationMember(Result):
    """One GAN of a population, trained.

    Args:
        seed: of its run, and of its first weights.
        overrides: the fields of the config that its grid point changes, by dotted name.
        point: number of the grid point.
        gan: the networks after `step` iterations.
        history: its rows by column, as in `TrainResult`.
        step: iterations done.
        engine, engine_reason: which engine ran, and why.
        interrupted: whether the run ended early, or never began.
        failed: the loss or logit that was not finite, and when, if that ended the run; else None.
    """

    seed: int
    overrides: dict[str, Any]
    point: int
    gan: GAN
    history: dict[str, np.ndarray]
    step: int
    engine: str
    engine_reason: str
    interrupted: bool
    failed: str | None


@dataclass(frozen=True, eq=False, repr=False)
class PopulationResult(Result):
    """The result of a population.

    Args:
        members: in the order of the configs, the grid and the seeds.
        points: the fields that each grid point changes; one empty dictionary if only seeds differ.
        history: by column, float64 arrays (members, steps), NaN after the end of a member; "step" is (steps,).
        steps_per_second: iterations a second of all members together, in this call.
        engine, engine_reason: of the members; where they differ, all engines and the first reason.
        interrupted: whether a member ended early without having failed.
    """

    members: list[PopulationMember]
    points: list[dict[str, Any]]
    history: dict[str, np.ndarray]
    steps_per_second: float
    engine: str
    engine_reason: str
    interrupted: bool

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """For each column, the mean over the seeds with finite numbers at each grid point, (points, steps)."""
        return {name: moments[0] for name, moments in self._moments.items()}

    @property
    def standard_error(self) -> dict[str, np.ndarray]:
        """For each column, the standard error of `mean`, (points, steps); NaN with fewer than two finite numbers."""
        return {name: moments[1] for name, moments in self._moments.items()}

    @functools.cached_property
    def _moments(self) -> dict[str, np.ndarray]:
        of_point = [[i for i, m in enumerate(self.members) if m.point == p] for p in range(len(self.points))]
        return {
            name: np.stack([mean_and_error(column[numbers]) for numbers in of_point], 1)
            for name, column in self.history.items()
            if name != "step"
        }


def mean_and_error(values: np.ndarray) -> np.ndarray:
    """The mean over seeds, and its standard error: of the finite values along the first axis.

    Args:
        values: (seeds, ...).

    Returns:
        Array (2, ...): the means; their standard errors, NaN with fewer than two finite values.
    """
    finite = np.isfinite(values)
    n = finite.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(finite, values, 0.0).sum(0) / n
        squares = np.where(finite, values - mean, 0.0) ** 2
        return np.stack([mean, np.sqrt(squares.sum(0) / (n - 1) / n)])


@torch.inference_mode(False)
def train_population(
    make_gan: Callable[..., GAN],
    data: Any,
    config: TrainConfig | Sequence[TrainConfig],
    *,
    seeds: Iterable[int] | None = None,
    grid: Grid | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    change: Collection[str] = (),
    run_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> PopulationResult:
    """Train many independent GANs; each ends with the same bits as when trained alone.

    Equivalent to `[train(make_gan(c.seed), data, c) for c in configs]`, with a member on each thread of the CPU, on
    each multiprocessor of the GPU or on a few streams, as the engine allows; the eager engine trains them one after
    another.

    Under torchrun, or in any process group of torch.distributed, every rank must call it: members are dealt to the
    ranks in turn, and every rank returns all of them. Callbacks are called for the rank's own members.

    Args:
        make_gan: gives a new GAN for a seed, or without arguments; called under
            `torch.manual_seed(seed)`, twice a member: once to check it, once to train it.
        data: as for `train`; shared by all members.
        config: how to train, or a list of such.
        seeds: of the members of each config; None: the config's own.
        grid: values by field of the config ("k", "optimizer.lr", "optimizer.betas.0"), all combinations of them.
        callbacks: called for each member as in `train`; `run.member` is its number.
        resume: continue each member of `run_dir` from its newest checkpoint; those without one begin.
        change: what the configs may change on a resume, as in `train`: ("lr",), the learning rates.
        run_dir: folder for one run folder a member, member-0000 and so on; None writes nothing.
        threads: of the CPU for the compiled engine; None: `torch.get_num_threads()`.
        progress: show the progress of rank 0's members on standard error, as `train` does.

    Returns:
        PopulationResult. A member whose losses are not finite ends alone, marked as failed. After Ctrl-C (or SIGTERM,
        with a run folder) the state of all is saved.

    Raises:
        TypeError, ValueError: an argument that breaks its rule, before anything runs.
        CheckpointError: nothing to resume from, or a damaged or different checkpoint.
        OSError: the run folder cannot be written.
        RuntimeError: another rank broke down.
    """
    planned, build = members(config, seeds, grid), _builder(make_gan)
    return train_members(
        planned,
        lambda member: build(member.config.seed),
        data,
        callbacks=callbacks,
        resume=resume,
        change=change,
        run_dir=run_dir,
        threads=threads,
        progress=progress,
    )


@torch.inference_mode(False)
def train_members(
    planned: list[Member],
    build: Callable[[Member], GAN],
    data: Any,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    change: Collection[str] = (),
    run_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> PopulationResult:
    """`train_population` of members whose networks may differ.

    Args:
        planned: the members, in the order of their numbers.
        build: gives the new networks of one of them.
        data, callbacks, resume, change, run_dir, threads, progress: as for `train_population`.

    Raises:
        As `train_population`.
    """
    callbacks = check_callbacks(invalid, callbacks)
    for callback in callbacks:
        if callback.one_run:
            name = type(callback).__name__
            raise invalid.value("callbacks", f"must be for many runs, got {name}, which is for train")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise invalid.value("threads", f"must be an integer of at least 1, got {threads!r}")
    if change and not resume:
        raise invalid.value("change", f"must be empty where resume is False, got {change!r}")
    table = np.full((len(COLUMNS) - 1, len(planned), max(member.config.steps for member in planned)), np.nan)
    begun = time.perf_counter()
    with ranks() as group:
        own = planned[group.rank :: group.size]
        folder = None if run_dir is None else folder_at(invalid, "run_dir", run_dir)
        count = threads or torch.get_num_threads()
        iterations = sum(member.config.steps for member in own)
        with display(iterations, members=len(own), quiet=not (progress and group.is_first)) as displays:
            seen = [*displays, *callbacks]
            scheduler = Scheduler(own, build, data, seen, folder, resume, change, count, table)
            outcomes, gans = _gathered(group, scheduler, planned, build, table)
    iterations = sum(outcome.step - outcome.first for outcome in outcomes)
    rate = iterations / max(time.perf_counter() - begun, 1e-9)
    history = dict(zip(COLUMNS[1:], table, strict=True))
    found = [_member(*each, history) for each in zip(planned, outcomes, gans, strict=True)]
    failed = [member for member in found if member.failed]
    if failed and group.rank == 0:
        log.warning("train_population: %d of %d members failed: %s", len(failed), len(found), failed[0].failed)
    points: dict[int, dict[str, Any]] = {}
    for member in planned:
        points.setdefault(member.point, member.overrides)
    engine, reason = _engine(found)
    steps = np.arange(1, table.shape[2] + 1)
    stopped = any(member.interrupted for member in found)
    return PopulationResult(found, list(points.values()), {"step": steps, **history}, rate, engine, reason, stopped)


def _builder(make_gan: Callable[..., GAN]) -> Callable[[int], GAN]:
    """make_gan as a function of the seed, whether or not it takes one."""
    if not callable(make_gan):
        raise invalid.type("make_gan", f"must be callable, got {type(make_gan).__name__}")
    parameters = inspect.signature(make_gan).parameters.values()
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = any(p.name == "seed" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    needed = any(p.default is p.empty for p in by_place)

    def build(seed: int) -> GAN:
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            gan = make_gan(seed=seed) if by_name else make_gan(seed) if needed else make_gan()
        if not isinstance(gan, GAN):
            raise invalid.type("make_gan", f"must give a fastgan.GAN, got {type(gan).__name__}")
        return gan

    return build


def _gathered(
    group: Ranks, scheduler: Scheduler, planned: list[Member], build: Callable[[Member], GAN], table: np.ndarray
) -> tuple[list[Outcome], list[GAN]]:
    """Gather results, metrics and weights of all models from all ranks."""

    def work() -> list[tuple[Outcome, Any, Any]]:
        with locked(scheduler.folder, group.rank):
            outcomes = scheduler.train()
        if group.size == 1:
            return [(outcome, None, None) for outcome in outcomes]
        states = [scheduler.gans[outcome.number].state_dict() for outcome in outcomes]
        on_cpu = [{name: value.cpu() for name, value in state.items()} for state in states]
        rows = [table[:, outcome.number, : outcome.step] for outcome in outcomes]
        return list(zip(outcomes, rows, on_cpu, strict=True))

    found: dict[int, tuple[Outcome, GAN]] = {}
    for rank, part in enumerate(group.gather(work)):
        for outcome, rows, state in part:
            number = outcome.number
            if rank == group.rank:
                gan = scheduler.gans[number]
            else:
                gan = build(planned[number])
                place(gan, planned[number].config)
                saved.load_state(gan, state)
                table[:, number, : outcome.step] = rows
            found[number] = (outcome, gan)
    ordered = [found[member.number] for member in planned]
    return [outcome for outcome, _ in ordered], [gan for _, gan in ordered]


def _member(planned: Member, outcome: Outcome, gan: GAN, history: dict[str, np.ndarray]) -> PopulationMember:
    rows = {name: column[planned.number, : outcome.step] for name, column in history.items()}
    return PopulationMember(
        seed=planned.config.seed,
        overrides=planned.overrides,
        point=planned.point,
        gan=gan,
        history={"step": np.arange(1, outcome.step + 1), **rows},
        step=outcome.step,
        engine=outcome.engine,
        engine_reason=outcome.engine_reason,
        interrupted=outcome.interrupted,
        failed=outcome.failed,
    )


def _engine(found: list[PopulationMember]) -> tuple[str, str]:
    """The engines of all, the eager one last, and why it runs where it does."""
    slow = [member for member in found if member.engine == "eager"]
    fast = dict.fromkeys(member.engine for member in found if member.engine != "eager")
    names = " and ".join([*fast, *(["eager"] if slow else [])])
    if not slow:
        return names, found[0].engine_reason
    some = f"{len(slow)} of {len(found)} members: " if fast else ""
    return names, some + slow[0].engine_reason
