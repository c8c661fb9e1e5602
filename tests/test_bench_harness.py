"""The harness of the benchmarks: sides are compared before they are timed, windows are interleaved."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
from pathlib import Path

import pytest
import torch
from test_bench import QUICK, constant

from fastgan._backend import native
from fastgan.apps.bench import harness, timing
from fastgan.apps.bench.results import Report

TRUTH = {"y": torch.tensor([1.0, 2.0], dtype=torch.float64)}


@pytest.mark.parametrize(
    ("theirs", "rule"),
    [
        ([1.0, 2.1], "departs from a float64 run by 0.045 of its norm; allowed is 1e-06"),
        ([1.0, 2.0, 3.0], r"is torch.float32 \(3,\)"),
        ([1.0, float("nan")], "not finite"),
        ([0.0, 0.0], "departs"),
    ],
)
@pytest.mark.parametrize("wrong", ["fastgan", "baseline"])
def test_a_side_that_departs_from_float64_costs_only_itself(theirs: list[float], rule: str, wrong: str) -> None:
    calls: list[str] = []
    names = ("fastgan", "baseline", "another")
    sides = [constant(name, theirs if name == wrong else [1.0, 2.0], calls) for name in names]
    record = harness.compare("case", sides, TRUTH, harness.Tolerance(norm=1e-6), QUICK)
    assert set(record["wrong"]) == {wrong} and re.search(f"y of {wrong} .*{rule}", record["wrong"][wrong])
    assert wrong not in calls and wrong not in record["sides"]
    right = [name for name in names if name != wrong]
    assert set(record["sides"]) == {*right, right[0] + timing.AGAIN}
    assert set(record["ratio"]) == (set() if wrong == "fastgan" else {"another"})


def test_where_every_side_is_wrong_nothing_is_timed() -> None:
    calls: list[str] = []
    record = harness.compare("case", [constant("fastgan", [2.0, 2.0], calls)], TRUTH, harness.Tolerance(0.1), QUICK)
    assert not calls and not record["sides"] and set(record["wrong"]) == {"fastgan"}


def test_check_looks_at_single_elements() -> None:
    found, theirs = torch.ones(10_000), torch.ones(10_000)
    theirs[7] = 1.01
    loose = harness.Tolerance(norm=1e-3)
    assert loose.check("case", "baseline", {"y": theirs}, {"y": found})["y"] < 1e-3
    for strict in ({"element": {"y": 1e-4}}, {"ulp": 100.0}):
        with pytest.raises(harness.ResultsDiffer, match="element"):
            dataclasses.replace(loose, **strict).check("case", "baseline", {"y": theirs}, {"y": found})


def test_ulps_are_those_of_float32() -> None:
    truth = torch.tensor([1.0, 1024.0], dtype=torch.float64)
    assert harness.ulps(torch.tensor([1.0, 1024.0 + 2.0**-12]), truth) == 2.0


def test_check_wants_the_same_gradients_of_both() -> None:
    with pytest.raises(harness.ResultsDiffer, match="grad_x"):
        harness.Tolerance(norm=1.0).check(
            "case", "baseline", {"y": torch.ones(1)}, {"y": torch.ones(1), "grad_x": torch.ones(1)}
        )


def test_windows_are_interleaved_in_changing_order() -> None:
    calls: list[str] = []

    def measure(name: str, count: int) -> float:
        return timing.timed(lambda: calls.append(name), count)

    taken = timing.interleave([lambda: measure("a", 2), lambda: measure("b", 1)], windows=30)
    assert [len(t) for t in taken] == [30, 30]
    rounds = {"".join(calls[i : i + 3]) for i in range(0, len(calls), 3)}
    assert rounds == {"aab", "baa"}


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ([5.0, 4.0], timing.ALONE),
        ([2.5, 3.0], timing.SHARED),
        ([2.5, 4.0], timing.MIXED),
        ([4.7, 2.4], timing.MIXED),
        ([0.0, 0.0], ""),
    ],
)
def test_a_window_knows_the_state_of_its_core(seen: list[float], state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter(seen)
    monkeypatch.setattr(timing, "additions_per_cycle", lambda: next(rates))
    assert timing.interleave([lambda: 1.0], windows=1) == [[timing.Window(1.0, state)]]


@pytest.mark.parametrize(
    ("seen", "state"),
    [([48.0, 52.0], timing.NEAR), ([205.0, 190.0], timing.FAR), ([48.0, 205.0], timing.MIXED), ([0.0, 0.0], "")],
)
def test_a_window_of_two_threads_knows_how_far_they_are(
    seen: list[float], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers = iter(seen)
    monkeypatch.setattr(timing, "line_transfer_ns", lambda: next(transfers))
    assert timing.interleave([lambda: 1.0], windows=1, threads=2) == [[timing.Window(1.0, state)]]


@pytest.mark.skipif(native is None, reason="the core's state is measured by compiled code")
def test_additions_are_counted_by_the_cycle() -> None:
    """Two to six: a processor has as many adders, or half of them where the other thread of the core is busy."""
    rate = native.additions_per_cycle()
    assert rate == 0 if platform.machine() != "x86_64" else 1.5 < rate < 8


@pytest.mark.skipif(native is None, reason="the transfer is measured by compiled code")
def test_a_cache_line_passes_between_threads() -> None:
    found = [native.line_transfer_ns() for _ in range(5)]
    assert all(ns == 0 or 1 < ns < 5e6 / 2000 for ns in found), (
        found
    )  # 0: beside other work a thread waits for its turn


def test_both_states_have_figures_where_both_occurred() -> None:
    alone, shared = [timing.Window(1.0, timing.ALONE)] * 5, [timing.Window(1.5, timing.SHARED)] * 5
    slow = [timing.Window(3 * w.seconds, w.state) for w in (*alone, *shared)]
    taken = {"fastgan": [*alone, *shared], "baseline": slow, "fastgan again": [*alone, *shared]}
    found = timing.summary(taken, "fastgan")
    assert {s: of["sides"]["fastgan"]["median_s"] for s, of in found["states"].items()} == {
        timing.ALONE: 1.0,
        timing.SHARED: 1.5,
    }
    assert found["states"][timing.SHARED]["ratio"] == {"baseline": 3.0} and found["spread"] == 0
    few = {name: windows[:9] for name, windows in taken.items()}
    assert set(timing.summary(few, "fastgan")["states"]) == {timing.ALONE}


def test_compare_times_the_first_side_twice() -> None:
    sides = [constant("fastgan", [1.0]), constant("baseline", [1.0])]
    record = harness.compare("case", sides, {"y": torch.ones(1)}, harness.Tolerance(norm=1e-6), QUICK)
    assert set(record["sides"]) == {"fastgan", "baseline", "fastgan again"}
    assert set(record["ratio"]) == {"baseline"}
    for side in record["sides"].values():
        assert side["windows"] == QUICK.windows
        assert 0 < side["p10_s"] <= side["median_s"] <= side["p90_s"]


def test_quantiles_are_interpolated() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert timing.quantiles(values) == {"median_s": 3.0, "p10_s": 1.4, "p90_s": 4.6, "windows": 5}


def test_calls_before_the_timed_ones_are_made() -> None:
    calls: list[str] = []
    side = dataclasses.replace(constant("fastgan", [1.0], calls), calls_before=500)
    record = harness.compare("case", [side], {"y": torch.ones(1)}, harness.Tolerance(norm=1e-6), QUICK)
    assert record["sides"]["fastgan"]["warmup_calls"] >= 500 and len(calls) > 500


def test_every_record_is_on_disk_at_once_and_can_be_taken_over(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, out=tmp_path, machine="here")
    report = Report("case", settings)
    for i in range(2):
        report.add({"case": f"{i}", "wrong": {"eager": "departs"} if i else {}})
        assert len(json.loads(report.path.read_text())["cases"]) == i + 1
    assert report.failures == ["1: departs"]
    again = Report("case", settings)
    again.resume()
    assert [r["case"] for r in again.records] == ["0", "1"] and again.content == {}
    again.content["population"] = {"members": 2}
    again.save()
    third = Report("case", settings)
    third.resume("population", "lower_bounds")
    assert third.content == {"population": {"members": 2}}


def test_results_that_a_run_writes_do_not_change_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(harness.machine, "CHECKOUT", tmp_path)
    commit = harness.machine.revision()
    assert commit and " " not in commit
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    (results / "train.json").write_text("{}")
    assert harness.machine.revision() == commit
    (tmp_path / "kernel.cpp").write_text("")
    assert harness.machine.revision() == f"{commit} with changes"


def test_a_table_that_is_finished_at_another_revision_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(QUICK, out=tmp_path, machine="here")
    monkeypatch.setattr(harness.machine, "revision", lambda: "1234567")
    first = Report("case", settings)
    first.started = "2026-01-01T00:00:00Z"
    first.add({"case": "a"})
    first.add({"case": "b"})
    assert first.revisions() == ""
    monkeypatch.setattr(harness.machine, "revision", lambda: "89abcde with changes")
    second = Report("case", settings)
    second.resume()
    second.add({"case": "c"})
    rows = json.loads(second.path.read_text())["cases"]
    assert [row["revision"] for row in rows] == ["1234567", "1234567", "89abcde with changes"]
    assert [row["started"] for row in rows] == [first.started, first.started, second.started]
    assert second.revisions() == "The rows are of different revisions: 1234567 (2), 89abcde with changes (1)."
    second.add({"case": "a", "revision": "0000000"}, instead_of=0)
    assert [(row["case"], row["revision"][:7]) for row in second.records] == [
        ("a", "0000000"), ("b", "1234567"), ("c", "89abcde"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "spread", "word"), [(2.0, 0.01, "met"), (1.4, 0.01, "missed"), (1.49, 0.05, "within the spread")]
)
def test_verdict_knows_the_spread(ratio: float, spread: float, word: str) -> None:
    assert harness.verdict(ratio, 1.5, spread) == word


def test_pinning_is_undone() -> None:
    before = torch.get_num_threads(), harness.machine.allowed_cpus()
    with harness.pinned(1) as cpus:
        assert torch.get_num_threads() == 1
        assert cpus is None or harness.machine.allowed_cpus() == cpus
    assert (torch.get_num_threads(), harness.machine.allowed_cpus()) == before
