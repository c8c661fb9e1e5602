"""fastgan train: from the name of a data set, or a file, to a run folder with pictures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from fastgan import data
from fastgan._files import write_atomically
from fastgan._ranks import ranks
from fastgan._torch_settings import torch_threads, usable_device
from fastgan.apps import presets
from fastgan.apps.cli import (
    config_file,
    labels,
    mixed,
    modes,
    optimizers,
    output,
    population,
    preset_help,
    runs,
    tabular,
)
from fastgan.apps.cli.arguments import add_fields, counting, explain, folded, given, natural, share, widths
from fastgan.apps.cli.config_file import Settings
from fastgan.apps.cli.pictures import draw
from fastgan.apps.cli.runs import Folder, RunConfig, Trained
from fastgan.apps.cli.snapshots import FRAMES, Snapshots
from fastgan.data import Dataset, Standardizer
from fastgan.models import GAN
from fastgan.training import Callback, Run, TrainConfig, TrainResult, progress, train
from fastgan.training.display import readout

_TAIL = 500  # iterations that the summary's means are of
# fields of networks that convolutional ones do not have
_OF_MLP = (
    *("generator_hidden", "discriminator_hidden", "generator_activation", "discriminator_activation", "dropout"),
    *("generator_norm", "minibatch_features"),
)
_HELD_OUT = 0.1  # of the rows
_SMALL = 1 << 25  # parameters x batch size: some milliseconds an iteration on one core
_EXAMPLES = """\
examples:
  fastgan train digits
  fastgan train ring --steps 5000 --k 2 --seed 1 --out runs/ring
  fastgan train ring --seeds 0:32 --grid k=1,2
  fastgan train mnist --data DIR --download    where DIR has no files yet
  fastgan train fashion-mnist --data DIR --network dcgan
  fastgan train measurements.csv --width 256 --lr 5e-4
  fastgan train customers.csv --epochs 100 --kind zip=categorical
  fastgan train customers.csv --seeds 0:8 --grid lr=1e-4,2e-4
  fastgan train ring --config fast.toml --json
  fastgan train --config runs/ring/config.json --seed 2 --out runs/again
  fastgan train images.npy --labels classes.csv --conditional
  fastgan train digits --conditional    then fastgan sample RUN_DIR --labels 3
  fastgan train --resume --out runs/ring --steps 20000
"""


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "train",
        help="train a GAN on a data set or on your own file",
        description="Train a GAN by Algorithm 1. The run folder gets config.json, history.csv, checkpoint/, "
        "snapshots/, samples.png, losses.png and d_curves.png. What is not given comes from the preset of the data, "
        "below, and then from the numbers in brackets.",
        epilog=f"{preset_help.text()}\n\n{_EXAMPLES}",
    )
    owned = " or ".join(data.USERS_OWN)
    sources = f"{', '.join(data.NAMES)}, {owned}, or a path: {data.FORMATS}"
    command.add_argument("source", metavar="SOURCE", nargs="?", help=sources)
    command.add_argument("--data", metavar="DIR", help=f"where the IDX files of {owned} are (data/NAME, see make data)")
    command.add_argument(
        "--download", action="store_true", help="download the files that are missing, by the library pooch"
    )
    command.add_argument("--out", metavar="RUN_DIR", help="run folder, new or empty (runs/<source>-<number>)")
    command.add_argument(
        "--config", metavar="FILE", help="settings, which flags override: .toml, or the config.json of another run"
    )
    command.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of --out")
    command.add_argument("--preset", choices=(*presets.RECIPES,), help="losses and optimisers of a paper")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.add_argument("--json", action="store_true", help="print the results as JSON; progress is on stderr")
    command.add_argument("--no-pictures", action="store_true", help="leave the pictures to fastgan plot")
    command.add_argument(
        "--snapshots", type=counting, metavar="N", help=f"frames for fastgan plot animation ({FRAMES})"
    )
    command.add_argument("--rows", type=natural, metavar="N", help="rows of data (all; 100,000 if synthetic)")
    command.add_argument(
        "--hold-out",
        type=share,
        metavar="X",
        help="share of the rows that are not trained on, for fastgan evaluate (0.1; 0 with --rows, test files or "
        "synthetic data)",
    )
    add_reading(command)
    command.add_argument(
        "--labels",
        metavar="FILE",
        help="of the rows of a file, for --conditional: .npy, IDX or a table of one column, one whole number a row",
    )
    command.add_argument("--data-seed", type=counting, metavar="N", help="seed of synthetic data (0)")
    command.add_argument("--threads", type=natural, metavar="N", help="of the CPU (1 for small networks, else all)")
    population.add_flags(command)
    tabular.add_flags(command)
    add_fields(command.add_argument_group("training (fields of TrainConfig)"), TrainConfig)
    optimizers.add_flags(command)
    networks = command.add_argument_group("networks")
    networks.add_argument(
        "--width", type=natural, metavar="N", help="width of every hidden layer of G and D; of dcgan, --feature-maps"
    )
    networks.add_argument(
        "--conditional",
        action="store_true",
        help="both networks also get the label of each row, and samples are drawn by label: p(x|label)",
    )
    add_fields(networks, presets.Networks, skip=("data_dim", "classes", "image_size"))
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, draw, and say where everything is; of several processes that train a GAN the first one alone does."""
    population.check_flags(arguments)
    if arguments.tabular or tabular.is_resumed(arguments):
        return tabular.train(arguments)
    try:
        config, dataset, folder = _resumed(arguments) if arguments.resume else _fresh(arguments)
    except data.DataError as refusal:
        if mixed.is_mixed(arguments, refusal):
            return tabular.train(arguments)
        raise
    gan = config.build()
    if (spec := population.asked(arguments)) is not None:
        return _population(spec, arguments, config, gan, dataset, folder)
    with ranks() as group:
        displays = progress(config.train.steps, quiet=arguments.quiet or not group.is_first)
        try:
            with displays as bars, step_threads(arguments.threads, gan, config.train.batch_size):
                frames = FRAMES if arguments.snapshots is None else arguments.snapshots
                result = train(
                    gan,
                    config.training_rows(dataset),
                    config.train,
                    callbacks=[*bars, _KeepConfig(config), Snapshots(config, frames)],
                    run_dir=folder.path,
                    resume=folder.has_checkpoint(),
                    change=("lr",) if folder.has_checkpoint() and optimizers.gives_rates(arguments) else (),
                )
        except BaseException:
            folder.discard()
            raise
        if group.is_first:
            _show(arguments, config, gan, dataset, result, folder)
    return 130 if result.interrupted else 0


def _population(
    spec: population.PopulationSpec,
    arguments: argparse.Namespace,
    config: RunConfig,
    gan: GAN,
    dataset: Dataset,
    folder: Folder,
) -> int:
    threads = arguments.threads or torch.get_num_threads()  # a member each; those below are of one step
    with step_threads(arguments.threads, gan, config.train.batch_size):
        return population.run(spec, arguments, config, dataset, folder, threads)


def _show(
    arguments: argparse.Namespace, config: RunConfig, gan: GAN, dataset: Dataset, result: TrainResult, folder: Folder
) -> None:
    """The pictures, and the lines about the run."""
    pictures: list[Path] = []
    if not arguments.no_pictures:
        with output.pictures():
            pictures = draw(config, gan, dataset, result.history, folder.path)
    if arguments.json:
        print(json.dumps(_report(config, gan, dataset, result, folder.path, pictures), indent=1))
    elif not arguments.quiet:
        print("\n".join(folded(line, 10) for line in _summary(config, gan, dataset, result, folder.path, pictures)))


def step_threads(asked: int | None, gan: GAN, batch_size: int) -> contextlib.AbstractContextManager[None]:
    """torch's threads during training.

    A small step lasts about as long as handing work to a second thread, and far less than waiting for a thread whose
    core is busy with other work.
    """
    small = sum(p.numel() for p in gan.parameters()) * batch_size < _SMALL
    return torch_threads(asked or (1 if small else torch.get_num_threads()))


class _KeepConfig(Callback):
    """Writes config.json once training has accepted everything, and before its first iteration."""

    def __init__(self, config: RunConfig) -> None:
        self._bytes = config.to_json()

    def on_start(self, run: Run) -> None:
        assert run.run_dir is not None
        write_atomically(run.run_dir / "config.json", [self._bytes])


# ---------------------------------------------------------------- what to run


def _fresh(arguments: argparse.Namespace) -> tuple[RunConfig, Dataset, Folder]:
    settings = Settings() if arguments.config is None else config_file.read(arguments.config, arguments)
    if arguments.source is None:
        raise ValueError("SOURCE must be given: a data set's name or a path")
    seed = arguments.data_seed or 0
    options = reading(arguments)
    source = _path(arguments)
    read = {"path": source} if arguments.source in data.USERS_OWN else options
    dataset = load(arguments.source, arguments.rows, seed, read, quiet=arguments.quiet)
    tabular.check_unused(arguments)
    everything, held_out = dataset, _held_out(arguments, source, len(dataset))
    dataset = runs.training_part(dataset, held_out)
    preset = presets.for_source(arguments.source, dataset, getattr(arguments, "network", "mlp"))
    if arguments.preset is not None:
        if arguments.preset not in tuple(presets.RECIPES):  # of a file, which may be a list
            raise ValueError(f"--preset must be one of {', '.join(presets.RECIPES)}, got {arguments.preset!r}")
        preset = presets.with_recipe(preset, arguments.preset)
    preset = presets.for_length(preset, getattr(arguments, "steps", settings.train_config(preset.train).steps))
    preset = dataclasses.replace(
        preset, train=settings.train_config(preset.train), networks=settings.network_fields(preset.networks)
    )
    dataset = dataset.double() if preset.standardize else dataset
    networks = _networks(arguments, preset.networks)
    if arguments.conditional:
        assert isinstance(networks, presets.Networks)
        networks = dataclasses.replace(networks, classes=labels.classes_of(everything, arguments.source))
    config = RunConfig(
        source=source if source in data.NAMES else runs.absolute(source),
        n=arguments.rows,
        data_seed=seed,
        networks=networks,
        train=_train_config(arguments, preset.train, len(dataset)),
        columns=Standardizer.fit(dataset) if preset.standardize else None,
        image_shape=dataset.image_shape,
        value_range=dataset.value_range,
        column_names=dataset.column_names,
        held_out=held_out,
        fingerprint=None if source in data.NAMES else runs.fingerprint(dataset),
        read=options,
    )
    if config.train.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {config.train.steps}")
    _check_memory(config)
    config.build()  # a bad size speaks up before a folder is made
    return config, dataset, population.shared_folder(arguments.out, arguments.source)


def _held_out(arguments: argparse.Namespace, source: str, rows: int) -> int:
    """How many rows training shall not see; by default none where `fastgan evaluate` finds others to measure by."""
    part = arguments.hold_out
    if (held := getattr(arguments, "held_rows", None)) is not None:  # as the run of --config
        if held >= rows:
            raise ValueError(f"--hold-out must be given where --config is of a run on more than {rows} rows, got none")
        return int(held)
    if part is None:
        others = arguments.rows is not None or source in data.SYNTHETIC or runs.has_test_files(source)
        part = 0.0 if others else _HELD_OUT
        return held if (held := int(part * rows)) > 1 else 0  # a likelihood needs two rows
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < 1:  # of a file
        raise ValueError(f"--hold-out must lie in [0, 1), got {part!r}")
    if part and int(part * rows) < 2:
        raise ValueError(f"--hold-out must be 0, or 2 or more of the {rows} rows, got {part:g}")
    return int(part * rows)


def _path(arguments: argparse.Namespace) -> str:
    """SOURCE, or where its files are: a run on mnist is a run on the user's folder."""
    source: str = arguments.source or "no SOURCE"
    if source in data.USERS_OWN:
        options = {"download": arguments.download, "progress": not arguments.quiet}
        return str(data.locate(source, arguments.data, **options))
    for flag in ("data", "download"):
        if getattr(arguments, flag):
            raise ValueError(f"--{flag} must be used with {' or '.join(data.USERS_OWN)}, got {source}")
    return source


def _resumed(arguments: argparse.Namespace) -> tuple[RunConfig, Dataset, Folder]:
    """The stored config with what was given now; training refuses what would make it another run."""
    if arguments.config is not None:
        raise ValueError("--config must be left out with --resume: the run has a config.json, got it")
    if arguments.out is None:
        raise ValueError("--out must be given with --resume: the run folder to continue")
    folder = Path(arguments.out)
    stored = runs.read(folder, of_many=True)
    if arguments.preset is not None:
        raise ValueError(f"--preset must be left out with --resume, got {arguments.preset}")
    if stored.functions:
        field = f"{stored.functions[0]} of {folder / 'config.json'}"
        raise ValueError(f"{field} must be plain values, got a function: go on by fastgan.train(..., resume=True)")
    source = _path(arguments) if arguments.source or arguments.data or arguments.download else None
    if source is not None and stored.source == runs.UNKNOWN:
        moved = stored.moved(source)
        stored = dataclasses.replace(moved, n=arguments.rows, data_seed=arguments.data_seed or 0)
        source = None
    elif source is not None and not {source, stored.source} & set(data.NAMES):
        stored, source = stored.moved(source), None  # the same data, perhaps at another path
    if arguments.labels is not None:  # the same labels, perhaps at another path: `load_data` compares them
        if "labels" not in stored.read:
            raise ValueError(f"--labels must be left out with --resume of a run without, got {arguments.labels}")
        stored = dataclasses.replace(stored, read={**stored.read, "labels": runs.absolute(arguments.labels)})
    if arguments.hold_out is not None:
        raise ValueError(f"--hold-out must be left out with --resume, got {arguments.hold_out:g}")
    for flag, value, old in (
        ("SOURCE", source, stored.source),
        ("--rows", arguments.rows, stored.n),
        ("--data-seed", arguments.data_seed, stored.data_seed),
        ("--header", arguments.header, stored.read.get("header")),
        ("--image-shape", arguments.image_shape, stored.read.get("image_shape")),
        ("--background", arguments.background, stored.read.get("background")),
        ("--conditional", arguments.conditional or None, stored.networks.classes > 0),
        ("networks", _networks(arguments, stored.networks), stored.networks),
    ):
        if value is not None and value != old:
            raise ValueError(f"{flag} must be {old} as in {folder / 'config.json'}, got {value}")
    dataset = stored.load_data()
    config = dataclasses.replace(stored, train=_train_config(arguments, stored.train, len(dataset)))
    return config, dataset, Folder(folder)


def _check_memory(config: RunConfig) -> None:
    """Refuse networks that this machine cannot hold: it would be busy for minutes before it ran out.

    Raises:
        ValueError: they and what their optimisers keep take more than there is.
    """
    networks, pack = config.networks, config.train.pack
    assert isinstance(networks, presets.Networks)
    if networks.network != "mlp":  # the same few weights for all pixels
        return
    widths = (
        [networks.latent_dim + networks.classes, *networks.generator_hidden, networks.data_dim],
        [(networks.data_dim + networks.classes) * pack, *networks.discriminator_hidden, 1],
    )
    weights = sum((wide + 1) * after for sizes in widths for wide, after in itertools.pairwise(sizes))
    needed, there = 4 * 4 * weights, _memory()  # float32: weights, gradients, two moments
    if needed > there:
        got = f"{networks.data_dim:,} columns and {weights:,} weights: {needed >> 30:,} GB of {there >> 30:,}"
        raise ValueError(f"--width must be so small that the networks fit into memory, got {got}")


def _memory() -> int:
    """The memory of this machine in bytes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return 1 << 62


def add_reading(command: Any) -> None:
    """The flags that say how a file is read."""
    command.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="row 1 of a text table holds names, or does not (found from the rows)",
    )
    command.add_argument(
        "--image-shape", type=widths, metavar="H,W", help="of images that a file holds as rows of numbers"
    )
    command.add_argument("--background", metavar="COLOUR", help="under transparent pixels of image files (white)")


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The reading options that were given."""
    values = {name: getattr(arguments, name) for name in ("header", "image_shape", "background")}
    if getattr(arguments, "labels", None) is not None:  # of train alone
        values["labels"] = runs.absolute(arguments.labels)
    options = {name: value for name, value in values.items() if value is not None}
    if options and arguments.source in (*data.NAMES, *data.USERS_OWN):
        flag = next(iter(options)).replace("_", "-")
        raise ValueError(f"--{flag} must be used with a file, got {arguments.source}")
    if len(options.get("image_shape", (1, 1))) != 2:
        raise ValueError(f"--image-shape must be height,width, got {','.join(map(str, options['image_shape']))}")
    return options


def load(source: str, n: int | None, seed: int, options: dict[str, Any], *, quiet: bool) -> Dataset:
    """The data; what was left out of a file is said in one line each."""
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", data.DataWarning)
        dataset = data.load(source, n=n, seed=seed, **options)
    for remark in remarks:
        if not issubclass(remark.category, data.DataWarning):
            warnings.warn_explicit(remark.message, remark.category, remark.filename, remark.lineno)
        elif not quiet:
            print(f"note: {explain(remark.message)}", file=sys.stderr)  # type: ignore[arg-type]
    return dataset


def _networks(arguments: argparse.Namespace, base: presets.Networks | Trained) -> presets.Networks | Trained:
    changes = given(arguments, presets.Networks)
    if isinstance(base, Trained):
        if changes or arguments.width is not None:
            raise ValueError(f"networks must be as the checkpoint of {base.folder} has them, got flags for others")
        return base
    if changes.get("network", base.network) == "dcgan":
        for name in _OF_MLP:
            if name in changes:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be left out with --network dcgan, got {changes[name]}")
        if arguments.width is not None:
            changes.setdefault("feature_maps", arguments.width)
    elif arguments.width is not None:
        for name in ("generator_hidden", "discriminator_hidden"):
            changes.setdefault(name, (arguments.width,) * len(getattr(base, name)))
    return dataclasses.replace(base, **changes)


def _train_config(arguments: argparse.Namespace, base: TrainConfig, rows: int) -> TrainConfig:
    changes = given(arguments, TrainConfig)
    loss = changes.get("loss", base.loss)
    if TrainConfig(1, 1, loss=loss).discriminator_loss != "gan":
        changes.setdefault("real_label", 1.0)  # smoothing, which a preset may have, belongs to the paper's loss
    changes |= optimizers.optimizers(arguments, base)
    config = dataclasses.replace(base, **changes)
    config = dataclasses.replace(config, **optimizers.schedules(arguments, config))
    if config.batch_size > rows:
        raise ValueError(f"--batch-size must be at most the {rows} rows of the data, got {config.batch_size}")
    if config.device is not None:
        usable_device("train", config.device)
    return config


# ---------------------------------------------------------------- what came of it


def _report(
    config: RunConfig, gan: GAN, dataset: Dataset, result: TrainResult, path: Path, pictures: list[Path]
) -> dict[str, Any]:
    """`_summary` for a program; the means are null where they are not finite."""
    tail = {name: float(values[-_TAIL:].mean()) for name, values in result.history.items() if len(values)}
    found = modes.modes_found(config, gan, dataset)
    return {
        "run_dir": str(path),
        "source": config.source,
        "step": result.step,
        "interrupted": result.interrupted,
        "steps_per_second": result.steps_per_second,
        "engine": result.engine,
        "engine_reason": result.engine_reason,
        "means": {name: value if math.isfinite(value) else None for name, value in tail.items() if name != "step"},
        "modes": modes.as_dict(found),
        "pictures": [str(picture) for picture in pictures],
    }


def _summary(
    config: RunConfig, gan: GAN, dataset: Dataset, result: TrainResult, path: Path, pictures: list[Path]
) -> list[str]:
    state = "interrupted, saved" if result.interrupted else "trained"
    lines = [
        f"{state} {config.source}: iteration {result.step:,}, {result.steps_per_second:,.0f} iterations/s, "
        f"engine {result.engine} ({result.engine_reason})"
    ]
    if len(result.history["step"]):
        tail = {name: values[-_TAIL:] for name, values in result.history.items()}
        lines.append(f"{readout(tail)}  (means of the last {len(tail['step'])})")
    if (found := modes.modes_found(config, gan, dataset)) is not None:
        lines.append(
            f"modes covered: {found.covered} of {found.modes}; {100 * found.high_quality:.1f}% of {modes.SAMPLES:,} "
            "samples lie within 3 standard deviations of a mode"
        )
    if pictures:
        lines.append("pictures: " + "  ".join(map(str, pictures)))
    if result.interrupted:
        lines.append(f"go on:    fastgan train --resume --out {path}")
    lines.append(f"measure:  fastgan evaluate {path}")
    of_a_label = " --labels 0" if config.networks.classes else ""
    lines.append(f"samples:  fastgan sample {path}{of_a_label} --n 1000 --out samples.npy")
    return lines
