"""fastgan compare: a GAN, a Gaussian mixture, a kernel density and a VAE, all fitted to the same rows."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan import __version__, data, evaluation, plots
from fastgan._extras import need
from fastgan._torch_settings import torch_threads
from fastgan.apps import baselines, presets
from fastgan.apps.baselines import Baseline
from fastgan.apps.cli import output
from fastgan.apps.cli.arguments import counting, folded, natural
from fastgan.apps.cli.evaluate import sigmas_for
from fastgan.apps.cli.train import add_reading, load, reading, step_threads
from fastgan.apps.reproduce import table
from fastgan.apps.reproduce.table import Figure, Row
from fastgan.data import Dataset, Standardizer
from fastgan.training import progress, train

_SAMPLES = 10_000
_ROWS = 20_000  # of synthetic data to train on
_TEST = 10_000
_OWN, _PARZEN, _CORRELATION, _SECONDS = "own density, nats", "Parzen, nats", "correlation error", "seconds"
_MODES, _NEAR = "modes", "% high quality"


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "compare",
        help="a GAN beside a Gaussian mixture, a kernel density and a VAE",
        description="Fit a GAN, a Gaussian mixture, a kernel density and a variational auto-encoder to the same rows, "
        "and draw and measure 10,000 samples of each. A sixth of the rows is held out to choose by, another to measure "
        "by; synthetic data are drawn anew. Tables are taken in standard deviations of each column.",
        epilog="examples:\n  fastgan compare ring\n  fastgan compare digits --out mine\n",
    )
    command.add_argument("source", metavar="SOURCE", help="as for fastgan train: a data set's name or a file")
    command.add_argument("--steps", type=natural, metavar="N", help="iterations of the GAN (the preset's)")
    command.add_argument("--rows", type=natural, metavar="N", help="rows to use (all; 20000 of synthetic data)")
    add_reading(command)
    command.add_argument("--seed", type=counting, default=0, metavar="N", help="of data, weights, noise and order (0)")
    command.add_argument("--out", type=Path, help="folder of the table and the picture (compare-SOURCE)")
    command.add_argument("--no-pictures", action="store_true", help="write tables only")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


@dataclass(frozen=True)
class Split:
    """The rows that every model gets, flat.

    Args:
        dataset: where they come from.
        train, validation, test: each (n, features).
        standardized: in standard deviations of each column, from its mean: a table's have units of their own.
    """

    dataset: Dataset
    train: Tensor
    validation: Tensor
    test: Tensor
    standardized: bool = field(default=False, kw_only=True)


def run(arguments: argparse.Namespace) -> int:
    """Fit, measure, print, write and draw."""
    need("sklearn.mixture", what="fastgan compare", package="scikit-learn")  # before minutes of training
    rows = _rows(arguments)
    folder = arguments.out or Path(f"compare-{Path(arguments.source).stem}")
    output.check_new(folder)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    drawn: dict[str, Tensor] = {}
    lines: list[Row] = []
    for name, fit in _fits(rows, arguments).items():
        begun = time.perf_counter()
        say(f"{name}: fitting")
        model = fit()
        seconds = Figure(time.perf_counter() - begun)
        say(f"{name}: fitted in {seconds.mean:.1f} s ({model.about}); measuring {_SAMPLES:,} samples")
        drawn[name] = model.sample(_SAMPLES, arguments.seed + 1)
        figures = {**_measures(drawn[name], rows), **_own(model, rows.test), _SECONDS: seconds}
        lines.append(Row(arguments.source, name, model.about, figures))
    for name, about, sample in (
        ("marginals", "columns shuffled apart", _marginals(rows.train, arguments.seed)),
        ("real rows", "those trained on", rows.train[:_SAMPLES]),
    ):
        say(f"{name}: measuring")
        lines.append(Row(arguments.source, name, about, _measures(sample, rows)))
    columns = [c for c in (_MODES, _NEAR, _PARZEN, _OWN, _CORRELATION, _SECONDS) if any(c in r.figures for r in lines)]
    print("\n".join(table.lines(lines, columns)))
    print(folded(f"{_OWN}: of the test rows; the GAN has none, the VAE's is a lower bound", 2))
    if rows.standardized:
        print("units: standard deviations of each column, from its mean")
    folder.mkdir(parents=True, exist_ok=True)
    written = table.write(folder, lines, columns, {"source": arguments.source, "seed": arguments.seed})
    if not arguments.no_pictures:
        source = plots.source(f"{Path(arguments.source).name}, seed {arguments.seed}, fastgan {__version__}")
        with output.pictures(), source:
            written.append(_draw(arguments.source, drawn | {"real rows": rows.test}, rows.dataset, folder))
    output.tell_written(written)
    return 0


def _fits(rows: Split, arguments: argparse.Namespace) -> dict[str, Callable[[], Baseline]]:
    """How each model is fitted, in the order of the table."""
    preset = presets.for_source(arguments.source, rows.dataset)
    return {
        "GAN": lambda: _gan(rows, preset, arguments),
        "GMM": lambda: baselines.gaussian_mixture(rows.train, rows.validation, seed=arguments.seed),
        "KDE": lambda: baselines.kernel_density(rows.train, rows.validation, sigmas=_sigmas(rows)),
        "VAE": lambda: _vae(rows, preset, arguments),
    }


# ---------------------------------------------------------------- rows and models


def _rows(arguments: argparse.Namespace) -> Split:
    source, n, seed = arguments.source, arguments.rows, arguments.seed
    options = reading(arguments)
    if source in data.SYNTHETIC:
        draws = [data.load(source, n=size, seed=seed + i) for i, size in enumerate((n or _ROWS, 1000, _TEST))]
        return Split(draws[0], *(draw.tensor().flatten(1) for draw in draws))
    dataset = load(source, n, 0, options, quiet=arguments.quiet)
    if standardized := dataset.image_shape is None and presets.for_source(source, dataset).standardize:
        dataset = dataset.double()
    rows = dataset.tensor().flatten(1)
    held = len(rows) // 6
    if held < 2:
        raise ValueError(f"SOURCE must have at least 12 rows to hold some out, got {len(rows)}")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))  # files may be sorted
    train_, validation, test = rows[order].split([len(rows) - 2 * held, held, held])
    kept = dataclasses.replace(dataset, data=train_, labels=None, divisor=1.0, row_shape=None)
    if not standardized:
        return Split(kept, train_, validation, test)
    columns = Standardizer.fit(kept)
    train_, validation, test = (columns.transform(part) for part in (train_, validation, test))
    kept = dataclasses.replace(kept, data=train_, dtype=train_.dtype)
    return Split(kept, train_, validation, test, standardized=True)


def _gan(rows: Split, preset: presets.Preset, arguments: argparse.Namespace) -> Baseline:
    """The GAN of the preset that `fastgan train` takes for these data."""
    columns = Standardizer.fit(rows.dataset) if preset.standardize else None
    seen = rows.dataset if columns is None else columns.transform(rows.dataset)
    changes = {"seed": arguments.seed, "checkpoint_every": 0, "steps": arguments.steps or preset.train.steps}
    config = dataclasses.replace(preset.train, **changes)
    gan = preset.networks.build(seed=arguments.seed)
    with progress(config.steps, quiet=arguments.quiet) as bars, step_threads(None, gan, config.batch_size):
        result = train(gan, seen, config, callbacks=bars)
    if result.interrupted:
        raise KeyboardInterrupt

    def sample(n: int, seed: int) -> Tensor:
        drawn = gan.sample(n, seed=seed, device="cpu")
        return drawn if columns is None else columns.inverse(drawn).float()

    return Baseline("GAN", f"{result.step:,} iterations", sample, _no_density)


def _no_density(x: Tensor) -> Tensor:
    raise NotImplementedError("a GAN's density is implicit: it can be sampled, not evaluated")


def _vae(rows: Split, preset: presets.Preset, arguments: argparse.Namespace) -> Baseline:
    networks = preset.networks
    output = None if networks.output_activation == "none" else networks.output_activation
    with torch_threads(1):  # its steps are small
        return baselines.variational_autoencoder(
            rows.train,
            hidden=networks.discriminator_hidden,
            code=min(networks.latent_dim, rows.train.shape[1], 16),
            output_activation=output,
            batch_size=min(128, len(rows.train)),
            seed=arguments.seed,
        )


def _marginals(rows: Tensor, seed: int) -> Tensor:
    """Every column shuffled by itself: each keeps its distribution, and all become independent."""
    generator = torch.Generator().manual_seed(seed)
    chosen = rows[:_SAMPLES]
    columns = [column[torch.randperm(len(chosen), generator=generator)] for column in chosen.T]
    return torch.stack(columns, 1)


# ---------------------------------------------------------------- measures and picture


def _sigmas(rows: Split) -> tuple[float, ...]:
    return sigmas_for(rows.train, rows.dataset.value_range)


def _measures(samples: Tensor, rows: Split) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    centres, std = rows.dataset.centres, rows.dataset.std
    if centres is not None and std and len(centres) > 1:
        found = evaluation.mode_coverage(samples, centres, std)
        figures |= {_MODES: Figure(found.covered), _NEAR: Figure(100 * found.high_quality)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parzen_sigma")
        parzen = evaluation.parzen_log_likelihood(samples, rows.test, validation=rows.validation, sigmas=_sigmas(rows))
    figures[_PARZEN] = Figure(parzen.mean, parzen.standard_error)
    if rows.test.shape[1] > 2:
        figures[_CORRELATION] = Figure(evaluation.correlation_error(samples, rows.test))
    return figures


def _own(model: Baseline, test: Tensor) -> dict[str, Figure]:
    if model.name == "GAN":
        return {}
    found = model.log_density(test)
    return {_OWN: Figure(float(found.mean()), float(found.std() / len(found) ** 0.5))}


def _draw(source: str, panels: dict[str, Tensor], dataset: Dataset, folder: Path) -> Path:
    path, title = folder / "samples.png", f"{source}: samples of four models, and real rows"
    if dataset.image_shape is not None:
        bounds = dataset.value_range or (float(dataset.data.min()), float(dataset.data.max()))
        shape, ink = dataset.image_shape, source == "digits"
        return plots.compare_images(panels, path, title=title, image_shape=shape, value_range=bounds, ink=ink)
    names = dataset.column_names
    if dataset.shape[1:].numel() == 2:
        return plots.compare_points(panels, path, title=title, centres=dataset.centres, names=names)
    return plots.compare_histograms(panels, path, title=title, names=names)
