"""fastgan reproduce pacgan: the paper's settings, the table, and folders that are resumed and read again."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import need
from command_line import CtrlC, Run, check_refusal, check_success, showing, signatures

import fastgan
from fastgan.apps.cli import reproduce_pacgan
from fastgan.apps.reproduce import pacgan, table, trials
from fastgan.apps.reproduce.table import Figure, Row

pytest.importorskip("matplotlib", reason="a study draws its pictures")

ONE = ("--dataset", "ring", "--methods", "GAN", "--quiet", "--no-pictures", "--threads", "1")


@pytest.fixture
def run(run: Run) -> Run:
    return functools.partial(run, "reproduce", "pacgan")


def test_M73_the_networks_and_the_training_are_the_papers() -> None:
    for pack in (1, 3):
        gan = pacgan.networks(pack)
        assert sum(p.numel() for p in gan.generator.parameters()) == 2 * 400 + 3 * 400**2 + 4 * 800 + 400 * 2 + 2
        sizes = [(2 * pack, 1000), (200, 1000), (200, 1000), (200, 1)]
        assert sum(p.numel() for p in gan.discriminator.parameters()) == sum((a + 1) * b for a, b in sizes)
        weights = [p for p in gan.generator.parameters() if p.ndim == 2]
        assert float(torch.cat([w.detach().flatten() for w in weights]).std()) == pytest.approx(0.02, rel=0.01)
        norms = [m for m in gan.generator if isinstance(m, torch.nn.BatchNorm1d)]
        assert len(norms) == 4 and all(m.momentum == 0.05 for m in norms)
    config = pacgan.config(pacgan.Study(), "PacGAN3")
    assert (config.steps, config.batch_size, config.pack, config.mode) == (400_000, 100, 3, "simultaneous")
    assert config.optimizer == fastgan.Adam(1e-4, betas=(0.8, 0.999)) and config.loss == "non_saturating"
    ring, grid = pacgan.DATASETS["ring"](10), pacgan.DATASETS["grid"](10)
    assert ring.std == 0.01 and grid.std == 0.05 and ring.centres is not None and grid.centres is not None
    assert ring.centres[1].tolist() == pytest.approx([math.sqrt(0.5)] * 2) and grid.centres.abs().max() == 4


def test_M73_a_study_is_run_by_the_fused_engine_and_printed_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    signed = signatures(monkeypatch)
    argv = ("--dataset", "ring", "--methods", "GAN,PacGAN2", "--trials", "2", "--steps", "3", "--quiet")
    out = check_success(run(*argv, "--threads", "1", "--out", "a"))
    assert "ring GAN:" in out and "engine cpu" in out and "hours of processor time" in out
    lines = out.splitlines()
    assert lines[2].split()[:5] == ["GAN", "paper", "6.30", "+-", "0.50"]
    assert [line.split()[0] for line in lines[3:8]] == ["GAN", "apart", "PacGAN2", "PacGAN2", "apart"]
    assert lines[8].startswith("perfect  sampler  8.0") and "reverse KL, near" in lines[1]
    assert " SE" in lines[4] and "within 2" not in out  # three iterations are not the paper's experiment
    for name in ("table.csv", "table.md", "table.json", "ring-samples.png", "ring-modes.png"):
        assert (Path("a") / name).stat().st_size > 200
    about = "fastgan reproduce pacgan, 2 trials of 3 iterations, seeds from 0"
    assert [text.rpartition(", fastgan ")[0] for text in signed] == [about] * 2
    with open("a/table.csv") as file:
        rows = list(csv.reader(file))
    assert rows[1][:5] == ["ring", "GAN", "paper", "6.3", "0.5"] and len(rows) == 6
    body = json.loads(Path("a/table.json").read_text())
    assert body["trials"] == 2 and "standard_errors_apart" in body["rows"][1]
    again = run("--out", "a")
    assert again[0] == 0 and again[1] == out


def test_M73_every_cell_of_the_table_runs(run: Run) -> None:
    need("native", "mlp")
    out = check_success(
        run("--trials", "1", "--steps", "1", "--out", "a", "--quiet", "--no-pictures", "--threads", "1")
    )
    assert sum("engine cpu" in line for line in out.splitlines()) == 8
    for dataset, paper in (("ring", "7.80 +- 0.10"), ("grid", "24.80 +- 0.20")):
        part = out[out.index(f"{dataset}: 1 trial of") :]
        row = next(line for line in part.splitlines() if line.startswith("PacGAN4"))
        assert row.split()[:2] == ["PacGAN4", "paper"] and paper in row


def test_M76_packing_by_one_is_no_packing() -> None:
    config = pacgan.config(pacgan.Study(), "GAN")
    assert config.pack == 1 and pacgan.networks(1).discriminator[0].in_features == 2


def test_a_study_that_was_stopped_goes_on_to_the_same_numbers(run: Run) -> None:
    assert run(*ONE, "--trials", "2", "--steps", "6", "--out", "through")[0] == 0
    assert run(*ONE, "--trials", "1", "--steps", "2", "--out", "part")[0] == 0
    code, out, _ = run(*ONE, "--trials", "2", "--steps", "6", "--out", "part", "--resume")
    assert code == 0
    for member in ("member-0000", "member-0001"):
        a, b = (Path(f) / "ring-GAN" / member for f in ("through", "part"))
        assert np.array_equal(np.load(a / "samples.npy"), np.load(b / "samples.npy"))
        assert trials.rows_of(a)[-1].tolist() == trials.rows_of(b)[-1].tolist()
    steps = trials.rows_of(Path("part/ring-GAN/member-0000"))[:, 0]
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]  # of a short run every tenth, at least each iteration
    noted = trials.noted_training(Path("part/ring-GAN"))
    assert noted is not None and noted["iterations"] == 12  # two of the first go, four and six of the second


def test_a_study_that_cannot_run_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    native = pytest.importorskip("fastgan._native", reason="only the compiled core multiplies in bfloat16")
    monkeypatch.setattr(native, "multiplies_bf16", lambda: False)
    short = ("--trials", "1", "--steps", "1", "--out", "a")
    check_refusal(run(*ONE, *short, "--precision", "bf16"), "which is for AMX and AVX512-BF16: ")
    assert run(*ONE, *short)[0] == 0


def test_an_interrupted_study_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    with monkeypatch.context() as patch:
        patch.setattr(reproduce_pacgan, "progress", showing(CtrlC(2, member=1)))
        code, out, _ = run(*ONE, "--trials", "2", "--steps", "5", "--out", "a")
    assert code == 130 and out.startswith("ring: 0 of 2 trials") and "pacgan --out a --resume" in out
    check_refusal(run("--out", "a"), "or be resumed, got a")
    assert run(*ONE, "--out", "a", "--resume")[0] == 0
    assert run(*ONE, "--trials", "2", "--steps", "5", "--out", "b")[0] == 0
    for member in ("member-0000", "member-0001"):
        a, b = (np.load(Path(folder) / "ring-GAN" / member / "samples.npy") for folder in "ab")
        assert np.array_equal(a, b)


def test_a_study_under_way_can_be_looked_at(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.Coverage, "every", 2)
    assert run(*ONE, "--trials", "1", "--steps", "4", "--out", "a")[0] == 0
    study = pacgan.Study.read(Path("a"))
    assert study is not None
    dataclasses.replace(study, trials=3, steps=100).write(Path("a"))
    out = check_success(run("--out", "a", "--at", "2", "--no-pictures"))
    assert out.startswith("ring: 1 of 3 trials of 2 iterations")
    early = json.loads(Path("a/at-2/table.json").read_text())["rows"][1]["figures"]["modes"]["mean"]
    assert early == trials.rows_of(Path("a/ring-GAN/member-0000"))[0, 1]
    check_refusal(run("--out", "a", "--at", "7"), "that a trial has come to, got 7")
    assert not Path("a/at-7").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--methods", "PacGAN9"),
            "--methods must be distinct and among GAN, PacGAN2, PacGAN3, PacGAN4, got 'PacGAN9'",
        ),
        (("--methods", "GAN,GAN"), "--methods must be distinct"),
        (("--trials", "0"), "--trials must be at least 1, got 0"),
        (("--dataset", "mnist"), "--dataset"),
        (("--out", "full"), "--out must be new, empty or a study of PacGAN's table, got full"),
        (("--out", "done", "--trials", "2"), "--out must be new, hold the requested study, finished, or be resumed"),
        (("--out", "done", "--precision", "bf16", "--resume"), "--precision must be fp32 as in done, got bf16"),
        (("--out", "nowhere", "--at", "5"), "--at must be given with the folder of a study in --out, got nowhere"),
        (("--out", "broken"), "must describe a study of PacGAN's table 1"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    for name in ("full", "broken", "done"):
        Path(name).mkdir()
    Path("full/x").touch()
    Path("broken/study.json").write_text('{"format": 1, "reproduce": "pacgan", "trials": "many"}')
    pacgan.Study(("ring",), ("GAN",), 1, 1).write(Path("done"))
    check_refusal(run(*argv), message)


def test_measures_are_those_of_the_original_code() -> None:
    ring = fastgan.data.ring(16)
    assert ring.centres is not None
    good = ring.centres[[0, 0, 0, 1] * 3]
    bad = good + 0.5
    found = trials.measure(torch.cat([good, bad]), ring)
    p = torch.tensor([0.75, 0.25])
    assert found["modes"] == 2 and found["high_quality"] == 0.5
    assert found["reverse_kl"] == pytest.approx(float((p * (p * 8).log()).sum()))  # of the good ones alone
    assert trials.measure(bad, ring) == {"modes": 0, "high_quality": 0, "reverse_kl": pytest.approx(math.log(8))}


def test_distances_are_in_standard_errors_of_the_difference() -> None:
    paper = Figure(6.3, 0.5, 10)
    assert table.apart(Figure(6.3 + 2, 0.5, 5), paper) == pytest.approx(2 / math.hypot(0.5, 0.5))
    one = Figure.of([8.0])
    assert one.trials == 1 and math.isnan(one.error)
    assert table.apart(one, paper) == pytest.approx(1.7 / math.hypot(0.5 * math.sqrt(10), 0.5))
    assert Figure.of([1.0, 3.0, math.nan]) == Figure(2.0, 1.0, 2)
    equal = Figure.of([8.0, 8.0])  # two trials that agree prove no spread of zero
    assert table.apart(equal, paper) == pytest.approx(1.7 / math.hypot(0.5 * math.sqrt(5), 0.5))
    assert table.apart(Figure(1.0, 0.0), Figure(1.0, 0.0)) == 0 and table.apart(Figure(2.0, 0.0), Figure(1.0, 0.0)) > 9
    rows = [Row("ring", "GAN", kind, {"modes": f}) for kind, f in ((table.PAPER, paper), (table.FASTGAN, equal))]
    assert [table.lines(rows, ["modes"], verdict=v)[3].split("apart")[1].strip() for v in (True, False)] == [
        "+1.4 SE: within 2",
        "+1.4 SE",
    ]
    assert [str(f) for f in (Figure(98.889, 0.123), Figure(8, 0.0, 9), Figure(7), Figure(math.nan))] == [
        "98.89 +- 0.12",
        "8.00 +- 0.00",
        "7",
        "-",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_M73_the_shortened_length_is_sane(run: Run) -> None:
    """In bench/results three trials of 20,000 iterations; modes and quality have their floors at 8,000 already."""
    out = check_success(run(*ONE, "--trials", "1", "--steps", "8000", "--out", "a"))
    found = json.loads(Path("a/table.json").read_text())["rows"][1]["figures"]
    assert found["modes"]["mean"] >= 4 and found["% high quality"]["mean"] >= 60, out
    assert re.search(r"takes [\d,.]+ hours", out)


def test_M73_the_recorded_study_is_sane() -> None:
    """What the shortened length gave when it was run in full, and how long it took."""
    path = Path(__file__).parent.parent / "bench" / "results" / "pacgan-short-zen4-2core.json"
    if not path.is_file():
        pytest.skip("an installed package has no bench folder")
    body = json.loads(path.read_text())
    own = next(row for row in body["rows"] if row["row"] == "fastgan")["figures"]
    assert (body["trials"], body["steps"]) == (3, 20_000)
    assert own["modes"]["mean"] >= 4 and own["% high quality"]["mean"] >= 60
    assert body["processor_seconds"] / 2 < 15 * 60


def test_a_study_trains_on_the_given_device(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def train(make: object, rows: object, config: fastgan.TrainConfig, **rest: object) -> None:
        asked.append(config.device)
        raise ValueError("that will do")

    monkeypatch.setattr(pacgan, "train_population", train)
    assert run(*ONE)[0] == 2 and run(*ONE, "--device", "cpu:0")[0] == 2
    assert asked == ["cpu", "cpu:0"]
    if not torch.cuda.is_available():
        assert "--device must be one that torch can use here, got 'cuda'" in run(*ONE, "--device", "cuda")[2]
