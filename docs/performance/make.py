"""Draws the pictures of these pages and writes the tables of results.md: python docs/performance/make.py

The tables come from the files in bench/results alone, a section for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastgan.apps.bench import harness, pictures, report
from fastgan.apps.bench.workloads import WORKLOADS

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parents[1] / "bench" / "results"
FAMILIES = {
    "zen4": "AMD Zen 4",
    "zen4avx2": "AMD Zen 4, AVX2 only",
    "zen3": "AMD Zen 3",
    "zen5": "AMD Zen 5",
    "intel": "Intel with AMX",
}
BEGIN, END = "<!-- tables: written by make.py -->\n", "<!-- end of tables -->\n"
BASELINES = ("eager", "fused-adam", "compile", "jax")


def results(name: str, family: str) -> dict[str, Any] | None:
    """The record of a benchmark on a family of processors; None where it has not been measured."""
    found = sorted(RESULTS.glob(f"{name}-{family}-*.json"))
    content: dict[str, Any] | None = json.loads(found[0].read_text()) if found else None
    return content


# ---------------------------------------------------------------- tables


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns but the first are numbers."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def training() -> str:
    """Iterations of Algorithm 1: a row for each workload, the families side by side."""
    found = {family: results("train", family) for family in FAMILIES}
    measured = {
        family: {r["workload"]: r for r in content["workloads"]} for family, content in found.items() if content
    }
    header = ["networks, batch"]
    for family in measured:
        header += [f"{FAMILIES[family]}: fastgan", *(report.BASELINE_NAMES[b] for b in BASELINES), "of peak", "bf16"]
    rows = []
    for name, workload in WORKLOADS.items():
        row = [workload.describe() + (f", {workload.threads} threads" if workload.threads > 1 else "")]
        for records in measured.values():
            row += cells(records[name]) if name in records else ["-"] * (len(BASELINES) + 3)
        if set(row[1:]) != {"-"}:
            rows.append(row)
    missing = [FAMILIES[family] for family in FAMILIES if family not in measured]
    told = f"\nNot yet measured with a file in bench/results: {', '.join(missing)}.\n" if missing else ""
    return table(header, rows) + told


def cells(record: dict[str, Any]) -> list[str]:
    """Microseconds of fastgan; how many times as fast it is as each baseline; share of the peak; bf16's time."""
    share = record["share_of_peak"].get("fastgan")
    ratios = [harness.times(record, b, "fastgan") for b in BASELINES]
    return [
        harness.median(record, "fastgan"),
        *ratios,
        "-" if share is None else f"{share:.0%}",
        harness.median(record, "bf16"),
    ]


def drop_in() -> str:
    """One changed line in others' training loops."""
    rows = []
    for family, name in FAMILIES.items():
        content = results("in-others-code", family)
        for case in content["cases"] if content else ():
            ratio = case["ratio"] if isinstance(case["ratio"], float) else case["ratio"]["plain PyTorch"]
            rows.append([case["loop"], name, str(case["threads"]), f"{ratio:.2f}"])
    return table(["training loop", "processor", "threads", "times as fast"], rows)


def subnormals() -> str:
    """Milliseconds an iteration early and late in training."""
    rows = []
    for family, name in FAMILIES.items():
        content = results("subnormals", family)
        engines = content["engines"] if content else {}
        listed = engines.items() if isinstance(engines, dict) else ((e["engine"], e) for e in engines)
        names = {"fused": "cpu engine", "pytorch": "plain PyTorch"}
        rows += [
            [names.get(engine, engine), name, f"{e['first']:.2f} ms", f"{e['last']:.2f} ms"] for engine, e in listed
        ]
    return table(["engine", "processor", "iterations 200 to 400", "iterations 5,000 to 6,000"], rows)


def tables() -> str:
    """All of them."""
    parts = [
        (
            "Whole iterations",
            "Microseconds an iteration; then how many times as fast fastgan is (`fastgan bench`).",
            training(),
        ),
        (
            "One changed line",
            "`fastgan.fuse(model)` in training loops written from published code"
            " (`python bench/bench_in_others_code.py`).",
            drop_in(),
        ),
        (
            "Late in training",
            "MNIST, 64-512-512-784 / 784-512-512-1, dropout 0.3, batch 64, one thread"
            " (`python bench/bench_subnormals.py --data FOLDER`).",
            subnormals(),
        ),
    ]
    return "\n".join(f"## {title}\n\n{text}\n\n{body}" for title, text, body in parts)


def page() -> str:
    """results.md with the tables of today's files."""
    text = (FOLDER / "results.md").read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + rest[rest.index(END) :]


# ---------------------------------------------------------------- pictures


def draw() -> Iterator[tuple[str, Any]]:
    """(file name, figure)."""
    yield "layout.png", layout()
    yield "tile.png", tile()
    yield "choice.png", choice()


def boxes(ax: Any, rows: int, columns: int, block: int, title: str, by_block: bool) -> None:
    """A matrix whose cells carry their place in memory, in rows or in blocks of columns."""
    for r in range(rows):
        for c in range(columns):
            place = (c // block * rows + r) * block + c % block if by_block else r * columns + c
            colour = pictures.COLOURS[c // block % 6]
            ax.add_patch(_rectangle(c, rows - 1 - r, 1, 1, facecolor=colour, alpha=0.35, edgecolor="white"))
            ax.text(c + 0.5, rows - 0.5 - r, str(place), ha="center", va="center", fontsize=7)
    ax.set(xlim=(0, columns), ylim=(0, rows), aspect="equal", title=title)
    ax.set_axis_off()


def _rectangle(x: float, y: float, width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)


def layout() -> Any:
    """The order in memory of a row-major matrix and of a blocked one."""
    fig, axes = pictures.figure(9.5, 3.0, 1, 2)
    boxes(axes[0, 0], 6, 8, 4, "row-major: a tile reads one short run a row", False)
    boxes(axes[0, 1], 6, 8, 4, "blocked: a tile reads one contiguous run a block", True)
    pictures.title(
        fig,
        "Packing: numbers are places in memory, colours are blocks of 4 columns",
        ["in the engine a block has 32 columns, 16 with AVX2"],
    )
    return fig


def tile() -> Any:
    """One step of the microkernel."""
    fig, axes = pictures.figure(9.5, 4.2)
    ax = axes[0, 0]
    for r in range(14):
        ax.add_patch(_rectangle(0, 13 - r, 1, 0.9, facecolor=pictures.COLOURS[1], alpha=0.5))
        for v in range(2):
            ax.add_patch(_rectangle(3 + 8.2 * v, 13 - r, 8, 0.9, facecolor=pictures.COLOURS[0], alpha=0.35))
    for v in range(2):
        ax.add_patch(_rectangle(3 + 8.2 * v, 15, 8, 0.9, facecolor=pictures.COLOURS[2], alpha=0.5))
        ax.text(7 + 8.2 * v, 15.45, "16 batch rows of one input", ha="center", va="center", fontsize=8)
    ax.text(
        11.1,
        7,
        "28 accumulators: 14 outputs x 2 vectors,\nin registers over the whole depth",
        ha="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
    ax.text(0.5, -0.9, "14 weights\n(broadcast)", ha="center", va="top", fontsize=8)
    ax.annotate("", (2.8, 7), (1.2, 7), arrowprops={"arrowstyle": "->"})
    ax.annotate("", (11.1, 14.1), (11.1, 14.9), arrowprops={"arrowstyle": "->"})
    ax.set(xlim=(-1.5, 20), ylim=(-3, 16.5))
    ax.set_axis_off()
    pictures.title(fig, "Register blocking: one step along the depth is 2 loads, 14 broadcasts, 28 multiply-adds", [])
    return fig


def choice() -> Any:
    """Which instructions multiply."""
    fig, axes = pictures.figure(9.5, 3.6)
    ax = axes[0, 0]
    nodes = {
        "precision = bf16?": (0, 2),
        "4,096 multiplications\na row or more?": (3, 2),
        "AMX, and the kernel\npermits it?": (6, 2),
        "AVX512-BF16 faster\nthan fp32 here?": (6, 0),
        "AMX tiles": (9, 2),
        "bf16 dot products": (9, 0),
        "fp32 multiply-adds": (2, 0),
    }
    ends = ("AMX tiles", "bf16 dot products", "fp32 multiply-adds")
    for text, (x, y) in nodes.items():
        colour = pictures.COLOURS[2] if text in ends else "white"
        box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "alpha": 0.5 if text in ends else 1.0}
        ax.text(x, y, text, ha="center", va="center", fontsize=8, bbox=box, zorder=3)
    names = list(nodes)
    arrows = [(0, 1, "yes"), (1, 2, "yes"), (2, 4, "yes"), (2, 3, "no"), (3, 5, "yes")]
    arrows += [(0, 6, "no"), (1, 6, "no"), (3, 6, "no")]
    for a, b, text in arrows:
        (x0, y0), (x1, y1) = nodes[names[a]], nodes[names[b]]
        margin = 48 if y0 == y1 else 20  # points, from the middle of a box to its edge
        style = {"arrowstyle": "->", "shrinkA": margin, "shrinkB": margin}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=style)
        ax.text((x0 + x1) / 2 + (0.25 if y0 != y1 else 0), (y0 + y1) / 2 + 0.12, text, fontsize=8, ha="center")
    ax.set(xlim=(-1.3, 10.3), ylim=(-0.7, 2.7))
    ax.set_axis_off()
    pictures.title(
        fig,
        "The choice of instructions, once a network",
        ["it depends on the plan and the processor alone, so a run repeats its bits"],
    )
    return fig


def main() -> None:
    """Write all."""
    (FOLDER / "results.md").write_text(page())
    for name, figure in draw():
        figure.savefig(FOLDER / name, dpi=110)


if __name__ == "__main__":
    main()
