"""fastgan train --seeds, --grid: a population in one run folder, and a table of what became of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgan import __version__
from fastgan._files import finite, write_atomically
from fastgan._ranks import ranks
from fastgan._run_folder import has_checkpoints, of_member
from fastgan.apps.cli import modes, optimizers, output
from fastgan.apps.cli.arguments import folded, given, grid_field, wholes
from fastgan.apps.cli.checks import read_object
from fastgan.apps.cli.pictures import name_of
from fastgan.apps.cli.runs import POPULATION, Folder, RunConfig
from fastgan.apps.reproduce.table import aligned
from fastgan.data import Dataset
from fastgan.evaluation import ModeCoverage
from fastgan.tabular import TabularGAN
from fastgan.training import (
    Callback,
    PopulationMember,
    PopulationResult,
    Run,
    TrainConfig,
    TrainResult,
    mean_and_error,
    train_population,
)

_TAIL = 500  # iterations that the table looks at
_FLAGS = {  # that set a field of the grid, where they are not its name, or overrule it
    "steps": ("steps", "epochs"),
    "epochs": ("epochs", "steps"),
    "optimizer.lr": ("lr", "discriminator_lr"),
    "optimizer.betas.0": ("beta1",),
    "optimizer.betas.1": ("beta2",),
    "generator_optimizer.lr": ("generator_lr",),
}


@dataclass(frozen=True)
class PopulationSpec:
    """Which members a population has.

    Args:
        seeds: None: the config's own.
        grid: values by field of the config.
    """

    seeds: list[int] | None
    grid: dict[str, list[Any]]

    def check(self) -> None:
        """Raise unless there are seeds, or None, and lists of values."""
        seeds, grid = self.seeds, self.grid
        whole = isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
        if not (seeds is None or whole):
            raise ValueError(f"seeds must be a list of integers, got {seeds!r}")
        if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
            raise ValueError(f"grid must have a list of values for each field, got {grid!r}")

    def to_json(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()


def add_flags(command: argparse.ArgumentParser) -> None:
    """--seeds and --grid."""
    group = command.add_argument_group("many GANs at once, each as if it were trained alone")
    group.add_argument("--seeds", type=wholes, metavar="A:B", help="a GAN for each seed: A to B-1, or a list 1,5,9")
    group.add_argument(
        "--grid",
        type=grid_field,
        action="append",
        metavar="FIELD=X,X",
        help="and for each value of a TrainConfig field, as optimizer.lr=1e-4,2e-4, or of an option of a TabularGAN, "
        "as lr=1e-4,2e-4; several are crossed",
    )


def asked(arguments: argparse.Namespace) -> PopulationSpec | None:
    """The population that is requested, or resumed; None for a single GAN."""
    grid = dict(arguments.grid or [])
    if len(grid) < len(arguments.grid or []):
        raise ValueError("--grid must name each field once, got one twice")
    path = Path(arguments.out or "") / POPULATION
    if not arguments.resume:
        return PopulationSpec(arguments.seeds, grid) if arguments.seeds is not None or grid else None
    if not path.is_file():
        if arguments.seeds is not None or grid:
            raise ValueError(f"--seeds and --grid must resume a population, got {arguments.out} without {POPULATION}")
        return None
    try:
        stored = PopulationSpec(**read_object(path))
        stored.check()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must describe a population, got: {error}") from error
    return PopulationSpec(arguments.seeds or stored.seeds, grid or stored.grid)


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuse a flag that the members' own seeds or values overrule; a file of --config is overruled as by flags.

    Raises:
        ValueError: there is one, or the members are described wrongly.
    """
    if arguments.resume and (arguments.out is None or not Path(arguments.out).is_dir()):
        return  # there is nothing to continue, which is said later
    if (spec := asked(arguments)) is None:
        return
    of_run = f", as in {Path(arguments.out) / POPULATION}" if arguments.resume else ""
    fields = given(arguments, TrainConfig)  # some of which may be None
    names = {name for name, value in vars(arguments).items() if value is not None or name in fields}
    if spec.seeds is not None and "seed" in names:
        raise ValueError(f"--seed must not be given with --seeds{of_run}")
    for field in spec.grid:
        for name in _FLAGS.get(field, (field.removeprefix("optimizer."),)):
            if name in names:
                raise ValueError(f"--{name.replace('_', '-')} must not be given with --grid {field}{of_run}")


def shared_folder(out: str | None, source: str) -> Folder:
    """The new run folder, which the first rank makes for all."""
    with ranks() as group:
        made = group.gather(lambda: Folder.new(out, source) if group.rank == 0 else None)
    assert made[0] is not None
    return made[0] if group.rank == 0 else Folder(made[0].path)


def run(
    spec: PopulationSpec,
    arguments: argparse.Namespace,
    config: RunConfig,
    dataset: Dataset,
    folder: Folder,
    threads: int,
) -> int:
    """Train, and on the first rank draw, and say what became of the members."""
    watch = Stopwatch()
    with ranks() as group:
        first = group.rank == 0
        try:
            goes_on = has_checkpoints(folder.path)
            result = train_population(
                lambda seed: config.networks.build(seed=seed, impl=config.train.impl, pack=config.train.pack),
                config.training_rows(dataset),
                config.train,
                seeds=spec.seeds,
                grid=spec.grid,
                callbacks=[_KeepConfigs(config, spec), watch],
                run_dir=folder.path,
                resume=goes_on,
                change=("lr",) if goes_on and optimizers.gives_rates(arguments) else (),
                threads=threads,
                progress=not arguments.quiet,
            )
        except BaseException:
            if first and not any(folder.path.glob("member-*")):
                folder.discard()
            raise
    if first:
        pictures: list[Path] = []
        if not arguments.no_pictures:
            with output.pictures():
                pictures = _draw(config, result, folder.path)
        if arguments.json or not arguments.quiet:
            _tell(arguments, config, dataset, result, Facts.of(config.source, folder.path, result, pictures), watch)
    return code(result.members)


def _tell(
    arguments: argparse.Namespace,
    config: RunConfig,
    dataset: Dataset,
    result: PopulationResult,
    facts: Facts,
    watch: Stopwatch,
) -> None:
    found = [None if member.failed else modes.modes_found(config, member.gan, dataset) for member in result.members]
    if arguments.json:
        print(facts.to_json(watch, [{"modes": modes.as_dict(one)} for one in found]))
    else:
        print("\n".join(facts.lines(_table(dataset, result, found), "samples.npy")))


def code(members: Sequence[PopulationMember | TabularGAN]) -> int:
    """The exit code of a population."""
    if any(member.interrupted for member in members):
        return 130
    return 1 if all(member.failed for member in members) else 0


class Stopwatch(Callback):
    """How long each member of a population takes, beside those that train at the same time.

    Attributes:
        seconds: from its first iteration in this call to its end, by the number of the member.
        rate: iterations a second of all members, from the first one's start.
    """

    reads_networks = False

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self._steps = 0
        self._begun: dict[int, float] = {}
        self._now = 0.0

    def on_start(self, run: Run) -> None:
        self._begun[run.member] = time.perf_counter()

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self._steps += len(rows["step"])

    def on_end(self, run: Run, result: TrainResult) -> None:
        self._end(run)

    def on_failure(self, run: Run, why: str) -> None:
        self._end(run)

    def _end(self, run: Run) -> None:
        self._now = time.perf_counter()
        self.seconds[run.member] = self._now - self._begun[run.member]

    @property
    def rate(self) -> float:
        first = min(self._begun.values(), default=self._now)
        return self._steps / max(self._now - first, 1e-9)


class _KeepConfigs(Callback):
    """Writes the configs of the population and of each member once training has accepted everything."""

    def __init__(self, config: RunConfig, spec: PopulationSpec) -> None:
        self._config, self._spec, self._written = config, spec, False

    def on_start(self, run: Run) -> None:
        assert run.run_dir is not None
        if not self._written:
            write_atomically(run.run_dir.parent / "config.json", [self._config.to_json()])
            write_atomically(run.run_dir.parent / POPULATION, [self._spec.to_json()])
            self._written = True
        own = dataclasses.replace(self._config, train=run.config)
        write_atomically(run.run_dir / "config.json", [own.to_json()])


# ---------------------------------------------------------------- what came of it


@dataclass(frozen=True)
class Facts:
    """What became of a population, for its summary and for a program.

    Args:
        source: of the data, as it was given.
        path: of the run folder.
        members: trained.
        made: the seed of each, and what its grid point changes.
        rate: iterations a second of all together.
        engine: and why it ran.
        pictures: that were drawn.
    """

    source: str
    path: Path
    members: Sequence[PopulationMember | TabularGAN]
    made: Sequence[tuple[int, Mapping[str, Any]]]
    rate: float
    engine: tuple[str, str]
    pictures: list[Path]

    @classmethod
    def of(cls, source: str, path: Path, result: PopulationResult, pictures: list[Path]) -> Facts:
        """Of plain GANs."""
        made = [(member.seed, member.overrides) for member in result.members]
        engine = result.engine, result.engine_reason
        return cls(source, path, result.members, made, result.steps_per_second, engine, pictures)

    def lines(self, table: list[str], samples: str) -> list[str]:
        """The summary, with a table inside. samples: a file's name for the next command."""
        failed = sum(member.failed is not None for member in self.members)
        done = sum(not (member.interrupted or member.failed) for member in self.members)
        lines = [
            folded(
                f"{'interrupted, saved' if self._interrupted else 'trained'} {self.source}: {done} of "
                f"{len(self.members)} GANs done{f', {failed} failed' if failed else ''}, "
                f"{self.rate:,.0f} iterations/s in all, engine {self.engine[0]} ({self.engine[1]})",
                10,
            ),
            *table,
        ]
        if self.pictures:
            lines.append("pictures: " + "  ".join(map(str, self.pictures)))
        if self._interrupted:
            lines.append(f"go on:    fastgan train --resume --out {self.path}")
        if saved := [i for i, member in enumerate(self.members) if steps(member) and not member.failed]:
            lines.append(f"measure:  fastgan evaluate {of_member(self.path, saved[0])}")
            lines.append(f"samples:  fastgan sample {of_member(self.path, saved[0])} --n 1000 --out {samples}")
        return lines

    def to_json(self, watch: Stopwatch, more: Sequence[Mapping[str, Any]] = (), **beside: Any) -> str:
        """The text of --json: what the summary says, and a record for each member. more: of each member."""
        members = []
        for number, (member, (seed, options)) in enumerate(zip(self.members, self.made, strict=True)):
            own = of_member(self.path, number)
            members.append(
                {
                    "run_dir": str(own) if own.is_dir() else None,
                    "seed": seed,
                    "options": dict(options),
                    "step": steps(member),
                    "interrupted": member.interrupted,
                    "failed": member.failed,
                    "seconds": watch.seconds.get(number),
                    "means": {name: tail(member, name) for name in member.history if name != "step"},
                    **(more[number] if more else {}),
                }
            )
        body = {
            "run_dir": str(self.path),
            "source": self.source,
            "interrupted": self._interrupted,
            "steps_per_second": self.rate,
            "engine": self.engine[0],
            "engine_reason": self.engine[1],
            "members": members,
            **beside,
            "pictures": [str(picture) for picture in self.pictures],
        }
        return json.dumps(finite(body), indent=1)

    @property
    def _interrupted(self) -> bool:
        return any(member.interrupted for member in self.members)


def _draw(config: RunConfig, result: PopulationResult, path: Path) -> list[Path]:
    assert isinstance(config.train.loss, str)  # no flag and no file gives functions
    labels = [label(point) or f"mean of {len(result.members)} GANs" for point in result.points]
    look = {"labels": labels, "real_label": config.train.real_label, "fake_label": config.train.fake_label}
    name = f"{name_of(config)}, {len(result.members)} GANs"
    return draw(result.mean, result.standard_error, path, name, loss=config.train.loss, **look)


def draw(
    mean: Mapping[str, np.ndarray], standard_error: Mapping[str, np.ndarray], path: Path, name: str, **look: Any
) -> list[Path]:
    """losses.png of a population in its folder.

    Args:
        mean, standard_error: of the losses, (grid points, steps).
        path: of the folder.
        name: of the data, and how many GANs there are.
        look: further arguments of `plots.population_curves`.
    """
    from fastgan import plots

    if not (count := mean["loss_d"].shape[1]):
        return []
    with plots.source(f"{name}, iteration {count:,}, fastgan {__version__}"):
        return [plots.population_curves(mean, standard_error, path / "losses.png", **look)]


def _table(dataset: Dataset, result: PopulationResult, found: list[ModeCoverage | None]) -> list[str]:
    """A line for each grid point: means over its seeds, with their standard errors. found: the modes of each member."""
    measures: dict[str, Callable[[int], float]] = {
        "D(x)": lambda number: tail(result.members[number], "d_real"),
        "D(G(z))": lambda number: tail(result.members[number], "d_fake"),
    }
    if dataset.centres is not None and dataset.std and (count := len(dataset.centres)) > 1:
        covered = [math.nan if one is None else one.covered for one in found]
        near = [math.nan if one is None else 100 * one.high_quality for one in found]
        measures[f"modes of {count}"] = lambda number: covered[number]
        measures["all modes"] = lambda number: covered[number] == count
        measures["% near a mode"] = lambda number: near[number]
    rows = [["grid point" if len(result.points) > 1 else "", "GANs", *measures]]
    for number, point in enumerate(result.points):
        good = [i for i, member in enumerate(result.members) if member.point == number and not member.failed]
        values = {name: np.array([measure(i) for i in good], float) for name, measure in measures.items()}
        share = values.pop("all modes", None)
        cells = {name: plus_minus(column) for name, column in values.items()}
        if share is not None:
            cells["all modes"] = f"{int(share.sum())} of {len(good)}"
        rows.append([label(point), str(len(good)), *(cells[name] for name in measures)])
    return by_point(rows)


def by_point(rows: list[list[str]]) -> list[str]:
    """The lines of a table whose rows begin with a grid point, which are lines of their own if a row is too long."""
    lines = aligned(rows)
    if max(map(len, lines)) <= shutil.get_terminal_size().columns:
        return lines
    head, *values = aligned([["", *row[1:]] for row in rows])
    return [head, *(line for row, value in zip(rows[1:], values, strict=True) for line in (folded(row[0], 2), value))]


def steps(member: PopulationMember | TabularGAN) -> int:
    """Iterations done."""
    return len(member.history["loss_d"])


def tail(member: PopulationMember | TabularGAN, name: str) -> float:
    """The mean of a column of the history over its last iterations; NaN if there are none."""
    values = member.history[name][-_TAIL:]
    return float(values.mean()) if len(values) else math.nan


def plus_minus(values: np.ndarray) -> str:
    """The mean of the finite ones, with its standard error."""
    mean, error = mean_and_error(values)
    if not np.isfinite(mean):
        return "-"
    return f"{mean:.3g}" if not np.isfinite(error) else f"{mean:.3g} +- {error:.2g}"


def label(point: Mapping[str, Any]) -> str:
    """Of a grid point."""
    return ", ".join(f"{name} {value}" for name, value in point.items())
