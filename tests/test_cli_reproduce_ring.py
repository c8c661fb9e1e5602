"""fastgan reproduce unrolled and costs: tables and pictures of a ring, by K and by cost."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import pytest
from command_line import CtrlC, Run, check_refusal, check_success, showing, signatures

from fastgan.apps.cli import reproduce_ring
from fastgan.apps.reproduce import unrolled


@pytest.fixture
def run(run: Run) -> Run:
    return functools.partial(run, "reproduce")


def test_M74_a_row_for_each_k(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the study draws its pictures")
    signed = signatures(monkeypatch)
    out = check_success(run("unrolled", "--unroll", "0,1", "--trials", "2", "--steps", "3", "--out", "a", "--quiet"))
    assert "2 trials of 3 of the full 25,000 iterations" in out.splitlines()[0]
    assert [line.split()[:4] for line in out.splitlines()[2:4]] == [["K", "=", str(k), "fastgan"] for k in (0, 1)]
    found = unrolled.trials_on_ring({"unroll": (1,)}, trials=2, steps=3)
    with open("a/table.csv") as file:
        rows = list(csv.reader(file))
    modes = [trial.modes for trial in found]
    assert rows[2][1] == "K = 1" and float(rows[2][3]) == sum(modes) / 2
    assert f"K = 1: modes by seed {modes[0]} {modes[1]}" in out
    assert json.loads(Path("a/table.json").read_text())["modes by seed"]["K = 1"] == modes
    about = "fastgan reproduce unrolled, 2 trials of 3 iterations, seeds from 0"
    assert [text.rpartition(", fastgan ")[0] for text in signed] == [about] * 2
    for name in ("samples.png", "modes.png", "table.md"):
        assert (Path("a") / name).stat().st_size > 100


def test_M75_a_row_for_each_cost(run: Run) -> None:
    argv = ("--trials", "1", "--steps", "2", "--no-pictures", "--quiet")
    check_success(run("costs", *argv, "--out", "a"))
    body = json.loads(Path("a/table.json").read_text())
    assert [row["method"] for row in body["rows"]] == ["minimax", "non_saturating", "mle"] and body["steps"] == 2


def test_ctrl_c_leaves_the_table_of_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """K = 1 trains one after another: seed 0 has ended, seed 1 comes to 11 of 20 iterations, seed 2 never begins."""
    argv = ("unrolled", "--unroll", "1", "--trials", "3", "--steps", "20", "--no-pictures", "--quiet")
    monkeypatch.setattr(reproduce_ring, "progress", showing(CtrlC(11, member=1)))
    code, out, err = run(*argv, "--out", "a")
    assert code == 130 and err == ""
    assert "interrupted: 2 of 3 trials had not ended: the table has what was measured last" in out
    assert "K = 1: measured at iteration 20 10 0" in out
    body = json.loads(Path("a/table.json").read_text())
    assert body["measured at iteration"] == {"K = 1": [20, 10, 0]}
    first, second, third = body["modes by seed"]["K = 1"]
    assert third is None and f"K = 1: modes by seed {first} {second} -\n" in out
    assert body["rows"][0]["figures"]["modes"]["mean"] == (first + second) / 2
    monkeypatch.setattr(reproduce_ring, "progress", showing(CtrlC(1)))
    code, out, err = run(*argv, "--out", "b")
    assert code == 130 and out == "" and err.startswith("interrupted: no trial had been measured yet")
    assert not Path("b").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("unrolled", "--unroll", "0,five"), "--unroll must be whole numbers of at least 0"),
        (("unrolled", "--unroll", "1,1"), "--unroll must be distinct, got '1,1'"),
        (("costs", "--costs", "hinge"), "--costs must be among minimax, non_saturating, mle, got 'hinge'"),
        (("costs", "--trials", "0"), "--trials must be at least 1, got 0"),
        (("costs", "--out", "full"), "--out must be new or empty, got full"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    Path("full").mkdir()
    Path("full/x").touch()
    check_refusal(run(*argv), message)
