"""How fast are the losses and layers on a GPU? Against eager, compile with a CUDA graph, and JAX.

    python bench/gpu_losses.py OUT.json [--quick]

Host and device together: a window holds many calls and ends with a synchronisation, for at small sizes the host's work
is what there is. Sides take turns in random order; results are compared before anything is timed. fastgan's side takes
part twice: how much its two medians differ is the spread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
from fastgan._files import write_atomically
from fastgan.apps.bench import timing
from fastgan.apps.bench.baselines_torch import captured

Run = Callable[[], tuple[Tensor, ...]]
BCE = nn.BCEWithLogitsLoss()
SIZES = (64, 512, 4096, 65536, 2**20, 2**24)
WIDTHS = ((1024, 4096), (2048, 4096), (4096, 4096))  # (width, batch) of an MLP of three layers, bfloat16
SMALL = ((2, 128, 256), (784, 240, 128))  # (features, width, batch) of a discriminator of three layers, float32
AGAIN = "fastgan" + timing.AGAIN


# ---------------------------------------------------------------- timing


class Foreign:
    """A side whose results are no tensors of PyTorch: they are converted where they are compared, never where timed.

    Args:
        call: queues one call and gives its results.
        wait: until the results are there; the device does one call after the other.
        convert: the results as tensors.
    """

    def __init__(
        self, call: Callable[[], Any], wait: Callable[[Any], object], convert: Callable[[Any], tuple[Tensor, ...]]
    ) -> None:
        self.call, self.wait, self.convert = call, wait, convert

    def __call__(self) -> tuple[Tensor, ...]:
        results = self.call()
        self.wait(results)
        return self.convert(results)


def window(run: Run, calls: int) -> float:
    """Seconds a call; the host waits once, at the end."""
    call = run.call if isinstance(run, Foreign) else run
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        results = call()
    if isinstance(run, Foreign):
        run.wait(results)  # PyTorch cannot wait for it
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def compare(sides: dict[str, Run], windows: int, window_s: float) -> dict[str, Any]:
    """Seconds a call of each side, in turn."""
    sides = {**sides, AGAIN: sides["fastgan"]}
    calls = {}
    for name, run in sides.items():
        window(run, 3)
        calls[name] = max(1, round(window_s / window(run, 5)))
    measures = [lambda name=name: window(sides[name], calls[name]) for name in sides]  # type: ignore[misc]
    return timing.summary(dict(zip(sides, timing.interleave(measures, windows), strict=True)), "fastgan")


def check(case: str, sides: dict[str, Run], tolerance: float) -> None:
    """All sides give the same numbers, or no time is reported."""
    want = [t.detach().float().clone() for t in sides["fastgan"]()]
    for name, run in sides.items():
        for a, b in zip((t.detach().float().clone() for t in run()), want, strict=True):
            error = (a - b).norm() / b.norm().clamp_min(1e-30)
            if not error <= tolerance:
                raise SystemExit(f"{case}: {name} differs from fastgan by {error:.3g}, so no time is reported")


# ---------------------------------------------------------------- sides


def eager(real: Tensor, fake: Tensor) -> Tensor:
    """As users write it."""
    return BCE(real, torch.ones_like(real)) + BCE(fake, torch.zeros_like(fake))


def with_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> Run:
    def run() -> tuple[Tensor, ...]:
        value = loss(*inputs)
        return value, *torch.autograd.grad(value, inputs)

    return run


def compiled_with_graph(loss: Callable[..., Tensor], *inputs: Tensor) -> Run:
    torch.compiler.reset()
    run = with_gradients(torch.compile(loss, mode="reduce-overhead", dynamic=False), *inputs)

    def step() -> tuple[Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return run()

    return step


def jax_side(real: Tensor, fake: Tensor) -> Run | None:
    """jax.jit of value and gradients; None where JAX or its GPU is missing."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    if jax.default_backend() != "gpu":
        return None

    def loss(r: Any, f: Any) -> Any:
        return jnp.mean(jax.nn.softplus(-r)) + jnp.mean(jax.nn.softplus(f))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    a, b = (jnp.asarray(t.detach().cpu().numpy()) for t in (real, fake))

    def convert(results: Any) -> tuple[Tensor, ...]:
        value, grads = results
        return tuple(torch.from_dlpack(x) for x in (value, *grads))

    return Foreign(lambda: step(a, b), jax.block_until_ready, convert)


def loss_case(n: int, windows: int, window_s: float, compiled: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n)
    logits = [(3 * torch.randn(n, generator=generator) + s).cuda().requires_grad_() for s in (1.0, -1.0)]
    sides = {
        "fastgan": with_gradients(fastgan.discriminator_loss, *logits),
        "eager": with_gradients(eager, *logits),
        "fastgan + CUDA graph": captured(with_gradients(fastgan.discriminator_loss, *logits)),
    }
    if compiled:
        sides["compile + CUDA graph"] = compiled_with_graph(eager, *logits)
    jax = jax_side(*logits)
    if jax is not None:
        sides["JAX"] = jax
    check(f"losses, n = {n}", sides, 1e-5)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = sides["fastgan"]()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    record = {"case": "discriminator_loss", "n": n, "peak bytes beyond the gradients": peak - 8 * n}
    record |= compare(sides, windows, window_s)
    source, target = torch.empty(4 * n, device="cuda"), torch.empty(4 * n, device="cuda")
    copy = compare({"fastgan": lambda: (target.copy_(source),)}, windows, window_s)["sides"]["fastgan"]["median_s"]
    # The losses read 8 n and write 8 n bytes, the copy 16 n each way.
    best = min(record["sides"][s]["median_s"] for s in ("fastgan", "fastgan + CUDA graph"))
    record["share of the copy bandwidth"] = (copy / 2) / best
    return record


def mlp_case(width: int, batch: int, windows: int, window_s: float, compiled: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    sizes = [width, width, width, width]
    plain = nn.Sequential(
        *(m for i in range(3) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.LeakyReLU(0.2))),
    ).to("cuda", torch.bfloat16)
    mine = fastgan.fuse(plain)
    x = torch.randn(batch, width, device="cuda", dtype=torch.bfloat16)

    def step(model: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Run:
        def run() -> tuple[Tensor, ...]:
            y = model(x)
            return y, *torch.autograd.grad(y, parameters, y)

        return run

    sides = {
        "fastgan": step(mine, list(mine.parameters())),
        "eager": step(plain, list(plain.parameters())),
    }
    if compiled:
        torch.compiler.reset()
        sides["compile"] = step(torch.compile(plain, dynamic=False), list(plain.parameters()))
    check(f"MLP, width {width}", sides, 3e-2)
    return {"case": "mlp bf16", "width": width, "batch": batch, **compare(sides, windows, window_s)}


def penalty_case(features: int, width: int, batch: int, windows: int, window_s: float) -> dict[str, Any]:
    """D's step with R1: its loss, a gradient penalty, the gradients of all parameters. torch.compile cannot do this."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Linear(features, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)),
        nn.Linear(width, 1),
    ).to("cuda")
    mine = fastgan.fuse(plain)
    real, fake = (torch.randn(batch, features, device="cuda") for _ in range(2))

    def fastgan_step() -> tuple[Tensor, ...]:
        loss = fastgan.discriminator_loss(mine(real), mine(fake))
        loss = loss + fastgan.gradient_penalty(mine, real, fake, kind="r1")
        return loss, *torch.autograd.grad(loss, list(mine.parameters()))

    def theirs() -> tuple[Tensor, ...]:
        x = real.clone().requires_grad_()
        logits = plain(x)
        (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        loss = eager(logits, plain(fake)) + 5 * grad.square().sum(1).mean()
        return loss, *torch.autograd.grad(loss, list(plain.parameters()))

    sides: dict[str, Run] = {"fastgan": fastgan_step, "eager": theirs, "fastgan + CUDA graph": captured(fastgan_step)}
    check(f"R1, width {width}", sides, 1e-4)
    record = {"case": "step with R1", "features": features, "width": width, "batch": batch}
    return record | compare(sides, windows, window_s)


# ---------------------------------------------------------------- report


def verdicts(record: dict[str, Any]) -> str:
    """What the targets say of a record."""
    if record["case"] == "mlp bf16":
        worst = min(record["ratio"].values())
        return f"layers: {worst:.2f}x the best baseline, {'met' if worst >= 1 else 'missed'}"
    if record["case"] == "step with R1":
        own = record["sides"]
        best = (
            record["ratio"]["eager"]
            * own["fastgan"]["median_s"]
            / min(own[side]["median_s"] for side in ("fastgan", "fastgan + CUDA graph"))
        )
        return f"penalty: {best:.2f}x eager, {'met' if best >= 5 else 'missed'}"
    if record["n"] <= 4096:
        ratio = record["ratio"]["eager"]
        return f"losses: {ratio:.2f}x eager, {'met' if ratio >= 5 else 'missed'}"
    if record["n"] == 2**24:
        share = record["share of the copy bandwidth"]
        return f"losses: {share:.0%} of the copy bandwidth, {'met' if share >= 0.85 else 'missed'}"
    return ""


def line(record: dict[str, Any]) -> str:
    what = f"n = {record['n']}" if "n" in record else f"width {record['width']}, batch {record['batch']}"
    times = "  ".join(f"{k} {v['median_s'] * 1e6:.1f}" for k, v in record["sides"].items() if k != AGAIN)
    return f"{record['case']}, {what}: {times} us; spread {record['spread']:.1%}. {record['target']}"


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="fastgan on a GPU against its baselines")
    p.add_argument("out", type=Path)
    p.add_argument("--quick", action="store_true", help="fewer sizes and windows, no torch.compile")
    args = p.parse_args()
    windows, window_s = (7, 0.005) if args.quick else (30, 0.02)
    sizes, widths = (SIZES[::2], WIDTHS[:1]) if args.quick else (SIZES, WIDTHS)
    records: list[dict[str, Any]] = []
    info = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "fastgan": fastgan.backend_info()}
    cases: list[Callable[[], dict[str, Any]]] = [
        *(lambda n=n: loss_case(n, windows, window_s, not args.quick) for n in sizes),  # type: ignore[misc]
        *(lambda s=s: penalty_case(*s, windows, window_s) for s in SMALL),  # type: ignore[misc]
        *(lambda w=w, b=b: mlp_case(w, b, windows, window_s, not args.quick) for w, b in widths),  # type: ignore[misc]
    ]
    for case in cases:
        record = case()
        record["target"] = verdicts(record)
        records.append(record)
        print(line(record), flush=True)
        text = json.dumps({**info, "quick": args.quick, "records": records}, indent=1) + "\n"
        write_atomically(args.out, [text.encode()])


if __name__ == "__main__":
    main()
