"""The table of docs/bring-your-own.md: `python tests/plugin_table.py` trains each row and prints it.

The rows of loggers need `pip install tensorboard wandb mlflow`; MLFLOW_ALLOW_FILE_STORE=true and MLFLOW_TRACKING_URI,
such as file:/tmp/store, let MLflow write files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import test_plugin_losses as losses
import test_plugins as plugins
import test_sources as sources
from test_plugins import DATA, SGD, config, distance, new_gan, plain_torch
from torch import Tensor

from fastgan import GAN
from fastgan.training import Best, Callback, JSONLines, MLflow, Momentum, TensorBoard, WandB, train

Row = tuple[str, dict[str, Any], Callable[[], Any], Callable[[], GAN]]  # name, fields of the config, data, plain loop
LOGGERS: dict[str, Callable[[Path], Callback]] = {
    "JSONLines": lambda folder: JSONLines(folder / "log.jsonl", every=5),
    "TensorBoard": lambda folder: TensorBoard(folder, every=5),
    "WandB": lambda folder: WandB(5, mode="offline", dir=folder),
    "MLflow": lambda folder: MLflow(5),
    "Best": lambda folder: Best(lambda gan: float(gan.sample(8, seed=1).mean()), every=5, folder=folder),
}


def tensor() -> Tensor:
    return DATA


def rows() -> Iterator[Row]:
    """All that is tried, by the tables of the tests."""
    for name, make in plugins.OPTIMIZERS.items():
        yield f"optimiser: {name}", {"optimizer": make}, tensor, lambda make=make: plain_torch(make)
    for name, schedule in plugins.SCHEDULERS.items():
        fields = {"optimizer": SGD, "scheduler": schedule}
        yield f"scheduler: {name}", fields, tensor, lambda schedule=schedule: plain_torch(SGD, schedule)
    for name, (fields, make, schedule) in plugins.OWN.items():
        yield f"own: {name}", fields, tensor, lambda make=make, schedule=schedule: plain_torch(make, schedule)
    for name, (fields, loop) in plugins.BOUNDS.items():
        yield (
            f"bound: {name}",
            {"optimizer": Momentum(0.1), **fields},
            tensor,
            lambda loop=loop: plain_torch(SGD, **loop),
        )
    parts = {"optimizer": Momentum(0.1), "micro_batches": 4}
    yield "accumulation: 4 micro-batches", parts, tensor, lambda: plain_torch(SGD)
    wgan = {"loss": (plugins.wasserstein_d, plugins.wasserstein_g), "optimizer": plugins.OPTIMIZERS["RMSprop"]}
    yield "loss: WGAN with clipping", {**wgan, "clip_weights": 0.01, "k": 5}, tensor, losses.plain_wgan
    recipe = {"loss": "relativistic", "gradient_penalty": ("r1", "r2"), "penalty_weight": 1.0}
    yield "loss: R3GAN", {**recipe, "optimizer": Momentum(0.1)}, tensor, losses.plain_r3gan
    folder = Path(tempfile.mkdtemp())
    own = {"optimizer": Momentum(0.1)}
    for name, (data, _) in sources.BY_NUMBER.items():
        yield f"data: {name}", own, lambda data=data: data(folder), lambda: plain_torch(SGD)
    for name, data in sources.STREAMS.items():
        yield f"data: {name}", own, data, lambda name=name: sources.plain_stream(name)
    for name in ("history.csv", *LOGGERS):
        yield f"logger: {name}", own, tensor, lambda: plain_torch(SGD)


def main() -> None:
    print("| what | engine | largest difference of a weight |\n|---|---|---|")
    for name, fields, data, loop in rows():
        folder = Path(tempfile.mkdtemp())
        make = LOGGERS.get(name.removeprefix("logger: "))
        callbacks = [make(folder)] if make else []
        run_dir = folder if name.endswith(".csv") else None
        result = train(gan := new_gan(), data(), config(**fields), callbacks=callbacks, run_dir=run_dir)
        print(f"| {name} | {result.engine} | {distance(gan, loop()):.0e} |", flush=True)


if __name__ == "__main__":
    main()
