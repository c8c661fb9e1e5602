"""Several TabularGANs of one table on the command line: fastgan train TABLE --seeds --grid."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path

import numpy as np

from fastgan._files import write_atomically
from fastgan.apps.cli import runs
from fastgan.apps.cli.arguments import folded
from fastgan.apps.cli.population import PopulationSpec, plus_minus, tail
from fastgan.apps.cli.table_source import TableSource
from fastgan.apps.reproduce.table import aligned
from fastgan.data import DataWarning
from fastgan.tabular import TabularGAN


def train(gan: TabularGAN, spec: PopulationSpec, arguments: argparse.Namespace, kept: TableSource) -> int:
    """Train a TabularGAN for each seed and grid point, each saved in a folder of its own, and say what came of it."""
    if arguments.json:
        raise ValueError("--json must be used with one GAN, got --seeds or --grid")
    table, folder = kept.table(), runs.Folder.new(arguments.out, arguments.source)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            found = gan.fit_population(
                table, seeds=spec.seeds, grid=spec.grid, progress=not arguments.quiet, run_dir=folder.path
            )
    except BaseException:
        folder.discard()
        raise
    for number, member in enumerate(found):
        if not member.failed:
            options = dataclasses.asdict(member.config)
            dataclasses.replace(kept, options=options).write(folder.path / f"member-{number:04d}")
    write_atomically(folder.path / runs.POPULATION, [spec.to_json()])
    if not arguments.quiet:
        for warning in caught:
            print(folded(str(warning.message).removeprefix("fit: "), 10))
        print("\n".join(_summary(spec, found, arguments.source, folder.path)))
    if any(member.interrupted for member in found):
        return 130
    return 1 if all(member.failed for member in found) else 0


def _summary(spec: PopulationSpec, found: list[TabularGAN], source: str, path: Path) -> list[str]:
    """A line for each grid point: means of the losses over its seeds, with their standard errors."""
    done = sum(not (member.interrupted or member.failed) for member in found)
    state = "interrupted, saved" if any(member.interrupted for member in found) else "trained"
    points: dict[str, list[TabularGAN]] = {}
    for member in found:
        label = ", ".join(f"{name} {getattr(member.config, name)}" for name in spec.grid)
        points.setdefault(label, []).append(member)
    rows = [["grid point" if len(points) > 1 else "", "GANs", "loss_d", "loss_g"]]
    for label, members in points.items():
        good = [member for member in members if not member.failed]
        means = (np.array([tail(member, name) for member in good]) for name in ("loss_d", "loss_g"))
        rows.append([label, str(len(good)), *map(plus_minus, means)])
    saved = next((i for i, member in enumerate(found) if not member.failed), None)
    engine = f"engine {found[0].engine} ({found[0].engine_reason})"
    lines = [folded(f"{state} {source}: {done} of {len(found)} GANs done, {engine}", 10), *aligned(rows)]
    if saved is not None:
        member_folder = path / f"member-{saved:04d}"
        lines += [f"measure:  fastgan evaluate {member_folder}"]
        lines += [f"samples:  fastgan sample {member_folder} --n 1000 --out synthetic.csv"]
    return lines
