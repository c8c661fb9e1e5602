"""Does one line, `fastgan.fuse(model)`, pay in code that others wrote? Training loops as published, plain and changed.

    python bench/bench_in_others_code.py [--threads 1 2] [--windows N] [--quick] [--only NAME ...]

The loops are written here from their published descriptions: networks, losses, batch sizes, optimisers. Nothing but
the one line differs between the two sides, which start from the same parameters and take turns in one process. With one
thread, times are processor time, which other jobs on the machine disturb least; with more, wall time.
Check: after one step of both sides all gradients are the same but for rounding (dropout, whose masks differ by design,
is switched off for the check).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from fastgan.apps.bench import harness, pictures
from fastgan.apps.bench.results import Report, guarded

Step = Callable[[], object]
PLAIN, FUSED = "plain PyTorch", "fastgan.fuse"


@dataclass(frozen=True)
class Loop:
    """A training loop: its networks, and what makes a step of them."""

    name: str
    source: str
    networks: Callable[[], nn.ModuleDict]
    step: Callable[[nn.ModuleDict], Step]


def block(*sizes: int, activation: nn.Module, dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers with an activation, and dropout where there is any, behind each."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), copy.deepcopy(activation)]
        layers += [nn.Dropout(dropout)] if dropout else []
    return layers


def adam(module: nn.Module, lr: float = 2e-4, betas: tuple[float, float] = (0.5, 0.9)) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=lr, betas=betas)


def penalty(d: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """WGAN-GP as it is usually written."""
    where = (mix * real + (1 - mix) * fake).requires_grad_()
    logits = d(where)
    (grad,) = torch.autograd.grad(logits, where, torch.ones_like(logits), create_graph=True, retain_graph=True)
    return 10 * ((grad.norm(2, dim=1) - 1) ** 2).mean()


# ---------------------------------------------------------------- the table of shapes


def shape(name: str, sizes: Sequence[int], batch: int, output: nn.Module | None, kind: str) -> Loop:
    """One network alone: forward, forward with backward, or a gradient penalty with its backward."""

    def networks() -> nn.ModuleDict:
        layers = block(*sizes, activation=nn.LeakyReLU(0.2))[:-1]
        return nn.ModuleDict({"d": nn.Sequential(*layers, *([output] if output else []))})

    def step(nets: nn.ModuleDict) -> Step:
        d, x, y = nets["d"], torch.randn(batch, sizes[0]), torch.randn(batch, sizes[0])
        mix, parameters = torch.rand(batch, 1), list(nets.parameters())

        def forward() -> None:
            with torch.no_grad():
                d(x)

        def both() -> None:
            for p in parameters:
                p.grad = None
            (d(x).sum() if kind == "forward + backward" else penalty(d, x, y, mix)).backward()

        return forward if kind == "forward" else both

    return Loop(f"{name}: {kind}", "", networks, step)


KINDS = ("forward", "forward + backward", "gradient penalty")
SHAPES = [
    shape(name, sizes, batch, output, kind)
    for name, sizes, batch, output in (
        ("784-512-256-1, 64", (784, 512, 256, 1), 64, None),
        ("1024-784 tanh, 64", (1024, 784), 64, nn.Tanh()),
        ("600-256-256-1, 50", (600, 256, 256, 1), 50, None),
        ("2-128-128-1, 32", (2, 128, 128, 1), 32, None),
        ("6-32-32-1, 64", (6, 32, 32, 1), 64, None),
    )
    for kind in KINDS
]

# ---------------------------------------------------------------- loops


def ctgan_networks() -> nn.ModuleDict:
    layers = block(600, 256, 256, activation=nn.LeakyReLU(0.2), dropout=0.5)
    return nn.ModuleDict({"d": nn.Sequential(*layers, nn.Linear(256, 1))})


def ctgan_step(nets: nn.ModuleDict) -> Step:
    d, real, fake = nets["d"], torch.randn(500, 60), torch.randn(500, 60)
    optimizer = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.9), weight_decay=1e-6)
    mix = torch.rand(50, 1)

    def step() -> None:  # D sees ten rows together
        loss = d(fake.view(-1, 600)).mean() - d(real.view(-1, 600)).mean()
        optimizer.zero_grad(set_to_none=False)
        penalty(d, real.view(-1, 600), fake.view(-1, 600), mix).backward(retain_graph=True)
        loss.backward()
        optimizer.step()

    return step


def gail_networks() -> nn.ModuleDict:
    return nn.ModuleDict({"d": nn.Sequential(*block(14, 32, 32, activation=nn.ReLU()), nn.Linear(32, 1))})


def gail_step(nets: nn.ModuleDict) -> Step:
    d, optimizer = nets["d"], torch.optim.Adam(nets.parameters())
    x, labels = torch.randn(2048, 14), (torch.arange(2048) < 1024).float()

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(d(x).squeeze(1), labels).backward()
        optimizer.step()

    return step


def mnist_generator() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(100, 128), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in ((128, 256), (256, 512), (512, 1024)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, 0.8), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Linear(1024, 784), nn.Tanh())


def mnist_networks(*output: nn.Module) -> nn.ModuleDict:
    activation = nn.LeakyReLU(0.2, inplace=True)
    d = nn.Sequential(*block(784, 512, 256, activation=activation), nn.Linear(256, 1), *copy.deepcopy(output))
    return nn.ModuleDict({"g": mnist_generator(), "d": d})


def gan_step(nets: nn.ModuleDict, *, toggle: bool = False) -> Step:
    g, d, criterion = nets["g"], nets["d"], nn.BCELoss()
    of_g, of_d = (adam(net, betas=(0.5, 0.999)) for net in (g, d))
    real, z = torch.randn(64, 784).tanh(), torch.randn(64, 100)
    valid, false = torch.ones(64, 1), torch.zeros(64, 1)

    def step() -> None:
        of_g.zero_grad()
        if toggle:
            d.requires_grad_(False)
        fake = g(z)
        criterion(d(fake), valid).backward()
        of_g.step()
        if toggle:
            d.requires_grad_(True)
        of_d.zero_grad()
        ((criterion(d(real), valid) + criterion(d(fake.detach()), false)) / 2).backward()
        of_d.step()

    return step


def wgan_gp_step(nets: nn.ModuleDict) -> Step:
    g, d = nets["g"], nets["d"]
    of_g, of_d = (adam(net, betas=(0.5, 0.999)) for net in (g, d))
    real, z, mix = torch.randn(64, 784).tanh(), torch.randn(64, 100), torch.rand(64, 1)

    def step() -> None:  # five steps of the critic, then one of the generator
        for _ in range(5):
            of_d.zero_grad()
            fake = g(z)
            (-d(real).mean() + d(fake).mean() + penalty(d, real, fake.detach(), mix)).backward()
            of_d.step()
        of_g.zero_grad()
        (-d(g(z)).mean()).backward()
        of_g.step()

    return step


def alad_networks() -> nn.ModuleDict:
    leaky = nn.LeakyReLU(0.2)
    sizes = {"decoder": (5, 5, 10, 25, 32), "encoder": (32, 25, 10, 5, 5), "xz": (37, 25, 10, 5, 1)}
    sizes |= {"xx": (64, 25, 10, 5, 1), "zz": (10, 25, 10, 5, 1)}
    made = {k: block(*s[:-1], activation=leaky, dropout=0.2) + [nn.Linear(s[-2], s[-1])] for k, s in sizes.items()}
    return nn.ModuleDict({name: nn.Sequential(*layers) for name, layers in made.items()})


def alad_step(nets: nn.ModuleDict) -> Step:
    criterion, x, z = nn.BCEWithLogitsLoss(), torch.randn(32, 32), torch.randn(32, 5)
    discriminators, others = [nets[k] for k in ("xz", "xx", "zz")], [nets["decoder"], nets["encoder"]]
    of_discriminators, of_makers = (
        torch.optim.Adam([p for n in many for p in n.parameters()], 1e-4) for many in (discriminators, others)
    )
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)

    def pairs() -> tuple[list[Tensor], list[Tensor]]:
        made, code = nets["decoder"](z), nets["encoder"](x)
        again, code_again = nets["decoder"](code), nets["encoder"](made)
        real = [torch.cat(pair, 1) for pair in ((x, code), (x, x), (z, z))]
        fake = [torch.cat(pair, 1) for pair in ((made, z), (x, again), (z, code_again))]
        return real, fake

    def loss(first: Tensor, second: Tensor, detach: bool) -> Tensor:
        real, fake = pairs()
        if detach:
            real, fake = [t.detach() for t in real], [t.detach() for t in fake]
        terms = [
            criterion(d(t), target)
            for many, target in ((real, first), (fake, second))
            for d, t in zip(discriminators, many, strict=True)
        ]
        return torch.stack(terms).sum()

    def step() -> None:
        of_discriminators.zero_grad()
        loss(ones, zeros, True).backward()
        of_discriminators.step()
        of_makers.zero_grad()
        loss(zeros, ones, False).backward()
        of_makers.step()

    return step


LOOPS = [
    Loop("CTGAN's D, pac 10", "Xu et al. (2019), batch 500 of 60 columns", ctgan_networks, ctgan_step),
    Loop("GAIL's D", "imitation: 32-32, demonstrations and samples, 1024 each", gail_networks, gail_step),
    Loop("PyTorch-GAN gan", "784-512-256-1, BCELoss, batch 64", lambda: mnist_networks(nn.Sigmoid()), gan_step),
    Loop("PyTorch-GAN wgan_gp", "five critic steps and one of G, batch 64", mnist_networks, wgan_gp_step),
    Loop(
        "Lightning template",
        "as gan, D frozen in G's step",
        lambda: mnist_networks(nn.Sigmoid()),
        lambda nets: gan_step(nets, toggle=True),
    ),
    Loop("ALAD", "PyOD: three discriminators, encoder, decoder, batch 32", alad_networks, alad_step),
]


# ---------------------------------------------------------------- measurement


def sides(loop: Loop, seed: int, *, drops: bool) -> list[tuple[nn.ModuleDict, Step]]:
    """(networks, step) plain and with the one line, of the same parameters and data."""
    torch.manual_seed(seed)
    plain = loop.networks().train(True)
    if not drops:
        for module in plain.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    made = []
    for nets in (plain, fastgan.fuse(copy.deepcopy(plain))):
        torch.manual_seed(seed + 1)
        made.append((nets, loop.step(nets)))
    return made


TOLERANCE = harness.Tolerance(1e-8)  # of gradients in float64: the first steps of Adam make rounding large


def gradients(loop: Loop, seed: int) -> list[Tensor]:
    """The gradients of all parameters after one step in float64 without dropout, plain and with the one line."""
    torch.set_default_dtype(torch.float64)
    made = sides(loop, seed, drops=False)
    torch.set_default_dtype(torch.float32)
    found = []
    for nets, step in made:
        step()
        found.append(torch.cat([(p if p.grad is None else p.grad).detach().flatten() for p in nets.parameters()]))
    return found


def measure(loop: Loop, threads: int, settings: harness.Settings) -> dict[str, Any]:
    """Seconds a step of both sides, in turn."""
    right, fused = gradients(loop, settings.seed)
    (_, plain_step), (_, fused_step) = sides(loop, settings.seed, drops=True)
    contenders = [
        harness.Side(FUSED, fused_step, lambda: {"gradients": fused}),
        harness.Side(PLAIN, plain_step, lambda: {"gradients": right}),
    ]
    with harness.pinned(threads) as cpus:
        record = harness.compare(loop.name, contenders, {"gradients": right}, TOLERANCE, settings, threads)
    return {"loop": loop.name, "source": loop.source, "threads": threads, "cpus": cpus, **record}


def picture(records: Sequence[dict[str, Any]], notes: Sequence[str]) -> Any:
    """Ratios, loop by loop."""
    first = [r for r in records if r["threads"] == records[0]["threads"]]
    fig, axes = pictures.figure(8.0, 1.6 + 0.28 * len(first), 1, 1)
    ax, places = axes[0, 0], range(len(first))
    ratios = [r["ratio"][PLAIN] for r in first]
    spread = [ratio * r["spread"] for ratio, r in zip(ratios, first, strict=True)]
    ax.barh(places, ratios, xerr=spread, height=0.7, error_kw={"elinewidth": 0.9})
    pictures.ratio_line(ax, 1.0, "plain PyTorch", vertical=True)
    ax.set_yticks(places, [r["loop"] for r in first], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel(f"times faster with fastgan.fuse, {harness.threads(first[0]['threads'])}, {first[0]['clock']} time")
    pictures.title(fig, "One line changed in others' code", notes)
    return fig


def bench(settings: harness.Settings, loops: Sequence[Loop]) -> Report:
    """Measure, print, write."""
    report = Report("in-others-code", settings)
    for threads in settings.threads:
        for loop in loops:
            harness.progress(f"{loop.name}, {harness.threads(threads)}")
            report.add(measure(loop, threads, settings))
    rows = [["loop", "threads", "plain", "fused", "ratio", "spread"]]
    for r in report.records:
        times = [harness.median(r, side) for side in (PLAIN, FUSED)]
        rows.append([r["loop"], str(r["threads"]), *times, harness.times(r, PLAIN, FUSED), f"{r['spread']:.1%}"])
    print("Microseconds a step (median), plain PyTorch and after fastgan.fuse.")
    print(harness.table(rows))
    print(report.disturbances())
    notes = ["median of interleaved windows; whisker: spread of the fused side timed twice", report.disturbances()]
    timed = [r for r in report.records if r["ratio"]]
    report.write({"unit": "seconds a step"}, picture(timed, notes) if timed else None)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("one line, fastgan.fuse(model), in training loops of others")
    p.add_argument("--only", nargs="+", help="loops whose names hold one of these words")
    p.set_defaults(clock="cpu")
    args = p.parse_args(argv)
    loops = [x for x in SHAPES + LOOPS if not args.only or any(word in x.name for word in args.only)]
    if not loops:
        p.error(f"--only: no loop's name holds {' or '.join(args.only)}")
    return guarded("bench_in_others_code", lambda: bench(harness.settings_from(args), loops))


if __name__ == "__main__":
    raise SystemExit(main())
