"""The persistent engine under the emulator, driven by the very Python that drives a GPU, against the CPU's engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from emulator import MEMORY, NEEDS, RACES, Emulator, Flavour, Refused, without_faults
from fused_rows import (
    MOMENTUM,
    OVERFLOWING,
    ROWS_OF_GRAPH,
    ROWS_OF_TABLE,
    Row,
    config_of,
    distance,
    maxout,
    mlp,
    normalized,
    of,
    residuals_alone,
    row,
    same_bits,
    same_runs,
)
from fused_rows import run as run_usual
from rounded import RoundedLinear
from simt_train import LIMITS, emulated
from test_tabular_training import made, sampled
from torch import Tensor

from fastgan import GAN, Momentum, TrainConfig, _backend, nn, train, train_population
from fastgan.training import TrainResult, engines
from fastgan.training.engines import cuda_persistent as persistent
from fastgan.training.engines import eager, state
from fastgan.training.rows import Minibatches

pytestmark = [*NEEDS, pytest.mark.skipif(_backend.native is None, reason="plans are read by the compiled core")]
SPILLED = LIMITS._replace(shared_bytes=9000)  # the weights' first layers, and nothing else
CLUSTER = LIMITS._replace(cluster=2)
UNEVEN = LIMITS._replace(cluster=3, multiprocessors=3)
NARROW = row(of(width=70, features=20, d_inputs=20), 20, batch_size=25, optimizer=MOMENTUM)  # of all sizes of tiles


def computed(row: Row) -> bool:
    """Whether the kernel computes the row of the table."""
    return "gradient_penalty" not in row.config


TABLE = {name: row for name, row in ROWS_OF_TABLE.items() if computed(row) and name != "wide"} | {"tiles": NARROW}


def run(row: Row, dtype: torch.dtype, engine: str, **changes: Any) -> tuple[GAN, TrainResult]:
    """By plain products, if nothing else is requested: emulated tensor cores take ten times as long."""
    return run_usual(row, dtype, engine, **{"precision": "ieee"} | changes)


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("name", TABLE)
def test_persistent_equals_the_cpu_engine(name: str, machine: Emulator) -> None:
    steps = 2 if "wide" in name else 3  # the second begins with what the first left, momentum included
    for dtype, limits in ((torch.float64, SPILLED), (torch.float32, CLUSTER)):
        cpu, expected = run(TABLE[name], dtype, "fused", steps=steps)
        with emulated(machine, limits):
            gan, got = run(TABLE[name], dtype, "fused", steps=steps)
        assert (expected.engine, got.engine) == ("cpu", "cuda-persistent")
        tolerance = 1e-10 if dtype == torch.float64 else 2e-4
        assert distance(cpu, gan) < tolerance
        for column, values in expected.history.items():
            assert np.abs(values - got.history[column]).max() < tolerance, column


@pytest.mark.parametrize("name", [
    "plain", "maxout, simultaneous", "pack 2, relativistic", "moving average", "batch normalisation, skip, average",
    "tiles", "clip by norm",
])  # fmt: skip
def test_the_bits_do_not_depend_on_clusters_or_memory(name: str, machine: Emulator) -> None:
    results = []
    for limits in (LIMITS, CLUSTER, UNEVEN, SPILLED):
        with emulated(machine, limits):
            results.append(run(TABLE[name], torch.float32, "fused", steps=2))
    assert all(same_runs(results[0], other) for other in results[1:])


@pytest.mark.parametrize("limits", [LIMITS, UNEVEN], ids=["a block", "a cluster"])
def test_any_schedule_of_the_threads_gives_the_same_bits(limits: persistent.DeviceLimits, machine: Emulator) -> None:
    small = row(of(width=5, dropout=0.3), batch_size=6, max_col_norm=0.5, ema_decay=0.9, nonfinite="skip")
    with emulated(machine, limits, schedules=24):
        run(small, torch.float32, "fused", steps=2)


@pytest.mark.parametrize("precision", ["ieee", "fp32"])
def test_an_update_that_is_not_finite_is_taken_back(precision: str, machine: Emulator) -> None:
    exploding = row(of(width=6), optimizer=Momentum(1e4, momentum=0.5), loss="least_squares", nonfinite="skip")
    cpu, expected = run(exploding, torch.float32, "fused", steps=8)
    for limits in (LIMITS, CLUSTER):
        with emulated(machine, limits):
            gan, got = run(exploding, torch.float32, "fused", steps=8, precision=precision)
        finite = [np.isfinite(result.history["loss_d"]) for result in (expected, got)]
        assert not finite[0].all() and finite[0].any() and np.array_equal(*finite)
        assert all(torch.isfinite(p).all() for p in gan.parameters())


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_an_update_whose_result_is_not_finite_is_taken_back(mode: str, machine: Emulator) -> None:
    for limits in (LIMITS, CLUSTER):
        with emulated(machine, limits):
            gan, got = run(OVERFLOWING, torch.float32, "fused", steps=2, mode=mode)
        assert np.isfinite(got.history["loss_d"]).all() and np.isfinite(got.history["loss_g"]).all()
        torch.manual_seed(1)
        assert same_bits(OVERFLOWING.make(torch.float32), gan)


def test_hundred_iterations_are_one_launch_and_one_wait(machine: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """G4, counted: many iterations a launch, and the host waits for the metrics alone."""
    waits: list[int] = []
    to_host = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        waits.append(tensor.numel())
        return to_host(tensor)

    gan, config = mlp(torch.float32, width=4), TrainConfig(100, 4, engine="fused", precision="ieee")
    data = Minibatches(torch.randn(50, 2), batch_size=4, seed=0, device=gan.device, dtype=gan.dtype)
    monkeypatch.setattr(Tensor, "cpu", counted)
    with emulated(machine) as launches:
        engine, _ = engines.cuda_engine(gan, data, config)
        table = engine.begin(0, 100, lambda: False)()
    assert table.shape == (100, state.METRICS) and np.isfinite(table).all()
    assert launches == [0 if machine.on_gpu else 1] and waits == [100 * state.METRICS + 2]


# ---------------------------------------------------------------- products by tensor cores

UNITS = ("fp32", "tf32", "bf16")


def odd(linear: Callable[[int, int], torch.nn.Module] = torch.nn.Linear) -> GAN:
    """Of no round size anywhere, with all that can come between two products."""
    t = torch.nn
    generator = t.Sequential(linear(3, 17), t.BatchNorm1d(17), t.ReLU(), linear(17, 33), t.Tanh(), linear(33, 2))
    discriminator = t.Sequential(
        linear(2, 33), t.LeakyReLU(0.2), nn.Dropout(0.3), linear(33, 17), t.ELU(), linear(17, 1)
    )
    return GAN(generator, discriminator, latent_dim=3)


ODD = {
    "maxout": row(maxout, batch_size=5, mode="simultaneous"),
    "batch normalisation": row(lambda dtype: odd().to(dtype), batch_size=21, optimizer=MOMENTUM),
    "pack 3": row(of(d_inputs=6, width=17), pack=3, batch_size=5, optimizer=MOMENTUM),
    "one row": row(of(width=3), batch_size=1),
}


@pytest.mark.parametrize("name", ODD)
def test_three_products_of_tf32_do_what_plain_ones_do(name: str, machine: Emulator) -> None:
    cpu, expected = run(ODD[name], torch.float32, "fused", steps=3)
    with emulated(machine, CLUSTER):
        gan, got = run(ODD[name], torch.float32, "fused", steps=3, precision="fp32")
    assert distance(cpu, gan) < 2e-4
    for column, values in expected.history.items():
        assert np.abs(values - got.history[column]).max() < 2e-4, column


@pytest.mark.parametrize("kind", ["tf32", "bf16"])
@pytest.mark.parametrize("batch", [5, 20])
def test_units_round_the_factors_of_products_and_nothing_else(
    kind: str, batch: int, machine: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "may_run_again", lambda module: False)  # RoundedLinear, no class of torch's, does not
    usual = row(lambda dtype: odd().to(dtype), batch_size=batch, optimizer=MOMENTUM)
    oracle = replace(usual, make=lambda dtype: odd(lambda i, o: RoundedLinear(i, o, kind)).to(dtype))
    expected, _ = run_usual(oracle, torch.float32, "eager", steps=3)
    plain, _ = run(usual, torch.float32, "fused", steps=3)
    with emulated(machine, CLUSTER):
        got, _ = run(usual, torch.float32, "fused", steps=3, precision=kind)
    # A sum that differs in its last bit may round to the neighbour: half a unit of one factor of one product.
    assert distance(expected, got) < 0.1 * distance(expected, plain)


@pytest.mark.parametrize("precision", UNITS)
def test_the_bits_of_units_do_not_depend_on_clusters_or_memory(precision: str, machine: Emulator) -> None:
    uneven = replace(ODD["batch normalisation"], make=normalized, config={"batch_size": 37, "optimizer": MOMENTUM})
    results = []
    for blocks, shared_bytes in ((1, 227 << 10), (2, 9000), (4, 227 << 10), (8, 227 << 10)):
        with emulated(machine, persistent.DeviceLimits(blocks, blocks, shared_bytes)):
            results.append(run(uneven, torch.float32, "fused", steps=1, precision=precision))
    assert all(same_runs(results[0], other) for other in results[1:])


# ---------------------------------------------------------------- populations


@pytest.mark.parametrize("precision", ["ieee", *UNITS])
def test_members_of_a_population_have_the_bits_of_their_solo_runs(precision: str, machine: Emulator) -> None:
    small = row(of(width=8, dropout=0.2), batch_size=12)  # 8 and 4 in a cluster of two
    data = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
    config = config_of(small, "fused", steps=3 if precision == "ieee" else 1, precision=precision)
    with emulated(machine, LIMITS) as launches:  # five GANs, two multiprocessors
        found = train_population(
            lambda: small.make(torch.float32), data, config, seeds=range(3), grid={"optimizer.lr": [1e-2, 1e-3]}
        )
    assert found.engine == "cuda-persistent" and set(launches) == {0 if machine.on_gpu else 1}
    assert len(found.members) == 6 and found.members[0].history["loss_d"][0] != found.members[1].history["loss_d"][0]
    for member in found.members[1::2]:
        torch.manual_seed(member.seed)
        gan = small.make(torch.float32)
        solo_config = replace(config, seed=member.seed, optimizer=replace(config.optimizer, **lr_of(member.overrides)))
        with emulated(machine, CLUSTER):
            result = train(gan, data, solo_config)
        assert same_runs((gan, result), (member.gan, member))


@pytest.fixture
def allow(machine: Emulator) -> Iterator[Callable[[int], None]]:
    """Says how many clusters run at once."""
    if machine.on_gpu:
        pytest.skip("a GPU has the clusters it has")
    yield lambda clusters: machine.call("clusters", clusters) and None
    machine.call("clusters", 1 << 30)


def test_members_share_the_clusters_that_run_at_once(machine: Emulator, allow: Callable[[int], None]) -> None:
    """Five members, six multiprocessors, clusters of two, of which the device hosts two, then one."""
    small = row(of(width=6, dropout=0.2), batch_size=12)
    data = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
    config, found = config_of(small, "fused", steps=2, precision="ieee"), []
    for clusters in (3, 2, 1):
        allow(clusters)
        with emulated(machine, CLUSTER._replace(multiprocessors=6)) as launches:
            found.append(train_population(lambda: small.make(torch.float32), data, config, seeds=range(5)))
        assert set(launches) == {1}
    assert len({member.history["loss_d"].tobytes() for member in found[0].members}) == 5
    for one, *others in zip(*(result.members for result in found), strict=True):
        assert all(same_runs((one.gan, one), (other.gan, other)) for other in others)


def test_no_cluster_that_fits_is_an_error(machine: Emulator, allow: Callable[[int], None]) -> None:
    allow(0)
    with emulated(machine, CLUSTER), pytest.raises(Refused, match="must have room for a cluster of 2 blocks"):
        run(row(of(width=6)), torch.float32, "fused", steps=1)
    with emulated(machine, LIMITS):
        run(row(of(width=6)), torch.float32, "fused", steps=1)  # blocks by themselves are no clusters


def lr_of(overrides: dict[str, Any]) -> dict[str, float]:
    return {"lr": overrides["optimizer.lr"]}


def test_a_cluster_has_as_many_blocks_as_there_is_memory_and_work_for() -> None:
    hopper, ampere = persistent.DeviceLimits(132, 8, 227 << 10), persistent.DeviceLimits(108, 1, 163 << 10)

    def size(limits: persistent.DeviceLimits, batch: int, members: int) -> int:
        return persistent.with_cluster(limits, [TrainConfig(1, batch)] * members).cluster

    assert [size(hopper, batch, 1) for batch in (8, 16, 32, 64, 4096)] == [1, 2, 4, 8, 8]
    assert [size(hopper, 4096, members) for members in (16, 17, 33, 66, 67, 5000)] == [8, 4, 4, 2, 1, 1]
    assert size(ampere, 4096, 1) == 1


def test_the_result_says_what_found_memory_where(machine: Emulator) -> None:
    torch.manual_seed(1)
    networks = nn.MLP([2, 128, 128, 2], activation="relu"), nn.MLP([2, 128, 128, 1], activation="relu")
    gan = GAN(*networks, latent_dim=2)
    data = Minibatches(torch.randn(50, 2), batch_size=32, seed=0, device=gan.device, dtype=gan.dtype)
    found = {}
    for blocks in (1, 4):
        with emulated(machine, LIMITS._replace(cluster=blocks)):
            _, found[blocks] = engines.cuda_engine(gan, data, TrainConfig(1, 32))
    assert all(" this config; by arithmetic " in reason for reason in found.values())
    shared = "as exact as float; a block keeps 214 KB in shared memory and 140 KB in the L2 cache"
    assert found[1].endswith(shared)
    assert found[4].endswith("as exact as float; trained alone, each of 4 blocks keeps 208 KB in shared memory")


# ---------------------------------------------------------------- what the kernel does not compute


def test_what_the_kernel_does_not_compute_runs_eagerly_with_the_reason(machine: Emulator) -> None:
    data = torch.randn(60, 2)
    with emulated(machine):
        result = train(mlp(torch.float32), data, TrainConfig(1, 20, gradient_penalty="r1"))
        assert result.engine == "eager"
        assert result.engine_reason == "config.gradient_penalty is not computed by the persistent kernel"
        for other, what in ((ROWS_OF_GRAPH["heads"], "Heads"), (Row(residuals_alone, 8), "Residual")):
            reason = f"gan.generator: {what} is not computed by the persistent kernel"
            result = run(other, torch.float32, "auto", steps=1, precision="fp32")[1]
            assert (result.engine, result.engine_reason) == ("eager", reason)
        gan, config = made(torch.float32, beside={"gradient_penalty": None, "loss": "non_saturating"}, steps=1)
        result = train(gan, sampled(), config)
        reason = "rows are drawn by their labels, which the persistent kernel does not do"
        assert (result.engine, result.engine_reason) == ("eager", reason)
        with pytest.MonkeyPatch.context() as older, pytest.raises(ValueError, match="'bf16', which takes tensor cores"):
            older.setattr(persistent, "has_tensor_cores", lambda device: False)
            train(mlp(torch.float32), data, TrainConfig(1, 20, precision="bf16"))
        with pytest.raises(ValueError, match="'tf32', which is for float32 networks"):
            train(mlp(torch.float64), data.double(), TrainConfig(1, 20, precision="tf32"))
    rows = Minibatches(data, batch_size=20, seed=0, device=data.device, dtype=data.dtype)
    with pytest.raises(persistent.plan.UnsupportedByEngine, match="networks are on cpu; this engine is built for CUDA"):
        persistent.PersistentEngine(mlp(torch.float32), rows, TrainConfig(1, 20))


def test_a_matrix_whose_elements_32_bits_do_not_count_is_refused(machine: Emulator) -> None:
    gan, config = mlp(torch.float32), TrainConfig(1, 20)  # D's widest layer: 29 units
    data = Minibatches(torch.randn(50, 2), batch_size=20, seed=0, device=gan.device, dtype=gan.dtype)
    with emulated(machine):
        of_gan = engines.cuda_engine(gan, data, config)[0].state
        described = of_gan.description["plan"]
        of_gan.description["plan"] = described | {"batch": 1 << 25}  # and as many fakes
        persistent.needs(of_gan, LIMITS)
        of_gan.description["plan"] = described | {"batch": 1 << 26}
        with pytest.raises(Refused, match=f"train: a matrix of 29 x {1 << 27} is too large for the persistent kernel"):
            persistent.needs(of_gan, LIMITS)


# ---------------------------------------------------------------- races and planted faults

TINY = row(of("relu", "relu", width=5), batch_size=6, max_col_norm=0.5, ema_decay=0.9, nonfinite="skip")


def tiny_run(machine: Emulator, limits: persistent.DeviceLimits, steps: int = 2) -> None:
    """A run in which every kind of pass takes part, against the CPU's."""
    cpu, _ = run(TINY, torch.float32, "fused", steps=steps)
    for precision in ("ieee", "fp32"):
        with emulated(machine, limits):
            gan, _ = run(TINY, torch.float32, "fused", steps=steps, precision=precision)
        assert distance(cpu, gan) < 2e-4


@pytest.fixture(scope="module")
def racing(faulty: dict[str, Callable[[], Emulator]]) -> Iterator[Emulator]:
    emulator = without_faults(faulty["no barrier after a layer"])
    yield emulator
    emulator.close()


@pytest.mark.parametrize("limits", [LIMITS, UNEVEN], ids=["a block", "a cluster"])
def test_no_race(limits: persistent.DeviceLimits, racing: Emulator) -> None:
    tiny_run(racing, limits)
    relu = {"g": "relu", "d": "relu", "width": 5}
    for more, precision in (
        (row(of(**relu, dropout=0.3, input_dropout=0.2), batch_size=6), "ieee"),
        (row(of(**relu), mode="simultaneous"), "ieee"),
        (row(of(**relu), batch_size=11), "tf32"),
        (row(of(**relu), batch_size=6, max_grad_norm=0.1, clip_weights=0.1), "ieee"),
    ):
        with emulated(racing, limits):
            run(more, torch.float32, "fused", steps=1, precision=precision)


AFTER_FORWARD = "block->alone(), sink);\n    block->barrier();\n  }\n\n  FASTGAN_CALLED void product_down"
BEFORE_UPDATE = "g_.backward(sub_batches_of_g_, false);\n    block_.barrier_of_all();"
RACE = "race in (shared|global) memory"

SOURCE = "train.cu"
# name -> file, the old text, the new text, the build, the memory, and what it says
FAULTS: dict[str, tuple[str, str, str, Flavour, persistent.DeviceLimits, str]] = {
    "no barrier after a layer": (
        *("train_network.cuh", AFTER_FORWARD, AFTER_FORWARD.replace("block->barrier", "if (!FAULT) block->barrier")),
        *(RACES, LIMITS, RACE),
    ),
    "no barrier of the cluster before an update": (
        *("train.cu", BEFORE_UPDATE, BEFORE_UPDATE.replace("block_.b", "FAULT ? block_.barrier() : block_.b")),
        *(RACES, CLUSTER, RACE),
    ),
    "metrics beyond the table": (
        *("train_loss.cuh", "plan_.metrics[(it - plan_.first)", "plan_.metrics[(FAULT ? it + 2 : it - plan_.first)"),
        *(MEMORY, LIMITS, "heap-buffer-overflow"),
    ),
    "rows of the wrong block": (
        *("train_update.cuh", "block.at(b, other) + at", "(FAULT ? block.at(b) : block.at(b, other)) + at"),
        *(MEMORY, CLUSTER, "assert 0.* < 0.0002"),
    ),
    "no zeros beyond the depth": (
        *("train_tensor_cores.cuh", "if (!first) x[r][0] = 0.f;", "if (!FAULT && !first) x[r][0] = 0.f;"),
        *(MEMORY, LIMITS, r"assert \d.* < 0.0002"),
    ),
}


def test_where_no_fault_is_on_none_is_found(faulty: dict[str, Callable[[], Emulator]]) -> None:
    with contextlib.closing(without_faults(faulty["metrics beyond the table"])) as emulator:
        for limits in (LIMITS, CLUSTER):
            tiny_run(emulator, limits)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, faulty: dict[str, Callable[[], Emulator]]) -> None:
    *_, limits, report = FAULTS[name]
    with contextlib.closing(faulty[name]()) as emulator:
        with pytest.raises(AssertionError, match=report):
            tiny_run(emulator, limits)


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain", "maxout, simultaneous", "batch normalisation", "pack 2", "wide"])
def test_a_gpu_gives_the_numbers_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # Whatever the size: "wide" in double has more weights than a block has room for.
    monkeypatch.setattr(engines, "cuda_engine", lambda *of: (persistent.PersistentEngine(*of), ""))
    there = replace(ROWS_OF_TABLE[name], make=lambda dtype: ROWS_OF_TABLE[name].make(dtype).to("cuda"))
    for dtype, precision, tolerance in (
        (torch.float64, "fp32", 1e-10), (torch.float32, "ieee", 2e-4), (torch.float32, "fp32", 2e-4)
    ):  # fmt: skip
        cpu, expected = run(ROWS_OF_TABLE[name], dtype, "fused")
        gan, got = run(there, dtype, "fused", precision=precision)
        assert got.engine == "cuda-persistent" and distance(cpu, gan.cpu()) < tolerance
        for column, values in expected.history.items():
            assert np.abs(values - got.history[column]).max() < tolerance, column
