"""fastgan plot: the pictures of a run again, or the generator's costs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.cli import runs
from fastgan.cli.pictures import draw
from fastgan.training.checkpoint import write_atomically
from fastgan.training.history import as_columns, read_rows


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "plot",
        help="draw the pictures of a run, or the generator's costs",
        description="Draw the pictures of a run from its folder; or, for the word losses, the generator's "
        "three costs ln(1-D), -ln D and maximum likelihood, their slopes, and the numbers in a .csv.",
        epilog="examples:\n  fastgan plot runs/digits-1\n  fastgan plot losses --out costs.png\n",
    )
    command.add_argument("what", metavar="RUN_DIR|losses", help="a run folder, or the word losses")
    command.add_argument("--out", help="losses: the picture (losses.png); a run: the folder for its pictures")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, and say where."""
    written = _losses(arguments.out) if arguments.what == "losses" else _of_run(arguments.what, arguments.out)
    for path in written:
        print(path)
    return 0


def _losses(out: str | None) -> list[Path]:
    from fastgan import plots

    picture = plots.losses(Path(out or "losses.png"))
    return [picture, _write_table(picture.with_suffix(".csv"), plots.loss_table())]


def _write_table(path: Path, table: dict[str, np.ndarray]) -> Path:
    def lines() -> Iterator[bytes]:
        yield (",".join(table) + "\n").encode()
        for row in np.stack(list(table.values()), 1).tolist():
            yield (",".join(map(repr, row)) + "\n").encode()

    write_atomically(path, lines())
    return path


def _of_run(what: str, out: str | None) -> list[Path]:
    folder = Path(what)
    if not folder.is_dir():
        raise FileNotFoundError(f"RUN_DIR must be a run folder or the word losses, got {what!r}")
    config = runs.read(folder)
    gan = runs.trained(folder, config)
    history = as_columns(read_rows(folder / "history.csv", up_to=2**62))
    target = folder if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    return draw(config, gan, config.load_data(), history, target)
