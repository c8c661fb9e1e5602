"""Several TabularGANs of one table on the command line: fastgan train TABLE --seeds --grid."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._files import write_atomically
from fastgan._ranks import ranks
from fastgan._run_folder import has_checkpoints
from fastgan.apps.cli import output, population, runs
from fastgan.apps.cli.population import PopulationSpec, plus_minus, steps, tail
from fastgan.apps.cli.table_source import TableSource
from fastgan.tabular import TabularConfig, TabularGAN
from fastgan.tabular.population import configs
from fastgan.training import Callback, Run, mean_and_error

_LOSSES = ("loss_d", "loss_g")


def train(
    gan: TabularGAN,
    spec: PopulationSpec,
    arguments: argparse.Namespace,
    kept: TableSource,
    resumed: runs.Folder | None,
) -> int:
    """Train a TabularGAN for each seed and grid point, each in a folder of its own, draw, and say what came of it."""
    planned = configs(gan.config, spec.seeds, spec.grid)
    source = arguments.source or kept.source
    kept = dataclasses.replace(kept, options=dataclasses.asdict(gan.config))
    watch = population.Stopwatch()
    with ranks() as group, output.notes(show=group.is_first and not (arguments.quiet or arguments.json)) as notes:
        table = kept.table()
        folder = population.shared_folder(arguments.out, source) if resumed is None else resumed
        try:
            found = gan.fit_population(
                table,
                seeds=spec.seeds,
                grid=spec.grid,
                progress=not arguments.quiet,
                callbacks=[_KeepSources(kept, spec, planned), watch],
                run_dir=folder.path,
                resume=has_checkpoints(folder.path),
            )
        except BaseException:
            if not any(folder.path.glob("member-*")):
                folder.discard()
            raise
    if group.is_first:
        _tell(arguments, source, folder.path, spec, found, watch, notes)
    return population.code(found)


class _KeepSources(Callback):
    """Writes what a resume needs, of the population and of each member, once training has accepted everything."""

    reads_networks = False

    def __init__(self, kept: TableSource, spec: PopulationSpec, planned: Sequence[TabularConfig]) -> None:
        self._kept, self._spec, self._planned, self._written = kept, spec, planned, False

    def on_start(self, run: Run) -> None:
        assert run.run_dir is not None
        if not self._written:
            self._kept.write(run.run_dir.parent)
            write_atomically(run.run_dir.parent / runs.POPULATION, [self._spec.to_json()])
            self._written = True
        dataclasses.replace(self._kept, options=dataclasses.asdict(self._planned[run.member])).write(run.run_dir)


# ---------------------------------------------------------------- what came of it


def _tell(
    arguments: argparse.Namespace,
    source: str,
    path: Path,
    spec: PopulationSpec,
    found: list[TabularGAN],
    watch: population.Stopwatch,
    notes: list[str],
) -> None:
    points, pictures = _points(spec, found), []
    if not arguments.no_pictures:
        with output.pictures():
            pictures = _draw(points, path, f"{Path(source).name}, {len(found)} GANs")
    made = [(member.config.seed, _options(spec, member)) for member in found]
    engine = found[0].engine, found[0].engine_reason
    facts = population.Facts(source, path, found, made, watch.rate, engine, pictures)
    if arguments.json:
        print(facts.to_json(watch, notes=notes))
    elif not arguments.quiet:
        print("\n".join(facts.lines(_table(points), "synthetic.csv")))


def _options(spec: PopulationSpec, member: TabularGAN) -> dict[str, Any]:
    """What its grid point changes."""
    return {name: getattr(member.config, name) for name in spec.grid}


def _points(spec: PopulationSpec, found: list[TabularGAN]) -> dict[str, list[TabularGAN]]:
    """The members of each grid point, by its label."""
    points: dict[str, list[TabularGAN]] = {}
    for member in found:
        points.setdefault(population.label(_options(spec, member)), []).append(member)
    return points


def _table(points: dict[str, list[TabularGAN]]) -> list[str]:
    """A line for each grid point: means of the losses over its seeds, with their standard errors."""
    rows = [["grid point" if len(points) > 1 else "", "GANs", *_LOSSES]]
    for label, members in points.items():
        good = [member for member in members if not member.failed]
        means = (np.array([tail(member, name) for member in good]) for name in _LOSSES)
        rows.append([label, str(len(good)), *map(plus_minus, means)])
    return population.by_point(rows)


def _draw(points: dict[str, list[TabularGAN]], path: Path, name: str) -> list[Path]:
    count = max(steps(member) for members in points.values() for member in members)

    def moments(loss: str) -> np.ndarray:
        """Mean and standard error, (2, grid points, steps)."""
        found = []
        for members in points.values():
            curves = np.full((len(members), count), np.nan)
            for curve, member in zip(curves, members, strict=True):
                curve[: steps(member)] = member.history[loss]
            found.append(mean_and_error(curves))
        return np.stack(found, 1)

    losses = {loss: moments(loss) for loss in _LOSSES}
    mean, error = ({loss: both[i] for loss, both in losses.items()} for i in range(2))
    total = sum(map(len, points.values()))
    labels = [label or f"mean of {total} GANs" for label in points]
    return population.draw(mean, error, path, name, labels=labels, loss="wasserstein")
