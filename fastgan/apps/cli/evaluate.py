"""fastgan evaluate: how good the generator of a run is, in the measures of the literature."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan import data, evaluation, plots
from fastgan._files import finite, write_atomically
from fastgan._options import ModeConvention, names
from fastgan.apps.cli import runs, tabular
from fastgan.apps.cli.arguments import counting, natural, number, wrapped
from fastgan.apps.cli.pictures import draw_neighbours, origin
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.training import load_checkpoint

_VALIDATION_ROWS = 1000  # for sigma, as in the paper; of fewer held-out rows, half
_REAL_ROWS = 10_000  # training and held-out rows looked at
_CLASS_ROWS = 100  # with labels, for a classifier
_NEIGHBOUR_ROWS = 2000  # for precision and recall: the square of them is compared


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "evaluate",
        help="measure a trained generator",
        description="Measure samples of a run's newest checkpoint: mode coverage where the modes are known, "
        "Parzen-window log-likelihood of rows that were not trained on, nearest training rows, class balance and a "
        "feature distance by a small classifier where there are labels, precision and recall, and how far D overfits. "
        "Those rows are the tenth that fastgan train held out, MNIST's test files in the folder, those after the first "
        "--rows, or those of --held-out; synthetic data are drawn anew. Tables are measured in standard deviations of "
        "each column.",
        epilog="examples:\n  fastgan evaluate runs/ring-1\n  fastgan evaluate runs/digits-1 --neighbours nearest.png\n",
    )
    command.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    command.add_argument("--n", type=natural, default=10_000, metavar="N", help="samples of G (10000)")
    command.add_argument("--seed", type=counting, default=0, metavar="N", help="of the noise (0)")
    command.add_argument("--held-out", metavar="SOURCE", help="rows G never saw: a data set's name or a file")
    command.add_argument(
        "--sigma", type=number, metavar="X", help="width of the Parzen windows; by default cross-validated"
    )
    command.add_argument("--neighbours", metavar="FILE", help="picture of samples beside their nearest training images")
    command.add_argument("--target", metavar="NAME", help="of a TabularGAN: column that models predict")
    command.add_argument("--out", metavar="FILE", help="write the numbers there, as .json")
    command.add_argument("--data", metavar="PATH", help="where the data of the run are now, if they have moved")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


@dataclass(frozen=True)
class _Subject:
    """Samples, training rows and held-out rows, in the data's own units.

    Of a table, whose columns have units of their own, in standard deviations of each: a distance between rows would see
    little more than the column of the largest numbers. Labels are requested as often as the data have them, so that the
    samples of a conditional run are p_g as a whole.
    """

    config: runs.RunConfig
    gan: GAN
    dataset: Dataset
    samples: Tensor
    train: Tensor
    held_out: Tensor | None
    asked: Tensor | None  # of a conditional run: the label of each sample
    standardized: bool


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print a line for each measure."""
    for flag, path, suffixes in (
        ("--out", arguments.out, (".json",)),
        ("--neighbours", arguments.neighbours, (".png", ".svg", ".pdf")),
    ):
        if path is not None and Path(path).suffix.lower() not in suffixes:
            raise ValueError(f"{flag} must end in {', '.join(suffixes)}, got {path!r}")
    if arguments.seed >= 2**63:
        raise ValueError(f"--seed must be below 2**63, got {arguments.seed}")
    if arguments.sigma is not None and not 1e-100 < arguments.sigma < 1e100:
        raise ValueError(f"--sigma must be above 0 and finite, got {arguments.sigma}")
    if tabular.is_run(arguments.run_dir):
        return tabular.evaluate(arguments)
    if arguments.target is not None:
        raise ValueError(f"--target must be used with the run of a TabularGAN, got {arguments.run_dir}")
    config = runs.read(Path(arguments.run_dir), moved=arguments.data)
    if arguments.neighbours is not None and config.image_shape is None:
        raise ValueError(f"--neighbours must be used with images, got {config.source}")
    subject = _load(arguments, config)
    show = print if not arguments.json else lambda line: None
    report: dict[str, Any] = {"run": arguments.run_dir, "samples": arguments.n, "seed": arguments.seed}
    if subject.standardized:
        show(f"{'units':<15} standard deviations of each column, from its mean")
        report["units"] = "standard deviations"
    for name, text, numbers in _measures(subject, arguments.sigma):
        show(wrapped(f"{name.replace('_', ' '):<15} {text}", 16))
        report[name] = numbers
    if arguments.neighbours is not None:
        step = load_checkpoint(Path(arguments.run_dir)).step
        with plots.source(origin(config, step)):
            picture = draw_neighbours(config, subject.samples, subject.train, Path(arguments.neighbours))
        show(f"{'picture':<15} {picture}")
    text = json.dumps(finite(report), indent=1, allow_nan=False)
    if arguments.json:
        print(text)
    if arguments.out is not None:
        write_atomically(Path(arguments.out), [f"{text}\n".encode()])
    return 0


def _load(arguments: argparse.Namespace, config: runs.RunConfig) -> _Subject:
    gan = runs.trained(Path(arguments.run_dir), config)
    dataset = config.load_data()
    held_out = _held_out(arguments.held_out, config, len(dataset))
    asked = None
    if config.networks.classes:
        assert dataset.labels is not None
        asked = dataset.labels[_numbers(len(dataset), arguments.n)]
    samples = config.restore(gan.sample(arguments.n, seed=arguments.seed, device="cpu", labels=asked))
    if held_out is not None and held_out.shape[1] != samples.shape[1]:
        raise ValueError(f"--held-out must have {samples.shape[1]} columns as the data, got {held_out.shape[1]}")
    train, columns = _spread(dataset, _REAL_ROWS), config.columns
    standardized = columns is not None and dataset.centres is None and dataset.image_shape is None
    convert = columns.transform if columns is not None and standardized else Tensor.float
    samples, train = convert(samples), convert(train)
    held_out = None if held_out is None else convert(held_out)
    return _Subject(config, gan, dataset, samples, train, held_out, asked, standardized)


def _held_out(source: str | None, config: runs.RunConfig, trained_on: int) -> Tensor | None:
    """Rows that were not trained on, if there are any."""
    if source is not None:
        return _spread(config.in_units(data.load(source, **_options(source, config))), _REAL_ROWS)
    if config.source in data.SYNTHETIC:
        fresh = data.load(config.source, n=min(trained_on, _REAL_ROWS), seed=config.data_seed + 1)
        return fresh.tensor().flatten(1)
    rest = config.held_out_part()
    if rest is None and runs.has_test_files(config.source):
        rest = config.in_units(data.read(config.source, split="test", **_options(config.source, config)))
    return None if rest is None else _spread(rest, _REAL_ROWS)


def _options(source: str, config: runs.RunConfig) -> dict[str, Any]:
    """Held-out files are read as the run's own was; labels of a file are those of its rows alone."""
    options = {} if source in data.NAMES else config.read
    return {name: value for name, value in options.items() if name != "labels"}


def _spread(dataset: Dataset, n: int) -> Tensor:
    """At most n rows, flat, spread evenly over data that may be sorted."""
    return dataset.rows(_numbers(len(dataset), min(n, len(dataset)))).flatten(1)


def _numbers(rows: int, n: int) -> Tensor:
    """n row numbers, spread evenly."""
    return torch.arange(n) * rows // n


# ---------------------------------------------------------------- the measures

Measure = tuple[str, str, Any]


def _measures(subject: _Subject, sigma: float | None) -> Iterator[Measure]:
    """Name, text and numbers of each, as they are found."""
    yield from _modes(subject)
    if subject.held_out is None:
        yield "log_likelihood", "needs rows G never saw: --held-out FILE, or a run trained with --hold-out 0.1", None
    else:
        yield from _log_likelihood(subject, subject.held_out, sigma)
        if subject.config.train.pack == 1 and subject.asked is None:  # others have nothing to say of one sample alone
            yield from _discriminator(subject, subject.held_out)
    found = evaluation.nearest_neighbours(subject.samples, subject.train)
    nearest = {
        "copies": int((found.distance == 0).sum()),
        "smallest": float(found.distance.min()),
        "median": float(found.distance.median()),
        "distinct": len(found.index.unique()),
    }
    yield (
        "nearest_rows",
        f"{nearest['copies']} exact copies; distance {nearest['smallest']:.4g} at least, {nearest['median']:.4g} in "
        f"the median; {nearest['distinct']:,} of {len(subject.train):,} training rows are nearest to a sample",
        nearest,
    )
    yield from _classes(subject)
    if subject.asked is not None:
        yield _labels(subject, subject.asked, found.index)
    if min(len(subject.samples), len(subject.train)) > 5:
        yield _precision(subject)


def _modes(subject: _Subject) -> Iterator[Measure]:
    centres, std = subject.dataset.centres, subject.dataset.std
    if centres is None or not std or len(centres) < 2:
        return
    if len(subject.samples) < len(centres):
        yield "modes", f"needs a sample for each of the {len(centres)} modes: --n {len(centres)} or more", None
        return
    for convention in names(ModeConvention):
        found = evaluation.mode_coverage(subject.samples, centres, std, convention=convention)
        numbers = {name: getattr(found, name) for name in ("covered", "modes", "high_quality", "reverse_kl", "js")}
        yield f"modes_{convention}", str(found), {**numbers, "counts": found.counts.tolist()}


def _log_likelihood(subject: _Subject, held_out: Tensor, sigma: float | None) -> Iterator[Measure]:
    """The log-likelihood by the samples, and by as many training rows: what repeating the data scores."""
    cut = min(_VALIDATION_ROWS, len(held_out) // 2)
    for name, samples in (("log_likelihood", subject.samples), ("of_real_rows", subject.train)):
        samples = samples[: len(subject.samples)]
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            found = evaluation.parzen_log_likelihood(
                samples,
                held_out[cut:],
                sigma=sigma,
                validation=None if sigma is not None else held_out[:cut],
                sigmas=sigmas_for(subject.train, subject.config.value_range),
            )
        numbers = {"mean": found.mean, "standard_error": found.standard_error, "sigma": found.sigma}
        remark = "; the best sigma lies beyond those tried" if remarks else ""
        yield name, f"{found}{remark}", numbers


def sigmas_for(rows: Tensor, value_range: tuple[float, float] | None) -> tuple[float, ...]:
    """The paper's for pixels in [0, 1]; other data have their own scale, and modes may be thin in it."""
    if value_range == (0.0, 1.0):
        return evaluation.PARZEN_SIGMAS
    scale = math.sqrt(float(rows.double().var(0, correction=0).mean())) or 1.0
    return tuple(scale * 10.0 ** (k / 5 - 3) for k in range(17))  # a thousandth of it to one and a half of it


def _discriminator(subject: _Subject, held_out: Tensor) -> Iterator[Measure]:
    columns = None if subject.standardized else subject.config.columns

    def logits(x: Tensor) -> Tensor:
        return subject.gan.logits(x if columns is None else columns.transform(x))

    gap = evaluation.discriminator_gap(logits, subject.train, held_out, subject.samples)
    numbers = {name: getattr(gap, name) for name in (*vars(gap), "gap")}
    yield "discriminator", str(gap), numbers


def _classes(subject: _Subject) -> Iterator[Measure]:
    """How a classifier, fitted to the training rows, finds the samples spread; of a mixture the modes say it better."""
    if subject.dataset.labels is None or subject.dataset.centres is not None:
        return
    known = _labels_of_train(subject)
    if len(known[known >= 0]) < _CLASS_ROWS or len(known[known >= 0].unique()) < 2:
        yield "classes", f"needs {_CLASS_ROWS} rows with labels of two classes at least", None
        return
    found = evaluation.class_balance(subject.samples, subject.train, known)
    names = ("covered", "classes", "smallest", "largest", "distance", "real_distance", "accuracy")
    yield "classes", str(found), {**{name: getattr(found, name) for name in names}, "shares": found.shares.tolist()}


def _labels_of_train(subject: _Subject) -> Tensor:
    assert subject.dataset.labels is not None
    return subject.dataset.labels[_numbers(len(subject.dataset), len(subject.train))]


def _labels(subject: _Subject, asked: Tensor, nearest: Tensor) -> Measure:
    """How often the nearest training row has the label that was requested for the sample."""
    known = _labels_of_train(subject)
    right = float((known[nearest] == asked).double().mean())
    return "labels", f"{100 * right:.1f}% of samples are nearest to a row of the requested label", {"right": right}


def _precision(subject: _Subject) -> Measure:
    rows = subject.train[torch.arange(n := min(_NEIGHBOUR_ROWS, len(subject.train))) * len(subject.train) // n]
    found = evaluation.precision_recall(rows, subject.samples[:_NEIGHBOUR_ROWS])
    names = ("precision", "recall", "density", "coverage")
    return "support", ", ".join(f"{name} {getattr(found, name):.3f}" for name in names), vars(found)
