"""fastgan bench --device cuda, with the CPU or a stand-in where the GPU would be: checks, lower bounds, counts, the
report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import switches
import torch
from test_benchmark import EAGER, SETTINGS, halved_loss
from torch import nn

from fastgan import _probes
from fastgan._backend import native
from fastgan.apps.bench import (
    baselines_jax,
    baselines_torch,
    counts,
    device,
    fastgan_side,
    flops,
    harness,
    lower_bounds,
    measure,
    population,
    report,
)
from fastgan.apps.bench.products import products_in
from fastgan.apps.bench.workloads import CUDA_WORKLOADS, MlpSizes, Workload, draws
from fastgan.training.engines import cuda_graph as graph
from fastgan.training.engines.cost_model import DeviceLimits

TINY = device.Row(CUDA_WORKLOADS["tiny"])
BOUNDS = {"copy_bytes_per_s": 4e12, "products_per_s": {"ieee": 5e13, "tf32": 4e14, "bf16": 8e14}}


def measured(row: device.Row, *baselines: str) -> dict[str, Any]:
    return device.measure(row, baselines, SETTINGS, BOUNDS, say=lambda what: None, device="cpu")


# ---------------------------------------------------------------- rows


def test_a_row_is_checked_timed_and_held_against_its_lower_bound() -> None:
    record = measured(TINY, "eager", "vmap", "autocast")
    assert record["left out"] == {} and set(record["ratio"]) == {"eager"}  # the others do other work
    assert record["engine name"] in ("cpu", "eager") and record["sides"]["eager"]["windows"] == 2
    operations = flops.iteration(TINY.workload)
    assert record["lower_bound_s"] == operations / (4e14 / 3)  # tf32 three times beats plain float32
    assert record["share_of_peak"]["fastgan"] == record["lower_bound_s"] / record["sides"]["fastgan"]["median_s"]
    assert "host" not in record  # there is nothing to count without a GPU


def test_a_baseline_that_differs_or_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines_torch, "eager_fused_adam", halved_loss)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr(baselines_torch, "captured", lambda call: None)
    monkeypatch.setattr(baselines_torch, "compiled", lambda *networks: (_ for _ in ()).throw(RuntimeError("no Triton")))
    record = measured(TINY, "eager", "fused-adam", "graph")
    assert set(record["ratio"]) == {"eager"} and record["left out"]["graph"] == "no Triton"
    assert "loss_d of fused-adam departs" in record["wrong"]["fused-adam"]


def twice_the_loss(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """fastgan's first iterations of one workload come out with another loss."""
    right = fastgan_side.replay

    def wrong(workload: Any, *rest: Any, **changes: Any) -> Any:
        found = right(workload, *rest, **changes)
        return found | {"loss_d": 2 * found["loss_d"]} if workload.name == name else found

    monkeypatch.setattr(fastgan_side, "replay", wrong)


def test_where_fastgan_is_wrong_the_baselines_keep_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    twice_the_loss(monkeypatch, "tiny")
    record = measured(TINY, "eager")
    assert "loss_d of fastgan departs" in record["wrong"]["fastgan"] and record["ratio"] == {}
    assert set(record["share_of_peak"]) >= {"eager"} and "fastgan" not in record["sides"]
    assert report.tables([record]) and not list(report.verdicts([record], None, {}))
    with pytest.raises(harness.ResultsDiffer, match="member 0: loss_d of fastgan departs"):  # all members are fastgan's
        measured(dataclasses.replace(TINY, members=2), "eager")


@pytest.mark.parametrize("members", [1, 2])
def test_what_fastgan_cannot_train_is_reported(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if native is not None:  # as on a processor without AMX
        monkeypatch.setattr(native, "multiplies_tf32", lambda: False)
    record = measured(device.Row(CUDA_WORKLOADS["tiny"], members, "tf32"), "eager")
    assert "sides" not in record and "tf32" in record["left out"]["fastgan"]
    assert not list(report.verdicts([record], None, {}))


def test_baselines_do_the_same_work() -> None:
    everybody = measure.CUDA_BASELINES
    assert device.row("toy-32", "fp32").baselines(everybody) == ["eager", "fused-adam", "compile", "graph", "jax"]
    assert device.row("wide-1024", "bf16").baselines(everybody) == ["eager", "autocast", "compile-autocast"]
    assert device.row("toy-32x132", "fp32").baselines(everybody) == ["eager", "vmap"]
    assert device.row("toy-32x132", "bf16").baselines(everybody) == ["eager"]
    assert device.row("toy-32x132", "fp32").members == 132
    tolerances = [device.row("toy-32", precision).tolerance.norm for precision in ("ieee", "fp32", "tf32", "bf16")]
    assert tolerances[0] == tolerances[1] < tolerances[2] < tolerances[3]


def test_a_graph_is_checked_by_its_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step itself is right; what is captured of it does nothing when it is replayed."""
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr(baselines_torch, "compiled", EAGER)
    monkeypatch.setattr(baselines_torch, "captured", lambda call: call)
    made: list[str] = []

    def graph_of(call: Callable[[], Any], stale: bool) -> Callable[[], Any]:
        found = call() if stale else None
        return lambda: made.append("replay") or found or call()

    for stale in (False, True):
        monkeypatch.setattr(baselines_torch, "graph_of", lambda call, stale=stale: graph_of(call, stale))
        record = measured(TINY, "eager", "compile", "graph")
        assert ("graph" in record["ratio"]) != stale and "compile" in record["ratio"]
    assert made == ["replay"] * 2 * (measure.CHECKED_ITERATIONS - baselines_torch.WARM_UP)
    assert "of graph departs" in record["wrong"]["graph"]


def test_compiled_code_is_thrown_away_once_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: did.append("reset"))
    monkeypatch.setattr(baselines_torch, "compiled", lambda *networks: did.append("compiled") or EAGER(*networks))
    monkeypatch.setattr(baselines_torch, "captured", lambda call: call)
    monkeypatch.setattr(baselines_torch, "graph_of", lambda call: call)
    assert set(measured(TINY, "eager", "compile", "graph")["ratio"]) == {"eager", "compile", "graph"}
    assert did == ["reset", "compiled", "compiled"]


# ---------------------------------------------------------------- populations


def test_a_population_is_compared_member_by_member() -> None:
    record = measured(dataclasses.replace(TINY, members=3), "eager")
    assert record["workload"] == "tinyx3" and record["sides"]["fastgan"]["windows"] == 2
    times, base = record["sides"]["eager"], record["sides"]["fastgan"]["median_s"]
    assert record["ratio"]["eager"] == times["median_s"] / base and times["p10_s"] <= times["median_s"]


def test_vmap_trains_every_member_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax", reason="pip install jax")
    monkeypatch.setattr(baselines_jax, "CALIBRATION", 1)  # as a timed call then: XLA compiles one loop, not two
    workload, seeds = Workload("", MlpSizes((3, 6, 2)), MlpSizes((2, 6, 1), "leaky_relu"), 8), (0, 2)
    data = workload.data()
    seen = [draws(workload, data, measure.CHECKED_ITERATIONS, seed=seed) for seed in seeds]
    baseline = baselines_jax.Vmap(workload, data, 0.0, members=3)
    for seed, batches, found in zip(seeds, seen, baseline.replay_members(seeds, seen), strict=True):
        TINY.tolerance.check("tiny", "vmap", found, fastgan_side.replay(workload, data, batches, seed=seed))
        with pytest.raises(harness.ResultsDiffer):
            other = fastgan_side.replay(workload, data, batches, seed=1 - seed // 2)
            TINY.tolerance.check("tiny", "vmap", found, other)
    baseline.run()
    assert (
        baseline.state["generator"]["updates"].tolist() == [4.0] * 3
    )  # three calls that find the length, and this one
    assert len({str(baseline.jax.random.key_data(key)) for key in baseline.key}) == 3  # draws of their own


def test_the_length_of_a_call_is_found_from_two_times() -> None:
    """132 members took longer to build than to train, and each window stayed at 20 iterations."""
    lengths: list[int] = []

    def took(steps: int) -> float:
        lengths.append(steps)
        return 3.0 + steps * 1e-4

    assert fastgan_side.length(took, 0.4, 20) == pytest.approx(0.4 / 1e-4)
    assert lengths[-1] * 1e-4 > 3.0 / 4  # a quarter of what building takes: not little beside what does not count


def test_a_rate_is_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    members = population.Population(CUDA_WORKLOADS["tiny"], 2)
    found = iter([1.0, 5.0, 6.0, 2.0])  # the first long call seems shorter than the short one
    monkeypatch.setattr(members, "seconds", lambda steps: next(found))
    assert members.rate(10, 100) == 2 * 400 / 4.0


# ---------------------------------------------------------------- baselines on a device that queues


def test_a_call_on_a_gpu_is_many_iterations_and_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    monkeypatch.setattr(baselines_torch, "wait_for", lambda place: did.append("wait"))
    monkeypatch.setattr(baselines_torch, "captured", lambda call: lambda: did.append("replay"))
    baseline = baselines_torch.Torch(TINY.workload, TINY.workload.data(), EAGER, 1e-3, capture=True)
    baseline.queues = True
    per_call = baseline.per_call
    assert per_call > 1
    did.clear()
    baseline.run()
    assert did == ["replay"] * per_call + ["wait"]


@pytest.mark.parametrize("build", [baselines_torch.eager_autocast, baselines_torch.compiled_autocast])
def test_autocast_is_held_against_bf16(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: made.append(self))
    workload, data = TINY.workload, TINY.workload.data()
    seen = draws(workload, data, measure.CHECKED_ITERATIONS, seed=0)
    exact = fastgan_side.replay(workload, data, seen)
    found = baselines_torch.Torch(workload, data, build).replay(seen)
    measure.BF16_TOLERANCE.check("tiny", "autocast", found, exact)
    with pytest.raises(harness.ResultsDiffer):  # it did round
        harness.Tolerance(1e-6).check("tiny", "autocast", found, exact)
    assert len(made) == (2 if build is baselines_torch.compiled_autocast else 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("_switches_reset")
@pytest.mark.parametrize("ask", switches.ASKS)
@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_products_are_exact_unless_tf32_is_requested(precision: str, ask: str) -> None:
    """Also for the CUDA-graph engine, which leaves the older switch alone; what was set before is set afterwards."""
    rounds = precision == "tf32"
    switches.ASKS[ask]()
    before = switches.answers()
    with products_in(precision):
        older, allowed, newer, *_ = switches.answers()
        assert (older, allowed, newer == "tf32") == ("high" if rounds else "highest", rounds, rounds)
    assert switches.answers() == before
    with graph.products_in(precision):
        assert (switches.answers()[2] == "tf32") == rounds
    assert switches.answers() == before
    if ask == "the newer of all":
        switches.of_all("ieee")
        assert switches.MATMUL.fp32_precision == "ieee"  # which it still follows


@pytest.mark.usefixtures("_switches_reset")
def test_products_are_put_back_where_torch_refuses_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def contradicted() -> None:
        raise RuntimeError("mix of the legacy and new APIs")

    switches.ASKS["the newer"]()
    before = switches.answers()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", contradicted)
        with pytest.raises(RuntimeError, match="mix of"), products_in("fp32"):
            pytest.fail("entered")
    assert switches.answers() == before


# ---------------------------------------------------------------- lower bounds


class Played:
    """A device whose costs are known, on a clock that only they move."""

    clusters = (8,)

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self) -> None:
        self.now += self.queued + 5e-6
        self.queued = 0.0

    def fetch(self) -> None:
        self.queued += 1e-6

    def launch(self, count: int) -> None:
        self.queued += 1e-5 + count * 2e-6

    def captured(self, count: int) -> Callable[[], None]:
        def replay() -> None:
            self.queued += 7e-6 + count * 1.3e-6

        return replay

    def barriers(self, blocks: int, barriers: int) -> None:
        self.queued += 3e-6 + barriers * (2e-8 + blocks * 1e-7)


def test_latencies_leave_out_what_begins_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played()
    monkeypatch.setattr(lower_bounds, "time", played)
    found = lower_bounds.latencies(played)
    assert found["launch_s"] == pytest.approx(2e-6) and found["graph_node_s"] == pytest.approx(1.3e-6)
    assert found["block_barrier_s"] == pytest.approx(2e-8)
    assert found["cluster_barrier_s"] == {"8": pytest.approx(8.2e-7)}
    assert found["launch_and_wait_s"] == pytest.approx(1.7e-5) and found["fetch_s"] == pytest.approx(6e-6)


def test_throughputs_are_measured_where_the_data_lie() -> None:
    (found,) = lower_bounds.measure("cpu", copy_bytes=1 << 16, side=64)
    assert set(found["products_per_s"]) == {"ieee", "tf32", "bf16"} and "launch_s" not in found
    assert lower_bounds.rate(BOUNDS, "fp32") == 4e14 / 3 and lower_bounds.rate(BOUNDS, "ieee") == 5e13
    assert lower_bounds.rate(BOUNDS | {"products_per_s": {"ieee": 5e13, "tf32": 6e13}}, "fp32") == 5e13


def test_the_gpu_is_asked_by_the_entries_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []
    numbers = torch.zeros(1)
    gpu = object.__new__(lower_bounds.Cuda)
    gpu._numbers = numbers
    monkeypatch.setattr(_probes._cuda, "launch", lambda x, *call: made.append(call))
    gpu.launch(7)
    gpu.barriers(8, 1000)
    assert made == [("empty", 7), ("barrier_loop", 8, 1000, numbers)]


def test_the_lower_bound_is_that_of_the_multiprocessors_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probes, "limits_of", lambda where: DeviceLimits(132, 8, 227 << 10))
    row = device.row("toy-32", "fp32")
    gpu = SimpleNamespace(type="cuda")
    for members, used in ((1, 4), (10, 40), (40, 80), (132, 132), (1056, 132)):  # clusters of 4, then 2, then 1
        of_many = dataclasses.replace(row, members=members)
        assert device.multiprocessors(of_many, "cuda-persistent", gpu) == (used, 132)  # type: ignore[arg-type]
        for engine in ("cuda-graph", "eager"):  # use all
            assert device.multiprocessors(of_many, engine, gpu) == (132, 132)  # type: ignore[arg-type]
    found = device.against_lower_bound(row, {"fastgan": {"median_s": 1e-5}}, 1.32e14, 4, 132)
    assert found["lower_bound_s"] == pytest.approx(flops.iteration(row.workload) / 4e12)
    assert found["share_of_peak"]["fastgan"] == pytest.approx(found["lower_bound_s"] / 1e-5)


# ---------------------------------------------------------------- what the host does


def test_launches_and_waits_are_counted_between_two_runs() -> None:
    def events(calls: int) -> list[Any]:
        copies = 2 * calls, 2.0 * calls
        kinds = {"cudaLaunchKernelExC": (calls, 9.0), "cudaMemcpyAsync": copies, "aten::empty": (5, 1.0)}
        waits = SimpleNamespace(key="cudaStreamSynchronize", count=calls, cpu_time_total=90_000.0 * calls)
        at_the_end = SimpleNamespace(key="cudaDeviceSynchronize", count=1, cpu_time_total=50.0)
        others = [SimpleNamespace(key=key, count=n, cpu_time_total=us) for key, (n, us) in kinds.items()]
        return [*others, waits, at_the_end]

    def profiled(run: Callable[[], object]) -> counts.Seen:
        before = len(ran)
        run()
        calls = len(ran) - before
        return counts.tally(events(calls), 0.1 * calls)

    ran: list[int] = []
    found = counts.per_iteration(lambda: ran.append(1), 20_000, profiled)
    assert found["launches in 100"] == pytest.approx(100 / 20_000)
    assert found["waits in 100"] == pytest.approx(100 / 20_000)
    assert found["copies in 100"] == pytest.approx(200 / 20_000)
    assert found["host_s"] == pytest.approx((0.1 - 0.09 - 2e-6) / 20_000)
    with pytest.raises(RuntimeError, match="saw 0 launches"):
        counts.per_iteration(lambda: None, 20_000, lambda run: counts.tally([], 0.1))


@pytest.mark.parametrize(("every", "calls"), [(20_000, 20_000), (10, 1000)])
def test_the_host_is_counted_over_a_thousand_iterations_at_once(
    every: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def per_iteration(advance: Callable[[], object], iterations: int) -> dict[str, float]:
        advance()
        seen.append((run.every if advance == run.advance else steps[-1], iterations))
        return {"host_s": 1e-7}

    steps: list[int] = []

    class LongRun(fastgan_side.LongRun):
        def on_chunk(self, run: Any, rows: Any) -> None:
            steps.append(run.step)
            super().on_chunk(run, rows)

    run = SimpleNamespace(every=every, advance=lambda: None)
    found = SimpleNamespace(runs={"fastgan": run}, data=TINY.workload.data())
    monkeypatch.setattr(counts, "per_iteration", per_iteration)
    monkeypatch.setattr(fastgan_side, "LongRun", LongRun)
    assert device.host(TINY, found, 1e-5, "cpu")["iterations"] == calls  # type: ignore[arg-type]
    assert seen == [(every, every) if every >= 1000 else (2000, 1000)]  # the second call, after a warm one
    if every < 1000:
        with pytest.raises(RuntimeError, match="calls of 1000 iterations would take 50 s"):
            device.host(TINY, found, 1e-2, "cpu")  # type: ignore[arg-type]
