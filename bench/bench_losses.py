"""How fast are the fused losses? Forward and backward against BCEWithLogits, eager and compiled.

    python bench/bench_losses.py [--threads 1 2] [--quick] [--no-compile]

What is timed, "output": the logits are no leaves, as where they come out of a network, and
`torch.autograd.grad(loss, logits)` asks for what the network's backward would receive: the loss's own forward and
backward, nothing of the network's. "leaf": the logits are leaf tensors and `loss.backward()` leaves the gradients in
`.grad`, set to None before each call; autograd's own bookkeeping is then part of every side's time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
from fastgan.apps.bench import harness, pictures
from fastgan.apps.bench.results import Report, guarded

SIZES = (64, 512, 4096, 65536, 2**20)
QUICK_SIZES = (64, 4096)
# value and gradients of float32 baselines: torch's own fake term is off by 1e-7 absolute where its value is small
TOLERANCE = harness.Tolerance(norm=2e-6, element={"loss": 2e-6, "grad_real": 1e-6, "grad_fake": 1e-6})
NATIVE = fastgan.backend_info()["backends"]["loss on cpu"] == "native"
ULP = 2.0 if NATIVE else 4.0  # plain PyTorch rounds a few times more
EAGER, KEPT, COMPILED = "eager BCE", "eager, labels kept", "torch.compile"
LOGIT_SCALE = 3.0  # of a discriminator that has learnt something, not of one just initialised
BCE = nn.BCEWithLogitsLoss()

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    loss: str  # "discriminator" or "generator"
    n: int
    wiring: str  # "output" or "leaf"
    threads: int

    def __str__(self) -> str:
        return f"{self.loss}_loss, n = {self.n}, logits as {self.wiring}, {harness.threads(self.threads)}"


def eager_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """As users write it."""
    return BCE(real, torch.ones_like(real)) + BCE(fake, torch.zeros_like(fake))


def eager_generator(fake: Tensor) -> Tensor:
    """As users write it."""
    return BCE(fake, torch.ones_like(fake))


def with_labels_kept(case: Case, inputs: Sequence[Tensor]) -> Loss:
    """The eager loss of a user who made the labels once."""
    ones = torch.ones_like(inputs[0], requires_grad=False)
    zeros = torch.zeros_like(inputs[-1], requires_grad=False)
    if case.loss == "generator":
        return lambda fake: BCE(fake, ones)
    return lambda real, fake: BCE(real, ones) + BCE(fake, zeros)


def names(case: Case) -> tuple[str, ...]:
    return ("grad_fake",) if case.loss == "generator" else ("grad_real", "grad_fake")


def logits(case: Case, seed: int) -> list[Tensor]:
    """Random leaf logits, one batch for each argument of the loss; those of fakes are lower, as in training."""
    generator = torch.Generator().manual_seed(seed)
    shifts = {"grad_real": 1.0, "grad_fake": -1.0}
    return [
        (LOGIT_SCALE * torch.randn(case.n, generator=generator) + shifts[name]).requires_grad_() for name in names(case)
    ]


def side(name: str, case: Case, loss: Loss, leaves: Sequence[Tensor]) -> harness.Side:
    """Forward and backward of one loss, wired as the case says."""
    outputs = [x.view_as(x) for x in leaves]

    def from_output() -> tuple[Tensor, ...]:
        value = loss(*outputs)
        return value, *torch.autograd.grad(value, outputs)

    def to_leaf() -> tuple[Tensor, ...]:
        for x in leaves:
            x.grad = None
        value = loss(*leaves)
        value.backward()
        return value, *(x.grad for x in leaves if x.grad is not None)

    run = from_output if case.wiring == "output" else to_leaf
    return harness.Side(name, run, lambda: dict(zip(("loss", *names(case)), run(), strict=True)))


def sides(case: Case, compiled: bool, seed: int) -> list[harness.Side]:
    """fastgan first, then its baselines, each with leaves of its own that hold the same logits."""
    leaves = logits(case, seed)
    discriminator = case.loss == "discriminator"
    eager: Loss = eager_discriminator if discriminator else eager_generator
    losses: dict[str, Loss] = {
        "fastgan": fastgan.discriminator_loss if discriminator else fastgan.generator_loss,
        EAGER: eager,
        KEPT: with_labels_kept(case, leaves),
    }
    if compiled and case.wiring == "output":
        torch.compiler.reset()  # each size is compiled for itself: a dynamic one would be slower
        losses[COMPILED] = torch.compile(eager, dynamic=False)
    return [
        side(name, case, loss, [x.detach().clone().requires_grad_() for x in leaves]) for name, loss in losses.items()
    ]


def truth(case: Case, seed: int) -> dict[str, Tensor]:
    """Value and gradients of a float64 run: softplus and sigmoid."""
    wide = [x.detach().double() for x in logits(case, seed)]
    signs = [-1.0 if name == "grad_real" or case.loss == "generator" else 1.0 for name in names(case)]
    terms = [torch.logaddexp(torch.zeros_like(x), s * x).mean() for x, s in zip(wide, signs, strict=True)]
    gradients = [s * torch.sigmoid(s * x) / case.n for x, s in zip(wide, signs, strict=True)]
    return {"loss": torch.stack(terms).sum(), **dict(zip(names(case), gradients, strict=True))}


def cases(settings: harness.Settings) -> list[Case]:
    """Every case in the order of the table."""
    return [
        Case(loss, n, wiring, threads)
        for threads in settings.threads
        for wiring in ("output", "leaf")
        for loss in ("discriminator", "generator")
        for n in (QUICK_SIZES if settings.quick else SIZES)
    ]


def measure(settings: harness.Settings, compiled: bool, report: Report) -> None:
    """All cases, each written as it is finished."""
    todo = cases(settings)
    for i, case in enumerate(todo):
        harness.progress(f"[{i + 1}/{len(todo)}] {case}")
        with harness.pinned(case.threads) as cpus:
            mine, *others = sides(case, compiled, settings.seed)
            right, got = truth(case, settings.seed), mine.results()
            errors = {name: harness.ulps(got[name].detach(), right[name]) for name in right}
            contenders = [replace(mine, tolerance=replace(TOLERANCE, ulp=ULP)), *others]
            record = harness.compare(str(case), contenders, right, TOLERANCE, settings, case.threads)
        record = {**vars(case), "cpus": cpus, "ulp": errors, **record}
        report.add(record | {"verdicts": verdicts(record)})


def targets(record: Mapping[str, Any]) -> dict[str, float]:
    """The targets of a case: baseline -> least ratio."""
    if record["loss"] != "discriminator" or record["wiring"] != "output":
        return {}
    if record["n"] <= 4096:
        return {EAGER: 1.8}
    return {EAGER: 3.0, COMPILED: 1.5} if record["n"] == 2**20 else {}


def verdicts(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Baseline -> target, ratio and verdict, where there is a target and the baseline was measured."""
    return {
        baseline: {
            "target": least,
            "ratio": record["ratio"][baseline],
            "verdict": harness.verdict(record["ratio"][baseline], least, record["spread"]),
        }
        for baseline, least in targets(record).items()
        if baseline in record["ratio"]
    }


def rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table of one thread count: microseconds a call, then how many times faster than each baseline."""
    baselines = [EAGER, KEPT, COMPILED]
    header = ["loss", "logits as", "n", "fastgan", *baselines, "vs eager", "vs kept", "vs compile", "spread", "max ULP"]
    body = []
    for r in records:
        times = [harness.median(r, side) for side in ("fastgan", *baselines)]
        ratios = [harness.times(r, p, "fastgan") for p in baselines]
        worst = max(r["ulp"].values())
        body.append([r["loss"], r["wiring"], str(r["n"]), *times, *ratios, f"{r['spread']:.1%}", f"{worst:.2f}"])
    return [header, *body]


def picture(records: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Any:
    """discriminator_loss at a network's output: times over n, and how many times faster than each baseline."""
    chosen = [r for r in records if r["loss"] == "discriminator" and r["wiring"] == "output" and r["ratio"]]
    if not chosen:
        return None
    threads = sorted({r["threads"] for r in chosen})
    fig, axes = pictures.figure(10, 1 + 3.1 * len(threads), len(threads), 2)
    baselines = [p for p in (EAGER, KEPT, COMPILED) if p in chosen[0]["ratio"]]
    colours = dict(zip(("fastgan", *baselines), pictures.COLOURS, strict=False))
    for row, count in zip(axes, threads, strict=True):
        mine = [r for r in chosen if r["threads"] == count]
        n = [r["n"] for r in mine]
        times = {s: [r["sides"][s]["median_s"] * 1e6 for r in mine] for s in ("fastgan", *baselines)}
        pictures.lines(row[0], n, times, colours)
        row[0].set(yscale="log", ylabel="microseconds a call", title=f"time, {harness.threads(count)}")
        pictures.lines(row[1], n, {p: [r["ratio"][p] for r in mine] for p in baselines}, colours)
        pictures.ratio_line(row[1], 1.0, "as fast as the baseline")
        row[1].set(ylabel="times faster than the baseline", ylim=(0, None))
        row[1].set_title(f"fastgan's advantage, {harness.threads(count)}")
        for ax in row:
            ax.set_xlabel("n, logits in each of the two batches")
    axes[0, 0].legend(frameon=False, fontsize=8)
    pictures.title(fig, "discriminator_loss, forward and backward, float32", notes)
    return fig


def bench(settings: harness.Settings, compiled: bool) -> Report:
    """Measure, print, write."""
    report = Report("losses", settings)
    measure(settings, compiled, report)
    records = report.records
    print(
        "Forward and backward of the losses, float32: microseconds a call (median), and times faster than the baseline."
    )
    for count in settings.threads:
        print(f"\n{harness.threads(count)}")
        print(harness.table(rows([r for r in records if r["threads"] == count])))
    print()
    for record in records:
        for baseline, found in record["verdicts"].items():
            print(
                f"{harness.threads(record['threads'])}, n = {record['n']}: at least "
                f"{found['target']}x {baseline}: {found['ratio']:.2f}x, {found['verdict']}"
            )
    print(report.disturbances())
    notes = [f"logits as a network's output; median of {settings.windows} interleaved windows", report.disturbances()]
    content = {"unit": "seconds a call", "native": NATIVE, "check ULP": ULP}
    report.write(content, picture(records, notes))
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("fastgan's losses against BCEWithLogits, eager and compiled")
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    args = p.parse_args(argv)
    with harness.cold_compiler():
        return guarded("bench_losses", lambda: bench(harness.settings_from(args), not args.no_compile))


if __name__ == "__main__":
    raise SystemExit(main())
