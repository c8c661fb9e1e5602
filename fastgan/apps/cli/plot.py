"""fastgan plot: the pictures of a run, and those of the theory."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastgan import data, plots
from fastgan._files import write_atomically
from fastgan.apps.cli import pictures, runs, tabular
from fastgan.training import load_checkpoint, read_history

# name: what it shows
_OF_THEORY = {
    "losses": "G's three costs and their derivatives, numbers in a .csv",
    "fits": "one Gaussian fitted to two by KL, reverse KL and JSD",
    "figure1": "the paper's figure 1, trained now (some seconds)",
    "ring_map": "noise, and where f(z) = z/10 + z/||z|| takes it",
    "bilinear": "V = x y played in turns and at once",
    "joint": "a joint table, its marginals and conditionals, and Bayes' rule",
    "coins": "entropy and cross-entropy of coins",
    "convergence": "the game in function space, and G0, D0*, G1, D1*, ...",
    "density_ratio": "p(x)/q(x) from a trained D",
    "nce": "a Gaussian fitted by noise-contrastive estimation",
    "codes": "auto-encoder and VAE of labelled images: codes and samples",
    "collapse": "a collapsed run beside a good one",
}
_OF_A_RUN: dict[str, tuple[str, Callable[[runs.RunConfig, Path, Path], Path]]] = {
    "interpolation": ("images: what is between two samples, as the paper's figure 3", pictures.draw_interpolation),
    "neighbours": ("images: samples and their nearest training images", pictures.draw_nearest),
    "discriminator": ("one or two columns: D(x) beside the optimal D*(x)", pictures.draw_discriminator),
    "animation": ("samples over the iterations of the run, a .gif", pictures.draw_animation),
}
_EXAMPLES = """\
examples:
  fastgan plot runs/digits-1                  its samples and curves again
  fastgan plot losses --out costs.png
  fastgan plot interpolation runs/digits-1
  fastgan plot animation runs/ring-1 --out ring.gif
  fastgan plot codes mnist --data DIR
"""


def add(commands: Any) -> None:
    """The command and its flags."""
    shown = {**_OF_THEORY, **{name: text for name, (text, _) in _OF_A_RUN.items()}}
    listed = "\n".join(f"  {name:<15} {text}" for name, text in shown.items())
    command = commands.add_parser(
        "plot",
        help="draw the pictures of a run, or of the theory",
        description="Draw the pictures of a run from its folder, or one picture by its name.",
        epilog=f"pictures:\n{listed}\n\n{_EXAMPLES}",
    )
    command.add_argument("what", metavar="RUN_DIR|PICTURE", help="a run folder, or the name of a picture below")
    of_run = f"for {', '.join(_OF_A_RUN)}; for codes SOURCE, as for train (digits)"
    command.add_argument("run_dir", metavar="RUN_DIR|SOURCE", nargs="?", help=of_run)
    command.add_argument("--out", help="the picture (PICTURE.png; of a run, in its folder); of a RUN_DIR, a folder")
    command.add_argument(
        "--data", metavar="PATH", help="where the data of the run are now, if they have moved; of SOURCE, as for train"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the pictures and print their paths."""
    what, folder, out = arguments.what, arguments.run_dir, arguments.out
    if what in _OF_A_RUN:
        if folder is None:
            raise ValueError(f"RUN_DIR must be given for the picture {what}, got none")
        written = [_one_of_run(what, Path(folder), out, arguments.data)]
    elif what == "codes":
        written = [_codes(folder, arguments.data, Path(out or "codes.png"))]
    elif folder is not None:
        raise ValueError(f"RUN_DIR must be given for {', '.join(_OF_A_RUN)} alone, got {folder!r} with {what!r}")
    elif what in _OF_THEORY:
        written = _of_theory(what, Path(out or f"{what}.png"))
    else:
        written = _all_of_run(what, out, arguments.data)
    for path in written:
        print(path)
    return 0


def _codes(source: str | None, files: str | None, path: Path) -> Path:
    dataset = None
    if source is not None and source in data.USERS_OWN:
        dataset = data.load(source, path=str(data.locate(source, files)))
    elif files is not None:
        raise ValueError(f"--data must be used with {' or '.join(data.USERS_OWN)}, got {source or 'no SOURCE'}")
    elif source is not None and source != "digits":
        dataset = data.load(source)
    return plots.codes(path, dataset=dataset)


def _of_theory(name: str, path: Path) -> list[Path]:
    picture = getattr(plots, name)(path)
    return [picture, _write_table(path.with_suffix(".csv"), plots.loss_table())] if name == "losses" else [picture]


def _write_table(path: Path, table: dict[str, np.ndarray]) -> Path:
    def lines() -> Iterator[bytes]:
        yield (",".join(table) + "\n").encode()
        for row in np.stack(list(table.values()), 1).tolist():
            yield (",".join(map(repr, row)) + "\n").encode()

    write_atomically(path, lines())
    return path


def _one_of_run(name: str, folder: Path, out: str | None, moved: str | None) -> Path:
    suffix = "gif" if name == "animation" else "png"
    path = folder / f"{name}.{suffix}" if out is None else Path(out)
    config = runs.read(folder, moved=moved)
    with plots.source(pictures.origin(config, load_checkpoint(folder).step)):
        return _OF_A_RUN[name][1](config, folder, path)


def _all_of_run(what: str, out: str | None, moved: str | None) -> list[Path]:
    folder = Path(what)
    if not folder.is_dir():
        names = ", ".join([*_OF_THEORY, *_OF_A_RUN])
        raise FileNotFoundError(f"RUN_DIR must be a run folder, or a picture: {names}; got {what!r}")
    if tabular.is_run(folder):
        return tabular.plot(folder, None if out is None else Path(out), moved)
    config = runs.read(folder, moved=moved)
    gan = runs.trained(folder, config)
    history = read_history(folder)
    target = folder if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    return pictures.draw(config, gan, config.load_data(), history, target)
