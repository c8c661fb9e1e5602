"""How fast and how good is TabularGAN beside ctgan, at equal numbers of updates?

    python bench/bench_tabular.py --ctgan PYTHON [--updates N] [--rows N] [--only NAME ...] [--threads 1] [--quick]

PYTHON is an interpreter that has ctgan, and sdmetrics for its quality report: pip install ctgan sdmetrics in an
environment of its own. Both sides have the paper's networks and numbers: batches of 500 (less for small tables), packs
of 10, Adam at 2e-4. Times are processor seconds of a process with as many threads, which other jobs on the machine
disturb least; the record has wall time too. Quality: distances to the rows trained on, and the score of a
model trained on synthetic rows and tested on rows that neither side saw.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabular_tables import DISCRETE, TABLES

from fastgan.apps.bench import harness, pictures
from fastgan.data import DataWarning
from fastgan.tabular import Report, TabularGAN

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
SIDE = Path(__file__).with_name("ctgan_side.py")
HELD_OUT = 0.2  # of the rows


def split(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on, and rows that neither side sees."""
    mixed = frame.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    cut = int(len(mixed) * HELD_OUT)
    return mixed.iloc[cut:].reset_index(drop=True), mixed.iloc[:cut].reset_index(drop=True)


def fastgan_side(frame: pd.DataFrame, updates: int, batch: int, pack: int, threads: int, seed: int) -> dict[str, Any]:
    """Times, and the trained GAN."""
    options = {"batch_size": batch, "pack": pack, "seed": seed, "threads": threads}
    TabularGAN(steps=2, **options).fit(frame)  # first calls of all libraries
    gan = TabularGAN(steps=updates, **options)
    begun = {name: clock() for name, clock in CLOCKS.items()}
    gan.prepare(frame)
    preparation = {name: clock() - begun[name] for name, clock in CLOCKS.items()}
    begun = {name: clock() for name, clock in CLOCKS.items()}
    gan.fit(frame)
    whole = {name: clock() - begun[name] for name, clock in CLOCKS.items()}
    per_100 = {name: 100 * (whole[name] - preparation[name]) / updates for name in CLOCKS}
    times = {"preparation": preparation, "per 100 updates": per_100, "engine": gan.engine}
    return times | {"gan": gan}


def outside(python: str, *arguments: str) -> dict[str, Any] | None:
    """What the other interpreter prints; None, with its last line of complaint, where it fails."""
    found = subprocess.run([python, str(SIDE), *arguments], capture_output=True, text=True)
    if found.returncode:
        harness.progress((found.stderr.strip().splitlines() or ["failed"])[-1])
        return None
    return json.loads(found.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def quality(gan: TabularGAN, real: pd.DataFrame, synthetic: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, Any]:
    """The numbers of fastgan's report that the table shows, and the rest beside them."""
    values = Report(gan.transformer, real, synthetic, held_out).values
    return {name: values[name] for name in ("mean_ks", "mean_tv", "pairs", "detection", "efficacy", "privacy")}


def one(name: str, args: Any, settings: harness.Settings, folder: Path) -> dict[str, Any]:
    """Both sides on one table."""
    real, held_out = split(TABLES[name](args.rows), settings.seed)
    batch = 500 if len(real) >= 500 else 100
    updates = 20 if settings.quick else args.updates
    threads = settings.threads[0]
    harness.progress(f"{name}: {len(real):,} rows, {real.shape[1]} columns, {updates:,} updates")
    own = fastgan_side(real, updates, batch, 10, threads, settings.seed)
    gan = own.pop("gan")
    samples = gan.sample(len(real), seed=settings.seed)
    record: dict[str, Any] = {
        "table": name, "rows": len(real), "columns": real.shape[1], "updates": updates, "batch": batch,
        "fastgan": own | quality(gan, real, samples, held_out),
    }  # fmt: skip
    if args.ctgan is None:
        return record
    source, theirs, mine = (folder / f"{name}-{part}.csv" for part in ("real", "ctgan", "fastgan"))
    real.to_csv(source, index=False)
    samples.to_csv(mine, index=False)
    steps = max(len(real) // batch, 1)  # of an epoch of ctgan
    options = {
        "epochs": -(-updates // steps), "batch_size": batch, "pack": 10, "threads": threads, "seed": settings.seed,
        "rows": len(real), "discrete": DISCRETE[name],
    }  # fmt: skip
    found = outside(args.ctgan, "train", str(source), str(theirs), json.dumps(options))
    if found is not None:
        rows = pd.read_csv(theirs)
        per_100 = {clock: 100 * seconds / steps for clock, seconds in found["per_epoch"].items()}
        times = {"version": found["version"], "preparation": found["preparation"], "per 100 updates": per_100}
        record["ctgan"] = times | quality(gan, real, rows, held_out)
    for side, path in (("fastgan", mine), ("ctgan", theirs)):
        if side in record:
            scored = outside(args.ctgan, "score", str(source), str(path), json.dumps({"discrete": DISCRETE[name]}))
            record[side]["sdmetrics"] = None if scored is None else scored["quality"]
    return record


ROWS = (
    ("s / 100 updates", lambda side: side["per 100 updates"]["cpu"], "{:.2f}"),
    ("preparation, s", lambda side: side["preparation"]["cpu"], "{:.2f}"),
    ("mean KS", lambda side: side["mean_ks"], "{:.3f}"),
    ("mean TV", lambda side: side["mean_tv"], "{:.3f}"),
    ("pairs, TV", lambda side: side["pairs"]["mean_tv"], "{:.3f}"),
    ("detection AUC", lambda side: (side["detection"] or {}).get("auc"), "{:.3f}"),
    ("efficacy", lambda side: (side["efficacy"] or {}).get("synthetic"), "{:.3f}"),
    ("efficacy of real rows", lambda side: (side["efficacy"] or {}).get("real"), "{:.3f}"),
    ("SDMetrics quality", lambda side: side.get("sdmetrics"), "{:.3f}"),
)


def shown(records: Sequence[dict[str, Any]]) -> str:
    """All figures as text."""
    lines = [["table", "figure", "fastgan", "ctgan"]]
    for record in records:
        for text, value, form in ROWS:
            cells = [value(record[side]) if side in record else None for side in ("fastgan", "ctgan")]
            lines.append([record["table"], text, *("-" if cell is None else form.format(cell) for cell in cells)])
    return harness.table(lines)


def drawn(records: Sequence[dict[str, Any]], notes: Sequence[str]) -> Any:
    """Times on a logarithmic axis, and distances, of both sides."""
    fig, axes = pictures.figure(11, 4.4, 1, 3)
    panels = (
        ("processor seconds for 100 updates", ROWS[0][1], True),
        ("mean KS of numbers (0 is best)", ROWS[2][1], False),
        ("mean TV of labels (0 is best)", ROWS[3][1], False),
    )
    for ax, (text, value, logarithmic) in zip(axes[0], panels, strict=True):
        for offset, side, colour in ((-0.2, "fastgan", pictures.COLOURS[0]), (0.2, "ctgan", pictures.COLOURS[1])):
            heights = [value(record[side]) if side in record else None for record in records]
            places = [place + offset for place, height in enumerate(heights) if height is not None]
            bars = ax.bar(places, [h for h in heights if h is not None], 0.38, color=colour, label=side)
            ax.bar_label(bars, fmt="%.2f" if logarithmic else "%.3f", fontsize=7.5, padding=2)
        ax.set_xticks(range(len(records)), [record["table"] for record in records])
        ax.set_title(text)
        ax.margins(y=0.15)
    axes[0][0].legend(frameon=False, fontsize=8)
    pictures.title(fig, "Tables: TabularGAN beside ctgan", notes)
    return fig


def bench(args: Any, settings: harness.Settings) -> None:
    """All tables."""
    report = harness.Report("tabular", settings, "tables")
    names = [name for name in TABLES if not args.only or name in args.only]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        for name in names:
            report.add(one(name, args, settings, Path(folder)))
    records = report.records
    print(shown(records))
    notes = [f"{settings.threads[0]} thread, the same networks, batches and updates.", report.disturbances()]
    report.write({}, drawn(records, notes))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("TabularGAN beside ctgan")
    p.add_argument("--ctgan", metavar="PYTHON", help="an interpreter that has ctgan and sdmetrics; None: fastgan alone")
    p.add_argument("--updates", type=int, default=2000, help="of each network")
    p.add_argument("--rows", type=int, default=5000, help="of the Adult-shaped table, a fifth of them held out")
    p.add_argument("--only", nargs="+", choices=list(TABLES), help="tables")
    p.set_defaults(threads=[1])
    args = p.parse_args(argv)
    return harness.guarded("bench_tabular", lambda: bench(args, harness.settings_from(args)))


if __name__ == "__main__":
    raise SystemExit(main())
