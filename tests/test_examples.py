"""The example scripts run, at a hundredth of their length, and say what they measured."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("an installed package has no examples beside it", allow_module_level=True)
for library in ("matplotlib", "sklearn"):
    pytest.importorskip(library, reason="the examples use the digits and draw pictures")


def run(monkeypatch: pytest.MonkeyPatch, name: str, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *argv])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_M98_the_study_of_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.json"
    run(
        monkeypatch,
        "augmentation.py",
        "--labelled",
        "60",
        "--generated",
        "200",
        "--seeds",
        "2",
        "--steps",
        "20",
        "--out",
        str(out),
    )
    (trials,) = json.loads(out.read_text()).values()
    assert len(trials) == 2 and all(0.1 < t["real"] < 1 for t in trials)  # better than guessing from 60 rows
    printed = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", capsys.readouterr().out)]
    gain = sum(t["both"] - t["real"] for t in trials) / 2
    assert printed[0] == pytest.approx(sum(t["real"] for t in trials) / 2, abs=5e-4)
    assert printed[-2] == pytest.approx(gain, abs=6e-4)


def test_M99_edges_become_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    run(monkeypatch, "edges_to_digits.py", "--steps", "200", "--out", str(tmp_path / "edges.png"))
    torch.set_num_threads(threads)
    rows = dict(re.findall(r"^(L1 alone|adversarial \+ L1) +(\S+)", capsys.readouterr().out, re.M))
    assert all(float(error) < 0.2 for error in rows.values()) and len(rows) == 2  # digits' own spread is 0.3
    assert (tmp_path / "edges.png").stat().st_size > 3000


def test_edges_are_where_neighbours_differ() -> None:
    module = runpy.run_path(str(EXAMPLES / "edges_to_digits.py"))
    image = torch.zeros(8, 8)
    image[:, 4:] = 1
    assert torch.equal(module["edges"](image.flatten()[None]).view(8, 8)[0], torch.eye(8)[4])
