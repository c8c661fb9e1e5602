"""Very deep networks and very wide tables: work grows with their size, not with its square; counted in calls."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgan
from fastgan import GAN, Best, TrainConfig, _backend, data, nn, train
from fastgan.data import frames

DATA = torch.linspace(-1, 1, 64).reshape(32, 2)


def deep(layers: int) -> GAN:
    return GAN(nn.MLP([2, 2]), nn.MLP([2] * layers + [1]), latent_dim=2)


def trains(engine: str, folder: bool = False) -> Callable[[int, Path], Callable[[], object]]:
    def make(layers: int, path: Path) -> Callable[[], object]:
        gan, config = deep(layers), TrainConfig(2, 8, engine=engine)  # type: ignore[arg-type]
        return lambda: train(gan, DATA, config, run_dir=path / f"{layers}" if folder else None)

    return make


def loads(layers: int, path: Path) -> Callable[[], object]:
    file = deep(layers).save(path / f"{layers}.safetensors")
    return lambda: GAN.load(file)


def restores(layers: int, path: Path) -> Callable[[], object]:
    gan, best = deep(layers), Best(lambda _: 0.0, every=1)
    train(gan, DATA, TrainConfig(1, 8), callbacks=[best])
    return lambda: best.restore(gan)


def takes_columns(columns: int, path: Path) -> Callable[[], object]:
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    file = path / f"{columns}.parquet"
    pd.DataFrame(np.zeros((2, columns)), columns=[f"name {i}" for i in range(columns)]).to_parquet(file)

    def act() -> None:
        table = frames.open_table(file)
        for number in range(columns):
            table.column(number)

    return act


def fuses(layers: int, path: Path) -> Callable[[], object]:
    model = torch.nn.Sequential(*(m for _ in range(layers) for m in (torch.nn.Linear(2, 2), torch.nn.ReLU())))
    return lambda: fastgan.fuse(model)(DATA).sum().backward()


def reads(header: bool) -> Callable[[int, Path], Callable[[], object]]:
    def make(columns: int, path: Path) -> Callable[[], object]:
        file = path / f"{columns}.csv"
        rows = [",".join(f"{x:.3f}" for x in row) for row in np.random.default_rng(0).normal(size=(4, columns))]
        file.write_text("\n".join([",".join(f"name {i}" for i in range(columns))] * header + rows))
        return lambda: data.read(file)

    return make


CASES: dict[str, tuple[Callable[[int, Path], Callable[[], object]], int]] = {
    "train, compiled": (trains("fused"), 100),
    "train, eager": (trains("eager"), 100),
    "train, run folder": (trains("auto", folder=True), 100),
    "save": (lambda layers, path: partial(deep(layers).save, path / "a.safetensors"), 100),
    "load": (loads, 100),
    "the best weights": (restores, 100),
    "fuse": (fuses, 100),
    "read numbers": (reads(False), 1000),
    "read names": (reads(True), 1000),
    "columns of Parquet": (takes_columns, 50),
}


def calls(act: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(act)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CASES)
def test_work_grows_with_the_size(name: str, tmp_path: Path) -> None:
    if "compiled" in name and _backend.native is None:
        pytest.skip("the compiled engine is compiled")
    make, size = CASES[name]
    make(10, tmp_path)()  # imports
    one, four = calls(make(size, tmp_path)), calls(make(4 * size, tmp_path))
    assert one > size and four < 4.4 * one, (one, four)


def test_a_table_that_is_too_wide_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    file = tmp_path / "wide.csv"
    names = [f"name{i}" for i in range(10_001)]
    file.write_text("\n".join([",".join(names), *[",".join(["a"] * len(names))] * 3]))
    with pytest.raises(data.DataError, match="wide.csv must have at most 10,000 columns, got 10,001"):
        fastgan.TableTransformer().fit(file)
    import pandas as pd

    frame = pd.DataFrame(np.zeros((1, len(names))), columns=names)
    with pytest.raises(data.DataError, match="the table must have at most 10,000 columns, got 10,001"):
        fastgan.TableTransformer().fit(frame)


def test_a_network_of_too_many_layers_is_refused_before_anything_runs() -> None:
    """Its description and its checkpoint would take minutes."""
    network = torch.nn.Linear(2, 2)
    network.more = torch.nn.ParameterList(torch.zeros(1) for _ in range(100_000))
    rule = r"gan\.generator must have at most 100,000 parameter tensors, got 100,002"
    with pytest.raises(ValueError, match=rule):
        train(GAN(network, nn.MLP([2, 1]), latent_dim=2), DATA, TrainConfig(1, 8))
