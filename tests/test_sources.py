"""Data of other kinds: each trains what the same rows in a Tensor train, or what the loader's own order gives."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_plugins import DATA, SGD, SIZE, STEPS, config, distance, moved, new_gan, plain_torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fastgan import GAN, _backend, models
from fastgan.training import Momentum, TrainConfig, train, train_population

LABELS = torch.arange(40) % 2


class Samples(Dataset[Any]):
    """Map-style: a row and its label."""

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return DATA[i], int(LABELS[i])


class Minibatches:
    """The protocol of rows by number."""

    def __len__(self) -> int:
        return len(DATA)

    def rows(self, index: Tensor) -> Tensor:
        return DATA[index]


class Stored:
    """An array of another library, as of h5py or zarr: shape, rows by number, iteration."""

    shape = tuple(DATA.shape)

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, i: int) -> np.ndarray:
        return DATA[i].numpy()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(DATA.numpy())


class ScalarRows(Samples):
    def __getitem__(self, i: int) -> Any:
        return DATA[i, 0]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        return (DATA[i % 40] for i in range(1000))


def memory_mapped(folder: Path) -> np.ndarray:
    table = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float64, shape=tuple(DATA.shape))
    table[:] = DATA.numpy()
    table.flush()
    return np.load(folder / "x.npy", mmap_mode="r")


def frame() -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(DATA.numpy(), columns=["a", "b", "c"])


BY_NUMBER: dict[str, tuple[Any, str]] = {
    "array": (lambda folder: DATA.numpy(), "cpu"),
    "memory-mapped array": (memory_mapped, "cpu"),
    "DataFrame": (lambda folder: frame(), "cpu"),
    "TensorDataset": (lambda folder: TensorDataset(DATA), "cpu"),
    "TensorDataset with labels": (lambda folder: TensorDataset(DATA, LABELS), "cpu"),
    "map-style dataset": (lambda folder: Samples(), "eager"),
    "array of another library": (lambda folder: Stored(), "eager"),
    "rows(index)": (lambda folder: Minibatches(), "eager"),
}


@pytest.mark.parametrize("name", BY_NUMBER)
def test_data_by_number_train_what_a_tensor_trains(name: str, tmp_path: Path) -> None:
    make, engine = BY_NUMBER[name]
    gan, one = new_gan(), config(optimizer=Momentum(0.1))
    result = train(gan, make(tmp_path), one)
    assert result.engine == (engine if _backend.native else "eager")
    assert distance(gan, plain_torch(SGD)) < 1e-10 < moved(gan)
    train(again := new_gan(), make(tmp_path), config(optimizer=Momentum(0.1), steps=5), run_dir=tmp_path / "run")
    train(again, make(tmp_path), one, run_dir=tmp_path / "run", resume=True)
    assert distance(gan, again) == 0.0


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Samples(), SIZE, shuffle=True, generator=torch.Generator().manual_seed(7), **options)


def in_order(size: int = SIZE) -> Iterator[Tensor]:
    for it in range(STEPS + 1):
        yield DATA[it % 5 * 8 :][:size]


STREAMS: dict[str, Any] = {
    "DataLoader": loader,
    "DataLoader, two workers": lambda: loader(num_workers=2, persistent_workers=True),
    "IterableDataset": Endless,
    "generator": in_order,
    "generator of arrays": lambda: (batch.numpy() for batch in in_order()),
    "generator of tuples": lambda: ((batch, None) for batch in in_order()),
}


def batches(name: str) -> Iterator[Tensor]:
    """What a plain loop would see."""
    if not name.startswith("DataLoader"):
        yield from in_order()
    own = STREAMS[name]()
    while True:
        yield from (x for x, _ in own)


def plain_stream(name: str) -> GAN:
    seen = batches(name)
    return plain_torch(SGD, rows=lambda draw: next(seen))


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_trains_in_its_own_order(name: str) -> None:
    gan = new_gan()
    result = train(gan, STREAMS[name](), config(optimizer=Momentum(0.1)))
    reason = "rows must be read one batch at a time" if _backend.native else "FASTGAN_DISABLE_NATIVE is set"
    assert result.engine == "eager" and reason in result.engine_reason
    assert distance(gan, plain_stream(name)) < 1e-10 < moved(gan)


def test_the_workers_of_a_loader_end_with_the_run() -> None:
    before = set(multiprocessing.active_children())
    for persistent in (False, True):
        train(new_gan(), loader(num_workers=2, persistent_workers=persistent), config(steps=2))
    assert set(multiprocessing.active_children()) <= before


LATE = """
import os, signal
import torch, fastgan

class Asked(torch.utils.data.Dataset):
    def __len__(self): return 1 << 20
    def __getitem__(self, i): return torch.zeros(2)

calls = []
def interrupt(*_):
    calls.append(1)
    if len(calls) == 40: os.killpg(0, signal.SIGINT)

os.setpgid(0, 0)
loader = torch.utils.data.DataLoader(Asked(), 8, num_workers=2, prefetch_factor=1, multiprocessing_context="fork")
gan = fastgan.models.mlp_gan(2, latent_dim=2, hidden=(8,))
gan.discriminator.register_forward_pre_hook(interrupt)
print(fastgan.train(gan, loader, fastgan.TrainConfig(steps=100, batch_size=8, k=500)).step)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_ctrl_c_in_a_terminal_ends_a_run_and_not_its_workers() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_short_last_batch_is_dropped_and_epochs_go_on() -> None:
    data = [DATA[:8], DATA[8:16], DATA[16:19]]

    class Passes:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(data)

    gan = new_gan()
    train(gan, Passes(), config(optimizer=Momentum(0.1)))
    assert distance(gan, plain_torch(SGD, rows=lambda draw: data[draw % 2])) < 1e-10


def test_labels_of_datasets_reach_a_conditional_gan() -> None:
    trained = []
    for data in (TensorDataset(DATA, LABELS), Samples()):
        torch.manual_seed(0)
        gan = models.mlp_gan(3, latent_dim=2, hidden=(4,), classes=2)
        train(gan, data, config(engine="eager"))
        trained.append(gan)
    assert distance(*trained) == 0.0


# ---------------------------------------------------------------- bad input

BAD: dict[str, Any] = {
    "gan.generator must give samples of the data's shape (2,), got (3,)": lambda: (x[:, :2] for x in in_order()),
    "data must give batches of 8 rows for every draw, got none from a generator": lambda: iter(()) and (x for x in ()),
    "got one of 4 from a DataLoader": lambda: DataLoader(Samples(), 4),
    "got one of 10 from a DataLoader": lambda: DataLoader(Samples(), 10),
    "got one of 5 from a generator": lambda: in_order(5),
    "data must be floating point, got torch.int64 from a generator": lambda: (x.long() for x in in_order()),
    "data must give Tensors or arrays, got dict": lambda: ({"x": x} for x in in_order()),
    "data must give batches of shape (m, ...), got (8,)": lambda: (x[:, 0] for x in in_order()),
    "data must have at least one row": lambda: TensorDataset(DATA[:0]),
    "data must give Tensors or arrays, got dict of 'x', 'y': give the rows alone": lambda: DataLoader(
        [{"x": x, "y": 1} for x in DATA], SIZE
    ),
    "data must be a Tensor, a numpy array, a dataset, a DataLoader or a generator of batches, got list: torch.stack": (
        lambda: [DATA[:8]]
    ),
    "or a generator of batches, got function: call it": lambda: in_order,
    "or a generator of batches, got str: fastgan.data.read reads a file": lambda: "ring",
    "data must be dense, got a Tensor of torch.sparse_coo: to_dense() gives one": lambda: DATA.to_sparse(),
    "data must be numbers, got an array of <U1": lambda: np.array([["a", "b", "c"]] * 40),
    "data must have features, got rows of shape ()": lambda: ScalarRows(),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data_are_one_sentence(message: str) -> None:
    gan = new_gan()
    with pytest.raises((TypeError, ValueError)) as caught:
        train(gan, BAD[message](), config())
    assert message in str(caught.value) and "\n" not in str(caught.value) and moved(gan) == 0.0


def test_a_frame_with_words_is_named() -> None:
    table = frame()
    table["b"] = "word"
    with pytest.raises(TypeError, match="data must have columns of numbers, got column 'b' of"):
        train(new_gan(), table, config())


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_row_that_came_unchecked_and_is_not_finite_is_named(size: int | None, value: str) -> None:
    """With the number of its draw; `nonfinite` decides what happens, as for every other loss."""
    flawed = DATA.clone()
    flawed[20] = float(value)  # in order, of the third batch
    data = [(row, 0) for row in flawed]
    loader: Any = DataLoader(data, size) if size else Subset(data, range(40))  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match=r"a NaN or an infinity came with draw [1-5] of the data; there"):
        train(new_gan(), loader, config())
    if size:
        with pytest.raises(FloatingPointError, match="at iteration 3; a NaN or an infinity came with draw 3 of the"):
            train(new_gan(), loader, config())
    train(gan := new_gan(), loader, config(nonfinite="skip"))
    assert all(bool(torch.isfinite(p).all()) for p in gan.parameters()) and moved(gan) > 0.0


def test_a_conditional_gan_asks_for_the_dataset_of_a_loader() -> None:
    rule = "must have rows by number where labels are needed: a dataset of (row, label), such as loader.dataset"
    with pytest.raises(ValueError, match=re.escape(f"data {rule}, got a DataLoader")):
        train(models.mlp_gan(3, latent_dim=2, hidden=(4,), classes=2).double(), loader(), config())


def test_a_generator_that_ends_or_changes_its_width_says_when() -> None:
    with pytest.raises(ValueError, match="for every draw, got no more after 3 from a generator"):
        train(new_gan(), (DATA[:8] for _ in range(3)), config())
    widths = (DATA[:8, : 3 - (i == 4)] for i in range(STEPS))
    with pytest.raises(ValueError, match=re.escape("rows of shape (3,), got (2,) after 4 batches")):
        train(new_gan(), widths, config())


def test_a_stream_is_neither_resumed_nor_shared(tmp_path: Path) -> None:
    train(new_gan(), loader(), config(steps=3), run_dir=tmp_path)
    with pytest.raises(ValueError, match="must have rows by number to resume, got a DataLoader: its batches are gone"):
        train(new_gan(), loader(), config(), run_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="must have rows by number, got a DataLoader: members share no stream"):
        train_population(lambda seed: new_gan(), loader(), config(), seeds=[1, 2])


@pytest.mark.parametrize("columns", [{"b": [True, False] * 20}, {"b": range(40)}, {"b": [0.5] * 39 + [1.0]}])
def test_a_frame_of_any_numbers_trains(columns: dict[str, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": range(40), "c": range(40)} | columns)
    gan = GAN(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1), latent_dim=2).double()
    assert train(gan, table, TrainConfig(2, 8)).step == 2
