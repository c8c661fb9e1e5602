"""fastgan train --conditional: a run that knows labels, and every command that looks at it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success

from fastgan import data, plots
from fastgan.apps.cli import labels, main, runs
from fastgan.training import checkpoint

pytest.importorskip("matplotlib", reason="a run draws pictures")
pytest.importorskip("sklearn", reason="digits come with scikit-learn")

TINY = ("--rows", "200", "--batch-size", "20", "--width", "8", "--quiet", "--no-pictures", "--threads", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conditional runs that tests only read: digits and ring of some iterations, and a ring without labels."""
    folder = tmp_path_factory.mktemp("conditional")
    for name in ("digits", "ring"):
        argv = ("train", name, "--conditional", *TINY, "--steps", "12", "--out", str(folder / name))
        assert main(argv) == 0
    assert main(["train", "ring", *TINY, "--steps", "2", "--out", str(folder / "plain")]) == 0
    return folder


def drawn(run: Run, folder: Path, *argv: str) -> np.ndarray:
    check_success(run("sample", str(folder), "--out", "x.npy", *argv))
    return np.load("x.npy")


def test_M57_the_networks_of_a_run_see_labels(folders: Path) -> None:
    config = runs.read(folders / "digits")
    assert config.networks.classes == 10
    gan = runs.trained(folders / "digits", config)
    assert gan.classes == 10 and gan.generator[0].in_features == 32 + 10 and gan.discriminator[0].in_features == 64 + 10
    untrained = config.build()
    for network, first in (("generator", 32), ("discriminator", 64)):  # the label's columns have moved
        now, before = (getattr(x, network)[0].weight[:, first:] for x in (gan, untrained))
        assert (now != before).any(0).all()


def test_M57_labels_survive_standardisation_and_a_resumed_run_has_the_same_bits(run: Run, folders: Path) -> None:
    assert runs.read(folders / "ring").columns is not None
    assert run("train", "ring", "--conditional", *TINY, "--steps", "5", "--out", "parts")[0] == 0
    assert run("train", "--resume", "--conditional", "--out", "parts", "--steps", "12", *TINY[-4:])[0] == 0
    whole, parts = (checkpoint.load(path).tensors for path in (folders / "ring", Path("parts")))
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_M57_samples_have_the_requested_labels_in_turn(run: Run, folders: Path) -> None:
    digits = folders / "digits"
    gan = runs.trained(digits, runs.read(digits))
    every = gan.sample(9, seed=1, labels=torch.tensor([3, 7, 3, 7, 3, 7, 3, 7, 3])).numpy()
    assert np.array_equal(drawn(run, digits, "--labels", "3,7", "--n", "9", "--seed", "1"), every)
    assert np.array_equal(drawn(run, digits, "--labels", "3,7", "--n", "4", "--offset", "5", "--seed", "1"), every[5:])
    assert np.array_equal(drawn(run, digits, "--n", "12"), gan.sample(12, labels=torch.arange(12) % 10).numpy())
    assert not np.array_equal(drawn(run, digits, "--labels", "4", "--n", "12"), drawn(run, digits, "--n", "12"))


def test_M57_a_picture_has_a_row_for_each_class_beside_real_ones(
    run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}

    def image_grid(samples: torch.Tensor, real: torch.Tensor, path: Path, **options: object) -> Path:
        shown.update(samples=samples, real=real, names=options.get("names"))
        return path

    monkeypatch.setattr(plots, "image_grid", image_grid)
    digits = folders / "digits"
    gan, rows = runs.trained(digits, runs.read(digits)), data.digits().head(200)
    assert run("sample", str(digits), "--labels", "5,2", "--n", "7", "--offset", "3", "--out", "x.png")[0] == 0
    assert shown["names"] == ["2", "5"]
    asked = torch.tensor([2, 5, 2, 5, 2, 5, 2])  # samples 3 to 9 of 5, 2, 5, 2, ...
    made = gan.sample(7, offset=3, labels=asked)
    assert torch.equal(shown["samples"], torch.cat([made[asked == 2][:3], made[asked == 5][:3]]))
    assert rows.labels is not None
    for row, label in enumerate((2, 5)):
        of_label = rows.tensor()[rows.labels == label]
        assert all((of_label == image).all(1).any() for image in shown["real"][3 * row : 3 * row + 3])
    assert run("sample", str(digits), "--labels", "5", "--out", "x.png")[0] == 0
    assert shown["names"] is None and len(shown["samples"]) == 64
    assert run("plot", str(digits), "--out", "again")[0] == 0
    assert shown["names"] == list("0123456789") and len(shown["samples"]) == len(shown["real"]) == 80


def mnist(labels: list[int]) -> None:
    """A folder in MNIST's naming: grey 2 x 2 images."""
    Path("grey").mkdir()
    for name, shape in (("images-idx3", (len(labels), 2, 2)), ("labels-idx1", (len(labels),))):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        content = labels if len(shape) == 1 else range(4 * len(labels))
        (Path("grey") / f"train-{name}-ubyte").write_bytes(header + bytes(content))


def test_M57_a_class_of_few_rows_or_none_leaves_blanks(run: Run) -> None:
    mnist([0, 2, 2, 4, 4, 4])
    argv = ("--steps", "1", "--batch-size", "2", "--width", "4", "--quiet", "--out", "few")
    check_success(run("train", "grey", "--conditional", *argv))
    assert runs.read(Path("few")).networks.classes == 5
    assert Path("few/samples.png").stat().st_size > 1000
    check_success(run("sample", "few", "--labels", "1", "--out", "y.png"))
    assert Path("y.png").stat().st_size > 1000
    Path("grey/train-labels-idx1-ubyte").unlink()
    for command in ("evaluate few", "plot few", "sample few --out x.png", "train --resume --out few --steps 2"):
        check_refusal(run(*command.split()), "grey must have the labels that the run was trained with, got none")


@pytest.mark.parametrize("name", ["neighbours", "interpolation", "animation"])
def test_M57_the_other_pictures_are_drawn(run: Run, folders: Path, name: str) -> None:
    check_success(run("plot", name, str(folders / "digits"), "--out", "x.gif" if name == "animation" else "x.png"))


def test_M57_evaluate_says_whether_samples_have_their_labels(run: Run, folders: Path) -> None:
    out = check_success(run("evaluate", str(folders / "ring"), "--n", "500", "--out", "x.json"))
    assert "of samples are nearest to a row of the requested label" in out and "\ndiscriminator" not in out
    ring = runs.read(folders / "ring").load_data()
    assert ring.labels is not None and ring.centres is not None
    config = runs.read(folders / "ring")
    asked = ring.labels[torch.arange(500) * 200 // 500]
    samples = config.restore(runs.trained(folders / "ring", config).sample(500, labels=asked))
    right = (ring.labels[torch.cdist(samples, ring.tensor()).argmin(1)] == asked).double().mean().item()
    assert json.loads(Path("x.json").read_text())["labels"]["right"] == pytest.approx(right, abs=0.005)
    assert "labels" not in run("evaluate", str(folders / "plain"), "--n", "100")[1]


def test_M57_a_population_may_be_conditional(run: Run) -> None:
    assert run("train", "ring", "--conditional", "--seeds", "0:2", *TINY, "--steps", "2", "--out", "many")[0] == 0
    assert drawn(run, Path("many/member-0001"), "--labels", "2", "--n", "3").shape == (3, 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("train ring_map --conditional", "--conditional must be used with data that have labels (digits, ring,"),
        (
            "train table.csv --conditional",
            "digits, ring, grid, gaussians, mixture1200d, MNIST's or CIFAR-10's files, or a file with --labels",
        ),
        ("train --resume --out {}/plain --conditional", "--conditional must be False as in"),
        ("sample {}/plain --labels 1 --out x.npy", "--labels must be left out for a run without --conditional, got 1"),
        ("sample {}/digits --labels 1,10 --out x.npy", "--labels must lie in 0 to 9, got 1,10"),
        ("sample {}/digits --labels three --out x.npy", "--labels must be as 0:32 or 1,5,9, got 'three'"),
        ("plot discriminator {}/ring", "must have no labels for the picture discriminator, got a run with --cond"),
    ],
)
def test_M57_a_mistake_ends_in_one_line(run: Run, folders: Path, argv: str, message: str) -> None:
    Path("table.csv").write_text("1,2\n3,4\n")
    check_refusal(run(*argv.format(folders).split()), message)
    assert not Path("runs").exists() and not Path("x.npy").exists()


def test_M57_labels_that_do_not_count_from_0_are_refused(run: Run) -> None:
    mnist(list(range(1, 21)))
    rule = "--conditional must be used with a row or more for each class, got 20 rows for labels up to 20"
    check_refusal(run("train", "grey", "--conditional"), rule)
    with pytest.raises(ValueError, match="labels from 0 up, one a class, got -1 to 3"):
        labels.classes_of(data.Dataset(torch.zeros(5, 2), labels=torch.arange(-1, 4)), "a test")


def test_M57_few_rows_have_all_the_classes_there_are_and_each_can_be_drawn(run: Run) -> None:
    """Six rows of the ring show five of its eight modes, and neither 3 nor the last."""
    argv = ("--width", "4", "--steps", "1", "--quiet", "--threads", "1", "--no-pictures")
    for rows in ("4", "6"):
        argv_of = ("train", "ring", "--conditional", "--rows", rows, "--batch-size", "4", "--out", rows, *argv)
        check_success(run(*argv_of))
        assert runs.read(Path(rows)).networks.classes == 8
    assert set(data.ring(6).labels.tolist()) == {0, 1, 2, 4, 5}  # type: ignore[union-attr]
    for label in ("3", "7", "2,3"):
        check_success(run("sample", "6", "--labels", label, "--out", "x.png"))
    assert labels.classes_of(data.digits().head(4), "digits") == 10
