"""fastgan bench --device cuda as a whole, with a stand-in where the GPU would be: the report, and runs that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, check_refusal
from test_bench_device import BOUNDS, twice_the_loss

from fastgan import _backend
from fastgan._backend import native
from fastgan.apps.bench import (
    device,
    machine,
    measure,
    report,
    results,
    targets,
    worker,
)
from fastgan.apps.bench.workloads import CUDA_WORKLOADS

ON_CUDA = ("--device", "cuda", "--quick", "--out", ".", "--window-ms", "1")
LATENCIES = {
    "launch_s": 2.1e-6, "graph_node_s": 1.3e-6, "block_barrier_s": 2e-8, "cluster_barrier_s": {"8": 5e-7},
    "launch_and_wait_s": 8e-6, "fetch_s": 1.2e-5,
}  # fmt: skip


# ---------------------------------------------------------------- the report


def made_up(name: str, precision: str, microseconds: dict[str, float], **more: Any) -> dict[str, Any]:
    row = device.row(name, precision)
    sides = {side: {"median_s": us * 1e-6, "first_call_s": 1.0} for side, us in microseconds.items()}
    base = microseconds["fastgan"]
    return {
        "workload": row.name, "members": row.members, "precision": precision, "device": "cuda", "threads": 1,
        "batch": row.workload.batch, "engine": {"fastgan": "cuda-graph (why)"}, "engine name": "cuda-graph",
        "left out": {}, "wrong": {}, "states": {},
        "sides": sides, "ratio": {side: us / base for side, us in microseconds.items() if side != "fastgan"},
        "spread": 0.01, **device.against_lower_bound(row, sides, 1e14, 4, 132), **more,
    }  # fmt: skip


HOST = {"launches in 100": 0.1, "copies in 100": 9.0, "waits in 100": 2.0, "host_s": 4e-7}
RECORDS = [
    made_up("toy-32", "fp32", {"fastgan": 10, "eager": 900, "graph": 50, "jax": 40}, host=HOST),
    made_up("toy-32x132", "fp32", {"fastgan": 0.4, "eager": 900, "vmap": 1.0}),
    made_up("toy-32", "bf16", {"fastgan": 7, "eager": 900}),
    made_up("original", "fp32", {"fastgan": 200, "eager": 2000}),
    made_up("wide-1024", "bf16", {"fastgan": 1000, "autocast": 1500, "compile-autocast": 900}),
    {"workload": "tiny", "precision": "tf32", "device": "cuda", "left out": {"fastgan": "it cannot"}},
]


def test_verdicts_are_those_of_the_targets() -> None:
    found = [(v["workload"], "most" in v, v["verdict"]) for v in report.verdicts(RECORDS, None, {})]
    assert found == [
        ("toy-32", False, "met"),
        ("toy-32", False, "missed"),
        ("toy-32", False, "met"),
        ("toy-32", True, "met"),
        ("toy-32", True, "missed"),
        ("toy-32", True, "met"),
        ("toy-32x132", False, "met"),
        ("toy-32x132", False, "missed"),
        ("original", False, "missed"),
        ("wide-1024 bf16", False, "met"),
        ("wide-1024 bf16", False, "missed"),
    ]


def test_every_row_of_the_targets_is_measured_first() -> None:
    assert {name for name, _ in targets.CUDA} == set(device.ORDER) <= set(device.NAMES)
    assert set(report.BASELINE_NAMES) == {*measure.CUDA_BASELINES, *measure.BASELINES} < set(report.MARKERS)


def test_the_report_tells_all(tmp_path: Path) -> None:
    every = made_up("mnist-1024", "fp32", {"fastgan": 60} | dict.fromkeys(measure.CUDA_BASELINES, 12345.0))
    text = report.tables([*RECORDS, every | {"engine name": "cuda-persistent"}])
    assert "90.0x" in text and "0.4" in text and "toy-32x132" in text and "\nbf16" in text
    assert max(map(len, text.splitlines())) <= report.WIDTH
    lines = list(report.lines(RECORDS, None, {}))
    assert "left out: tiny tf32: fastgan: it cannot" in lines and "engine: toy-32: cuda-graph (why)" in lines
    assert "missed: toy-32: waits of the host in 100 iterations: 2, at most 1 asked" in lines
    told = "\n".join(report.bound_lines(BOUNDS | LATENCIES))
    assert "2.1 us in a stream, 1.3 us in a graph" in told and "0.5 us of a cluster of 8" in told
    assert "4,000 GB/s" in told and "bf16 800" in told
    fig = report.picture(RECORDS[:-1], ["a note"], "a stand-in")
    fig.savefig(tmp_path / "picture.png")
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()][2] == "toy-32 bf16, batch 32"


# ---------------------------------------------------------------- the whole


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[int]]:
    """A GPU played by the CPU; gives how many rows the file had when each was finished."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_backend, "cuda_reason", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a stand-in")
    monkeypatch.setattr(machine, "device", lambda: {"name": "NVIDIA H200"})
    seen: list[int] = []

    def ask(request: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        sizes = {"copy_bytes": 1 << 16, "side": 64}
        worker.serve(request | {"device": "cpu", "sizes": sizes}, answers.append)
        for answer in answers:
            yield json.loads(json.dumps(results.plain(answer)))
            if "record" in answer:
                (file,) = tmp_path.glob("*.json")
                seen.append(len(json.loads(file.read_text())["workloads"]))

    monkeypatch.setattr(worker, "ask", ask)
    yield seen


@pytest.fixture
def bench(run: Run, stand_in: list[int]) -> Run:
    """The command on the stand-in; the lines of its output are not folded."""

    def call(*options: str) -> tuple[int, str, str]:
        code, out, err = run("bench", *ON_CUDA, "--baselines", "eager", "--windows", "2", *options)
        return code, out.replace("\n  ", " "), err

    return call


def written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("train-nvidia-h200-quick.json").read_text())
    return content


def test_a_run_on_a_stand_in_comes_out_whole(bench: Run, stand_in: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.POPULATIONS, "tinyx2", ("tiny", 2))
    monkeypatch.setattr(device, "NAMES", (*device.NAMES, "tinyx2"))
    if native is not None:  # as on a processor without AMX
        monkeypatch.setattr(native, "multiplies_tf32", lambda: False)
    code, out, err = bench("--workload", "tiny", "tinyx2", "--precision", "fp32", "tf32")
    assert code == 0 and {p.name for p in Path().iterdir()} == {
        f"train-nvidia-h200-quick.{end}" for end in ("json", "png")
    }
    content = written()
    rows = [(r["workload"], r["precision"], "sides" in r) for r in content["workloads"]]
    assert rows == [(name, p, p == "fp32") for name in ("tiny", "tinyx2") for p in ("fp32", "tf32")]
    assert content["lower_bounds"]["products_per_s"]["bf16"] > 0 and stand_in == [1, 2, 3, 4]
    assert "lower bounds of NVIDIA H200" in out and "QUICK CHECK" in out and "each ends with a wait" in out
    assert "left out: tiny tf32: fastgan: " in out and "tiny: timing" in err


def test_a_row_whose_check_fails_has_no_time_and_the_others_go_on(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    twice_the_loss(monkeypatch, "tiny")
    code, out, _ = bench("--workload", "tiny", "toy-32")
    assert code == 1 and "batch 32: loss_d of fastgan departs from a float64 run" in out
    content = written()
    assert [("fastgan" in r["sides"]) for r in content["workloads"]] == [False, True] and len(content["no time"]) == 1


def test_a_row_that_breaks_down_does_not_end_the_others(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([torch.OutOfMemoryError("none left"), KeyError("key"), FloatingPointError("loss_d is not finite")])

    def broken(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr(device, "multiprocessors", broken)
    monkeypatch.setitem(device.CUDA_WORKLOADS, "original", CUDA_WORKLOADS["tiny"])
    code, out, _ = bench("--workload", "tiny", "toy-32", "original")
    assert code == 1 and "no time: tiny, fp32: none left" in out and "no time: toy-32, fp32: KeyError: 'key'" in out
    assert "no time: original, fp32: loss_d is not finite" in out


def test_each_row_has_a_process_and_one_that_dies_takes_nothing_with_it(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = worker.ask, []

    def ask(request: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
        asked.append((request["rows"], "lower_bounds" in request, limit_s))
        if request["rows"] and request["rows"][0][0] == "tiny":
            raise worker.WorkerFailed("the measuring process ended with -6: Traceback\nan illegal memory access\n")
        yield from whole(request, limit_s)

    monkeypatch.setattr(worker, "ask", ask)
    code, out, _ = bench("--workload", "tiny", "toy-32", "--row-limit", "77")
    assert asked == [([], False, 77), ([("tiny", "fp32")], True, 77), ([("toy-32", "fp32")], True, 77)]
    content = written()
    assert [r["workload"] for r in content["workloads"]] == ["toy-32"]
    told = "no time: tiny, fp32: the measuring process ended with -6: Traceback ... an illegal memory access"
    assert code == 1 and told in out
    assert content["no time"] == [told.removeprefix("no time: ")]


def test_without_lower_bounds_nothing_is_measured_and_the_reason_is_reported(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throughputs(*_: object) -> Iterator[dict[str, Any]]:
        raise worker.WorkerFailed("the measuring process was ended after 77 s: nothing")
        yield

    monkeypatch.setattr(worker, "ask", throughputs)
    code, _, err = bench("--workload", "tiny")
    assert code == 1 and "no time: the measuring process was ended after 77 s: nothing" in err


def test_rows_go_on_where_latencies_could_not_be_measured(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = worker.ask

    def ask(request: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
        yield from whole(request, limit_s)
        if not request["rows"]:
            raise worker.WorkerFailed("the measuring process ended with -6: a fault")

    monkeypatch.setattr(worker, "ask", ask)
    code, out, _ = bench("--workload", "tiny")
    assert code == 1 and "interrupted" not in out
    assert "no time: some lower bounds: the measuring process ended with -6: a fault" in out
    (record,) = written()["workloads"]
    assert record["lower_bound_s"] > 0


def test_what_was_measured_before_a_ctrl_c_is_reported(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = worker.ask

    def ask(request: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
        for answer in whole(request, limit_s):
            yield answer
            if "record" in answer:
                raise KeyboardInterrupt

    monkeypatch.setattr(worker, "ask", ask)
    code, out, _ = bench("--workload", "tiny", "toy-32")
    assert code == 130 and "interrupted: 1 of 2 rows" in out
    assert [r["workload"] for r in written()["workloads"]] == ["tiny"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--workload", "ring-2t"], "--workload must be among tiny, toy-32"),
        (["--baselines", "tensorflow"], "--baselines must be among eager"),
        (["--precision", "fp16"], "--precision must be among fp32"),
        (["--threads", "2"], "--threads must go with --device cpu"),
        (["--device", "cpu", "--precision", "bf16"], "--precision must go with --device cuda"),
    ],
)
def test_wrong_arguments_end_in_one_line(run: Run, options: list[str], rule: str) -> None:
    check_refusal(run("bench", *ON_CUDA, *options), rule)


def test_without_a_gpu_it_says_so_in_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = "fastgan bench: --device must be cpu here, got cuda: PyTorch sees no CUDA device\n"
    check_refusal(run("bench", *ON_CUDA), told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a stand-in")
    monkeypatch.setattr(_backend, "cuda_reason", lambda: "fastgan was built without CUDA")
    check_refusal(run("bench", *ON_CUDA), "built without CUDA")
