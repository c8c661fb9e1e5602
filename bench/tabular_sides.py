"""What bench_tabular.py does on each side: fit, update, sample and score. ctgan and sdmetrics are for it alone."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import fastgan
from fastgan.tabular import Report, TabularGAN

FASTGAN, BF16, CTGAN = "fastgan", "fastgan, bf16", "ctgan"
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
HELD_OUT = 0.2  # of the rows, for the quality


@dataclasses.dataclass(frozen=True)
class Task:
    """A table and how both sides learn it.

    Args:
        frame: the rows to learn.
        discrete: columns of labels, which ctgan has to be told.
        batch, pack: rows of a minibatch, and of an input of D.
        seed: of both.
    """

    frame: pd.DataFrame
    discrete: list[str]
    batch: int
    pack: int = 10
    seed: int = 0

    @property
    def epoch(self) -> int:
        """Updates of ctgan in one."""
        return max(len(self.frame) // self.batch, 1)


def precisions() -> dict[str, str]:
    """fastgan's sides: also bf16 where the processor multiplies in it, by AMX or AVX512-BF16."""
    core = fastgan.backend_info()["native"]  # a text where it is not loaded
    has_bf16 = isinstance(core, dict) and "yes" in (core["amx"], core["avx512_bf16"])
    return {FASTGAN: "fp32"} | ({BF16: "bf16"} if has_bf16 else {})


def split(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on, and rows that neither side sees."""
    mixed = frame.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    cut = int(len(mixed) * HELD_OUT)
    return mixed.iloc[cut:].reset_index(drop=True), mixed.iloc[:cut].reset_index(drop=True)


def now() -> dict[str, float]:
    """The time, by clock."""
    return {name: clock() for name, clock in CLOCKS.items()}


def taken(run: Callable[[], object]) -> dict[str, float]:
    """The times of a call, by clock."""
    begun = now()
    run()
    return since(begun)


def since(begun: Mapping[str, float]) -> dict[str, float]:
    """The times since then, by clock."""
    return {name: time - begun[name] for name, time in now().items()}


# ---------------------------------------------------------------- times


def times_of_fastgan(task: Task, updates: int, threads: int, precision: Any = "fp32") -> dict[str, dict[str, float]]:
    """Of the preparation, and of 100 updates of each network."""
    options = {"batch_size": task.batch, "pack": task.pack, "seed": task.seed, "threads": threads}
    gan = TabularGAN(steps=updates, precision=precision, **options)
    found: list[Any] = []
    preparation = taken(lambda: found.append(gan.prepare(task.frame)))
    (rows,) = found
    assert gan.gan is not None
    network, config = gan.gan, gan.config.training(len(rows))

    def training(steps: int) -> dict[str, float]:
        return taken(lambda: fastgan.train(network, rows, dataclasses.replace(config, steps=steps)))  # type: ignore[arg-type]

    first, short, long = training(1), training(1), training(1 + 4 * updates)  # the first touches the memory of moments
    update = {name: (long[name] - short[name]) / (4 * updates) for name in CLOCKS}
    return {
        "preparation": {name: preparation[name] + max(first[name] - update[name], 0.0) for name in CLOCKS},
        "per 100 updates": {name: 100 * update[name] for name in CLOCKS},
    }


def times_of_ctgan(task: Task, updates: int) -> dict[str, dict[str, float]]:
    """The same: an update ends with the step of G's optimiser, which follows that of D's."""
    ends: list[dict[str, float]] = []
    begun = now()
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(since(begun)))
    try:
        ctgan_model(task, -(-(1 + updates) // task.epoch))
    finally:
        hook.remove()
    ends = ends[1::2]
    update = {name: (ends[-1][name] - ends[0][name]) / (len(ends) - 1) for name in CLOCKS}
    return {
        "preparation": {name: max(ends[0][name] - update[name], 0.0) for name in CLOCKS},
        "per 100 updates": {name: 100 * update[name] for name in CLOCKS},
    }


def ctgan_model(task: Task, epochs: int) -> Any:
    """A trained CTGAN."""
    import ctgan

    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    model = ctgan.CTGAN(epochs=epochs, enable_gpu=False, batch_size=task.batch, pac=task.pack)
    model.fit(task.frame, task.discrete)
    return model


# ---------------------------------------------------------------- quality


def qualities(task: Task, held_out: pd.DataFrame, updates: int) -> dict[str, Any]:
    """Both sides' samples, as many as there are rows, scored after as many updates, and the times of the training."""
    options = {"batch_size": task.batch, "pack": task.pack, "seed": task.seed, "threads": torch.get_num_threads()}
    samples, times, found = {}, {}, []
    for side, precision in precisions().items():
        model = TabularGAN(steps=updates, precision=precision, **options)  # type: ignore[arg-type]
        times[side] = taken(functools.partial(model.fit, task.frame))
        samples[side] = model.sample(len(task.frame), seed=task.seed)
    epochs = -(-updates // task.epoch)
    times[CTGAN] = taken(lambda: found.append(ctgan_model(task, epochs)))
    samples[CTGAN] = found[0].sample(len(task.frame))
    return {side: score(model, task, rows, held_out) | {"training": times[side]} for side, rows in samples.items()}


def score(gan: TabularGAN, task: Task, rows: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, Any]:
    """fastgan's report, and SDMetrics' quality score."""
    from sdmetrics.reports.single_table import QualityReport

    values = Report(gan.transformer, task.frame, rows, held_out).values
    kinds = {name: "categorical" if name in task.discrete else "numerical" for name in task.frame}
    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}
    report.generate(task.frame, rows[list(task.frame)], metadata, verbose=False)
    kept = {name: values[name] for name in ("mean_ks", "mean_tv", "pairs", "detection", "efficacy", "privacy")}
    return {"sdmetrics": float(report.get_score())} | kept
