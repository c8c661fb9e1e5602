"""Table 1 of PacGAN: how many modes GANs find, and what packing changes.

Settings of the authors' code (github.com/fjxmlzn/PacGAN, synthetic_data_experiments), which trains by the rule of ALI's
(github.com/IshmaelBelghazi/ALI, ali/algorithms.py): both networks from the same minibatch, both gradients before either
update. Three things differ. With packing its G normalises each of the packed batches by itself, fastgan's all of them
together; it packs the rows of the data once, fastgan packs them anew in each epoch; and its running averages are of
the standard deviation, fastgan's of the variance. All trials see the same data; weights, order and noise differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan import data, nn
from fastgan._errors import Invalid
from fastgan._files import write_atomically
from fastgan._options import Precision
from fastgan._run_folder import checkpoints
from fastgan.apps.reproduce import trials
from fastgan.apps.reproduce.table import FASTGAN, PAPER, Figure, Row
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.training import Adam, Callback, Run, TrainConfig, train_population

DATASETS: dict[str, Callable[..., Dataset]] = {"ring": data.ring, "grid": data.grid}
METHODS = {"GAN": 1, "PacGAN2": 2, "PacGAN3": 3, "PacGAN4": 4}  # and their packing
STEPS = 400_000
TRIALS = 10
ROWS = 100_000
COLUMNS = ("modes", "% high quality", "reverse KL, near")  # KL(p_g||uniform) over the samples near a mode
_FILE = "study.json"
_FORMAT = 1
_CHECKPOINT_EVERY = 10_000

# Lin et al. (2018), table 1: mean and standard error of 10 trials.
_PAPER = {
    ("ring", "GAN"): ((6.3, 0.5), (98.2, 0.2), (0.45, 0.09)),
    ("ring", "PacGAN2"): ((7.9, 0.1), (95.6, 2.0), (0.07, 0.03)),
    ("ring", "PacGAN3"): ((7.8, 0.1), (97.7, 0.3), (0.10, 0.02)),
    ("ring", "PacGAN4"): ((7.8, 0.1), (95.9, 1.4), (0.07, 0.02)),
    ("grid", "GAN"): ((17.3, 0.8), (94.8, 0.7), (0.70, 0.07)),
    ("grid", "PacGAN2"): ((23.8, 0.7), (91.3, 0.8), (0.13, 0.04)),
    ("grid", "PacGAN3"): ((24.6, 0.4), (94.2, 0.4), (0.06, 0.02)),
    ("grid", "PacGAN4"): ((24.8, 0.2), (93.6, 0.6), (0.04, 0.01)),
}


@dataclass(frozen=True)
class Study:
    """Which cells of the table, and how long.

    Args:
        datasets: some of "ring", "grid".
        methods: some of "GAN", "PacGAN2", "PacGAN3", "PacGAN4".
        trials: GANs a cell, with the seeds 0, 1, ...; the paper has 10.
        steps: iterations of each; the paper has 400,000.
        precision: of the products, "fp32" or "bf16", as in `TrainConfig`.

    Raises:
        ValueError: one that breaks its rule.
    """

    datasets: tuple[str, ...] = tuple(DATASETS)
    methods: tuple[str, ...] = tuple(METHODS)
    trials: int = TRIALS
    steps: int = STEPS
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name, known in (("datasets", DATASETS), ("methods", METHODS)):
            chosen = getattr(self, name)
            wrong = [one for one in chosen if one not in known]
            if wrong or not chosen or len(set(chosen)) < len(chosen):
                got = repr(wrong[0]) if wrong else f"{', '.join(chosen) or 'none'}"
                raise Invalid("reproduce").value(name, f"must be distinct and among {', '.join(known)}, got {got}")
        for name in ("trials", "steps"):
            if getattr(self, name) < 1:
                raise Invalid("reproduce").value(name, f"must be at least 1, got {getattr(self, name)}")

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Data set and method of each."""
        return [(dataset, method) for dataset in self.datasets for method in self.methods]

    def write(self, folder: Path) -> None:
        """study.json, by which `read` knows what a folder holds."""
        body = {"format": _FORMAT, "reproduce": "pacgan", **dataclasses.asdict(self)}
        write_atomically(folder / _FILE, [(json.dumps(body, indent=1) + "\n").encode()])

    @classmethod
    def read(cls, folder: Path) -> Study | None:
        """The contents that `write` left in a folder; None if there are none.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / _FILE
        if not path.is_file():
            return None
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body.pop("format") != _FORMAT or body.pop("reproduce") != "pacgan":
                raise ValueError("another format")
            fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in body.items()}
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} must describe a study of PacGAN's table 1, got: {error}") from error


# ---------------------------------------------------------------- the paper's settings


def networks(pack: int = 1) -> GAN:
    """G 2-400-400-400-400-2 with batch normalisation, D of three maxout layers 200 x 5 over `pack` samples at once.

    G's hidden layers have no bias of their own. Weights N(0, 0.02^2), biases 0; epsilon 1e-4 and a running average of
    0.05 are those of the original code.
    """
    hidden, layers = 400, list[torch.nn.Module]()
    for inputs in (2, hidden, hidden, hidden):
        layers += [nn.Linear(inputs, hidden, bias=False), torch.nn.BatchNorm1d(hidden, eps=1e-4, momentum=0.05)]
        layers += [torch.nn.ReLU()]
    generator = nn.Sequential(*layers, nn.Linear(hidden, 2))
    discriminator = nn.Sequential(
        nn.Maxout(2 * pack, 200, 5), nn.Maxout(200, 200, 5), nn.Maxout(200, 200, 5), nn.Linear(200, 1)
    )
    for network in (generator, discriminator):
        nn.init.normal_(network, 0.02)
    return GAN(generator, discriminator, latent_dim=2, prior="normal", data_shape=(2,))


def config(study: Study, method: str) -> TrainConfig:
    """Adam of rate 1e-4 and beta1 0.8, batches of 100, both networks updated at once."""
    return TrainConfig(
        steps=study.steps,
        batch_size=100,
        optimizer=Adam(1e-4, betas=(0.8, 0.999)),
        mode="simultaneous",
        pack=METHODS[method],
        precision=study.precision,
        checkpoint_every=_CHECKPOINT_EVERY,
    )


# ---------------------------------------------------------------- running and reading


def cell_folder(folder: Path, dataset: str, method: str) -> Path:
    """The folder of a cell's trials, a run folder each."""
    return folder / f"{dataset}-{method}"


def finished(study: Study, folder: Path) -> bool:
    """Whether all trials of all cells have ended."""
    return all(trials.ended(cell_folder(folder, *cell), study.trials, study.steps) for cell in study.cells)


def run(
    study: Study,
    folder: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> bool:
    """Train what has not ended yet, from where it is; True when all has.

    Args:
        study: what to train.
        folder: for study.json and a folder a cell.
        device: where the networks train; None: the CPU.
        threads: of the CPU.
        callbacks: called for each trial, as in `train_population`.

    Raises:
        ValueError, CheckpointError: the folder holds another study. OSError: it cannot be written.
    """
    for dataset, method in study.cells:
        path = cell_folder(folder, dataset, method)
        if trials.ended(path, study.trials, study.steps):
            continue
        rows = DATASETS[dataset](ROWS)
        stopwatch = trials.Stopwatch()
        result = train_population(
            lambda pack=METHODS[method]: networks(pack),
            rows,
            dataclasses.replace(config(study, method), device=device),
            seeds=range(study.trials),
            callbacks=[*callbacks, stopwatch, _KeepStudy(study, folder), trials.Coverage(rows, study.steps)],
            run_dir=path,
            resume=any(map(checkpoints, path.glob("member-*/checkpoint"))),
            threads=threads,
        )
        trials.note_training(path, result, threads or torch.get_num_threads(), stopwatch)
        if result.interrupted:
            return False
    return True


class _KeepStudy(Callback):
    """Writes study.json once training has accepted everything."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder, self._written = study, folder, False

    def on_start(self, run: Run) -> None:
        if not self._written:
            self._study.write(self._folder)
        self._written = True


def table(study: Study, folder: Path) -> list[Row]:
    """The paper's row, fastgan's of the trials that have reached iteration `study.steps`, and a perfect sampler's."""
    rows: list[Row] = []
    for dataset in study.datasets:
        for method in study.methods:
            found = trials.measured_at(cell_folder(folder, dataset, method), study.trials, study.steps)
            rows.append(Row(dataset, method, PAPER, _paper(dataset, method)))
            rows.append(Row(dataset, method, FASTGAN, _figures(found)))
        rows.append(Row(dataset, "perfect", "sampler", _figures(_perfect(DATASETS[dataset]))))
    return rows


def _paper(dataset: str, method: str) -> dict[str, Figure]:
    return {name: Figure(*figure, trials=TRIALS) for name, figure in zip(COLUMNS, _PAPER[dataset, method], strict=True)}


def _figures(found: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    scale = {"% high quality": 100.0}
    return {
        name: Figure.of([scale.get(name, 1.0) * row[key] for row in found]) if found else Figure(math.nan)
        for name, key in zip(COLUMNS, trials.MEASURES, strict=True)
    }


def _perfect(distribution: Callable[..., Dataset]) -> list[dict[str, float]]:
    """Fresh rows of the data themselves, as often as the paper's trials."""
    draws = [distribution(trials.SAMPLES, seed=1 + number) for number in range(TRIALS)]
    return [trials.measure(draw.tensor(), draw) for draw in draws]


def full_length_hours(study: Study, folder: Path) -> float | None:
    """Processor hours that the paper's 10 trials of 400,000 iterations take, by the rates measured here; or None."""
    hours = 0.0
    for cell in study.cells:
        noted = trials.noted_training(cell_folder(folder, *cell))
        if noted is None:
            return None
        hours += TRIALS * STEPS * noted["processor_seconds"] / noted["iterations"] / 3600
    return hours


def draw(study: Study, folder: Path, target: Path) -> list[Path]:
    """For each data set the samples of each method's first trial, where it has ended, and the modes over time of all.

    Args:
        study: what to draw.
        folder: of the study.
        target: for the pictures.

    Raises:
        ImportError: matplotlib is missing.
    """
    from fastgan import plots

    written: list[Path] = []
    for dataset in study.datasets:
        centres = DATASETS[dataset](1).centres
        assert centres is not None
        ended = {m: trials.members(cell_folder(folder, dataset, m), study.trials, study.steps) for m in study.methods}
        ended = {method: paths for method, paths in ended.items() if paths}
        if not ended:
            continue
        length = f"{study.steps:,} iterations"
        if all(trials.has_samples(paths[0], study.steps) for paths in ended.values()):
            written.append(
                plots.compare_points(
                    {method: trials.samples_of(paths[0]) for method, paths in ended.items()},
                    target / f"{dataset}-samples.png",
                    title=f"2,500 samples after {length}",
                    centres=centres,
                )
            )
        written.append(
            plots.modes_over_time(
                {method: [trials.rows_of(path) for path in paths] for method, paths in ended.items()},
                target / f"{dataset}-modes.png",
                modes=len(centres),
                paper={method: _PAPER[dataset, method][0][0] for method in ended},
                title=f"2-D {dataset}: {study.trials} trial{'s' * (study.trials > 1)} of {length}",
            )
        )
    return written
