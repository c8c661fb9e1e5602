"""The report of a benchmark: verdicts on the targets, tables, a picture."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastgan.apps.bench import harness, lower_bounds, pictures, population, targets
from fastgan.apps.bench.measure import AUTOCAST, BF16, CUDA_BASELINES, FASTGAN, IN_BF16, MATMUL, ONE_THREAD
from fastgan.apps.bench.workloads import WORKLOADS

Record = Mapping[str, Any]
BASELINE_NAMES = {
    "eager": "eager PyTorch",
    "fused-adam": "eager PyTorch with fused Adam",
    "compile": "torch.compile",
    "graph": "torch.compile + CUDA graph",
    "jax": "JAX scan",
    "vmap": "JAX vmap + scan",
    "matmul": "eager PyTorch with products in bf16",
    "compile-matmul": "torch.compile with products in bf16",
    "autocast": "eager PyTorch under bf16 autocast",
    "compile-autocast": "torch.compile under bf16 autocast",
}
_HEADS = {  # of columns, which must fit 80 characters together
    "fused-adam": "fused",
    "jax": "JAX",
    "compile-matmul": "c-matmul",
    "compile-autocast": "c-autoc.",
    FASTGAN: "fp32",
}
_LEGEND = {
    "fused-adam": "fused: eager with fused Adam",
    "graph": "graph: compiled, as a CUDA graph",
    "vmap": "vmap: JAX, members side by side",
    FASTGAN: "fp32: fastgan's float32",
    "matmul": "matmul: mkldnn.matmul.fp32_precision = bf16",
    "autocast": "autocast: torch.autocast to bf16",
    "compile-matmul": "c-: compiled",
}
WIDTH = 80
RULES = {
    "peak": "share of the FMA peak",
    "bf16 to fp32": "bf16: times as fast as fastgan's float32",
    "bf16 to eager": "bf16: times as fast as eager PyTorch in float32",
    "bf16 to torch": "bf16: times as fast as the fastest of PyTorch in bf16",
    **{baseline: f"times as fast as {name}" for baseline, name in BASELINE_NAMES.items()},
}


def verdicts(records: Sequence[Record], members: Record | None, on: Record) -> list[dict[str, Any]]:
    """Each target that these figures answer: what was asked, what was found, whether it is met.

    Args:
        records: of rows.
        members: of the population.
        on: `machine.describe()` of the machine that they were measured on; its family has targets of its own.
    """
    measured = [record for record in records if record.get("sides")]
    found = [v for record in measured for v in (_of_row(record) if "device" in record else _of_workload(record, on))]
    if members is not None and "times one" in members:
        rule = f"{members['members']} members on {members['threads']} threads: times one GAN on one thread"
        found.append(_verdict(population.NAME, rule, members["times one"], targets.POPULATION, members["spread"]))
    return found


def _of_workload(record: Record, on: Record) -> Iterator[dict[str, Any]]:
    name, spread = record["workload"], record["spread"]
    if record["threads"] == WORKLOADS[name].threads:
        for what, least in targets.of(name, on).items():
            if (value := _value(record, what)) is not None:
                yield _verdict(name, RULES[what], value, least, spread)
    if ONE_THREAD in record["ratio"]:
        rule = f"{record['threads']} threads: times as fast as one"
        yield _verdict(name, rule, record["ratio"][ONE_THREAD], targets.TWO_THREADS, spread)
    if ONE_THREAD in record.get("busy", {}).get("ratio", {}):
        rule, beside = "beside a busy process: speed as a share of one thread's", record["busy"]
        yield _verdict(name, rule, beside["ratio"][ONE_THREAD], targets.BESIDE_A_BUSY_PROCESS, beside["spread"])


def _of_row(record: Record) -> Iterator[dict[str, Any]]:
    name = label(record)
    for baseline, times in targets.CUDA.get((record["workload"], record["precision"]), {}).items():
        if (value := record["ratio"].get(baseline)) is not None:
            yield _verdict(name, RULES[baseline], value, times, record["spread"])
    for key, unit, rule in targets.CUDA_HOST if "host" in record else ():
        value = record["host"][key] / unit
        verdict = "met" if value <= 1.0 else "missed"
        yield {"workload": name, "rule": rule, "most": 1.0, "value": value, "verdict": verdict}


def label(record: Record) -> str:
    """The workload; its precision and threads too, where they need to be said."""
    precision, threads = record.get("precision", "fp32"), record.get("threads", 1)
    name = str(record["workload"]) + (f" {precision}" if precision != "fp32" else "")
    return name if threads == 1 or name.endswith("-2t") else f"{name}, {threads}t"


def _value(record: Record, what: str) -> float | None:
    """What was found for a target (targets.py); None if a side of it has no time."""
    if what == "peak":
        return record["share_of_peak"].get(FASTGAN)
    if not what.startswith(BF16):
        return record["ratio"].get(what)
    sides = {"fp32": (FASTGAN,), "eager": ("eager",), "torch": (*MATMUL, *AUTOCAST)}[what.removeprefix(f"{BF16} to ")]
    ratios = [harness.ratio(record, side, BF16) for side in sides if {side, BF16} <= set(record["sides"])]
    return min(ratios, default=None)


def _verdict(workload: str, rule: str, value: float, least: float, spread: float) -> dict[str, Any]:
    found = {"workload": workload, "rule": rule, "least": least, "value": value}
    return found | {"verdict": harness.verdict(value, least, spread)}


def tables(records: Sequence[Record]) -> str:
    """Microseconds an iteration of fastgan, and how many times as fast it is as each baseline; one table a precision.

    Where windows of both states of the core occurred, each state has a row of its own. 80 characters wide.
    """
    measured = [record for record in records if record.get("sides")]
    found = []
    for precision in dict.fromkeys(r.get("precision", "fp32") for r in measured):
        of = [r for r in measured if r.get("precision", "fp32") == precision]
        sides = [p for p in CUDA_BASELINES if p not in IN_BF16 or precision == "bf16"]
        found.append(_table(of, FASTGAN, sides, precision, share=True))
    with_bf16 = [r for r in measured if BF16 in r["sides"]]
    if with_bf16:
        found.append(_table(with_bf16, BF16, [FASTGAN, "eager", *MATMUL, *AUTOCAST], "bf16", share=False))
    return "\n\n".join(found)


def _table(records: Sequence[Record], base: str, sides: Sequence[str], precision: str, share: bool) -> str:
    sides = [side for side in sides if any(side in r["sides"] for r in records)]
    header = [precision, "fastgan", *(_HEADS.get(p, p) for p in sides), *(["of peak", "spread"] if share else [])]
    rows = [header]
    for record in records:
        own = record["share_of_peak"].get(base)
        end = ["-" if own is None else f"{own:.0%}", f"{record['spread']:.1%}"] if share else []
        rows.append([label(record).removesuffix(f" {precision}"), *_cells(record, base, sides), *end])
        if len(record["states"]) > 1:
            rows += [[f"  {s}", *_cells(of, base, sides), *[""] * len(end)] for s, of in record["states"].items()]
    legend = "; ".join(_LEGEND[side] for side in sides if side in _LEGEND)
    return "\n".join([harness.table(rows), *textwrap.wrap(legend, WIDTH)])


def _cells(record: Record, base: str, sides: Sequence[str]) -> list[str]:
    return [harness.median(record, base), *(harness.times(record, side, base) for side in sides)]


def in_words(records: Sequence[Record]) -> Iterator[str]:
    """What is faster than what, a line for each baseline."""
    timed = [r for r in records if r.get("sides")]
    on_cpu = [r for r in timed if "device" not in r]  # there a record has both precisions
    for side in BASELINE_NAMES:
        of = [r for r in timed if r not in on_cpu] if side in IN_BF16 else timed
        yield from _sentence([r for r in of if {FASTGAN, side} <= set(r["sides"])], FASTGAN, "fastgan", side)
    for side in (FASTGAN, *MATMUL, *AUTOCAST):
        of = [r for r in on_cpu if {BF16, side} <= set(r["sides"])]
        yield from _sentence(of, BF16, "fastgan in bf16", side)


def _sentence(records: Sequence[Record], base: str, subject: str, side: str) -> Iterator[str]:
    if not records:
        return
    other = "its own float32" if side == FASTGAN else BASELINE_NAMES[side]
    ratios = {label(r): (harness.ratio(r, side, base), r["spread"]) for r in records}
    faster = {name: ratio for name, (ratio, spread) in ratios.items() if ratio > 1 + spread}
    slower = {name: ratio for name, (ratio, spread) in ratios.items() if ratio < 1 - spread}
    equal = [name for name in ratios if name not in faster and name not in slower]
    parts = []
    if faster:
        low, high = min(faster.values()), max(faster.values())
        span = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        parts.append(f"{span} times as fast as {other} at {_count(len(faster), len(ratios))}")
    if equal:
        parts.append(f"as fast as {other} at {', '.join(equal)}")
    if slower:
        parts.append(f"slower than {other} at {', '.join(f'{name} ({ratio:.2f})' for name, ratio in slower.items())}")
    yield f"{subject} is {'; '.join(parts)}."


def _count(some: int, every: int) -> str:
    if some == every:
        return {1: "the one workload", 2: "both workloads"}.get(every, f"all {every} workloads")
    return f"{some} of {every} workloads"


def bound_lines(found: Record) -> Iterator[str]:
    """The lower bounds of a device, a line each."""

    def us(seconds: float) -> str:
        return f"{seconds * 1e6:.3g} us"

    if "launch_s" in found:
        yield f"launch of an empty kernel: {us(found['launch_s'])} in a stream, {us(found['graph_node_s'])} in a graph"
        listed = [f"{us(found['block_barrier_s'])} of a block of {lower_bounds.THREADS} threads"]
        listed += [f"{us(s)} of a cluster of {blocks}" for blocks, s in found["cluster_barrier_s"].items()]
        yield f"barrier: {', '.join(listed)}"
        yield f"host: {us(found['launch_and_wait_s'])} for a launch and a wait, {us(found['fetch_s'])} for a number"
    yield f"copy: {found['copy_bytes_per_s'] / 1e9:,.0f} GB/s, read and written"
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in found["products_per_s"].items())
    yield f"matrix products, TFLOP/s: {rates}"


DISTURBED = 0.9  # of a processor: below, others took turns on it


def disturbed(records: Sequence[Record]) -> str:
    """Which one-thread workloads had to share their processor; empty if none had."""
    shares = {r["workload"]: r["processors got"] for r in records if r["threads"] == 1 and "processors got" in r}
    listed = [f"{name} {share:.0%}" for name, share in shares.items() if share < DISTURBED]
    return f"Disturbed: of the processor they were held on, they got: {', '.join(listed)}." if listed else ""


def lines(records: Sequence[Record], members: Record | None, on: Record) -> Iterator[str]:
    """Lines below the tables: what is faster than what, peak, population, targets, set-up times, omissions.

    Arguments as of `verdicts`.
    """
    yield from in_words(records)
    peaks = [r["peak GFLOP/s a core"] for r in records if "peak GFLOP/s a core" in r]
    peak = {name: max((p.get(name, 0.0) for p in peaks), default=0.0) for name in ("fp32", "bf16")}
    if peak["fp32"]:
        bf16 = f", bf16 {peak['bf16']:.0f}" if peak["bf16"] else "; no bf16 products"
        yield f"FMA peak, GFLOP/s a core, measured in the same run: fp32 {peak['fp32']:.0f}{bf16}"
    if members is not None and "iterations/s" in members:
        rates = members["iterations/s"]
        yield (
            f"population of {members['members']} on {members['threads']} threads: {rates['population']:,.0f} "
            f"iterations/s; one GAN on one thread: {rates['one']:,.0f}"
        )
    asked = verdicts(records, members, on)
    if asked:
        counts = Counter(found["verdict"] for found in asked)
        yield "targets: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    for found in asked:
        if found["verdict"] != "met":
            bound = f"at most {found['most']:.3g}" if "most" in found else f"at least {found['least']:.3g}"
            yield f"{found['verdict']}: {found['workload']}: {found['rule']}: {found['value']:.3g}, {bound} asked"
    measured = [r["sides"] for r in records if r.get("sides")]
    firsts = {p: [s[p]["first_call_s"] for s in measured if p in s] for p in BASELINE_NAMES}
    setup = {p: max(seconds) for p, seconds in firsts.items() if seconds}
    if setup:
        listed = ", ".join(f"{BASELINE_NAMES[p]} {seconds:.1f} s" for p, seconds in setup.items())
        yield f"set-up and compilation, not in the times above, at most: {listed}"
    yield from sorted({f"left out: {label(r)}: {n}: {why}" for r in records for n, why in r["left out"].items()})
    engines = {f"{label(r)}: {r['engine'][FASTGAN]}" for r in records if FASTGAN in r.get("engine", {})}
    yield from sorted(f"engine: {engine}" for engine in engines if not engine.partition(": ")[2].startswith("cpu "))


MARKERS = {  # and the number of the colour
    FASTGAN: ("o", 0),
    BF16: ("*", 5),
    "eager": ("s", 1),
    "fused-adam": ("^", 4),
    "compile": ("D", 3),
    "jax": ("v", 2),
    "graph": ("P", 3),
    "vmap": (">", 2),
    "matmul": ("<", 1),
    "compile-matmul": ("p", 3),
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
            shown = {FASTGAN: "fastgan", BF16: "fastgan, bf16"}.get(name) or BASELINE_NAMES[name]
            time_axis.scatter(x, y, size, color=pictures.COLOURS[colour], marker=marker, label=shown, zorder=3)
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
        mine = IN_BF16 if record.get("precision") == "bf16" else ()
        theirs = max((shares[p] for p in CUDA_BASELINES if p in shares and (p not in IN_BF16 or mine)), default=None)
        for name, share, offset, colour in (
            ("fastgan", shares.get(FASTGAN), -0.19, 0),
            ("best baseline", theirs, 0.19, 1),
        ):
            if share is not None:
                shown = name if i == 0 else None
                ax.barh(i + offset, 100 * share, 0.34, color=pictures.COLOURS[colour], label=shown)
                ax.annotate(f"{100 * share:.0f}", (100 * share + 1, i + offset), va="center", fontsize=7)
    ax.set(xlim=(0, 110))
    ax.tick_params(labelleft=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
