"""Which networks and numbers make a perceptron GAN learn MNIST? What was tried before its preset was chosen.

    python bench/mnist_presets.py [--data DIR] [--only NAME ...] [--seeds 0] [--steps N] [--out FOLDER]

Each line trains one pair on one thread and measures 10,000 samples on the 10,000 test rows: class balance and the
distance of a small classifier's features (fastgan.evaluation.class_balance), precision and recall in pixels. Seconds
are those of the processor, so that other processes of a shared machine count less. JSON goes to bench/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from fastgan import Adam, TrainConfig, data, evaluation, train
from fastgan.apps import presets
from fastgan.apps.bench import harness, machine
from fastgan.apps.bench.results import Report
from fastgan.apps.presets import Networks
from fastgan.models import GAN

ROWS = 2000  # for precision and recall


def variants(dataset: data.Dataset) -> dict[str, tuple[Networks, dict[str, Any], int]]:
    """Networks, what differs from plain training, and iterations, by name."""
    pair = Networks(784, generator_hidden=(256, 512), discriminator_hidden=(512, 256), output_activation="sigmoid")
    old = dataclasses.replace(pair, generator_hidden=(512, 512), discriminator_hidden=(512, 512), dropout=0.3)
    wide = dataclasses.replace(pair, generator_hidden=(512, 512), discriminator_hidden=(1024, 512))
    slow, middle, fast = (Adam(lr, betas=(0.5, 0.99)) for lr in (3e-4, 5e-4, 1e-3))

    def r1(weight: float, optimizer: Adam, **more: Any) -> dict[str, Any]:
        return {"gradient_penalty": "r1", "penalty_weight": weight, "optimizer": optimizer, **more}

    preset = presets.for_source("mnist", dataset)
    chosen = {item.name: getattr(preset.train, item.name) for item in dataclasses.fields(preset.train)}
    chosen["checkpoint_every"] = 0  # there is no run folder
    return {
        "preset": (preset.networks, chosen, preset.train.steps),
        "before": (old, {"optimizer": Adam(5e-4), "real_label": 0.9, "ema_decay": None}, 14_400),
        "dropout, pack 2": (dataclasses.replace(pair, dropout=0.3), {"optimizer": slow, "pack": 2}, 11_700),
        "R1 0.2, 3e-4": (pair, r1(0.2, slow), 10_000),
        "R1 1, 3e-4": (pair, r1(1.0, slow), 15_200),
        "R1 1, 3e-4, relativistic": (pair, r1(1.0, slow, loss="relativistic"), 14_400),
        "R1 1 and R2 1, 3e-4, relativistic": (  # Huang et al. (2024)
            pair,
            r1(1.0, slow, loss="relativistic", gradient_penalty=("r1", "r2")),
            14_400,
        ),
        "R1 1, 1e-3": (pair, r1(1.0, fast), 6_200),
        "R1 5, 1e-3": (pair, r1(5.0, fast), 12_000),
        "R1 2, 1e-3, relativistic": (pair, r1(2.0, fast, loss="relativistic"), 12_000),
        "R1 2, 1e-3, wide": (wide, r1(2.0, fast), 8_000),
        "R1 2, 5e-4": (pair, r1(2.0, middle), 25_000),
    }


def measure(gan: GAN, train_rows: data.Dataset, test: data.Dataset) -> dict[str, float]:
    """How the samples spread over the classes, how far they lie, and what they cover."""
    samples = gan.sample(10_000, seed=0)
    index = torch.arange(10_000) * len(train_rows) // 10_000
    assert train_rows.labels is not None
    classes = evaluation.class_balance(samples, train_rows.rows(index), train_rows.labels[index])
    support = evaluation.precision_recall(test.rows(torch.arange(ROWS)), samples[:ROWS])
    names = ("covered", "smallest", "largest", "distance", "real_distance")
    return {
        **{name: getattr(classes, name) for name in names},
        "precision": support.precision,
        "recall": support.recall,
    }


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the guide's table."""
    small, large = 100 * row["smallest"], 100 * row["largest"]
    return (
        f"| {name}, seed {row['seed']} | {row['steps']:,} | {row['seconds']:.0f} | {row['covered']} | {small:.1f}% "
        f"to {large:.1f}% | {row['distance']:.4f} | {row['precision']:.2f}, {row['recall']:.2f} |"
    )


def main() -> None:
    """Train, measure, print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="folder of MNIST's IDX files (data/mnist, see make data)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the variants (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="iterations (each variant's own)")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, test = data.mnist(arguments.data), data.mnist(arguments.data, split="test")
    table = variants(rows)
    plain = TrainConfig(steps=1, batch_size=64, ema_decay=0.999)
    settings = harness.Settings(threads=(1,), out=arguments.out, machine=arguments.machine)
    report = Report("mnist-presets", settings, "rows")
    for name in arguments.only or table:
        networks, changes, steps = table[name]
        for seed in arguments.seeds:
            config = dataclasses.replace(plain, **{**changes, "steps": arguments.steps or steps, "seed": seed})
            gan = networks.build(seed=seed, pack=config.pack)
            before = time.process_time()
            train(gan, rows, config)
            row = {"name": name, "seed": seed, "steps": config.steps, "seconds": time.process_time() - before}
            report.add({**row, **measure(gan, rows, test)})
            print(line(name, report.records[-1]), flush=True)


if __name__ == "__main__":
    main()
