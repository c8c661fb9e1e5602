"""Tables with columns of any kind on the command line: train, sample, evaluate and plot of a TabularGAN."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import re
import sys
import time
import warnings
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastgan import __version__
from fastgan._extras import need
from fastgan._files import finite, write_atomically
from fastgan._ranks import ranks
from fastgan._run_folder import TABLE, WEIGHTS
from fastgan.apps.cli import output, population, runs, table_source, tabular_population
from fastgan.apps.cli.arguments import folded, natural
from fastgan.apps.cli.table_source import KeepSource, TableSource
from fastgan.data import DataWarning, read_frame
from fastgan.tabular import FixedCombinations, Inequality, Positive, Report, TabularGAN
from fastgan.tabular.columns import Category, Column, Number

FORMATS = (".csv", ".tsv", ".parquet", ".png")
_ROWS = 1000  # of a file, unless --n says otherwise
_TAIL = 500  # iterations that the means of --json are of
_SHOWN = 10_000  # rows in a picture and in a report
_COMPARISON = re.compile(r"^(.+?)\s*(<=|<|>=|>)\s*(.+)$")
_TRAINING = (
    *("steps", "batch_size", "pack", "seed", "device", "precision", "checkpoint_every"),
    *("latent_dim", "generator_hidden", "discriminator_hidden", "ema_decay"),
)
_CHECKPOINT_EVERY = 1000  # iterations
_FOREIGN = (  # flags of train beside the fields of TrainConfig and of Networks
    *"config image_shape background labels download data data_seed hold_out preset conditional snapshots".split(),
    *"optimizer_kind generator_lr discriminator_lr beta1 beta2 momentum weight_decay".split(),
    *"schedule schedule_steps schedule_factor".split(),
)


def add_flags(command: Any) -> None:
    """The flags of train for tables with columns of any kind."""
    group = command.add_argument_group("tables with text, dates or empty cells (TabularGAN)")
    group.add_argument(
        "--tabular", action=argparse.BooleanOptionalAction, help="train a TabularGAN (where a table is not all numbers)"
    )
    group.add_argument("--epochs", type=natural, metavar="N", help="passes over the table, instead of --steps (300)")
    group.add_argument(
        "--kind", action="append", default=[], metavar="NAME=KIND", help="of a column, as zip=categorical; repeatable"
    )
    group.add_argument("--max-categories", type=natural, metavar="N", help="most labels of a column (1000)")
    group.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="RULE",
        help="rows keep it, as 'start<=end', 'income>0' or 'city,country' (fixed combinations); repeatable",
    )


# ---------------------------------------------------------------- train


def check_unused(arguments: argparse.Namespace) -> None:
    """Flags of a TabularGAN alone.

    Raises:
        ValueError: one was given for another GAN.
    """
    for flag, value in (
        ("--epochs", arguments.epochs),
        ("--kind", arguments.kind),
        ("--max-categories", arguments.max_categories),
        ("--constraint", arguments.constraint),
    ):
        if value:
            raise ValueError(f"{flag} must come with a table of text, dates or empty cells, or with --tabular")


def is_resumed(arguments: argparse.Namespace) -> bool:
    """Whether --resume is of the run of a TabularGAN."""
    return bool(arguments.resume and arguments.out is not None and (Path(arguments.out) / table_source.NAME).is_file())


def train(arguments: argparse.Namespace) -> int:
    """Train a TabularGAN, or train it further; draw, and say where everything is."""
    folder = None
    if arguments.resume:
        folder, kept = _kept(arguments)
    else:
        if not Path(arguments.source or "").is_file():
            raise FileNotFoundError(f"SOURCE must be a table's file for a TabularGAN, got {arguments.source!r}")
        source, header = runs.absolute(arguments.source), arguments.header
        kinds, constraints = tuple(arguments.kind), tuple(arguments.constraint)
        kept = TableSource(source, arguments.rows, header, kinds, constraints, arguments.max_categories)
    gan = _gan(arguments, kept)
    if (spec := population.asked(arguments)) is not None:
        return tabular_population.train(gan, spec, arguments, kept, folder)
    kept = dataclasses.replace(kept, options=dataclasses.asdict(gan.config))
    with ranks() as group, output.notes(show=group.is_first and not (arguments.quiet or arguments.json)) as notes:
        table = kept.table()
        if folder is None:
            folder = population.shared_folder(arguments.out, arguments.source)
        try:
            begun = time.perf_counter()
            gan.fit(
                table,
                progress=not arguments.quiet,
                callbacks=[KeepSource(kept)],
                run_dir=folder.path,
                resume=folder.has_checkpoint(),
            )
            seconds = time.perf_counter() - begun
        except BaseException:
            folder.discard()
            raise
    if group.is_first:
        _show(arguments, gan, arguments.source or kept.source, folder.path, seconds, notes)
    return 130 if gan.interrupted else 0


def _show(
    arguments: argparse.Namespace, gan: TabularGAN, source: str, path: Path, seconds: float, notes: list[str]
) -> None:
    """The pictures, and the lines about the run."""
    pictures: list[Path] = []
    if not arguments.no_pictures:
        try:
            pictures = draw(gan, path, path)
        # The training is done and saved: a missing library, or a G whose rows hardly keep the constraints, must not
        # spoil it.
        except (ImportError, ValueError) as error:
            print(f"no pictures: {error}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(finite(_report(gan, source, path, seconds, notes, pictures)), indent=1))
    elif not arguments.quiet:
        print("\n".join(folded(line, 10) for line in _summary(gan, source, path, seconds, pictures)))


def _kept(arguments: argparse.Namespace) -> tuple[runs.Folder, TableSource]:
    """The run to continue.

    Raises:
        ValueError: there is none, or the table would be read in another way.
    """
    if arguments.out is None:
        raise ValueError("--out must be given with --resume: the run folder to continue")
    for flag in ("rows", "header", "kind", "constraint", "max_categories"):
        if (value := getattr(arguments, flag)) not in (None, []):
            raise ValueError(f"--{flag.replace('_', '-')} must be left out with --resume: the run has it, got {value}")
    path = Path(arguments.out)
    if not is_run(path) and not (path / runs.POPULATION).is_file():
        raise FileNotFoundError(f"--out must be the run of a TabularGAN with --resume, got {path}")
    folder = runs.Folder(path)
    if (path / WEIGHTS).is_file() and not folder.has_checkpoint():
        raise ValueError(f"--out must have a checkpoint to be resumed, got {path}, whose training has ended")
    return folder, TableSource.read(path, arguments.source)


def _gan(arguments: argparse.Namespace, kept: TableSource) -> TabularGAN:
    """What the flags ask for, with the options of a run that is resumed."""
    given = vars(arguments)
    foreign = [
        name
        for name in (*_FOREIGN, *_of_train_config())
        if name not in _TRAINING and given.get(name) is not None and given[name] is not False and given[name] != []
    ]
    if foreign:
        flag = foreign[0].replace("_", "-").replace("-kind", "")
        raise ValueError(
            f"--{flag} must be left out for a TabularGAN, got it; fastgan train --help lists what it takes"
        )
    options = {name: given[name] for name in _TRAINING if given.get(name) is not None and name != "device"}
    if arguments.width is not None:
        options |= {name: (arguments.width,) * 2 for name in ("generator_hidden", "discriminator_hidden")}
    if arguments.epochs is not None:
        if "steps" in options:
            raise ValueError(f"--epochs must be given without --steps, got {arguments.epochs} and {options['steps']}")
        options |= {"epochs": arguments.epochs, "steps": None}
    if arguments.lr is not None:
        options["lr"] = arguments.lr
    if kept.max_categories is not None:
        options["max_categories"] = kept.max_categories
    return TabularGAN(
        kinds=_once("--kind", map(_kind, kept.kinds)),
        constraints=[constraint(text) for text in kept.constraints],
        threads=arguments.threads,
        device=given.get("device") or "cpu",
        **{"checkpoint_every": _CHECKPOINT_EVERY, **kept.options, **options},
    )


def _of_train_config() -> list[str]:
    """Fields that flags set; those of a TabularGAN are among them."""
    from fastgan.apps import presets
    from fastgan.training import TrainConfig

    return [item.name for owner in (TrainConfig, presets.Networks) for item in dataclasses.fields(owner)]


def _once(flag: str, pairs: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, Any]:
    """Columns and what is said of them, of a flag that is repeated for others."""
    found: dict[Hashable, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{flag} must name each column once, got {name!r} twice")
        found[name] = value
    return found


def _kind(text: str) -> tuple[Hashable, Any]:
    name, equals, kind = text.rpartition("=")
    if not equals:
        raise ValueError(f"--kind must be as NAME=KIND, got {text!r}")
    return name, kind


def constraint(text: str) -> FixedCombinations | Inequality | Positive:
    """Of the command line.

    Raises:
        ValueError: it is none.
    """
    if found := _COMPARISON.match(text):
        left, sign, right = found[1].strip(), found[2], found[3].strip()
        if sign[0] == ">" and right == "0":
            return Positive(left, strict=sign == ">")
        low, high = (left, right) if sign[0] == "<" else (right, left)
        return Inequality(low, high, strict=len(sign) == 1)
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2:
        raise ValueError(f"--constraint must be as 'start<=end', 'income>0' or 'city,country', got {text!r}")
    return FixedCombinations(tuple(names))


def _report(
    gan: TabularGAN, source: str, path: Path, seconds: float, notes: list[str], pictures: list[Path]
) -> dict[str, Any]:
    """`_summary` for a program."""
    steps = len(gan.history["loss_d"])
    return {
        "run_dir": str(path),
        "source": source,
        "step": steps,
        "interrupted": gan.interrupted,
        "steps_per_second": steps / max(seconds, 1e-9),
        "means": {name: float(values[-_TAIL:].mean()) for name, values in gan.history.items() if len(values)},
        "notes": notes,
        "pictures": [str(picture) for picture in pictures],
    }


def _summary(gan: TabularGAN, source: str, path: Path, seconds: float, pictures: list[Path]) -> list[str]:
    steps = len(gan.history["loss_d"])
    state = "interrupted, saved" if gan.interrupted else "trained"
    kinds = repr(gan.transformer).removeprefix("TableTransformer(").removesuffix(")")
    lines = [f"{state} {source}: iteration {steps:,}, {seconds:,.0f} s; {kinds}"]
    if gan.interrupted:
        lines.append(f"go on:    fastgan train --resume --out {path}")
    if pictures:
        lines.append("pictures: " + "  ".join(map(str, pictures)))
    lines.append(f"measure:  fastgan evaluate {path}")
    lines.append(f"samples:  fastgan sample {path} --n 1000 --out synthetic.csv")
    return lines


# ---------------------------------------------------------------- runs


def is_run(folder: str | Path) -> bool:
    """Whether a folder is the run of a TabularGAN."""
    return (Path(folder) / TABLE).is_file()


def _real(gan: TabularGAN, folder: Path, moved: str | None) -> tuple[Any, Any]:
    """The rows that were trained on, and those that were not or None.

    Raises:
        FileNotFoundError: they are not where they were. ValueError: the table lacks a column.
    """
    kept = TableSource.read(folder, moved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        frame, n = read_frame(Path(kept.source), header=kept.header), kept.n
    absent = [column.name for column in gan.transformer.columns if column.name not in frame.columns]
    if absent:
        raise ValueError(f"{kept.source} must have the columns of the table, got none named {absent[0]!r}")
    return (frame, None) if n is None else (frame.head(n), frame.iloc[n:].reset_index(drop=True))


def draw(gan: TabularGAN, folder: Path, out: Path, moved: str | None = None) -> list[Path]:
    """The pictures of a run: samples.png and losses.png."""
    from fastgan import plots

    real, _ = _real(gan, folder, moved)
    real = real.head(_SHOWN)
    history = {"step": np.arange(1, _iteration(gan) + 1), **gan.history}
    with _origin(gan, folder, moved):
        made = [draw_columns(gan, real, gan.sample(min(len(real), _SHOWN)), out / "samples.png")]
        return [*made, plots.loss_curves(history, out / "losses.png", loss="wasserstein")]


def _iteration(gan: TabularGAN) -> int:
    return len(gan.history["loss_d"])


def _origin(gan: TabularGAN, folder: Path, moved: str | None) -> contextlib.AbstractContextManager[None]:
    """A context whose pictures name the run that they are of."""
    from fastgan import plots

    name = Path(TableSource.read(folder, moved).source).name
    return plots.source(f"{name}, iteration {_iteration(gan):,}, seed {gan.config.seed}, fastgan {__version__}")


def draw_columns(gan: TabularGAN, real: Any, synthetic: Any, path: Path, report: Report | None = None) -> Path:
    """The learnt columns, real beside synthetic."""
    from fastgan import plots

    notes = {c["name"]: f"{c['measure']} {c['distance']:.3f}" for c in report.columns} if report is not None else {}
    columns = []
    for column in gan.transformer.columns:
        if not isinstance(column, Number | Category):
            continue
        is_time = column.kind == "datetime"
        x, y = (_plain(frame[column.name], column, is_time) for frame in (real, synthetic))
        columns.append(plots.Marginal(str(column.name), x, y, notes.get(column.name, ""), is_time))
    return plots.table_marginals(columns, path, title="Synthetic rows beside real ones, column by column")


def _plain(series: Any, column: Column, is_time: bool) -> np.ndarray:
    """Numbers, seconds or text, without missing numbers."""
    if isinstance(column, Category):
        return np.asarray(series.astype(object).where(series.notna(), "(none)").astype(str), dtype=object)
    present = series.dropna()
    if not is_time:
        return np.asarray(present.to_numpy(dtype=np.float64))
    return column.storage.seconds(present)


# ---------------------------------------------------------------- sample, evaluate, plot


def where(texts: list[str], gan: TabularGAN) -> dict[Hashable, Any]:
    """Conditions of the command line: NAME=LABEL, NAME=LOW..HIGH.

    Raises:
        ValueError: it is none.
    """
    columns = {str(column.name): column for column in gan.transformer.columns}

    def condition(text: str) -> tuple[Hashable, Any]:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--where must be as 'income=>50K' or 'age=30..40', got {text!r}")
        column = columns.get(name)
        low, dots, high = value.partition("..")
        is_range = dots and isinstance(column, Number)
        return name if column is None else column.name, (low or None, high or None) if is_range else value or None

    return _once("--where", map(condition, texts))


def sample(arguments: argparse.Namespace) -> int:
    """Draw rows into a file."""
    out = Path(arguments.out)
    to_stdout = arguments.out == "-"
    kind = ".csv" if to_stdout or out.name.lower().endswith(".csv.gz") else out.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(f"--out must end in {', '.join(FORMATS)} (or .csv.gz) or be -, got {arguments.out!r}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out must lie in an existing folder, got {arguments.out!r}")
    if arguments.labels is not None:
        raise ValueError("--labels must be left out for a TabularGAN: --where NAME=LABEL")
    gan = TabularGAN.load(arguments.run_dir, device=arguments.device)
    n = arguments.n or (_ROWS if kind != ".png" else _SHOWN)
    conditions = where(arguments.where, gan) or None
    rows = gan.sample(n, conditions=conditions, seed=arguments.seed, offset=arguments.offset, progress=True)
    if kind == ".png":
        folder, moved = Path(arguments.run_dir), arguments.data
        with _origin(gan, folder, moved):
            draw_columns(gan, _real(gan, folder, moved)[0].head(_SHOWN), rows, out)
    else:
        buffer = io.BytesIO()
        if kind == ".parquet":
            need("pyarrow", what="fastgan sample to .parquet", package="pyarrow")
            rows.to_parquet(buffer, index=False)
        else:
            packed = "gzip" if out.suffix.lower() == ".gz" else None
            rows.to_csv(buffer, index=False, sep="\t" if kind == ".tsv" else ",", compression=packed)
        if to_stdout:
            print(buffer.getvalue().decode(), end="")
            return 0
        write_atomically(out, [buffer.getvalue()])
    print(f"{n:,} samples of {arguments.run_dir}: {out}")
    refused = {name: count for name, count in gan.rejected.items() if count}
    if refused:
        print("drawn again: " + ", ".join(f"{count:,} rows by {name}" for name, count in refused.items()))
    return 0


def plot(folder: Path, out: Path | None, moved: str | None) -> list[Path]:
    """The pictures of a run again."""
    target = folder if out is None else out
    target.mkdir(parents=True, exist_ok=True)
    return draw(TabularGAN.load(folder), folder, target, moved)


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure, print the report, and draw it."""
    folder = Path(arguments.run_dir)
    for flag, value in (("--sigma", arguments.sigma), ("--neighbours", arguments.neighbours)):
        if value is not None:
            raise ValueError(f"{flag} must be left out for a TabularGAN, got {value}")
    gan = TabularGAN.load(folder)
    real, held_out = _real(gan, folder, arguments.data)
    if arguments.held_out is not None:
        with output.notes():
            held_out = read_frame(arguments.held_out)
    synthetic = gan.sample(arguments.n, seed=arguments.seed)
    report = Report(gan.transformer, real, synthetic, held_out, target=arguments.target, seed=arguments.seed)
    show = print if not arguments.json else lambda line: None
    show("\n".join(report.lines()))
    with output.pictures(), _origin(gan, folder, arguments.data):
        show(f"{'picture':<12}{draw_columns(gan, real.head(_SHOWN), synthetic, folder / 'report.png', report)}")
    body = {"run": arguments.run_dir, "seed": arguments.seed, **report.values}
    out = Path(arguments.out) if arguments.out is not None else folder / "report.json"
    text = json.dumps(finite(body), indent=1, allow_nan=False)
    if arguments.json:
        print(text)
    write_atomically(out, [f"{text}\n".encode()])
    return 0
