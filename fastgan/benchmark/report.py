"""What came of it: the verdicts on the targets, a table, a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastgan.benchmark import harness, pictures, population
from fastgan.benchmark.measure import BF16, ONE_THREAD, OURS, PEERS
from fastgan.benchmark.workloads import WORKLOADS

Record = Mapping[str, Any]
PEER_NAMES = {"eager": "eager", "fused-adam": "eager, fused Adam", "compile": "torch.compile", "jax": "JAX scan"}
IDLE, BUSY = 1.8, 1.1  # C7: times faster on two threads; times slower than one thread beside a busy process


def verdicts(records: Sequence[Record], members: Record | None) -> list[dict[str, Any]]:
    """Each target that these figures answer: what was asked, what was found, whether it is met."""
    found = [verdict for record in records for verdict in _of_workload(record)]
    if members is not None and "ratio" in members:
        rule = f"{members['members']} members on {members['threads']} threads: times one GAN on one"
        found.append(_verdict("C8", population.NAME, rule, members["ratio"], members["least"], members["spread"]))
    return found


def _of_workload(record: Record) -> Iterator[dict[str, Any]]:
    workload = WORKLOADS[record["workload"]]
    if record["threads"] == workload.threads:
        for what, least in workload.least.items():
            if (value := _value(record, what)) is not None:
                rule = {"peak": "share of the FMA peak", "bf16": "bf16: times faster than eager fp32"}.get(
                    what, f"times faster than {PEER_NAMES.get(what, what)}"
                )
                target = "C5" if what == "bf16" else workload.target.split(",")[0]
                yield _verdict(target, workload.name, rule, value, least, record["spread"])
    if ONE_THREAD in record["ratio"]:
        rule = f"{record['threads']} threads: times faster than one"
        yield _verdict("C7", workload.name, rule, record["ratio"][ONE_THREAD], IDLE, record["spread"])
    if ONE_THREAD in record.get("busy", {}).get("ratio", {}):
        beside = record["busy"]
        rule = f"beside a busy process: speed as a share of one thread's, at least 1/{BUSY}"
        yield _verdict("C7", workload.name, rule, beside["ratio"][ONE_THREAD], 1 / BUSY, beside["spread"])


def _value(record: Record, what: str) -> float | None:
    if what == "peak":
        return record["share_of_peak"].get(OURS)
    if what == "bf16":
        times = record["sides"]
        return times["eager"]["median_s"] / times[BF16]["median_s"] if {"eager", BF16} <= set(times) else None
    return record["ratio"].get(what)


def _verdict(target: str, workload: str, rule: str, value: float, least: float, spread: float) -> dict[str, Any]:
    found = {"target": target, "workload": workload, "rule": rule, "least": least, "value": value}
    return found | {"verdict": harness.verdict(value, least, spread)}


def table(records: Sequence[Record]) -> Any:
    """Microseconds an iteration, and how many times faster fastgan is than each peer, as a rich table."""
    from rich.table import Table

    peers = [p for p in PEERS if any(p in r["sides"] for r in records)]
    title = "microseconds an iteration (median); in brackets: how many times faster fastgan is"
    shown = Table(title=title, title_justify="left")
    for name in ("workload", "threads", "fastgan", *(PEER_NAMES[p] for p in peers)):
        shown.add_column(name, justify="left" if name == "workload" else "right", no_wrap=True)
    for name in ("bf16", "GFLOP/s", "of peak", "spread"):
        shown.add_column(name, justify="right", no_wrap=True)
    for record in records:
        cells = [f"{harness.median(record, p)} ({_times(record, p)})" if p in record["sides"] else "-" for p in peers]
        share = record["share_of_peak"].get(OURS)
        shown.add_row(
            record["workload"],
            str(record["threads"]),
            harness.median(record, OURS),
            *cells,
            harness.median(record, BF16),
            f"{record['gflops'][OURS]:.1f}",
            "-" if share is None else f"{share:.1%}",
            f"{record['spread']:.1%}",
        )
    return shown


def _times(record: Record, peer: str) -> str:
    ratio = record["ratio"][peer]
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2f}x"


DISTURBED = 0.9  # of a processor: below, others took turns on it


def disturbed(records: Sequence[Record]) -> str:
    """Which one-thread workloads had to share their processor; empty where none had."""
    shares = {r["workload"]: r["processors got"] for r in records if r["threads"] == 1}
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share < DISTURBED]
    return f"Disturbed: of the processor they were held on, they got: {', '.join(told)}." if told else ""


def lines(records: Sequence[Record], members: Record | None) -> Iterator[str]:
    """What the table does not say: peak, population, targets, set-up times, and what was left out."""
    peaks = [r["peak GFLOP/s a core"] for r in records]
    peak = {name: max((p.get(name, 0.0) for p in peaks), default=0.0) for name in ("fp32", "bf16")}
    if peak["fp32"]:
        bf16 = f", bf16 {peak['bf16']:.0f}" if peak["bf16"] else "; no bf16 products"
        yield f"FMA peak, GFLOP/s a core, measured in the same run: fp32 {peak['fp32']:.0f}{bf16}"
    if members is not None and "ratio" in members:
        rates = members["iterations/s"]
        yield (
            f"population of {members['members']} on {members['threads']} threads: {rates['population']:,.0f} "
            f"iterations/s; one GAN on one thread: {rates['one']:,.0f}"
        )
    for found in verdicts(records, members):
        yield (
            f"{found['target']}  {found['workload']}: {found['rule']}: {found['value']:.3g}, "
            f"at least {found['least']:.3g}: {found['verdict']}"
        )
    setup = {p: max(r["sides"][p]["first_call_s"] for r in records if p in r["sides"]) for p in _measured(records)}
    if setup:
        told = ", ".join(f"{PEER_NAMES[p]} {seconds:.1f} s" for p, seconds in setup.items())
        yield f"set-up and compilation, not in the times above, at most: {told}"
    yield from sorted({f"left out: {name}: {why}" for r in records for name, why in r["left out"].items()})
    if members is not None and "left out" in members:
        yield f"left out: {population.NAME}: {members['left out']}"
    engines = {f"{r['workload']}: {r['engine'][OURS]}" for r in records if not r["engine"][OURS].startswith("fused")}
    yield from sorted(f"fastgan's engine was not the fused one: {engine}" for engine in engines)


def _measured(records: Sequence[Record]) -> list[str]:
    return [p for p in PEERS if any(p in r["sides"] for r in records)]


MARKERS = {  # and the number of the colour
    OURS: ("o", 0),
    BF16: ("*", 5),
    "eager": ("s", 1),
    "fused-adam": ("^", 4),
    "compile": ("D", 3),
    "jax": ("v", 2),
}


def picture(records: Sequence[Record], notes: Sequence[str]) -> Any:
    """Left: the time of an iteration by side, over the floor of its arithmetic. Right: share of the FMA peak."""
    fig, axes = pictures.figure(11, 2.2 + 0.42 * len(records), 1, 2, sharey=True, width_ratios=[3, 2])
    time_axis, peak_axis = axes[0]
    labels = [f"{r['workload']}, batch {r['batch']}" for r in records]
    for name, (marker, colour) in MARKERS.items():
        points = [(r["sides"][name]["median_s"] * 1e6, y) for y, r in enumerate(records) if name in r["sides"]]
        if points:
            x, y = zip(*points, strict=True)
            size = 70 if name in (OURS, BF16) else 32
            label = {OURS: "fastgan", BF16: "fastgan, bf16"}.get(name) or PEER_NAMES[name]
            time_axis.scatter(x, y, size, color=pictures.COLOURS[colour], marker=marker, label=label, zorder=3)
    floors = [(_floor(r) * 1e6, y) for y, r in enumerate(records) if _floor(r)]
    if floors:
        x, y = zip(*floors, strict=True)
        time_axis.scatter(x, y, 150, color=pictures.INK, marker="|", label="arithmetic at the FMA peak", zorder=2)
    time_axis.set(xscale="log", xlabel="microseconds an iteration")
    time_axis.set_yticks(range(len(records)), labels)
    time_axis.set_ylim(len(records) - 0.5, -0.5)
    _peak_bars(peak_axis, records)
    fig.legend(*time_axis.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False, fontsize=8)
    pictures.title(fig, "One iteration of Algorithm 1 (D's step and G's, Adam), float32 on the CPU", notes)
    return fig


def _floor(record: Record) -> float:
    peak = record["peak GFLOP/s a core"].get("fp32")
    return float(record["operations"] / (peak * 1e9 * record["threads"])) if peak else 0.0


def _peak_bars(ax: Any, records: Sequence[Record]) -> None:
    """fastgan's share of the peak, and the best peer's."""
    for i, record in enumerate(records):
        shares = record["share_of_peak"]
        theirs = max((shares[p] for p in PEERS if p in shares), default=None)
        for name, share, offset, colour in (("fastgan", shares.get(OURS), -0.19, 0), ("best peer", theirs, 0.19, 1)):
            if share is not None:
                label = name if i == 0 else None
                ax.barh(i + offset, 100 * share, 0.34, color=pictures.COLOURS[colour], label=label)
                ax.annotate(f"{100 * share:.0f}", (100 * share + 1, i + offset), va="center", fontsize=7)
    ax.set(xlim=(0, 110), xlabel="necessary arithmetic, % of the FMA peak")
    ax.tick_params(labelleft=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
