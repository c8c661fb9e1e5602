"""--labels FILE and read(labels=): the classes of rows from a file of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, check_refusal, check_success
from data_files import idx_bytes

from fastgan import data
from fastgan.apps.cli import runs

ROWS = np.random.default_rng(2).normal(size=(24, 3)).astype(np.float32)
LABELS = (np.arange(24) * 7 % 5).astype(np.int64)
TINY = ("--steps", "2", "--batch-size", "4", "--width", "8", "--quiet", "--no-pictures", "--threads", "1")


def write(folder: Path, name: str, labels: np.ndarray = LABELS) -> Path:
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, labels)
    elif name.endswith("ubyte"):
        path.write_bytes(idx_bytes(labels.astype(np.uint8)))
    else:
        path.write_text("\n".join(["class", *map(str, labels.tolist())]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    return tmp_path


@pytest.mark.parametrize("name", ["y.npy", "y.csv", "labels-idx1-ubyte", "column.npy", "whole.npy"])
def test_labels_come_from_a_file_of_their_own(folder: Path, name: str) -> None:
    other = {"column.npy": LABELS[:, None], "whole.npy": LABELS.astype(np.float32)}
    found = data.read("rows.npy", labels=write(folder, name, other.get(name, LABELS)))
    assert found.labels is not None and found.labels.tolist() == LABELS.tolist()
    assert np.array_equal(found.tensor().numpy(), ROWS)
    unknown = data.read("rows.npy", labels=write(folder, "z.npy", np.where(LABELS == 3, -1, LABELS)))
    assert unknown.labels is not None and int(unknown.labels.min()) == -1


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        (LABELS[:23], r"rows.npy must have a label a row \(24\) in y.npy, got 23"),
        (np.stack([LABELS, LABELS], 1), r"y.npy must hold one label a row, got shape \(24, 2\)"),
        (LABELS + 0.5, "y.npy must hold whole numbers, got 0.5 at row 0"),
        (np.where(LABELS == 4, np.nan, LABELS), "y.npy must hold whole numbers, got nan at row 2"),
        (LABELS - 2, "y.npy must hold labels from -1 to 2147483647, got -2 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_sentence(folder: Path, labels: np.ndarray, rule: str) -> None:
    write(folder, "y.npy", labels)
    with pytest.raises(data.DataError, match=rule) as caught:
        data.read("rows.npy", labels="y.npy")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file of labels: nowhere.npy"):
        data.read("rows.npy", labels="nowhere.npy")


def test_the_command_line_trains_by_them(run: Run, folder: Path) -> None:
    write(folder, "y.csv")
    check_success(run("train", "rows.npy", "--labels", "y.csv", "--conditional", *TINY, "--out", "r"))
    config = runs.read(Path("r"))
    assert config.networks.classes == 5 and config.read == {"labels": str(folder / "y.csv")}
    again = config.load_data()
    kept = [label for label in (again.labels.tolist() if again.labels is not None else [])]
    assert len(kept) == 22 and set(kept) == set(range(5))  # two rows are held out
    check_success(run("sample", "r", "--labels", "3", "--n", "4", "--out", "x.npy"))
    assert np.load("x.npy").shape == (4, 3)
    check_success(run("evaluate", "r", "--n", "20", "--sigma", "0.5"))
    check_success(run("train", "--config", "r/config.json", "--out", "twin", "--quiet", "--no-pictures"))
    assert json.loads(Path("twin/config.json").read_text()) == json.loads(Path("r/config.json").read_text())


def test_moved_labels_are_compared_when_a_run_goes_on(run: Run, folder: Path) -> None:
    write(folder, "y.npy")
    check_success(run("train", "rows.npy", "--labels", "y.npy", "--conditional", *TINY, "--out", "r"))
    Path("y.npy").rename("moved.npy")
    resume = ("train", "--resume", "--out", "r", "--quiet", "--no-pictures", "--steps", "3")
    check_refusal(run(*resume), f"no such file of labels: {folder / 'y.npy'}")
    write(folder, "others.npy", (LABELS + 1) % 5)
    check_refusal(run(*resume, "--labels", "others.npy"), "must hold the rows that the run was trained on, got others")
    check_success(run(*resume, "--labels", "moved.npy"))
    assert runs.read(Path("r")).read == {"labels": str(folder / "moved.npy")}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("train digits --labels y.npy", "--labels must be used with a file, got digits"),
        ("train mnist --labels y.npy", "--labels must be used with a file, got mnist"),
        ("train rows.npy --labels nowhere", "/nowhere"),
        ("train rows.npy --conditional", "or a file with --labels), got rows.npy"),
        ("train rows.npy --tabular --labels y.npy", "--labels must be left out"),
        ("train empty", "empty must"),
        ("train notes", "notes must"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, folder: Path, argv: str, message: str) -> None:
    write(folder, "y.npy")
    Path("empty").mkdir()
    Path("notes").mkdir()
    Path("notes/readme.txt").write_text("no image")
    check_refusal(run(*argv.split()), message)
    assert not Path("runs").exists()
