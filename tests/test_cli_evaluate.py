"""fastgan evaluate: which measures a run gets, and that they are cuBLAS's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import evaluation
from fastgan.apps.cli import main, runs

FAST = ("--batch-size", "20", "--width", "8", "--steps", "20", "--quiet", "--no-pictures")
Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """evaluate(argv) in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["evaluate", *argv])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A short run of a source, made once."""
    base, made = tmp_path_factory.mktemp("runs"), set()

    def run(source: str, *flags: str) -> str:
        path = base / f"{Path(source).stem}{'-'.join(flags)}"
        if path not in made:
            assert main(["train", source, *flags, "--out", str(path), *FAST]) == 0
            made.add(path)
        return str(path)

    return run


def samples_of(path: str, n: int, seed: int = 0) -> torch.Tensor:
    config = runs.read(Path(path))
    return config.restore(runs.trained(Path(path), config).sample(n, seed=seed))


def test_a_mixture_gets_every_measure_and_fresh_rows(evaluate: Evaluate, folder: Callable[..., str]) -> None:
    path = folder("ring", "--rows", "400")
    code, out, err = evaluate(path, "--n", "300", "--seed", "5", "--out", "report.json")
    assert code == 0 and err == ""
    names = ["modes radius", "modes box", "log likelihood", "of real rows", "discriminator", "nearest rows", "support"]
    assert [line[:15].strip() for line in out.splitlines()] == names
    report: dict[str, Any] = json.loads(Path("report.json").read_text())
    samples, ring = samples_of(path, 300, seed=5), fastgan.data.ring(400)
    assert ring.centres is not None and ring.std is not None
    expected = evaluation.mode_coverage(samples, ring.centres, ring.std)
    assert report["modes_radius"]["covered"] == expected.covered
    assert report["modes_radius"]["reverse_kl"] == pytest.approx(expected.reverse_kl)
    assert sum(report["modes_box"]["counts"]) == 300
    fresh = fastgan.data.ring(400, seed=1).tensor()
    likelihood = report["log_likelihood"]
    parzen = evaluation.parzen_log_likelihood(samples, fresh[200:], sigma=likelihood["sigma"])
    assert likelihood["mean"] == pytest.approx(parzen.mean) and str(parzen) in out
    assert report["of_real_rows"]["mean"] > likelihood["mean"]  # G has hardly begun
    nearest = evaluation.nearest_neighbours(samples, ring)
    assert report["nearest_rows"]["smallest"] == pytest.approx(float(nearest.distance.min()))
    assert report["support"]["neighbours"] == 5 and 0 <= report["support"]["precision"] <= 1


def test_digits_trained_on_some_rows_hold_out_the_rest(evaluate: Evaluate, folder: Callable[..., str]) -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    Image = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")
    path = folder("digits", "--rows", "1500")
    code, out, err = evaluate(path, "--n", "100", "--neighbours", "n.png", "--out", "r.json", "--sigma", "0.3")
    assert code == 0, err
    rest = fastgan.data.digits().tensor()[1500:]
    expected = evaluation.parzen_log_likelihood(samples_of(path, 100), rest[148:], sigma=0.3)
    assert json.loads(Path("r.json").read_text())["log_likelihood"]["mean"] == pytest.approx(expected.mean)
    assert "modes" not in out and out.splitlines()[-1].endswith("n.png")
    digits = fastgan.data.digits()
    assert digits.labels is not None
    balance = evaluation.class_balance(samples_of(path, 100), digits.tensor()[:1500], digits.labels[:1500])
    assert json.loads(Path("r.json").read_text())["classes"]["distance"] == pytest.approx(balance.distance, rel=1e-6)
    assert f"classes         {balance}" in out.splitlines()
    with Image.open("n.png") as image:
        assert float(np.asarray(image.convert("L")).std()) > 5


def test_without_held_out_rows_there_is_no_likelihood(
    evaluate: Evaluate, folder: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("mine", "other"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(60, 3)))
    path = folder(str(tmp_path / "mine.npy"))
    code, out, _ = evaluate(path, "--n", "50")
    assert code == 0 and "needs rows G never saw" in out and "discriminator" not in out and "classes" not in out
    code, out, _ = evaluate(path, "--n", "50", "--held-out", "other.npy")
    assert code == 0 and "nats (sigma" in out and "discriminator" in out
    assert evaluate(path, "--n", "3")[0] == 0  # too few rows for precision and recall


def test_a_table_is_measured_in_standard_deviations(
    evaluate: Evaluate, folder: Callable[..., str], tmp_path: Path
) -> None:
    """Metres or millimetres: the same figures, in which every column counts."""
    reports = []
    for unit in (1.0, 1000.0):
        x = np.random.default_rng(0).normal(size=(2, 200, 3)) * (unit, 1.0, 1.0)
        for name, part in zip(("mine", "held"), x, strict=True):
            np.save(tmp_path / f"{name}{unit:.0f}.npy", part)
        path = folder(str(tmp_path / f"mine{unit:.0f}.npy"))
        argv = ("--n", "150", "--held-out", f"held{unit:.0f}.npy", "--out", "r.json", "--sigma", "0.5")
        code, out, err = evaluate(path, *argv)
        assert code == 0, err
        assert out.startswith("units           standard deviations of each column, from its mean\n")
        reports.append(json.loads(Path("r.json").read_text()))
        config = runs.read(Path(path))
        assert config.columns is not None
        samples, rows, held = (
            config.columns.transform(part)
            for part in (samples_of(path, 150), torch.from_numpy(x[0]), torch.from_numpy(x[1]))
        )
        expected = evaluation.parzen_log_likelihood(samples, held[100:], sigma=0.5)
        assert reports[-1]["log_likelihood"]["mean"] == pytest.approx(expected.mean, rel=1e-5)
        nearest = evaluation.nearest_neighbours(samples, rows)
        assert reports[-1]["nearest_rows"]["median"] == pytest.approx(float(nearest.distance.median()), rel=1e-4)
    for measure, number in (("log_likelihood", "mean"), ("nearest_rows", "median"), ("support", "precision")):
        assert reports[0][measure][number] == pytest.approx(reports[1][measure][number], rel=1e-3), measure
    assert reports[0]["discriminator"]["gap"] == pytest.approx(reports[1]["discriminator"]["gap"], abs=1e-4)


def test_fewer_samples_than_modes_is_said(evaluate: Evaluate, folder: Callable[..., str]) -> None:
    code, out, _ = evaluate(folder("ring", "--rows", "400"), "--n", "5")
    assert code == 0 and "needs a sample for each of the 8 modes: --n 8 or more" in out


def test_the_sigmas_reach_the_scale_of_the_modes(evaluate: Evaluate, folder: Callable[..., str]) -> None:
    path = folder("ring", "--rows", "400")
    evaluate(path, "--n", "300", "--out", "r.json")
    sigma = json.loads(Path("r.json").read_text())["of_real_rows"]["sigma"]
    assert 0.001 < sigma < 0.03 and math.isfinite(sigma)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out", "x.txt"), "--out must end in .json, got 'x.txt'"),
        (("--neighbours", "x.txt"), "--neighbours must end in .png, .svg, .pdf, got 'x.txt'"),
        (("--neighbours", "x.png"), "--neighbours must be used with images, got ring"),
        (("--sigma", "0"), "--sigma must be above 0 and finite, got 0.0"),
        (("--held-out", "digits"), "--held-out must have 2 columns as the data, got 64"),
        (("--held-out", "nothing.npy"), "no data set or file 'nothing.npy'"),
        (("--n", "0"), "--n must be at least 1, got 0"),
    ],
)
def test_a_mistake_ends_in_one_line(
    evaluate: Evaluate, folder: Callable[..., str], flags: tuple[str, ...], message: str
) -> None:
    if "digits" in flags:
        pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    code, out, err = evaluate(folder("ring", "--rows", "400"), *flags)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1
    assert not Path("x.png").exists()


def test_a_folder_that_is_no_run(evaluate: Evaluate) -> None:
    assert evaluate("nowhere") == (2, "", "fastgan evaluate: nowhere is no run folder: it has no config.json\n")
