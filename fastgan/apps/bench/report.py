"""The report of a benchmark: verdicts on the targets, tables, a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastgan.apps.bench import harness, lower_bounds, pictures, population
from fastgan.apps.bench.measure import BASELINES, BF16, CUDA_BASELINES, FASTGAN, ONE_THREAD
from fastgan.apps.bench.workloads import WORKLOADS

Record = Mapping[str, Any]
BASELINE_NAMES = {
    "eager": "eager",
    "fused-adam": "eager, fused Adam",
    "compile": "torch.compile",
    "graph": "compile + CUDA graph",
    "jax": "JAX scan",
    "vmap": "JAX vmap + scan",
    "autocast": "eager bf16 autocast",
    "compile-autocast": "compiled bf16 autocast",
}
_HEADS = {  # so that all columns find room
    "fused-adam": "eager,\nfused Adam",
    "compile": "torch.\ncompile",
    "graph": "compile +\nCUDA graph",
    "jax": "JAX\nscan",
    "vmap": "JAX vmap\n+ scan",
    "autocast": "eager bf16\nautocast",
    "compile-autocast": "compiled\nautocast",
}
IDLE, BUSY = 1.8, 1.1  # times faster on two threads; times slower than one thread beside a busy process
# Row and precision on a GPU -> which target, and how many times each baseline's iterations a second.
CUDA_LEAST: dict[tuple[str, str], tuple[str, dict[str, float]]] = {
    ("toy-32", "fp32"): ("speed", {"eager": 60.0, "graph": 6.0, "jax": 3.0}),
    ("toy-32x132", "fp32"): ("speed", {"eager": 2000.0, "vmap": 5.0}),
    ("mnist-1024", "fp32"): ("speed", {"eager": 20.0, "graph": 3.0}),
    ("original", "fp32"): ("speed", {"eager": 20.0, "graph": 3.0}),
    **{(f"wide-{width}", "bf16"): ("bf16", {"autocast": 1.0, "compile-autocast": 1.0}) for width in (1024, 2048, 4096)},
}
# At most 1 of each: what the host does, in which unit, and how that is said.
HOST = (
    ("launches in 100", 1.0, "launches in 100 iterations"),
    ("waits in 100", 1.0, "waits of the host in 100 iterations"),
    ("host_s", 1e-6, "microseconds of the host in an iteration"),
)


def verdicts(records: Sequence[Record], members: Record | None) -> list[dict[str, Any]]:
    """Each target that these figures answer: what was asked, what was found, whether it is met."""
    measured = [record for record in records if "sides" in record]
    found = [v for record in measured for v in (_of_row(record) if "device" in record else _of_workload(record))]
    if members is not None and "ratio" in members:
        rule = f"{members['members']} members on {members['threads']} threads: times one GAN on one"
        found.append(_verdict("members", population.NAME, rule, members["ratio"], members["least"], members["spread"]))
    return found


def _of_workload(record: Record) -> Iterator[dict[str, Any]]:
    workload = WORKLOADS[record["workload"]]
    if record["threads"] == workload.threads:
        for what, least in workload.least.items():
            if (value := _value(record, what)) is not None:
                rule = {"peak": "share of the FMA peak", "bf16": "bf16: times faster than eager fp32"}.get(
                    what, f"times faster than {BASELINE_NAMES.get(what, what)}"
                )
                target = "bf16" if what == "bf16" else workload.target
                yield _verdict(target, workload.name, rule, value, least, record["spread"])
    if ONE_THREAD in record["ratio"]:
        rule = f"{record['threads']} threads: times faster than one"
        yield _verdict("threads", workload.name, rule, record["ratio"][ONE_THREAD], IDLE, record["spread"])
    if ONE_THREAD in record.get("busy", {}).get("ratio", {}):
        beside = record["busy"]
        rule = f"beside a busy process: speed as a share of one thread's, at least 1/{BUSY}"
        yield _verdict("threads", workload.name, rule, beside["ratio"][ONE_THREAD], 1 / BUSY, beside["spread"])


def _of_row(record: Record) -> Iterator[dict[str, Any]]:
    name = label(record)
    target, least = CUDA_LEAST.get((record["workload"], record["precision"]), ("", {}))
    for baseline, times in least.items():
        if (value := record["ratio"].get(baseline)) is not None:
            yield _verdict(
                target, name, f"times faster than {BASELINE_NAMES[baseline]}", value, times, record["spread"]
            )
    for key, unit, rule in HOST if "host" in record else ():
        value = record["host"][key] / unit
        verdict = "met" if value <= 1.0 else "missed"
        yield {"target": "host", "workload": name, "rule": rule, "most": 1.0, "value": value, "verdict": verdict}


def label(record: Record) -> str:
    """The workload; its precision too, where it has one that needs to be said."""
    precision = record.get("precision", "fp32")
    return str(record["workload"]) + (f" {precision}" if precision != "fp32" else "")


def _value(record: Record, what: str) -> float | None:
    if what == "peak":
        return record["share_of_peak"].get(FASTGAN)
    if what == "bf16":
        times = record["sides"]
        return times["eager"]["median_s"] / times[BF16]["median_s"] if {"eager", BF16} <= set(times) else None
    return record["ratio"].get(what)


def _verdict(target: str, workload: str, rule: str, value: float, least: float, spread: float) -> dict[str, Any]:
    found = {"target": target, "workload": workload, "rule": rule, "least": least, "value": value}
    return found | {"verdict": harness.verdict(value, least, spread)}


def table(records: Sequence[Record]) -> Any:
    """Microseconds an iteration, and how many times faster fastgan is than each baseline, as a rich table."""
    from rich.table import Table

    baselines = [p for p in BASELINES if any(p in r["sides"] for r in records)]
    title = "microseconds an iteration (median); in brackets: how many times faster fastgan is"
    shown = Table(title=title, title_justify="left")
    for name in ("workload", "threads", "fastgan", *(BASELINE_NAMES[p] for p in baselines)):
        shown.add_column(name, justify="left" if name == "workload" else "right", no_wrap=True)
    for name in ("bf16", "GFLOP/s", "of peak", "spread"):
        shown.add_column(name, justify="right", no_wrap=True)
    for record in records:
        cells = [
            f"{harness.median(record, p)} ({_times(record, p)})" if p in record["sides"] else "-" for p in baselines
        ]
        share = record["share_of_peak"].get(FASTGAN)
        shown.add_row(
            record["workload"],
            str(record["threads"]),
            harness.median(record, FASTGAN),
            *cells,
            harness.median(record, BF16),
            f"{record['gflops'][FASTGAN]:.1f}",
            "-" if share is None else f"{share:.1%}",
            f"{record['spread']:.1%}",
        )
    return shown


def device_table(records: Sequence[Record]) -> Any:
    """The same of a GPU, with the engine, and with the lower bound of each row and the share of it that was reached."""
    from rich.table import Table

    measured = [r for r in records if "sides" in r]
    baselines = [p for p in CUDA_BASELINES if any(p in r["sides"] for r in measured)]
    title = (
        "microseconds an iteration (median, waits included; of many GANs: of all together); below: how many times "
        "faster fastgan is;\nlower bound: an iteration's products at the rate measured here, on the multiprocessors "
        "that the engine may use; below: the share that fastgan reached"
    )
    shown = Table(title=title, title_justify="left", show_lines=True)
    for name in ("workload", "precision", "engine"):
        shown.add_column(name, justify="left", no_wrap=True)
    for name in ("fastgan", "lower bound", *(_HEADS.get(p, BASELINE_NAMES[p]) for p in baselines), "spread"):
        shown.add_column(name, justify="right", no_wrap=True)
    for record in measured:
        cells = [
            f"{harness.median(record, p)}\n{_times(record, p)}" if p in record["sides"] else "-" for p in baselines
        ]
        shown.add_row(
            record["workload"],
            record["precision"],
            record["engine name"].removeprefix("cuda-"),
            harness.median(record, FASTGAN),
            f"{harness.microseconds(record['lower_bound_s'])}\n{record['share_of_peak'][FASTGAN]:.1%}",
            *cells,
            f"{record['spread']:.1%}",
        )
    return shown


def bound_lines(found: Record) -> Iterator[str]:
    """The lower bounds of a device, a line each."""

    def us(seconds: float) -> str:
        return f"{seconds * 1e6:.3g} us"

    if "launch_s" in found:
        yield f"launch of an empty kernel: {us(found['launch_s'])} in a stream, {us(found['graph_node_s'])} in a graph"
        told = [f"{us(found['block_barrier_s'])} of a block of {lower_bounds.THREADS} threads"]
        told += [f"{us(s)} of a cluster of {blocks}" for blocks, s in found["cluster_barrier_s"].items()]
        yield f"barrier: {', '.join(told)}"
        yield f"host: {us(found['launch_and_wait_s'])} for a launch and a wait, {us(found['fetch_s'])} for a number"
    yield f"copy: {found['copy_bytes_per_s'] / 1e9:,.0f} GB/s, read and written"
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in found["products_per_s"].items())
    yield f"matrix products, TFLOP/s: {rates}"


def _times(record: Record, baseline: str) -> str:
    ratio = record["ratio"][baseline]
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2f}x"


DISTURBED = 0.9  # of a processor: below, others took turns on it


def disturbed(records: Sequence[Record]) -> str:
    """Which one-thread workloads had to share their processor; empty where none had."""
    shares = {r["workload"]: r["processors got"] for r in records if r["threads"] == 1}
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share < DISTURBED]
    return f"Disturbed: of the processor they were held on, they got: {', '.join(told)}." if told else ""


def lines(records: Sequence[Record], members: Record | None) -> Iterator[str]:
    """Lines below the table: peak, population, targets, set-up times, omissions."""
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
    yield from _common(records, members)
    if members is not None and "left out" in members:
        yield f"left out: {population.NAME}: {members['left out']}"
    engines = {
        f"{r['workload']}: {r['engine'][FASTGAN]}" for r in records if not r["engine"][FASTGAN].startswith("cpu")
    }
    yield from sorted(f"fastgan's engine was not the fused one: {engine}" for engine in engines)


def device_lines(records: Sequence[Record], refused: Sequence[str]) -> Iterator[str]:
    """Lines below a GPU's table."""
    yield from sorted({f"engine: {label(r)}: {r['engine'][FASTGAN]}" for r in records if "sides" in r})
    yield from _common(records, None)
    yield from (f"no time: {why}" for why in refused)


def _common(records: Sequence[Record], members: Record | None) -> Iterator[str]:
    """Targets, set-up times, and what was left out."""
    for found in verdicts(records, members):
        bound = f"at most {found['most']:.3g}" if "most" in found else f"at least {found['least']:.3g}"
        head = f"{found['target']}  {found['workload']}: {found['rule']}"
        yield f"{head}: {found['value']:.3g}, {bound}: {found['verdict']}"
    measured = [r["sides"] for r in records if "sides" in r]
    firsts = {p: [s[p]["first_call_s"] for s in measured if p in s] for p in CUDA_BASELINES}
    setup = {p: max(seconds) for p, seconds in firsts.items() if seconds}
    if setup:
        told = ", ".join(f"{BASELINE_NAMES[p]} {seconds:.1f} s" for p, seconds in setup.items())
        yield f"set-up and compilation, not in the times above, at most: {told}"
    row = {id(r): f"{label(r)}: " if "device" in r else "" for r in records}
    yield from sorted({f"left out: {row[id(r)]}{n}: {why}" for r in records for n, why in r["left out"].items()})


MARKERS = {  # and the number of the colour
    FASTGAN: ("o", 0),
    BF16: ("*", 5),
    "eager": ("s", 1),
    "fused-adam": ("^", 4),
    "compile": ("D", 3),
    "jax": ("v", 2),
    "graph": ("P", 3),
    "vmap": (">", 2),
    "autocast": ("h", 1),
    "compile-autocast": ("X", 3),
}


def picture(records: Sequence[Record], notes: Sequence[str], device: str = "") -> Any:
    """Left: the time of an iteration by side, over the lower bound of its arithmetic. Right: share of the rate of that
    lower bound.

    Args:
        records: with times.
        notes: what one must know to read the picture.
        device: name of the GPU; empty: the CPU.
    """
    fig, axes = pictures.figure(11, 2.2 + 0.42 * len(records), 1, 2, sharey=True, width_ratios=[3, 2])
    time_axis, peak_axis = axes[0]
    labels = [f"{label(r)}, batch {r['batch']}" for r in records]
    for name, (marker, colour) in MARKERS.items():
        points = [(r["sides"][name]["median_s"] * 1e6, y) for y, r in enumerate(records) if name in r["sides"]]
        if points:
            x, y = zip(*points, strict=True)
            size = 70 if name in (FASTGAN, BF16) else 32
            told = {FASTGAN: "fastgan", BF16: "fastgan, bf16"}.get(name) or BASELINE_NAMES[name]
            time_axis.scatter(x, y, size, color=pictures.COLOURS[colour], marker=marker, label=told, zorder=3)
    bounds = [(r["lower_bound_s"] * 1e6, y) for y, r in enumerate(records) if r["lower_bound_s"]]
    if bounds:
        x, y = zip(*bounds, strict=True)
        bound_label = "arithmetic at the measured rate" if device else "arithmetic at the FMA peak"
        time_axis.scatter(x, y, 150, color=pictures.INK, marker="|", label=bound_label, zorder=2)
    time_axis.set(xscale="log", xlabel="microseconds an iteration")
    time_axis.set_yticks(range(len(records)), labels)
    time_axis.set_ylim(len(records) - 0.5, -0.5)
    _peak_bars(peak_axis, records)
    peak_axis.set_xlabel(f"necessary arithmetic, % of the {'rate measured' if device else 'FMA peak'}")
    fig.legend(*time_axis.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False, fontsize=8)
    where = f"on {device}" if device else "float32 on the CPU"
    pictures.title(fig, f"One iteration of Algorithm 1 (D's step and G's, Adam), {where}", notes)
    return fig


def _peak_bars(ax: Any, records: Sequence[Record]) -> None:
    """fastgan's share of the peak, and the best baseline's."""
    for i, record in enumerate(records):
        shares = record["share_of_peak"]
        theirs = max((shares[p] for p in CUDA_BASELINES if p in shares), default=None)
        for name, share, offset, colour in (
            ("fastgan", shares.get(FASTGAN), -0.19, 0),
            ("best baseline", theirs, 0.19, 1),
        ):
            if share is not None:
                told = name if i == 0 else None
                ax.barh(i + offset, 100 * share, 0.34, color=pictures.COLOURS[colour], label=told)
                ax.annotate(f"{100 * share:.0f}", (100 * share + 1, i + offset), va="center", fontsize=7)
    ax.set(xlim=(0, 110))
    ax.tick_params(labelleft=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
