"""The example scripts run, at a hundredth of their length, and say what they measured."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from command_line import signatures

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
    options = "--labelled 60 --generated 200 --seeds 2 --steps 20 --machine here --out".split()
    run(monkeypatch, "augmentation.py", *options, str(tmp_path))
    record = json.loads((tmp_path / "augmentation-digits-here.json").read_text())
    assert record["machine"]["fastgan"]["torch"] == torch.__version__ and "revision" in record["machine"]
    ((labelled, trials),) = [(study["labelled"], study["trials"]) for study in record["studies"]]
    assert (labelled, record["steps"], record["generated"]) == (60, 20, 200)
    assert len(trials) == 2 and all(0.1 < t["real"] < 1 for t in trials)  # better than guessing from 60 rows
    printed = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", capsys.readouterr().out)]
    gain = sum(t["both"] - t["real"] for t in trials) / 2
    assert printed[0] == pytest.approx(sum(t["real"] for t in trials) / 2, abs=5e-4)
    assert printed[-2] == pytest.approx(gain, abs=6e-4)


def test_M99_edges_become_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, signed = torch.get_num_threads(), signatures(monkeypatch)
    run(monkeypatch, "edges_to_images.py", "--steps", "200", "--out", str(tmp_path / "edges.png"))
    torch.set_num_threads(threads)
    rows = dict(re.findall(r"^(L1 alone|adversarial \+ L1) +(\S+)", capsys.readouterr().out, re.M))
    assert all(float(error) < 0.2 for error in rows.values()) and len(rows) == 2  # digits' own spread is 0.3
    assert (tmp_path / "edges.png").stat().st_size > 3000
    assert signed == ["digits, 200 steps of 64 rows, seed 0, 300 rows held out"]


def test_M99_images_of_28_pixels_keep_their_size(tmp_path: Path) -> None:
    module = runpy.run_path(str(EXAMPLES / "edges_to_images.py"))
    images = torch.rand(3, 1, 28, 28)
    drawn = module["edges"](images)
    made = module["UNet"](4)(drawn, torch.zeros(3, module["LATENT"]))
    assert made.shape == images.shape and 0 <= made.min() and made.max() <= 1
    assert module["patches"](4)(torch.cat([drawn, made], 1)).shape == (3, 49)
    module["picture"]({"edges": drawn, "made": made.detach()}, tmp_path / "x.png", "noise")
    assert (tmp_path / "x.png").stat().st_size > 3000


def test_edges_are_where_neighbours_differ() -> None:
    module = runpy.run_path(str(EXAMPLES / "edges_to_images.py"))
    image = torch.zeros(8, 8)
    image[:, 4:] = 1
    assert torch.equal(module["edges"](image[None, None])[0, 0], torch.eye(8)[4].expand(8, 8))
