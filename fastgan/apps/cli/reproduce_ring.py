"""fastgan reproduce unrolled, costs: modes of the ring of unrolled GANs, by K or by G's cost."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastgan import __version__
from fastgan._torch_settings import torch_threads
from fastgan.apps.cli import output
from fastgan.apps.cli.arguments import natural
from fastgan.apps.reproduce import table, unrolled
from fastgan.apps.reproduce.unrolled import Trial
from fastgan.training import progress


def add(papers: Any) -> None:
    """The two commands and their flags."""
    for name, text, about, values, trials in (
        (
            "unrolled",
            "modes of a ring, by the K updates of D that G looks ahead (Metz et al. 2017)",
            "Train one pair of networks on a ring of 8 modes with each K of the unrolled GAN; K = 0 is none. The paper "
            "shows this ring as a figure, without numbers.",
            unrolled.UNROLLS,
            unrolled.TRIALS,
        ),
        (
            "costs",
            "modes of the same ring, by the cost of G (Goodfellow 2016, section 3.2.5)",
            "Train one pair of networks on a ring of 8 modes with each cost of G: does the divergence make GANs lose "
            "modes?",
            unrolled.COSTS,
            5,
        ),
    ):
        listed = ",".join(map(str, values))
        flag = "--unroll" if name == "unrolled" else "--costs"
        epilog = f"examples:\n  fastgan reproduce {name} --trials 2 --steps 2000\n"
        command = papers.add_parser(name, help=text, description=about, epilog=epilog)
        command.add_argument(flag, dest="values", metavar="X,..", help=f"joined by commas ({listed})")
        command.add_argument("--trials", type=natural, default=trials, metavar="N", help=f"GANs of each ({trials})")
        command.add_argument(
            "--steps", type=natural, default=unrolled.STEPS, metavar="N", help=f"iterations ({unrolled.STEPS})"
        )
        command.add_argument("--threads", type=natural, metavar="N", help="of the CPU (torch's number of them)")
        command.add_argument("--out", type=Path, help=f"folder of table and pictures (reproduce/{name})")
        command.add_argument("--no-pictures", action="store_true", help="write tables only")
        command.add_argument("--quiet", action="store_true", help="no progress")
        command.set_defaults(run=functools.partial(run, name, flag))


def run(name: str, flag: str, arguments: argparse.Namespace) -> int:
    """Train, print, write and draw."""
    folder = arguments.out or Path("reproduce") / name
    output.check_new(folder)
    values = _values(name, flag, arguments.values)
    members = len(values) * arguments.trials
    threads = arguments.threads or torch.get_num_threads()
    numbers = {"trials": arguments.trials, "steps": arguments.steps, "threads": threads}
    displays = progress(members * arguments.steps, members=members, quiet=arguments.quiet)
    with displays as bars, torch_threads(1):  # eager steps are small; a compiled engine has threads of its own
        grid = {"unroll" if name == "unrolled" else "loss": values}
        found = unrolled.trials_on_ring(grid, callbacks=bars, **numbers)
    if not any(map(_measured, found)):
        print("interrupted: no trial had been measured yet, so there is no table", file=sys.stderr)
        return 130
    return _report(name, found, arguments, folder)


def _values(name: str, flag: str, given: str | None) -> list[Any]:
    known = unrolled.UNROLLS if name == "unrolled" else unrolled.COSTS
    if given is None:
        return list(known)
    values: list[Any] = given.split(",")
    if name == "unrolled":
        if not all(value.isdecimal() for value in values):
            raise ValueError(f"{flag} must be whole numbers of at least 0, joined by commas, got {given!r}")
        values = [int(value) for value in values]
    elif wrong := [value for value in values if value not in known]:
        raise ValueError(f"{flag} must be among {', '.join(unrolled.COSTS)}, got {wrong[0]!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{flag} must be distinct, got {given!r}")
    return values


def _report(name: str, found: Sequence[Trial], arguments: argparse.Namespace, folder: Path) -> int:
    measured = [trial for trial in found if _measured(trial)]
    rows, groups = unrolled.table(measured), unrolled.groups(measured)
    left = sum(trial.failed is None and trial.step < arguments.steps for trial in found)
    short = "" if arguments.steps >= unrolled.STEPS else f" of the full {unrolled.STEPS:,}"
    trained = f"{arguments.trials} trial{'s' * (arguments.trials > 1)} of {arguments.steps:,}"
    print(f"ring, radius 2, std 0.02: {trained}{short} iterations")
    if left:
        print(f"interrupted: {left} of {len(found)} trials had not ended: the table has what was measured last")
    print("\n".join(table.lines(rows, unrolled.COLUMNS)))
    everyone = unrolled.groups(found).items()
    by_seed = {label: [trial.modes if _measured(trial) else None for trial in trials] for label, trials in everyone}
    ends = {label: [trial.step for trial in trials] for label, trials in everyone}
    for label, trials in groups.items():
        print(f"{label}: modes by seed {' '.join('-' if n is None else str(n) for n in by_seed[label])}")
        if left:
            print(f"{label}: measured at iteration {' '.join(map(str, ends[label]))}")
        if failed := sum(trial.failed is not None for trial in trials):
            print(f"{label}: {failed} of {len(trials)} trials ended in numbers that are not finite")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"reproduce": name, "trials": arguments.trials, "steps": arguments.steps, "modes by seed": by_seed}
    about |= {"measured at iteration": ends} if left else {}
    written = table.write(folder, rows, unrolled.COLUMNS, about)
    if not arguments.no_pictures:
        with output.pictures():
            written += _draw(name, groups, folder, f"{trained} iterations")
    output.tell_written(written)
    return 130 if left else 0


def _measured(trial: Trial) -> bool:
    """Whether there is something to say of a trial: of those that an interruption left out there is not."""
    return trial.failed is not None or trial.step > 0


def _draw(name: str, groups: dict[str, list[Trial]], folder: Path, length: str) -> list[Path]:
    from fastgan import plots

    histories = {label: [t.history for t in trials if len(t.history)] for label, trials in groups.items()}
    first = {label: trials[0].samples for label, trials in groups.items()}
    centres, over_time = unrolled.ring(1).centres, {label: runs for label, runs in histories.items() if runs}
    title = f"ring of 8 Gaussians: {length}"
    with plots.source(f"fastgan reproduce {name}, {length}, seeds from 0, fastgan {__version__}"):
        return [
            plots.compare_points(first, folder / "samples.png", title="2,500 samples, seed 0", centres=centres),
            plots.modes_over_time(over_time, folder / "modes.png", modes=8, paper={}, title=title),
        ]
