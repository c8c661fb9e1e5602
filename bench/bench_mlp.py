"""Is a fused MLP faster than nn.Sequential, as a module in user code? Forward and backward at many shapes.

    python bench/bench_mlp.py [--threads 1 2] [--quick] [--only NAME ...] [--compile]

One call is `module(x).backward(grad_y)` with every `.grad` set to None before it, as `zero_grad()` does; "input" adds
the gradient with respect to x, which a generator's step asks of the discriminator. `fuse` is fastgan.fuse on the same
nn.Sequential. Rates count 2 operations for a multiplication with an addition, in the products alone: forward, gradient
of the weights, gradient of a layer's input where something needs it. Peak: multiply-adds in registers, in the same run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
from fastgan._probes import fma_peak
from fastgan.apps.bench import flops, harness, pictures
from fastgan.apps.bench.results import Report, guarded
from fastgan.apps.bench.workloads import MlpSizes, fastgan_network, plain_network

MLP, FUSED, EAGER, COMPILED = "fastgan.nn", "fuse", "nn.Sequential", "torch.compile"


@dataclass(frozen=True)
class Shape:
    """A network as users write it, and its batch."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    output: str | None = None
    pieces: int = 1  # of the hidden layers: maxout
    toy: bool = False  # held to the target of the toy sizes
    norm: float = 1e-5  # by how much of their norm gradients may differ

    @property
    def network(self) -> MlpSizes:
        return MlpSizes(self.sizes, self.activation, self.output, self.pieces)

    @property
    def tolerance(self) -> harness.Tolerance:
        return harness.Tolerance(self.norm, element={"y": 2e-5})

    def describe(self) -> str:
        widths = "-".join(map(str, self.sizes))
        return f"{widths}, {f'maxout {self.pieces}' if self.pieces > 1 else self.activation}, batch {self.batch}"


SHAPES = (
    Shape("tiny", (1, 16, 16, 1), 32, toy=True),
    Shape("toy 32", (2, 128, 128, 2), 32, toy=True),
    Shape("toy 128", (2, 128, 128, 2), 128, toy=True),
    Shape("toy 256", (2, 128, 128, 2), 256, toy=True),
    Shape("digits", (32, 256, 256, 64), 128, "leaky_relu", "tanh"),
    Shape("MNIST-256", (64, 256, 256, 784), 100, "relu", "sigmoid"),
    Shape("MNIST-1024", (100, 128, 256, 512, 1024, 784), 64, "leaky_relu", "tanh"),
    Shape("original G", (100, 1200, 1200, 784), 100, "relu", "sigmoid"),
    Shape("original D", (784, 240, 240, 1), 100, pieces=5),
    # among its 3 million activations, rounding switches one ReLU or another on or off
    Shape("apex", (480, 1024, 1024, 512, 256, 1), 1024, norm=2e-3),
)
QUICK = ("tiny", "toy 32", "original D")


def with_fastgan(shape: Shape) -> nn.Module:
    """The same network of fastgan's own modules."""
    if shape.pieces == 1:
        return fastgan.nn.MLP(shape.sizes, activation=shape.activation, output_activation=shape.output)
    return fastgan_network(shape.network)


def modules(shape: Shape, compiled: bool, seed: int) -> dict[str, Any]:
    """fastgan's first, all with the same parameters."""
    torch.manual_seed(seed)
    baseline = plain_network(shape.network)
    mine = with_fastgan(shape)
    mine.load_state_dict(baseline.state_dict())
    found: dict[str, Any] = {MLP: mine, EAGER: baseline}
    if shape.pieces == 1:  # of a user's own Maxout class, fuse knows nothing
        found[FUSED] = fastgan.fuse(copy.deepcopy(baseline))
    if compiled:
        torch.compiler.reset()
        found[COMPILED] = torch.compile(copy.deepcopy(baseline), dynamic=False)
    return found


def side(name: str, module: nn.Module, shape: Shape, with_input: bool, seed: int) -> harness.Side:
    """Forward and backward of one module, with random data of its own copy."""
    generator, parameters = torch.Generator().manual_seed(seed), list(module.parameters())
    x, grad_y = (torch.randn(shape.batch, shape.sizes[i], generator=generator).to(parameters[0].dtype) for i in (0, -1))
    x.requires_grad_(with_input)
    leaves = [*parameters, x] if with_input else parameters

    def run() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        y = module(x)
        y.backward(grad_y)
        return y

    def results() -> dict[str, Tensor]:
        found = {"y": run()}
        found |= {f"grad_{i}": p.grad for i, p in enumerate(parameters) if p.grad is not None}
        if with_input and x.grad is not None:
            found["grad_x"] = x.grad
        return found

    return harness.Side(name, run, results)


def truth(shape: Shape, with_input: bool, seed: int) -> Mapping[str, Tensor]:
    """The results of the plain network in float64."""
    torch.manual_seed(seed)
    return side("float64", plain_network(shape.network).double(), shape, with_input, seed).results()


def operations(shape: Shape, with_input: bool) -> float:
    """Floating-point operations of the matrix products of one call."""
    forward, first = flops.forward(shape.network, shape.batch), flops.first_layer(shape.network, shape.batch)
    return 3 * forward - (0.0 if with_input else first)


def measure(settings: harness.Settings, shapes: Sequence[Shape], compiled: bool, report: Report) -> None:
    """All cases, each written as it is finished."""
    peaks = report.content.setdefault("peak GFLOP/s a core", {})
    todo = [(t, shape, w) for t in settings.threads for shape in shapes for w in (False, True)]
    for i, (threads, shape, with_input) in enumerate(todo):
        gradients = "parameters and input" if with_input else "parameters"
        case = f"{shape.name} ({shape.describe()}), gradients of {gradients}, {harness.threads(threads)}"
        harness.progress(f"[{i + 1}/{len(todo)}] {case}")
        with harness.pinned(threads) as cpus:
            if threads not in peaks:
                peaks[threads] = fma_peak(threads).get("fp32", 0.0)
            contenders = [
                side(name, module, shape, with_input, settings.seed)
                for name, module in modules(shape, compiled, settings.seed).items()
            ]
            right = truth(shape, with_input, settings.seed)
            record = harness.compare(case, contenders, right, shape.tolerance, settings, threads)
        rate = {s: operations(shape, with_input) / t["median_s"] / 1e9 for s, t in record["sides"].items()}
        record = {
            **vars(shape),
            "with_input": with_input,
            "threads": threads,
            "cpus": cpus,
            "operations": operations(shape, with_input),
            "gflops": rate,
            "share_of_peak": {s: r / (peaks[threads] * threads) for s, r in rate.items() if peaks[threads]},
            **record,
        }
        report.add(record | {"verdict": verdicts(record)})


def verdicts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Never slower than nn.Sequential; at least 1.5 times as fast at the toy sizes."""
    least = 1.5 if record["toy"] else 1.0
    ratio = record["ratio"].get(EAGER)
    if ratio is None:
        return {"target": least, "ratio": None, "verdict": "no time"}
    return {"target": least, "ratio": ratio, "verdict": harness.verdict(ratio, least, record["spread"])}


def rows(records: Sequence[Mapping[str, Any]], compiled: bool) -> list[list[str]]:
    """The table of one thread count: microseconds a call, ratios, rates."""
    shown = [MLP, FUSED, EAGER, *([COMPILED] if compiled else [])]
    header = ["network", "batch", "gradients", *shown, "vs eager", "fuse vs eager"]
    header += ["vs compile"] * compiled + ["spread", "GFLOP/s", "eager's", "of peak", "verdict"]
    body = []
    for r in records:
        times = [harness.median(r, side) for side in shown]
        pairs = [(EAGER, MLP), (EAGER, FUSED), *([(COMPILED, MLP)] * compiled)]
        ratios = [harness.times(r, baseline, name) for baseline, name in pairs]
        rates = [f"{r['gflops'][s]:.1f}" if s in r["gflops"] else "-" for s in (MLP, EAGER)]
        gradients = "params+input" if r["with_input"] else "params"
        end = [f"{r['spread']:.1%}", *rates, f"{r['share_of_peak'].get(MLP, 0):.0%}", r["verdict"]["verdict"]]
        body.append([r["name"], str(r["batch"]), gradients, *times, *ratios, *end])
    return [header, *body]


def picture(records: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Any:
    """How many times faster than nn.Sequential, shape by shape, a block for each thread count."""
    threads = sorted({r["threads"] for r in records})
    first = [r for r in records if r["threads"] == threads[0]]
    fig, axes = pictures.figure(5.6 * len(threads) + 1.6, 1.8 + 0.34 * len(first), 1, len(threads), sharey=True)
    labels = [f"{r['name']}\n{'with' if r['with_input'] else 'without'} grad_x" for r in first]
    places = range(len(first))
    for ax, count in zip(axes[0], threads, strict=True):
        mine = [r for r in records if r["threads"] == count]
        ratios = [r["ratio"][EAGER] for r in mine]
        colours = [pictures.VERDICT_COLOURS[r["verdict"]["verdict"]] for r in mine]
        ax.barh(
            places,
            ratios,
            xerr=[r["ratio"][EAGER] * r["spread"] for r in mine],
            color=colours,
            height=0.7,
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": pictures.INK},
        )
        fused = [
            (p, r["sides"][EAGER]["median_s"] / r["sides"][FUSED]["median_s"])
            for p, r in zip(places, mine, strict=True)
            if FUSED in r["sides"]
        ]
        ax.plot(
            [v for _, v in fused],
            [p for p, _ in fused],
            "D",
            color=pictures.INK,
            markersize=4,
            label="fastgan.fuse on the same nn.Sequential (bars: fastgan.nn)",
        )
        pictures.ratio_line(ax, 1.0, "nn.Sequential", vertical=True)
        ax.set_yticks(places, labels, fontsize=7)
        ax.set_xlim(0, None)
        ax.set_xlabel(f"times faster than nn.Sequential, {harness.threads(count)}")
    axes[0, 0].set_ylim(len(first) - 0.4, -0.6)  # of all blocks: they share it
    if any(FUSED in r["sides"] for r in records):
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8)
    pictures.title(fig, "fastgan.nn against nn.Sequential, forward and backward, float32", notes)
    return fig


def bench(settings: harness.Settings, shapes: Sequence[Shape], compiled: bool) -> Report:
    """Measure, print, write."""
    report = Report("mlp", settings)
    measure(settings, shapes, compiled, report)
    records = report.records
    print("Forward and backward of a module in user code, float32: microseconds a call (median).")
    for count in settings.threads:
        peak = report.content["peak GFLOP/s a core"][count]
        print(f"\n{harness.threads(count)}; FMA peak: {peak:.0f} GFLOP/s a core")
        print(harness.table(rows([r for r in records if r["threads"] == count], compiled)))
    missed = [r["case"] for r in records if r["verdict"]["verdict"] == "missed"]
    print(f"\nAsked: 1.0x everywhere, 1.5x at tiny and toy; missed in {len(missed)} of {len(records)} cases")
    print(report.disturbances())
    notes = [
        f"median of {settings.windows} interleaved windows; whisker: spread of fastgan timed twice",
        "target (1.5 at tiny and toy, 1.0 elsewhere): blue met, grey within the spread of it, orange missed",
        report.disturbances(),
    ]
    timed = [r for r in records if r["ratio"]]
    report.write({"unit": "seconds a call"}, picture(timed, notes) if timed else None)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("fastgan.nn.MLP and fastgan.fuse against nn.Sequential")
    p.add_argument("--only", nargs="+", choices=[s.name for s in SHAPES], help="networks to measure")
    p.add_argument("--compile", action="store_true", help="torch.compile of the nn.Sequential as another baseline")
    args = p.parse_args(argv)
    chosen = args.only or (QUICK if args.quick else [s.name for s in SHAPES])
    shapes = [s for s in SHAPES if s.name in chosen]
    with harness.cold_compiler():
        return guarded("bench_mlp", lambda: bench(harness.settings_from(args), shapes, args.compile))


if __name__ == "__main__":
    raise SystemExit(main())
