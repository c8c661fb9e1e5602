"""fastgan reproduce goodfellow2014: the Parzen table of the paper."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fastgan import __version__, evaluation, plots
from fastgan._options import Precision, names
from fastgan.apps.cli import output
from fastgan.apps.cli.arguments import counting, natural
from fastgan.apps.cli.train import step_threads
from fastgan.apps.reproduce import goodfellow2014 as paper
from fastgan.apps.reproduce import table
from fastgan.models import GAN
from fastgan.training import progress


def add(papers: Any) -> None:
    """The command and its flags."""
    command = papers.add_parser(
        "goodfellow2014",
        help="Parzen-window log-likelihood (Goodfellow et al. 2014, table 1)",
        description="Train at the settings of the paper's code, and measure 10,000 samples by a Parzen window whose "
        "sigma the validation rows choose. Digits are built in; MNIST, the Toronto faces and CIFAR-10 are read from "
        "your own files.",
        epilog="examples:\n"
        "  fastgan reproduce goodfellow2014                  digits, a minute\n"
        "  fastgan reproduce goodfellow2014 --dataset mnist --data DIR   1 hour\n",
    )
    command.add_argument("--dataset", choices=paper.DATASETS, default="digits", help="what to learn (digits)")
    command.add_argument("--data", type=Path, metavar="DIR", help="folder of your MNIST, TFD or CIFAR-10 files")
    command.add_argument("--epochs", type=natural, metavar="N", help="of each stage (the recipe's)")
    command.add_argument("--seed", type=counting, default=0, metavar="N", help="of weights, noise and order (0)")
    command.add_argument("--precision", choices=names(Precision), default="fp32", help="of the products (fp32)")
    command.add_argument("--threads", type=natural, metavar="N", help="of the CPU (one for the digits' small nets)")
    command.add_argument("--out", type=Path, help="folder of the runs (reproduce/goodfellow2014-DATASET)")
    command.add_argument("--resume", action="store_true", help="continue the runs in --out, or print the table again")
    command.add_argument("--no-pictures", action="store_true", help="write tables only")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, measure, print and write."""
    name = arguments.dataset
    if (arguments.data is None) != (name == "digits"):
        rule = f"the folder of {paper.FILES[name]}" if name in paper.FILES else "left out for digits"
        raise ValueError(f"--data must be {rule}, got {arguments.data or 'none'}")
    folder = arguments.out or Path("reproduce") / f"goodfellow2014-{name}"
    if not arguments.resume:
        output.check_new(folder, rule="must be new or empty, or be resumed with --resume")
    split = paper.load(name, arguments.data)
    epochs, seed, precision = arguments.epochs, arguments.seed, arguments.precision
    stages = paper.plan(name, split, folder, epochs=epochs, seed=seed, precision=precision)
    if not arguments.quiet:
        print(_cost(stages, split, arguments.threads), file=sys.stderr, flush=True)
    for stage in stages:
        threads = step_threads(arguments.threads, stage.gan, stage.config.batch_size)
        with progress(stage.config.steps, quiet=arguments.quiet) as bars, threads:
            result = stage.train(split, bars)
        if result.interrupted:
            print(f"interrupted, saved; go on by --resume --out {folder}")
            return 130
    found = paper.measure(stage.gan, split)
    rows = paper.table(name, split, found)
    shortened = "; ".join(_length(stage) for stage in stages if stage.shortened)
    print(f"{name}{f', SHORTENED: {shortened}' if shortened else ''}: {found}")
    print("\n".join(table.lines(rows, [paper.COLUMN], verdict=not shortened)))
    print(f"trained {result.step:,} iterations, engine {result.engine} ({result.engine_reason})")
    about = {"dataset": name, "shortened": shortened or None, "iterations": result.step}
    about |= {"sigma": found.sigma, "samples": found.samples}
    written = table.write(folder, rows, [paper.COLUMN], about)
    if not arguments.no_pictures:
        source = plots.source(f"{name}, iteration {result.step:,}, seed {seed}, fastgan {__version__}")
        with output.pictures(), source:
            written += _draw(stage.gan, split, folder)
    output.tell_written(written)
    return 0


def _length(stage: paper.Stage) -> str:
    done, whole = stage.epochs
    return f"{stage.name} {done:,} {f'of {whole:,} ' if done <= whole else ''}epochs"


def _cost(stages: list[paper.Stage], split: paper.Split, threads: int | None) -> str:
    """What training will take, by its first iterations."""
    parts, total = [], 0.0
    for stage in stages:
        with step_threads(threads, stage.gan, stage.config.batch_size):
            each = stage.seconds_an_iteration(split)
        total += each * stage.config.steps
        parts.append(f"{_length(stage)}, {stage.config.steps:,} iterations of {1e3 * each:.3g} ms")
    time = f"{total:,.0f} seconds" if total < 100 else f"{total / 60:,.0f} minutes"
    return f"to train: {'; '.join(parts)}: about {time}, less what --resume finds done"


def _draw(gan: GAN, split: paper.Split, folder: Path) -> list[Path]:
    """Samples beside test rows, and, as the paper's figure 2, samples above the training rows nearest to them."""
    samples = gan.sample(64, seed=1, device="cpu")
    shown = samples[:16]
    found = evaluation.nearest_neighbours(shown, split.train)
    look: dict[str, Any] = {
        "image_shape": split.image_shape,
        "value_range": paper.value_range(split),
        "ink": split.image_shape == (8, 8),
    }
    return [
        plots.image_grid(samples, split.test[:64], folder / "samples.png", **look),
        plots.neighbours(shown, split.train[found.index], found.distance, folder / "nearest.png", **look),
    ]
