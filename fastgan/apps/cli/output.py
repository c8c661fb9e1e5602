"""What the commands share that write a folder of results: its rule, its pictures, and the last line."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastgan.apps.cli.arguments import explain, folded
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
def notes(*, show: bool = False) -> Iterator[list[str]]:
    """Gives a list that gets what is remarked of the table that is read, or that a TabularGAN is fitted to.

    Args:
        show: print each at once, before the training that it is about.
    """
    found: list[str] = []

    def take(message: Warning | str, *about: Any, **of_file: Any) -> None:
        if isinstance(message, Warning):
            found.append(explain(message))
            if show:
                print(folded(found[-1], 10), flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = take
        yield found


def tell_written(paths: Sequence[Path]) -> None:
    """Print the paths of all results."""
    print("written:  " + "  ".join(map(str, paths)))
