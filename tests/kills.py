"""Kill training with SIGKILL at random instants, resume it, kill it again: what is left must be whole.

    python tests/kills.py FOLDER COUNT SEED

prints how many kills there were of each kind, and what was found after them; the exit code is 0 where all was well. A
process of its own, which forks: one import serves all runs, and no thread of another program is in the way.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # torch.optim imports it at its first step: once here, not in every child
from torch import nn

from fastgan.models import GAN
from fastgan.nn import MLP
from fastgan.tabular import TabularGAN
from fastgan.training import Adam, Callback, Run, TrainConfig, checkpoint, train, train_population

DATA = torch.randn(96, 3, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(steps=30, batch_size=16, k=2, optimizer=Adam(0.01), ema_decay=0.9, checkpoint_every=5, seed=3)
SEEDS = range(3)
KINDS = ("eager", "compiled", "eager population", "compiled population")
try:
    import pandas as pd
    import sklearn.mixture  # noqa: F401  # once here, as torch._dynamo
except ImportError:
    pass
else:
    KINDS += ("table population",)
    TABLE = pd.DataFrame({"x": DATA[:, 0].numpy(), "city": ["Rome", "Oslo", "Bonn"] * 32})
OPTIONS = {"steps": 30, "batch_size": 32, "pack": 4, "latent_dim": 4, "generator_hidden": (16,), "threads": 1}


def new_gan() -> GAN:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return GAN(generator, MLP([3, 16, 1], activation="leaky_relu", dropout=0.2), latent_dim=2)


class Keep(Callback):
    """Copies each checkpoint of the uninterrupted run: what a killed one must have at that iteration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_checkpoint(self, run: Run, path: Path) -> None:
        kept = self.folder / str(run.member)
        kept.mkdir(parents=True, exist_ok=True)
        for file in path.parent.glob(f"{path.stem}*"):
            shutil.copy(file, kept)


def work(kind: str, folder: Path, callbacks: tuple[Callback, ...] = ()) -> None:
    """Train, or go on where a checkpoint is."""
    engine = "eager" if kind.startswith("eager") else "fused"
    config = TrainConfig.from_dict({**CONFIG.as_dict(), "engine": engine})
    resume = any(folder.rglob("checkpoint/step-*.json"))
    if kind.startswith("table"):
        gan = TabularGAN(**OPTIONS, checkpoint_every=5)
        gan.fit_population(TABLE, seeds=SEEDS, run_dir=folder, resume=resume, callbacks=callbacks)
    elif kind.endswith("population"):
        train_population(
            new_gan, DATA, config, seeds=SEEDS, run_dir=folder, resume=resume, callbacks=callbacks, threads=1
        )
    else:
        train(new_gan(), DATA, config, run_dir=folder, resume=resume, callbacks=callbacks)


def in_child(task: Callable[[], None], kill_after: float | None = None) -> int:
    """The wait status of a child that does it, killed after so many seconds."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            task()
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def members(kind: str, folder: Path) -> list[Path]:
    return [folder / f"member-{i:04d}" for i in range(len(SEEDS))] if kind.endswith("population") else [folder]


class Faults(Counter[str]):
    """What was not as it must be, by kind of fault."""

    def look(self, kind: str, folder: Path, kept: Path) -> None:
        """After a kill: the newest checkpoint is whole, and has the bits of the uninterrupted run."""
        for number, path in enumerate(members(kind, folder)):
            if not checkpoint.checkpoints(path / "checkpoint"):
                continue
            try:
                found = checkpoint.load(path)
            except checkpoint.CheckpointError as error:
                print(error, file=sys.stderr)
                self["corrupt"] += 1
                continue
            if kind.startswith("table"):
                self["other rows"] += len(TabularGAN.load(path).sample(5)) != 5
            self["other bits"] += not same(found, kept / str(number) / found.path.name)

    def look_at_end(self, kind: str, folder: Path, whole: Path) -> None:
        """After the last resume: every file is one of the uninterrupted run's, with its contents."""
        names = {path.relative_to(folder) for path in folder.rglob("*")}
        expected = {path.relative_to(whole) for path in whole.rglob("*")}
        if names != expected:
            print("not alike:", sorted(map(str, names ^ expected)), file=sys.stderr)
        self["orphans"] += len(names - expected)
        self["missing"] += len(expected - names)
        for mine, reference in zip(members(kind, folder), members(kind, whole), strict=True):
            self["other bits"] += not same(checkpoint.load(mine), checkpoint.newest(reference))
            same_history = (mine / "history.csv").read_bytes() == (reference / "history.csv").read_bytes()
            self["other history"] += not same_history


def same(found: checkpoint.Checkpoint, path: Path) -> bool:
    expected = checkpoint.load(path).tensors
    return expected.keys() == found.tensors.keys() and all(
        torch.equal(value, found.tensors[name]) for name, value in expected.items()
    )


def main(root: Path, count: int, seed: int) -> int:
    draw, kills, faults = random.Random(seed), Counter[str](), Faults()
    seconds = {}
    for kind in KINDS:
        whole = root / kind / "whole"
        for repeat in (root / kind / "warm", whole):  # the first pays for what is loaded late
            begun = time.perf_counter()
            kept = root / kind / f"kept-{repeat.name}"
            callbacks = (Keep(kept),)
            status = in_child(lambda kind=kind, repeat=repeat, callbacks=callbacks: work(kind, repeat, callbacks))
            assert status == 0, f"{kind}: {status}"
            seconds[kind] = time.perf_counter() - begun
    number = 0
    while sum(kills.values()) < count:
        kind = KINDS[number % len(KINDS)]
        folder, kept, whole = root / kind / str(number), root / kind / "kept-whole", root / kind / "whole"
        number += 1
        task = lambda kind=kind, folder=folder: work(kind, folder)  # noqa: E731
        for attempt in range(1 + draw.randrange(4)):  # the run, and resumes of it
            status = in_child(task, draw.uniform(0.0, seconds[kind]))
            if status == 0:  # it ended before
                break
            if status != signal.SIGKILL:
                faults["resume refused"] += 1
                break
            kills[f"{kind}, resumed" if attempt else kind] += 1
            faults.look(kind, folder, kept)
        if in_child(task) != 0:
            faults["resume refused"] += 1
        else:
            faults.look_at_end(kind, folder, whole)
        shutil.rmtree(folder, ignore_errors=True)
    faults = +faults  # those above 0
    print(json.dumps({"kills": sum(kills.values()), "runs": number, "faults": faults, "of each kind": kills}))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
