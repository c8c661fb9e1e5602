"""fastgan bench: a run comes out whole, operations are counted right, and the report tells what was measured."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, check_refusal, check_success
from test_benchmark import halved_loss

from fastgan._backend import native
from fastgan.apps.bench import (
    baselines_torch,
    flops,
    harness,
    measure,
    report,
    targets,
    timing,
    worker,
)
from fastgan.apps.bench.workloads import WORKLOADS, MlpSizes, Workload
from fastgan.training import TrainConfig
from fastgan.training.engines.cost_model import Work

# ---------------------------------------------------------------- arithmetic


def test_operations_are_those_counted_by_hand() -> None:
    """G 2-3-4, D 4-5-1, batch 7, products by name."""
    workload = Workload("", MlpSizes((2, 3, 4)), MlpSizes((4, 5, 1)), 7)
    g, d = 7 * (2 * 3 + 3 * 4), 7 * (4 * 5 + 5 * 1)
    step_d = g + 2 * d + 2 * d + 2 * 7 * 5 * 1  # fakes; logits; weight gradients; gradient of the hidden layer
    step_g = g + d + d + g + 7 * 3 * 4  # fakes; logits; gradient down to the fakes; weight gradients; G's hidden layer
    assert flops.iteration(workload) == 2 * (step_d + step_g)


@pytest.mark.skipif(native is None, reason="the core lists the verbs that are counted")
@pytest.mark.parametrize("name", ["tiny", "toy-32"])
def test_operations_are_those_of_the_recorded_iteration(name: str) -> None:
    workload = WORKLOADS[name]
    assert flops.iteration(workload) == 2 * Work.of(workload.gan(), TrainConfig(1, workload.batch)).products


def test_maxout_counts_every_piece_and_batch_norm_nothing() -> None:
    assert MlpSizes((4, 6, 6, 1), pieces=3).products() == [(4, 18), (6, 18), (6, 1)]
    assert MlpSizes((3, 8, 4), batch_norm=True).products() == [(3, 8), (8, 4)]


@pytest.mark.parametrize(("name", "microseconds"), [("toy-32", 110), ("mnist-256", 4863), ("mnist-1024", 10351)])
def test_the_lower_bound_is_that_of_the_targets(name: str, microseconds: float) -> None:
    """They were counted apart from this code, at 116 to 118 GFLOP/s."""
    assert flops.iteration(WORKLOADS[name]) / 117e9 * 1e6 == pytest.approx(microseconds, rel=0.03)


@pytest.mark.skipif(native is None, reason="the peak is measured by the compiled core")
def test_peak_is_a_rate_of_every_thread() -> None:
    fp32, bf16 = native.fma_peak(0.004, 2)
    assert len(fp32) == len(bf16) == 2
    assert all(1e8 < rate < 1e12 for rate in fp32)  # a core, not a machine, and not nothing
    assert all(rate == 0 or rate > 1e8 for rate in bf16)
    assert measure.best({"fp32": 1.0}, {"fp32": 2.0}) == {"fp32": 2.0}


# ---------------------------------------------------------------- the whole


@pytest.fixture
def bench(run: Run) -> Run:
    return functools.partial(run, "bench", "--quick", "--out", ".", "--machine", "here", "--window-ms", "1")


def written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("train-here-quick.json").read_text())
    return content


@pytest.mark.skipif(native is None, reason="the plain layers are not as fast as eager PyTorch")
def test_a_quick_run_comes_out_whole(bench: Run) -> None:
    code, out, err = bench("--workload", "tiny", "--baselines", "eager", "--windows", "2")
    assert code == 0 and {p.name for p in Path().iterdir()} == {"train-here-quick.json", "train-here-quick.png"}
    (record,) = written()["workloads"]
    assert record["workload"] == "tiny" and record["sides"]["eager"]["windows"] == 2
    assert record["operations"] == flops.iteration(WORKLOADS["tiny"])
    assert record["tolerance"]["relative difference from float64"]["eager"]["loss_d"] < measure.LOSS_TOLERANCE
    assert record["gflops"]["fastgan"] > 0
    assert "QUICK CHECK" in out and "times as fast as eager PyTorch at the one workload" in out
    assert "microseconds an iteration" in out
    assert max(map(len, out.partition("\nwritten")[0].splitlines())) <= report.WIDTH
    assert "tiny: timing" in err


def test_a_failed_check_gives_no_time(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(request: dict[str, Any], limit_s: float) -> Any:
        answers: list[dict[str, Any]] = []
        monkeypatch.setattr(baselines_torch, "eager_fused_adam", halved_loss)
        worker.serve(request, answers.append)
        return answers

    monkeypatch.setattr(worker, "ask", failing)
    code, out, _ = bench("--workload", "tiny", "--baselines", "fused-adam")
    told = "no time: G 1-16-16-1, D 1-16-16-1, batch 32: loss_d of fused-adam departs from"
    assert code == 1 and told in out.replace("\n  ", " ")
    (record,) = written()["workloads"]
    assert "fused-adam" not in record["sides"] and record["sides"]["fastgan"]["median_s"] > 0


def test_a_row_that_breaks_down_costs_no_other_row_and_can_be_measured_again(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(request: dict[str, Any], limit_s: float) -> Any:
        (name,) = request["rows"]
        asked.append(name)
        if name == "toy-32":
            raise worker.WorkerFailed("the measuring process ended with -9: ")
        yield {"record": made_up(name, {"fastgan": 10, "eager": 1000})}
        assert written()["workloads"][-1]["workload"] == name, "it must be on disk before the next row begins"

    monkeypatch.setattr(worker, "ask", ask)
    rows = ("--workload", "tiny", "toy-32", "mnist-256")
    code, out, _ = bench(*rows)
    assert code == 1 and "no time: toy-32: the measuring process ended with -9" in out
    asked.clear()
    path = Path("train-here-quick.json")
    path.write_text(json.dumps(written() | {"lower_bounds": {"copy": 1.0}}))
    again = (*rows, "--resume", "--baselines", "eager")
    code, out, _ = bench(*again)
    assert code == 1 and asked == ["toy-32"] and "different revisions" not in out
    content = written()
    assert content["lower_bounds"] == {"copy": 1.0}  # measured before, and not again
    assert [r["workload"] for r in content["workloads"]] == ["tiny", "mnist-256"]
    content["workloads"][0]["revision"] = "1234567"
    path.write_text(json.dumps(content))
    code, out, _ = bench(*again)
    assert code == 1 and "The rows are of different revisions: 1234567 (1), " in out


def test_a_population_is_not_measured_twice(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(request: dict[str, Any], limit_s: float) -> Any:
        asked.extend(request["rows"])
        yield {"population": MEMBERS}

    monkeypatch.setattr(worker, "ask", ask)
    monkeypatch.setattr(harness.machine, "allowed_cpus", lambda: [0, 1])
    for _ in range(2):
        check_success(bench("--workload", "population-2t", "--resume"))
    assert asked == ["population-2t"]


def test_a_row_that_lacks_a_side_is_measured_again_where_it_is(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    microseconds = {"fastgan": 10.0, "eager": 1000.0}
    left_out: dict[str, str] = {}
    asked: list[str] = []

    def ask(request: dict[str, Any], limit_s: float) -> Any:
        asked.extend(request["rows"])
        yield {"record": made_up(request["rows"][0], microseconds) | {"left out": left_out}}

    monkeypatch.setattr(worker, "ask", ask)
    rows = ("--workload", "tiny", "toy-32", "--baselines", "eager")
    for options in (rows, (*rows, "--resume")):
        check_success(bench(*options))
    assert asked == ["tiny", "toy-32"]
    microseconds["matmul"], left_out = 2000.0, {"jax": "it is not installed"}
    for _ in range(2):
        check_success(bench("--workload", "tiny", "--baselines", "eager", "matmul", "jax", "--resume"))
    assert asked == ["tiny", "toy-32", "tiny"]
    records = written()["workloads"]
    assert [(r["workload"], "matmul" in r["sides"]) for r in records] == [("tiny", True), ("toy-32", False)]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--workload", "huge"], "--workload must be among tiny, toy-32"),
        (["--baselines", "tensorflow"], "--baselines must be among eager"),
        (["--threads", "4096"], "--threads must be at most"),
        (["--windows", "1"], "--windows must be at least 2"),
    ],
)
def test_wrong_arguments_end_in_one_line(bench: Run, options: list[str], rule: str) -> None:
    check_refusal(bench(*options), rule)


def test_a_worker_that_breaks_down_says_why() -> None:
    with pytest.raises(worker.WorkerFailed, match="KeyError: 'rows'"):
        list(worker.ask({"threads": 1, "settings": {}}))


def test_a_worker_that_takes_too_long_is_ended() -> None:
    """By force: a process that waits for a kernel hears no signal."""
    request = {"device": "cpu", "rows": []}
    with pytest.raises(worker.WorkerFailed, match=r"was ended after 0.2 s"):
        list(worker.ask(request, 0.2))


# ---------------------------------------------------------------- the report


def made_up(name: str, microseconds: dict[str, float], **more: Any) -> dict[str, Any]:
    """A record of measured sides."""
    sides = {side: {"median_s": us * 1e-6, "first_call_s": 1.0} for side, us in microseconds.items()}
    workload, base = WORKLOADS[name], microseconds["fastgan"]
    return {
        "workload": name,
        "threads": workload.threads,
        "batch": workload.batch,
        "engine": {"fastgan": "cpu (it can)"},
        "left out": {},
        "wrong": {},
        "states": {},
        "sides": sides,
        "ratio": {side: us / base for side, us in microseconds.items() if side != "fastgan"},
        "spread": 0.01,
        "processors got": 0.99,
        **measure.rates(workload, {"sides": sides}, {"fp32": 100.0, "bf16": 200.0}),
        **more,
    }


RECORDS = [
    made_up("tiny", {"fastgan": 10, "eager": 1500, "jax": 20}),
    made_up("mnist-256", {"fastgan": 7000, "eager": 11900, "bf16": 4000, "compile": 9000}),
    made_up(
        "ring-2t", {"fastgan": 600, "fastgan, 1 thread": 1200}, busy={"ratio": {"fastgan, 1 thread": 0.8}, "spread": 0}
    ),
]
MEMBERS = {
    "members": 64,
    "threads": 2,
    "iterations/s": {"population": 1.95e4, "one": 1e4},
    "times one": 1.95,
    "spread": 0.01,
}
ZEN = {
    "processor": {"model": "AMD EPYC"},
    "fastgan": {"native": {"amx": "the processor has none", "avx512_bf16": "yes"}},
}
SAPPHIRE = {
    "processor": {"model": "Intel(R) Xeon(R) Processor"},
    "fastgan": {"native": {"amx": "yes", "avx512_bf16": "yes, slower than fp32"}},
}
OTHER = {"processor": {"model": "Neoverse-N1"}, "fastgan": {"native": "not loaded: no compiler"}}


def test_verdicts_are_those_of_the_targets() -> None:
    found = [(v["workload"], v["rule"].split(" as ")[-1], v["verdict"]) for v in report.verdicts(RECORDS, MEMBERS, ZEN)]
    assert found == [
        ("tiny", "eager PyTorch", "met"),
        ("tiny", "JAX scan", "missed"),
        ("mnist-256", "eager PyTorch", "within the spread"),
        ("mnist-256", "share of the FMA peak", "met"),
        ("mnist-256", "fastgan's float32", "met"),
        ("mnist-256", "eager PyTorch in float32", "met"),
        ("ring-2t", "one", "met"),
        ("ring-2t", "a share of one thread's", "missed"),
        ("population-2t", "64 members on 2 threads: times one GAN on one thread", "met"),
    ]
    other_threads = dataclasses.replace(WORKLOADS["tiny"], threads=2).threads
    assert report.verdicts([RECORDS[0] | {"threads": other_threads}], None, ZEN) == []


def test_each_family_of_processors_has_its_targets() -> None:
    """Those of mnist-256 (batch 100), mnist-1024 (64) and wide-2048 (512)."""
    fp32 = {"fused-adam": 1.1, "jax": 1.1}
    assert targets.of("mnist-256", ZEN) == {
        "eager": 1.7, **fp32, "peak": 0.8, "bf16 to fp32": 1.0, "bf16 to eager": 2.5,
    }  # fmt: skip
    assert targets.of("mnist-1024", ZEN)["peak"] == targets.of("wide-2048", ZEN)["peak"] == 0.85
    assert targets.of("mnist-256", SAPPHIRE) == {
        "eager": 1.7, **fp32, "peak": 0.72, "bf16 to fp32": 2.4, "bf16 to torch": 2.5,
    }  # fmt: skip
    assert targets.of("wide-2048", SAPPHIRE) == {
        "eager": 1.2, **fp32, "peak": 0.8, "bf16 to fp32": 4, "bf16 to torch": 1.5,
    }  # fmt: skip
    assert targets.of("mnist-1200", SAPPHIRE)["bf16 to fp32"] == 2.8 and targets.of("tiny", ZEN)["jax"] == 2.5
    assert targets.of("mnist-1200", OTHER) == {"eager": 1.5, **fp32, "bf16 to fp32": 1.0}
    assert targets.of("mnist-1200-2t", ZEN) == targets.of("mnist-1200-2t", SAPPHIRE) == {"jax": 1.4}


def test_every_target_is_of_a_workload() -> None:
    named = {*targets.BASELINES, *targets.OF_PEAK, *(n for _, n in targets.PEAK_OF), *(n for _, n in targets.BF16_OF)}
    assert named <= set(WORKLOADS)
    assert {name for name, _ in targets.PEAK_OF} | {*targets.PEAK_OF_BLOCKS} <= set(targets.PEAK)
    for name in WORKLOADS:
        for machine in (ZEN, SAPPHIRE, OTHER):
            assert set(targets.of(name, machine)) <= set(report.RULES)


def test_bf16_is_compared_with_the_fastest_of_torch() -> None:
    sides = {"fastgan": 52_000, "bf16": 14_000, "matmul": 49_000, "compile-matmul": 41_000, "autocast": 33_600}
    found = {v["rule"]: v for v in report.verdicts([made_up("mnist-1200", sides)], None, SAPPHIRE)}
    assert found["bf16: times as fast as fastgan's float32"]["value"] == pytest.approx(52 / 14)
    best = found["bf16: times as fast as the fastest of PyTorch in bf16"]
    assert best["value"] == pytest.approx(2.4) and best["verdict"] == "missed"


def test_bf16_is_held_against_its_own_peak() -> None:
    share = RECORDS[1]["share_of_peak"]
    assert share["bf16"] == pytest.approx(share["fastgan"] * 7000 / 4000 / 2)
    assert RECORDS[2]["share_of_peak"]["fastgan, 1 thread"] == pytest.approx(RECORDS[2]["share_of_peak"]["fastgan"])


def test_a_shared_processor_is_reported() -> None:
    assert report.disturbed(RECORDS) == ""
    assert report.disturbed([RECORDS[0] | {"processors got": 0.3}, *RECORDS[1:]]).endswith("they got: tiny 30%.")


def test_the_report_tells_all(tmp_path: Path) -> None:
    states = {state: {"sides": RECORDS[0]["sides"], "ratio": {}} for state in (timing.ALONE, timing.SHARED)}
    text = report.tables([RECORDS[0] | {"states": states}, *RECORDS[1:]])
    rows = [line.split() for line in text.splitlines()]
    for row in ("tiny 10.0 150x - 2.00x 70% 1.0%", "core shared 10.0 150x - 2.00x", "ring-2t 600 - - - 71% 1.0%"):
        assert row.split()[:4] in [cells[:4] for cells in rows]
    assert ["mnist-256", "4000", "1.75x", "2.97x"] in rows
    left = RECORDS[0] | {"left out": {"jax": "it is not installed"}, "engine": {"fastgan": "eager (why)"}}
    lines = list(report.lines([left, *RECORDS[1:]], MEMBERS | {"left out": "nothing"}, ZEN))
    assert "left out: tiny: jax: it is not installed" in lines
    assert "engine: tiny: eager (why)" in lines
    assert "fastgan is 1.7 to 150 times as fast as eager PyTorch at both workloads." in lines
    assert "missed: tiny: times as fast as JAX scan: 2, at least 2.5 asked" in lines
    assert [line[:2] for line in report.lines([], MEMBERS, ZEN)] == ["po", "ta"]  # a run of the population alone
    fig = report.picture(RECORDS, ["a note"])
    fig.savefig(tmp_path / "picture.png")
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()][0] == "tiny, batch 32"


def test_a_full_table_fits_a_terminal() -> None:
    sides = dict.fromkeys((*measure.BASELINES, "bf16"), 123_456_789.0)
    records = [made_up(name, {"fastgan": 725_000} | sides) for name in WORKLOADS if WORKLOADS[name].threads == 1]
    assert max(map(len, report.tables(records).splitlines())) <= report.WIDTH


def test_slower_is_said_too() -> None:
    records = [
        made_up("tiny", {"fastgan": 10, "eager": 5}),
        made_up("toy-32", {"fastgan": 100, "eager": 100.5}),
        made_up("mnist-256", {"fastgan": 100, "eager": 300}),
    ]
    assert next(report.in_words(records)) == (
        "fastgan is 3 times as fast as eager PyTorch at 1 of 3 workloads; as fast as eager PyTorch at toy-32; "
        "slower than eager PyTorch at tiny (0.50)."
    )
