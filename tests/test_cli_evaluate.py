"""fastgan evaluate: which measures a run gets, and that they are cuBLAS's."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success

import fastgan
from fastgan import evaluation
from fastgan.apps.cli import main, runs

FAST = ("--batch-size", "20", "--width", "8", "--steps", "20", "--quiet", "--no-pictures")


@pytest.fixture
def evaluate(run: Run) -> Run:
    return functools.partial(run, "evaluate")


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


def test_a_mixture_gets_every_measure_and_fresh_rows(evaluate: Run, folder: Callable[..., str]) -> None:
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


def test_digits_trained_on_some_rows_hold_out_the_rest(evaluate: Run, folder: Callable[..., str]) -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    Image = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")
    path = folder("digits", "--rows", "1500")
    out = check_success(evaluate(path, "--n", "100", "--neighbours", "n.png", "--out", "r.json", "--sigma", "0.3"))
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


def test_rows_are_held_out_by_default(evaluate: Run, folder: Callable[..., str], tmp_path: Path) -> None:
    rows = np.arange(180.0).reshape(60, 3) / 180
    np.save(tmp_path / "mine.npy", rows)
    path = folder(str(tmp_path / "mine.npy"))
    code, out, _ = evaluate(path, "--n", "50")
    assert code == 0 and "needs rows" not in out and "\ndiscriminator " in out and "a gap of" in out
    config = runs.read(Path(path))
    held_out = config.held_out_part()
    assert config.held_out == len(held_out) == 6
    seen, kept = ({float(row[0]) for row in part.tensor()} for part in (config.load_data(), held_out))
    assert seen | kept == set(rows[:, 0]) and not seen & kept
    assert kept != set(rows[-6:, 0])  # files may be sorted
    np.testing.assert_allclose(config.columns.mean, config.load_data().tensor().mean(0))  # of rows trained on alone


@pytest.mark.parametrize(
    ("flags", "held_out"), [((), 179), (("--rows", "1000"), 0), (("--rows", "1000", "--hold-out", "0.2"), 200)]
)
def test_how_many_digits_are_held_out(folder: Callable[..., str], flags: tuple[str, ...], held_out: int) -> None:
    pytest.importorskip("sklearn")
    config = runs.read(Path(folder("digits", *flags)))
    assert config.held_out == held_out
    rest = config.held_out_part()
    assert rest is not None and len(rest) == (held_out or 797)
    assert len(config.load_data()) + held_out == (config.n or 1797)


def test_a_folder_with_test_files_holds_nothing_back(tmp_path: Path) -> None:
    for name, n in (("train", 40), ("t10k", 10)):
        header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (n, 4, 4))
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + bytes(16 * n))
    assert runs.has_test_files(str(tmp_path)) and not runs.has_test_files("digits")
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path), "--out", out, *FAST]) == 0
    assert runs.read(Path(out)).held_out == 0


def test_a_share_of_one_row(run: Run) -> None:
    pytest.importorskip("sklearn")
    says = "--hold-out must be 0, or 2 or more of the 1797 rows, got 0.001"
    check_refusal(run("train", "digits", "--hold-out", "0.001", *FAST), says)


def test_without_held_out_rows_there_is_no_likelihood(
    evaluate: Run, folder: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("mine", "other"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(60, 3)))
    path = folder(str(tmp_path / "mine.npy"), "--hold-out", "0")
    code, out, _ = evaluate(path, "--n", "50")
    assert code == 0 and "needs rows G never saw" in out and "discriminator" not in out and "classes" not in out
    code, out, _ = evaluate(path, "--n", "50", "--held-out", "other.npy")
    assert code == 0 and "nats (sigma" in out and "discriminator" in out
    assert evaluate(path, "--n", "3")[0] == 0  # too few rows for precision and recall


def test_a_table_is_measured_in_standard_deviations(evaluate: Run, folder: Callable[..., str], tmp_path: Path) -> None:
    """Metres or millimetres: the same figures, in which every column counts."""
    reports = []
    for unit in (1.0, 1000.0):
        x = np.random.default_rng(0).normal(size=(2, 200, 3)) * (unit, 1.0, 1.0)
        for name, part in zip(("mine", "held"), x, strict=True):
            np.save(tmp_path / f"{name}{unit:.0f}.npy", part)
        path = folder(str(tmp_path / f"mine{unit:.0f}.npy"))
        argv = ("--n", "150", "--held-out", f"held{unit:.0f}.npy", "--out", "r.json", "--sigma", "0.5")
        out = check_success(evaluate(path, *argv))
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


def test_fewer_samples_than_modes_is_said(evaluate: Run, folder: Callable[..., str]) -> None:
    code, out, _ = evaluate(folder("ring", "--rows", "400"), "--n", "5")
    assert code == 0 and "needs a sample for each of the 8 modes: --n 8 or more" in out


def test_the_sigmas_reach_the_scale_of_the_modes(evaluate: Run, folder: Callable[..., str]) -> None:
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
    evaluate: Run, folder: Callable[..., str], flags: tuple[str, ...], message: str
) -> None:
    if "digits" in flags:
        pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    check_refusal(evaluate(folder("ring", "--rows", "400"), *flags), message)
    assert not Path("x.png").exists()


def test_a_folder_that_is_no_run(evaluate: Run) -> None:
    assert evaluate("nowhere") == (2, "", "fastgan evaluate: nowhere is no run folder: it has no config.json\n")
