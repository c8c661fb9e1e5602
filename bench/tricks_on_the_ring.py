"""Do the tricks of the literature help on a ring of 8 Gaussians, radius 1 and standard deviation 0.05?

Each alone beside the plain game, over several seeds.
The networks are small and the training is short, so that modes are still being lost: a trick that helps has room to
show it. All run in the eager engine, at the same settings but for the trick.

    nice -n 19 python bench/tricks_on_the_ring.py [--seeds 5] [--steps 2000] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan import data, evaluation
from fastgan.apps import presets
from fastgan.apps.bench import harness, machine
from fastgan.apps.bench.results import Report

BASE = presets.Networks(2, latent_dim=8, generator_hidden=(64, 64), discriminator_hidden=(64, 64))
# name: (fields of TrainConfig, fields of Networks)
TRICKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "feature matching": ({"loss": "feature_matching"}, {}),
    "historical averaging, 0.01": ({"historical_averaging": 0.01}, {}),
    "instance noise, 0.3 to 0": ({"instance_noise": 0.3, "instance_noise_steps": -1}, {}),  # -1: over all steps
    "labels 0.9 and 0": ({"real_label": 0.9}, {}),
    "labels 0.9 and 0.1": ({"real_label": 0.9, "fake_label": 0.1}, {}),
    "minibatch discrimination": ({}, {"minibatch_features": 8}),
    "virtual batch norm": ({}, {"generator_norm": "virtual"}),
    "batch norm": ({}, {"generator_norm": "batch"}),
    "two samples packed": ({"pack": 2}, {}),
    "R1 penalty, 0.1": ({"gradient_penalty": "r1", "penalty_weight": 0.1}, {}),
}


def trial(name: str, seed: int, steps: int) -> dict[str, float]:
    """Modes found, and the share of samples within three standard deviations of one."""
    options, networks = TRICKS[name]
    if options.get("instance_noise_steps"):
        options = {**options, "instance_noise_steps": steps}
    fields = {f: getattr(BASE, f) for f in ("data_dim", "latent_dim", "generator_hidden", "discriminator_hidden")}
    gan = presets.Networks(**{**fields, **networks}).build(seed=seed, pack=options.get("pack", 1))
    rows = data.ring(20_000, std=0.05, seed=seed)
    adam = fastgan.Adam(1e-3, betas=(0.5, 0.999))
    config = fastgan.TrainConfig(steps, 128, optimizer=adam, seed=seed, engine="eager", **options)
    begun = time.process_time()
    fastgan.train(gan, rows, config)
    seconds = time.process_time() - begun
    assert rows.centres is not None and rows.std is not None
    found = evaluation.mode_coverage(gan.sample(2500, seed=1), rows.centres, rows.std)
    return {"modes": found.covered, "high_quality": found.high_quality, "processor_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = harness.Settings(threads=(1,), out=arguments.out, machine=arguments.machine)
    report = Report("tricks-ring", settings, "tricks")
    report.content = {"steps": arguments.steps, "seeds": arguments.seeds}
    print(f"{'trick':<28} {'modes of 8, by seed':<22} {'mean':>5}  {'% near a mode, by seed':<28} {'mean':>5} {'s':>5}")
    for name in TRICKS:
        found = [trial(name, seed, arguments.steps) for seed in range(arguments.seeds)]
        modes, near = [int(t["modes"]) for t in found], [100 * t["high_quality"] for t in found]
        seconds = sum(t["processor_seconds"] for t in found) / len(found)
        print(
            f"{name:<28} {' '.join(map(str, modes)):<22} {sum(modes) / len(modes):>5.1f}  "
            f"{' '.join(f'{x:.0f}' for x in near):<28} {sum(near) / len(near):>5.1f} {seconds:>5.1f}",
            flush=True,
        )
        report.add({"trick": name, "trials": found})


if __name__ == "__main__":
    main()
