"""At which shapes does `fastgan.fuse` pay? One Linear and its activation, forward and backward, over a grid of shapes.

    python bench/bench_drop_in_grid.py [--all] [--batch N ...] [--threads 1] [--quick] [--resume | --worst N]

Inputs and outputs are each of 12 widths between 2 and 2048, batches 10 sizes between 1 and 1024: 1,440 shapes with
`--all`, else a sparse subset of about 100. Gradients of the parameters and of the input. Beside `fastgan.fuse`, which
leaves to PyTorch what it expects PyTorch to do faster, native calls are timed at every shape: so the table shows where
that rule (`fastgan.nn.segments.pays`) is wrong. Times are processor time, which other jobs disturb least.

The lowest of many ratios are low by chance too. `--worst N` measures those shapes of the file of results again, beside
a copy of the plain model, whose ratio shows how far equal code scatters.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
from fastgan.apps.bench import harness, pictures
from fastgan.apps.bench.results import Report, guarded

WIDTHS = (2, 6, 32, 64, 100, 128, 256, 512, 784, 1024, 1200, 2048)
BATCHES = (1, 16, 32, 50, 64, 100, 128, 256, 500, 1024)
SPARSE_WIDTHS, SPARSE_BATCHES = (2, 32, 128, 512, 1024), (1, 16, 64, 256)
QUICK = [(2, 32, 16), (128, 64, 16)]
PLAIN, FUSED, NATIVE, COPY = "plain PyTorch", "fastgan.fuse", "native calls", "plain PyTorch, a copy"
TOLERANCE = harness.Tolerance(1e-5)
Shape = tuple[int, int, int]  # inputs, outputs, batch


def with_native_calls(plain: nn.Sequential) -> nn.Module:
    """The same layers, run as one native call whatever the rule says: it is for PyTorch's own `nn.Linear` alone."""
    linear, activation = plain
    module = fastgan.nn.Sequential(fastgan.nn.Linear(linear.in_features, linear.out_features), activation)  # type: ignore[arg-type]
    module.load_state_dict(plain.state_dict())
    return module


def side(name: str, module: nn.Module, shape: Shape) -> harness.Side:
    """Forward and backward of a module."""
    inputs, outputs, batch = shape
    generator, parameters = torch.Generator().manual_seed(0), list(module.parameters())
    dtype = parameters[0].dtype
    x = torch.randn(batch, inputs, generator=generator).to(dtype).requires_grad_()
    grad_y = torch.randn(batch, outputs, generator=generator).to(dtype)
    with torch.no_grad():  # at the kink of the activation, rounding decides which of its two derivatives is right
        exact = copy.deepcopy(module[0]).double()(x.double())  # type: ignore[index, operator]
        grad_y[exact.abs() < 1e-4] = 0.0

    def run() -> Tensor:
        for leaf in (x, *parameters):
            leaf.grad = None
        y: Tensor = module(x)
        y.backward(grad_y)
        return y

    def results() -> dict[str, Tensor]:
        y = run()
        return {"y": y, **{f"grad_{i}": p.grad for i, p in enumerate((x, *parameters)) if p.grad is not None}}

    return harness.Side(name, run, results)


def measure(shape: Shape, threads: int, settings: harness.Settings, third: str = NATIVE) -> dict[str, Any]:
    """The record of a shape; third: what is timed beside plain PyTorch and `fastgan.fuse`."""
    inputs, outputs, batch = shape
    torch.manual_seed(settings.seed)
    plain = nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.2))
    truth = side("float64", copy.deepcopy(plain).double(), shape).results()
    with harness.pinned(threads) as cpus:
        fused = fastgan.fuse(copy.deepcopy(plain))
        contenders = [
            side(FUSED, fused, shape),
            side(third, copy.deepcopy(plain) if third == COPY else with_native_calls(plain), shape),
            side(PLAIN, plain, shape),
        ]
        case = f"{inputs} x {outputs}, batch {batch}, {harness.threads(threads)}"
        record = harness.compare(case, contenders, truth, TOLERANCE, settings, threads)
    x = torch.zeros(batch, inputs)
    used = fused(x).grad_fn.name() != plain(x).grad_fn.name()
    about = {"inputs": inputs, "outputs": outputs, "batch": batch, "threads": threads, "cpus": cpus}
    return about | {"the rule takes native calls": used} | record


def picture(records: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Any:
    """A map of inputs and outputs for each batch, coloured by plain PyTorch's time over fastgan's."""
    from matplotlib.colors import TwoSlopeNorm

    batches = sorted({r["batch"] for r in records})
    columns = min(4, len(batches))
    rows = -(-len(batches) // columns)
    fig, axes = pictures.figure(1.5 + 3.2 * columns, 1.4 + 2.9 * rows, rows, columns)
    inputs, outputs = (sorted({r[key] for r in records}) for key in ("inputs", "outputs"))
    drawn = None
    for ax, batch in itertools.zip_longest(axes.flat, batches):
        if batch is None:
            ax.set_visible(False)
            continue
        ratios = {(r["inputs"], r["outputs"]): r["ratio"].get(PLAIN) for r in records if r["batch"] == batch}
        grid = [[ratios.get((i, o)) or float("nan") for i in inputs] for o in outputs]
        drawn = ax.imshow(grid, origin="lower", cmap="RdBu", norm=TwoSlopeNorm(1.0, 0.5, 2.0))
        for (x, i), (y, o) in itertools.product(enumerate(inputs), enumerate(outputs)):
            if ratio := ratios.get((i, o)):
                ink = "white" if ratio > 1.6 or ratio < 0.65 else "black"  # to be read on the dark ends of the scale
                ax.annotate(f"{ratio:.2f}", (x, y), ha="center", va="center", fontsize=5, color=ink)
        ax.set_xticks(range(len(inputs)), inputs, fontsize=6, rotation=90)
        ax.set_yticks(range(len(outputs)), outputs, fontsize=6)
        ax.grid(False)
        ax.set_title(f"batch {batch}")
        ax.set(xlabel="inputs", ylabel="outputs")
    fig.colorbar(drawn, ax=axes, shrink=0.6, label="times as fast as plain PyTorch")
    pictures.title(fig, "fastgan.fuse on one Linear and its activation, forward and backward", notes)
    return fig


def slower(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The shapes at which the changed line costs time, beyond the spread."""
    return [r for r in records if r["ratio"].get(PLAIN, 1.0) < 1.0 - r["spread"]]


def bench(settings: harness.Settings, shapes: Sequence[Shape], resume: bool) -> Report:
    """Measure, print, write."""
    report = Report("drop-in-grid", settings)
    if resume:
        report.resume()
    done = {(r["inputs"], r["outputs"], r["batch"], r["threads"]) for r in report.records}
    todo = [(threads, s) for threads in settings.threads for s in shapes if (*s, threads) not in done]
    for i, (threads, shape) in enumerate(todo):
        harness.progress(f"[{i + 1}/{len(todo)}] {shape[0]} x {shape[1]}, batch {shape[2]}")
        report.add(measure(shape, threads, settings))
    timed = [r for r in report.records if PLAIN in r["ratio"]]
    rows = [["inputs x outputs, batch", "plain", "fuse", "native", "fuse gains", "native gains", "spread"]]
    below = slower(timed)
    for r in below or timed[:20]:
        times = [harness.median(r, s) for s in (PLAIN, FUSED, NATIVE)]
        gains = [harness.times(r, PLAIN, s) for s in (FUSED, NATIVE)]
        rows.append([r["case"].rsplit(",", 1)[0], *times, *gains, f"{r['spread']:.1%}"])
    print("Microseconds, forward and backward" + (", at the shapes where fastgan.fuse is slower" if below else ""))
    print(harness.table(rows))
    wasted = [r for r in timed if NATIVE in r["sides"] and harness.ratio(r, NATIVE, FUSED) < 1 - r["spread"]]
    ratios = sorted(r["ratio"][PLAIN] for r in timed)
    print(
        f"fastgan.fuse is slower than plain PyTorch at {len(below)} of {len(timed)} shapes; "
        f"ratios {ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}\n"
        f"native calls would be faster than what the rule chose at {len(wasted)}"
    )
    notes = [f"median of {settings.windows} windows, {report.records[0].get('clock', 'wall')} time, one thread"]
    if differing := report.revisions():
        print(differing)
        notes.append(differing)
    first = [r for r in timed if r["threads"] == settings.threads[0]]
    report.write({"unit": "seconds a call"}, picture(first, [*notes, report.disturbances()]))
    return report


def bench_again(settings: harness.Settings, count: int) -> Report:
    """Measure the shapes with the lowest ratios in the file of results again, and print; the file stays as it is."""
    report = Report("drop-in-grid", settings)
    report.resume()
    timed = [r for r in report.records if PLAIN in r["ratio"] and r["threads"] in settings.threads]
    if not timed:
        raise SystemExit(f"bench_drop_in_grid: --worst needs the results of a grid in {report.path}")
    fused, copies = [], []
    rows = [["inputs x outputs, batch", "fuse gains, then", "fuse gains, now", "a copy gains"]]
    for i, r in enumerate(sorted(timed, key=lambda r: r["ratio"][PLAIN])[:count]):
        harness.progress(f"[{i + 1}/{min(count, len(timed))}] {r['case']}")
        again = measure((r["inputs"], r["outputs"], r["batch"]), r["threads"], settings, COPY)
        gains = [harness.times(again, PLAIN, s) for s in (FUSED, COPY)]
        rows.append([r["case"].rsplit(",", 1)[0], f"{r['ratio'][PLAIN]:.2f}x", *gains])
        if {PLAIN, FUSED, COPY} <= set(again["sides"]):
            fused.append(harness.ratio(again, PLAIN, FUSED))
            copies.append(harness.ratio(again, PLAIN, COPY))
    print(harness.table(rows))
    for name, found in (("fastgan.fuse", sorted(fused)), ("a copy of the plain model", sorted(copies))):
        if found:
            middle = found[len(found) // 2]
            print(f"{name}: {found[0]:.2f} to {found[-1]:.2f} times as fast as plain PyTorch, median {middle:.2f}")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("fastgan.fuse on one Linear and its activation over a grid of shapes")
    p.add_argument("--all", action="store_true", help="the whole grid of 1,440 shapes, about an hour")
    p.add_argument("--batch", type=int, nargs="+", help="batches, instead of those of the grid")
    p.add_argument("--resume", action="store_true", help="keep the shapes that the file of results has")
    p.add_argument("--worst", type=int, metavar="N", help="measure the N shapes with the lowest ratios again")
    p.set_defaults(clock="cpu", threads=[1], windows=10, window_ms=4.0)
    args = p.parse_args(argv)
    widths, batches = (WIDTHS, BATCHES) if args.all else (SPARSE_WIDTHS, SPARSE_BATCHES)
    shapes = QUICK if args.quick else list(itertools.product(widths, widths, args.batch or batches))
    settings = harness.settings_from(args)
    if args.worst:
        return guarded("bench_drop_in_grid", lambda: bench_again(settings, args.worst))
    return guarded("bench_drop_in_grid", lambda: bench(settings, shapes, args.resume))


if __name__ == "__main__":
    raise SystemExit(main())
