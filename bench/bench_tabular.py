"""How fast and how good is TabularGAN beside ctgan, at equal numbers of updates?

    python bench/bench_tabular.py [--only NAME ...] [--updates N] [--rounds N] [--threads 1 2] [--quick]
    python bench/bench_tabular.py --quality [--updates N] [--seeds 0 1 2] [--only NAME ...]

With --resume the files of an earlier run keep its other tables.

All sides run in turn in this process: fastgan, ctgan, and fastgan in bf16 where the processor multiplies in it. ctgan
needs `pip install ctgan sdmetrics`; without them fastgan is measured alone. All have the same networks and numbers:
batches of 500 (100 for small tables), packs of 10, Adam at 2e-4.
Times of one thread are processor seconds, which other jobs on the machine disturb least; those of more are wall time.
The record has both. fastgan's time of an update is the difference of two trainings, ctgan's that between steps of G's
optimiser; all that comes before counts as preparation.

Quality: SDMetrics' score, distances to the rows trained on, and the score of a model trained on synthetic rows and
tested on rows that neither side saw; mean and standard error over the seeds. The time of the whole training is in it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tabular_sides as sides
from tabular_tables import DISCRETE, TABLES

from fastgan.apps.bench import harness, pictures
from fastgan.apps.bench.results import Report, guarded
from fastgan.data import DataWarning

# Updates that are timed, where the default would take minutes.
FEWER = {"adult, 30,000 rows": 60, "wide": 10}
NAMES = dict(zip((sides.FASTGAN, sides.CTGAN, sides.BF16), pictures.COLOURS, strict=False))  # and their colours


def has_ctgan() -> bool:
    """Whether the other side can be measured. Imported here, so that what is missing does not end a long run."""
    try:
        for name in ("ctgan", "sdmetrics.reports.single_table"):
            importlib.import_module(name)
    except ImportError as missing:
        harness.progress(f"{missing}: fastgan is measured alone")
        return False
    return True


def versions() -> dict[str, str]:
    """Of what is compared with, and of what scores."""
    return {name: importlib.metadata.version(name) for name in ("ctgan", "sdmetrics")}


def task_of(name: str, seed: int) -> sides.Task:
    """A table, with batches that it fills."""
    frame = TABLES[name]()
    return sides.Task(frame, DISCRETE[name.split(",")[0]], 500 if len(frame) >= 500 else 100, seed=seed)


# ---------------------------------------------------------------- times


def timed(name: str, threads: int, args: Any, settings: harness.Settings, both: bool) -> dict[str, Any]:
    """Medians over some rounds of both sides on one table."""
    task = task_of(name, settings.seed)
    updates = 2 if settings.quick else min(args.updates, FEWER.get(name, args.updates))
    rounds = 1 if settings.quick or name in FEWER else args.rounds
    harness.progress(f"{name}: {len(task.frame):,} rows, {task.frame.shape[1]} columns, {harness.threads(threads)}")
    found: dict[str, list[dict[str, dict[str, float]]]] = {side: [] for side in NAMES}
    with harness.pinned(threads) as cpus:
        for _ in range(rounds):
            for side, precision in sides.precisions().items():
                found[side].append(sides.times_of_fastgan(task, max(updates, 2), threads, precision))
            if both:
                found[sides.CTGAN].append(sides.times_of_ctgan(task, updates))
    record: dict[str, Any] = {
        "table": name, "rows": len(task.frame), "columns": task.frame.shape[1], "batch": task.batch,
        "updates": updates, "rounds": rounds, "threads": threads, "cpus": cpus,
    }  # fmt: skip
    for side, rounds_of_side in found.items():
        if rounds_of_side:
            record[side] = {
                what: {clock: statistics.median(r[what][clock] for r in rounds_of_side) for clock in sides.CLOCKS}
                for what in ("preparation", "per 100 updates")
            }
    return record


def clock_of(record: Mapping[str, Any]) -> str:
    """What counts: processor time adds up over threads."""
    return "cpu" if record["threads"] == 1 else "wall"


def shown_times(records: Sequence[Mapping[str, Any]]) -> str:
    """Seconds as text."""
    lines = [["table", "threads", "updates", "side", "100 updates", "ctgan", "ratio", "preparation", "ctgan", "ratio"]]
    for r in records:
        for side in (side for side in NAMES if side in r and side != sides.CTGAN):
            cells = []
            for what in ("per 100 updates", "preparation"):
                fastgans, ctgans = (r[name][what][clock_of(r)] if name in r else None for name in (side, sides.CTGAN))
                cells += [f"{fastgans:.2f}", "-" if ctgans is None else f"{ctgans:.2f}"]
                cells.append("-" if ctgans is None else f"{ctgans / fastgans:.1f}x")
            lines.append([r["table"], str(r["threads"]), str(r["updates"]), side, *cells])
    return harness.table(lines)


def drawn_times(records: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Any:
    """Times on logarithmic axes: a row of panels for each number of threads."""
    counts = sorted({r["threads"] for r in records})
    fig, axes = pictures.figure(11, 1.2 + 3.2 * len(counts), len(counts), 2)
    for row, threads in zip(axes, counts, strict=True):
        alike = [r for r in records if r["threads"] == threads]
        for ax, what in zip(row, ("per 100 updates", "preparation"), strict=True):
            heights = [{side: r[side][what][clock_of(r)] for side in NAMES if side in r} for r in alike]
            bars(ax, [r["table"] for r in alike], heights)
            ax.set_yscale("log")
            ax.yaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
            seconds = "processor" if clock_of(alike[0]) == "cpu" else "wall"
            ax.set_title(f"{harness.threads(threads)}, {seconds} seconds, {what}")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", frameon=False, fontsize=8)
    pictures.title(fig, "Tables: TabularGAN beside ctgan", notes)
    return fig


def bars(
    ax: Any,
    labels: Sequence[str],
    heights: Sequence[Mapping[str, float]],
    errors: Sequence[Mapping[str, float]] = (),
    form: str = "%.2f",
) -> None:
    """Bars for each label; heights, and errors if there are any: by side."""
    drawn_sides = [side for side in NAMES if any(side in h for h in heights)]
    width = 0.8 / len(drawn_sides)
    for place, side in enumerate(drawn_sides):
        offset = (place - (len(drawn_sides) - 1) / 2) * width
        there = [i for i, h in enumerate(heights) if side in h]
        whiskers = {"yerr": [errors[i][side] for i in there], "capsize": 3} if errors else {}
        places, values = [i + offset for i in there], [heights[i][side] for i in there]
        drawn = ax.bar(places, values, 0.95 * width, color=NAMES[side], label=side, **whiskers)
        ax.bar_label(drawn, fmt=form, fontsize=7.5, padding=2)
    ax.set_xticks(range(len(labels)), [label.replace(", ", "\n") for label in labels], fontsize=7.5)
    ax.margins(y=0.15)


def begun(name: str, args: Any, settings: harness.Settings) -> Report:
    """The report of these figures, with the records of an earlier run if it is continued."""
    report = Report(name, settings, "tables")
    if args.resume:
        report.resume("versions")
    return report


def add(report: Report, record: dict[str, Any], *keys: str) -> None:
    """A record, in the place of an earlier one of the same table and `keys`."""
    same = [[old[key] for key in ("table", *keys)] for old in report.records]
    key = [record[key] for key in ("table", *keys)]
    report.add(record, instead_of=same.index(key) if key in same else None)


def bench_times(args: Any, settings: harness.Settings, names: Sequence[str]) -> None:
    """The times of all tables."""
    report, both = begun("tabular", args, settings), has_ctgan()
    if both:
        report.content["versions"] = versions()
    with harness.pinned(settings.threads[0]):  # first calls of all libraries
        sides.times_of_fastgan(task_of("wine", settings.seed), 2, settings.threads[0])
        if both:
            sides.ctgan_model(task_of("wine", settings.seed), 1)
    for threads in settings.threads:
        for name in names:
            add(report, timed(name, threads, args, settings, both), "threads")
    print("Seconds: 100 updates of each network, and the preparation")
    print(shown_times(report.records))
    notes = ["equal batches and networks", report.disturbances()]
    report.write({}, drawn_times(report.records, notes))


# ---------------------------------------------------------------- quality

FIGURES: tuple[tuple[str, Callable[[Mapping[str, Any]], float | None]], ...] = (
    ("SDMetrics quality", lambda side: side["sdmetrics"]),
    ("efficacy", lambda side: (side["efficacy"] or {}).get("synthetic")),
    ("efficacy of real rows", lambda side: (side["efficacy"] or {}).get("real")),
    ("mean KS", lambda side: side["mean_ks"]),
    ("mean TV", lambda side: side["mean_tv"]),
    ("pairs, TV", lambda side: side["pairs"]["mean_tv"]),
    ("detection AUC", lambda side: (side["detection"] or {}).get("auc")),
    ("closer than 5%", lambda side: side["privacy"]["closer_than_5_percent"]),
    ("training, processor s", lambda side: side["training"]["cpu"]),
)


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Mean and standard error over seeds: by table, figure and side."""
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for table in dict.fromkeys(r["table"] for r in records):
        for text, value in FIGURES:
            for side in NAMES:
                values = [value(r[side]) for r in records if r["table"] == table and side in r]
                numbers = [v for v in values if v is not None]
                if numbers:
                    error = statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")
                    found.setdefault(table, {}).setdefault(text, {})[side] = statistics.fmean(numbers), error
    return found


def bench_quality(args: Any, settings: harness.Settings, names: Sequence[str]) -> None:
    """The quality of all tables over some seeds."""
    report = begun("tabular-quality", args, settings)
    if not has_ctgan():
        raise SystemExit("bench_tabular: --quality needs pip install ctgan sdmetrics")
    report.content["versions"] = versions()
    updates = 4 if settings.quick else args.updates
    with harness.pinned(settings.threads[0]):
        for seed in args.seeds:
            for name in names:
                whole = task_of(name, seed)
                real, held_out = sides.split(whole.frame, seed)
                task = sides.Task(real, whole.discrete, 500 if len(real) >= 500 else 100, seed=seed)
                harness.progress(f"{name}, seed {seed}: {len(real):,} rows, {updates:,} updates")
                about = {"table": name, "rows": len(real), "updates": updates, "batch": task.batch, "seed": seed}
                add(report, about | sides.qualities(task, held_out, updates), "seed")
    write_quality(report)


def write_quality(report: Report) -> None:
    """The table, and the picture beside the records."""
    found = summary(report.records)
    measured = [side for side in NAMES if any(side in r for r in report.records)]
    lines = [["table", "figure", *measured]]
    for table, figures in found.items():
        for text, values in figures.items():
            lines.append([table, text, *("{:.3f} +- {:.3f}".format(*values[side]) for side in measured)])
    print(harness.table(lines))
    fig, axes = pictures.figure(11, 10, 3, 1)
    for ax, text in zip(axes[:, 0], ("SDMetrics quality", "efficacy", "pairs, TV"), strict=True):
        tables = [table for table in found if text in found[table]]
        means, errors = ([{side: found[table][text][side][i] for side in measured} for table in tables] for i in (0, 1))
        bars(ax, tables, means, errors, "%.3f")
        ax.set_title(text + (" (0 is best)" if text == "pairs, TV" else " (1 is best)"))
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", frameon=False, fontsize=8)
    of: dict[int, list[str]] = {}
    for table, updates in {r["table"]: r["updates"] for r in report.records}.items():
        of.setdefault(updates, []).append(table)
    counts = "; ".join(f"{updates:,} updates: {', '.join(tables)}" for updates, tables in of.items())
    notes = [counts, f"mean and standard error over seeds. {report.disturbances()}"]
    pictures.title(fig, "Tables: TabularGAN beside ctgan at equal updates", notes)
    report.write({}, fig)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("TabularGAN beside ctgan")
    p.add_argument("--updates", type=int, default=100, help="of each network")
    p.add_argument("--rounds", type=int, default=3, help="of the sides in turn; the median counts")
    p.add_argument("--quality", action="store_true", help="score samples instead of measuring times")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --quality")
    p.add_argument("--only", nargs="+", choices=list(TABLES), help="tables")
    p.add_argument("--resume", action="store_true", help="keep other tables of the file that is written")
    p.set_defaults(threads=[1])
    args = p.parse_args(argv)
    names = [name for name in TABLES if not args.only or name in args.only]
    run = bench_quality if args.quality else bench_times

    def quietly() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            run(args, harness.settings_from(args), names)

    return guarded("bench_tabular", quietly)


if __name__ == "__main__":
    raise SystemExit(main())
