"""fastgan reproduce pacgan: table 1 of Lin et al. (2018)."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from fastgan import __version__, plots
from fastgan._options import Precision, names
from fastgan._torch_settings import usable_device
from fastgan.apps.cli import output
from fastgan.apps.cli.arguments import natural
from fastgan.apps.reproduce import pacgan, table, trials
from fastgan.apps.reproduce.pacgan import Study
from fastgan.training import progress


def add(papers: Any) -> None:
    """The command and its flags."""
    command = papers.add_parser(
        "pacgan",
        help="modes found on the 2-D ring and grid (Lin et al. 2018, table 1)",
        description="How many modes of the 2-D ring and grid GAN and PacGAN find, at the paper's settings: 10 trials "
        "of 400,000 iterations each, unless options say otherwise. Given a folder that holds a finished study, "
        "it prints that study's table again.",
        epilog="examples:\n"
        "  fastgan reproduce pacgan --dataset ring --trials 3 --steps 20000    a look\n"
        "  fastgan reproduce pacgan --out full --precision bf16    the whole table\n"
        "  fastgan reproduce pacgan --out full --resume            where it stopped\n",
    )
    command.add_argument("--dataset", choices=tuple(pacgan.DATASETS), help="one of the two (both)")
    command.add_argument(
        "--methods", metavar="NAME,..", help=f"some of {','.join(pacgan.METHODS)}, joined by commas (all)"
    )
    command.add_argument("--trials", type=natural, metavar="N", help="GANs a method (10), with the seeds 0 to N-1")
    command.add_argument("--steps", type=natural, metavar="N", help="iterations of each (400000)")
    command.add_argument(
        "--precision",
        choices=names(Precision),
        help="of the products (fp32); bf16 is faster where a processor has it",
    )
    command.add_argument("--device", default="cpu", metavar="NAME", help="where they train: cpu or cuda (cpu)")
    command.add_argument("--threads", type=natural, metavar="N", help="of the CPU (torch's number of them)")
    command.add_argument("--out", type=Path, help="folder of the study (reproduce/pacgan)")
    command.add_argument("--resume", action="store_true", help="continue the study in --out")
    command.add_argument(
        "--at", type=natural, metavar="N", help="the table at iteration N, a multiple of 1000, as far as training is"
    )
    command.add_argument("--no-pictures", action="store_true", help="write tables only")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing, then print and write the table."""
    folder = arguments.out or Path("reproduce") / "pacgan"
    stored = Study.read(folder)
    if stored is None:
        output.check_new(folder, rule="must be new, empty or a study of PacGAN's table")
    if arguments.at is not None:
        return _at(stored, folder, arguments)
    asked = _asked(arguments)
    study = dataclasses.replace(stored or Study(), **asked)
    if stored is not None and not arguments.resume and not (study == stored and pacgan.finished(study, folder)):
        raise ValueError(f"--out must be new, hold the requested study, finished, or be resumed, got {folder}")
    if stored is not None and study.precision != stored.precision:
        raise ValueError(f"--precision must be {stored.precision} as in {folder}, got {study.precision}")
    done = pacgan.finished(study, folder) or _train(study, folder, arguments)
    report(study, folder, folder, pictures=not arguments.no_pictures)
    if not done:
        print(f"go on:    fastgan reproduce pacgan --out {folder} --resume")
    return 0 if done else 130


def _at(stored: Study | None, folder: Path, arguments: argparse.Namespace) -> int:
    """The table of a study at an earlier iteration."""
    if stored is None:
        raise ValueError(f"--at must be given with the folder of a study in --out, got {folder}")
    study = dataclasses.replace(stored, steps=arguments.at)
    if not any(
        trials.measured_at(pacgan.cell_folder(folder, *cell), study.trials, study.steps) for cell in study.cells
    ):
        raise ValueError(f"--at must be a thousand, or a multiple, that a trial has come to, got {arguments.at}")
    target = folder / f"at-{arguments.at}"
    target.mkdir(exist_ok=True)
    report(study, folder, target, pictures=not arguments.no_pictures)
    return 0


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the study that the command line sets."""
    asked = {name: getattr(arguments, name) for name in ("trials", "steps", "precision")}
    asked["datasets"] = None if arguments.dataset is None else (arguments.dataset,)
    asked["methods"] = None if arguments.methods is None else tuple(arguments.methods.split(","))
    return {name: value for name, value in asked.items() if value is not None}


def _train(study: Study, folder: Path, arguments: argparse.Namespace) -> bool:
    left = [
        cell for cell in study.cells if not trials.ended(pacgan.cell_folder(folder, *cell), study.trials, study.steps)
    ]
    members = len(left) * study.trials
    device, threads = usable_device("reproduce", arguments.device), arguments.threads or torch.get_num_threads()
    with progress(members * study.steps, members=members, quiet=arguments.quiet) as bars:
        return pacgan.run(study, folder, device=str(device), threads=threads, callbacks=bars)


def report(study: Study, folder: Path, target: Path, *, pictures: bool = True) -> None:
    """Print the table of what a folder holds; write it, and the pictures, into the target."""
    rows = pacgan.table(study, folder)
    for dataset in study.datasets:
        trained = f"{_trials(study, folder, dataset)} of {study.steps:,} iterations"
        print(f"{dataset}: {trained}, {study.precision}{_short(study)}")
        complete = study.steps >= pacgan.STEPS  # a shorter run is another experiment: no verdict on it
        print("\n".join(table.lines([row for row in rows if row.group == dataset], pacgan.COLUMNS, verdict=complete)))
        print("reverse KL, near: over the samples within three standard deviations of a mode, as in the paper's code")
        print()
    for cell in study.cells:
        path = pacgan.cell_folder(folder, *cell)
        if failed := trials.failures(path, study.trials, study.steps):
            print(f"{' '.join(cell)}: {failed} of {study.trials} trials ended in numbers that are not finite")
        if noted := trials.noted_training(path):
            rate, each = (noted["iterations"] / noted[name] for name in ("seconds", "processor_seconds"))
            rates = f"{rate:,.0f} iterations/s in all on {noted['threads']} threads, {each:,.0f} a processor second"
            print(f"{' '.join(cell)}: {rates}, engine {noted['engine']} ({noted['engine_reason']})")
    if (hours := pacgan.full_length_hours(study, folder)) is not None:
        cells = f"{len(study.cells)} x {pacgan.TRIALS} trials of {pacgan.STEPS:,} iterations"
        print(f"at these rates the paper's length, {cells}, takes {hours:,.1f} hours of processor time")
    written = table.write(target, rows, pacgan.COLUMNS, dataclasses.asdict(study))
    if pictures:
        about = f"fastgan reproduce pacgan, {study.trials} trials of {study.steps:,} iterations, seeds from 0"
        with output.pictures(), plots.source(f"{about}, fastgan {__version__}"):
            written += pacgan.draw(study, folder, target)
    output.tell_written(written)


def _trials(study: Study, folder: Path, dataset: str) -> str:
    """The number of trials of each method."""
    cells = [pacgan.cell_folder(folder, dataset, method) for method in study.methods]
    counts = sorted({len(trials.members(cell, study.trials, study.steps)) for cell in cells})
    asked = f"{study.trials} trial{'s' * (study.trials > 1)}"
    return asked if counts == [study.trials] else f"{' to '.join(map(str, counts))} of {asked}"


def _short(study: Study) -> str:
    parts = [
        f"{own:,} of the paper's {theirs:,} {what}"
        for own, theirs, what in (
            (study.trials, pacgan.TRIALS, "trials"),
            (study.steps, pacgan.STEPS, "iterations"),
        )
        if own < theirs
    ]
    return f" ({', '.join(parts)})" if parts else ""
