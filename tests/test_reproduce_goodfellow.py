"""fastgan reproduce goodfellow2014: recipes of the paper's code, the user's files, and the Parzen table."""

from __future__ import annotations

import functools
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import need
from command_line import Run, check_refusal, check_success

import fastgan
from fastgan.apps.cli import main, reproduce_goodfellow
from fastgan.apps.reproduce import goodfellow2014 as paper

FAST = ("--quiet", "--no-pictures", "--epochs", "1")


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(paper, "SAMPLES", 200)
    return functools.partial(run, "reproduce", "goodfellow2014")


def idx_files(folder: Path, train: int = 720, test: int = 100) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, n in (("train", train), ("t10k", test)):
        pixels = rng.integers(0, 256, (n, 28, 28), np.uint8)
        header = struct.pack(">IIII", 0x00000803, n, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    return folder


def layers(network: torch.nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in network.parameters() if p.ndim == 2]


def test_M71_the_recipes_are_the_original_codes() -> None:
    rows = torch.rand(6, 784)
    ((_, gan, _, config),) = paper._RECIPES["mnist"][1](rows)
    assert layers(gan.generator) == [(1200, 100), (1200, 1200), (784, 1200)] and gan.prior == "uniform"
    assert layers(gan.discriminator) == [(1200, 784), (1200, 240), (1, 240)]
    momentum = config.optimizer
    assert isinstance(momentum, fastgan.Momentum) and momentum.learning_rate(0) == 0.1
    assert momentum.convention == "pylearn2" and momentum.momentum_at(250) == 0.7
    assert (config.batch_size, config.mode, config.max_col_norm) == (100, "simultaneous", None)


def test_M71_the_wide_recipes_are_the_original_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """TFD and CIFAR-10, whose nets have a hundred million parameters, on the device that holds none."""
    monkeypatch.setattr(fastgan.nn.init, "output_bias_from_data", lambda layer, data: layer)
    with torch.device("meta"):
        monkeypatch.setattr(fastgan.nn.init, "sparse_", lambda weight, nonzeros: weight)
        first, second = paper._RECIPES["tfd"][1](torch.rand(6, 2304))
        ((_, cifar, _, of_cifar),) = paper._RECIPES["cifar10"][1](torch.rand(6, 3072))
    wide = [(8000, 100), (8000, 8000), (2304, 8000)]
    assert layers(first[1].generator) == wide and (first[0], first[2]) == ("pretrain", 50)
    assert layers(second[1].generator) == [(8000, 100), (100, 8000), *wide] and (second[0], second[2]) == ("train", 22)
    shared = {id(p) for p in first[1].generator.parameters()}
    assert shared < {id(p) for p in second[1].generator.parameters()}
    assert layers(second[1].discriminator) == [(6000, 2304), (6000, 1200), (1, 1200)]
    assert first[3].max_col_norm == 1.9365 and first[3].optimizer.learning_rate(0) == 0.05
    assert layers(cifar.generator) == [(8000, 100), (8000, 8000), (3072, 8000)]
    assert layers(cifar.discriminator) == [(8000, 3072), (8000, 1600), (1, 1600)]
    assert of_cifar.optimizer.learning_rate(0) == 0.025 and cifar.prior == "normal"


def test_M71_mnist_files_give_the_papers_rows_and_fastgans(run: Run) -> None:
    need("native", "mlp")  # whose engine is named
    folder = idx_files(Path("mine"))
    out = check_success(run("--dataset", "mnist", "--data", str(folder), *FAST, "--out", "a"))
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["DBN", "Stacked", "Deep"]
    assert "225.0 +- 2.0" in out and " SE" in out and "within 2" not in out  # one epoch is not the paper's experiment
    assert "engine cpu" in out and "6 iterations" in out
    body = json.loads(Path("a/table.json").read_text())
    assert body["iterations"] == 6 and body["samples"] == 200  # 600 of 720 rows train, 100 at a time
    again = run("--dataset", "mnist", "--data", str(folder), *FAST, "--out", "a", "--resume")
    assert again[0] == 0 and again[1] == out


def test_M70_the_measure_is_that_of_the_evaluation(run: Run) -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    code, out, err = run("--out", "a", "--quiet", "--epochs", "1")
    assert code == 0, err
    split = paper.load("digits", None)
    (stage,) = paper.plan("digits", split, Path("a"), epochs=1)
    assert stage.train(split).step == 12
    assert "digits, SHORTENED: train 1 of 1,700 epochs: " in out.splitlines()[0] and not err
    samples = stage.gan.sample(200, seed=1)
    figures = json.loads(Path("a/table.json").read_text())
    own = fastgan.evaluation.parzen_log_likelihood(samples, split.test, sigma=figures["sigma"])
    assert figures["rows"][0]["figures"][paper.COLUMN]["mean"] == pytest.approx(own.mean, abs=1e-9)
    assert all((Path("a") / name).stat().st_size > 1000 for name in ("samples.png", "nearest.png"))


def test_M71_the_rows_of_cifar10_and_of_the_faces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("data_batch_1.bin", 400), ("data_batch_2.bin", 350), ("test_batch.bin", 20)):
        records = rng.integers(0, 256, (n, 3073), np.uint8)
        records[:, 0] %= 10
        (tmp_path / name).write_bytes(records.tobytes())
    split = paper.load("cifar10", tmp_path)
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [600, 150, 20]
    assert split.test.norm(dim=1).numpy() == pytest.approx(55.0, rel=1e-5) and split.image_shape == (32, 32)
    low, high = paper.value_range(split)
    assert -4 < low < 0 < high == -low
    for shape in ((48, 48), (2304,)):
        for name, n in (("train", 600), ("valid", 30), ("test", 20)):
            np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (n, *shape), np.uint8))
        split = paper.load("tfd", tmp_path)
        assert split.train.shape == (600, 2304) and len(split.validation) == 30 and len(split.test) == 20
        assert paper.value_range(split) == (0.0, 1.0) and split.train.max() == 1


def test_the_cost_of_the_whole_is_said_before_it_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise ValueError("before training")

    monkeypatch.setattr(paper.Stage, "train", stop)
    _, _, err = run("--out", "a")
    first, last = err.strip().splitlines()
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"to train: train 1,700 of 1,700 epochs, 20,400 iterations of {number} ms: about {number} (seconds|minutes), "
        "less what --resume finds done", first
    ), first  # fmt: skip
    assert "before training" in last


@pytest.mark.parametrize("epochs, text", [(1, "1 of 1,700"), (1700, "1,700 of 1,700"), (2000, "2,000")])
def test_the_length_of_a_longer_run_is_no_part_of_the_recipe(epochs: int, text: str, tmp_path: Path) -> None:
    (stage,) = paper.plan("digits", paper.load("digits", None), tmp_path, epochs=epochs)
    assert reproduce_goodfellow._length(stage) == f"train {text} epochs"


def test_the_papers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("pacgan", "goodfellow2014", "unrolled", "costs"))


def test_contrast_normalisation_is_pylearn2s() -> None:
    rows = torch.rand(5, 3072)
    normalised = paper._contrast_normalised(torch.cat([rows, torch.full((1, 3072), 0.5)]))
    x = rows.numpy() - rows.numpy().mean(1, keepdims=True)
    expected = x / (np.sqrt((x**2).sum(1, keepdims=True)) / 55.0)
    assert np.allclose(normalised[:5].numpy(), expected, atol=1e-5)
    assert normalised[5].abs().max() == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--dataset", "mnist"), "--data must be the folder of MNIST's four IDX files, or train.npy and test.npy"),
        (("--data", "empty"), "--data must be left out for digits, got empty"),
        (("--dataset", "mnist", "--data", "nowhere"), "nowhere is no folder; it must hold MNIST's four IDX files"),
        (("--dataset", "mnist", "--data", "empty"), "empty must hold MNIST's four IDX files"),
        (("--dataset", "tfd", "--data", "empty"), "empty/train.npy is missing; empty must hold train.npy"),
        (("--dataset", "cifar10", "--data", "mine"), "a row of train in mine must have 3072 numbers, got 784"),
        (("--dataset", "mnist", "--data", "few"), "train in few must have at least 600 rows, got 60"),
        (("--dataset", "mnist", "--data", "large"), "train in large must lie in [0, 1], or in 0 to 255 as bytes"),
        (("--dataset", "imagenet"), "--dataset"),
        (("--out", "full"), "--out must be new or empty, or be resumed with --resume, got full"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    idx_files(Path("mine"))
    idx_files(Path("few"), train=60)
    for name in ("empty", "full", "large"):
        Path(name).mkdir()
    Path("full/x").touch()
    np.save("large/train.npy", np.full((700, 784), 7.0, np.float32))
    check_refusal(run(*argv), message)


@pytest.mark.slow
def test_M71_digits_come_near_the_likelihood_of_real_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "SAMPLES", 10_000)
    check_success(run("--quiet", "--no-pictures", "--out", "a"))
    own, real = json.loads(Path("a/table.json").read_text())["rows"]
    assert own["figures"][paper.COLUMN]["mean"] > real["figures"][paper.COLUMN]["mean"] - 4
