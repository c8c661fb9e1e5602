"""fastgan train --seeds, --grid: a population in one run folder, and a table of what became of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgan import __version__
from fastgan._files import write_atomically
from fastgan._ranks import ranks
from fastgan._run_folder import checkpoints
from fastgan.apps.cli import optimizers, output
from fastgan.apps.cli.arguments import folded, grid_field, wholes
from fastgan.apps.cli.checks import read_object
from fastgan.apps.cli.modes import modes_found
from fastgan.apps.cli.pictures import name_of
from fastgan.apps.cli.runs import POPULATION, Folder, RunConfig
from fastgan.apps.reproduce.table import aligned
from fastgan.data import Dataset
from fastgan.tabular import TabularGAN
from fastgan.training import Callback, PopulationMember, PopulationResult, Run, mean_and_error, train_population

_TAIL = 500  # iterations that the table looks at


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
    if arguments.seeds is not None and "seed" in arguments:
        raise ValueError("--seed must not be given with --seeds")
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
    with ranks() as group:
        first = group.rank == 0
        try:
            goes_on = any(map(checkpoints, folder.path.glob("member-*/checkpoint")))
            result = train_population(
                lambda seed: config.networks.build(seed=seed, impl=config.train.impl, pack=config.train.pack),
                config.training_rows(dataset),
                config.train,
                seeds=spec.seeds,
                grid=spec.grid,
                callbacks=[_KeepConfigs(config, spec)],
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
        if not arguments.quiet:
            print("\n".join(_summary(config, dataset, result, folder.path, pictures)))
    if result.interrupted:
        return 130
    return 1 if all(member.failed for member in result.members) else 0


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


def _draw(config: RunConfig, result: PopulationResult, path: Path) -> list[Path]:
    from fastgan import plots

    if not result.history["step"].size:
        return []
    assert isinstance(config.train.loss, str)  # no flag and no file gives functions
    labels = [_label(point) or f"mean of {len(result.members)} GANs" for point in result.points]
    steps, count = result.mean["loss_d"].shape[1], len(result.members)
    with plots.source(f"{name_of(config)}, {count} GANs, iteration {steps:,}, fastgan {__version__}"):
        picture = plots.population_curves(
            result.mean,
            result.standard_error,
            path / "losses.png",
            labels=labels,
            loss=config.train.loss,
            real_label=config.train.real_label,
            fake_label=config.train.fake_label,
        )
    return [picture]


def _summary(
    config: RunConfig, dataset: Dataset, result: PopulationResult, path: Path, pictures: list[Path]
) -> list[str]:
    ended = [member for member in result.members if not (member.interrupted or member.failed)]
    failed = sum(member.failed is not None for member in result.members)
    lines = [
        folded(
            f"{'interrupted, saved' if result.interrupted else 'trained'} {config.source}: {len(ended)} of "
            f"{len(result.members)} GANs done{f', {failed} failed' if failed else ''}, "
            f"{result.steps_per_second:,.0f} iterations/s in all, engine {result.engine} ({result.engine_reason})",
            10,
        ),
        *_table(config, dataset, result),
    ]
    if pictures:
        lines.append("pictures: " + "  ".join(map(str, pictures)))
    if result.interrupted:
        lines.append(f"go on:    fastgan train --resume --out {path}")
    lines.append(f"samples:  fastgan sample {path / 'member-0000'} --n 1000 --out samples.npy")
    return lines


def _table(config: RunConfig, dataset: Dataset, result: PopulationResult) -> list[str]:
    """A line for each grid point: means over its seeds, with their standard errors."""
    measures: dict[str, Callable[[PopulationMember], float]] = {
        "D(x)": lambda member: tail(member, "d_real"),
        "D(G(z))": lambda member: tail(member, "d_fake"),
    }
    if dataset.centres is not None and dataset.std and (modes := len(dataset.centres)) > 1:
        found = {id(member): modes_found(config, member.gan, dataset) for member in result.members if not member.failed}
        covered = {number: math.nan if one is None else one.covered for number, one in found.items()}
        near = {number: math.nan if one is None else 100 * one.high_quality for number, one in found.items()}
        measures[f"modes of {modes}"] = lambda member: covered[id(member)]
        measures["all modes"] = lambda member: covered[id(member)] == modes
        measures["% near a mode"] = lambda member: near[id(member)]
    rows = [["grid point" if len(result.points) > 1 else "", "GANs", *measures]]
    for number, point in enumerate(result.points):
        good = [member for member in result.members if member.point == number and not member.failed]
        values = {name: np.array([measure(member) for member in good], float) for name, measure in measures.items()}
        share = values.pop("all modes", None)
        cells = {name: plus_minus(column) for name, column in values.items()}
        if share is not None:
            cells["all modes"] = f"{int(share.sum())} of {len(good)}"
        rows.append([_label(point), str(len(good)), *(cells[name] for name in measures)])
    return aligned(rows)


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


def _label(point: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())
