"""Which engine for CUDA is chosen, and why: arithmetic, for which it takes no GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fastgan import GAN, TrainConfig, _backend, nn
from fastgan.training import engines
from fastgan.training.engines import cuda_persistent, plan
from fastgan.training.engines.cost_model import Choice, DeviceLimits, Work, choose
from fastgan.training.rows import Minibatches

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the core lists the verbs that are counted")
HOPPER, AMPERE = DeviceLimits(132, 8, 227 << 10), DeviceLimits(108, 1, 163 << 10)
NETWORKS = {
    "tiny": (1, [1, 16, 16, 1], [1, 16, 16, 1]),
    "toy": (2, [2, 128, 128, 2], [2, 128, 128, 1]),
    "digits": (32, [32, 256, 256, 64], [64, 256, 256, 1]),
}
ALL = "it supports these networks and this config"


def gan_of(name: str, dtype: torch.dtype = torch.float32) -> GAN:
    latent, g, d = NETWORKS[name]
    return GAN(nn.MLP(g, activation="relu", dtype=dtype), nn.MLP(d, activation="relu", dtype=dtype), latent_dim=latent)


def chosen(name: str, batch: int, limits: DeviceLimits = HOPPER, **config: Any) -> Choice:
    return choose(gan_of(name), TrainConfig(1, batch, **config), limits)


def test_an_iteration_of_the_toy_is_what_the_page_on_the_kernel_counts() -> None:
    work = Work.of(gan_of("toy"), TrainConfig(1, 32))
    assert work.products // 1000 == 6430 and work.passes == 26  # docs/the-persistent-kernel.md


def of_steps(gan: GAN, config: TrainConfig) -> Work:
    """Without the one launch of each iteration that records the metrics."""
    work = Work.of(gan, config)
    return work._replace(launches=work.launches - 1)


def test_more_steps_and_packing_are_more_work() -> None:
    gan, config = gan_of("toy"), TrainConfig(1, 32)
    once, work = of_steps(gan, config), {}
    for name, changes in {"k": {"k": 2}, "g": {"generator_steps": 2}, "both": {"k": 2, "generator_steps": 2}}.items():
        work[name] = of_steps(gan, replace(config, **changes))
    assert [a + b for a, b in zip(work["k"], work["g"], strict=True)] == [3 * n for n in once]
    assert list(work["both"]) == [2 * n for n in once]
    assert Work.of(gan, replace(config, mode="simultaneous")).products == once.products - 32 * (16896 + 16768)
    assert Work.of(gan, replace(config, pack=2)).products > once.products
    assert of_steps(gan, replace(config, precision="bf16")).launches == once.launches + 23


@pytest.mark.parametrize(
    ("name", "batch", "kernel"),
    [
        # Launches outweigh the few multiprocessors of a cluster until the batch is large.
        ("tiny", 1, True), ("tiny", 32, True), ("tiny", 4096, True),
        ("toy", 32, True), ("toy", 512, True), ("toy", 2048, False), ("toy", 4096, False),
        ("digits", 32, False),  # weights that no multiprocessor holds
    ],
)  # fmt: skip
def test_the_faster_engine_is_chosen(name: str, batch: int, kernel: bool) -> None:
    assert chosen(name, batch).kernel is kernel


def boundary(**config: Any) -> int:
    """The largest batch that the kernel gets."""
    least, most = 1, 1 << 20
    while most - least > 1:
        middle = (least + most) // 2
        kernel = chosen("toy", middle, **config).kernel
        least, most = (middle, most) if kernel else (least, middle)
    return least


def test_where_the_kernel_ends() -> None:
    """By hand: 60 launches of 1.3 us against 0.2 M products a row over 8 multiprocessors, and 26 passes of 0.1 us."""
    per_row, cluster, device = 6430720 / 32, 8 * 205 * 1.8e9, 132 * 128 * 1.8e9
    by_hand = (60 * 1.3e-6 - 26 * 200 / 1.8e9) / per_row / (1 / cluster - 1 / device)
    assert boundary() == pytest.approx(by_hand, abs=1)
    assert boundary(precision="ieee") < boundary() < boundary(precision="tf32")


def test_weights_must_fit_into_shared_memory() -> None:
    gan = gan_of("toy")
    needed = sum(4 * p.numel() for p in (*gan.generator.parameters(), *gan.discriminator.parameters()))
    fits, lacks = (chosen("toy", 32, limits=HOPPER._replace(shared_bytes=needed - lack)) for lack in (0, 1))
    assert fits.kernel and not lacks.kernel


def test_double_weighs_twice_and_multiplies_at_half_the_rate() -> None:
    double = gan_of("toy", torch.float64)
    found = choose(double, TrainConfig(1, 32), HOPPER)
    assert found == (False, "the weights take 268 KB, a multiprocessor's shared memory has 227")
    large = HOPPER._replace(shared_bytes=300 << 10)
    assert [choose(gan, TrainConfig(1, 700), large).kernel for gan in (gan_of("toy"), double)] == [True, False]


def test_a_device_without_clusters_turns_to_graphs_sooner() -> None:
    assert chosen("toy", 512).kernel and not chosen("toy", 512, limits=AMPERE).kernel
    assert chosen("toy", 32, limits=AMPERE).kernel


def test_the_reason_says_what_was_weighed() -> None:
    assert chosen("toy", 32).reason == (
        "by arithmetic an iteration takes 7 us in the persistent kernel, on 4 multiprocessors, and 78 us as a graph"
    )


# ---------------------------------------------------------------- what is built


class Stub:
    name = ""
    details = "as it does"

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
        plan.network_plan("gan.generator", gan.generator)


class Kernel(Stub):
    name = "kernel"

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
        super().__init__(gan, rows, config)
        if config.gradient_penalty is not None:
            raise plan.UnsupportedByEngine("no penalties here")


class Graph(Stub):
    name = "cuda-graph"


@pytest.fixture
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_persistent, "obstacle", lambda device: None)
    monkeypatch.setattr(cuda_persistent, "limits_of", lambda device: HOPPER)
    monkeypatch.setattr(engines, "PersistentEngine", Kernel)
    monkeypatch.setattr(engines, "GraphEngine", Graph)


def built(gan: GAN, batch: int, **config: Any) -> tuple[str, str]:
    """The engine's name and the reason."""
    rows = Minibatches(torch.randn(8, 2), batch_size=4, seed=0, device=gan.device, dtype=gan.dtype)
    engine, reason = engines.cuda_engine(gan, rows, TrainConfig(1, batch, **config))
    return engine.name, reason


@pytest.mark.usefixtures("_hopper")
def test_the_engine_is_built_with_its_reason() -> None:
    toy = gan_of("toy")
    assert [built(toy, batch)[0] for batch in (32, 4096)] == ["kernel", "cuda-graph"]
    assert built(toy, 32)[1] == f"{ALL}; {chosen('toy', 32).reason}; as it does"
    assert built(toy, 32, gradient_penalty="r1") == ("cuda-graph", f"{ALL}; no penalties here")
    name, reason = built(gan_of("digits"), 32)
    assert name == "cuda-graph" and "the weights take 678 KB" in reason


@pytest.mark.usefixtures("_hopper")
def test_what_a_plan_cannot_say_is_said_first() -> None:
    with pytest.raises(plan.UnsupportedByEngine, match="config.unroll differentiates through D's updates"):
        built(gan_of("toy"), 32, unroll=2)
    generator = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Softmax(1))
    gan = GAN(generator, nn.MLP([2, 1], activation="relu"), latent_dim=2)
    with pytest.raises(plan.UnsupportedByEngine, match="gan.generator: Softmax"):
        built(gan, 32)
