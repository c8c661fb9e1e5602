"""What the commands share that write a folder of results: its rule, its pictures, and the last line."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastgan.apps.cli.arguments import explain
from fastgan.data import DataWarning


def check_new(folder: Path, *, rule: str = "must be new or empty") -> None:
    """Raise ValueError if there is something in a folder."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--out {rule}, got {folder}")


@contextlib.contextmanager
def pictures() -> Iterator[None]:
    """Draws if matplotlib is installed, else says that pictures need it: the numbers are complete without them."""
    try:
        yield
    except ImportError as error:
        print(f"no pictures: {error}", file=sys.stderr)


@contextlib.contextmanager
def notes() -> Iterator[list[str]]:
    """Gives a list that gets, at the end, what was remarked of the table that was read, or a TabularGAN fitted to."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield found
    found += [explain(warning.message) for warning in caught if isinstance(warning.message, Warning)]


def tell_written(paths: Sequence[Path]) -> None:
    """Print the paths of all results."""
    print("written:  " + "  ".join(map(str, paths)))
