"""fastgan bench: the check catches a wrong side, the arithmetic is counted right, and a run comes out whole."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastgan
from fastgan.apps.bench import (
    baselines_jax,
    baselines_torch,
    fastgan_side,
    harness,
    measure,
    population,
    report,
)
from fastgan.apps.bench.workloads import WORKLOADS, MlpSizes, Workload, draws, fastgan_network, plain_network

SETTINGS = harness.Settings(threads=(1,), windows=2, window_s=1e-3, warmup_s=1e-3, quick=True)
NORMALISED = Workload("", MlpSizes((3, 8, 8, 4), batch_norm=True), MlpSizes((4, 6, 6, 1), pieces=3), 16)
SMALL = {
    "mlp": WORKLOADS["tiny"],
    "maxout and batch norm": NORMALISED,
    "sigmoid": Workload("", MlpSizes((3, 8, 5), "relu", "sigmoid"), MlpSizes((5, 8, 1), "leaky_relu"), 16),
}
EAGER = baselines_torch.eager  # also where a test has put something else in its place
TOLERANCE = harness.Tolerance(2e-2, {"loss_d": measure.LOSS_TOLERANCE, "loss_g": measure.LOSS_TOLERANCE})


def replayed(workload: Workload, build: Callable[..., Any]) -> dict[str, Tensor]:
    data = workload.data()
    contender = baselines_torch.Torch(workload, data, build)
    return contender.replay(draws(workload, data, measure.CHECKED_ITERATIONS, seed=0))


@functools.cache
def truth(name: str) -> dict[str, Tensor]:
    workload = SMALL.get(name) or WORKLOADS[name]
    data = workload.data()
    return baselines_torch.float64_run(workload, data, draws(workload, data, measure.CHECKED_ITERATIONS, seed=0))


def mine(workload: Workload, **changes: Any) -> dict[str, Tensor]:
    data = workload.data()
    return fastgan_side.replay(workload, data, draws(workload, data, measure.CHECKED_ITERATIONS, seed=0), **changes)


# ---------------------------------------------------------------- equal results


@pytest.mark.parametrize("name", SMALL)
def test_all_sides_compute_the_same(name: str) -> None:
    workload = SMALL[name]
    names = {"loss_d", "loss_g", *(f"generator.{n}" for n, _ in fastgan_network(workload.generator).named_parameters())}
    assert names < set(truth(name)) and all(x.dtype == torch.float64 for x in truth(name).values())
    for found in (mine(workload), *(replayed(workload, b) for b in (EAGER, baselines_torch.eager_fused_adam))):
        assert max(TOLERANCE.check("", "side", found, truth(name)).values()) < 1e-2


@pytest.mark.parametrize("name", ["maxout and batch norm", "sigmoid"])
def test_jax_computes_the_same(name: str) -> None:
    pytest.importorskip("jax", reason="pip install jax")
    data = SMALL[name].data()
    contender = baselines_jax.Jax(SMALL[name], data, seconds=1e-4)
    seen = draws(SMALL[name], data, measure.CHECKED_ITERATIONS, seed=0)
    TOLERANCE.check("", "jax", contender.replay(seen), truth(name))


def test_jax_trains_when_it_is_timed() -> None:
    pytest.importorskip("jax", reason="pip install jax")
    workload = SMALL["sigmoid"]
    contender = baselines_jax.Jax(workload, workload.data(), seconds=1e-5)
    contender.run()
    updates = float(contender.state["generator"]["updates"])
    assert updates == 2 * baselines_jax.CALIBRATION + 2 * contender.per_call


def test_jax_keeps_running_statistics() -> None:
    """Users' batch normalisation does, so leaving it out would flatter JAX."""
    jax = pytest.importorskip("jax", reason="pip install jax")
    data = NORMALISED.data()
    seen = draws(NORMALISED, data, 1, seed=0)
    baseline = baselines_torch.Torch(NORMALISED, data, baselines_torch.eager)
    baseline.replay(seen)
    state = baselines_jax.Jax(NORMALISED, data, seconds=1e-4)._first()
    inputs = [np.asarray(x[0]) for x in (seen.real, seen.noise_d, seen.noise_g)]
    running = jax.jit(baselines_jax.iteration(NORMALISED))(state, *inputs)[0]["generator"]["running"]
    expected = {n: b for n, b in baseline.networks["generator"].named_buffers() if "running" in n}
    assert set(running) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(running[name], value, rtol=1e-4, atol=1e-5)


def test_the_compiled_step_computes_the_same_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    for name, workload in SMALL.items():
        TOLERANCE.check("", "compile", replayed(workload, baselines_torch.compiled), truth(name))


def halved_loss(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    step = EAGER(generator, discriminator)

    def wrong(*batch: Tensor) -> tuple[Tensor, Tensor]:
        loss_d, loss_g = step(*batch)
        return loss_d / 2, loss_g

    return wrong


def one_noise(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    step = EAGER(generator, discriminator)
    return lambda real, noise_d, noise_g: step(real, noise_d, noise_d)


def other_negative_slope(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    for module in discriminator.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.01
    return EAGER(generator, discriminator)


def no_bias_update(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_("bias" not in name)
    return EAGER(generator, discriminator)


@pytest.mark.parametrize("wrong", [halved_loss, one_noise, other_negative_slope, no_bias_update])
def test_the_check_catches_a_wrong_side(wrong: Callable[..., baselines_torch.Step]) -> None:
    with pytest.raises(harness.ResultsDiffer, match="baseline departs"):
        TOLERANCE.check("", "baseline", replayed(WORKLOADS["tiny"], wrong), truth("tiny"))


WIDE = Workload("", MlpSizes((8, 512, 512, 16), "relu", "sigmoid"), MlpSizes((16, 512, 512, 1), "leaky_relu"), 128)


def shifted_bias_gradient(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    discriminator[2].bias.register_hook(lambda grad: grad.roll(1))  # type: ignore[index]
    return EAGER(generator, discriminator)


def no_product_of_the_fakes(generator: nn.Module, discriminator: nn.Module) -> baselines_torch.Step:
    """D's weight gradient lacks the second of two products: that of the fake rows."""
    layer, calls = discriminator[2], itertools.count()  # type: ignore[index]

    def forward(x: Tensor) -> Tensor:
        weight = (
            layer.weight.detach() if next(calls) % 3 == 1 else layer.weight
        )  # real rows, fake rows, those of G's step
        return nn.functional.linear(x, weight, layer.bias)

    layer.forward = forward
    return EAGER(generator, discriminator)


@functools.cache
def wide() -> tuple[dict[str, Tensor], harness.Tolerance]:
    data = WIDE.data()
    seen = draws(WIDE, data, measure.CHECKED_ITERATIONS, seed=0)
    right = baselines_torch.float64_run(WIDE, data, seen)
    return right, measure.tolerance_of(WIDE, data, seen, right)


def test_right_sides_of_a_wide_network_pass() -> None:
    right, tolerance = wide()
    for found in (mine(WIDE), replayed(WIDE, EAGER)):
        tolerance.check("", "side", found, right)


@pytest.mark.parametrize(
    "wrong", [shifted_bias_gradient, no_product_of_the_fakes, other_negative_slope, no_bias_update]
)
def test_the_check_of_a_wide_network_catches_a_wrong_side(wrong: Callable[..., baselines_torch.Step]) -> None:
    right, tolerance = wide()
    with pytest.raises(harness.ResultsDiffer, match="baseline departs"):
        tolerance.check("", "baseline", replayed(WIDE, wrong), right)


@pytest.mark.parametrize("betas", [(0.6, 0.999), (0.5, 0.9)])
def test_the_check_of_a_wide_network_catches_other_betas(
    betas: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, tolerance = wide()
    monkeypatch.setattr(baselines_torch, "BETAS", betas)
    with pytest.raises(harness.ResultsDiffer, match="baseline departs"):
        tolerance.check("", "baseline", replayed(WIDE, EAGER), right)


def test_rounding_widens_the_tolerance_only_at_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With errors so large that some units' sums change their sign for certain."""
    monkeypatch.setattr(baselines_torch, "ROUNDING", 2.0**-16)
    name, norms = "generator.0.weight", []
    for activation in ("tanh", "relu"):
        networks = MlpSizes((8, 256, 16), activation), MlpSizes((16, 256, 1), activation)
        workload = Workload("", *networks, 128)
        data = workload.data()
        seen = draws(workload, data, measure.CHECKED_ITERATIONS, seed=0)
        right = baselines_torch.float64_run(workload, data, seen)
        tolerance = measure.tolerance_of(workload, data, seen, right)
        norms.append(tolerance.norms.get(name, measure.CHANGE_TOLERANCE))
        tolerance.check("", "side", right | {name: right[name] * (1 + 0.9 * norms[-1])}, right)
        with pytest.raises(harness.ResultsDiffer, match="of its norm"):
            tolerance.check("", "side", right | {name: right[name] * (1 + 1.1 * norms[-1])}, right)
    assert norms[0] == measure.CHANGE_TOLERANCE < norms[1]


@pytest.mark.parametrize(
    ("constant", "value"), [("LEARNING_RATE", 2.1e-4), ("BETAS", (0.6, 0.999)), ("BETAS", (0.5, 0.9))]
)
def test_the_check_catches_another_optimiser(constant: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = truth("toy-32")
    monkeypatch.setattr(baselines_torch, constant, value)
    with pytest.raises(harness.ResultsDiffer, match="baseline departs"):
        TOLERANCE.check("", "baseline", replayed(WORKLOADS["toy-32"], EAGER), right)


def test_a_wrong_fastgan_has_no_time_and_the_baselines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fastgan_side.replay
    monkeypatch.setattr(fastgan_side, "replay", lambda *a, **k: {name: 2 * x for name, x in right(*a, **k).items()})
    record = measure.measure(WORKLOADS["tiny"], ["eager"], SETTINGS, say=lambda _: None)
    takes_part = {"fastgan", "bf16"} - set(record["left out"])  # not every processor multiplies in bfloat16
    assert "fastgan" in takes_part and takes_part <= set(record["wrong"]) and record["ratio"] == {}
    assert record["sides"]["eager"]["median_s"] > 0 and "fastgan" not in record["sides"]
    assert "tiny        -" in report.tables([record]) and list(report.lines([record], None, harness.machine.describe()))


@pytest.mark.parametrize("build", [baselines_torch.eager_matmul, baselines_torch.compiled_matmul])
def test_torchs_bf16_products_round_and_the_switch_is_put_back(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    seen: list[str] = []
    forward = nn.Linear.forward

    def noted(self: nn.Linear, x: Tensor) -> Tensor:
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    before = torch.backends.mkldnn.matmul.fp32_precision
    measure.BF16_TOLERANCE.check("", "matmul", replayed(WORKLOADS["tiny"], build), truth("tiny"))
    assert set(seen) >= {"bf16"} and torch.backends.mkldnn.matmul.fp32_precision == before != "bf16"


def test_a_late_workload_is_timed_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides have made their first iterations, on data whose columns are partly always 0."""
    small = {"generator": MlpSizes((2, 4, 6)), "discriminator": MlpSizes((6, 4, 1)), "zero_columns": 2, "start": 30}
    late = dataclasses.replace(WORKLOADS["mnist-late"], **small)
    assert not late.data()[:, :2].any() and late.data()[:, 2:].all()
    record = measure.measure(late, ["eager"], SETTINGS, say=lambda _: None)
    per_call = {"eager": 1, "fastgan": record["every"]["fastgan"]}
    for name, every in per_call.items():
        assert record["sides"][name]["warmup_calls"] * every >= 30


def test_a_wrong_population_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose seed is not its own comes out with other bits."""

    def train_population(make_gan: Any, data: Tensor, config: Any, *, seeds: Any) -> Any:
        made = [SimpleNamespace(gan=make_gan(seed=seed)) for seed in seeds]
        for seed, member in zip(seeds, made, strict=True):
            fastgan.train(member.gan, data, dataclasses.replace(config, seed=seed if seed < last else 0))
        return SimpleNamespace(members=made, engine="", engine_reason="")

    monkeypatch.setattr(population.training, "train_population", train_population, raising=False)
    members, last = population.Population(WORKLOADS["tiny"], members=3), 3
    members.check()
    last = 2
    with pytest.raises(harness.ResultsDiffer, match="member 2"):
        members.check()


# ---------------------------------------------------------------- sides


@pytest.mark.parametrize("name", WORKLOADS)
def test_both_builders_make_the_same_parameters(name: str) -> None:
    for network in (WORKLOADS[name].generator, WORKLOADS[name].discriminator):
        shapes = [
            {k: v.shape for k, v in build(network).state_dict().items()} for build in (plain_network, fastgan_network)
        ]
        assert shapes[0] == shapes[1]


def test_a_long_run_goes_on_chunk_by_chunk() -> None:
    workload = WORKLOADS["tiny"]
    gan, data = workload.gan(), workload.data()
    run = fastgan_side.LongRun(gan, data, fastgan_side.config(workload, fastgan_side.ENDLESS), every=4)
    try:
        run.advance()
        run.advance()
        held = gan.generator.state_dict()["0.weight"].clone()
    finally:
        run.close()
    alone = workload.gan()
    fastgan.train(alone, data, fastgan_side.config(workload, 8))
    assert torch.equal(alone.generator.state_dict()["0.weight"], held)
    assert run.engine in ("cpu", "eager")


def test_a_long_run_hands_over_its_error() -> None:
    workload = WORKLOADS["tiny"]
    data = workload.data()
    run = fastgan_side.LongRun(workload.gan(), data, fastgan_side.config(workload, fastgan_side.ENDLESS), every=2)
    data.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        for _ in range(10_000):
            run.advance()


def test_what_cannot_be_set_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nfound")

    def no_key(*_: Any) -> None:
        raise KeyError("meta")

    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr(baselines_torch, "compiled", no_compiler)
    monkeypatch.setattr(baselines_torch, "eager_fused_adam", lambda *_: time.sleep(60))
    monkeypatch.setattr(baselines_jax, "Jax", no_key)
    record = measure.measure(
        WORKLOADS["tiny"], ["compile", "fused-adam", "jax", "eager"], SETTINGS, setup_limit=2.0, say=lambda _: None
    )
    assert record["left out"]["jax"] == "KeyError: 'meta'"
    assert record["left out"]["compile"] == "no C++ compiler found"
    assert record["left out"]["fused-adam"] == "it was not set up within 2 s"
    assert set(record["ratio"]) >= {"eager"} and "fused-adam" not in record["sides"]


def test_a_deadline_gives_the_timer_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    with measure.deadline(5.0):
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 5.0
    assert signal.getsignal(signal.SIGALRM) is before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 5.0) == (left > 5.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")
def test_the_busy_process_is_ended() -> None:
    cpu = harness.machine.allowed_cpus()[-1]
    with measure.busy(cpu) as process:
        assert os.sched_getaffinity(process.pid) == {cpu}
        assert process.poll() is None
    assert process.poll() is not None
